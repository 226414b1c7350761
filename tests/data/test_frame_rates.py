"""Frame rates of data: resampling at reading, the time that a clip spans, and what the check of a dataset says."""

from dataclasses import replace

import pytest

for module, extra in {"av": "video", "torchvision": "train"}.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

from clip_files import film, folder_of_frames  # noqa: E402 (after the skips)

from torch_nonlocal.data.check import check_clips  # noqa: E402
from torch_nonlocal.data.clips import find_clips  # noqa: E402
from torch_nonlocal.data.dataset import ClipDataset, ViewDataset  # noqa: E402
from torch_nonlocal.media.transforms import EvalTransform, TrainTransform  # noqa: E402
from torch_nonlocal.tasks.action.clip_span import check_rates, span_lines  # noqa: E402
from torch_nonlocal.tasks.action.settings import ActionSettings  # noqa: E402

SETTINGS = ActionSettings(frames="8x8")


def clips_at(root, *rates):
    for number, rate in enumerate(rates):
        film(root / f"c/{number}.mp4", number, frames=12, rate=rate)
    return find_clips(root)


def numbers(clip_CTHW):
    """The frames of a clip of `film`, by their red."""
    return (clip_CTHW[0].float().mean((1, 2)) / 20).round().int().tolist()


@pytest.mark.parametrize(
    ("rate", "fps", "expected"),
    [(30, None, [4, 5, 6, 7]), (30, 15, [2, 4, 6, 8]), (30, 10, [0, 3, 6, 9]), (10, 20, [5, 5, 6, 6])],
)
def test_videos_are_resampled_as_they_are_read(tmp_path, rate, fps, expected):
    clips = clips_at(tmp_path, rate)
    views = ViewDataset(clips, (4, 1), EvalTransform(crop=32), views=1, on_error="fail", fps=fps)
    item = views[0]
    assert item is not None
    assert numbers(item[0][0]) == expected
    random = ClipDataset(clips, (4, 1), TrainTransform(crop=32, flip=False), on_error="fail", fps=fps)
    steps = {b - a for a, b in zip(numbers(random[0][0]), numbers(random[0][0])[1:], strict=False)}
    assert steps <= ({1} if fps is None else {0, 1} if fps > rate else {rate // fps})


def test_rates_that_are_not_above_0_raise(tmp_path):
    clips = clips_at(tmp_path, 25)
    with pytest.raises(ValueError, match="fps: got 0, expected frames per second above 0"):
        ViewDataset(clips, (4, 1), EvalTransform(crop=32), fps=0)
    with pytest.raises(ValueError, match=r"fps=-1: expected frames per second, above 0 and at most 1,000"):
        ActionSettings(fps=-1)


@pytest.mark.parametrize(
    ("rates", "fps", "lines"),
    [
        ([30, 30], None, ["a clip spans 64 frames: 2.1 s at 30 fps"]),
        ([30, 25], None, ["a clip spans 64 frames: 2.1 s at 30 fps to 2.6 s at 25 fps (2 clips sampled)"]),
        (
            [15, 120, 30],
            None,
            [
                "a clip spans 64 frames: 0.5 s at 120 fps to 4.3 s at 15 fps (3 clips sampled)",
                "warning: the frame rates differ; --fps 30 gives all clips the same span",
            ],
        ),
        ([15, 120], 10.0, ["a clip spans 64 frames at 10 fps: 6.4 s"]),
    ],
)
def test_the_span_of_a_clip_is_told_in_seconds(tmp_path, rates, fps, lines):
    assert span_lines(clips_at(tmp_path, *rates), replace(SETTINGS, fps=fps)) == lines


def test_folders_of_images_cannot_be_resampled(tmp_path):
    folder_of_frames(tmp_path / "c/frames")
    clips = find_clips(tmp_path)
    assert span_lines(clips, SETTINGS) == ["a clip spans 64 frames"]
    check_rates(clips, SETTINGS)
    with pytest.raises(ValueError, match=r"fps=25: 'c/frames' is a folder of images, which has no frame rate"):
        check_rates(clips, replace(SETTINGS, fps=25.0))


def test_the_check_of_a_dataset_tells_the_rates(tmp_path, capsys):
    pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
    from torch_nonlocal.cli.entry import main

    assert check_clips(clips_at(tmp_path, 15, 30, 60)).rates() == pytest.approx((15, 30, 60))
    main(["data", "check", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "frames per second: 15 to 60, median 30\n" in printed
    assert "warning: the frame rates differ; train with --fps 30 to give all clips the same span\n" in printed


def test_parts_of_files_are_read_by_the_times_of_a_list(tmp_path):
    film(tmp_path / "long.mp4", 1, frames=12, rate=4)
    (tmp_path / "train.csv").write_text("path,label,start,end\nlong.mp4,a,0.0,1.0\nlong.mp4,b,1.0,2.5\n")
    clips = find_clips(tmp_path, "train")
    views = ViewDataset(clips, (3, 1), EvalTransform(crop=32), views=2, on_error="fail")
    items = [views[index] for index in range(4)]
    assert [numbers(item[0][0]) for item in items if item is not None] == [
        [0, 1, 2], [1, 2, 3], [4, 5, 6], [7, 8, 9]
    ]  # fmt: skip
    assert [item[1:] for item in items if item is not None] == [(0, 0), (0, 0), (1, 1), (1, 1)]
    random = ClipDataset(clips, (3, 1), TrainTransform(crop=32, flip=False), on_error="fail")
    for epoch in range(4):
        random.set_epoch(epoch)
        assert set(numbers(random[0][0])) <= {0, 1, 2, 3}
        assert set(numbers(random[1][0])) <= {4, 5, 6, 7, 8, 9}
    assert list(clips.fingerprint()) == ["long.mp4@0.0-1.0", "long.mp4@1.0-2.5"]
