"""Curves of a test: what they draw, against counts of the pairs themselves."""

import numpy as np
import pytest

from torch_nonlocal.tasks.reid.curves import cmc_picture, pair_shares, pairs_picture, roc_picture
from torch_nonlocal.tasks.reid.metrics import evaluate
from torch_nonlocal.tasks.reid.verification import verify


def drawn(seed=0, queries=12, gallery=30):
    """Distances, which of the pairs are the same, and both kinds of scores."""
    generator = np.random.default_rng(seed)
    query_ids, gallery_ids = np.arange(1, queries + 1), generator.integers(0, queries + 1, gallery)
    gallery_ids[:queries] = query_ids
    same = gallery_ids[:, None] == query_ids
    distances = np.where(same, 0.3, 0.6) + generator.normal(0, 0.15, same.shape)
    labels = gallery_ids, np.full(gallery, 2), query_ids, np.full(queries, 1)
    scores = {name: evaluate(distances, *labels, protocol=name) for name in ("official", "common")}
    return distances, same, verify(distances, *labels), scores


def test_shares_of_pairs_are_those_of_a_histogram():
    distances, same, scores, _ = drawn()
    edges, of_same, of_different = pair_shares(scores, 9)
    for shares, kind in ((of_same, same), (of_different, ~same)):
        expected, _ = np.histogram(distances[kind], edges)  # no distance lies on an inner edge
        np.testing.assert_allclose(shares, expected / kind.sum(), atol=1e-12)
        assert shares.sum() == pytest.approx(1)


def lines(figure):
    return {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}


def test_cmc_of_both_protocols_up_to_rank_20():
    *_, scores = drawn()
    found = lines(cmc_picture(scores))
    for name, one in scores.items():
        ((label, points),) = [item for item in found.items() if item[0].startswith(name)]
        assert f"rank 1 {one.rank(1):.3f}" in label
        np.testing.assert_allclose(points, np.stack([np.arange(1, 21), one.cmc[:20]], 1))


def test_roc_has_the_rates_of_its_points_and_the_chosen_threshold():
    distances, same, scores, _ = drawn()
    chosen = scores.at_false_accept_rate(0.05)
    figure = roc_picture(scores, chosen)
    found = lines(figure)
    curve = found[f"area {scores.area:.4f}"]
    far, tar = (distances[~same] <= chosen.threshold).mean(), (distances[same] <= chosen.threshold).mean()
    (label,) = [one for one in found if one.startswith("chosen")]
    np.testing.assert_allclose(found[label], [[far, tar]])
    # without the points on its horizontal and vertical lines, the curve is the same step function
    for rate in (0.02, 0.05, 0.2, 0.7):
        at = np.searchsorted(curve[:, 0], rate, "right") - 1
        assert curve[at, 1] == scores.at_false_accept_rate(rate).true_rate
    assert len(curve) < len(scores.thresholds)
    assert figure.axes[0].get_xscale() == "log"


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_threshold_is_drawn_in_the_unit_of_the_axis(metric):
    _, _, scores, _ = drawn()
    chosen = scores.at_false_accept_rate(0.05)
    found = lines(pairs_picture(scores, chosen, metric))
    at = 1 - chosen.threshold if metric == "cosine" else chosen.threshold
    np.testing.assert_allclose(found[f"threshold {at:.3f}"][:, 0], at)


def test_a_threshold_that_accepts_nothing_is_not_drawn():
    scores = verify(np.array([[0.5], [0.1]]), [1, 2], [2, 2], [1], [1])
    chosen = scores.at_false_accept_rate(0.1)
    assert not np.isfinite(chosen.threshold)
    assert not lines(pairs_picture(scores, chosen, "cosine"))
    roc_picture(scores, chosen).savefig("/dev/null", format="png")
