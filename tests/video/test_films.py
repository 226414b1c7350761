"""Every frame of a few hundred generated files equals that of FFmpeg's command line; run by `make test-video`."""

import random
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("av", reason="PyAV decodes: pip install 'torch-nonlocal[video]'")
np = pytest.importorskip("numpy", reason="frames become arrays: pip install 'torch-nonlocal[video]'")

from films import FILMS, Film, by_command_line, make, unavailable  # noqa: E402 (after the skips)

from torch_nonlocal.media import probe, read_clip  # noqa: E402
from torch_nonlocal.media.inspect import inspect_video  # noqa: E402

pytestmark = pytest.mark.video
FIELD_CODED = Path(__file__).resolve().parents[3] / "shared" / "data" / "video"


@pytest.fixture(autouse=True, scope="module")
def ffmpeg():
    if shutil.which("ffmpeg") is None:
        unavailable("FFmpeg's command line is not installed")


def compare(path: Path) -> None:
    """Count, order and pixels of all frames, and clips from anywhere, equal FFmpeg's command line."""
    info = probe(path)
    clip = read_clip(path)
    assert clip.shape == (info.frames, info.height, info.width, 3)
    data = by_command_line(path)
    assert len(data) == clip.numel(), f"{info}; FFmpeg gives {len(data) / clip[0].numel()} frames of this size"
    expected = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(clip.shape)
    near = (clip.int() - expected.int()).abs() <= 2
    worst, frame = near.flatten(1).float().mean(1).min(0)
    assert worst >= 0.99, f"frame {int(frame)}: {float(worst):.3f} of the values are within 2 levels"
    seen = inspect_video(path)
    assert (seen.frames, seen.height, seen.width) == clip.shape[:3]
    pick = random.Random(0)
    last = info.frames - 1
    choices = [[0], [last], [last // 2], sorted({1 % (last + 1), last // 3, 2 * last // 3})]
    choices += [list(range(pick.randint(0, last), last + 1, 2)), [pick.randint(0, last) for _ in range(4)]]
    for wanted in choices:
        assert torch.equal(read_clip(path, frames=wanted), clip[wanted]), f"frames {wanted}"


@pytest.mark.parametrize("film", FILMS, ids=lambda film: film.name)
def test_frames_equal_those_of_the_command_line(film: Film, tmp_path):
    compare(make(film, tmp_path))


@pytest.mark.skipif(not FIELD_CODED.is_dir(), reason="no encoder writes frames as two fields; the samples are not here")
@pytest.mark.parametrize("name", ["field-coded.ts", "field-coded.mp4"])
def test_frames_coded_as_two_fields_equal_those_of_the_command_line(name):
    assert probe(FIELD_CODED / name).frames == 181
    compare(FIELD_CODED / name)
