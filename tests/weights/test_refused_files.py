"""Hostile and broken files are refused with a reason, and nothing in them is executed."""

import os
import pickle

import pytest
import torch
from foreign_layouts import caffe2_blobs, named_as, random_parts, save_pickle
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.weights import convert_weights

numpy = pytest.importorskip("numpy")


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts


def touch(marker):
    return Calls(os.system, f"touch {marker}")


def forged(shape, raw, dtype="f4"):
    """A NumPy array whose bytes do not fit its shape."""
    reconstruct = numpy.zeros(1).__reduce__()[0]
    state = (1, shape, numpy.dtype(dtype), False, raw)
    return Calls(reconstruct, numpy.ndarray, (0,), b"b", state=state)


def text(*lines):
    """A hand-written pickle, protocol 0."""
    return "\n".join(lines).encode()


def write_pickle(path, content, protocol=2):
    save_pickle(path, content, protocol)


def write_torch(path, content):
    torch.save(content, path)


def write_bytes(path, content):
    path.write_bytes(content)


# name -> (file name, writer, content by the marker's path, pattern of the error)
HOSTILE = {
    "os.system": ("a.pkl", write_pickle, lambda m: touch(m), r"(posix|nt)\.system"),
    "os.system in blobs": ("a.pkl", write_pickle, lambda m: {"blobs": {"conv1_w": touch(m)}}, r"\.system"),
    "os.system in a torch file": ("a.pth", write_torch, lambda m: {"state_dict": {"a": touch(m)}}, r"\.system"),
    "os.system in a torch file called .pkl": ("a.pkl", write_torch, lambda m: {"blobs": {"a": touch(m)}}, r"\.system"),
    "os.system as a key": ("a.pkl", write_pickle, lambda m: {"blobs": [(touch(m), 1)]}, r"\.system"),
    "system by its other name": (
        "a.pkl",
        write_bytes,
        lambda m: text("cposix", "system", f"(S'touch {m}'", "tR."),
        r"posix\.system",
    ),
    "system by the INST operation": (
        "a.pkl",
        write_bytes,
        lambda m: text(f"(S'touch {m}'", "ios", "system", "."),
        r"os\.system",
    ),
    "eval": ("a.pkl", write_pickle, lambda m: Calls(eval, f"open({str(m)!r}, 'w')"), r"eval"),
    "eval of Python 2": (
        "a.pkl",
        write_bytes,
        lambda m: text("c__builtin__", "eval", f"(S\"open('{m}', 'w')\"", "tR."),
        r"__builtin__\.eval",
    ),
    "getattr": ("a.pkl", write_pickle, lambda m: Calls(getattr, "", "join"), r"getattr"),
    "NumPy's own loader": ("a.pkl", write_pickle, lambda m: Calls(numpy.load, str(m)), r"numpy.*load"),
    "array of objects": (
        "a.pkl",
        write_pickle,
        lambda m: {"blobs": {"a": numpy.array([{}, []], dtype=object)}},
        "array of Python objects",
    ),
    "array of objects that run": (
        "a.pkl",
        write_pickle,
        lambda m: {"blobs": {"a": numpy.array([touch(m)], dtype=object)}},
        r"array of Python objects|\.system",
    ),
    "array of structures": (
        "a.pkl",
        write_pickle,
        lambda m: {"blobs": {"a": numpy.zeros(2, dtype=[("x", "f4")])}},
        "dtype 'V4'",
    ),
    "array of text": ("a.pkl", write_pickle, lambda m: {"blobs": {"a": numpy.array(["x"])}}, "dtype 'U1'"),
    "array in foreign byte order": (
        "a.pkl",
        write_pickle,
        lambda m: {"blobs": {"a": numpy.zeros(2, dtype=">f4")}},
        "big-endian",
    ),
    "array larger than its bytes": (
        "a.pkl",
        write_pickle,
        lambda m: {"blobs": {"a": forged((1 << 40,), b"abcd")}},
        r"shape \(1099511627776,\) in 4 bytes",
    ),
    "array of negative size": ("a.pkl", write_pickle, lambda m: {"blobs": {"a": forged((-1,), b"abcd")}}, "shape"),
    "change of a NumPy function": (
        "a.pkl",
        write_bytes,
        lambda m: text("cnumpy", "dtype", "}S'x'", "I1", "sb."),
        "changes a function",
    ),
    "array larger than its bytes in a torch file": (
        "a.pth",
        write_torch,
        lambda m: {"state_dict": {"a": torch.ones(1)}, "cmc": forged((1 << 40,), b"abcd")},
        r"shape \(1099511627776,\) in 4 bytes",
    ),
    "array of objects in a torch file": (
        "a.pth",
        write_torch,
        lambda m: {"state_dict": {"a": torch.ones(1)}, "x": numpy.array([touch(m)], dtype=object)},
        r"array of Python objects|\.system",
    ),
    "NumPy's own loader in a torch file": (
        "a.pth",
        write_torch,
        lambda m: {"state_dict": {"a": Calls(numpy.load, str(m))}},
        r"numpy.*load",
    ),
    "persistent id": ("a.pkl", write_bytes, lambda m: text("Pfile", "."), "a.pkl"),
    "extension code": ("a.pkl", write_bytes, lambda m: b"\x80\x02\x82\x01.", "a.pkl"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_and_not_executed(case, tmp_path):
    name, write, content, said = HOSTILE[case]
    marker = tmp_path / "executed"
    write(tmp_path / name, content(marker))
    with pytest.raises(ValueError, match=said) as error:
        convert_weights(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert "weights_only" not in str(error.value), "the message must not advise to trust the file"
    assert not marker.exists()


@pytest.mark.parametrize("case", [case for case in HOSTILE if "system" in case and case != "os.system as a key"])
def test_ordinary_readers_execute_the_hostile_files(case, tmp_path):
    name, write, content, _ = HOSTILE[case]
    if os.name != "posix":
        pytest.skip("the files name posix")
    marker = tmp_path / "executed"
    write(tmp_path / name, content(marker))
    if write is write_torch:
        torch.load(tmp_path / name, weights_only=False)
    else:
        with (tmp_path / name).open("rb") as file:
            pickle.load(file)
    assert marker.exists()


def good(path):
    parts = random_parts(3)
    if path.suffix == ".pkl":
        save_pickle(path, {"blobs": caffe2_blobs(parts, "nonlocal_conv3_1")})
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(named_as("tea1528", parts, "nl"), path)
    else:
        torch.save(named_as("tea1528", parts, "nl"), path)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.6, 0.99])
def test_truncated_files_are_refused(tmp_path, suffix, part):
    path = tmp_path / f"theirs{suffix}"
    good(path)
    assert convert_weights(path).plan
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ValueError, match=f"theirs{suffix}"):
        convert_weights(path)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_web_pages_are_refused(tmp_path, suffix):
    path = tmp_path / f"theirs{suffix}"
    path.write_text("<!DOCTYPE html><html>404: not found</html>\n")
    pytest.importorskip("safetensors") if suffix == ".safetensors" else None
    with pytest.raises(ValueError, match="cannot be read as a checkpoint: it is an HTML or XML page"):
        convert_weights(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 3, "lr": 0.1}, "no tensors by name; its keys: epoch, lr"),
        ([1, 2], "holds a list"),
        ({"state_dict": {}}, "no tensors by name"),
    ],
)
def test_files_without_tensors_are_refused(tmp_path, content, said):
    torch.save(content, tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=said):
        convert_weights(tmp_path / "theirs.pth")


def test_missing_files_are_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        convert_weights("nowhere.pth")


def changed(layout="tea1528", *, drop=(), form="embedded", **shapes):
    """State dict of a block, with tensors dropped or replaced by tensors of other shapes."""
    state = named_as(layout, random_parts(3, form=form), "nl")
    state = {key: value for key, value in state.items() if key.removeprefix("nl.") not in drop}
    return state | {f"nl.{key.replace('__', '.')}": torch.randn(shape) for key, shape in shapes.items()}


# name -> (state dict, pattern of the error)
BROKEN = {
    "no phi": (lambda: changed(drop=("phi.weight", "phi.bias")), r"'nl' \(tea1528\) has no phi.weight"),
    "no W_z": (lambda: changed("alexhex7", drop=("W.0.weight",)), r"has no out.weight"),
    "one bias": (lambda: changed(drop=("phi.bias",)), "no phi.bias, but other convolutions have a bias"),
    "no variance": (lambda: changed(drop=("W_z.1.running_var",)), "has no norm.running_var"),
    "no norm weight": (lambda: changed(drop=("W_z.1.weight",)), "has no norm.weight"),
    "phi of other channels": (
        lambda: changed(phi__weight=(4, 9, 1, 1, 1)),
        r"nl.phi.weight has shape .* expected \(4, 8",
    ),
    "theta of other width": (lambda: changed(theta__weight=(5, 8, 1, 1, 1)), r"nl.theta.weight has shape"),
    "3x3 kernel": (lambda: changed(g__weight=(4, 8, 3, 3, 3)), "expected"),
    "linear layers": (lambda: changed(g__weight=(4, 8)), "expected a 1x1 convolution"),
    "long bias": (lambda: changed(g__bias=(5,)), r"nl.g.bias has shape \(5,\), expected \(4,\)"),
    "short norm": (lambda: {**changed(), "nl.W_z.1.weight": torch.ones(3)}, r"nl.W_z.1.weight has shape \(3,\)"),
    "short w_f": (
        lambda: {**changed(form="concatenation"), "nl.W_f.0.weight": torch.ones(1, 7, 1, 1)},
        r"nl.W_f.0.weight has shape",
    ),
    "integers": (lambda: {**changed(), "nl.g.weight": torch.ones(4, 8, 1, 1, 1).int()}, "dtype torch.int32"),
    "two sources": (
        lambda: {**changed(), **named_as("slowfast", random_parts(3), "s3.pathway0_nonlocal1")},
        "several sources in one file, .*tea1528.*slowfast|several sources in one file, .*slowfast.*tea1528",
    ),
    "copies with different values": (
        lambda: {**named_as("gluoncv", random_parts(3), "nl"), "nl.W_bn.0.bias": torch.ones(8)},
        r"nl.W_bn.0.bias and nl.W.bias|nl.W.bias and nl.W_bn.0.bias",
    ),
    "bias of w_f that theta cannot carry": (
        lambda: {
            **named_as("tea1528", random_parts(2, form="concatenation"), "nl"),
            "nl.W_f.0.weight": torch.cat([torch.zeros(1, 4, 1, 1), torch.ones(1, 4, 1, 1)], dim=1),
            "nl.W_f.0.bias": torch.ones(1),
        },
        "w_f's half for theta is zero",
    ),
    "two blocks for one place": (
        lambda: {
            **named_as("alexhex7", random_parts(3), "layer2.1.nl"),
            **named_as("alexhex7", random_parts(3), "layer2.1.non_local"),
        },
        "two blocks for 'layer2.1'",
    ),
    "no block": (lambda: {"fc.weight": torch.ones(2, 2)}, "no non-local block of a known source"),
    "CCNet": (
        lambda: {
            f"head.cca.{k}": torch.ones(1)
            for k in ("query_conv.weight", "key_conv.weight", "value_conv.weight", "gamma")
        },
        r"'head.cca' is criss-cross attention",
    ),
    "DNL": (
        lambda: {f"nl.{k}.weight": torch.ones(1) for k in ("conv_query", "conv_key", "conv_value", "conv_mask")},
        "'nl' is disentangled non-local",
    ),
    "CGNL": (
        lambda: {f"layer3.4.{k}.weight": torch.ones(1) for k in ("t", "p", "g", "z", "gn")},
        "compact generalized",
    ),
    "ANN": (lambda: {f"a.{k}.weight": torch.ones(1) for k in ("f_key.0", "f_value", "W")}, "asymmetric non-local"),
    "A2": (lambda: {f"a.{k}.weight": torch.ones(1) for k in ("convA", "convB", "convV")}, "double attention"),
    "GC": (lambda: {f"{k}.weight": torch.ones(1) for k in ("conv_mask", "channel_add_conv.0")}, "global context"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_tensors_that_make_no_block_are_named(case, tmp_path):
    state, said = BROKEN[case]
    torch.save(state(), tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=said) as error:
        convert_weights(tmp_path / "theirs.pth")
    assert str(tmp_path / "theirs.pth") in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"source": "slowfest"}, "expected one of .*slowfast"),
        ({"source": "slowfast"}, "its blocks have the names of tea1528"),
        ({"pairwise": "dot"}, "expected one of 'embedded_gaussian'"),
        ({"pairwise": "concatenation"}, "tensors of 'embedded_gaussian' or 'dot_product'"),
        ({"pairwise": "gaussian"}, "tensors of 'embedded_gaussian' or 'dot_product'"),
        ({"pairwise": "dot_product", "scale": "sqrt"}, "applies to the softmax forms"),
        ({"scale": "cube"}, "scale='cube'"),
        ({"subsample": 0}, "subsample=0"),
        ({"places": {"ln": "layer2.1"}}, "no block 'ln' in the file; it has 'nl'"),
    ],
)
def test_options_that_contradict_the_file_are_refused(tmp_path, options, said):
    torch.save(changed(), tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=said):
        convert_weights(tmp_path / "theirs.pth", **options)


def test_control_characters_of_a_hostile_name_are_escaped(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"cos\x1b[2J\nsystem\n(tR.")
    with pytest.raises(ValueError, match=r"asks for os\\x1b\[2J\.system"):
        convert_weights(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("content", "use"),
    [
        ({"format": "torch-nonlocal weights 1", "model": "ours", "about": {}}, "nl.load reads it"),
        ({"format": "torch-nonlocal training state 2", "model": "ours"}, "training resumes from it"),
        ("ours", "insert blocks with nl.insert at the same places, then nl.load_weights"),
    ],
)
def test_files_of_this_library_are_named(tmp_path, content, use):
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    state = nl.insert(model, "0", torch.zeros(1, 3, 8, 8)).state_dict()
    content = state if content == "ours" else {**content, "model": state}
    torch.save(content, tmp_path / "own.pt")
    with pytest.raises(ValueError, match=f"own.pt: is a file of this library, expected one of another project; {use}"):
        convert_weights(tmp_path / "own.pt")
    nl.save_blocks(model, tmp_path / "blocks.pt")
    with pytest.raises(ValueError, match=r"nl\.load_blocks reads it"):
        convert_weights(tmp_path / "blocks.pt")
