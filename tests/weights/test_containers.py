"""Checkpoints as training scripts save them: wrappers, objects beside the weights, whole networks, old containers."""

import argparse
import collections
import datetime
import enum
import io
import pathlib
import pickle
import struct
import sys
import tarfile

import pytest
import torch
from foreign_layouts import named_as, random_parts
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.optimization import convolutions
from torch_nonlocal.replacing import swap
from torch_nonlocal.replacing.families import FAMILIES
from torch_nonlocal.weights import convert_weights

numpy = pytest.importorskip("numpy")
STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.tensor([1.0, 2.0])}
PARALLEL = {f"module.{key}": value for key, value in STATE.items()}


class Kind(enum.Enum):
    LARGE = "large"


class Net(nn.Module):
    """A network with a buffer that is not saved, a function as attribute, and modules in a list."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv3d(3, 8, 1), nn.BatchNorm3d(8, eps=1e-3)])
        self.act = torch.relu
        self.register_buffer("mean", torch.ones(3))
        self.register_buffer("cache", torch.zeros(2), persistent=False)
        self.kind, self.mode, self.sizes = Kind.LARGE, "dot_product", (1, 2, 2)


def read(path, content, **options):
    torch.save(content, path / "theirs.pth", **options)
    return nl.read_weights(path / "theirs.pth")


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=0)


WRAPPERS = (
    *("net", "model_state_dict", "ema_state_dict", "weights", "params", "network", "backbone", "state_dict", "module"),
    *("generator", "student_weights"),
)


@pytest.mark.parametrize("state", [STATE, PARALLEL, {f"module.{key}": value for key, value in PARALLEL.items()}])
@pytest.mark.parametrize("key", WRAPPERS)
def test_weights_are_found_under_the_key_of_any_script(tmp_path, key, state):
    optimizer = {"state": {0: {"exp_avg": torch.ones(5)}}, "param_groups": [{"lr": 0.1}]}
    file = read(tmp_path, {key: state, "acc": 71.5, "epoch": 3, "optimizer": optimizer, "opt": optimizer})
    assert_equal(file.tensors, STATE)
    assert file.facts["acc"] == 71.5


def test_averages_are_the_last_choice(tmp_path):
    average = {key: value + 1 for key, value in STATE.items()}
    assert_equal(read(tmp_path, {"ema_state_dict": average, "net": STATE}).tensors, STATE)


def test_several_networks_keep_their_names(tmp_path):
    file = read(tmp_path, {"generator": STATE, "discriminator": PARALLEL, "g_optimizer": {"state": {}}})
    expected = {f"{name}.{key}": value for name in ("generator", "discriminator") for key, value in STATE.items()}
    assert_equal(file.tensors, expected)


def settings():
    names = argparse.Namespace(lr=0.1, path=pathlib.Path("/data") / "x", act=torch.relu, kind=Kind.LARGE)
    names.itself = names
    return names


# name -> (object beside the weights, what it becomes)
BESIDE = {
    "namespace": (
        settings(),
        {
            "lr": 0.1,
            "path": "/data/x",
            "act": "torch._C._VariableFunctionsClass.relu",
            "kind": "large",
            "itself": "argparse.Namespace",
        },
    ),
    "NumPy scalars": ([numpy.float64(0.5), numpy.float32(2), numpy.int64(3), numpy.bool_(True)], [0.5, 2.0, 3, True]),
    "NumPy text": (numpy.str_("résumé"), "résumé"),
    "array of objects": (numpy.array([1, {}], dtype=object), "an array of Python objects"),
    "deque": (collections.deque([1, 2], maxlen=5), [1, 2]),
    "defaultdict": (collections.defaultdict(list, {"a": [1]}), {"a": [1]}),
    "version": (torch.torch_version.TorchVersion("2.1"), "2.1"),
    "function": (nn.functional.relu, "torch.nn.functional.relu"),
    "class": (nn.Conv2d, "torch.nn.modules.conv.Conv2d"),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_objects_beside_the_weights_become_plain_values(tmp_path, name, protocol):
    content, expected = BESIDE[name]
    file = read(tmp_path, {"model": STATE, "beside": content}, pickle_protocol=protocol)
    assert_equal(file.tensors, STATE)
    assert file.facts["beside"] == expected


def test_states_of_random_numbers_dates_and_optimizers_are_read_past(tmp_path):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    beside = {
        "numpy": numpy.random.get_state(),
        "generator": numpy.random.RandomState(0),
        "time": datetime.datetime.now(),
        "optimizer": optimizer,
        "schedule": torch.optim.lr_scheduler.StepLR(optimizer, 2),
    }
    assert_equal(read(tmp_path, {"model": model.state_dict(), **beside}).tensors, model.state_dict())


@pytest.mark.parametrize("new", [True, False])
def test_whole_networks_are_read_as_their_state_dict(tmp_path, new):
    torch.manual_seed(0)
    model = Net()
    for content in (model, {"net": model, "epoch": 3}, {"model": nn.DataParallel(model)}):
        file = read(tmp_path, content, _use_new_zipfile_serialization=new)
        assert_equal(file.tensors, model.state_dict())
    modules = file.facts["modules"]
    assert modules["layers.1"]["class"] == "BatchNorm3d"
    assert modules["layers.1"]["eps"] == 1e-3
    assert modules[""]["mode"] == "dot_product"
    assert modules[""]["sizes"] == (1, 2, 2)


@pytest.mark.parametrize("new", [True, False])
def test_whole_networks_with_blocks_and_generated_classes_are_read(tmp_path, new):
    model = nn.Sequential(Net(), nn.Conv3d(4, 4, 1), nn.Conv3d(4, 4, 1))
    nl.insert(model, at=["1", "2"])
    swap.take_over(model[2], next(iter(FAMILIES.values())))
    convolutions.make_fast(model[0].layers[0], convolutions.Uses(inference=True, training=False))
    file = read(tmp_path, {"model": model}, _use_new_zipfile_serialization=new)
    assert_equal(file.tensors, model.state_dict())
    assert file.facts["modules"]["1.non_local"]["pairwise"] == "embedded_gaussian"


def test_a_generated_class_is_made_only_as_this_package_writes_it(tmp_path):
    path = tmp_path / "a.pkl"
    host = "ctorch_nonlocal.insertion.attachment\nnew_host\n"
    made = {
        "by a class": f"{host}(cmine\nNet\n(ttR",
        "by itself": f"{host}({host}({host}(cmine\nNet\ntttR",
        "by a number": f"{host}(I1\n(ttR",
        "of itself": f"{host}({host}]p0\n{host}ag0\natR",
        "of nothing": f"{host}(tR",
    }
    for text in made.values():
        path.write_bytes(text.encode() + b".")
        with pytest.raises(ValueError, match=r"a\.pkl"):
            nl.read_weights(path)


def test_attributes_of_whole_networks_decide_the_options(tmp_path, recwarn):
    class Nonlocal(nn.Module):
        def __init__(self):
            super().__init__()
            self.instantiation, self.use_pool, self.pool_size = "dot_product", True, [1, 2, 2]
            self.conv_theta, self.conv_phi, self.conv_g = (nn.Conv3d(8, 4, 1) for _ in range(3))
            self.conv_out, self.bn = nn.Conv3d(4, 8, 1), nn.BatchNorm3d(8, eps=1e-2, momentum=0.05)

    Nonlocal.__qualname__ = "Nonlocal"
    Nonlocal.__module__ = __name__
    globals()["Nonlocal"] = Nonlocal
    torch.save(nn.Sequential(nn.Conv3d(3, 8, 1), Nonlocal()), tmp_path / "theirs.pth")
    del globals()["Nonlocal"]
    converted = convert_weights(tmp_path / "theirs.pth", places={"1": "0"})
    options = converted.plan["0"]["options"]
    assert (options["pairwise"], options["subsample"], options["pool_first"]) == ("dot_product", [1, 2, 2], True)
    assert options["norm_options"] == {"eps": 1e-2, "momentum": 0.05}
    assert converted.assumptions == []
    assert not recwarn.list


def test_checkpoints_of_mmengine(tmp_path):
    logging = pytest.importorskip("mmengine.logging")
    config = pytest.importorskip("mmengine.config")
    history = {"log_scalars": {"train/loss": logging.HistoryBuffer([1.0, 2.0], [1, 1])}, "runtime_info": {"epoch": 3}}
    cfg = config.ConfigDict(model=config.ConfigDict(type="Recognizer3D"))
    file = read(tmp_path, {"meta": {"epoch": 3}, "state_dict": STATE, "message_hub": history, "cfg": cfg})
    assert_equal(file.tensors, STATE)
    buffer = file.facts["message_hub"]["log_scalars"]["train/loss"]
    assert buffer["_log_history"].tolist() == [1, 2]
    assert file.facts["cfg"] == {"model": {"type": "Recognizer3D"}}


def tar_file(path, state):
    """The container of PyTorch before 0.1.10, written by hand."""
    storages, tensors, refs = io.BytesIO(), io.BytesIO(), {}
    for file in (storages, tensors):
        pickle.dump(len(state), file, protocol=2)
    for key, (name, tensor) in enumerate(state.items(), 1):
        pickle.dump((key, "cpu", torch.FloatStorage), storages, protocol=2)
        storages.write(struct.pack("<q", tensor.numel()) + bytes(tensor.untyped_storage()))
        pickle.dump((100 + key, key, torch.FloatTensor), tensors, protocol=2)
        sizes = struct.pack(f"<{2 * tensor.ndim + 1}q", *tensor.shape, *tensor.stride(), 0)
        tensors.write(struct.pack("<ii", tensor.ndim, 0) + sizes)
        refs[name] = 100 + key
    pickle.dump([], storages, protocol=2)

    class Ref(str):
        pass

    class Pickler(pickle._Pickler):
        def persistent_id(self, obj):
            return str(refs[obj]) if isinstance(obj, Ref) else None

    main = io.BytesIO()
    Pickler(main, protocol=2).dump(collections.OrderedDict((name, Ref(name)) for name in state))
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, file in (
            ("sys_info", io.BytesIO(b"x")),
            ("storages", storages),
            ("tensors", tensors),
            ("pickle", main),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(file.getvalue())
            archive.addfile(member, io.BytesIO(file.getvalue()))


def test_the_old_tar_container(tmp_path):
    path = tmp_path / "old.pth"
    tar_file(path, {**STATE, "t": torch.arange(6.0).reshape(2, 3).T})
    file = nl.read_weights(path)
    assert_equal(file.tensors, {**STATE, "t": torch.arange(6.0).reshape(2, 3).T})
    assert_equal(torch.load(path, weights_only=False), dict(file.tensors))
    whole, messages = path.read_bytes(), []
    for place in range(0, len(whole), 97):  # damage and truncation end in one line, or in other numbers
        for changed in (whole[:place], whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]):
            path.write_bytes(changed)
            try:
                nl.read_weights(path)
            except ValueError as error:
                messages.append(str(error))
    assert messages
    assert all("old.pth" in message for message in messages)
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(ValueError, match="a tar archive without 'storages'"):
        nl.read_weights(path)


class Reduced:
    """Pickles as a call."""

    def __init__(self, module, name, *args, state=None):
        self.module, self.name, self.args, self.state = module, name, args, state


def program(reduced, *, newobj=False):
    """A pickle of {"w": array, "x": call} whose names need not exist."""
    array = pickle.dumps(numpy.ones(2, "f4"), protocol=2)[2:-1]
    args = pickle.dumps(reduced.args, protocol=2)[2:-1]
    name = f"c{reduced.module}\n{reduced.name}\n".encode()
    return b"\x80\x02}(X\x01\0\0\0w" + array + b"X\x01\0\0\0x" + name + args + (b"\x81" if newobj else b"R") + b"u."


def test_classes_are_noted_and_neither_imported_nor_called(tmp_path, monkeypatch):
    marker = tmp_path / "imported"
    (tmp_path / "evil_module.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "a.pkl"
    for newobj in (False, True):
        path.write_bytes(program(Reduced("evil_module", "Runner", "x"), newobj=newobj))
        assert nl.read_weights(path).facts == {"x": "x"}
    assert not marker.exists()
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize("newobj", [False, True])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("ctypes", "CDLL"),
        ("builtins", "eval"),
        ("__builtin__", "eval"),
        ("importlib", "import_module"),
        ("os\x1b[2J", "System"),
    ],
)
def test_names_of_pythons_own_modules_are_refused(tmp_path, module, name, newobj):
    (tmp_path / "a.pkl").write_bytes(program(Reduced(module, name, "true"), newobj=newobj))
    with pytest.raises(ValueError, match="asks for"):
        nl.read_weights(tmp_path / "a.pkl")


@pytest.mark.parametrize("name", ["run", "_run", "hub.load"])
def test_calls_of_functions_are_refused(tmp_path, name):
    (tmp_path / "a.pkl").write_bytes(program(Reduced("evil_module", name, "x")))
    with pytest.raises(ValueError, match=rf"asks for evil_module\.{name}"):
        nl.read_weights(tmp_path / "a.pkl")


def test_networks_that_hold_themselves_are_refused(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2))
    model._modules["again"] = model
    torch.save(model, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="modules hold each other"):
        nl.read_weights(tmp_path / "a.pth")


def test_deep_notes_are_refused(tmp_path):
    deep = b"\x80\x02" + b"cevil\nA\n(" * 5000 + b"t\x81" * 5000 + b"."
    (tmp_path / "a.pkl").write_bytes(deep)
    with pytest.raises(ValueError, match="deep in each other"):
        nl.read_weights(tmp_path / "a.pkl")


def test_blocks_of_a_whole_network_are_converted(tmp_path):
    state = named_as("tea1528", random_parts(3), "layer2.1.nl")
    names = [key.rpartition(".") for key in state]
    model = nn.Module()
    for owner, _, parameter in names:
        module = model
        for part in owner.split("."):
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        module.register_buffer(parameter, state[f"{owner}.{parameter}"])
    torch.save({"model": model, "args": argparse.Namespace(lr=1)}, tmp_path / "theirs.pth")
    with pytest.warns(UserWarning, match="pairwise"):
        converted = convert_weights(tmp_path / "theirs.pth")
    assert list(converted.plan) == ["layer2.1"]
