"""Datasets of clips: random draws, views and broken files."""

import os
import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

av = pytest.importorskip("av", reason="PyAV decodes and encodes: pip install 'torch-nonlocal[video]'")
pytest.importorskip("torchvision", reason="crops and resizes")
pytest.importorskip("PIL", reason="reads folders of frames")

from clip_files import broken_files, film, folder_of_frames, touch  # noqa: E402 (after the skips)

from torch_nonlocal.data.broken import BrokenClips  # noqa: E402
from torch_nonlocal.data.clip_list import ClipList  # noqa: E402
from torch_nonlocal.data.clips import find_clips  # noqa: E402
from torch_nonlocal.data.dataset import ClipDataset, ViewDataset, collate_clips  # noqa: E402
from torch_nonlocal.media import (  # noqa: E402
    BrokenVideoError,
    EvalTransform,
    TrainTransform,
    read_clip,
    read_sampled,
    uniform_clips,
)
from torch_nonlocal.media.pictures import Converter  # noqa: E402

TRAIN = TrainTransform(32)
TEST = EvalTransform(32)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> ClipList:
    root = tmp_path_factory.mktemp("good")
    for number in range(3):
        film(root / f"a/{number}.mp4", number, frames=12 + number)
        film(root / f"b/{number}.mp4", 10 + number)
    folder_of_frames(root / "b/frames")
    return find_clips(root)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> tuple[ClipList, set[str]]:
    """Thirty broken files among thirty good ones, and the paths of the broken ones."""
    root = tmp_path_factory.mktemp("mixed")
    for number in range(15):
        film(root / f"a/{number}.mp4", number)
        film(root / f"z/{number}.mp4", 20 + number)
    broken = broken_files(root / "z/broken")
    return find_clips(root), {str(path) for path in broken}


def epoch_of(dataset, **options) -> list[tuple[torch.Tensor, int, int]]:
    loader = DataLoader(dataset, batch_size=3, collate_fn=collate_clips, **options)
    return [item for batch in loader for item in zip(*batch, strict=True)]


def same(one, other) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a[0], b[0]) and int(a[1]) == int(b[1]) and int(a[2]) == int(b[2])
        for a, b in zip(one, other, strict=True)
    )


def test_an_item_is_a_clip_with_label_and_index(good):
    dataset = ClipDataset(good, (4, 2), TRAIN)
    assert len(dataset) == 7
    clip, label, index = dataset[4]
    assert clip.shape == (3, 4, 32, 32)
    assert clip.dtype == torch.uint8
    assert (label, index) == (1, 4)
    assert [dataset[index][1] for index in range(7)] == [clip.label for clip in good.clips]
    with pytest.raises(IndexError, match="got 7, expected -7 <= index < 7"):
        dataset[7]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_random_draws_depend_only_on_seed_epoch_and_index(good, workers):
    plain = [ClipDataset(good, (4, 2), TRAIN, seed=5)[index] for index in range(7)]
    dataset = ClipDataset(good, (4, 2), TRAIN, seed=5)
    assert same(epoch_of(dataset, num_workers=workers), plain)
    dataset.set_epoch(1)
    later = epoch_of(dataset, num_workers=workers)
    films = list(zip(later, plain, strict=True))[:6]  # the pictures of the folder are the same wherever they are cut
    assert not any(torch.equal(a[0], b[0]) for a, b in films)
    dataset.set_epoch(0)
    shuffled = epoch_of(dataset, num_workers=workers, sampler=[6, 0, 3, 3])
    assert same(shuffled, [plain[6], plain[0], plain[3], plain[3]])
    assert not torch.equal(ClipDataset(good, (4, 2), TRAIN, seed=6)[0][0], plain[0][0])


def test_items_do_not_change_the_global_random_state(good):
    before = torch.get_rng_state()
    _ = ClipDataset(good, (4, 2), TRAIN)[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_datasets_can_be_pickled_for_spawned_workers(good):
    dataset = ClipDataset(good, (4, 2), TRAIN, seed=2)
    assert same([pickle.loads(pickle.dumps(dataset))[3]], [dataset[3]])


def test_every_view_is_the_expected_clip_and_crop(good):
    dataset = ViewDataset(good, (4, 2), EvalTransform(32, crops=3), views=3)
    assert len(dataset) == 21
    for item in (0, 4, 8, 20):
        views, label, video = dataset[item]
        path = good.clips[item // 3].path
        frames = read_sampled(path, range, lambda frame: frame)
        chosen = uniform_clips(len(frames), 4, 2, 3)[item % 3]
        transform = EvalTransform(32, crops=3)
        assert torch.equal(views, transform(frames[chosen]))
        assert (label, video) == (good.clips[item // 3].label, item // 3)


def test_every_crop_is_a_clip_of_the_batch(good):
    dataset = ViewDataset(good, (4, 2), EvalTransform(32, crops=3), views=2)
    clips, labels, indices = collate_clips([dataset[0], None, dataset[13]])
    assert clips.shape == (6, 3, 4, 37, 37)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert indices.tolist() == [0, 0, 0, 6, 6, 6]
    clips, labels, indices = collate_clips([None, None])
    assert clips.shape == labels.shape == indices.shape == (0,)


def test_clips_of_several_sizes_in_a_batch_raise(tmp_path):
    film(tmp_path / "a/1.mp4")
    film(tmp_path / "a/2.mp4", width=96)
    dataset = ViewDataset(find_clips(tmp_path), (2, 1), EvalTransform(32, crops="full"), views=1)
    with pytest.raises(ValueError, match=r"\(3, 2, 37, 49\), \(3, 2, 37, 74\); expected batch_size=1"):
        collate_clips([dataset[0], dataset[1]])


def test_frames_of_a_folder_are_sorted_by_number(tmp_path):
    folder = folder_of_frames(tmp_path / "a/clip", 12)
    frames = read_sampled(folder, range, lambda frame: frame)
    assert frames[:, 0, 0, 0].tolist() == [10 * number for number in range(1, 13)]
    assert torch.equal(read_sampled(folder, lambda total: [total - 1, 0, 0], lambda frame: frame), frames[[11, 0, 0]])
    (folder / "img_7.png").write_bytes(b"no picture")
    with pytest.raises(BrokenVideoError, match=r"img_7.png' cannot be read"):
        read_sampled(folder, range, lambda frame: frame)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_reports_every_broken_clip_and_replaces_it(mixed, workers):
    clips, broken = mixed
    dataset = ClipDataset(clips, (4, 2), TRAIN)
    items = epoch_of(dataset, num_workers=workers, shuffle=True, generator=torch.Generator().manual_seed(0))
    assert len(clips) == len(items) == 60
    assert {entry.path for entry in dataset.broken.entries()} == broken
    plain = ClipDataset(clips, (4, 2), TRAIN)
    for clip, label, index in items:
        assert str(clips.clips[index].path) not in broken
        assert label == clips.clips[index].label
        assert torch.equal(clip, plain[index][0])


def test_testing_omits_every_broken_clip(mixed):
    clips, broken = mixed
    dataset = ViewDataset(clips, (4, 2), TEST, views=2)
    items = epoch_of(dataset, num_workers=2)
    seen = [int(index) for _, _, index in items]
    assert sorted(set(seen)) == [i for i, clip in enumerate(clips.clips) if str(clip.path) not in broken]
    assert len(seen) == 2 * 30
    assert {entry.path for entry in dataset.broken.entries()} == broken
    assert all(int(label) == clips.clips[index].label for _, label, index in items)


def test_the_report_has_the_kind_of_each_broken_clip(mixed):
    clips, _ = mixed
    dataset = ViewDataset(clips, (4, 2), TEST, views=1)
    _ = [dataset[index] for index in range(len(dataset))]
    kinds = {os.path.basename(entry.path): entry.kind for entry in dataset.broken.entries()}
    assert kinds["zero_byte0.mp4"] == "empty"
    assert kinds["audio_only1.mp4"] == "audio only"
    assert kinds["one_frame2.mp4"] == kinds["picture0.mp4"] == "too short"
    assert kinds["missing1.mp4"] == "missing"
    assert kinds["text0.mp4"] == "not a video"
    assert kinds["truncated0.mp4"] == kinds["truncated2.mp4"] == kinds["zeroed1.mp4"] == "damaged"


@pytest.mark.parametrize("make", [ClipDataset, ViewDataset])
def test_broken_clips_raise_if_requested(tmp_path, make):
    film(tmp_path / "a/1.mp4")
    touch(tmp_path / "a/2.mp4")
    transform = TRAIN if make is ClipDataset else TEST
    dataset = make(find_clips(tmp_path), (2, 1), transform, on_error="fail")
    with pytest.raises(BrokenVideoError, match=r"2\.mp4"):
        dataset[1 if make is ClipDataset else 10]
    assert len(dataset.broken) == 1
    with pytest.raises(ValueError, match="on_error: got 'replace', expected 'fail' or 'skip'"):
        make(find_clips(tmp_path), (2, 1), transform, on_error="replace")


def test_a_dataset_of_broken_clips_raises(tmp_path):
    touch(tmp_path / "a/1.mp4", tmp_path / "a/2.mp4")
    dataset = ClipDataset(find_clips(tmp_path), (2, 1), TRAIN)
    with pytest.raises(BrokenVideoError, match=r"none of the 2 clips in .* can be read"):
        dataset[0]
    assert len(dataset.broken) == 2


def test_reading_stops_at_the_time_limit(tmp_path, monkeypatch):
    """A simulated clock advances by 20 seconds per frame, so the result does not depend on the machine."""
    slow, quick = film(tmp_path / "a/slow.mp4", 1, frames=20), film(tmp_path / "a/z.mp4", 2)
    convert, now = Converter.convert, [0.0]

    def delayed(self, frame):
        now[0] += 20 if frame.pts else 0
        return convert(self, frame)

    monkeypatch.setattr(Converter, "convert", delayed)
    monkeypatch.setattr("torch_nonlocal.media.broken.time", SimpleNamespace(monotonic=lambda: now[0]))
    with pytest.raises(BrokenVideoError, match=r"slow.mp4' takes longer than the limit of 100 s") as caught:
        read_sampled(slow, range, lambda frame: frame, time_limit=100)
    assert caught.value.kind == "time limit"
    dataset = ClipDataset(find_clips(tmp_path), (20, 1), TRAIN, decode_timeout=300)
    assert dataset[0][2] == 1  # z.mp4 has 12 frames, decoded once each
    assert [entry.kind for entry in dataset.broken.entries()] == ["time limit"]
    assert read_clip(quick).shape[0] == 12


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(BrokenVideoError, match="is not a regular file"):
        read_sampled(tmp_path / "pipe.mp4", range, lambda frame: frame)


READ_8K = """
import resource, sys
from torch_nonlocal.data.clips import find_clips
from torch_nonlocal.data.dataset import ClipDataset
from torch_nonlocal.media import TrainTransform
small, large = (ClipDataset(find_clips(root), (12, 1), TrainTransform(32), on_error="fail") for root in sys.argv[1:])
small[0]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert large[0][0].shape == (3, 12, 32, 32)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
def test_an_8k_clip_takes_the_memory_of_a_few_frames(tmp_path):
    film(tmp_path / "small/a/1.mp4")
    (tmp_path / "large/a").mkdir(parents=True)
    with av.open(str(tmp_path / "large/a/8k.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 7680, 4320, "yuvj420p"
        frame = av.VideoFrame(7680, 4320, "yuvj420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for pts in range(12):
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    command = [sys.executable, "-c", READ_8K, str(tmp_path / "small"), str(tmp_path / "large")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 600, f"{grown} MiB more; the clip's twelve frames would be 1139"


def test_all_processes_and_resumed_runs_share_one_report(tmp_path):
    report = BrokenClips(tmp_path / "broken.jsonl")
    assert report.entries() == ()
    report.add("b.mp4", BrokenVideoError("gone", "missing"))
    pickle.loads(pickle.dumps(report)).add("a.mp4", OSError("no"))
    report.add("b.mp4", BrokenVideoError("gone again", "missing"))
    with report.path.open("a") as file:
        file.write('{"path": "c.mp4", "ki')  # the process was killed while writing
    again = BrokenClips(tmp_path / "broken.jsonl").entries()
    assert [(entry.path, entry.kind, entry.reason) for entry in again] == [
        ("a.mp4", "unreadable", "no"),
        ("b.mp4", "missing", "gone"),
    ]


def test_a_clip_is_reported_once_for_each_kind_of_problem(tmp_path):
    file = tmp_path / "broken.jsonl"
    first, second = BrokenClips(file), BrokenClips(file)
    for report in (first, second, first, BrokenClips(file), pickle.loads(pickle.dumps(second))):
        report.add("a.mp4", BrokenVideoError("gone", "missing"))
        report.add("b.mp4", BrokenVideoError("gone", "missing"))
    first.add("a.mp4", BrokenVideoError("cut short", "damaged"))
    assert len(file.read_text().splitlines()) == 3
    file.unlink()  # the next run creates a new file
    first.add("b.mp4", BrokenVideoError("gone", "missing"))
    assert [entry.path for entry in second.entries()] == ["b.mp4"]


def test_bad_arguments_raise(good):
    with pytest.raises(ValueError, match="views: got 0, expected 1 or more"):
        ViewDataset(good, (4, 2), TEST, views=0)
    with pytest.raises(ValueError, match="no clips in"):
        ClipDataset(ClipList(good.root, ("a",), ()), (4, 2), TRAIN)
