"""How fast clips come out of the DataLoader, against PyAV that decodes the same frames and does nothing else.

    python benchmarks/loader.py

Both read the same random 64-to-32 clips of generated 320 x 240 videos with the same number of processes. Raw decoding
opens the file, seeks, decodes up to the last frame wanted and makes RGB arrays of those wanted. The loader also finds
the frames by their exact index, crops, resizes to 224 x 224, normalises to float32 and hands batches to the main
process. The best of a few rounds counts on either side, taken in turns.
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import av
import torch
from torch.utils.data import DataLoader

from torch_nonlocal.data.clips import find_clips
from torch_nonlocal.data.dataset import ClipDataset, collate_clips, item_generator
from torch_nonlocal.video import TrainTransform, parse_schedule, random_clip, write_mp4

SCHEDULE = parse_schedule("64-to-32")


def write_videos(root: Path, videos: int, frames: int) -> None:
    """Videos of smooth texture that pans and flickers a little: about the bits of a Kinetics clip of this size."""
    for number in range(videos):
        generator = torch.Generator().manual_seed(number)
        coarse = torch.rand(1, 3, 24, 32, generator=generator)
        world = torch.nn.functional.interpolate(coarse, (480, 640), mode="bicubic")[0].permute(1, 2, 0).clamp(0, 1)
        grain = 0.08 * torch.randn(480, 640, 3, generator=generator)

        def pan(world: torch.Tensor = world, grain: torch.Tensor = grain):
            for t in range(frames):
                y, x = t * 240 // frames, (2 * t) % 320
                noisy = world[y : y + 240, x : x + 320] + grain[:240, t % 7 : t % 7 + 320]
                yield (255 * noisy.clamp(0, 1)).to(torch.uint8)

        folder = root / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        write_mp4(folder / f"{number}.mp4", pan(), 25)


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


def main() -> None:
    """Writes the videos, measures both in turns and prints the rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=32, help="number of videos (default 32)")
    parser.add_argument("--frames", type=int, default=300, help="frames of each (default 300)")
    parser.add_argument("--workers", type=int, default=2, help="processes on either side (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="times that all videos are read (default 3)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_videos(root, given.videos, given.frames)
        clips = find_clips(root)
        dataset = ClipDataset(clips, SCHEDULE, TrainTransform(), on_error="fail")
        draws = [item_generator(dataset.seed, dataset.epoch, index) for index in range(len(clips))]
        wanted = [random_clip(given.frames, *SCHEDULE, generator) for generator in draws]  # what the dataset draws
        jobs = [(str(clip.path), 25, indices) for clip, indices in zip(clips.clips, wanted, strict=True)]
        frames = SCHEDULE.length * len(clips)
        raw, loaded = [], []
        loader = DataLoader(
            dataset, batch_size=4, num_workers=given.workers, collate_fn=collate_clips, persistent_workers=True
        )
        with multiprocessing.Pool(given.workers) as pool:
            for _ in range(given.rounds + 1):  # the first starts the processes and does not count
                begin = time.perf_counter()
                assert sum(pool.imap_unordered(decode_raw, jobs)) == frames
                raw.append(frames / (time.perf_counter() - begin))
                begin = time.perf_counter()
                assert sum(len(labels) for _, labels, _ in loader) == len(clips)
                loaded.append(frames / (time.perf_counter() - begin))
        best_raw, best_loaded = max(raw[1:]), max(loaded[1:])
        print(f"{len(clips)} videos of {given.frames} frames, 320 x 240, H.264; {given.workers} processes, 64-to-32")
        print(f"raw PyAV:   {best_raw:8.0f} frames/s ({best_raw / SCHEDULE.length:.1f} clips/s)")
        print(f"DataLoader: {best_loaded:8.0f} frames/s ({best_loaded / SCHEDULE.length:.1f} clips/s)")
        print(f"ratio:      {best_loaded / best_raw:8.2f}")


if __name__ == "__main__":
    main()
