"""Rankings of queries: a hand-made case with junk, distractors and a query that has no match."""

import numpy as np
import pytest

from torch_nonlocal.tasks.reid.labels import checked_labels
from torch_nonlocal.tasks.reid.rankings import rank_matches

# Gallery rows: identity and camera. Queries: rows 0 and 3, and identity 3 in camera 1, which only camera 1 sees.
GALLERY_IDS, GALLERY_CAMERAS = [1, 1, -1, 2, 0, 1, 2], [1, 2, 2, 1, 2, 3, 1]
QUERY_IDS, QUERY_CAMERAS, QUERY_INDEX = [1, 2], [1, 1], [0, 3]
DISTANCES_QG = np.array([[0.0, 0.7, 0.1, 0.2, 0.3, 0.3, 0.9], [0.5, 0.1, 0.0, 0.0, 0.1, 0.9, 0.0]])
RANKED = {
    # query 1: rows 0 (itself) and 2 (junk) are left out; rows 4 and 5 are equally far
    "official": ([[3, 4, 5], [1, 4, 0]], [[0, 0, 1], [0, 0, 0]], [5, -1], [3, 0]),
    "common": ([[4, 5, 1], [1, 4, 5]], [[0, 1, 1], [0, 0, 0]], [5, -1], [2, 0]),
}


def ranked(protocol, most=3):
    labels = checked_labels(GALLERY_IDS, GALLERY_CAMERAS, QUERY_IDS, QUERY_CAMERAS, query_index=QUERY_INDEX)
    return rank_matches([(0, DISTANCES_QG[:1]), (1, DISTANCES_QG[1:])], labels, protocol, most=most)


@pytest.mark.parametrize("protocol", RANKED)
def test_rows_that_do_not_count_take_no_rank(protocol):
    rows, right, first, rank = RANKED[protocol]
    found = ranked(protocol)
    assert found.protocol == protocol
    assert found.rows.tolist() == rows
    assert found.right.tolist() == np.array(right, bool).tolist()
    assert found.first_right.tolist() == first
    assert found.first_right_rank.tolist() == rank
    for query, line in enumerate(rows):
        assert found.distances[query].tolist() == DISTANCES_QG[query, line].tolist()
    assert found.first_right_distance.tolist() == [0.3, np.inf]


def test_fewer_rows_than_asked_for_are_padded():
    found = ranked("common", most=6)
    assert found.rows[0].tolist() == [4, 5, 1, 6, -1, -1]
    assert found.distances[0, 4:].tolist() == [np.inf, np.inf]
    assert not found.right[0, 4:].any()


def test_the_nearest_right_match_may_be_beyond_the_list():
    found = ranked("official", most=1)
    assert (found.rows[0].tolist(), int(found.first_right[0]), int(found.first_right_rank[0])) == ([3], 5, 3)
