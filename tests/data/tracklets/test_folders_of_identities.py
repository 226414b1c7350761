"""Folders of one's own: identities, cameras, tracklets and videos."""

from pathlib import Path

import torch
from miniatures import picture

from torch_nonlocal.data.tracklets.find import find_tracklets
from torch_nonlocal.media import decode, write_mp4


def frames(folder: Path, identity: int = 1) -> None:
    for frame in (1, 2, 10):
        picture(folder / f"{frame}.jpg", identity, frame)


def meaning(tracklets) -> set[tuple[str, str, str, int]]:
    return {(one.name, one.identity, one.camera, one.length) for one in tracklets}


def test_identity_camera_tracklet(tmp_path: Path):
    for identity in ("ann", "bob"):
        for camera in ("door", "hall"):
            frames(tmp_path / "test" / identity / camera / "t1")
    frames(tmp_path / "train/cy/door/t1")
    data = find_tracklets(tmp_path)
    assert (data.layout, data.problems, data.splits) == ("folders", (), 1)
    assert meaning(data.train) == {("cy/door/t1", "cy", "door", 3)}
    expected = {(f"{who}/{camera}/t1", who, camera, 3) for who in ("ann", "bob") for camera in ("door", "hall")}
    assert meaning(data.gallery) == expected
    assert data.query_index == (0, 2)
    assert data.gallery[0].files == ("1.jpg", "2.jpg", "10.jpg")


def test_the_parts_of_a_set_may_be_in_capitals(tmp_path: Path):
    for part, who in (("Train", "cy"), ("Training", "xi"), ("QUERY", "ann"), ("Testing", "ann")):
        frames(tmp_path / part / who / ("cam1" if part == "QUERY" else "cam2"))
    data = find_tracklets(tmp_path)
    assert [meaning(part) for part in (data.train, data.query, data.gallery)] == [
        {("cy/cam2", "cy", "2", 3)},
        {("ann/cam1", "ann", "1", 3)},
        {("ann/cam2", "ann", "2", 3)},
    ]
    assert [(one.kind, one.name) for one in data.problems] == [("wrong name", "Training")]


def test_cameras_in_names_and_cameras_first(tmp_path: Path):
    frames(tmp_path / "a/test/ann/walk_cam2_01")
    frames(tmp_path / "a/test/ann/c3")
    frames(tmp_path / "a/test/ann/walk_c4s2")
    assert {one.camera for one in find_tracklets(tmp_path / "a").gallery} == {"2", "3", "4"}
    for camera in ("cam_a", "cam_b"):
        frames(tmp_path / f"b/gallery/{camera}/ann")
        frames(tmp_path / f"b/gallery/{camera}/bob/walk_1")
    assert meaning(find_tracklets(tmp_path / "b").gallery) == {
        ("cam_a/ann", "ann", "a", 3),
        ("cam_b/ann", "ann", "b", 3),
        ("cam_a/bob/walk_1", "bob", "a", 3),
        ("cam_b/bob/walk_1", "bob", "b", 3),
    }


def test_pictures_of_several_cameras_in_a_folder_are_a_problem(tmp_path: Path):
    for who in ("ann", "bob"):
        for camera in (1, 2):
            picture(tmp_path / "test" / who / f"{who}_c{camera}_00{camera}.jpg", camera)
    found = find_tracklets(tmp_path).problems
    assert [(one.kind, one.name) for one in found] == [("wrong name", "test/ann"), ("wrong name", "test/bob")]
    assert "it has pictures of the cameras 1, 2: expected a folder per camera" in found[0].reason


def test_tracklets_without_cameras_count_as_cameras_of_their_own(tmp_path: Path):
    for identity in ("ann", "bob"):
        for tracklet in ("monday", "tuesday"):
            frames(tmp_path / "test" / identity / tracklet)
    data = find_tracklets(tmp_path)
    assert [one.camera for one in data.gallery] == [
        f"test/{who}/{day}" for who in ("ann", "bob") for day in ("monday", "tuesday")
    ]
    assert "count as cameras of their own" in data.notes[0]
    assert data.query_index == (0, 2)


def test_one_tracklet_per_identity_in_query_and_gallery(tmp_path: Path):
    for part in ("query", "gallery"):
        for identity in ("ann", "bob"):
            frames(tmp_path / part / identity)
    picture(tmp_path / "query/ann/1.jpg", 7)  # the names of the frames are those of the gallery, the content is not
    data = find_tracklets(tmp_path)
    assert [one.camera for one in (*data.query, *data.gallery)] == [
        "query/ann",
        "query/bob",
        "gallery/ann",
        "gallery/bob",
    ]
    assert data.query_index is None
    frames(tmp_path / "query/ann")
    assert find_tracklets(tmp_path).query_index == (0, 1)


def test_without_parts_half_of_the_identities_is_tested(tmp_path: Path):
    for identity in ("ann", "bob", "cy", "dee"):
        for camera in ("cam1", "cam2"):
            frames(tmp_path / identity / camera)
    seen = set()
    for split in range(10):
        data = find_tracklets(tmp_path, split=split)
        trained, tested = ({one.identity for one in part} for part in (data.train, data.gallery))
        assert (len(trained), len(tested), trained & tested) == (2, 2, set())
        seen.add(frozenset(trained))
    assert len(seen) > 1
    assert "half of the identities trains" in data.notes[0]


def test_videos_are_tracklets(tmp_path: Path):
    for identity, name in (("ann", "a_cam1.mp4"), ("ann", "a_cam2.mp4"), ("bob", "x.mp4")):
        (tmp_path / "test" / identity).mkdir(parents=True, exist_ok=True)
        write_mp4(tmp_path / "test" / identity / name, torch.zeros(3, 32, 32, 3, dtype=torch.uint8), 25)
    (tmp_path / "test/bob/y.mp4").write_bytes(b"x" * 99)
    data = find_tracklets(tmp_path)
    assert meaning(data.gallery) == {
        ("ann/a_cam1.mp4", "ann", "1", 3),
        ("ann/a_cam2.mp4", "ann", "2", 3),
        ("bob/x.mp4", "bob", "test/bob/x.mp4", 3),
    }
    assert [(problem.kind, problem.name) for problem in data.problems] == [("broken video", "bob/y.mp4")]


def test_the_frames_of_a_video_are_counted_once_for_all_splits(tmp_path: Path, monkeypatch):
    for name in ("ann", "bob", "cy", "dee"):
        (tmp_path / name).mkdir()
        write_mp4(tmp_path / name / "cam1.mp4", torch.zeros(3, 32, 32, 3, dtype=torch.uint8), 25)
    counted, probe = [], decode.probe
    monkeypatch.setattr(decode, "probe", lambda path: (counted.append(path), probe(path))[1])
    for split in range(3):
        data = find_tracklets(tmp_path, split=split)
        assert {one.length for one in (*data.train, *data.gallery)} == {3}
    assert len(counted) == 4
    write_mp4(tmp_path / "ann/cam1.mp4", torch.zeros(5, 32, 32, 3, dtype=torch.uint8), 25)
    data = find_tracklets(tmp_path)
    assert sorted(one.length for one in (*data.train, *data.gallery)) == [3, 3, 3, 5]


def test_query_and_gallery_are_kept_apart_unless_the_gallery_has_the_queries(tmp_path: Path):
    for part in ("train/zoe", "query/ann", "gallery/ann", "gallery/bob"):
        frames(tmp_path / part / ("cam1" if part == "query/ann" else "cam2"))
    data = find_tracklets(tmp_path)
    assert (data.query_index, len(data.query), len(data.gallery)) == (None, 1, 2)
    frames(tmp_path / "gallery/ann/cam1")
    data = find_tracklets(tmp_path)
    assert data.query_index == (0,)
    assert data.gallery[0].name == data.query[0].name == "ann/cam1"


def test_stray_files_and_empty_folders_are_problems(tmp_path: Path):
    frames(tmp_path / "test/ann/cam1")
    frames(tmp_path / "test/ann/cam2/t1")
    (tmp_path / "test/bob").mkdir()
    (tmp_path / "test/ann/cam3").mkdir()
    picture(tmp_path / "test/ann/cam2/stray.jpg", 1)
    picture(tmp_path / "test/loose.jpg", 1)
    (tmp_path / "other").mkdir()
    found = {(problem.kind, problem.name) for problem in find_tracklets(tmp_path).problems}
    assert found == {
        ("wrong name", "other"),
        ("wrong name", "test/loose.jpg"),
        ("wrong name", "test/ann/cam2"),
        ("empty tracklet", "test/ann/cam3"),
        ("empty identity", "test/bob"),
    }
