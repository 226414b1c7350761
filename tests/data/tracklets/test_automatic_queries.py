"""Queries of test sets that name none: each keeps a match in another camera that is not a query."""

import numpy as np
import pytest

from torch_nonlocal.data.tracklets.layout import with_queries
from torch_nonlocal.data.tracklets.tracklet import Tracklet, identity_numbers
from torch_nonlocal.tasks.reid.metrics import evaluate


def tracklets(*places: str) -> list[Tracklet]:
    """Tracklets from identity and camera: "a1" is an "a" seen by camera 1; "?" is a distractor, "-" junk."""
    roles = {"?": "distractor", "-": "junk"}
    return [
        Tracklet(str(row), place[0], place[1:], 1, role=roles.get(place[0], "person"))
        for row, place in enumerate(places)
    ]


@pytest.mark.parametrize(
    ("places", "rows"),
    [
        ((), ()),
        (("a1",), ()),
        (("a1", "a1", "b2"), ()),  # one camera each
        (("a1", "a2", "b2", "b1"), (0, 2)),  # one tracklet in each of two cameras: the first
        (("a1", "a2", "a3"), (0, 1)),
        (("a1", "a1", "a2"), (0,)),  # a query of camera 2 would leave the first without a match
        (("a1", "a2", "a2"), (0,)),
        (("a1", "a1", "a2", "a2"), (0, 2)),
        (("a1", "a2", "a3", "a3"), (0, 1)),  # a query of camera 3 would be left with camera 3
        (("b2", "a1", "b1", "a2", "b1", "a1", "b2", "a2"), (0, 1, 2, 3)),
        (("a1", "?1", "-1", "?2", "-2", "a2"), (0,)),
        (("a1", "a1", "b1", "b1", "b1"), (0, 2, 3)),  # data of one camera: each has a camera of its own
    ],
)
def test_queries_are_the_first_of_a_camera_while_each_keeps_a_match(places, rows):
    test = tracklets(*places)
    assert with_queries(test) == (tuple(test[row] for row in rows), rows)


@pytest.mark.parametrize("seed", range(50))
def test_every_query_has_a_match_under_both_protocols(seed):
    random = np.random.default_rng(seed)
    drawn = (f"{'abcd'[random.integers(4)]}{random.integers(1, 4)}" for _ in range(random.integers(20)))
    test = tracklets("e1", "e2", *drawn)
    query, rows = with_queries(test)
    seen = {one.identity: {other.camera for other in test if other.identity == one.identity} for one in test}
    assert {one.identity for one in query} == {who for who, cameras in seen.items() if len(cameras) > 1}
    numbers, _ = identity_numbers(test)
    ids, cameras = np.array(numbers), np.array([int(one.camera) for one in test])
    for protocol in ("official", "common"):
        distances = random.random((len(test), len(query)))
        scores = evaluate(
            distances, ids, cameras, ids[list(rows)], cameras[list(rows)], protocol=protocol, query_index=rows
        )
        assert (scores.scored, scores.skipped) == (len(query), 0)
        assert scores.average_precisions.min() > 0
