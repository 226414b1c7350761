"""Hostile files, one small function each, and the doors that they are tried at. Run as a program, it tries all.

    python hostile_files.py FOLDER

writes every file into a folder of its own in FOLDER, tries each at its doors in a process of its own, and prints one
JSON line per trial: outcome, message, CPU seconds, and the memory that all trials of the file needed at their peak.
"""

import io
import json
import os
import pickle
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal._common.tensor_files import write_content

EVERY_DOOR = (
    "read",
    "load",
    "create",
    "blocks",
    "view",
    "convert",
    "convert command",
    "start",
    "resume",
    "test",
    "hub",
)
ALWAYS_TRIED = ("read", "load", "convert")  # these may read a file that another door must refuse


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.parts = function, args

    def __reduce__(self):
        return self.parts


def touch(marker):
    return Calls(os.system, f"touch {marker}")


class Net(nn.Module):
    def __init__(self, num_classes=3, dropout=0.0):
        super().__init__()
        self.conv, self.fc = nn.Conv3d(3, 8, 1), nn.Linear(8, num_classes)


GOOD = {key: value.clone() for key, value in Net().state_dict().items()}


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def archive(program, *records, compress=zipfile.ZIP_STORED):
    """An archive like torch.save's, from a pickle and further (name, content)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as file:
        file.writestr("a/data.pkl", program)
        file.writestr("a/byteorder", b"little")
        for name, content in records:
            file.writestr(f"a/{name}", content)
    return buffer.getvalue()


def tensor_program(shape, strides, numel, *, copies=1):
    """A pickle of a dictionary of tensors in the storage "0" of `numel` floats."""
    part = b"".join(
        b"X" + struct.pack("<I", len(name)) + name + one_tensor(shape, strides, numel)
        for name in (f"t{i}".encode() for i in range(copies))
    )
    return b"\x80\x02}(" + part + b"u."


def one_tensor(shape, strides, numel):
    def number(n):
        return b"\x8a\x08" + struct.pack("<q", n)

    def numbers(ns):
        return b"(" + b"".join(map(number, ns)) + b"t"

    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpu" + number(numel) + b"tQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(0) + numbers(shape) + numbers(strides)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def safetensors_file(header, data=b"", claimed=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


def nested_lists():
    """60 lists, each holding the one before twice: 2**60 items."""
    return b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b"."


def nested_tuple_as_key():
    body = b"\x80\x02)q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
    return body + b"}h\x3cNs."


def copies_of_a_list():
    """A list of 100,000 items, made a tuple 50,000 times."""
    many = b"](" + b"K\x01" * 100_000 + b"eq\x00"
    return b"\x80\x02" + many + b"(" + b"cbuiltins\ntuple\nq\x01(h\x00tR" + b"h\x01(h\x00tR" * 50_000 + b"l."


def encoded_again_and_again():
    text = b"X" + struct.pack("<I", 1_000_000) + b"x" * 1_000_000 + b"q\x00X\x06\0\0\0latin1q\x01"
    return b"\x80\x02" + text + b"(" + b"c_codecs\nencode\nq\x02" + b"h\x02h\x00h\x01\x86R" * 5_000 + b"l."


def overlapping_records():
    data = bytearray(archive(tensor_program((4,), (1,), 4), ("data/0", bytes(16))))
    first, second = (i for i in range(len(data)) if data[i : i + 4] == b"PK\1\2" and b"/d" in data[i + 46 : i + 60])
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(data)


def wide_directory():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for i in range(200):
            file.writestr(f"{i:05}" + "x" * 60_000, b"")
    data = bytearray(buffer.getvalue())
    place = data.rindex(b"PK\5\6")
    data[place + 12 : place + 16] = struct.pack("<I", 1 << 30)
    return bytes(data)


def flipped(data, place):
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


ABOUT = {"task": "action", "network": "digits", "frames": "8x1", "crop": 64, "non_local": "none", "classes": ["a"]}


def best(settings, **entries):
    """A best.pt with other settings or entries."""
    content = {"format": "torch-nonlocal weights 1", "model": GOOD, "step": 1, "metrics": {}, "config": {}}
    return lambda path, marker: write_content(path, {**content, "about": {**ABOUT, **settings}, **entries})


def block_file(plan):
    text = plan if isinstance(plan, str) else json.dumps(plan)
    content = {"format": "torch-nonlocal blocks 1", "plan": text, "tensors": {"0/g.weight": torch.ones(1)}}
    return lambda path, marker: write_content(path, content)


def hub_config(text):
    """A file of good weights whose folder has a hostile configuration."""
    return Written(lambda path, marker: write_content(path, GOOD), config=text)


class Written(NamedTuple):
    """How a file is written, and the configuration of its folder for the hub."""

    write: Any
    config: str = '{"name": "c2d_resnet50", "num_classes": 3}'


def data(content):
    """A file of these bytes; a function gets the path of the marker."""
    return lambda path, marker: path.write_bytes(content(marker) if callable(content) else content)


def local_python(path, marker):
    source = path.with_suffix(".py")
    source.write_text(f"import pathlib\ndef net():\n    pathlib.Path({str(marker)!r}).touch()\n")
    best({"network": f"{source}:net"})(path, marker)


def sparse(head, size):
    def write(path, marker):
        with path.open("wb") as file:
            file.write(head)
            file.truncate(size)

    return write


def quantized():
    return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


def with_tensor(tensor):
    return data(lambda marker: saved({**GOOD, "x": tensor()}))


def many_tensors(count):
    return data(lambda marker: saved(dict.fromkeys((f"a.{i}.theta.weight" for i in range(count)), torch.ones(1))))


NAN_TENSORS = safetensors_file({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0\0\xc0\x7f")
HUGE = {"x": {"dtype": "F32", "shape": [1 << 36], "data_offsets": [0, 1 << 38]}}
TEST, BLOCKS, HUB, RESUME = ("test",), ("blocks", "view"), ("hub",), ("resume",)

# name -> (how it is written, the doors that must refuse it, what one of them must say)
FILES: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "os.system in a pickle": (data(lambda m: pickle.dumps(touch(m), 2)), EVERY_DOOR, "posix.system"),
    "os.system in a torch file": (data(lambda m: saved({**GOOD, "x": touch(m)})), EVERY_DOOR, "posix.system"),
    "os.system in a legacy torch file": (
        data(lambda m: saved({**GOOD, "x": touch(m)}, _use_new_zipfile_serialization=False)),
        EVERY_DOOR,
        "posix.system",
    ),
    "eval": (data(lambda m: saved([Calls(eval, f"open({str(m)!r}, 'w')")])), EVERY_DOOR, "eval, which tensors"),
    "exec by the newest protocol": (
        data(lambda m: pickle.dumps(Calls(exec, f"open({str(m)!r}, 'w')"), 5)),
        EVERY_DOOR,
        "builtins.exec",
    ),
    "torch.load": (data(b"ctorch.serialization\nload\n(S'x'\ntR."), EVERY_DOOR, "torch.serialization.load"),
    "torch.hub": (data(b"ctorch.hub\nload\n(S'x/y'\nS'z'\ntR."), EVERY_DOOR, "torch.hub.load"),
    "getattr": (data(b"cbuiltins\ngetattr\n(S'x'\nS'join'\ntR."), EVERY_DOOR, "builtins.getattr"),
    "call of the result of a call": (data(b"ccollections\nOrderedDict\n(tR(tR."), EVERY_DOOR, "calls a OrderedDict"),
    "a dictionary that holds itself": (data(b"\x80\x02}q\x00X\x05\0\0\0modelh\x00s."), EVERY_DOOR, "holds itself"),
    "lists that double": (data(nested_lists()), EVERY_DOOR, "expand to more than"),
    "a key whose hash takes forever": (data(nested_tuple_as_key()), EVERY_DOOR, "a key of type tuple"),
    "100,000 lists in each other": (data(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."), EVERY_DOOR, "deep"),
    "4 billion memo entries": (data(b"\x80\x02]r\xff\xff\xff\xff."), EVERY_DOOR, "holds a list"),
    "bytes that are not there": (
        data(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x."),
        EVERY_DOOR,
        "ends in the middle",
    ),
    "10 million sets": (data(b"\x80\x04(" + b"\x8f" * 10_000_000 + b"l."), ALWAYS_TRIED, "more than 2,000,000"),
    "copies of a list": (data(copies_of_a_list()), EVERY_DOOR, "more than 2,000,000"),
    "bytes encoded again and again": (data(encoded_again_and_again()), EVERY_DOOR, "again and again"),
    "an integer of 50 MB": (
        data(b"\x80\x02\x8b" + struct.pack("<I", 50_000_000) + b"\x7f" * 50_000_000 + b"."),
        EVERY_DOOR,
        "an integer of 50,000,000 bytes",
    ),
    "compressed records": (
        data(archive(tensor_program((1 << 26,), (1,), 1 << 26), ("data/0", bytes(1 << 28)), compress=8)),
        EVERY_DOOR,
        "compressed",
    ),
    "overlapping records": (data(overlapping_records()), EVERY_DOOR, "overlap"),
    "a list of records of 1 GB": (data(wide_directory()), EVERY_DOOR, "list of records"),
    "a storage larger than its record": (
        data(archive(tensor_program((1 << 30,), (1,), 1 << 30), ("data/0", bytes(16)))),
        EVERY_DOOR,
        "has 16 bytes, expected",
    ),
    "a tensor outside of its storage": (
        data(archive(tensor_program((5,), (1,), 4), ("data/0", bytes(16)))),
        EVERY_DOOR,
        "outside of its storage",
    ),
    "an expanded tensor": (
        data(archive(tensor_program((1 << 40,), (0,), 4), ("data/0", bytes(16)))),
        EVERY_DOOR,
        "expanded: 1,099,511,627,776 values from 4",
    ),
    "tensors that share 4 MB": (
        data(archive(tensor_program((1 << 20,), (1,), 1 << 20, copies=200), ("data/0", bytes(1 << 22)))),
        EVERY_DOOR,
        "share memory",
    ),
    "a legacy storage larger than the file": (
        data(
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
            + b"\x80\x02M\xe9\x03."
            + b"\x80\x02}."
            + tensor_program((1 << 34,), (1,), 1 << 34)
            + b"\x80\x02](X\x01\0\0\x000e."
        ),
        EVERY_DOOR,
        "larger than the file",
    ),
    "one flipped bit": (data(lambda m: flipped(saved(GOOD), 1000)), EVERY_DOOR, "is damaged"),
    "a truncated archive": (data(lambda m: saved(GOOD)[:-100]), EVERY_DOOR, "truncated"),
    "a header of 90 MB": (data(safetensors_file(b"{", b" " * 100, 90_000_000)), EVERY_DOOR, "header takes 90,000,000"),
    "tensors behind the file": (data(safetensors_file(HUGE)), EVERY_DOOR, "cannot be read as a checkpoint"),
    "deep JSON in a header": (data(safetensors_file(b'{"a":' + b"[" * 100_000)), EVERY_DOOR, "cannot be read"),
    "a named pipe": (lambda path, marker: os.mkfifo(path), EVERY_DOOR, "is a named pipe"),
    "a device": (lambda path, marker: path.symlink_to("/dev/zero"), EVERY_DOOR, "is a device"),
    "a sparse file of 200 GB": (sparse(safetensors_file(HUGE), 200 << 30), EVERY_DOOR, "is a sparse file"),
    "a sparse pickle": (sparse(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 37), 1 << 38), EVERY_DOOR, "is a sparse file"),
    "nothing but a format": (data(lambda m: saved({"format": "torch-nonlocal weights 1"})), EVERY_DOOR, ""),
    "NaN": (with_tensor(lambda: torch.tensor([1, float("nan")])), EVERY_DOOR, "'x' has NaN"),
    "NaN in safetensors": (data(NAN_TENSORS), EVERY_DOOR, "'x' has NaN"),
    "infinity": (with_tensor(lambda: torch.tensor([1, float("inf")]).half()), EVERY_DOOR, "'x' has infinite"),
    "complex numbers": (with_tensor(lambda: torch.ones(2) * 1j), EVERY_DOOR, "'x' is complex"),
    "a sparse tensor": (with_tensor(lambda: torch.eye(3).to_sparse()), EVERY_DOOR, "'x' is sparse"),
    "a quantized tensor": (with_tensor(quantized), EVERY_DOOR, "'x' is quantized"),
    "a meta tensor": (with_tensor(lambda: torch.ones(2, device="meta")), EVERY_DOOR, "'x' is on the meta device"),
    "a nested tensor": (with_tensor(lambda: torch.nested.nested_tensor([torch.ones(2)])), EVERY_DOOR, "'x' is nested"),
    "a name with control characters": (
        data(lambda m: saved({"a\n\x1b[2Jb": torch.ones(1)})),
        EVERY_DOOR,
        "a tensor named",
    ),
    "a name of 1 MB": (data(lambda m: saved({"x" * (1 << 20): torch.ones(1)})), EVERY_DOOR, "a tensor named"),
    "20,001 tensors": (many_tensors(20_001), EVERY_DOOR, "it holds 20,001 tensors"),
    "100,000 tensors": (many_tensors(100_000), ALWAYS_TRIED, "it holds 100,000 tensors"),
    "a network of a Python file": (local_python, TEST, "a file can only name a network"),
    "a network of a hub": (best({"network": "timm:hf_hub:some/model"}), TEST, "a file can only name"),
    "a network of a folder": (best({"network": "timm:local-dir:/tmp/x"}), TEST, "a file can only name"),
    "a network that does not exist": (best({"network": "torchvision:r3d_19"}), TEST, "no model 'r3d_19'"),
    "a huge network": (best({"network": "torchvision:vit_h_14"}), TEST, "the file does not hold as many"),
    "a crop of 20,000": (best({"crop": 20_000}), TEST, "expected 1 to 4,096 pixels"),
    "100 million frames": (best({"frames": "100000000x1"}), TEST, "expected at most 1,024 frames"),
    "a large clip in a network with blocks": (
        best({"network": "torchvision:r3d_18", "frames": "16x1", "crop": 1024, "non_local": "**"}),
        TEST,
        "",
    ),
    "a place of 40 stars": (best({"non_local": "*a" * 40 + "b"}), TEST, ""),
    "a place of 1 MB": (best({"non_local": "*" * (1 << 20)}), TEST, "non_local="),
    "classes that are a number": (best({"classes": 10**9}), TEST, "expected a list of names"),
    "classes with control characters": (best({"classes": ["a\x1b[2J"]}), TEST, "expected a list of names"),
    "settings of wrong types": (best({"flip": "yes"}), TEST, "flip='yes': expected bool"),
    "unknown settings": (best({"__class__": "x"}), TEST, "unknown setting '__class__'"),
    "settings that are a list": (best({}, about=[]), TEST, "its about is"),
    "tensors of another network": (best({}), TEST, "does not fit"),
    "60,000 channels": (
        block_file({"0": {"class": "NonLocal3d", "options": {"channels": 60_000}}}),
        BLOCKS,
        "missing keys",
    ),
    "10**30 channels": (block_file({"0": {"class": "NonLocal3d", "options": {"channels": 10**30}}}), BLOCKS, ""),
    "options that are no options": (
        block_file({"0": {"class": "NonLocal3d", "options": {"channels": 8, "weights": "/etc/passwd"}}}),
        BLOCKS,
        "unknown option 'weights'",
    ),
    "a class that is a list": (block_file({"0": {"class": [], "options": {}}}), BLOCKS, "cannot be read"),
    "a deep plan": (block_file("[" * 100_000), BLOCKS, "too many containers"),
    "a plan that is a list": (block_file("[]"), BLOCKS, "it holds no plan"),
    "a deep configuration": (hub_config("[" * 100_000), HUB, "too many containers"),
    "block options that read a file": (
        hub_config('{"name": "c2d_resnet50", "non_local": "paper-1", "block_options": {"weights": "imagenet"}}'),
        HUB,
        "unknown option 'weights'",
    ),
    "a billion classes": (hub_config('{"name": "c2d_resnet50", "num_classes": 1000000000}'), HUB, "num_classes="),
    "a million classes": (
        hub_config('{"name": "c2d_resnet50", "num_classes": 1000000}'),
        HUB,
        "the file does not hold as many",
    ),
    "a name that is a list": (hub_config('{"name": ["c2d_resnet50"]}'), HUB, "its name is a list"),
    "a configuration that is a list": (hub_config("[]"), HUB, "it holds a list"),
    "1e999 classes": (hub_config('{"name": "c2d_resnet50", "num_classes": 1e999}'), HUB, "not finite"),
    "a model without its tensors": (hub_config(Written(None).config), HUB, "the file does not hold as many"),
}


def write_file(name, folder):
    """Write a hostile file into a folder of its own; its path, its marker and its folder's configuration."""
    how = FILES[name][0]
    written = how if isinstance(how, Written) else Written(how)
    folder.mkdir(parents=True)
    path, marker = folder / "file.pt", folder / "executed"
    written.write(path, marker)
    return path, marker, written.config


def doors():
    """The doors by name; each takes the path of a file and the configuration of its folder."""
    from torch_nonlocal.cli import main as run
    from torch_nonlocal.models import registry
    from torch_nonlocal.models.hub import HubModel
    from torch_nonlocal.tasks import viewing
    from torch_nonlocal.tasks.action.network import start_from
    from torch_nonlocal.tasks.action.settings import ActionSettings
    from torch_nonlocal.training import is_begun
    from torch_nonlocal.weights import convert_weights

    registry._BUILDERS["tiny"] = Net
    viewing.build = lambda model, pretrained=False: nn.Sequential(nn.Conv3d(3, 8, 1))
    clip = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)

    def linked(path, *parts):
        link = path.parent.joinpath(*parts)
        link.parent.mkdir(exist_ok=True, parents=True)
        link.symlink_to(path)
        return link

    def command(*arguments):
        sys.argv = ["nonlocal", *map(str, arguments)]
        stderr, sys.stderr = sys.stderr, io.StringIO()
        try:
            run()
        except SystemExit as end:
            raise ValueError(sys.stderr.getvalue().rstrip("\n")) from end
        finally:
            sys.stderr = stderr

    def hub(path, config):
        linked(path, "hub", "model.safetensors")
        (path.parent / "hub" / "config.json").write_text(config)
        HubModel.from_pretrained(path.parent / "hub")

    return {
        "read": lambda path, config: nl.read_weights(path),
        "load": lambda path, config: nl.load_weights(Net(), path),
        "create": lambda path, config: nl.create_model("tiny", num_classes=3, weights=path),
        "blocks": lambda path, config: nl.load_blocks(nn.Sequential(nn.Conv3d(3, 8, 1)), path),
        "view": lambda path, config: viewing.attention_records(
            clip, model="x", checkpoint=path, at="", temperature=0.1, pretrained=False
        ),
        "convert": lambda path, config: convert_weights(path),
        "convert command": lambda path, config: command("convert", path, path.parent / "out.pt"),
        "start": lambda path, config: start_from(Net(), ActionSettings(weights=str(path)), ["a", "b", "c"]),
        "resume": lambda path, config: is_begun(linked(path, "run", "checkpoints", "last.pt").parents[1]),
        "test": lambda path, config: command("test", "action", path, "--out", path.parent / "test"),
        "hub": hub,
    }


def outcome(door, path, config):
    """(kind of the error or "", its message)."""
    try:
        door(path, config)
    except BaseException as error:
        return type(error).__name__, str(error)
    return "", ""


def tried(opened, path, marker, config):
    """Trials of one file at several doors in a process of its own, with CPU seconds and the peak of memory."""
    read, write = os.pipe()
    idle = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    child = os.fork()
    if not child:
        with os.fdopen(write, "w") as file:
            for name, door in opened.items():
                before = os.times()
                kind, message = outcome(door, path, config)
                seconds = sum(os.times()[:2]) - sum(before[:2])
                trial = {"door": name, "kind": kind, "message": message[:5000], "seconds": seconds}
                file.write(json.dumps({**trial, "executed": marker.exists()}) + "\n")
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        trials = [json.loads(line) for line in file]
    _, _, usage = os.wait4(child, 0)
    needed = max(0, usage.ru_maxrss * 1024 - idle)
    return [{**trial, "bytes": needed} for trial in trials]


def main():
    torch.set_num_threads(1)
    opened, folder = doors(), Path(sys.argv[1])
    path, _, config = write_file("settings of wrong types", folder / "first")
    for function in opened.values():  # import what the doors import, which is not part of a trial
        outcome(function, path, config)
    for name in FILES:
        path, marker, config = write_file(name, folder / str(zlib.crc32(name.encode())))
        own = {door: opened[door] for door in dict.fromkeys([*FILES[name][1], *ALWAYS_TRIED])}
        for trial in tried(own, path, marker, config):
            print(json.dumps({"file": name, **trial}), flush=True)


if __name__ == "__main__":
    main()
