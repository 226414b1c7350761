"""Other commands on a gallery whose build or add was interrupted."""

import pytest

np = pytest.importorskip("numpy", reason="pip install 'torch-nonlocal[reid]'")
pytest.importorskip("pyarrow", reason="pip install 'torch-nonlocal[reid]'")

from galleries import MODEL, embed_from, entries, identities  # noqa: E402 (after the skips)

from torch_nonlocal.gallery import add, build, delete, open_gallery  # noqa: E402

VECTORS, NUMBERS = identities(4, 3, 8)
MORE, MORE_NUMBERS = identities(5, 4, 8, seed=3)
NEW = entries(MORE_NUMBERS + 100, prefix="new")


def interrupted(write, folder, stored, vectors):
    """A build or add whose network fails after 8 tracklets."""

    def embed(chosen):
        if max(chosen) >= 8:
            raise RuntimeError("the network fails")
        return vectors[list(chosen)], chosen

    with pytest.raises(RuntimeError, match="the network fails"):
        write(folder, stored, embed, MODEL, chunk=4, save_seconds=0)


@pytest.fixture
def added(tmp_path):
    """A gallery of 12 tracklets, and 8 of 20 of an interrupted add."""
    build(tmp_path / "g", entries(NUMBERS), embed_from(VECTORS), MODEL)
    interrupted(add, tmp_path / "g", NEW, MORE)
    return tmp_path / "g"


def test_a_delete_leaves_an_interrupted_add_unfinished_and_it_resumes(added):
    delete(added, names=["t00002", "new00001"], identities=["person 3"])
    gallery = open_gallery(added)
    assert gallery.rows.names == [f"t{place:05d}" for place in (0, 1, 3, 4, 5, 6, 7, 8)]
    assert gallery.notes == ["7 tracklets of an interrupted or running add are left out"]
    assert gallery.identities == ("person 0", "person 1", "person 2")
    assert gallery.thresholds["tracklet"].samples == 8
    assert gallery.search(VECTORS[4:5], 9, by="person")[0].matches[0].identity == "person 1"
    asked = []
    add(added, NEW, lambda chosen: (asked.extend(chosen), (MORE[list(chosen)], chosen))[1], MODEL)
    assert asked == [1, *range(8, 20)]
    assert len(open_gallery(added)) == 8 + 20


def test_deleting_what_an_interrupted_add_stored_ends_it(added):
    delete(added, names=[one.name for one in NEW[:8]])
    gallery = open_gallery(added)
    assert (len(gallery), gallery.notes, gallery.manifest.unfinished) == (12, [], None)
    assert len(add(added, NEW[8:], embed_from(MORE), MODEL)) == 24


def test_deleting_everything_but_an_interrupted_add_leaves_it_unfinished(added):
    delete(added, identities=[f"person {number}" for number in range(4)])
    with pytest.raises(ValueError, match="holds 8 tracklets of an interrupted or running add; rerun that command"):
        open_gallery(added)
    assert len(add(added, NEW, embed_from(MORE), MODEL)) == 20


def test_a_delete_leaves_an_interrupted_build_unfinished(tmp_path):
    interrupted(build, tmp_path / "g", NEW, MORE)
    delete(tmp_path / "g", names=["new00001"])
    with pytest.raises(ValueError, match="holds 7 tracklets of an interrupted or running build"):
        open_gallery(tmp_path / "g")
    assert build(tmp_path / "g", NEW, embed_from(MORE), MODEL).rows.names == [
        one.name for one in NEW if one.name != "new00001"
    ]


@pytest.mark.parametrize("write", [add, build])
def test_another_command_does_not_finish_an_interrupted_add(added, write):
    others = entries([0, 1], prefix="other")
    with pytest.raises(ValueError, match="has 8 tracklets of an interrupted add, such as new00000; rerun that command"):
        write(added, others, embed_from(VECTORS), MODEL)
    assert len(add(added, NEW, embed_from(MORE), MODEL)) == 32
    assert len(add(added, others, embed_from(VECTORS), MODEL)) == 34


def test_a_build_with_nothing_new_leaves_an_interrupted_add_as_it_is(added):
    before = open_gallery(added).manifest
    assert len(build(added, entries(NUMBERS), embed_from(VECTORS), MODEL)) == 12
    assert open_gallery(added).manifest == before


def test_an_add_does_not_finish_an_interrupted_build(tmp_path):
    interrupted(build, tmp_path / "g", NEW, MORE)
    with pytest.raises(ValueError, match="has 8 tracklets of an interrupted build"):
        add(tmp_path / "g", entries([0]), embed_from(VECTORS), MODEL)
    assert len(build(tmp_path / "g", NEW, embed_from(MORE), MODEL)) == 20
