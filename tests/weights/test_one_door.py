"""One reader for weights: every container gives the same tensors through every function that takes a file."""

import gzip
import pickle
import re
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from foreign_layouts import named_as, random_parts
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal import weights
from torch_nonlocal._common.tensor_files import write_tensors
from torch_nonlocal.models import registry
from torch_nonlocal.training import Metric, Task, TrainConfig, fit
from torch_nonlocal.weights import LoadReport, convert_weights, load_weights, read_weights

numpy = pytest.importorskip("numpy")
safetensors = pytest.importorskip("safetensors.torch", reason="pip install 'torch-nonlocal[checkpoints]'")

SOURCE = Path(nl.__file__).parent


class Net(nn.Module):
    """A network with a non-local block of another project, so that every door applies to its weights."""

    def __init__(self, num_classes=3, dropout=0.0):
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 1)
        out = nn.Sequential(nn.Conv3d(4, 8, 1), nn.BatchNorm3d(8))
        self.nl = nn.ModuleDict({part: nn.Conv3d(8, 4, 1) for part in ("theta", "phi", "g")} | {"W_z": out})
        self.fc = nn.Linear(8, num_classes)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    own = Net().state_dict()
    return {key: own[key] for key in own if not key.startswith("nl.")} | named_as("tea1528", random_parts(3), "nl")


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def arrays(state):
    return {key: value.numpy() for key, value in state.items()}


def optimizer_state(state):
    return {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


METRICS = {"epoch": 3, "rank1": 0.5}
# name -> (file name, content of the state dict, facts expected beside the tensors); content None: safetensors
CONTAINERS = {
    "a state dict": ("w.pth", lambda s: s, {}),
    "an ordered dict of parameters": ("w.pt", lambda s: OrderedDict((k, parameter(v)) for k, v in s.items()), {}),
    "safetensors": ("w.safetensors", None, {"format": "pt"}),
    "safetensors named .bin": ("w.bin", None, {"format": "pt"}),
    "safetensors without a suffix": ("w", None, {"format": "pt"}),
    "torch.save named .safetensors": ("w.safetensors", lambda s: {"state_dict": s}, {}),
    "state_dict": ("w.pth", lambda s: {"state_dict": s, "epoch": 3}, {"epoch": 3}),
    "model": ("w.pth", lambda s: {"epoch": 3, "model": s, "args": {"lr": 0.1}}, {"epoch": 3, "args": {"lr": 0.1}}),
    "model.state_dict": ("w.pth", lambda s: {"model": {"state_dict": s, "arch": "x"}}, {"arch": "x"}),
    "model_state": ("w.pyth", lambda s: {"model_state": s, "cfg": "lr: 1"}, {"cfg": "lr: 1"}),
    "model_state_dict": ("w.tar", lambda s: {"model_state_dict": s, "loss": 0.5}, {"loss": 0.5}),
    "a model's settings beside its state_dict": ("w.pth", lambda s: {"model": {"depth": 50}, "state_dict": s}, {}),
    "optimizer state": ("w.pth", lambda s: {"model": s, "optimizer": optimizer_state(s), "epoch": 3}, {"epoch": 3}),
    "epoch in the state dict": ("w.pth", lambda s: {**s, "epoch": 3}, {"epoch": 3}),
    "data-parallel": ("w.pth", lambda s: {"state_dict": prefixed(s, "module.")}, {}),
    "compiled": ("w.pth", lambda s: prefixed(s, "_orig_mod."), {}),
    "compiled and data-parallel": ("w.pth", lambda s: {"model": prefixed(s, "module._orig_mod.")}, {}),
    "data-parallel and compiled": ("w.pth", lambda s: prefixed(s, "_orig_mod.module."), {}),
    "NumPy scalars": (
        "w.pth",
        lambda s: {"state_dict": s, "epoch": numpy.int64(3), "rank1": numpy.float64(0.5), "best": numpy.bool_(True)},
        {**METRICS, "best": True},
    ),
    "half precision NumPy scalar": ("w.pth", lambda s: {"model": s, "map": [numpy.float16(0.25)]}, {"map": [0.25]}),
    "NumPy scalars in the state dict": ("w.pth", lambda s: {**s, "rank1": numpy.float32(0.5)}, {"rank1": 0.5}),
    "torch.save of NumPy arrays": ("w.pth", lambda s: {"blobs": arrays(s), "epoch": 3}, {"epoch": 3}),
    "our best.pt": (
        "best.pt",
        lambda s: {"format": "torch-nonlocal weights 1", "model": s, "step": 9, "about": {"classes": ["a", "b", "c"]}},
        {"step": 9},
    ),
    "our last.pt": (
        "last.pt",
        lambda s: {
            "format": "torch-nonlocal training state 1",
            "progress": {"step": 9},
            "model": s,
            "optimizer": {"fc.weight": {"momentum_buffer": torch.ones(2)}},
            "ema": prefixed(s, ""),
        },
        {"progress": {"step": 9}},
    ),
}
LEGACY = [name for name in CONTAINERS if CONTAINERS[name][1] is not None]


def parameter(tensor):
    return nn.Parameter(tensor) if tensor.is_floating_point() else tensor


def write(folder, name, state, *, legacy=False):
    file, content, _ = CONTAINERS[name]
    path = folder / file
    if content is None:
        safetensors.save_file(state, path, metadata={"format": "pt"})
    else:
        torch.save(content(state), path, _use_new_zipfile_serialization=not legacy)
    return path


def read_door(path):
    return read_weights(path).tensors


def load_door(path):
    model = Net()
    report = load_weights(model, path)
    assert set(report.loaded) == set(model.state_dict())
    return model.state_dict()


def create_door(path):
    return nl.create_model("tiny", num_classes=3, weights=path).state_dict()


def convert_door(path):
    converted = convert_weights(path)
    assert list(converted.plan) == ["nl"]
    return {theirs: converted.tensors[ours] for theirs, ours in converted.renamed.items()}


DOORS = [read_door, load_door, create_door, convert_door]


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("door", DOORS)
def test_every_container_gives_its_tensors_through_every_door(name, door, state, tmp_path, monkeypatch):
    monkeypatch.setitem(registry._BUILDERS, "tiny", Net)
    tensors = door(write(tmp_path, name, state))
    expected = {key: value for key, value in state.items() if door is not convert_door or key.startswith("nl.")}
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", LEGACY)
def test_legacy_files_of_torch_save_are_read(name, state, tmp_path):
    tensors = read_weights(write(tmp_path, name, state, legacy=True)).tensors
    assert set(tensors) == set(state)
    assert all(torch.equal(tensors[key], state[key]) for key in state)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("door", DOORS)
def test_pickled_arrays_give_their_tensors_through_every_door(protocol, door, state, tmp_path, monkeypatch):
    monkeypatch.setitem(registry._BUILDERS, "tiny", Net)
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"blobs": arrays(state), "lr": numpy.float64(0.1)}, protocol))
    tensors = door(path)
    assert all(torch.equal(tensors[key], state[key]) for key in tensors)
    assert {key for key in state if key.startswith("nl.")} <= set(tensors)
    assert read_weights(path).facts == {"lr": 0.1}


@pytest.mark.parametrize("name", CONTAINERS)
def test_values_beside_the_tensors_are_facts(name, state, tmp_path):
    file = read_weights(write(tmp_path, name, state))
    expected = CONTAINERS[name][2]
    assert {key: file.facts[key] for key in expected} == expected
    assert all(type(file.facts[key]) is type(value) for key, value in expected.items())


def test_numpy_arrays_beside_tensors_are_facts_not_weights(state, tmp_path):
    cmc = numpy.linspace(0, 1, 5)
    torch.save({**state, "cmc": cmc, "order": numpy.asfortranarray(numpy.eye(2, 3))}, tmp_path / "w.pth")
    file = read_weights(tmp_path / "w.pth")
    assert set(file.tensors) == set(state)
    assert torch.equal(file.facts["cmc"], torch.linspace(0, 1, 5, dtype=torch.float64))
    assert torch.equal(file.facts["order"], torch.eye(2, 3, dtype=torch.float64))


def test_kind_and_classes_of_our_own_files(state, tmp_path):
    best, last = (read_weights(write(tmp_path, f"our {name}", state)) for name in ("best.pt", "last.pt"))
    assert (best.kind, best.classes) == ("weights", ("a", "b", "c"))
    assert (last.kind, last.classes) == ("training state", None)
    model = nn.Sequential(nn.Conv2d(3, 8, 1))
    nl.insert(model, at="0")
    for suffix in (".pt", ".safetensors"):
        nl.save_blocks(model, tmp_path / f"blocks{suffix}")
        blocks = read_weights(tmp_path / f"blocks{suffix}")
        assert blocks.kind == "blocks"
        assert torch.equal(blocks.tensors["0/g.weight"], nl.blocks(model)["0"].g.weight)
        assert '"class": "NonLocal2d"' in blocks.facts["plan"]
        header = {"format": "torch-nonlocal network 1", "call": "nl.create_model(...)"}
        write_tensors(tmp_path / f"network{suffix}", state, header, key="state_dict")
        network = read_weights(tmp_path / f"network{suffix}")
        assert (network.kind, network.facts["call"]) == ("network", "nl.create_model(...)")
        assert set(network.tensors) == set(state)
    assert read_weights(write(tmp_path, "a state dict", state)).kind == "state dict"


class Regression(Task):
    metric = Metric("error", higher_is_better=False)

    def loss(self, model, batch):
        return {"loss": model(batch[0]).square().mean()}

    def evaluate(self, model):
        return {"error": 1.0}


def test_files_of_a_run_are_read(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    data = torch.utils.data.TensorDataset(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    task = Regression(model, data, about={"classes": ["a", "b"]})
    config = TrainConfig(steps=2, epochs=None, batch_size=4, workers=0, attention_items=0)
    best = fit(task, config, tmp_path, log=lambda text: None).weights
    for path, kind, classes in ((best, "weights", ("a", "b")), (best.with_name("last.pt"), "training state", None)):
        file = read_weights(path)
        assert (file.kind, file.classes) == (kind, classes)
        new = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        assert set(load_weights(new, path, classes=["a", "b"]).loaded) == set(model.state_dict())
        assert all(torch.equal(value, file.tensors[key]) for key, value in new.state_dict().items())
    assert all(torch.equal(value, file.tensors[key]) for key, value in model.state_dict().items())


def test_names_of_another_project_lead_to_convert(state, tmp_path):
    torch.save({"backbone.x": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"unexpected keys: backbone\.x; `nonlocal convert` reads"):
        load_weights(Net(), tmp_path / "w.pth")


def test_names_of_this_package_lead_from_convert_to_load_weights(tmp_path):
    torch.save({"0.non_local.g.weight": torch.ones(4, 8, 1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"names are those of torch-nonlocal: nl\.load_weights"):
        convert_weights(tmp_path / "w.pth")


def test_same_name_with_and_without_a_prefix_is_refused(tmp_path):
    torch.save({"a": torch.ones(1), "module.a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="holds 'a' twice"):
        read_weights(tmp_path / "w.pth")


def test_inner_prefix_of_a_compiled_module_is_removed(tmp_path):
    torch.save({"head._orig_mod.a": torch.ones(1), "my_orig_mod.a": torch.ones(1)}, tmp_path / "w.pth")
    assert set(read_weights(tmp_path / "w.pth").tensors) == {"head.a", "my_orig_mod.a"}


@pytest.mark.parametrize("segment", ["_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"])
def test_segments_of_other_wrappers_are_removed(segment, tmp_path):
    torch.save({f"{segment}.head.{segment}.a": torch.ones(1), f"my{segment}.a": torch.ones(1)}, tmp_path / "w.pth")
    assert set(read_weights(tmp_path / "w.pth").tensors) == {"head.a", f"my{segment}.a"}


def test_a_file_that_holds_itself_is_refused(tmp_path):
    content = {"epoch": 3}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="a container that holds itself"):
        read_weights(tmp_path / "w.pth")


class TestLoadReport:
    def test_other_classes_and_2d_kernels(self, state, tmp_path):
        flat = {key: value.squeeze(2) if value.ndim == 5 else value for key, value in state.items()}
        torch.save(flat, tmp_path / "w.pth")
        model = Net(num_classes=5)
        initial = model.fc.weight.clone()
        report = load_weights(model, tmp_path / "w.pth")
        assert set(report.inflated) == {key for key, value in state.items() if value.ndim == 5}
        assert dict(report.newly_initialized) == {"fc": "3 classes in the weights, 5 in the model"}
        assert set(report.loaded) == {key for key in state if not key.startswith("fc.")}
        assert report.missing == report.unexpected == ()
        assert torch.equal(model.conv.weight, state["conv.weight"])
        assert torch.equal(model.fc.weight, initial)
        assert str(report) == (
            "15 tensors, 5 of them inflated; newly initialized: fc (3 classes in the weights, 5 in the model)"
        )

    def test_class_names_decide_about_the_last_layer(self, state, tmp_path):
        path = write(tmp_path, "our best.pt", state)
        for classes, loaded in ((["a", "b", "c"], True), (["a", "c", "b"], False)):
            model = Net()
            report = load_weights(model, path, classes=classes)
            assert torch.equal(model.fc.weight, state["fc.weight"]) == loaded
            assert list(report.newly_initialized) == ([] if loaded else ["fc"])

    def test_blocks_that_the_file_lacks_are_newly_initialized(self, tmp_path):
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(8, 2))
        torch.save(model.state_dict(), tmp_path / "w.pth")
        nl.insert(model, at="0")
        report = load_weights(model, tmp_path / "w.pth")
        assert dict(report.newly_initialized) == {"0.non_local": "identity until trained"}
        assert report.missing == ()

    @pytest.mark.parametrize("change", ["missing", "unexpected"])
    def test_not_strict_lists_what_differs(self, change, state, tmp_path):
        held, name = {**state, "x": torch.ones(1)}, "x"
        if change == "missing":
            held, name = {key: value for key, value in state.items() if key != "conv.bias"}, "conv.bias"
        torch.save(held, tmp_path / "w.pth")
        model = Net()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=f"does not fit Net: {change} keys: {name}"):
            load_weights(model, tmp_path / "w.pth")
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        report = load_weights(model, tmp_path / "w.pth", strict=False)
        assert (report.missing, report.unexpected) == ((("conv.bias",), ()) if change == "missing" else ((), ("x",)))
        assert torch.equal(model.conv.bias, before["conv.bias"]) == (change == "missing")
        assert torch.equal(model.conv.weight, state["conv.weight"])

    def test_shapes_must_fit_even_if_not_strict(self, state, tmp_path):
        torch.save({**state, "conv.bias": torch.ones(9)}, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=r"other shapes: conv\.bias \(9,\), expected \(8,\)"):
            load_weights(Net(), tmp_path / "w.pth", strict=False)

    def test_counters_of_batch_norms_can_be_missing(self, state, tmp_path):
        torch.save({key: value for key, value in state.items() if "num_batches" not in key}, tmp_path / "w.pth")
        assert load_weights(Net(), tmp_path / "w.pth").missing == ("nl.W_z.1.num_batches_tracked",)

    def test_block_files_are_left_to_load_blocks(self, tmp_path):
        model = nn.Sequential(nn.Conv2d(3, 8, 1))
        nl.save_blocks(nl.insert(model, at="0"), tmp_path / "b.pt")
        with pytest.raises(ValueError, match=r"non-local blocks only; nl\.load_blocks"):
            load_weights(model, tmp_path / "b.pt")

    def test_models_without_a_linear_layer_load(self, tmp_path):
        model = nn.Sequential(nn.Conv2d(3, 8, 1))
        torch.save(model.state_dict(), tmp_path / "w.pth")
        assert load_weights(model, tmp_path / "w.pth") == LoadReport(("0.weight", "0.bias"))

    def test_a_single_linear_layer_loads(self, tmp_path):
        torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pth")
        assert load_weights(nn.Linear(2, 3), tmp_path / "w.pth").loaded == ("weight", "bias")


def scripted(path):
    torch.jit.script(nn.Linear(2, 2)).save(str(path))


# what a file is -> (how it is written, what the error says)
OTHER_FILES = {
    "an empty file": (lambda p: p.write_bytes(b""), "is empty"),
    "a web page": (lambda p: p.write_text("\n<!DOCTYPE html><p>404"), "an HTML or XML page"),
    "text": (lambda p: p.write_text("epoch 1 loss 0.5\n"), "a text file"),
    "a Git LFS pointer": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
    "an image": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), "a PNG image"),
    "a video": (lambda p: p.write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0"), "an MP4 video"),
    "Keras weights": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n\0\0"), "an HDF5 file"),
    "a gzip archive": (lambda p: p.write_bytes(gzip.compress(b"x" * 99)), "a gzip archive; unpack it first"),
    "NumPy arrays": (lambda p: numpy.savez(p.open("wb"), a=numpy.ones(2)), r"a NumPy \.npz archive"),
    "one NumPy array": (lambda p: numpy.save(p.open("wb"), numpy.ones(2)), r"a NumPy \.npy file"),
    "TorchScript": (scripted, "a TorchScript archive"),
    "an object without tensors": (lambda p: torch.save(Fraction(1, 2), p), "holds a list, expected tensors by name"),
    "a list": (lambda p: torch.save([1, 2], p), "holds a list, expected tensors by name"),
    "a tensor": (lambda p: torch.save(torch.ones(2), p), "holds a Tensor, expected tensors by name"),
    "metrics": (lambda p: torch.save({"epoch": 3, "lr": 0.1}, p), "no tensors by name; its keys: epoch, lr"),
    "a folder": (lambda p: p.mkdir(), "is a folder; expected a weights file$"),
    "random bytes": (lambda p: p.write_bytes(bytes(range(256)) * 4), "truncated, damaged or of another kind"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_files_are_named(name, tmp_path):
    write_file, said = OTHER_FILES[name]
    path = tmp_path / "w.pth"
    write_file(path)
    with pytest.raises(ValueError, match=said) as error:
        read_weights(path)
    assert str(path) in str(error.value)
    assert "weights_only" not in str(error.value)


def test_a_run_folder_leads_to_its_best_weights(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.pt").touch()
    with pytest.raises(ValueError, match=r"is a folder; expected a weights file, such as .*best\.pt"):
        read_weights(tmp_path)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no weights file at nowhere\.pth"):
        read_weights("nowhere.pth")


def test_numpy_objects_are_never_built_even_if_the_process_allows_them(state, tmp_path):
    built = []
    names = [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")]
    allowed = [(built.append, name) for name in (*names, "numpy.dtype", "numpy.ndarray")]
    torch.save({"model": state, "rank1": numpy.float64(0.5), "cmc": numpy.ones(2)}, tmp_path / "w.pth")
    with torch.serialization.safe_globals(allowed):
        assert read_weights(tmp_path / "w.pth").facts["rank1"] == 0.5
    assert built == []


def test_only_one_module_opens_tensor_files():
    calls = re.compile(
        r"torch\.load\(|torch\.save\(|safe_open|load_file\(|save_file\(|import pickle|pickle\.loads?\(|Unpickler"
    )
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if any(calls.search(line.partition("#")[0]) for line in code_lines(path))
    }
    assert found == {"_common/tensor_files.py", "_common/safetensors_files.py"}


def code_lines(path):
    """Source lines without docstrings."""
    return re.sub(r'"""(.|\n)*?"""', "", path.read_text()).splitlines()


def test_public_names_lead_to_the_one_door():
    assert nl.read_weights is read_weights
    assert nl.load_weights is load_weights
    assert set(weights.__all__) <= set(dir(weights))
    assert all(getattr(weights, name) is not None for name in weights.__all__)
    with pytest.warns(DeprecationWarning, match=r"use weights\.convert_weights"):
        assert weights.read is convert_weights
