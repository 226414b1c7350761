"""Small valid files of every kind that doors read, and a few hostile ones, as starting points of mutations."""

import argparse
import contextlib
import io
import json
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
import torch
from PIL import Image

import torch_nonlocal as nl
from torch_nonlocal import gallery
from torch_nonlocal.gallery import index
from torch_nonlocal.media import write_gif, write_mp4
from torch_nonlocal.tasks.action.network import network
from torch_nonlocal.tasks.action.settings import DIGITS, ActionSettings
from torch_nonlocal.training import TrainConfig
from torch_nonlocal.training.run_folder import RunFolder

for _folder in ("training", "weights", "data/tracklets", "gallery"):
    sys.path.insert(0, str(Path(__file__).parents[1] / _folder))
import galleries  # noqa: E402
import miniatures  # noqa: E402
import tiny_training  # noqa: E402
from foreign_layouts import caffe2_blobs, named_as, random_parts  # noqa: E402


@dataclass(frozen=True)
class Seed:
    """A file to mutate.

    Attributes:
        name: path below the folder of a case.
        data: its content.
        kind: which doors read it, a key of `fuzz_doors.OF_KIND`.
        format: which mutations of structure apply, a key of `fuzz_formats.OF_FORMATS`.
        beside: other files below the folder of a case.
    """

    name: str
    data: bytes
    kind: str
    format: str
    beside: dict[str, bytes] = field(default_factory=dict, repr=False)


def seeds() -> list[Seed]:
    """All starting points; the same bytes in every process on one machine."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        return [*_tensors(root), *_runs(root), *_lists(), *_media(root), *_sets(root), *_galleries(root)]


def _written(write: Callable[[Path], object], path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    return path.read_bytes()


def _saved(content: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def _tensors(folder: Path) -> Iterator[Seed]:
    model = tiny_training.network()
    state = model.state_dict()
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    dtypes: dict[str, Any] = {
        "view": base[1:, ::2], "whole": base, "half": base.half(), "bfloat": base.bfloat16(), "long": base.long(),
        "bool": base > 0, "scalar": torch.tensor(3.5), "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(base),
    }  # fmt: skip
    numbers = {
        "epoch": 3,
        "acc": np.float64(0.5),
        "ids": np.arange(3),
        "names": ("a", "b"),
        "none": None,
        "nested": [{}],
    }
    parts = random_parts(3)
    yield Seed("state.pth", _saved(dict(state)), "tensors", "zip")
    yield Seed("wrapped.pth", _saved({"state_dict": state, **numbers}), "tensors", "zip")
    objects = {"net": torch.nn.Sequential(model), "args": argparse.Namespace(lr=0.1), "rng": np.random.get_state()}
    yield Seed("objects.pth", _saved(objects), "tensors", "zip")
    yield Seed("objects-legacy.pth", _saved(objects, _use_new_zipfile_serialization=False), "tensors", "pickle")
    yield Seed("legacy.pth", _saved(dict(state), _use_new_zipfile_serialization=False), "tensors", "pickle")
    yield Seed("dtypes.pth", _saved(dtypes), "tensors", "zip")
    yield Seed("mmcv.pth", _saved({"state_dict": named_as("mmcv", parts, "layer2.0.non_local")}), "tensors", "zip")
    yield Seed("tsm.pth", _saved(named_as("alexhex7 pooled", parts, "nl_1")), "tensors", "zip")
    for suffix, form in ((".pt", "zip"), (".safetensors", "safetensors")):
        blocks = _written(lambda path: nl.save_blocks(model, path), folder / f"blocks{suffix}")
        yield Seed(f"blocks{suffix}", blocks, "tensors", form)
    blobs = {"blobs": caffe2_blobs(parts, "nonlocal_conv3_1")}
    for protocol in (0, 2, 4):
        yield Seed(f"caffe2-{protocol}.pkl", pickle.dumps(blobs, protocol), "tensors", "pickle")
    yield from _hostile()


class _Call:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("true",)


def _hostile() -> Iterator[Seed]:
    itself: dict[str, Any] = {"weight": torch.zeros(2)}
    itself["model"] = itself
    nested: list[Any] = []
    for _ in range(30):
        nested = [nested, nested]
    yield Seed("call.pth", _saved({"state_dict": {"weight": torch.zeros(2), "x": _Call()}}), "tensors", "zip")
    yield Seed("call.pkl", pickle.dumps({"blobs": {"a": _Call()}}, 2), "tensors", "pickle")
    yield Seed("itself.pth", _saved(itself), "tensors", "zip")
    yield Seed("shared.pth", _saved({"weight": torch.zeros(2), "x": nested}), "tensors", "zip")
    yield Seed("shared.pkl", pickle.dumps({"a": np.zeros(2, "f4"), "x": nested}, 4), "tensors", "pickle")


def _runs(folder: Path) -> Iterator[Seed]:
    run = folder / "run"
    tiny_training.train(run, tiny_training.plain_config(epochs=1))
    files = {str(path.relative_to(folder)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    files = {name: data for name, data in files.items() if name.endswith((".pt", "config.json"))}
    for name, kind, form in (
        ("run/checkpoints/last.pt", "run", "zip"),
        ("run/checkpoints/best.pt", "run", "zip"),
        ("run/config.json", "config", "json"),
    ):
        yield Seed(name, files[name], kind, form, {other: data for other, data in files.items() if other != name})

    settings = ActionSettings(network=DIGITS, frames="8x1", crop=32, weights="none")
    classes = ["left", "right", "up"]
    about = {"task": "action", "classes": classes, **asdict(settings)}
    weights = {name: value.detach() for name, value in network(settings, len(classes)).state_dict().items()}
    trained = RunFolder(folder / "action", TrainConfig(epochs=1), about)
    data = _written(
        lambda path: trained.write_weights(path, weights, step=1, metrics={"top1": 0.5}), folder / "action.pt"
    )
    yield Seed("action.pt", data, "trained", "zip")

    hub = {
        "name": "i3d_resnet50",
        "num_classes": 3,
        "non_local": "paper-1",
        "block_options": {"pairwise": "dot_product"},
    }
    tensors = _written(lambda path: nl.save_blocks(tiny_training.network(), path), folder / "model.safetensors")
    beside = {"hub/model.safetensors": tensors}
    yield Seed("hub/config.json", json.dumps(hub).encode(), "hub", "json", beside)


def _lists() -> Iterator[Seed]:
    names = [f"{action}/{action}_{number}.mp4" for action in ("run", "sit", "jump") for number in range(4)]
    flat = {f"data/{name}": b"x" for name in names}
    labels = {"run": 0, "sit": 1, "jump": 2}
    kinetics = "label,youtube_id,time_start,time_end,split\n" + "".join(
        f"{name.split('/')[0]},{Path(name).stem},{i},{i + 10},train\n" for i, name in enumerate(names)
    )
    yield Seed("data/kinetics_train.csv", kinetics.encode(), "list", "list", flat)
    plain = "".join(f"{name} {labels[name.split('/')[0]]}\n" for name in names)
    yield Seed("data/train.txt", plain.encode(), "list", "list", flat)
    yield Seed("data/train.tsv", plain.replace(" ", "\t").encode(), "list", "list", flat)
    header = "path,label\n" + "".join(f"{name},{name.split('/')[0]}\n" for name in names)
    yield Seed("data/val.csv", header.encode(), "list", "list", flat)
    index = {"data/classInd.txt": b"1 run\n2 sit\n3 jump\n", "data/testlist01.txt": "\n".join(names[:3]).encode()}
    ucf = "".join(f"{name} {1 + labels[name.split('/')[0]]}\n" for name in names)
    yield Seed("data/trainlist01.txt", ucf.encode(), "list", "list", flat | index)
    yield Seed(
        "data/classInd.txt", index["data/classInd.txt"], "list", "list", flat | {"data/trainlist01.txt": ucf.encode()}
    )
    hmdb = "".join(f"{Path(name).name} {i % 3}\n" for i, name in enumerate(names[:4]))
    yield Seed("data/run_test_split1.txt", hmdb.encode(), "list", "list", flat)
    videos = {f"data/20bn-something-something-v2/{i}.webm": b"x" for i in range(6)}
    entries = [
        {"id": str(i), "label": "pushing cup", "template": "Pushing [something]", "placeholders": ["cup"]}
        for i in range(6)
    ]
    templates = json.dumps({"Pushing something": "0"}).encode()
    train = json.dumps(entries).encode()
    yield Seed("data/train.json", train, "list", "json", videos | {"data/labels.json": templates})
    yield Seed("data/labels.json", templates, "list", "json", videos | {"data/train.json": train})


def _sets(folder: Path) -> Iterator[Seed]:
    """The lists of sets of tracklets, each beside the other files of its set."""
    make: dict[str, Callable[[Path], object]] = {
        "mars": lambda root: miniatures.mars(root, train=2, test=2, frames=1),
        "ls": miniatures.ls_vid,
        "ilids": lambda root: miniatures.ilids_vid(root, frames=1, splits=[[3, 1, 4, 2]]),
        "bears": miniatures.polar_bears,
        "table": _table_of_boxes,
    }
    for name, write in make.items():
        write(folder / name)
        files = {f"set/{one.relative_to(folder / name)}": one.read_bytes() for one in (folder / name).rglob("*.*")}
        for path, data in sorted(files.items()):
            if Path(path).suffix in (".mat", ".txt") or path.endswith(("info_1.csv", "tracklets.csv")):
                form = "list" if path.endswith(("csv", "txt")) else "bytes"
                yield Seed(path, data, "tracklets", form, {one: beside for one, beside in files.items() if one != path})


def _table_of_boxes(root: Path) -> None:
    miniatures.picture(root / "film/1.png", 1)
    rows = [("a", "ann", 1, "", "film", 0, 1, 1, 3, 4), ("b", "ann", 2, "film", "", "", "", "", "", "")]
    header = "tracklet,identity,camera,frames,video,frame,left,top,width,height"
    miniatures.table(root / "tracklets.csv", rows, header)


def _galleries(folder: Path) -> Iterator[Seed]:
    """The files of a gallery that is searched by codes, and of one that has deleted rows and an unfinished add."""
    vectors, numbers = galleries.identities(12, 5, 4)
    entries = galleries.entries(numbers)

    def failing(chosen: Sequence[int]) -> tuple[np.ndarray, Sequence[int]]:
        if min(chosen) >= 4:
            raise RuntimeError("interrupted")
        return vectors[list(chosen)], chosen

    with mock.patch.object(index, "FLAT_BELOW", 40):
        gallery.build(folder / "codes/gallery", entries, galleries.embed_from(vectors), galleries.MODEL)
    gallery.build(folder / "unfinished/gallery", entries[:20], galleries.embed_from(vectors), galleries.MODEL, rate=0.2)
    gallery.delete(folder / "unfinished/gallery", names=["t00002"], identities=["person 3"])
    with contextlib.suppress(RuntimeError):
        new = galleries.entries(numbers[:8], prefix="new")
        gallery.add(folder / "unfinished/gallery", new, failing, galleries.MODEL, chunk=4, save_seconds=0)
    for place in (folder / "codes", folder / "unfinished"):
        files = {f"gallery/{one.name}": one.read_bytes() for one in (place / "gallery").iterdir()}
        for name, data in sorted(files.items()):
            form = Path(name).suffix.removeprefix(".")
            yield Seed(name, data, "gallery", form, {one: other for one, other in files.items() if one != name})


def _media(folder: Path) -> Iterator[Seed]:
    clip = torch.randint(0, 255, (12, 48, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    yield Seed("all/a/clip.mp4", _written(lambda path: write_mp4(path, clip, 25), folder / "clip.mp4"), "video", "mp4")
    yield Seed(
        "all/a/clip.gif", _written(lambda path: write_gif(path, clip, 25), folder / "clip.gif"), "video", "bytes"
    )
    for name, codec, form in (
        ("clip.avi", "mpeg4", "riff"),
        ("clip.mkv", "mpeg4", "bytes"),
        ("clip.webm", "libvpx", "bytes"),
        ("clip.ts", "mpeg2video", "bytes"),
        ("mjpeg.avi", "mjpeg", "riff"),
    ):
        yield Seed(f"all/a/{name}", _encoded(clip, folder / name, codec), "video", form)
    pictures = {}
    for number, suffix in enumerate(("png", "jpg", "png", "bmp"), 1):
        path = folder / f"img_{number}.{suffix}"
        pictures[f"frames/{path.name}"] = _written(Image.fromarray(clip[number].numpy()).save, path)
    for name in ("frames/img_1.png", "frames/img_2.jpg", "frames/img_4.bmp"):
        beside = {other: data for other, data in pictures.items() if other != name}
        yield Seed(name, pictures[name], "picture", "png" if name.endswith("png") else "bytes", beside)


def _encoded(clip: torch.Tensor, path: Path, codec: str) -> bytes:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height = clip.shape[2], clip.shape[1]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in clip.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()
