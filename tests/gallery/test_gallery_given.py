"""What galleries are given: names, numbers and results of networks that are odd or wrong."""

from dataclasses import replace

import pytest

np = pytest.importorskip("numpy", reason="pip install 'torch-nonlocal[reid]'")
pytest.importorskip("pyarrow", reason="pip install 'torch-nonlocal[reid]'")

from galleries import MODEL, embed_from, entries, identities  # noqa: E402 (after the skips)

from torch_nonlocal.gallery import EmbeddingModel, Entry, build, delete, open_gallery, recalibrate  # noqa: E402


@pytest.fixture
def small(tmp_path):
    """A gallery of 4 identities with 3 tracklets each; its folder and vectors."""
    vectors, numbers = identities(4, 3, 8)
    build(tmp_path / "g", entries(numbers), embed_from(vectors), MODEL)
    return tmp_path / "g", vectors


@pytest.mark.parametrize("odd", ["a\udcff", "\ud800", "a\nb", "../../up", "日本", "é", "=1+1", "-", "\x1b[31m", "\0"])
def test_a_repeated_build_recognizes_names_of_any_text_and_so_does_delete(tmp_path, odd):
    stored = [Entry(odd, f"person {odd}", odd), Entry("b", "other", "")]
    embed = embed_from(identities(2, 1, 8)[0])
    for _ in range(2):
        assert len(build(tmp_path / "g", stored, embed, MODEL)) == 2
    assert [one.name for one in delete(tmp_path / "g", names=[odd])] == [
        odd.encode("utf-8", "backslashreplace").decode()
    ]
    assert build(tmp_path / "g", stored, embed, MODEL).rows.names == ["b"]
    assert not [path for path in tmp_path.iterdir() if path.name != "g"]


def test_names_that_are_stored_alike_are_given_twice(tmp_path):
    with pytest.raises(ValueError, match="1 name of tracklets given twice"):
        build(tmp_path / "g", [Entry("a\udcff", "p", ""), Entry(r"a\udcff", "p", "")], embed_from(np.eye(2)), MODEL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": 3}, "name of tracklet 3 is 3: expected a string"),
        ({"identity": 3}, "identity of tracklet 'a' is 3: expected a string"),
        ({"camera": None}, "camera of tracklet 'a' is None: expected a string"),
        ({"frame": 1.5}, "frame of tracklet 'a' is 1.5: expected an integer"),
        ({"frame": 2**31}, "frame of tracklet 'a' is 2147483648: expected an integer of 32 bits"),
        ({"box": (0, 0, 2.5, 1)}, "box of tracklet 'a' is .*: expected 4 integers"),
        ({"box": (0, 0, 1)}, "box of tracklet 'a' is .*: expected 4 integers"),
    ],
)
def test_wrong_types_are_named_before_anything_is_embedded(tmp_path, wrong, message):
    with pytest.raises(TypeError, match=message):
        build(tmp_path / "g", [replace(Entry("a", "p", "1"), **wrong)], None, MODEL)  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (lambda chosen: range(len(chosen)), "positions 0, 1, 2, 3, 4, but was asked for 5 to 9: expected positions in"),
        (lambda chosen: [place + 100 for place in chosen], "positions 100, .*, but was asked for 0 to 4"),
        (lambda chosen: [chosen[0]] * len(chosen), "two vectors of one tracklet"),
        (lambda chosen: chosen[:-1], "gave 5 vectors of 4 tracklets"),
    ],
)
def test_a_network_returns_positions_that_it_was_asked_for_each_once(tmp_path, positions, message):
    vectors, numbers = identities(4, 3, 8)
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "g", entries(numbers), lambda at: (vectors[list(at)], positions(at)), MODEL, chunk=5)


def test_networks_are_recorded_as_texts():
    with pytest.raises(TypeError, match="digest of a network is None: expected a string"):
        EmbeddingModel(None, "a network")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("chunk", [0, -1])
def test_chunks_have_at_least_one_tracklet(tmp_path, chunk):
    with pytest.raises(ValueError, match=f"chunk is {chunk}: expected 1 or more"):
        build(tmp_path / "g", entries([0]), embed_from(np.eye(1)), MODEL, chunk=chunk)


@pytest.mark.parametrize("rate", [0, 1, -0.1, float("nan"), "0.1", None])
def test_rates_lie_between_0_and_1(small, rate):
    with pytest.raises(ValueError, match=r"false-accept rate .*: expected a number between 0 and 1"):
        recalibrate(small[0], rate)


def test_a_new_rate_removes_what_a_killed_process_left_behind(small):
    for name in (".gallery.19217-458a451c.part.json", "vectors-000009-0.npy", ".vectors-000009-0.1-ab.part.npy"):
        (small[0] / name).touch()
    (small[0] / "notes.txt").touch()
    recalibrate(small[0], 0.5)
    kinds = {path.name.partition("-")[0] for path in small[0].iterdir()}
    assert kinds == {"gallery.json", "notes.txt", "persons", "tracklets", "vectors"}
    assert len([path for path in small[0].iterdir() if path.name.startswith("vectors")]) == 1


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_new_rate_repairs_vectors_of_persons(small, damage):
    folder, vectors = small
    before = open_gallery(folder).nearest(vectors[:3], 4, by="person")
    path = next(folder.glob("persons-*"))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-8])
    recalibrate(folder, 0.5)
    np.testing.assert_array_equal(open_gallery(folder).nearest(vectors[:3], 4, by="person"), before)


def test_numbers_of_numpy_are_accepted(small):
    folder, vectors = small
    assert recalibrate(folder, np.float32(0.5)).thresholds["tracklet"].rate == 0.5
    assert len(open_gallery(folder).search(vectors[:1], np.int64(3))[0].matches) == 3


@pytest.mark.parametrize("given", [{"names": "t00001"}, {"identities": "person 1"}, {"identities": [1]}])
def test_a_text_or_number_instead_of_a_list_of_names_deletes_nothing(small, given):
    with pytest.raises(TypeError, match="expected a list of strings"):
        delete(small[0], **given)
    assert len(open_gallery(small[0])) == 12


@pytest.mark.parametrize("dtype", ["f2", "f8", "i1", "u8"])
def test_vectors_of_any_real_type_and_mapped_ones_are_stored_and_searched(tmp_path, dtype):
    vectors = (identities(4, 3, 8)[0] * 20 + 128).clip(0, 255).round().astype(np.uint8).clip(0, 127).astype(dtype)
    np.save(tmp_path / "v.npy", vectors)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    gallery = build(tmp_path / "g", entries(range(12)), embed_from(mapped), MODEL)
    values, rows = gallery.nearest(mapped, 1)
    assert rows[:, 0].tolist() == list(range(12))
    np.testing.assert_allclose(values[:, 0], 1, atol=1e-6)


def test_an_empty_gallery_is_named_by_a_search(small):
    folder, vectors = small
    delete(folder, identities=[f"person {number}" for number in range(4)])
    emptied = build(folder, entries(np.repeat(range(4), 3)), embed_from(vectors), MODEL)
    assert len(emptied) == 0
    with pytest.raises(ValueError, match="is empty; `nonlocal gallery add` adds tracklets"):
        emptied.search(vectors[:1])


def test_gallery_json_does_not_grow_with_deletions(small):
    """Its size is limited: a gallery of which half a million tracklets were deleted could not be opened."""
    folder, vectors = small
    delete(folder, names=["t00000"])
    size = (folder / "gallery.json").stat().st_size
    delete(folder, names=[f"t{place:05d}" for place in (1, 3, 4, 6, 7, 9, 10)])
    assert abs((folder / "gallery.json").stat().st_size - size) < 60
    stored = entries(np.repeat(range(4), 3))
    assert build(folder, stored, embed_from(vectors), MODEL).rows.names == ["t00002", "t00005", "t00008", "t00011"]
    delete(folder, names=["t00005"])
    assert build(folder, stored, embed_from(vectors), MODEL).rows.names == ["t00002", "t00008", "t00011"]
