"""What a test says about a threshold that its data cannot measure."""

import numpy as np

from torch_nonlocal.tasks.reid.evaluation import Ranked
from torch_nonlocal.tasks.reid.settings import ReidTestOptions
from torch_nonlocal.tasks.reid.testing import _threshold_scores


def notes(query_ids, gallery_ids, rate=0.01):
    rng = np.random.default_rng(0)
    query, gallery = (rng.normal(size=(len(ids), 4)) for ids in (query_ids, gallery_ids))
    cameras = np.ones(len(query_ids), int), np.full(len(gallery_ids), 2)
    ids = np.array(query_ids), np.array(gallery_ids)
    ranked = Ranked(query, gallery, *ids, *cameras, None, [], [])
    return _threshold_scores(ranked, ReidTestOptions(false_accept=rate))[2]


def test_rates_that_so_few_pairs_cannot_measure_are_named():
    pairs = "--false-accept 0.01: of 6 pairs of different identities, the threshold accepts none; rates below 0.17"
    query = "--false-accept 0.01: of 1 query of unknown identity, the threshold accepts none; rates below 1"
    assert notes([1, 2], [1, 2, 3, 3]) == [f"{text} cannot be measured" for text in (pairs, query)]
    assert notes(range(1, 21), range(1, 21), rate=0.1) == []


def test_scores_that_the_data_do_not_have_are_named():
    assert notes([1], [1]) == [
        "no verification: there is no pair of different identities, expected at least one",
        "no open-set scores: 1 identity given, expected at least two",
    ]
