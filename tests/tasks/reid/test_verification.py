"""Same or different: ROC, equal error rate, thresholds. Values by hand and by counting all pairs."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_nonlocal.benchmark.meter import measure
from torch_nonlocal.tasks.reid import verification
from torch_nonlocal.tasks.reid.metrics import evaluate_embeddings
from torch_nonlocal.tasks.reid.open_set import identify_embeddings
from torch_nonlocal.tasks.reid.verification import verify, verify_embeddings

# One query of identity 1 in camera 1. Same pairs at 1, 2 and 4; different pairs at 2, 3, 5 and 6.
IDS = [1, 1, 1, 2, 3, 0, 2]
CAMERAS = [2, 2, 3, 1, 2, 1, 3]
DISTANCES = np.array([[1.0, 2, 4, 2, 3, 5, 6]]).T


def test_rates_area_and_thresholds_by_hand():
    scores = verify(DISTANCES, IDS, CAMERAS, [1], [1])
    assert (scores.same_pairs, scores.different_pairs) == (3, 4)
    assert scores.thresholds.tolist() == [-np.inf, 1, 2, 3, 4, 5, 6]
    assert scores.false_accept_rates.tolist() == [0, 0, 1 / 4, 1 / 2, 1 / 2, 3 / 4, 1]
    assert scores.true_accept_rates.tolist() == [0, 1 / 3, 2 / 3, 2 / 3, 1, 1, 1]
    # 1 is below all 4; 2 is below 3 and ties with one; 4 is below 2
    assert scores.area == pytest.approx((4 + 3.5 + 2) / 12)
    assert scores.area_error == 0
    # from FAR 1/4, FRR 1/3 at 2 to FAR 1/2, FRR 1/3 at 3: they meet at 1/3
    assert scores.equal_error_rate == pytest.approx(1 / 3)
    assert scores.equal_error_threshold == 3
    assert scores.at_false_accept_rate(0.3) == (2, 1 / 4, 2 / 3)
    assert scores.at_false_accept_rate(0.25) == (2, 1 / 4, 2 / 3)
    assert scores.at_false_accept_rate(0.2) == (1, 0, 1 / 3)
    assert scores.at_false_accept_rate(1) == (6, 1, 1)


@pytest.mark.parametrize(
    ("row", "why"),
    [((-1, 2, 0), "junk"), ((-1, 1, 9), "junk"), ((1, 1, 0), "same camera"), ((1, 1, 9), "same camera")],
)
def test_pairs_that_do_not_count(row, why):
    plain = verify(DISTANCES, IDS, CAMERAS, [1], [1])
    more = verify(np.append(DISTANCES, [[row[2]]], 0), [*IDS, row[0]], [*CAMERAS, row[1]], [1], [1])
    assert more.plain() == plain.plain(), why


def test_separated_pairs_have_no_errors_and_the_largest_threshold_without_a_false_accept():
    scores = verify(np.array([[1.0], [2], [5], [6]]), [1, 1, 2, 3], [2, 2, 2, 2], [1], [1])
    assert (scores.area, scores.equal_error_rate) == (1, 0)
    assert scores.at_false_accept_rate(0) == (2, 0, 1)
    assert scores.at_false_accept_rate(0.5) == (5, 0.5, 1)


def test_reversed_distances_are_always_wrong():
    scores = verify(np.array([[9.0], [8], [5], [6]]), [1, 1, 2, 3], [2, 2, 2, 2], [1], [1])
    assert (scores.area, scores.equal_error_rate) == (0, 1)
    assert scores.at_false_accept_rate(0.4) == (-np.inf, 0, 0)
    assert json.dumps(scores.plain(), allow_nan=False)
    assert scores.plain()["operating_points"][0]["threshold"] is None


def test_negated_similarities_are_distances():
    scores = verify(-np.array([[0.9], [0.2], [0.5]]), [1, 1, 2], [2, 2, 2], [1], [1])
    assert scores.at_false_accept_rate(0) == (-0.9, 0, 0.5)
    assert scores.area == 0.5


def pairs_by_counting(distances, ids, cameras, query_ids, query_cameras):
    same, different = [], []
    for row, (identity, camera) in enumerate(zip(ids, cameras, strict=True)):
        for query, (own, own_camera) in enumerate(zip(query_ids, query_cameras, strict=True)):
            if identity != -1 and not (identity == own and camera == own_camera):
                (same if identity == own else different).append(float(distances[row][query]))
    return np.array(same), np.array(different)


def equal_error_rate(same, different):
    """Where the polygon through the rates at all distances meets FAR = 1 - TAR."""
    before = (0.0, 1.0)
    for threshold in sorted({*same, *different}):
        point = float((different <= threshold).mean()), float((same > threshold).mean())
        if point[0] >= point[1]:
            (far, frr), (next_far, next_frr) = before, point
            return far + (next_far - far) * (frr - far) / (frr - far + next_far - next_frr)
        before = point
    raise AssertionError


@pytest.mark.parametrize(("limit", "grid"), [(2**20, 8), (60, 8), (1, 8), (1, 1000)])
@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_rates_are_exact_with_and_without_a_grid(limit, grid, seed):
    rng = np.random.default_rng(seed)
    ids, query_ids = rng.integers(-1, 4, 15), rng.integers(1, 4, 6)
    cameras, query_cameras = rng.integers(0, 2, 15), rng.integers(0, 2, 6)
    distances = rng.integers(0, 12, (15, 6)) / 4
    same, different = pairs_by_counting(distances, ids, cameras, query_ids, query_cameras)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "EXACT_PAIRS", limit)
        patch.setattr(verification, "GRID", grid)
        if not len(same) or not len(different):
            with pytest.raises(ValueError, match="there is no pair of"):
                verify(distances, ids, cameras, query_ids, query_cameras)
            return
        scores = verify(distances, ids, cameras, query_ids, query_cameras)
    assert (scores.same_pairs, scores.different_pairs) == (len(same), len(different))
    for threshold, far, tar in zip(scores.thresholds, scores.false_accept_rates, scores.true_accept_rates, strict=True):
        assert far == pytest.approx((different <= threshold).mean())
        assert tar == pytest.approx((same <= threshold).mean())
    assert scores.false_accept_rates[-1] == scores.true_accept_rates[-1] == 1
    smaller = (same[:, None] < different).mean() + (same[:, None] == different).mean() / 2
    assert abs(scores.area - smaller) <= scores.area_error + 1e-12
    if len(same) <= limit:
        assert scores.area_error == 0
        assert scores.equal_error_rate == pytest.approx(equal_error_rate(same, different), abs=1e-12)
    if len(same) + len(different) <= limit:
        for rate in (0, 0.1, 0.5, 1):
            point = scores.at_false_accept_rate(rate)
            allowed = [one for one in [-np.inf, *same, *different] if (different <= one).mean() <= rate]
            assert point.threshold == max(allowed)


def test_a_distance_far_from_all_others_does_not_change_the_points_of_many_pairs(monkeypatch):
    monkeypatch.setattr(verification, "EXACT_PAIRS", 1000)
    monkeypatch.setattr(verification, "GRID", 2000)
    rng = np.random.default_rng(0)
    same, different = rng.normal(0, 1, 100), np.append(rng.normal(10, 1, 19_999), 1e9)
    distances = np.append(same, different)[:, None]
    scores = verify(distances, [1] * 100 + [2] * 20_000, [2] * 20_100, [1], [1])
    for rate in (0.1, 0.01):
        threshold, far, tar = scores.at_false_accept_rate(rate)
        assert threshold == pytest.approx(np.quantile(different, rate), abs=0.05)
        assert (far, tar) == ((different <= threshold).mean(), 1)
        assert 0.9 * rate < far <= rate


def test_the_equal_error_rate_of_two_gaussians():
    rng = np.random.default_rng(0)
    distances = np.append(rng.normal(0, 1, 40_000), rng.normal(2, 1, 40_000))[:, None]
    scores = verify(distances, [1] * 40_000 + [2] * 40_000, [2] * 80_000, [1], [1])
    assert scores.equal_error_rate == pytest.approx(0.158655, abs=0.005)  # the normal distribution below -1
    assert scores.equal_error_threshold == pytest.approx(1, abs=0.02)
    assert scores.area == pytest.approx(0.921350, abs=0.005)  # the normal distribution below sqrt(2)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_embeddings_give_the_scores_of_their_distances(metric):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(-1, 20, (200,), generator=generator)
    cameras = torch.randint(3, (200,), generator=generator)
    embeddings = torch.randn(21, 8, generator=generator)[ids] + torch.randn(200, 8, generator=generator)
    index = (ids > 0).nonzero().flatten()[:70]
    wide = torch.nn.functional.normalize(embeddings.double()) if metric == "cosine" else embeddings.double()
    distances = torch.cdist(wide, wide[index], compute_mode="donot_use_mm_for_euclid_dist")
    distances = distances.square() / 2 if metric == "cosine" else distances
    expected = verify(distances, ids, cameras, ids[index], cameras[index])
    scores = verify_embeddings(
        embeddings[index], embeddings, ids, cameras, ids[index], cameras[index], metric=metric, block=32
    )
    assert scores.area == pytest.approx(expected.area, abs=1e-12)
    assert scores.equal_error_rate == pytest.approx(expected.equal_error_rate, abs=1e-12)
    assert scores.at_false_accept_rate(0.01) == pytest.approx(expected.at_false_accept_rate(0.01), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_ids": [4]}, "there is no pair of the same identity in different cameras, expected at least one"),
        ({"gallery_ids": [1] * 7}, "there is no pair of different identities, expected at least one"),
        ({"distances_GQ": DISTANCES.T}, r"shape \(1, 7\), expected \(gallery, queries\) = \(7, 1\)"),
        ({"distances_GQ": DISTANCES * np.nan}, "between query 0 and gallery row 0 is nan"),
        ({"query_ids": [0]}, r"query_ids\[0\] is 0, expected an identity from 1"),
    ],
)
def test_wrong_input_is_named(change, message):
    good = {"distances_GQ": DISTANCES, "gallery_ids": IDS, "gallery_cameras": CAMERAS, "query_ids": [1]}
    with pytest.raises(ValueError, match=message):
        verify(**(good | {"query_cameras": [1]} | change))


def test_a_rate_out_of_range_is_named():
    scores = verify(DISTANCES, IDS, CAMERAS, [1], [1])
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"rate is {rate}, expected 0 to 1"):
            scores.at_false_accept_rate(rate)


TRACKLETS = 4000
ALL_DISTANCES = 8 * TRACKLETS**2  # bytes


def scores_of_many():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(TRACKLETS, 16, generator=generator)
    labels = [torch.arange(TRACKLETS) // 8 + 1, torch.arange(TRACKLETS) % 3] * 2
    few = slice(0, 40)

    def work(rows):
        given = embeddings[rows], embeddings[rows], *(one[rows] for one in labels)
        return evaluate_embeddings(*given), verify_embeddings(*given), identify_embeddings(*given, unknown_ids=[1])

    work(few)  # loads what PyTorch loads on first use
    return lambda: work(slice(None))


def test_all_distances_never_exist_at_once():
    assert measure(scores_of_many, repeats=0).extra_bytes < ALL_DISTANCES / 2
