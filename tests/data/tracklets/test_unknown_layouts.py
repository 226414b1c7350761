"""Messages about folders and files that fit no layout: the nearest one, and why."""

import zipfile
from pathlib import Path

import pytest
import torch
from miniatures import ls_vid, market1501, mars, picture, polar_bears, table

from torch_nonlocal.data.tracklets.find import find_tracklets
from torch_nonlocal.media import write_mp4


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=r"^'") as error:
        find_tracklets(path)
    return str(error.value)


def test_a_misspelled_folder_names_its_layout(tmp_path: Path):
    root = mars(tmp_path)
    (root / "bbox_train").rename(root / "bbox_trian")
    (root / "bbox_test").rename(root / "BBox-Test")
    message = refusal(root)
    assert "nearest is 'mars', since 'bbox_trian' is nearly 'bbox_train'; it expects folders bbox_train" in message
    assert "if this is right, name the layout 'folders'" in message
    assert "ls-vid" not in message
    assert find_tracklets(root, "folders").layout == "folders"


def test_a_part_of_a_set_names_its_layout(tmp_path: Path):
    root = ls_vid(tmp_path)
    (root / "list_sequence").rename(root / "lists")
    assert "nearest is 'ls-vid', since it has 'tracklet_train'" in refusal(root)


@pytest.mark.parametrize(
    ("make", "name", "picture_name"),
    [
        (market1501, "market1501", r"_c\ds\d_"),
        (mars, "mars", r"C\dT0001F00\d.jpg"),
        (polar_bears, "polarbearvidid", r"C0\dT00\dF0"),
    ],
)
def test_pictures_at_another_place_name_their_layout(tmp_path: Path, make, name: str, picture_name: str):
    make(tmp_path / "set")
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in [*(tmp_path / "set").rglob("*.jpg")]:
        file.rename(flat / file.name)
    with pytest.raises(
        ValueError, match=rf"nearest is '{name}', since it has pictures with names such as .*{picture_name}"
    ):
        find_tracklets(flat)


def test_files_without_folders_of_identities_are_named(tmp_path: Path):
    picture(tmp_path / "a/anna_1.jpg", 1)
    message = refusal(tmp_path / "a")
    assert "nearest is 'folders', since it is a folder of pictures, one tracklet: `nonlocal gallery build`" in message
    assert "it expects a folder per identity" in message
    (tmp_path / "b").mkdir()
    assert refusal(tmp_path / "b").endswith(
        "has no known layout; it is empty; expected a folder of tracklets, or a table of them in CSV or TSV"
    )
    with zipfile.ZipFile(tmp_path / "b/MARS.zip", "w") as archive:
        archive.writestr("a", "b")
    assert refusal(tmp_path / "b").endswith("it has the archive 'MARS.zip'; unpack it")
    assert "'" + str(tmp_path / "b/MARS.zip") + "' is an archive: unpack it and name the folder" in refusal(
        tmp_path / "b/MARS.zip"
    )


def test_files_that_are_no_table_are_named(tmp_path: Path):
    write_mp4(tmp_path / "v.mp4", torch.zeros(4, 32, 32, 3, dtype=torch.uint8), 25)
    (tmp_path / "v.mp4").rename(tmp_path / "video")
    picture(tmp_path / "p.PNG", 1)
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04")
    for name, kind in (("video", "is a video"), ("p.PNG", "is a picture"), ("t.xlsx", "is a .xlsx file")):
        message = refusal(tmp_path / name)
        assert f"{name}' {kind}" in message
        assert message.endswith("expected a folder of tracklets, or a table of them in CSV or TSV")


def test_a_table_of_another_name_in_a_folder_is_not_overlooked(tmp_path: Path):
    for who in "abcd":
        picture(tmp_path / who / "1.png", ord(who))
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    assert find_tracklets(tmp_path).layout == "folders"
    rows = [(who, who, 1, f"{who}/1.png") for who in "abcd"]
    table(tmp_path / "mine.csv", rows, "Track ID;Person;Cam;Frames")
    (tmp_path / "mine.csv").write_text("sep=;\n" + (tmp_path / "mine.csv").read_text())
    assert "did you mean '" + str(tmp_path / "mine.csv") + "', which fits 'table'?" in refusal(tmp_path)


def test_a_missing_folder_of_a_set_has_a_suggestion(tmp_path: Path):
    root = market1501(tmp_path)
    (root / "bounding_box_train").rename(root / "bounding_box_trian")
    with pytest.raises(ValueError, match=r"no folder 'bounding_box_train'; did you mean '.*bounding_box_trian'"):
        find_tracklets(root)
