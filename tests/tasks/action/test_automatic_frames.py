"""The automatic choice between uniform clips and windows, and the runs that keep it."""

import dataclasses
import json
import re

import pytest
import torch

for package in ("accelerate", "av", "torchmetrics", "torchvision", "sklearn"):
    pytest.importorskip(package, reason="pip install 'torch-nonlocal[train]'")

from action_runs import CONFIG, SETTINGS, film, train, use_tiny_networks  # noqa: E402

import torch_nonlocal as nl  # noqa: E402
from torch_nonlocal.cli import main  # noqa: E402
from torch_nonlocal.data.clip_list import Clip, ClipList  # noqa: E402
from torch_nonlocal.data.clips import find_clips  # noqa: E402
from torch_nonlocal.media.lengths import Length, video_length  # noqa: E402
from torch_nonlocal.tasks.action.automatic_frames import automatic_frames, sampled_lengths  # noqa: E402
from torch_nonlocal.tasks.action.data import Digits  # noqa: E402
from torch_nonlocal.tasks.action.evaluation import evaluate  # noqa: E402
from torch_nonlocal.tasks.action.recipes import hardware_recipe  # noqa: E402
from torch_nonlocal.tasks.action.settings import AUTO, DIGITS, ActionSettings, settings_of_file  # noqa: E402
from torch_nonlocal.tasks.trained_viewing import TrainedNetwork  # noqa: E402
from torch_nonlocal.training import load_weights_file  # noqa: E402

AUTOMATIC = dataclasses.replace(SETTINGS, frames=AUTO)


@pytest.fixture
def tiny(monkeypatch):
    use_tiny_networks(monkeypatch)


def clips_in(root, frames=6, **options):
    """A folder with two classes of clips of equal lengths."""
    for number in range(12):
        film(root / ("a" if number % 2 else "b") / f"{number}.mp4", number, frames=frames, **options)
    return root


@pytest.mark.parametrize(
    ("frames", "rate", "chosen"),
    [
        ([300] * 8, 30, "uniform-8"),  # ten seconds
        ([600] * 8, 60, "uniform-8"),  # ten seconds at a high frame rate
        ([30] * 8, None, "uniform-8"),  # shorter than a window; folders of frames
        ([250, 300, 90_000, 280, 260], 25, "uniform-8"),  # one long clip of five
        ([3000] * 8, 25, "8x8"),  # two minutes
        ([1200] * 8, 120, "uniform-8"),
        ([240] * 8, 10, "8x8"),  # 24 s at a low frame rate
        ([640] * 3, None, "uniform-8"),
        ([641] * 3, None, "8x8"),
        ([100, 100, 3000, 9000], 25, "8x8"),  # half of the clips are long
        ([], 25, "8x8"),
    ],
)
def test_short_clips_are_covered_and_long_ones_get_windows(frames, rate, chosen):
    choice = automatic_frames([Length(one, None if rate is None else one / rate) for one in frames])
    assert choice.frames == chosen
    assert choice.reason.startswith(f"frames {chosen}, chosen automatically: ")


def test_the_reason_has_the_lengths():
    reason = automatic_frames([Length(300, 10.0), Length(240, 8.0), Length(320, 10.7)]).reason
    assert reason.endswith(
        "the median clip has 300 frames, 10.0 s, the longest 320 frames (3 clips sampled): 8 frames cover a whole "
        "clip; a window of 64 frames shows 21% of it"
    )


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".gif"])
def test_lengths_come_from_the_header_or_from_counting(tmp_path, suffix):
    import av

    path = tmp_path / f"clip{suffix}"
    codec, pixels = {".gif": ("gif", "rgb8"), ".avi": ("mpeg4", "yuv420p")}.get(suffix, ("libx264", "yuv420p"))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=20)
        stream.width = stream.height = 32
        stream.pix_fmt = pixels
        for number in range(50):
            picture = torch.full((32, 32, 3), 4 * number, dtype=torch.uint8).numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture).reformat(format=pixels)))
        container.mux(stream.encode(None))
    found = video_length(path)
    assert found.frames == 50
    assert found.seconds == pytest.approx(2.5, abs=0.06)


def test_lengths_are_those_of_the_parts_that_are_read(tmp_path):
    path = film(tmp_path / "a" / "0.mp4", 0, frames=100)
    parts = [Clip(path, 0), Clip(path, 0, start=1.0), Clip(path, 0, end=3.0), Clip(path, 0, start=1.0, end=2.5)]
    clips = ClipList(tmp_path, ("a",), tuple(parts))
    assert [one.frames for one in sampled_lengths(clips)] == [100, 75, 75, 38]
    assert [one.frames for one in sampled_lengths(clips, fps=10)] == [40, 30, 30, 15]
    (tmp_path / "a" / "1.mp4").write_bytes(b"\0" * 100)
    assert len(sampled_lengths(find_clips(tmp_path))) == 1


def test_the_choice_is_printed_saved_and_kept_by_a_resumed_run(tmp_path, tiny):
    data = clips_in(tmp_path / "clips")
    result, lines = train(data, tmp_path / "run", AUTOMATIC)
    assert len([line for line in lines if line.startswith("frames uniform-8, chosen automatically: ")]) == 1
    (training,) = (re.search(r"clips: (\d+) training clips", line)[1] for line in lines if " training clips, " in line)
    assert f"note: {training} of {training} sampled clips have fewer than 8 frames: frames repeat in order" in lines
    assert json.loads((tmp_path / "run" / "config.json").read_text())["about"]["frames"] == "uniform-8"
    assert load_weights_file(result.weights)["about"]["frames"] == "uniform-8"
    for number in range(40):  # as long as videos that get windows
        film(data / ("a" if number % 2 else "b") / f"long{number}.mp4", 50 + number, frames=40, rate=1)
    longer = dataclasses.replace(CONFIG, epochs=2, extend=True)
    again, lines = train(data, tmp_path / "run", AUTOMATIC, longer)
    assert again.step > result.step
    assert not [line for line in lines if line.startswith("frames ")]
    assert load_weights_file(again.weights)["about"]["frames"] == "uniform-8"
    _, lines = train(data, tmp_path / "new", AUTOMATIC)
    assert [
        line for line in lines if line.startswith("frames 8x8, chosen automatically: the median clip has 40 frames")
    ]


def test_a_run_that_began_with_windows_resumes_with_them(tmp_path, tiny):
    data = clips_in(tmp_path / "clips", frames=20)
    train(data, tmp_path / "run", dataclasses.replace(SETTINGS, frames="8x8"))
    result, _ = train(data, tmp_path / "run", AUTOMATIC, dataclasses.replace(CONFIG, epochs=2, extend=True))
    assert load_weights_file(result.weights)["about"]["frames"] == "8x8"


def test_uniform_clips_are_trained_tested_and_predicted_alike(tmp_path, tiny):
    data = clips_in(tmp_path / "clips", frames=20)
    result, _ = train(data, tmp_path / "run", dataclasses.replace(SETTINGS, frames="uniform-4", fps=12.5))
    tested = evaluate(result.weights, data, whole=True, views=2)
    paths = [clip.path for clip in tested.clips.clips]
    found = nl.load(result.weights).predict(paths, views=2)
    for one, expected in zip(found, tested.probabilities, strict=True):
        assert one.note == ""
        assert dict(zip(one.classes, one.probabilities, strict=True)) == dict(
            zip(("a", "b"), expected.tolist(), strict=True)
        )


def test_the_recipe_for_videos_of_your_own_chooses_automatically():
    assert hardware_recipe(torch.device("cpu")).settings.frames == AUTO
    assert hardware_recipe(torch.device("cuda")).settings.frames == AUTO


def test_only_the_training_knows_the_automatic_choice():
    with pytest.raises(ValueError, match=r"got 'auto', expected .*; auto is for training on videos"):
        _ = ActionSettings(frames=AUTO).schedule
    with pytest.raises(ValueError, match="auto is for training on videos"):
        settings_of_file({"frames": "auto"})
    with pytest.raises(ValueError, match=r"or uniform-FRAMES such as uniform-8, or auto$"):
        ActionSettings(frames="whole")
    with pytest.raises(ValueError, match="frames=uniform-2000: expected at most 1,024 frames"):
        ActionSettings(frames="uniform-2000")


def test_moving_digits_have_no_length_to_cover():
    assert Digits(ActionSettings(DIGITS, frames=AUTO, crop=32)).frames == "8x1"
    with pytest.raises(ValueError, match=r"frames=uniform-8: moving digits .* expected FRAMESxSTRIDE such as 8x1"):
        Digits(ActionSettings(DIGITS, frames="uniform-8", crop=32))


def test_the_viewer_shows_the_centers_of_the_parts_unless_frames_are_given():
    settings = dataclasses.replace(SETTINGS, frames="uniform-4")
    trained = TrainedNetwork("best.pt", torch.nn.Identity(), settings, ("a", "b"), {})
    assert trained.length == 4
    assert list(trained.frames(None, frames=0, start=0, stride=0)(80)) == [10, 30, 50, 70]
    assert list(trained.frames(None, frames=0, start=8, stride=2)(80)) == [8, 10, 12, 14]
    assert list(trained.frames(None, frames=0, start=0, stride=0)(1)) == [0]


def test_the_check_of_the_data_names_the_choice(tmp_path, capsys):
    pytest.importorskip("rich", reason="pip install 'torch-nonlocal[train]'")
    main(["data", "check", str(clips_in(tmp_path / "clips", frames=20))])
    assert "training: frames uniform-8, chosen automatically: the median clip has 20 frames" in capsys.readouterr().out
