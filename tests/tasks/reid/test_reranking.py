"""k-reciprocal re-ranking beside a plain program that holds all distances, and its memory."""

import numpy as np
import pytest
import torch

from torch_nonlocal.benchmark.meter import measure
from torch_nonlocal.tasks.reid.metrics import evaluate_blocks
from torch_nonlocal.tasks.reid.reranking import reranked_blocks


def clustered(tracklets, width, identities, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(identities, (tracklets,), generator=generator)
    centers = torch.randn(identities, width, generator=generator)
    return centers[ids] + 0.8 * torch.randn(tracklets, width, generator=generator), ids + 1


def plain_reranking(items_NE, k1, k2, lambda_value):
    """All distances, all encodings and all minima, written out: (N, N)."""
    items = items_NE.double().numpy()
    count = len(items)
    squares = ((items[:, None] - items[None]) ** 2).sum(2)
    distances = squares / squares.max(1, keepdims=True)
    order = np.argsort(distances, axis=1, kind="stable")

    def reciprocal(item, k):
        return {other for other in order[item, : k + 1].tolist() if item in order[other, : k + 1]}

    encodings = np.zeros((count, count))
    for item in range(count):
        known = reciprocal(item, k1)
        expanded = set(known)
        for candidate in known:
            half = reciprocal(candidate, round(k1 / 2))
            if len(half & known) > 2 / 3 * len(half):
                expanded |= half
        for other in expanded:
            encodings[item, other] = np.exp(-distances[item, other])
        encodings[item] /= encodings[item].sum()
    if k2 > 1:
        encodings = np.stack([encodings[order[item, :k2]].mean(0) for item in range(count)])
    jaccard = np.empty((count, count))
    for item in range(count):
        jaccard[item] = 1 - np.minimum(encodings[item], encodings).sum(1) / np.maximum(encodings[item], encodings).sum(
            1
        )
    return (1 - lambda_value) * jaccard + lambda_value * distances


def whole(*arguments, **options):
    return torch.cat([one.distances for one in reranked_blocks(*arguments, **options)]).numpy()


@pytest.mark.parametrize(
    ("k1", "k2", "lambda_value", "block"),
    [(20, 6, 0.3, 64), (7, 1, 0.0, 1000), (30, 3, 0.5, 7), (1, 2, 0.3, 128), (3, 12, 0.3, 128)],
)
def test_distances_equal_those_of_a_plain_program(k1, k2, lambda_value, block):
    items, _ = clustered(260, 16, 20)
    expected = plain_reranking(items, k1, k2, lambda_value)[:60, 60:]
    distances = whole(items[:60], items[60:], k1=k1, k2=k2, lambda_value=lambda_value, block=block)
    np.testing.assert_allclose(distances, expected, rtol=0, atol=1e-9)


def test_queries_of_the_gallery_are_not_counted_twice():
    items, _ = clustered(150, 8, 12)
    index = torch.arange(0, 150, 5)
    expected = plain_reranking(items, 20, 6, 0.3)[index]
    distances = whole(items[index].numpy(), items.numpy(), query_index=index.tolist())
    np.testing.assert_allclose(distances, expected, rtol=0, atol=1e-9)


def test_cosine_is_euclidean_of_normalized_embeddings():
    items, _ = clustered(120, 8, 12)
    items *= torch.rand(120, 1) + 0.5
    expected = plain_reranking(torch.nn.functional.normalize(items.double()), 20, 6, 0.3)[:40, 40:]
    np.testing.assert_allclose(whole(items[:40], items[40:], metric="cosine"), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e200])
def test_cosine_does_not_depend_on_the_lengths(scale):
    items, _ = clustered(60, 8, 12)
    expected = whole(items[:20], items[20:], metric="cosine")
    scaled = items.double() * scale
    np.testing.assert_allclose(whole(scaled[:20], scaled[20:], metric="cosine"), expected, rtol=0, atol=1e-9)


def test_queries_and_gallery_of_two_dtypes_are_compared_in_the_wider_one():
    items, _ = clustered(60, 8, 12)
    query, gallery = items[:20].half(), 1e5 * items[20:]  # beyond the range of float16
    expected = plain_reranking(torch.cat([query.float(), gallery]), 20, 6, 0.3)[:20, 20:]
    np.testing.assert_allclose(whole(query, gallery), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_rows_of_queries_are_integers_of_any_kind(dtype):
    items, _ = clustered(40, 8, 12)
    index = np.arange(40)[::-1].astype(dtype)  # as many as gallery rows: uint8 is no mask
    index.setflags(write=False)
    expected = plain_reranking(items, 20, 6, 0.3)[::-1]
    np.testing.assert_allclose(whole(items.flip(0), items, query_index=index), expected, rtol=0, atol=1e-9)


def test_fewer_items_than_neighbors_and_equal_embeddings():
    items, _ = clustered(9, 4, 3)
    np.testing.assert_allclose(whole(items[:3], items[3:]), plain_reranking(items, 20, 6, 0.3)[:3, 3:], atol=1e-9)
    same = whole(torch.ones(4, 3), torch.ones(80, 3))
    assert np.isfinite(same).all()
    assert (same >= 0).all()
    assert (same <= 1).all()


def test_re_ranking_helps_where_identities_form_clusters():
    items, ids = clustered(600, 8, 40)
    labels = ids, torch.arange(600) % 3, ids[:100], torch.arange(100) % 3
    index = torch.arange(100)
    plain = evaluate_blocks(reranked_blocks(items[:100], items, lambda_value=1.0, query_index=index), *labels)
    both = evaluate_blocks(reranked_blocks(items[:100], items, query_index=index), *labels)
    assert both["official"].mean_ap > plain["official"].mean_ap + 0.02


ITEMS = torch.eye(4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": 0}, "k1 is 0, k2 is 6: expected at least 1"),
        ({"k2": 0}, "k1 is 20, k2 is 0: expected at least 1"),
        ({"lambda_value": 1.5}, "lambda_value is 1.5, expected 0 to 1"),
        ({"lambda_value": float("nan")}, "lambda_value is nan, expected 0 to 1"),
        ({"metric": "euclid"}, "unknown metric 'euclid'; did you mean 'euclidean'?"),
        ({"query_index": [0]}, "query_index has 1 rows, expected one for each of 2 queries"),
        ({"query_index": [0.0, 1.0]}, "query_index has dtype float64, expected integers"),
        ({"query_index": [0, 4]}, r"query_index\[1\] is 4, expected a gallery row, 0 to 3"),
        ({"query_index": [0, 3]}, r"query_index\[1\]: the embedding of gallery row 3 is not that of query 1"),
    ],
)
def test_wrong_input_is_named_before_any_work(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        reranked_blocks(ITEMS[:2], ITEMS, **options)


TRACKLETS = 6000
ALL_DISTANCES = 8 * TRACKLETS**2  # bytes


def reranking_of_many():
    items, ids = clustered(TRACKLETS, 16, 500)
    list(reranked_blocks(items[:40], items[:60]))  # loads what PyTorch loads on first use
    return lambda: evaluate_blocks(
        reranked_blocks(items[:1000], items[1000:]),
        *(ids[1000:], torch.arange(TRACKLETS - 1000) % 3, ids[:1000], torch.arange(1000) % 3),
    )


def test_distances_between_all_tracklets_never_exist_at_once():
    assert measure(reranking_of_many, repeats=0).extra_bytes < ALL_DISTANCES / 3
