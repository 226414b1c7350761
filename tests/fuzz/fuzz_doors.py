"""Every function that reads a file from a stranger, as doors by kind of file. Importing this imports them all."""

import contextlib
import copy
import io
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
from fuzz_harness import Door
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal import gallery
from torch_nonlocal.cli import main
from torch_nonlocal.cli.app import parse
from torch_nonlocal.data import available_splits, check_clips, find_clips, train_and_test
from torch_nonlocal.data.tracklets.check import check_tracklets
from torch_nonlocal.data.tracklets.find import find_tracklets
from torch_nonlocal.gallery import manifest as gallery_files
from torch_nonlocal.gallery.parts import digest_of
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
    import faiss
    import PIL.Image
    import pyarrow.parquet
    import safetensors.torch
    import torchvision.transforms.v2  # noqa: F401

    assert all((av, faiss, PIL.Image, pyarrow.parquet, safetensors.torch))
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        for command in ("convert", "data check", "gallery calibrate", "gallery delete"):
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


def _renewed(path: Path, out: Path) -> Path:
    """A copy of a gallery whose digests are those of its files, as a stranger would write them."""
    folder = out / "gallery"
    folder.mkdir(exist_ok=True)
    for one in (*folder.iterdir(), *path.parent.iterdir()):
        (folder / one.name).unlink(missing_ok=True)
        if one.parent == path.parent:
            (folder / one.name).write_bytes(one.read_bytes())
    text = (folder / gallery_files.FILE).read_text(encoding="utf-8", errors="surrogateescape")
    for one in folder.iterdir():
        digest = r'("file": "' + re.escape(one.name) + r'",\s*"rows": [^,]*,\s*"sha256": ")[^"]*'
        text = re.sub(digest, lambda found, one=one: found[1] + digest_of(one), text)
    (folder / gallery_files.FILE).write_text(text, encoding="utf-8", errors="surrogateescape")
    return folder


def _search(folder: Path) -> None:
    opened = gallery.open_gallery(folder)
    queries = np.random.default_rng(0).standard_normal((3, opened.dimension))
    bys: tuple[gallery.By, ...] = ("tracklet", "person")
    for by in bys:
        for answer in opened.search(queries, 20, by=by):
            assert answer.matches[0].entry.identity == answer.matches[0].identity
            assert answer.is_known in (None, True, False)


def _change(folder: Path) -> None:
    recorded = gallery_files.read_manifest(folder)
    vectors = np.random.default_rng(0).standard_normal((2, recorded.dimension))
    new = [gallery.Entry(f"new{number:05d}", f"person {100 + number}", "") for number in range(2)]
    gallery.add(folder, new, lambda chosen: (vectors[list(chosen)], chosen), recorded.model)
    gallery.delete(folder, identities=["person 101"])
    gallery.recalibrate(folder, 0.3)


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
GALLERY = (
    Door("open_gallery", lambda path, out: _search(path.parent)),
    Door("open_gallery, digests renewed", lambda path, out: _search(_renewed(path, out))),
    Door("add, delete and recalibrate", lambda path, out: _change(_renewed(path, out))),
    Door("calibrate", lambda path, out: command("gallery", "calibrate", str(_renewed(path, out)), "--rate", "0.5")),
    Door("delete", lambda path, out: command("gallery", "delete", str(_renewed(path, out)), "--tracklet", "t00001")),
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
    "gallery": GALLERY,
}
