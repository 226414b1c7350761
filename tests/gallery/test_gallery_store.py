"""Building, adding, deleting and searching, against plain inner products."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

np = pytest.importorskip("numpy", reason="pip install 'torch-nonlocal[reid]'")
pytest.importorskip("pyarrow", reason="pip install 'torch-nonlocal[reid]'")

from galleries import MODEL, OTHER, embed_from, entries, identities  # noqa: E402 (after the skips)

from torch_nonlocal._common.locks import FolderInUseError, locked  # noqa: E402
from torch_nonlocal.gallery import (  # noqa: E402
    DamagedGalleryError,
    Entry,
    OtherModelError,
    add,
    build,
    delete,
    open_gallery,
    recalibrate,
)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def small(tmp_path):
    """A gallery of 40 identities with 5 tracklets each; its folder, vectors and numbers of identities."""
    vectors, numbers = identities(40, 5)
    build(tmp_path / "g", entries(numbers), embed_from(vectors), MODEL)
    return tmp_path / "g", vectors, numbers


def content(folder):
    """Vectors and rows of a gallery."""
    gallery = open_gallery(folder)
    every = np.arange(len(gallery))
    return gallery.vectors.take(every), [gallery.rows.entry(row) for row in every]


def test_tracklets_are_ranked_by_cosine_similarity(small):
    folder, vectors, numbers = small
    queries, _ = identities(7, 1, seed=3)
    answers = open_gallery(folder).search(queries, 10)
    similarities = unit(queries) @ unit(vectors).T
    for answer, row in zip(answers, similarities, strict=True):
        order = np.argsort(-row)[:10]
        assert [match.entry.name for match in answer.matches] == [f"t{place:05d}" for place in order]
        assert [match.identity for match in answer.matches] == [f"person {numbers[place]}" for place in order]
        np.testing.assert_allclose([match.similarity for match in answer.matches], row[order], atol=1e-5)


def test_a_person_is_the_normalized_mean_of_its_normalized_vectors(small):
    folder, vectors, numbers = small
    names = sorted({f"person {number}" for number in numbers})
    means = unit(np.stack([unit(vectors)[[f"person {n}" == name for n in numbers]].mean(0) for name in names]))
    query = vectors[17:18]
    answer = open_gallery(folder).search(query, 40, by="person")[0]
    expected = (unit(query) @ means.T)[0]
    assert [match.identity for match in answer.matches] == [names[place] for place in np.argsort(-expected)]
    np.testing.assert_allclose([match.similarity for match in answer.matches], np.sort(expected)[::-1], atol=1e-5)
    assert all(match.entry.identity == match.identity for match in answer.matches)


def test_equal_similarities_are_ranked_by_row(tmp_path):
    vectors = np.array([[0, 1], [1, 0], [2, 0], [3, 0]], np.float32)
    gallery = build(tmp_path / "g", entries([0, 1, 2, 3]), embed_from(vectors), MODEL)
    similarities, rows = gallery.nearest(np.array([[1.0, 0]]), 9)
    assert rows.tolist() == [[1, 2, 3, 0]]
    assert similarities.tolist() == [[1, 1, 1, 0]]


def test_added_tracklets_are_found_and_thresholds_are_calibrated_again(small):
    folder, vectors, _ = small
    more, more_numbers = identities(10, 3, seed=5)
    gallery = add(folder, entries(more_numbers + 100, prefix="new"), embed_from(more), MODEL)
    assert len(gallery) == 230
    assert gallery.search(more[4:5], 1)[0].matches[0].entry.name == "new00004"
    assert gallery.search(vectors[9:10], 1)[0].matches[0].entry.name == "t00009"
    assert (gallery.thresholds["tracklet"].samples, gallery.thresholds["tracklet"].identities) == (230, 50)


def test_small_additions_share_a_file(small):
    folder, _, _ = small
    for number in range(5):
        vectors, numbers = identities(1, 2, seed=number)
        add(folder, entries(numbers + number, prefix=f"n{number}-"), embed_from(vectors), MODEL)
    kinds = sorted(path.name.partition("-")[0] for path in folder.iterdir())
    assert kinds == ["gallery.json", "persons", "tracklets", "vectors"]


def test_deleted_tracklets_are_in_no_file(small):
    folder, vectors, _ = small
    deleted = delete(folder, names=["t00000", "t00199"], identities=["person 3"])
    assert [one.name for one in deleted] == ["t00000", *(f"t{place:05d}" for place in range(15, 20)), "t00199"]
    left = np.setdiff1d(np.arange(200), [0, 15, 16, 17, 18, 19, 199])
    found, rows = content(folder)
    assert [one.name for one in rows] == [f"t{place:05d}" for place in left]
    np.testing.assert_allclose(found, unit(vectors)[left], atol=1e-6)
    stored = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"t00015" not in stored
    assert b"person 3\x00" not in stored
    assert unit(vectors)[17].astype(np.float32).tobytes() not in stored


def test_deleting_everything_leaves_an_empty_gallery_that_can_be_added_to(small):
    folder, vectors, numbers = small
    delete(folder, identities=[f"person {number}" for number in range(40)])
    with pytest.raises(ValueError, match="is empty"):
        open_gallery(folder)
    assert len(add(folder, entries(numbers[:10]), embed_from(vectors), MODEL)) == 10


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"names": ["t00007", "t00007x"]}, r"no tracklet 't00007x'; did you mean 't00007'\?"),
        ({"identities": ["persn 3"]}, r"no identity 'persn 3'; did you mean 'person 3"),
        ({}, "nothing to delete"),
    ],
)
def test_unknown_names_delete_nothing(small, what, message):
    before = open_gallery(small[0]).manifest
    with pytest.raises(ValueError, match=message):
        delete(small[0], **what)
    assert open_gallery(small[0]).manifest == before


def test_a_build_that_is_repeated_embeds_only_new_tracklets(small):
    folder = small[0]
    asked = []
    more, _ = identities(41, 5)
    lines = []
    build(
        folder,
        entries(np.repeat(np.arange(41), 5)),
        lambda chosen: (asked.extend(chosen), (more[list(chosen)], chosen))[1],
        MODEL,
        log=lines.append,
    )
    assert asked == list(range(200, 205))
    assert lines[0] == f"200 tracklets of 205 already in {folder}"


def test_what_was_deleted_does_not_come_back_when_the_build_is_repeated_but_when_it_is_added(small):
    folder, vectors, numbers = small
    stored, lines = entries(numbers), []
    delete(folder, names=[stored[7].name])
    delete(folder, identities=[stored[20].identity])  # 5 tracklets
    assert stored[20].identity not in (folder / "gallery.json").read_text()
    assert len(build(folder, stored, embed_from(vectors), MODEL, log=lines.append)) == 194
    assert "6 tracklets not stored again, since deleted; `nonlocal gallery add` stores them" in lines
    other = [replace(stored[20], name="another tracklet of a deleted person")]
    assert len(build(folder, [*stored, *other], embed_from(vectors[[*range(200), 20]]), MODEL)) == 194
    assert len(add(folder, [stored[21]], embed_from(vectors[[21]]), MODEL)) == 195
    lines.clear()
    assert (
        len(build(folder, stored, embed_from(vectors), MODEL, log=lines.append)) == 195
    )  # only what was added is back
    assert "5 tracklets not stored again, since deleted; `nonlocal gallery add` stores them" in lines


def test_a_build_with_nothing_new_changes_nothing(small):
    folder, vectors, numbers = small
    before = open_gallery(folder).manifest
    build(folder, entries(numbers), embed_from(vectors), MODEL)
    assert open_gallery(folder).manifest == before


KILLED = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[3])
    from galleries import MODEL, embed_from, entries, identities
    import torch_nonlocal._common.files as files
    from torch_nonlocal.gallery import add, build

    folder, fatal = Path(sys.argv[1]), int(sys.argv[2])
    vectors, numbers = identities(40, 5)
    steps = 0
    rename = Path.replace

    def step(self, target):
        global steps
        steps += 1
        if steps == fatal:
            os.kill(os.getpid(), signal.SIGKILL)  # before the rename
        rename(self, target)
        if steps == -fatal:
            os.kill(os.getpid(), signal.SIGKILL)  # after it

    Path.replace = step
    build(folder, entries(numbers[:120]), embed_from(vectors), MODEL, chunk=25, save_seconds=0)
    add(folder, entries(numbers)[120:], embed_from(vectors[120:]), MODEL, chunk=25, save_seconds=0)
    print(steps)
""")


def test_a_killed_build_or_add_resumes_without_loss_or_repetition(tmp_path):
    """A process is killed before or after each third rename, and the same commands run again."""
    here = os.path.dirname(__file__)

    def run(folder, fatal):
        command = [sys.executable, "-c", KILLED, str(folder), str(fatal), here]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    whole = run(tmp_path / "whole", 10**6)
    assert whole.returncode == 0, whole.stderr
    vectors, rows = content(tmp_path / "whole")
    assert [one.name for one in rows] == [f"t{place:05d}" for place in range(200)]
    for fatal in (2, -3, 6, -int(whole.stdout)):
        folder = tmp_path / f"killed {fatal}"
        assert run(folder, fatal).returncode == -signal.SIGKILL
        if fatal == -int(whole.stdout):
            np.testing.assert_array_equal(content(folder)[0], vectors)
            continue
        done = run(folder, 10**6)
        assert done.returncode == 0, done.stderr
        found = content(folder)
        np.testing.assert_array_equal(found[0], vectors)
        assert found[1] == rows
        assert open_gallery(folder).thresholds == open_gallery(tmp_path / "whole").thresholds
        assert not [path for path in folder.iterdir() if ".part" in path.name]


def failing_after(vectors, most):
    """A network that fails after a number of tracklets."""

    def embed(chosen):
        if max(chosen) >= most:
            raise RuntimeError("the network fails")
        return vectors[list(chosen)], chosen

    return embed


def test_an_interrupted_add_leaves_the_gallery_searchable_and_resumes(small):
    folder = small[0]
    more, more_numbers = identities(10, 10, seed=5)
    new = entries(more_numbers + 100, prefix="new")
    with pytest.raises(RuntimeError, match="the network fails"):
        add(folder, new, failing_after(more, 60), MODEL, chunk=20, save_seconds=0)
    gallery = open_gallery(folder)
    assert len(gallery) == 200
    assert gallery.notes == ["60 tracklets of an interrupted or running add are left out"]
    assert gallery.search(more[:1], 200)[0].matches[-1].entry.name[0] == "t"
    assert len(gallery.search(more[:1], 100, by="person")[0].matches) == 40
    asked = []
    add(folder, new, lambda chosen: (asked.extend(chosen), (more[list(chosen)], chosen))[1], MODEL)
    assert asked == list(range(60, 100))
    assert len(open_gallery(folder)) == 300


def test_tracklets_that_cannot_be_read_are_left_out(tmp_path):
    vectors, numbers = identities(20, 5)
    broken = {0, 7, 8, 9, 99}

    def embed(chosen):
        kept = [place for place in chosen if place not in broken]
        return vectors[kept], kept

    gallery = build(tmp_path / "g", entries(numbers), embed, MODEL, chunk=3)
    assert gallery.rows.names == [f"t{place:05d}" for place in range(100) if place not in broken]
    assert gallery.search(vectors[10:11], 1)[0].matches[0].entry.name == "t00010"
    broken.update(range(100))
    with pytest.raises(ValueError, match="no tracklet can be read"):
        build(tmp_path / "none", entries(numbers), embed, MODEL)
    assert not (tmp_path / "none").exists()


def test_folders_may_be_given_as_text(tmp_path):
    vectors, numbers = identities(20, 5)
    folder = str(tmp_path / "g")
    build(folder, entries(numbers), embed_from(vectors), MODEL)
    add(folder, entries(numbers[:2], prefix="new"), embed_from(vectors), MODEL)
    delete(folder, names=["new00001"])
    assert recalibrate(folder, 0.1).folder == tmp_path / "g"
    assert len(open_gallery(folder)) == 101


def test_entries_are_stored_as_they_are(tmp_path):
    stored = [
        Entry("a", "anna", "1", "/data", "x/y", "0001.jpg"),
        Entry("b", "bo\udcff", "", "/data", "b.mp4", frame=7, box=(-1, 2, 3, 4)),
        Entry("c", "c", "2", "/other", "c.mp4", frame=0),
        Entry("d", "日本", "2"),
    ]
    gallery = build(tmp_path / "g", stored, embed_from(identities(4, 1)[0]), MODEL)
    expected = [stored[0], replace(stored[1], identity="bo\\udcff"), *stored[2:]]
    assert [gallery.rows.entry(row) for row in range(4)] == expected
    assert gallery.identities == ("anna", "bo\\udcff", "c", "日本")


def test_an_interrupted_build_is_not_searched(tmp_path):
    vectors, numbers = identities(20, 5)
    with pytest.raises(RuntimeError, match="the network fails"):
        build(tmp_path / "g", entries(numbers), failing_after(vectors, 60), MODEL, chunk=20, save_seconds=0)
    with pytest.raises(ValueError, match="holds 60 tracklets of an interrupted or running build; rerun"):
        open_gallery(tmp_path / "g")


def test_a_failure_before_the_first_save_leaves_no_folder(tmp_path):
    vectors, numbers = identities(20, 5)
    with pytest.raises(RuntimeError, match="the network fails"):
        build(tmp_path / "g", entries(numbers), failing_after(vectors, 0), MODEL)
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "vector of tracklet 't00207' contains NaN or infinite values"),
        (np.inf, "vector of tracklet 't00207' contains NaN or infinite values"),
        (0.0, "vector of tracklet 't00207' is zero"),
    ],
)
def test_vectors_without_a_direction_are_named_and_nothing_is_added(small, value, message):
    folder = small[0]
    more, _ = identities(42, 5)
    more[207] = value
    before = open_gallery(folder).manifest
    with pytest.raises(ValueError, match=message):
        build(folder, entries(np.repeat(np.arange(42), 5)), embed_from(more), MODEL)
    with pytest.raises(ValueError, match=message.replace("tracklet 't00207'", "query 0")):
        open_gallery(folder).search(more[207:208])
    assert open_gallery(folder).manifest == before


def test_very_large_and_small_values_keep_their_direction(tmp_path):
    vectors = np.array([[3e38, 3e38], [1e-40, 0], [0, -1e30]], np.float32)
    gallery = build(tmp_path / "g", entries([0, 1, 2]), embed_from(vectors), MODEL)
    expected = [[0.5**0.5, 0.5**0.5], [1, 0], [0, -1]]
    np.testing.assert_allclose(gallery.vectors.take(np.arange(3)), expected, atol=1e-6)


def test_vectors_of_another_dimension_or_network_are_refused(small):
    folder, vectors, numbers = small
    with pytest.raises(ValueError, match="vectors of dimension 16, but the gallery has dimension 32"):
        open_gallery(folder).search(vectors[:1, :16])
    with pytest.raises(ValueError, match="vectors of dimension 16, but the gallery has dimension 32"):
        add(folder, entries([0], prefix="new"), embed_from(vectors[:1, :16]), MODEL)
    both = r"built with a test network \(digest 0123456789ab\), not with another test network \(digest fedcba987654\)"
    for refused in (
        lambda: add(folder, entries([0], prefix="new"), embed_from(vectors), OTHER),
        lambda: build(folder, entries(numbers), embed_from(vectors), OTHER),
        lambda: open_gallery(folder).search(vectors[:1], model=OTHER),
    ):
        with pytest.raises(OtherModelError, match=both):
            refused()


def test_vectors_of_thousands_of_dimensions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="vectors of dimension 8,193: expected at most 8,192"):
        build(tmp_path / "g", entries([0]), embed_from(np.ones((1, 8193))), MODEL)


def test_names_are_unique_and_keep_their_identity(small):
    folder, vectors, _ = small
    with pytest.raises(ValueError, match=r"1 name of tracklets given twice: t00001"):
        build(folder, [*entries([0, 1]), entries([0, 1])[1]], embed_from(vectors), MODEL)
    with pytest.raises(ValueError, match=r"already has 2 tracklets: t00000, t00001"):
        add(folder, entries([0, 0]), embed_from(vectors), MODEL)
    with pytest.raises(ValueError, match=r"tracklet 't00000' is 'person 0' in the gallery, now 'person 9'"):
        build(folder, entries([9]), embed_from(vectors), MODEL)


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_k_is_at_least_one(small, k):
    with pytest.raises(ValueError, match=f"k is {k}: expected 1 or more"):
        open_gallery(small[0]).search(small[1][:1], k)


def test_more_matches_than_tracklets_gives_all(small):
    assert len(open_gallery(small[0]).search(small[1][:1], 1000)[0].matches) == 200


def test_a_gallery_in_use_is_named(small):
    folder, vectors, numbers = small
    with locked(folder / ".lock", "nonlocal gallery command"):
        with pytest.raises(FolderInUseError, match=r"in use by another gallery command: process \d+"):
            delete(folder, names=["t00001"])
        with pytest.raises(FolderInUseError):
            build(folder, entries(numbers), embed_from(vectors), MODEL)
        assert len(open_gallery(folder)) == 200  # searches go on


def test_folders_that_hold_no_gallery(tmp_path):
    vectors, numbers = identities(4, 2)
    (tmp_path / "gallery").mkdir()
    with pytest.raises(ValueError, match=r"no gallery in .*galery: it does not exist; did you mean '.*gallery'\?"):
        open_gallery(tmp_path / "galery")
    with pytest.raises(ValueError, match=r"it has no gallery\.json"):
        add(tmp_path, entries(numbers), embed_from(vectors), MODEL)
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ValueError, match=r"holds other files, such as '(photo.jpg|gallery)'; expected a new or empty"):
        build(tmp_path, entries(numbers), embed_from(vectors), MODEL)
    with pytest.raises(ValueError, match="no tracklets"):
        build(tmp_path / "new", [], embed_from(vectors), MODEL)
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_the_gallery_as_it_was(small, monkeypatch):
    folder = small[0]
    before = content(folder)
    more, more_numbers = identities(1, 3, seed=9)

    def full(file, array, **_):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="could not be written: the disk is full"):
        add(folder, entries(more_numbers, prefix="new"), embed_from(more), MODEL)
    monkeypatch.undo()
    after = content(folder)
    np.testing.assert_array_equal(before[0], after[0])
    assert before[1] == after[1]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_disk_that_fills_up_within_an_array_is_named(tmp_path):
    """A limit of the size of files stands for a full disk; NumPy only says how much it wrote."""
    resource = pytest.importorskip("resource")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(OSError, match=r"vectors-000001-0.npy could not be written: .*File too large") as raised:
            build(tmp_path / "g", entries(range(100)), embed_from(np.ones((100, 100))), MODEL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert raised.value.errno == errno.EFBIG
    assert not (tmp_path / "g").exists()


def changed(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(version=2), r"version 2 of the format, this program reads 1"),
        (lambda v: v.update(format="other"), "expected the format"),
        (lambda v: v.pop("model"), "'model' is missing"),
        (lambda v: v.update(dimension=10**9), "dimension is 1000000000"),
        (lambda v: v["vectors"][0].update(file="../secret.npy"), r"unexpected name of a file: '\.\./secret\.npy'"),
        (lambda v: v["vectors"].append(v["vectors"][0]), "it names a file twice"),
        (lambda v: v["vectors"][0].update(rows=10**12), "claims an array of shape"),
        (lambda v: v["indexes"]["person"].update(kind="pickle"), "unknown kind of index 'pickle'"),
        (lambda v: v["thresholds"]["person"].update(similarity=float("nan")), "similarity is nan"),
    ],
)
def test_a_changed_gallery_json_is_refused_by_name(small, change, message):
    changed(small[0] / "gallery.json", change)
    with pytest.raises(DamagedGalleryError, match=message):
        open_gallery(small[0])


@pytest.mark.parametrize("kind", ["vectors", "tracklets", "persons"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_missing_and_damaged_files_are_named(small, kind, damage):
    path = next(small[0].glob(f"{kind}-*"))
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data[: -len(data) // 3] if damage == "cut" else data)
    with pytest.raises(DamagedGalleryError, match=f"{path.name} is (missing|damaged)"):
        open_gallery(small[0])


def test_arrays_and_tables_are_never_larger_than_their_files(small):
    """The digests are renewed, as a stranger would do."""
    import pyarrow
    from pyarrow import parquet

    from torch_nonlocal.gallery.parts import digest_of

    folder = small[0]
    vectors, table = next(folder.glob("vectors-*")), next(folder.glob("tracklets-*"))
    good = table.read_bytes(), vectors.read_bytes(), (folder / "gallery.json").read_text()

    def refused(message):
        def renew(values):
            values["vectors"][0]["sha256"] = digest_of(vectors)
            values["table"]["sha256"] = digest_of(table)

        changed(folder / "gallery.json", renew)
        with pytest.raises(DamagedGalleryError, match=message):
            open_gallery(folder)

    vectors.write_bytes(good[1].replace(b"(200, 32)", b"(999, 32)"))
    refused(r"claims an array of shape \(999, 32\)")
    vectors.write_bytes(good[1][:-4])
    refused("bytes, expected")
    np.save(vectors, np.array([{"a": 1}], dtype=object))
    refused("type object")
    vectors.write_bytes(good[1])
    rows = parquet.read_table(table)
    for options, message in (
        ({"compression": "zstd"}, "ZSTD"),
        ({"compression": "none", "use_dictionary": False, "column_encoding": {"name": "DELTA_BYTE_ARRAY"}}, "DELTA"),
    ):
        parquet.write_table(rows, table, **options)
        refused(message)
    parquet.write_table(rows.slice(1), table, compression="none")
    refused("it has 199 rows, gallery.json expects 200")
    parquet.write_table(rows.drop_columns(["camera"]), table, compression="none")
    refused("expected row, name, identity, camera")
    parquet.write_table(rows.set_column(1, "name", pyarrow.nulls(200, pyarrow.string())), table, compression="none")
    refused("a text is missing")
    table.write_bytes(b"PAR1" + b"\0" * 100)
    refused("is damaged")


def test_rows_are_numbered_in_the_parquet_file(small):
    from pyarrow import parquet

    table = parquet.read_table(next(small[0].glob("tracklets-*")))
    assert table["row"].to_pylist() == list(range(200))
    assert table["camera"].to_pylist()[:4] == ["camera 0", "camera 1", "camera 2", "camera 0"]


def test_the_rate_can_be_changed_without_embedding(small):
    folder = small[0]
    low, high = (recalibrate(folder, rate).thresholds["tracklet"] for rate in (0.02, 0.2))
    assert low.similarity > high.similarity
    assert open_gallery(folder).manifest.rate == 0.2
    with pytest.raises(ValueError, match="false-accept rate 1"):
        recalibrate(folder, 1.0)
