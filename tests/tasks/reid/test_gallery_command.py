"""`nonlocal gallery` with a network whose embedding is the mean color of a tracklet."""

import json
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
for package in ("faiss", "matplotlib", "numpy", "PIL", "pyarrow", "rich", "tyro"):
    pytest.importorskip(package, reason="pip install 'torch-nonlocal[reid]'")

import math  # noqa: E402 (after the skips)

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from torch_nonlocal.cli.entry import main  # noqa: E402
from torch_nonlocal.gallery import EmbeddingModel, Entry, build, open_gallery  # noqa: E402
from torch_nonlocal.media import write_mp4  # noqa: E402
from torch_nonlocal.media.broken import BrokenVideoError  # noqa: E402
from torch_nonlocal.tasks.reid import trained  # noqa: E402
from torch_nonlocal.tasks.reid.evaluation import NoTrackletsError  # noqa: E402
from torch_nonlocal.tasks.reid.gallery import frame_of  # noqa: E402


class ColorEmbedder:
    """Embeds tracklets as the difference of their mean color from gray."""

    def __init__(self, digest="a" * 32):
        self.digest = digest
        self.settings = SimpleNamespace(network="colors", size=(8, 4), height=8, width=4, split=1)

    def to(self, device):
        return self

    def embed_source(self, source, indices, *, broken, **_):
        kept, vectors = [], []
        for place, index in enumerate(indices):
            try:
                frames = source.read(index, range(source.tracklets[index].length))
            except BrokenVideoError as error:
                broken.add(source.tracklets[index].name, error)
            else:
                kept.append(place)
                vectors.append(frames.float().mean((1, 2, 3)) - 128)
        if not kept:
            raise NoTrackletsError("none of them")
        return SimpleNamespace(vectors=torch.stack(vectors), kept=kept)


def color(degrees, blue=128):
    """Red and green around gray, at an angle."""
    angle = math.radians(degrees)
    return round(128 + 100 * math.cos(angle)), round(128 + 100 * math.sin(angle)), blue


def tracklet(folder, rgb, frames=3):
    """A folder of frames of one color."""
    folder.mkdir(parents=True)
    for number in range(frames):
        Image.new("RGB", (4, 8), rgb).save(folder / f"{number:04d}.png")
    return folder


@pytest.fixture
def colors(tmp_path, monkeypatch):
    """A table of 12 persons, 30 degrees of color apart, with 2 tracklets each, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trained, "load_embedder", lambda path, network="": ColorEmbedder(path.stem))
    rows = ["tracklet,identity,camera,frames"]
    for person in range(12):
        for camera in (1, 2):
            tracklet(tmp_path / "set" / f"{person}-{camera}", color(30 * person + camera))
            rows.append(f"t{person}-{camera},person {person},{camera},{person}-{camera}")
    (tmp_path / "set" / "set.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def run(*words, capsys, code=0):
    """Run a command; what it prints."""
    try:
        main(["gallery", *words])
        ended = 0
    except SystemExit as stopped:
        ended = stopped.code
    printed = capsys.readouterr()
    assert ended == code, printed.out + printed.err
    return printed.out if code < 2 else printed.err


BUILD = ("build", "people", "model.pt", "set/set.csv", "--part", "all")


def test_a_gallery_is_built_and_searched(colors, capsys):
    printed = run(*BUILD, capsys=capsys)
    assert "people: 24 tracklets of 12 persons, 3 dimensions" in printed
    assert "search by tracklet: exact search, fewer than 100,000 vectors" in printed
    assert "from 24 samples" in printed
    assert "too few samples for this rate" in printed  # 1 % of 25
    tracklet(colors / "new", color(91))
    tracklet(colors / "stranger", (128, 128, 250))
    words = ("search", "people", "model.pt", "new", "stranger", "--top", "3", "--json", "found.json")
    printed = run(*words, "--picture", "found.png", capsys=capsys)
    assert "2 queries: 1 known, 1 unknown" in printed
    assert "no picture" not in printed
    found = json.loads((colors / "found.json").read_text())
    known, unknown = found["queries"]
    assert (known["known"], known["identity"]) == (True, "person 3")
    assert [match["tracklet"] for match in known["matches"]] == ["t3-1", "t3-2", "t2-2"]
    assert [match["rank"] for match in known["matches"]] == [1, 2, 3]
    assert known["matches"][2]["similarity"] == pytest.approx(math.cos(math.radians(29)), abs=0.01)
    assert (unknown["known"], unknown["identity"]) == (False, None)
    assert found["threshold"]["similarity"] == pytest.approx(math.cos(math.radians(29)), abs=0.01)
    with Image.open(colors / "found.png") as picture:
        assert picture.width > picture.height / 2
        drawn = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert {(128, 128, 250), color(91)} <= set(map(tuple, drawn.tolist()))


def test_persons_are_ranked_by_one_vector_each(colors, capsys):
    run(*BUILD, capsys=capsys)
    run("search", "people", "model.pt", "set/5-1", "--by", "person", "--json", "found.json", capsys=capsys)
    matches = json.loads((colors / "found.json").read_text())["queries"][0]["matches"]
    assert [match["identity"] for match in matches[:2]] == ["person 5", "person 4"]
    assert len({match["identity"] for match in matches}) == len(matches) == 10


def test_a_person_is_added_by_a_video_and_deleted(colors, capsys):
    run(*BUILD, capsys=capsys)
    write_mp4(colors / "anna.mp4", torch.tensor([128, 128, 250]).expand(6, 32, 16, 3).byte().numpy(), 8)
    words = ("add", "people", "model.pt", "anna.mp4", "--identity", "anna", "--camera", "door")
    assert "25 tracklets of 13 persons" in run(*words, capsys=capsys)
    entry = open_gallery(colors / "people").search([[0, 0, 1]], 1)[0].matches[0].entry
    assert (entry.name, entry.identity, entry.camera, entry.frame) == ("anna.mp4", "anna", "door", 3)
    frame = frame_of(entry, (8, 4))
    assert frame.shape == (8, 4, 3)
    assert frame.float().mean((0, 1)).sub(torch.tensor([128, 128, 250])).abs().max() < 8
    assert "already has 1 tracklet: anna.mp4" in run(*words, capsys=capsys, code=2)
    assert "no identity 'ana'; did you mean 'anna'?" in run(
        "delete", "people", "--identity", "ana", capsys=capsys, code=2
    )
    printed = run("delete", "people", "--identity", "anna", "--tracklet", "t0-1", capsys=capsys)
    assert "deleted: anna.mp4 (anna, camera door)" in printed
    assert "2 tracklets of 2 persons deleted from people" in printed
    assert len(open_gallery(colors / "people")) == 23


def test_a_terminal_lists_what_will_be_deleted_and_asks(colors, capsys, monkeypatch):
    run(*BUILD, capsys=capsys)
    asked, answers = [], iter(["", "n", EOFError, "y"])

    def answer(prompt):
        asked.append((prompt, len(open_gallery("people"))))
        found = next(answers)
        if found is EOFError:
            raise EOFError
        return found

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    words = ("delete", "people", "--identity", "person 3", "--identity", "person 4")
    for _ in range(3):
        printed = run(*words, capsys=capsys)
        assert "to be deleted: t3-1 (person 3, camera 1)\n" in printed
        assert "nothing deleted from people" in printed
    assert "4 tracklets of 2 persons deleted from people" in run(*words, capsys=capsys)
    assert asked == [("Delete 4 tracklets of 2 persons? This cannot be undone. [y/N] ", 24)] * 4
    assert "deleted: t5-1" in run("delete", "people", "--tracklet", "t5-1", "--yes", capsys=capsys)
    assert len(open_gallery("people")) == 19


def test_line_breaks_of_names_and_of_a_strangers_gallery_are_printed_as_escapes(colors, capsys):
    names = [Entry("a\nb", "x\n1 tracklet of 1 person deleted", ""), Entry("c", "d", "e")]
    build("people", names, lambda chosen: (np.eye(2)[list(chosen)], chosen), EmbeddingModel("model", "colors"))
    text = (colors / "people/gallery.json").read_text()
    (colors / "people/gallery.json").write_text(text.replace("exact search, fewer", "exact\\nsearch, fewer"))
    assert "search by tracklet: exact\\nsearch, fewer" in run("calibrate", "people", "--rate", "0.5", capsys=capsys)
    printed = run("delete", "people", "--tracklet", "a\nb", capsys=capsys)
    assert "deleted: a\\nb (x\\n1 tracklet of 1 person deleted, camera unknown)\n" in printed


def test_missing_pictures_are_drawn_as_gray_tiles(colors, capsys):
    run(*BUILD, capsys=capsys)
    for path in (colors / "set" / "3-1").iterdir():
        path.unlink()
    printed = run("search", "people", "model.pt", "set/3-2", "--picture", "found.png", capsys=capsys)
    assert "no picture of t3-1: its file is missing or cannot be read" in printed


def test_pictures_outside_of_the_recorded_folder_are_not_opened(colors, capsys):
    from dataclasses import replace

    run(*BUILD, capsys=capsys)
    entry = open_gallery(colors / "people").rows.entry(0)
    assert frame_of(entry, (8, 4)) is not None
    tracklet(colors / "secret", (0, 0, 0))
    assert frame_of(replace(entry, source="../secret"), (8, 4)) is None
    assert frame_of(replace(entry, source=str(colors / "secret")), (8, 4)) is None
    assert frame_of(replace(entry, picture="../../secret/0000.png"), (8, 4)) is None
    (colors / "set" / "link").symlink_to(colors / "secret")
    assert frame_of(replace(entry, source="link"), (8, 4)) is None


def test_unreadable_tracklets_are_named_and_left_out(colors, capsys):
    (colors / "set" / "3-1" / "0001.png").write_bytes(b"no picture")
    printed = run(*BUILD, capsys=capsys, code=1)
    assert "people: 23 tracklets of 12 persons" in printed
    assert "0001.png' cannot be read" in printed
    assert "1 tracklet not read" in printed
    Image.new("RGB", (4, 8), color(91)).save(colors / "set" / "3-1" / "0001.png")
    assert "people: 24 tracklets of 12 persons" in run(*BUILD, capsys=capsys)
    (colors / "set" / "3-1" / "0001.png").write_bytes(b"no picture")
    assert "1 tracklet not read" in run("search", "people", "model.pt", "set/3-1", capsys=capsys, code=1)


def test_queries_that_cannot_be_read_are_named_and_the_others_answered(colors, capsys):
    run(*BUILD, capsys=capsys)
    (colors / "void").mkdir()
    tracklet(colors / "all" / "new", color(91))
    tracklet(colors / "all" / "other", color(1))
    words = ("search", "people", "model.pt", "void", "nope.mp4", "all", "--json", "found.json")
    printed = run(*words, capsys=capsys, code=1)
    assert "2 tracklets not read" in printed
    assert "void" in printed
    assert "no file or folder nope.mp4" in printed
    found = json.loads((colors / "found.json").read_text())["queries"]
    assert [one["identity"] for one in found] == ["person 3", "person 0"]  # the tracklets of a folder


def test_the_threshold_follows_the_rate(colors, capsys):
    run(*BUILD, "--rate", "0.2", capsys=capsys)
    printed = run("calibrate", "people", "--rate", "0.5", capsys=capsys)
    assert "at a false-accept rate of 50 %, from 24 samples, if unknown persons resemble the stored ones" in printed
    assert "too few samples" not in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("search", "people", "other.pt", "set/3-1"), "built with colors, 8 x 4, model.pt (digest model), not with"),
        (("search", "none", "model.pt", "set/3-1"), "no gallery in none"),
        (("search", "people", "model.pt", "set/3-9"), "no file or folder set/3-9"),
        (("search", "people", "model.pt", "set/3-1", "--top", "0"), "--top 0: expected 1 or more"),
        (("search", "people", "model.pt", "set/3-1", "--picture", "found.txt"), "expected a name that ends in .pdf"),
        (("search", "people", "model.pt", "set/3-1", "--json", "set/set.csv"), "exists; --overwrite replaces it"),
        (("add", "people", "model.pt"), "expected DATA"),
        (("add", "people", "model.pt", "set/set.csv", "--camera", "1"), "--camera 1 needs --identity"),
        (("add", "people", "model.pt", "set/0-1", "set/0-2"), "2 names of DATA: expected one set or table"),
        (
            ("add", "people", "model.pt", "set/0-1"),
            "is a folder of pictures, one tracklet: `nonlocal gallery build` and",
        ),
        (("add", "people", "model.pt", "set/0-1/0000.png"), "is a picture, one tracklet"),
        (
            ("add", "people", "model.pt", "anna.mp4"),
            "'anna.mp4' is a video, one tracklet: `nonlocal gallery build` and",
        ),
        (("delete", "people"), "nothing to delete"),
        (("calibrate", "people", "--rate", "2"), "false-accept rate 2.0: expected a number between 0 and 1"),
        (("serch", "people"), "no command 'serch'; did you mean 'search'?"),
    ],
)
def test_mistakes_end_in_one_line(colors, capsys, words, message):
    run(*BUILD, capsys=capsys)
    (colors / "anna.mp4").touch()
    before = open_gallery(colors / "people").manifest
    printed = run(*words, capsys=capsys, code=2)
    assert message in printed
    assert printed.count("\n") == 1
    assert open_gallery(colors / "people").manifest == before
    assert not (colors / "none").exists()


def test_a_set_with_random_splits_is_stored_for_the_split_of_the_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trained, "load_embedder", lambda path, network="": ColorEmbedder(path.stem))
    for person in range(1, 9):
        for camera in (1, 2):
            Image.new("RGB", (4, 8), color(40 * person + camera)).save(tmp_path / f"{person:04d}{camera:03d}.png")
    stored = []
    for words in ([], ["--split", "1"], ["--split", "0"]):
        name = f"gallery{len(stored)}"
        printed = run("build", name, "net.pt", ".", *words, capsys=capsys)
        assert (
            f"(prid450s, split {0 if words == ['--split', '0'] else 1} of 10, counted from 0): 4 tracklets" in printed
        )
        stored.append(open_gallery(name).identities)
    assert stored[0] == stored[1] != stored[2]
