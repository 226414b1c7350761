"""Layouts of public sets, each by a miniature with its names; MARS has a file of its own."""

import json
import shutil
from pathlib import Path

import pytest
from miniatures import (
    dukemtmc_video,
    ilids_vid,
    ls_vid,
    market1501,
    mars,
    matlab,
    picture,
    polar_bears,
    prid450s,
    prid2011,
    table,
)

from torch_nonlocal.data.tracklets.find import LAYOUTS, find_tracklets

SETS = {
    "mars": mars,
    "ls-vid": ls_vid,
    "ilids-vid": ilids_vid,
    "prid2011": prid2011,
    "dukemtmc-video": dukemtmc_video,
    "polarbearvidid": polar_bears,
    "market1501": market1501,
    "prid450s": prid450s,
}


def names(tracklets) -> list[str]:
    return [one.name for one in tracklets]


def identities(tracklets) -> set[str]:
    return {one.identity for one in tracklets}


@pytest.mark.parametrize("name", SETS)
def test_each_set_is_recognized_and_read_without_problems(tmp_path: Path, name: str):
    root = SETS[name](tmp_path / "set")
    data = find_tracklets(root)
    assert (data.layout, data.problems, data.root) == (name, (), root)
    assert data.train
    assert data.query
    assert data.gallery
    assert data == find_tracklets(root, layout=name)
    for one in (*data.train, *data.query, *data.gallery):
        assert one.folder is not None
        assert len(one.files) == one.length > 0
        assert all((one.folder / file).is_file() for file in one.files)
    if data.query_index is not None:
        assert tuple(data.gallery[row] for row in data.query_index) == data.query
    with pytest.raises(ValueError, match=f"split: got {data.splits}, expected 0 to {data.splits - 1}"):
        find_tracklets(root, split=data.splits)


@pytest.mark.parametrize("name", SETS)
def test_suffixes_in_capitals_are_read(tmp_path: Path, name: str):
    root = SETS[name](tmp_path / "set")
    before = find_tracklets(root)
    if name == "mars":
        shutil.rmtree(root / "info")  # its lists name files in small letters
        before = find_tracklets(root)
    for file in [*root.rglob("*.jpg"), *root.rglob("*.png")]:
        file.rename(file.with_suffix(file.suffix.upper()))
    data = find_tracklets(root)
    assert (data.layout, data.problems) == (name, ())
    for part in ("train", "query", "gallery"):
        found, expected = getattr(data, part), getattr(before, part)
        assert [(one.name, one.identity, one.camera, one.length, one.role) for one in found] == [
            (one.name, one.identity, one.camera, one.length, one.role) for one in expected
        ]


def test_a_set_is_found_in_the_folder_above(tmp_path: Path):
    mars(tmp_path / "sets/mars")
    with pytest.raises(ValueError, match=r"did you mean '.*sets/mars', which fits 'mars'"):
        find_tracklets(tmp_path / "sets")


def test_wrong_names_of_layouts_and_paths_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"got 'MARS2'; did you mean 'mars'.*expected auto or one of mars, ls-vid"):
        find_tracklets(tmp_path, layout="MARS2")
    with pytest.raises(ValueError, match="there is no folder or table"):
        find_tracklets(tmp_path / "missing")
    (tmp_path / "notes").mkdir()
    with pytest.raises(ValueError, match="has no known layout; mars: folders bbox_train") as error:
        find_tracklets(tmp_path)
    assert all(f"{name}: " in str(error.value) for name in LAYOUTS)


def test_a_folder_of_several_layouts_is_ambiguous(tmp_path: Path):
    market1501(mars(tmp_path))
    with pytest.raises(ValueError, match="fits the layouts 'mars' and 'market1501': name one of them"):
        find_tracklets(tmp_path)
    assert find_tracklets(tmp_path, layout="market1501").layout == "market1501"


def test_ilids_tests_the_first_half_of_a_row_of_the_official_splits(tmp_path: Path):
    root = ilids_vid(tmp_path, splits=[[3, 1, 4, 2], [4, 3, 2, 1]])
    first, second = find_tracklets(root), find_tracklets(root, split=1)
    assert first.splits == 2
    assert names(first.query) == ["cam1/person001", "cam1/person003"]
    assert names(first.gallery) == ["cam2/person001", "cam2/person003"]
    assert names(first.train) == ["cam1/person002", "cam2/person002", "cam1/person004", "cam2/person004"]
    assert identities(second.query) == {"person003", "person004"}
    assert first.query_index is None
    assert [one.camera for one in first.train[:2]] == ["1", "2"]
    assert first.query[0].files[:2] == ("cam1_person001_00099.png", "cam1_person001_00104.png")


def test_random_halves_differ_by_split_and_repeat(tmp_path: Path):
    root = ilids_vid(tmp_path / "ilids", persons=8, frames=1)
    halves = [frozenset(identities(find_tracklets(root, split=split).train)) for split in range(10)]
    assert [len(half) for half in halves] == [4] * 10
    assert len(set(halves)) > 5
    assert halves[3] == identities(find_tracklets(root, split=3).train)
    for split in range(10):
        data = find_tracklets(root, split=split)
        assert identities(data.train).isdisjoint(identities(data.query))
        assert identities(data.query) == identities(data.gallery)
    assert "no official splits" in data.notes[0]
    both = find_tracklets(prid450s(tmp_path / "prid", persons=8))
    assert identities(both.train) != {f"000{name[-1]}" for name in halves[0]}  # another layout, another draw


@pytest.mark.parametrize(
    ("row", "message"), [([1, 2, 3, 5], "from 1 to 5, expected 1 to 4"), ([1, 1, 2, 3], "each once"), ([1, 2], "has 2")]
)
def test_official_splits_of_other_persons_are_refused(tmp_path: Path, row: list[int], message: str):
    with pytest.raises(ValueError, match=message):
        find_tracklets(ilids_vid(tmp_path, splits=[row]))


def test_persons_of_one_camera_and_wrong_names_are_problems(tmp_path: Path):
    root = ilids_vid(tmp_path)
    for file in (root / "i-LIDS-VID/sequences/cam2/person002").iterdir():
        file.unlink()
    picture(root / "i-LIDS-VID/sequences/cam1/person001/cam1_person009_00001.png", 1)
    found = [(problem.kind, problem.name) for problem in find_tracklets(root).problems]
    assert found == [
        ("wrong name", "cam1/person001/cam1_person009_00001.png"),
        ("empty tracklet", "cam2/person002"),
        ("one camera", "person002"),
    ]


def test_an_empty_list_of_splits_is_refused(tmp_path: Path):
    (prid2011(tmp_path) / "splits_prid2011.json").write_text("[]")
    with pytest.raises(ValueError, match="the list of the splits of prid2011 is empty"):
        find_tracklets(tmp_path)


def test_prid2011_uses_persons_with_more_than_27_frames_in_both_cameras(tmp_path: Path):
    data = find_tracklets(prid2011(tmp_path))
    assert identities((*data.train, *data.query)) == {"person_0001", "person_0002", "person_0004"}
    assert "3 persons of 4 with more than 27 frames" in data.notes[0]
    assert {one.camera for one in data.query} == {"a"}
    assert {one.camera for one in data.gallery} == {"b"}


def test_prid2011_with_short_tracklets_only_uses_them(tmp_path: Path):
    data = find_tracklets(prid2011(tmp_path, lengths=((3, 4), (5, 3), (2, 2), (40, 40))))
    assert len(identities((*data.train, *data.query))) == 4
    assert "all 4 persons, since fewer than two have more than 27 frames" in data.notes[0]


def test_prid2011_follows_a_list_of_splits(tmp_path: Path):
    root = prid2011(tmp_path)
    (root / "splits_prid2011.json").write_text(
        json.dumps([{"train": ["person_0004"], "test": ["person_0003", "person_0001"]}])
    )
    data = find_tracklets(root)
    assert data.splits == 1
    assert names(data.train) == ["cam_a/person_0004", "cam_b/person_0004"]
    assert names(data.query) == ["cam_a/person_0001", "cam_a/person_0003"]
    for content, message in (
        ([{"train": ["person_0201"], "test": []}], "names person_0201, which are not in both"),
        ([{"train": ["person_0001"], "test": ["person_0001"]}], "person_0001 train and are tested"),
        ([["person_0001"]], "is not an object with lists of persons"),
        ({"train": []}, "contains a dict, expected a list"),
    ):
        (root / "splits_prid2011.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            find_tracklets(root)


@pytest.mark.parametrize(("inside", "index"), [(True, (0, 2)), (False, None)])
def test_dukemtmc_says_that_it_was_withdrawn(tmp_path: Path, inside: bool, index):
    data = find_tracklets(dukemtmc_video(tmp_path, queries_in_gallery=inside))
    assert "withdrawn by its authors in 2019" in data.notes[0]
    assert names(data.train) == ["0001/0002", "0001/0003", "0002/0004", "0002/0005"]
    assert names(data.query) == ["0003/0006", "0004/0008"]
    assert [one.camera for one in data.query] == ["2", "2"]
    assert data.query_index == index
    assert data.query[0].files[2] == "0003_C2_F0003_X46024.jpg"


def test_ls_vid_follows_its_lists(tmp_path: Path):
    root = ls_vid(tmp_path / "ls")
    data = find_tracklets(root)
    assert names(data.gallery) == ["0842_0000", "0842_0001", "0843_0000", "0843_0001"]
    assert data.query_index == (2, 0)
    assert [(one.identity, one.camera, one.length) for one in data.query] == [("843", "03", 3), ("842", "03", 3)]
    assert data.train[1].files == tuple(f"0000_0001_15_{frame:07d}.jpg" for frame in (9, 10, 11))
    assert [one.role for one in data.train] == ["person"] * 4  # identity 0 is a person here
    (root / "list_sequence").rename(root / "info")
    (root / "list_sequence").mkdir()
    (root / "info").rename(root / "list_sequence/list_sequence")
    (root / "list_sequence").rename(root / "info")
    assert find_tracklets(root) == data


def test_ls_vid_without_queries_chooses_them_and_bad_lines_are_problems(tmp_path: Path):
    root = ls_vid(tmp_path, info=False)
    lists = root / "list_sequence/list_seq_test.txt"
    lists.write_text("nonsense\n../../x/0842 842\ntracklet_test/0842/0842_0009 842\n" + lists.read_text())
    data = find_tracklets(root)
    assert [problem.kind for problem in data.problems] == ["wrong row", "outside", "empty tracklet"]
    assert data.query_index == (0, 2)
    assert "test/data/info_test.mat is missing" in data.notes[1]
    matlab(root / "test/data/info_test.mat", query=[[4], [8]])
    with pytest.raises(ValueError, match="has the index 8, expected 1 to 7"):
        find_tracklets(root)
    matlab(root / "test/data/info_test.mat", query=[[4]])
    assert names(find_tracklets(root).query) == ["0842_0000"]  # line 4 of 7, the first that has frames


def test_ls_vid_has_the_same_identity_with_and_without_leading_zeros(tmp_path: Path):
    root = ls_vid(tmp_path)
    lines = (root / "list_sequence/list_seq_test.txt").read_text().splitlines()
    lines[0] = lines[0].replace(" 842", " 0842")
    (root / "list_sequence/list_seq_test.txt").write_text("\n".join(lines))
    assert [one.identity for one in find_tracklets(root).gallery] == ["842", "842", "843", "843"]


def test_market1501_has_junk_and_distractors(tmp_path: Path):
    data = find_tracklets(market1501(tmp_path))
    assert [(one.identity, one.camera, one.role) for one in data.gallery] == [
        ("-1", "1", "junk"),
        ("0000", "1", "distractor"),
        ("0001", "2", "person"),
        ("0003", "1", "person"),
    ]
    assert data.query_index is None
    assert data.train[0].files == ("0002_c1s1_000451_03.jpg",)
    picture(tmp_path / "query/person.jpg", 1)
    picture(tmp_path / "query/-1_c1s1_1_00.jpg", 1)
    assert [one.name for one in find_tracklets(tmp_path).problems] == ["query/-1_c1s1_1_00.jpg", "query/person.jpg"]


def test_sets_in_the_folders_of_market1501_may_number_persons_from_zero(tmp_path: Path):
    market1501(tmp_path)
    picture(tmp_path / "query/0000_c5_f0000151.jpg", 1)
    data = find_tracklets(tmp_path)
    assert [one.role for one in data.gallery[:2]] == ["junk", "person"]
    assert "withdrawn" in data.notes[0]


@pytest.mark.parametrize(
    "parts", [("image_train", "image_query", "image_test"), ("train", "query", "gallery")], ids=lambda parts: parts[0]
)
def test_image_sets_in_other_folders(tmp_path: Path, parts: tuple[str, str, str]):
    for part, name in zip(parts, ("0007_c014_00029_0.jpg", "0002_c2_1.jpg", "0002_c003_00085_0.jpg"), strict=True):
        picture(tmp_path / part / name, 1)
    data = find_tracklets(tmp_path)
    assert (data.layout, data.problems) == ("market1501", ())
    assert [(one.identity, one.camera) for one in (*data.train, *data.query)] == [("0007", "014"), ("0002", "2")]
    assert [(one.identity, one.camera) for one in data.gallery] == [("0002", "003")]


def test_prid450s_pairs_two_cameras(tmp_path: Path):
    root = prid450s(tmp_path)
    picture(root / "0009001.png", 9)
    picture(root / "group.png", 9)
    data = find_tracklets(root)
    assert [(problem.kind, problem.name) for problem in data.problems] == [
        ("wrong name", "group.png"),
        ("one camera", "0009"),
    ]
    assert {one.camera for one in data.query} == {"1"}
    assert {one.camera for one in data.gallery} == {"2"}
    assert len(data.train) == 4
    assert data.splits == 10


def test_a_picture_of_prid450s_with_two_suffixes_is_no_second_camera(tmp_path: Path):
    root = prid450s(tmp_path, persons=5)
    (root / "0001002.png").unlink()
    picture(root / "0001001.jpg", 1)
    data = find_tracklets(root)
    assert [(one.kind, one.name) for one in data.problems] == [
        ("duplicate tracklet", "0001001"),
        ("one camera", "0001"),
    ]
    assert "0001" not in identities((*data.train, *data.query, *data.gallery))


def test_polar_bears_follow_the_folds(tmp_path: Path):
    data = find_tracklets(polar_bears(tmp_path))
    assert data.splits == 5
    assert names(data.gallery) == [f"00{animal}C0{camera}T00{camera - 1}" for animal in (0, 1, 2) for camera in (1, 2)]
    assert data.query_index == (0, 2, 4)
    assert len(data.train) == 6
    assert data.train[0].files == tuple(f"000C01T002F{frame:03d}.jpg" for frame in (8, 9, 10))
    table(tmp_path / "track_fold_info_1.csv", [(0, 1, 99, 0, 9), ("x", 1, 1, 0, 9), (1, 1, 0, 0, 9)], "id,cam,tracklet")
    assert [problem.kind for problem in find_tracklets(tmp_path).problems] == ["empty tracklet", "wrong row"]
    table(tmp_path / "track_fold_info_1.csv", [(0, 1)], "id,cam")
    with pytest.raises(ValueError, match="has the columns id, cam: expected id, cam, tracklet"):
        find_tracklets(tmp_path)


def test_folds_of_polar_bears_may_be_saved_by_a_spreadsheet(tmp_path: Path):
    root = polar_bears(tmp_path)
    before = find_tracklets(root)
    fold = root / "track_fold_info_1.csv"
    fold.write_bytes(b"\xef\xbb\xbfsep=;\r\n" + fold.read_text().replace(",", ";").replace("\n", "\r\n").encode())
    assert find_tracklets(root) == before


def test_polar_bears_without_folds_hold_out_animals(tmp_path: Path):
    data = find_tracklets(polar_bears(tmp_path, folds=False))
    assert len(identities(data.train)) == 1
    assert len(identities(data.gallery)) == 2
    assert "no track_fold_info_1.csv" in data.notes[0]
    assert identities(data.train).isdisjoint(identities(data.gallery))


def test_links_that_leave_the_set_are_not_followed(tmp_path: Path):
    root = mars(tmp_path / "mars", info=False)
    picture(tmp_path / "secret/0001C1T0001F009.jpg", 1)
    (root / "bbox_train/0001/0001C1T0001F009.jpg").symlink_to(tmp_path / "secret/0001C1T0001F009.jpg")
    (root / "bbox_train/0009").symlink_to(tmp_path / "secret")
    (root / "bbox_train/0008").symlink_to(root / "bbox_train/0003")
    data = find_tracklets(root)
    assert [problem.kind for problem in data.problems if problem.kind == "outside"] == ["outside", "outside"]
    assert data.train[0].length == 4
    assert identities(data.train) == {"0001", "0002", "0003"}


def test_links_of_whole_folders_and_lists_that_leave_the_set_are_not_followed(tmp_path: Path):
    root = mars(tmp_path / "mars")
    (root / "bbox_train/0002").rename(tmp_path / "elsewhere")
    (root / "bbox_train/0002").symlink_to(tmp_path / "elsewhere")
    data = find_tracklets(root)
    assert {problem.kind for problem in data.problems} == {"outside", "missing frame", "empty tracklet"}
    assert identities(data.train) == {"0001", "0003"}
    (root / "info/query_IDX.mat").rename(tmp_path / "query_IDX.mat")
    (root / "info/query_IDX.mat").symlink_to(tmp_path / "query_IDX.mat")
    with pytest.raises(ValueError, match=r"the link .*query_IDX\.mat' leaves .*copy its target"):
        find_tracklets(root)


def test_prid450s_itself():
    root = Path(__file__).parents[4] / "shared/data/prid450s"
    if not root.is_dir():
        pytest.skip("the pictures of PRID 450S are not beside the repository")
    halves = set()
    for split in range(10):
        data = find_tracklets(root, split=split)
        assert (data.layout, data.splits, data.problems) == ("prid450s", 10, ())
        assert (len(data.train), len(data.query), len(data.gallery)) == (450, 225, 225)
        assert [one.identity for one in data.query] == [one.identity for one in data.gallery]
        assert identities(data.train).isdisjoint(identities(data.query))
        halves.add(frozenset(identities(data.train)))
    assert len(halves) == 10
