"""Codes and candidates against exact search; the index is rebuilt where its files do not match."""

import json

import pytest

np = pytest.importorskip("numpy", reason="pip install 'torch-nonlocal[reid]'")
pytest.importorskip("pyarrow", reason="pip install 'torch-nonlocal[reid]'")
pytest.importorskip("faiss", reason="pip install 'torch-nonlocal[reid]'")

from galleries import MODEL, embed_from, entries, identities  # noqa: E402 (after the skips)

from torch_nonlocal.gallery import DamagedGalleryError, add, build, delete, open_gallery  # noqa: E402
from torch_nonlocal.gallery.index import FLAT_BELOW, build_index  # noqa: E402
from torch_nonlocal.gallery.parts import digest_of  # noqa: E402
from torch_nonlocal.gallery.vectors import Vectors, exact_nearest, normalized  # noqa: E402


def recall(found, exact):
    return np.mean([len(np.intersect1d(one, other)) / len(other) for one, other in zip(found, exact, strict=True)])


@pytest.fixture(scope="module", autouse=True)
def few_are_many():
    """Galleries use codes from 1,000 vectors on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch_nonlocal.gallery.index.FLAT_BELOW", 1000)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory, few_are_many):
    """A gallery of 400 identities with 10 tracklets each, searched by codes; its folder, vectors and numbers."""
    vectors, numbers = identities(400, 10, dimension=31, noise=1.0)
    folder = tmp_path_factory.mktemp("galleries") / "g"
    build(folder, entries(numbers), embed_from(vectors), MODEL, chunk=1000)
    return folder, vectors, numbers


@pytest.fixture
def large(built, tmp_path):
    """A copy of it that may be changed."""
    import shutil

    return shutil.copytree(built[0], tmp_path / "g"), *built[1:]


def test_small_galleries_compare_all_vectors():
    vectors = normalized(identities(10, 2)[0], str)
    assert build_index(Vectors([vectors], 32), flat_below=FLAT_BELOW).info.kind == "flat"
    assert FLAT_BELOW == 100_000


@pytest.mark.parametrize(("dimension", "noise"), [(5, 0.3), (31, 1.0), (64, 2.0), (300, 1.0)])
def test_the_nearest_are_found_with_their_exact_similarities(dimension, noise):
    vectors = normalized(identities(300, 20, dimension, noise=noise)[0], str)
    stored, queries = Vectors([vectors[:1000], vectors[1000:]], dimension), vectors[::60] + 0.01
    trained = build_index(stored)
    assert trained.info.kind == "pq"
    similarities, rows = trained.searcher(stored).nearest(queries, 10)
    expected = exact_nearest(stored, queries, 10)
    assert recall(rows, expected[1]) >= 0.95
    np.testing.assert_allclose(similarities, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-5)
    assert (np.diff(similarities) <= 0).all()


def test_vectors_with_a_common_mean_and_few_strong_directions_are_found():
    random, spectrum = np.random.default_rng(0), np.arange(1, 129) ** -1.0
    persons = np.repeat(random.standard_normal((200, 128)), 20, 0)
    vectors = (persons + 0.7 * random.standard_normal(persons.shape)) * spectrum + 5 * spectrum[::-1]
    trained = build_index(Vectors([normalized(vectors, str)], 128))
    assert trained.info.kind == "pq"
    assert trained.info.recall >= 0.99
    assert trained.info.candidates <= 512


def test_the_measured_recall_is_reported(large):
    gallery = open_gallery(large[0])
    info = gallery.indexes["tracklet"]
    queries, _ = identities(400, 1, dimension=31, seed=0)
    found = gallery.nearest(queries, 10)[1]
    exact = exact_nearest(gallery.vectors, normalized(queries, str), 10)[1]
    assert info.recall >= 0.99
    assert recall(found, exact) == pytest.approx(info.recall, abs=0.02)
    assert f"{info.candidates:,} candidates compared exactly; recall@10 {info.recall:.3f}" in info.reason


def test_exact_search_is_kept_where_codes_find_too_little(monkeypatch):
    monkeypatch.setattr("torch_nonlocal.gallery.index._CANDIDATES", (11,))
    vectors = Vectors([normalized(np.random.default_rng(0).standard_normal((3000, 64)), str)], 64)
    info = build_index(vectors).info
    assert info.kind == "flat"
    assert "codes found" in info.reason


def test_more_codes_are_used_where_few_find_too_little(monkeypatch):
    monkeypatch.setattr("torch_nonlocal.gallery.index._CANDIDATES", (100,))
    few, many = (
        build_index(Vectors([normalized(identities(300, 20, 256, noise=noise)[0], str)], 256)).info.reason
        for noise in (0.5, 3.0)
    )
    assert "64 codes of 4 bits" in few
    assert "128 codes of 4 bits" in many


def test_the_index_follows_added_and_deleted_tracklets(large):
    folder, vectors, _ = large
    more, more_numbers = identities(3, 2, dimension=31, seed=8)
    gallery = add(folder, entries(more_numbers + 500, prefix="new"), embed_from(more), MODEL, chunk=1000)
    assert gallery.indexes["tracklet"].codes.rows == 4006
    assert gallery.search(more[5:6], 1)[0].matches[0].entry.name == "new00005"
    delete(folder, names=["new00005"], identities=["person 7"])
    gallery = open_gallery(folder)
    assert gallery.indexes["tracklet"].codes.rows == 3995
    assert gallery.search(more[5:6], 1)[0].matches[0].entry.name == "new00004"
    assert all(match.identity != "person 7" for match in gallery.search(vectors[70:71], 50)[0].matches)


@pytest.mark.parametrize("kind", ["codes", "codebook", "rotation"])
@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_a_damaged_index_is_rebuilt_from_the_vectors(large, kind, damage):
    folder, vectors, _ = large
    before = open_gallery(folder).nearest(vectors[:5], 10)
    path = next(folder.glob(f"{kind}-*-0.npy"))
    if damage == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    gallery = open_gallery(folder)
    after = gallery.nearest(vectors[:5], 10)
    np.testing.assert_array_equal(before[1], after[1])
    assert path.name in gallery.notes[0]
    assert "was rebuilt in memory" in gallery.notes[0]


def test_an_index_of_a_stranger_is_checked_before_it_is_used(large):
    """The digests are renewed, as a stranger would do."""
    folder, vectors, _ = large
    manifest = folder / "gallery.json"
    values = json.loads(manifest.read_text())
    path = next(folder.glob("codebook-*-0.npy"))
    np.save(path, np.full(np.load(path).shape, np.nan, np.float32))
    values["indexes"]["tracklet"]["codebook"]["sha256"] = digest_of(path)
    manifest.write_text(json.dumps(values))
    gallery = open_gallery(folder)
    gallery.search(vectors[:1])
    assert "too large or NaN" in gallery.notes[0]
    values["indexes"]["tracklet"]["codes"]["rows"] = 5
    manifest.write_text(json.dumps(values))
    gallery = open_gallery(folder)
    gallery.search(vectors[:1])
    assert "belongs to other vectors" in gallery.notes[0]
    path = next(folder.glob("vectors-*"))
    np.save(path, np.full((4000, 31), np.nan, np.float32))
    values["vectors"][0]["sha256"] = digest_of(path)
    manifest.write_text(json.dumps(values))
    with pytest.raises(DamagedGalleryError, match=r"/g is damaged: a stored vector contains NaN"):
        open_gallery(folder).search(vectors[:1])
    with pytest.raises(DamagedGalleryError, match=r"/g is damaged: a stored vector contains NaN"):
        delete(folder, names=["t00000"])


def test_a_gallery_that_is_open_keeps_its_index_when_another_process_changes_it(large):
    folder, vectors, _ = large
    gallery = open_gallery(folder)
    before = open_gallery(folder).nearest(vectors[:5], 10)
    delete(folder, names=["t00000"])
    after = gallery.nearest(vectors[:5], 10)
    assert gallery.notes == []
    np.testing.assert_array_equal(before[1], after[1])
