"""insert, blocks and remove: places, errors, and an unchanged model after an error."""

import copy

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.insertion.targets import _Glob


def snapshot(model):
    """Everything that insert can change: children, hooks, modes, tensors."""
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
        ("stage", ["stage.2"]),  # a Sequential resolves to its last module
        ("stage.*", ["stage.0", "stage.1", "stage.2"]),
        ("st*", ["stem", "stage.2"]),
        ("**.0", ["stage.0", "items.0"]),
        ("stage.[01]", ["stage.0", "stage.1"]),
        ("stage.[!01]", ["stage.2"]),
        (["items.0", "stem", "stem"], ["stem", "items.0"]),
    ],
)
def test_at_accepts_names_globs_and_lists(small, clip, at, places):
    nl.insert(small, at=at, example_input=clip)
    assert list(nl.blocks(small)) == places


def test_at_accepts_modules(small, clip):
    nl.insert(small, at=[small.stem, small.stage], example_input=clip)
    assert list(nl.blocks(small)) == ["stem", "stage.2"]


def test_insert_returns_the_model_with_its_keys_and_output(small, clip):
    keys, expected = set(small.state_dict()), small(clip)
    assert nl.insert(small, at="stage", example_input=clip) is small
    assert keys < set(small.state_dict())
    assert torch.equal(small(clip), expected)


def test_a_trained_block_changes_the_output_of_the_place(small, clip):
    nl.insert(small, at="stem", example_input=clip, norm=None)
    block = nl.blocks(small)["stem"]
    nn.init.normal_(block.out.weight)
    bare = nn.functional.conv3d(clip, small.stem.weight, small.stem.bias, padding=1)
    assert torch.equal(small.stem(clip), block(bare))
    assert not torch.equal(small.stem(clip), bare)


def test_gradients_reach_the_block(small, clip):
    nl.insert(small.train(), at="stage", example_input=clip)
    small(clip).square().sum().backward()
    assert nl.blocks(small)["stage.2"].norm.weight.grad.abs().max() > 0


def test_options_are_passed_to_the_block(small, clip):
    nl.insert(
        small, at="stem", example_input=clip, pairwise="dot_product", inner_channels=3, attend="time", norm="group"
    )
    assert (
        nl.blocks(small)["stem"].config
        == nl.NonLocal3d(8, pairwise="dot_product", inner_channels=3, attend="time", norm="group").config
    )


def test_a_block_takes_mode_dtype_and_device_of_the_place(clip):
    model = nn.Sequential(nn.Conv3d(3, 8, 1)).double().eval()
    nl.insert(model, at="0", example_input=clip.double())
    block = nl.blocks(model)["0"]
    assert not block.training
    assert block.theta.weight.dtype == torch.float64
    assert torch.equal(model(clip.double()), nn.functional.conv3d(clip.double(), model[0].weight, model[0].bias))


def test_remove_restores_the_state_before_insert(small, clip):
    before = snapshot(small)
    nl.insert(small, at="stage.*", example_input=clip)
    nl.remove(small, at="stage.1")
    assert list(nl.blocks(small)) == ["stage.0", "stage.2"]
    assert nl.remove(small) is small
    assert_same(before, snapshot(small))


def test_remove_keeps_other_hooks(small, clip):
    calls = []
    handle = small.stem.register_forward_hook(lambda *_: calls.append(1))
    nl.insert(small, at="stem", example_input=clip)
    nl.remove(small)
    calls.clear()
    small(clip)
    assert calls == [1]
    handle.remove()
    assert not small.stem._forward_hooks


def test_the_example_run_changes_no_state(small, clip):
    small.train()
    small.stage.eval()
    before = snapshot(small)
    random_state = torch.get_rng_state()
    nl.insert(small, at="stem", example_input=clip)
    nl.remove(small)
    # only the initialization of the block draws random numbers, not the run on the example input
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
def test_example_inputs_with_several_arguments(example):
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
def test_convolutions_and_batch_norms_need_no_example_input(module, kind, channels):
    model = nl.insert(nn.Sequential(module), at="0")
    assert type(nl.blocks(model)["0"]) is kind
    assert nl.blocks(model)["0"].channels == channels


def test_a_block_can_follow_the_model_itself():
    conv = nn.Conv2d(3, 6, 1)
    nl.insert(conv, at=conv)
    assert list(nl.blocks(conv)) == [""]
    assert list(nl.blocks(nl.remove(conv))) == []


ERRORS = [
    ("stam", {}, ValueError, r"no module matches 'stam'; did you mean 'stem'\? modules: stem, stage"),
    ("stagee.*", {}, ValueError, r"did you mean 'stage\.\*'\?"),
    ("zzz", {}, ValueError, r"no module matches 'zzz'; modules: stem"),
    ([], {}, ValueError, "at is empty: expected at least one name"),
    (3, {}, TypeError, "expected a name, a glob, a module or a list of these, got int"),
    ([3], {}, TypeError, "expected names, globs or modules, got int"),
    (nn.ReLU(), {}, ValueError, "the given ReLU is not a module of this model"),
    ("unused", {}, ValueError, r"'unused' \(Conv3d\) does not run on the example input"),
    ("shared", {}, ValueError, r"'shared' \(ReLU\) runs 2 times on the example input"),
    ("pair", {}, ValueError, r"'pair' \(Pair\) returns a tuple, not a tensor"),
    ("six", {}, ValueError, r"returns a tensor of 6 axes, \(2, 2, 4, 4, 6, 6\)"),
    ("head", {}, ValueError, "returns a tensor of 2 axes"),
    ("items", {}, ValueError, r"'items' is a ModuleList.*such as 'items\.0'"),
    ("stem", {"inner_channels": 0}, ValueError, r"block at 'stem' \(NonLocal3d, 8 channels\): inner_channels=0"),
    (
        "stem",
        {"heads": 4},
        TypeError,
        r"insert: unknown option 'heads'; did you mean 'hard'\? "
        r"options of blocks: inner_channels, pairwise, .*, dtype$",
    ),
    (
        "stem",
        {"subsampel": 2},
        TypeError,
        r"unknown option 'subsampel'; did you mean 'subsample'\? options of blocks: ",
    ),
    ("stem", {"example": 1}, TypeError, r"unknown option 'example'; did you mean 'example_input'\?"),
    (
        "stem",
        {"pairwise": "cosine"},
        ValueError,
        "pairwise='cosine': expected one of 'embedded_gaussian', 'gaussian', ",
    ),
    ("stem", {"attend": "all"}, ValueError, "attend='all': expected one of 'spacetime', 'space', 'time'"),
    ("stem", {"norm": "instance"}, ValueError, "norm='instance': expected one of 'batch', 'group', 'layer', None"),
    ("stem", {"algorithm": "flash"}, ValueError, "algorithm='flash': expected one of 'auto', 'dense', "),
    ("stem", {"scale": "log"}, ValueError, "scale='log': expected None, 'sqrt' or a number"),
    (["stem", "stage.*", "unused"], {}, ValueError, "'unused'"),
    (["stem", "stage"], {"subsample": (2, 2)}, ValueError, "expected a positive factor, or 3"),
]


@pytest.mark.parametrize(("at", "options", "error", "message"), ERRORS)
def test_errors_name_the_mistake_and_leave_the_model_unchanged(small, clip, at, options, error, message):
    before = snapshot(small)
    with pytest.raises(error, match=message):
        nl.insert(small, at=at, example_input=clip, **options)
    assert_same(before, snapshot(small))


def test_a_failing_example_input_leaves_the_model_unchanged(small):
    before = snapshot(small)
    with pytest.raises(RuntimeError):
        nl.insert(small, at="stem", example_input=torch.zeros(1, 99, 2, 2, 2))
    assert_same(before, snapshot(small))


def test_inserting_twice_raises(small, clip):
    nl.insert(small, at="stem", example_input=clip)
    before = snapshot(small)
    with pytest.raises(ValueError, match=r"'stem' has a block already.*nl\.remove\(model, at='stem'\)"):
        nl.insert(small, at=["items.0", "stem"], example_input=clip)
    assert_same(before, snapshot(small))


def test_globs_do_not_match_inside_blocks(small, clip):
    nl.insert(small, at="stem", example_input=clip)
    with pytest.raises(ValueError, match="no module matches"):
        nl.insert(small, at="**.theta", example_input=clip)


def test_a_module_of_unknown_output_requires_an_example_input(small):
    with pytest.raises(ValueError, match="pass example_input="):
        nl.insert(small, at="stage.2")


def test_a_container_with_its_own_forward_raises():
    class Dense(nn.Sequential):
        def forward(self, x):
            for child in self:
                x = x + child(x)
            return x

    model = nn.Sequential(Dense(nn.Conv2d(4, 4, 1)), nn.ReLU())
    with pytest.raises(ValueError, match=r"'0' is a Dense, a container.*such as '0\.0'"):
        nl.insert(model, at="0", example_input=torch.zeros(1, 4, 3, 3))


def test_remove_without_a_block_raises_and_leaves_the_model_unchanged(small, clip):
    nl.insert(small, at="stem", example_input=clip)
    before = snapshot(small)
    with pytest.raises(ValueError, match=r"no block at 'items\.0'; blocks: stem"):
        nl.remove(small, at=["stem", "items.0"])
    assert_same(before, snapshot(small))


def test_blocks_of_a_deepcopy_are_independent(small, clip):
    nl.insert(small, at="stem", example_input=clip)
    other = copy.deepcopy(small)
    nn.init.ones_(nl.blocks(other)["stem"].norm.weight)
    assert not torch.equal(other(clip), small(clip))
    nl.remove(other)
    assert list(nl.blocks(small)) == ["stem"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("a.*", ["a.b", "a.0"]),
        ("a**", ["a", "a.b", "a.b.c", "a.0", "ab"]),
        ("**.c", ["a.b.c"]),
        ("*", ["a", "ab", "x"]),
        ("a***c", ["a.b.c"]),
        ("?", ["a", "x"]),
        ("[ax]", ["a", "x"]),
        ("[!a]", ["x"]),
        ("a.[0-9]", ["a.0"]),
        ("**b*", ["a.b", "ab"]),
        ("**b**", ["a.b", "a.b.c", "ab"]),
        ("", []),
        ("[z-a]", []),
    ],
)
def test_globs_match_whole_names(glob, expected):
    names = ["a", "a.b", "a.b.c", "a.0", "ab", "x"]
    assert [name for name in names if _Glob(glob).matches(name)] == expected


def test_globs_never_backtrack():
    assert not _Glob("*a" * 40 + "b").matches("a" * 1000)  # a backtracking matcher would take longer than the universe
    assert _Glob("**a" * 300 + "**").matches("a." * 300)
    with pytest.raises(ValueError, match="a place of 5,000 characters, expected at most 1,000"):
        nl.insert(nn.Sequential(nn.Conv2d(3, 8, 1)), at="*a" * 2500)
