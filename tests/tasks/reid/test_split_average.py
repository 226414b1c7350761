"""Averages over random splits."""

import json

import numpy as np
import pytest

from torch_nonlocal.tasks.reid.metrics import evaluate
from torch_nonlocal.tasks.reid.split_average import Spread, average_splits, spread


def split(rank, *, gallery=3, protocol="common"):
    """One query whose only match has this rank."""
    ids = [1 if row == rank - 1 else 2 for row in range(gallery)]
    return evaluate(np.arange(float(gallery))[:, None], ids, [2] * gallery, [1], [1], protocol=protocol)


def test_mean_and_sample_deviation_of_each_metric():
    average = average_splits([split(1), split(2), split(1), split(6, gallery=60)])
    assert (average.protocol, average.splits) == ("common", 4)
    assert average.metrics["rank1"] == pytest.approx((0.5, np.sqrt(1 / 3)))
    assert average.metrics["rank5"] == pytest.approx((0.75, 0.5))
    assert average.metrics["mean_ap"] == pytest.approx((2 / 3, np.std([1, 1 / 2, 1, 1 / 6], ddof=1)))
    assert average.cmc.tolist() == [0.5, 0.75, 0.75, 0.75, 0.75] + [1] * 55
    plain = json.loads(json.dumps(average.plain()))
    assert plain["mean_inp_deviation"] == pytest.approx(np.std([1, 1 / 2, 1, 1 / 6], ddof=1))
    assert "scored" not in plain


def test_one_split_has_no_spread():
    average = average_splits([split(2)])
    assert average.metrics["mean_ap"] == (0.5, None)
    assert average.plain()["mean_ap_deviation"] is None


def test_a_spread_is_shown_in_percent():
    assert str(Spread(0.8532, 0.0118)) == "85.3 ± 1.2"
    assert str(spread([0.5])) == "50.0"


def test_splits_that_cannot_be_averaged_are_refused():
    with pytest.raises(ValueError, match="there are no splits to average"):
        average_splits([])
    with pytest.raises(ValueError, match="different protocols, whose numbers cannot be averaged"):
        average_splits([split(1), split(1, protocol="official")])
    with pytest.raises(ValueError, match="there are no values to average"):
        spread([])
