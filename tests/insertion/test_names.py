"""Names of places: modules with two names, children called `module`, files of another nesting."""

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.insertion.targets import separated


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.conv(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer3 = nn.Sequential(Residual(), Residual())

    def forward(self, x):
        return self.layer3(x)


class Holding(nn.Module):
    """A module with networks under given names that runs the first."""

    def __init__(self, **networks):
        super().__init__()
        for name, network in networks.items():
            setattr(self, name, network)
        self.runs = next(iter(networks))

    def forward(self, x):
        return getattr(self, self.runs)(x)


def x():
    return torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))


def net(at=("layer3.0", "layer3.1")):
    torch.manual_seed(0)
    model = Net().eval()
    return nl.insert(model, at, x()) if at else model


def trained(model):
    torch.manual_seed(1)
    for block in nl.blocks(model).values():
        nn.init.normal_(block.norm.weight)
    return model


@pytest.mark.parametrize("name", ["module", "model", "base_model", "_module"])
def test_a_child_of_the_network_itself_keeps_its_name(name):
    model = nl.insert(Holding(**{name: net(None)}), f"{name}.layer3.*", x())
    assert list(nl.blocks(model)) == [f"{name}.layer3.0", f"{name}.layer3.1"]
    with pytest.raises(ValueError, match=rf"did you mean '{name}\.layer3\.0'"):
        nl.remove(model, "layer3.0")


def aliased():
    model = Holding(net=net(None))
    model.features = model.net.layer3
    return model


@pytest.mark.parametrize(
    ("at", "places"),
    [
        ("features.1", ["net.layer3.1"]),
        ("net.layer3.1", ["net.layer3.1"]),
        ("features.*", ["net.layer3.0", "net.layer3.1"]),
        ("*.1", ["net.layer3.1"]),
        ("features", ["net.layer3.1"]),
        (["features.1", "net.layer3.*"], ["net.layer3.0", "net.layer3.1"]),
    ],
)
def test_a_module_is_found_by_each_of_its_names(at, places):
    model = nl.insert(aliased(), at, x())
    assert list(nl.blocks(model)) == places
    with pytest.raises(ValueError, match=r"'net\.layer3\.\d' has a block already"):
        nl.insert(model, at, x())
    with nl.watch(model) as seen:
        model(x())
    assert list(seen) == places
    assert not nl.blocks(nl.remove(model, at))


def test_an_alias_is_not_a_fifth_stage():
    model = Holding(net=nn.Sequential(*(nn.Sequential(Residual(), Residual()) for _ in range(4))))
    model.features = model.net[2]
    nl.insert(model, "paper-1", x())
    assert list(nl.blocks(model)) == ["net.2.0"]
    assert [place.name for place in nl.plan(model, x()).places if place.name.startswith("features")] == []


def test_a_module_inside_itself_is_visited_once():
    model = net(None)
    model.layer3[0].parent = model
    assert list(nl.blocks(nl.insert(model, "layer3.1", x()))) == ["layer3.1"]


def test_names_with_the_segments_of_wrappers_are_accepted():
    model = nn.DataParallel(net(None))
    nl.insert(model, "module.layer3.*", x())
    assert list(nl.blocks(model)) == ["layer3.0", "layer3.1"]
    nl.remove(model, "module.layer3.0")
    assert list(nl.blocks(model)) == ["layer3.1"]


def renamed(path, names):
    """Rename the places of a block file, as an older version or another tool has written it."""
    state = torch.load(path, weights_only=True)
    for name, other in names.items():
        state["plan"] = state["plan"].replace(f'"{name}"', f'"{other}"')
    state["tensors"] = {
        f"{names[key.split('/')[0]]}/{key.split('/')[1]}": tensor for key, tensor in state["tensors"].items()
    }
    torch.save(state, path)


NESTINGS = {
    "prefix stripped": ("model.layer3.{}", lambda: net(None), "layer3.{}"),
    "prefixes stripped": ("task.model.layer3.{}", lambda: net(None), "layer3.{}"),
    "prefix added": ("layer3.{}", lambda: Holding(model=net(None)), "model.layer3.{}"),
    "data parallel": ("module.layer3.{}", lambda: net(None), "layer3.{}"),
    "data parallel to nested": ("module.layer3.{}", lambda: Holding(model=net(None)), "model.layer3.{}"),
    "compiled": ("_orig_mod.layer3.{}", lambda: net(None), "layer3.{}"),
    "compiled, nested": ("_orig_mod.layer3.{}", lambda: Holding(model=net(None)), "model.layer3.{}"),
    "compiled inside": ("model._orig_mod.layer3.{}", lambda: Holding(model=net(None)), "model.layer3.{}"),
    "checkpointed": ("layer3.{}._checkpoint_wrapped_module", lambda: net(None), "layer3.{}"),
    "alias": ("features.{}", aliased, "net.layer3.{}"),
    "other prefix of a model with blocks": (
        "layer3.{}",
        lambda: Holding(student=net(), teacher=net(None)),
        "student.layer3.{}",
    ),
}


@pytest.mark.parametrize("case", NESTINGS)
def test_files_of_another_nesting_are_loaded(case, tmp_path):
    stored, make, expected = NESTINGS[case]
    source = trained(net())
    nl.save_blocks(source, tmp_path / "b.pt")
    renamed(tmp_path / "b.pt", {f"layer3.{i}": stored.format(i) for i in (0, 1)})
    model = nl.load_blocks(make().eval(), tmp_path / "b.pt")
    assert list(nl.blocks(model)) == [expected.format(i) for i in (0, 1)]
    torch.testing.assert_close(model(x()), source(x()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Holding(a=net(None), b=net(None)), r"may stand for 'a\.layer3\.0', 'b\.layer3\.0'"),
        (lambda: Holding(model=net(None).layer3[0]), r"'layer3\.0', which this model does not have"),
        (lambda: Holding(layer4=net(None).layer3), r"did you mean 'layer4\.0'\? modules: layer4, layer4\.0, layer4\.1"),
    ],
)
def test_files_that_fit_nowhere_or_twice_are_refused(make, message, tmp_path):
    nl.save_blocks(net(), tmp_path / "b.pt")
    model = make()
    with pytest.raises(ValueError, match=message):
        nl.load_blocks(model, tmp_path / "b.pt")
    assert not nl.blocks(model)


def test_a_block_stored_twice_is_loaded_once_if_both_are_equal(tmp_path):
    """Older versions wrote the block of a checkpointed module under two names."""
    source = trained(net("layer3.1"))
    for other, problem in ((source, None), (net("layer3.1"), "two different blocks for 'layer3.1'")):
        nl.save_blocks(source, tmp_path / "a.pt")
        nl.save_blocks(other, tmp_path / "b.pt")
        renamed(tmp_path / "b.pt", {"layer3.1": "layer3.1._checkpoint_wrapped_module"})
        first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt"))
        first["plan"] = first["plan"][:-1] + ", " + second["plan"][1:]
        first["tensors"] |= second["tensors"]
        torch.save(first, tmp_path / "a.pt")
        if problem is None:
            torch.testing.assert_close(nl.load_blocks(net(None), tmp_path / "a.pt")(x()), source(x()))
        else:
            with pytest.raises(ValueError, match=problem):
                nl.load_blocks(net(None), tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("layer3", ["layer3"]),
        ("features.6,features.13", ["features.6", "features.13"]),
        ("layer[2,3].*,nvan", ["layer[2,3].*", "nvan"]),
        ("a,[b", ["a", "[b"]),
    ],
)
def test_places_in_a_text_are_separated_by_commas_outside_brackets(text, places):
    assert separated(text) == places


def test_a_text_of_many_places_is_refused():
    with pytest.raises(ValueError, match="a place of 100,000 characters, expected at most 1,000"):
        separated("a," * 50_000)
