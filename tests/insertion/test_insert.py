"""insert, blocks, remove: places, errors, and that a failed call changes nothing."""

import copy

import pytest
import torch
from torch import nn

import torch_nonlocal as nl


def snapshot(model):
    """All that insert may touch: children, hooks, modes, tensors."""
    return {
        name: (
            list(module._modules),
            list(module._forward_hooks.values()),
            dict(module._forward_hooks_with_kwargs),
            dict(module._forward_hooks_always_called),
            module.training,
        )
        for name, module in model.named_modules()
    }, {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(before, after):
    assert before[0] == after[0]
    assert before[1].keys() == after[1].keys()
    assert all(torch.equal(value, after[1][key]) for key, value in before[1].items())


@pytest.mark.parametrize(
    ("at", "places"),
    [
        ("stem", ["stem"]),
        ("stage", ["stage.2"]),  # a Sequential stands for its last module
        ("stage.*", ["stage.0", "stage.1", "stage.2"]),
        ("st*", ["stem", "stage.2"]),
        ("**.0", ["stage.0", "items.0"]),
        ("stage.[01]", ["stage.0", "stage.1"]),
        ("stage.[!01]", ["stage.2"]),
        (["items.0", "stem", "stem"], ["stem", "items.0"]),
    ],
)
def test_places_by_name_glob_and_list(small, clip, at, places):
    nl.insert(small, at=at, example_input=clip)
    assert list(nl.blocks(small)) == places


def test_places_by_module(small, clip):
    nl.insert(small, at=[small.stem, small.stage], example_input=clip)
    assert list(nl.blocks(small)) == ["stem", "stage.2"]


def test_insert_returns_the_model_and_keeps_its_keys_and_output(small, clip):
    keys, expected = set(small.state_dict()), small(clip)
    assert nl.insert(small, at="stage", example_input=clip) is small
    assert keys < set(small.state_dict())
    assert torch.equal(small(clip), expected)


def test_a_trained_block_acts_on_the_places_output(small, clip):
    nl.insert(small, at="stem", example_input=clip, norm=None)
    block = nl.blocks(small)["stem"]
    nn.init.normal_(block.out.weight)
    bare = nn.functional.conv3d(clip, small.stem.weight, small.stem.bias, padding=1)
    assert torch.equal(small.stem(clip), block(bare))
    assert not torch.equal(small.stem(clip), bare)


def test_the_network_learns_through_a_block(small, clip):
    nl.insert(small.train(), at="stage", example_input=clip)
    small(clip).square().sum().backward()
    assert nl.blocks(small)["stage.2"].norm.weight.grad.abs().max() > 0


def test_options_reach_the_block(small, clip):
    nl.insert(
        small, at="stem", example_input=clip, pairwise="dot_product", inner_channels=3, attend="time", norm="group"
    )
    assert (
        nl.blocks(small)["stem"].config
        == nl.NonLocal3d(8, pairwise="dot_product", inner_channels=3, attend="time", norm="group").config
    )


def test_block_takes_the_places_mode_dtype_and_device(clip):
    model = nn.Sequential(nn.Conv3d(3, 8, 1)).double().eval()
    nl.insert(model, at="0", example_input=clip.double())
    block = nl.blocks(model)["0"]
    assert not block.training
    assert block.theta.weight.dtype == torch.float64
    assert torch.equal(model(clip.double()), nn.functional.conv3d(clip.double(), model[0].weight, model[0].bias))


def test_remove_gives_back_the_same_state(small, clip):
    before = snapshot(small)
    nl.insert(small, at="stage.*", example_input=clip)
    nl.remove(small, at="stage.1")
    assert list(nl.blocks(small)) == ["stage.0", "stage.2"]
    assert nl.remove(small) is small
    assert_same(before, snapshot(small))


def test_remove_leaves_the_users_own_hooks(small, clip):
    calls = []
    handle = small.stem.register_forward_hook(lambda *_: calls.append(1))
    nl.insert(small, at="stem", example_input=clip)
    nl.remove(small)
    calls.clear()
    small(clip)
    assert calls == [1]
    handle.remove()
    assert not small.stem._forward_hooks


def test_the_example_run_disturbs_nothing(small, clip):
    small.train()
    small.stage.eval()
    before = snapshot(small)
    random_state = torch.get_rng_state()
    nl.insert(small, at="stem", example_input=clip)
    nl.remove(small)
    # drawing the block's weights uses random numbers; the run of the example does not
    torch.set_rng_state(random_state)
    with pytest.raises(ValueError, match="does not run"):
        nl.insert(small, at="unused", example_input=clip)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same(before, snapshot(small))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 1)

    def forward(self, x, shift):
        return self.conv(x + shift)


@pytest.mark.parametrize("example", [(torch.zeros(1, 2, 5), 1.0), {"x": torch.zeros(1, 2, 5), "shift": 1.0}])
def test_examples_of_several_arguments(example):
    model = nl.insert(TwoInputs(), at="conv", example_input=example)
    assert isinstance(nl.blocks(model)["conv"], nl.NonLocal1d)


@pytest.mark.parametrize(
    ("module", "kind", "channels"),
    [
        (nn.Conv2d(3, 6, 1), nl.NonLocal2d, 6),
        (nn.ConvTranspose3d(3, 4, 1), nl.NonLocal3d, 4),
        (nn.BatchNorm1d(5), nl.NonLocal1d, 5),
    ],
)
def test_no_example_needed_where_the_module_tells(module, kind, channels):
    model = nl.insert(nn.Sequential(module), at="0")
    assert type(nl.blocks(model)["0"]) is kind
    assert nl.blocks(model)["0"].channels == channels


def test_a_block_after_the_model_itself():
    conv = nn.Conv2d(3, 6, 1)
    nl.insert(conv, at=conv)
    assert list(nl.blocks(conv)) == [""]
    assert list(nl.blocks(nl.remove(conv))) == []


ERRORS = [
    ("stam", {}, ValueError, r"no module matches 'stam'; did you mean 'stem'\? modules: stem, stage"),
    ("stagee.*", {}, ValueError, r"did you mean 'stage\.\*'\?"),
    ("zzz", {}, ValueError, r"no module matches 'zzz' modules: stem"),
    ([], {}, ValueError, "names no place"),
    (3, {}, TypeError, "expected a name, a glob, a module or a list of these, got int"),
    ([3], {}, TypeError, "expected names, globs or modules, got int"),
    (nn.ReLU(), {}, ValueError, "the given ReLU is not a module of this model"),
    ("unused", {}, ValueError, r"'unused' \(Conv3d\) does not run in the example"),
    ("shared", {}, ValueError, r"'shared' \(ReLU\) runs 2 times in the example"),
    ("pair", {}, ValueError, r"'pair' \(Pair\) returns a tuple, not a tensor"),
    ("six", {}, ValueError, r"returns a tensor of 6 axes, \(2, 2, 4, 4, 6, 6\)"),
    ("head", {}, ValueError, "returns a tensor of 2 axes"),
    ("items", {}, ValueError, r"'items' is a ModuleList.*such as 'items\.0'"),
    ("stem", {"inner_channels": 0}, ValueError, r"block at 'stem' \(NonLocal3d, 8 channels\): inner_channels=0"),
    ("stem", {"colour": "red"}, TypeError, "colour"),
    (["stem", "stage.*", "unused"], {}, ValueError, "'unused'"),
    (["stem", "stage"], {"subsample": (2, 2)}, ValueError, "expected a positive factor, or 3"),
]


@pytest.mark.parametrize(("at", "options", "error", "message"), ERRORS)
def test_errors_name_the_mistake_and_change_nothing(small, clip, at, options, error, message):
    before = snapshot(small)
    with pytest.raises(error, match=message):
        nl.insert(small, at=at, example_input=clip, **options)
    assert_same(before, snapshot(small))


def test_an_example_the_model_cannot_run_changes_nothing(small):
    before = snapshot(small)
    with pytest.raises(RuntimeError):
        nl.insert(small, at="stem", example_input=torch.zeros(1, 99, 2, 2, 2))
    assert_same(before, snapshot(small))


def test_inserting_twice_is_refused(small, clip):
    nl.insert(small, at="stem", example_input=clip)
    before = snapshot(small)
    with pytest.raises(ValueError, match=r"'stem' has a block already.*nl\.remove\(model, at='stem'\)"):
        nl.insert(small, at=["items.0", "stem"], example_input=clip)
    assert_same(before, snapshot(small))


def test_globs_do_not_reach_into_blocks(small, clip):
    nl.insert(small, at="stem", example_input=clip)
    with pytest.raises(ValueError, match="no module matches"):
        nl.insert(small, at="**.theta", example_input=clip)


def test_an_uncertain_module_asks_for_an_example(small):
    with pytest.raises(ValueError, match="pass example_input="):
        nl.insert(small, at="stage.2")


def test_a_container_with_its_own_forward_is_refused():
    class Dense(nn.Sequential):
        def forward(self, x):
            for child in self:
                x = x + child(x)
            return x

    model = nn.Sequential(Dense(nn.Conv2d(4, 4, 1)), nn.ReLU())
    with pytest.raises(ValueError, match=r"'0' is a Dense, a container.*such as '0\.0'"):
        nl.insert(model, at="0", example_input=torch.zeros(1, 4, 3, 3))


def test_remove_where_there_is_none(small, clip):
    nl.insert(small, at="stem", example_input=clip)
    before = snapshot(small)
    with pytest.raises(ValueError, match=r"no block at 'items\.0'; blocks: stem"):
        nl.remove(small, at=["stem", "items.0"])
    assert_same(before, snapshot(small))


def test_a_copy_is_independent(small, clip):
    nl.insert(small, at="stem", example_input=clip)
    other = copy.deepcopy(small)
    nn.init.ones_(nl.blocks(other)["stem"].norm.weight)
    assert not torch.equal(other(clip), small(clip))
    nl.remove(other)
    assert list(nl.blocks(small)) == ["stem"]
