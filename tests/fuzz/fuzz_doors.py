"""Every function that reads a file from a stranger, as doors by kind of file. Importing this imports them all."""

import contextlib
import copy
import io
import sys
from functools import cache
from pathlib import Path

import torch
from fuzz_harness import Door
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.cli import main
from torch_nonlocal.cli.app import parse
from torch_nonlocal.data import available_splits, check_clips, find_clips, train_and_test
from torch_nonlocal.data.tracklets.check import check_tracklets
from torch_nonlocal.data.tracklets.find import find_tracklets
from torch_nonlocal.media import probe, read_clip, read_sampled
from torch_nonlocal.media.inspect import inspect_video
from torch_nonlocal.models.hub import HubModel
from torch_nonlocal.tasks.loading import load
from torch_nonlocal.tasks.viewing import read_frames
from torch_nonlocal.training import checkpoint, load_weights_file
from torch_nonlocal.weights import convert_weights

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import tiny_training

_TIME_LIMIT = 5.0


def preload() -> None:
    """Import what doors import when they are called, so that no child process counts it as memory of a file."""
    import av
    import numpy
    import PIL.Image
    import safetensors.torch
    import torchvision.transforms.v2  # noqa: F401

    assert all((av, numpy, PIL.Image, safetensors.torch))
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        for command in ("convert", "data check"):
            parse([*command.split(), "--help"])


def command(*words: str) -> None:
    """Run a command of `nonlocal`. What it prints as an error is raised, so that it is judged as any other error.

    Raises:
        ValueError: the command failed; the text is what it printed on standard error.
        AssertionError: it printed control characters.
    """
    out, errors = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            main(words)
        except SystemExit as stopped:
            code = stopped.code
    printed = out.getvalue() + errors.getvalue()
    assert all(line.isprintable() for line in printed.split("\n")), f"control characters printed: {printed!r:.300}"
    if code not in (0, 1, None):  # 1: the command found something, which is its purpose
        raise ValueError(errors.getvalue().removesuffix("\n"))


@cache
def _network() -> nn.Module:
    return tiny_training.network()


def _resume(path: Path) -> None:
    folder = next(parent for parent in path.parents if (parent / "config.json").exists())
    config = tiny_training.plain_config(epochs=1)
    tiny_training.train(folder, config)


def _evaluated(path: Path) -> None:
    model = load(path)
    with torch.no_grad():
        model(torch.zeros(1, 1, 8, 32, 32))


def _frames(path: Path) -> None:
    folder = path.parent
    read_sampled(folder, lambda total: [0, total - 1], lambda picture: picture, time_limit=_TIME_LIMIT)


def _clips(root: Path) -> None:
    for on_error in ("skip", "fail"):
        find_clips(root, on_error=on_error)


def _tracklets(path: Path) -> None:
    data = find_tracklets(next(parent for parent in path.parents if parent.name == "set"))
    check_tracklets(data, workers=1, time_limit=_TIME_LIMIT)


def _table(path: Path) -> None:
    if path.suffix == ".csv" and "fold" not in path.name:
        find_tracklets(path)


TENSORS = (
    Door("read_weights", lambda path, out: nl.read_weights(path)),
    Door("load_weights", lambda path, out: nl.load_weights(copy.deepcopy(_network()), path)),
    Door("load_blocks", lambda path, out: nl.load_blocks(copy.deepcopy(_network()), path)),
    Door("convert_weights", lambda path, out: convert_weights(path)),
    Door("checkpoint.read", lambda path, out: checkpoint.read(path)),
    Door("load_weights_file", lambda path, out: load_weights_file(path)),
    Door("nonlocal convert", lambda path, out: command("convert", str(path), str(out / "converted.pt"))),
)
TRAINED = (
    Door("read_weights", lambda path, out: nl.read_weights(path)),
    Door("load_weights_file", lambda path, out: load_weights_file(path)),
    Door("weights of action recognition", lambda path, out: _evaluated(path)),
)
RUN = (
    Door("read_weights", lambda path, out: nl.read_weights(path)),
    Door("is_begun", lambda path, out: checkpoint.is_begun(path.parents[1])),
    Door("resume", lambda path, out: _resume(path), writes=True),
)
CONFIG = (Door("resume", lambda path, out: _resume(path), writes=True),)
HUB = (Door("HubModel", lambda path, out: HubModel.from_pretrained(path.parent)),)
LISTS = (
    Door("find_clips of the folder", lambda path, out: _clips(path.parent)),
    Door("find_clips of the list", lambda path, out: _clips(path)),
    Door("available_splits", lambda path, out: available_splits(path.parent)),
    Door("train_and_test", lambda path, out: train_and_test(path.parent)),
    Door("nonlocal data check", lambda path, out: command("data", "check", str(path.parent))),
)
VIDEO = (
    Door("probe", lambda path, out: probe(path)),
    Door("read_clip", lambda path, out: read_clip(path, start=1, stride=2, count=3)),
    Door("read_sampled", lambda path, out: read_sampled(path, lambda n: [n - 1, 0], lambda p: p[:8, :8], time_limit=5)),
    Door("inspect_video", lambda path, out: inspect_video(path, time_limit=_TIME_LIMIT)),
    Door("read_frames", lambda path, out: read_frames([path], frames=4)),
    Door("check_clips", lambda path, out: check_clips(find_clips(path.parents[1]), workers=1, time_limit=_TIME_LIMIT)),
)
PICTURE = (
    Door("read_clip", lambda path, out: read_clip(path)),
    Door("read_frames", lambda path, out: read_frames([path, path], frames=2)),
    Door("read_sampled of the folder", lambda path, out: _frames(path)),
    Door("inspect_video of the folder", lambda path, out: inspect_video(path.parent, time_limit=_TIME_LIMIT)),
)
TRACKLETS = (
    Door("find_tracklets", lambda path, out: _tracklets(path)),
    Door("find_tracklets of the table", lambda path, out: _table(path)),
)
OF_KIND: dict[str, tuple[Door, ...]] = {
    "tensors": TENSORS,
    "trained": TRAINED,
    "run": RUN,
    "config": CONFIG,
    "hub": HUB,
    "list": LISTS,
    "video": VIDEO,
    "picture": PICTURE,
    "tracklets": TRACKLETS,
}
