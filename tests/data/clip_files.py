"""Small video files, good and broken, for tests of datasets."""

from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from torch_nonlocal.media import write_mp4


def film(path: Path, seed: int = 0, *, frames: int = 12, height: int = 48, width: int = 64, rate: int = 25) -> Path:
    """A readable clip whose pixels depend on the seed; red increases over time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texture = torch.randint(0, 120, (height // 8, width // 8, 3), generator=torch.Generator().manual_seed(seed))
    still = texture.repeat_interleave(8, 0).repeat_interleave(8, 1).expand(frames, -1, -1, -1).clone()
    still[..., 0] = 20 * torch.arange(frames).view(-1, 1, 1) % 256
    return write_mp4(path, still.to(torch.uint8), rate)


def folder_of_frames(path: Path, frames: int = 6) -> Path:
    """Numbered images whose red value is 10 times their number; 10 follows 9."""
    path.mkdir(parents=True)
    for number in range(1, frames + 1):
        Image.new("RGB", (64, 48), (10 * number, 50, 90)).save(path / f"img_{number}.png")
    return path


def touch(*paths: Path) -> None:
    """Create empty files, whose content does not matter."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def meaning(clips) -> list[tuple]:
    """(clip, class), with the span if there is one."""
    found = []
    for clip in clips.clips:
        span = () if clip.start is clip.end is None else (clip.start, clip.end)
        found.append((clips.name(clip), clips.classes[clip.label], *span))
    return found


def sound(path: Path) -> None:
    """An MP4 with an audio stream and no video stream."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        for part in range(8):
            samples = np.sin(np.arange(1024, dtype=np.float32) + 1024 * part)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * part
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def broken_files(folder: Path) -> list[Path]:
    """Thirty .mp4 files that are not readable clips, three of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    whole = film(folder / "whole.mp4", 99, frames=40).read_bytes()
    (folder / "whole.mp4").unlink()
    data = whole.index(b"mdat")
    written = []
    for number in range(3):

        def path(kind: str, number: int = number) -> Path:
            written.append(folder / f"{kind}{number}.mp4")
            return written[-1]

        path("zero_byte").write_bytes(b"")
        path("random_bytes").write_bytes(noise.bytes(3000 + 1000 * number))
        path("text").write_text("words, not pictures\n" * (40 + number))
        path("truncated").write_bytes(whole[: data + (len(whole) - data) * (number + 1) // 4])
        path("header_only").write_bytes(whole[: 24 + 100 * number])
        path("zeroed").write_bytes(whole[: data + 4] + bytes(len(whole) - data - 4 + number))
        sound(path("audio_only"))
        film(path("one_frame"), number, frames=1)
        Image.new("RGB", (64, 48), (number, 9, 9)).save(path("picture"), format="PNG")
        path("missing")  # a link to nothing: it is listed, but cannot be opened
        written[-1].symlink_to(folder / f"nowhere{number}")
    return written
