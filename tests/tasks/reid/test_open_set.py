"""Known and unknown probes: detection and identification rate at a false-positive identification rate."""

import json

import numpy as np
import pytest
import torch

from torch_nonlocal.tasks.reid.open_set import held_out_identities, identify, identify_embeddings

# Rows: identities 1, 2, 3 and a distractor, all in camera 2. Probes of camera 1: 1 right at 1, 2 taken for 3 at 2,
# 3 right at 4, and unknown ones, whose nearest rows are at 3 and 5.
IDS, CAMERAS = [1, 2, 3, 0], [2, 2, 2, 2]
DISTANCES = np.array([[1.0, 9, 9, 3, 9], [9, 3, 9, 9, 6], [9, 2, 4, 9, 9], [7, 7, 7, 8, 5]])
PROBES, PROBE_CAMERAS = [1, 2, 3, 0, 0], [1] * 5


def test_rates_by_hand():
    scores = identify(DISTANCES, IDS, CAMERAS, PROBES, PROBE_CAMERAS)
    assert (scores.known, scores.unknown) == (3, 2)
    assert scores.thresholds.tolist() == [-np.inf, 1, 2, 3, 4, 5]
    assert scores.false_positive_rates.tolist() == [0, 0, 0, 0.5, 0.5, 1]
    assert scores.detection_rates.tolist() == [0, 1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3]
    assert scores.at_false_positive_rate(0) == (2, 0, 1 / 3)
    assert scores.at_false_positive_rate(0.5) == (4, 0.5, 2 / 3)
    assert scores.at_false_positive_rate(1) == (5, 1, 2 / 3)
    assert json.loads(json.dumps(scores.plain(), allow_nan=False))["operating_points"][0]["threshold"] == 2


def test_identities_can_be_left_out_of_the_gallery():
    scores = identify(DISTANCES, IDS, CAMERAS, PROBES, PROBE_CAMERAS, unknown_ids=[3])
    # probe 2 is right at 3; probe 3 is unknown, its nearest row is the distractor at 7
    assert (scores.known, scores.unknown) == (2, 3)
    assert scores.at_false_positive_rate(0.4) == (3, 1 / 3, 1)


@pytest.mark.parametrize(
    "row", [(-1, 2, [0] * 5), (1, 1, [0, 99, 99, 99, 99])], ids=["junk", "the identity in its own camera"]
)
def test_rows_that_do_not_count(row):
    expected = identify(DISTANCES, IDS, CAMERAS, PROBES, PROBE_CAMERAS)
    distances = np.append(DISTANCES, [row[2]], 0)
    scores = identify(distances, [*IDS, row[0]], [*CAMERAS, row[1]], PROBES, PROBE_CAMERAS)
    assert scores.plain() == expected.plain()


def test_a_probe_that_only_its_own_camera_has_seen_is_unknown():
    scores = identify(np.array([[0.0, 3], [2, 1]]), [1, 2], [1, 2], [1, 2], [1, 1])
    assert (scores.known, scores.unknown) == (1, 1)
    assert scores.at_false_positive_rate(0) == (1, 0, 1)
    assert scores.at_false_positive_rate(1) == (2, 1, 1)


def test_a_probe_without_any_row_is_never_accepted():
    scores = identify(np.array([[0.0, 3]]), [1], [1], [1, 1], [1, 2])
    assert scores.thresholds.tolist() == [-np.inf, 3]
    assert scores.at_false_positive_rate(0) == (3, 0, 1)


def test_the_threshold_holds_its_rate_on_new_probes():
    generator = torch.Generator().manual_seed(0)
    persons, others = 400, 2000
    centers = torch.nn.functional.normalize(torch.randn(persons + 2 * others, 16, generator=generator))
    probes = centers + 0.1 * torch.randn(centers.shape, generator=generator)
    known = list(range(1, persons + 1))

    def scores(part):
        chosen = torch.cat([probes[:persons], probes[part]])
        return identify_embeddings(
            chosen, centers[:persons], known, [2] * persons, [*known, *[0] * others], [1] * (persons + others)
        )

    first = scores(slice(persons, persons + others))
    second = scores(slice(persons + others, None))
    threshold, rate, detected = first.at_false_positive_rate(0.05)
    assert 0.045 < rate <= 0.05
    assert detected > 0.9
    number = np.searchsorted(second.thresholds, threshold, "right") - 1
    assert second.false_positive_rates[number] == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_embeddings_in_blocks_give_the_rates_of_counting(metric):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(-1, 12, (90,), generator=generator)
    cameras = torch.randint(3, (90,), generator=generator)
    embeddings = torch.randn(13, 5, generator=generator)[ids] + torch.randn(90, 5, generator=generator)
    probes = (ids >= 0).nonzero().flatten()
    scores = identify_embeddings(
        *(embeddings[probes], embeddings, ids, cameras, ids[probes], cameras[probes]),
        **{"unknown_ids": [1, 2, 3], "metric": metric, "block": 16},
    )
    wide = torch.nn.functional.normalize(embeddings.double()) if metric == "cosine" else embeddings.double()
    threshold = float(np.median(scores.thresholds[1:]))
    found = {"known": 0, "unknown": 0, "right": 0, "wrong": 0}
    for probe in probes.tolist():
        best, known = (np.inf, None), False
        for row in range(90):
            if ids[row] in (-1, 1, 2, 3) or (ids[row] == ids[probe] > 0 and cameras[row] == cameras[probe]):
                continue
            known |= bool(ids[row] == ids[probe] > 0)
            difference = float((wide[row] - wide[probe]).norm())
            best = min(best, (difference**2 / 2 if metric == "cosine" else difference, row))
        accepted = best[0] <= threshold + 1e-9
        found["known" if known else "unknown"] += 1
        found["right"] += known and accepted and int(ids[best[1]]) == int(ids[probe])
        found["wrong"] += not known and accepted
    assert (scores.known, scores.unknown) == (found["known"], found["unknown"])
    number = np.searchsorted(scores.thresholds, threshold, "right") - 1
    assert scores.detection_rates[number] == found["right"] / found["known"]
    assert scores.false_positive_rates[number] == found["wrong"] / found["unknown"]


def test_held_out_identities_are_a_repeatable_share():
    ids = np.array([-1, 0, *range(1, 21), *range(1, 21)])
    chosen = held_out_identities(ids, 0.3, seed=4)
    assert chosen == sorted(set(chosen)) == held_out_identities(ids, 0.3, seed=4)
    assert len(chosen) == 6
    assert min(chosen) >= 1
    assert held_out_identities(ids, 0.3, seed=5) != chosen
    assert len(held_out_identities([1, 2], 0.01)) == len(held_out_identities([1, 2], 0.99)) == 1
    for share in (0, 1, float("nan")):
        with pytest.raises(ValueError, match=f"share is {share}, expected a number between 0 and 1"):
            held_out_identities(ids, share)
    with pytest.raises(ValueError, match="1 identity given, expected at least two"):
        held_out_identities([0, 7, 7], 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_ids": [1, 2, 3, 1, 2]}, "all 5 probes are known, expected probes of identity 0 or `unknown_ids`"),
        ({"query_ids": [0] * 5}, "none of 5 probes is known, expected gallery rows of an identity in another camera"),
        ({"query_ids": [1, 2, 3, 0, -1]}, r"query_ids\[4\] is -1, expected 0 \(unknown\) or an identity from 1"),
        ({"distances_GQ": DISTANCES.T}, r"shape \(5, 4\), expected \(gallery, queries\) = \(4, 5\)"),
        ({"distances_GQ": DISTANCES * np.inf}, "between query 0 and gallery row 0 is inf"),
    ],
)
def test_wrong_input_is_named(change, message):
    good = {"distances_GQ": DISTANCES, "gallery_ids": IDS, "gallery_cameras": CAMERAS, "query_ids": PROBES}
    with pytest.raises(ValueError, match=message):
        identify(**(good | {"query_cameras": PROBE_CAMERAS} | change))
