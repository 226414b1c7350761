"""Distances in blocks of queries, and nearest neighbors."""

import numpy as np
import pytest
import torch

from torch_nonlocal.tasks.reid.distances import distance_blocks, nearest, smallest


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def whole(query, gallery, **options):
    blocks = list(distance_blocks(query, gallery, **options))
    assert [one.start for one in blocks] == [sum(len(two.distances) for two in blocks[:i]) for i in range(len(blocks))]
    return torch.cat([one.distances for one in blocks])


@pytest.mark.parametrize("block", [1, 3, 7, 100])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_euclidean_distances(block, dtype):
    query, gallery = torch.randn(7, 5).to(dtype), torch.randn(11, 5).to(dtype)
    expected = (query.double()[:, None] - gallery.double()).square().sum(2).sqrt()
    torch.testing.assert_close(whole(query, gallery, block=block), expected, rtol=1e-12, atol=1e-6)


def test_cosine_distances_do_not_depend_on_the_lengths():
    query, gallery = torch.randn(4, 6).double(), torch.randn(9, 6).double()
    expected = 1 - torch.nn.functional.cosine_similarity(query[:, None], gallery, dim=2)
    distances = whole(1e-200 * query, 1e200 * gallery, metric="cosine")
    torch.testing.assert_close(distances, expected, rtol=1e-10, atol=1e-12)


def read_only(array):
    array.setflags(write=False)
    return array


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "change",
    [
        lambda array: read_only(array.copy()),  # as np.load(..., mmap_mode="r") gives
        lambda array: array[::-1].copy()[::-1],
        lambda array: np.repeat(array, 2, 1)[:, ::2],
        lambda array: array.astype(">f8"),
        lambda array: array.astype(np.longdouble),
        lambda array: list(array),
        lambda array: array.tolist(),
    ],
    ids=["read-only", "reversed", "strided", "big-endian", "long double", "list of arrays", "list"],
)
def test_arrays_of_any_memory_layout(change):
    query, gallery = np.random.default_rng(0).normal(size=(2, 7, 5))
    expected = whole(query, gallery)
    assert torch.equal(whole(change(query), change(gallery)), expected)


def test_long_gallery_is_converted_in_chunks(monkeypatch):
    monkeypatch.setattr("torch_nonlocal.tasks.reid.distances._CHUNK_BYTES", 8 * 5 * 4)
    query, gallery = torch.randn(3, 5), torch.randn(11, 5)
    torch.testing.assert_close(whole(query, gallery), torch.cdist(query.double(), gallery.double()), atol=1e-6, rtol=0)


def test_near_duplicates_far_from_the_origin_keep_their_order():
    query = torch.full((1, 64), 100.0)
    gallery = query + torch.tensor([[0.003], [0.0], [0.001]])
    distances = whole(query, gallery)
    assert (distances >= 0).all()
    torch.testing.assert_close(distances, (gallery.double() - query.double()).norm(dim=1)[None], rtol=1e-4, atol=1e-4)
    assert nearest(query, gallery, 3).indices.tolist() == [[1, 2, 0]]


@pytest.mark.parametrize(("metric", "most"), [("euclidean", 1e-7), ("cosine", 1e-14)])
def test_distances_of_a_tracklet_to_itself_are_never_negative_or_nan(metric, most):
    embeddings = 1e3 * torch.randn(50, 256)
    distances = whole(embeddings, embeddings, metric=metric)
    assert (distances >= 0).all()
    assert distances.diagonal().max() < most * embeddings.norm(dim=1).max()


def test_nearest_rows_are_in_order_and_the_first_of_equals():
    query, gallery = torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [6.0], [-1.0], [1.0], [4.0], [0.0]])
    found = nearest(query, gallery, 4, block=1)
    assert found.indices.tolist() == [[5, 0, 2, 3], [1, 4, 0, 3]]
    assert found.distances.tolist() == [[0, 1, 1, 1], [1, 1, 4, 4]]
    assert nearest(query, gallery, 3).indices.tolist() == [[5, 0, 2], [1, 4, 0]]
    assert nearest(query, gallery, 99).indices.shape == (2, 6)


@pytest.mark.parametrize("k", [1, 2, 5, 16])
def test_smallest_values_are_those_of_a_stable_sort(k):
    values = torch.randint(0, 4, (40, 16), generator=torch.Generator().manual_seed(k)).double()
    order = values.argsort(dim=1, stable=True)[:, :k]
    found = smallest(values, k)
    assert torch.equal(found.indices, order)
    assert torch.equal(found.distances, values.gather(1, order))


def test_excluded_rows_are_not_neighbors():
    gallery = torch.arange(5.0)[:, None]

    def itself(start, stop):
        return np.arange(start, stop)[:, None] == np.arange(5)

    assert nearest(gallery, gallery, 2, exclude=itself, block=2).indices[:, 0].tolist() == [1, 0, 1, 2, 3]
    few = nearest(gallery, gallery, 5, exclude=itself)
    assert few.indices[:, 4].tolist() == [-1] * 5
    assert few.distances[:, 4].isinf().all()
    assert few.indices[0].tolist() == [1, 2, 3, 4, -1]


EMBEDDINGS = torch.ones(3, 2)
ZERO = torch.tensor([[1.0, 0], [0, 0]])
BROKEN = torch.tensor([[1.0, 0], [0, torch.nan], [torch.inf, 0]])


@pytest.mark.parametrize(
    ("query", "gallery", "options", "error", "message"),
    [
        (EMBEDDINGS, torch.ones(3, 4), {}, ValueError, "width 2, gallery embeddings 4: expected embeddings of one"),
        (
            torch.ones(0, 2),
            EMBEDDINGS,
            {},
            ValueError,
            r"query embeddings have shape \(0, 2\), expected \(tracklets, w",
        ),
        (EMBEDDINGS, torch.ones(0, 2), {}, ValueError, r"gallery embeddings have shape \(0, 2\)"),
        (torch.ones(2), EMBEDDINGS, {}, ValueError, r"query embeddings have shape \(2,\)"),
        (EMBEDDINGS, EMBEDDINGS.long(), {}, TypeError, "gallery embeddings have dtype torch.int64, expected floating"),
        (BROKEN, EMBEDDINGS, {}, ValueError, "query embedding 1 has values that are NaN or infinite"),
        (EMBEDDINGS, BROKEN[::2], {}, ValueError, "gallery embedding 1 has values that are NaN or infinite"),
        (EMBEDDINGS, ZERO, {"metric": "cosine"}, ValueError, "gallery embedding 1 is zero: the cosine distance needs"),
        (EMBEDDINGS, EMBEDDINGS, {"metric": "cosin"}, ValueError, "unknown metric 'cosin'; did you mean 'cosine'?"),
        (EMBEDDINGS, EMBEDDINGS, {"metric": "x"}, ValueError, "unknown metric 'x'; expected 'euclidean' or 'cosine'"),
        (EMBEDDINGS, EMBEDDINGS, {"block": 0}, ValueError, "block is 0, expected at least one query"),
    ],
)
def test_wrong_input_is_named_before_the_first_block(query, gallery, options, error, message):
    with pytest.raises(error, match=message):
        distance_blocks(query, gallery, **options)
    if "block" not in options:
        with pytest.raises(error, match=message):
            distance_blocks(query.numpy(), gallery.numpy(), **options)


def test_no_neighbor_is_refused():
    with pytest.raises(ValueError, match="k is 0, expected at least one neighbor"):
        nearest(EMBEDDINGS, EMBEDDINGS, 0)
