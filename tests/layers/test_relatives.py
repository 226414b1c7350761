"""The relatives against their formulas, written here from the papers with the full map of weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torch_nonlocal as nl
from torch_nonlocal.benchmark.meter import measure
from torch_nonlocal.layers.registry import block_kind

Weights = dict[str, Tensor]
RELATIVES = nl.list_blocks()[1:]
GATES = ("se", "cbam")
SIZES = {1: (11,), 2: (5, 6), 3: (2, 4, 3)}


def conv(w: Weights, name: str, x: Tensor) -> Tensor:
    """A 1x1 convolution of (B, C, N)."""
    y = torch.einsum("oc,bcn->bon", w[f"{name}.weight"].flatten(1), x)
    return y + w[f"{name}.bias"][None, :, None] if f"{name}.bias" in w else y


def attended(theta: Tensor, phi: Tensor, g: Tensor, scale: float = 1.0) -> Tensor:
    weights_BNM = (scale * torch.einsum("bdn,bdm->bnm", theta, phi)).softmax(-1)
    return torch.einsum("bnm,bvm->bvn", weights_BNM, g)


def position(w: Weights, x: Tensor) -> Tensor:
    return attended(conv(w, "theta", x), conv(w, "phi", x), conv(w, "g", x))


def channel(x: Tensor) -> Tensor:
    """As in the authors' code: the softmax of max - energy."""
    energy_BCC = torch.einsum("bcn,bdn->bcd", x, x)
    weights_BCC = (energy_BCC.max(-1, keepdim=True).values - energy_BCC).softmax(-1)
    return torch.einsum("bcd,bdn->bcn", weights_BCC, x)


def danet(w: Weights, x: Tensor, size: Any) -> Tensor:
    return x + w["gamma.weight"][0] * position(w, x) + w["gamma.weight"][1] * channel(x)


def danet_position(w: Weights, x: Tensor, size: Any) -> Tensor:
    return x + w["gamma.weight"] * position(w, x)


def danet_channel(w: Weights, x: Tensor, size: Any) -> Tensor:
    return x + w["gamma.weight"] * channel(x)


def gcnet(w: Weights, x: Tensor, size: Any) -> Tensor:
    context_BC1 = (conv(w, "score", x).softmax(-1) * x).sum(-1, keepdim=True)
    hidden = conv(w, "reduce", context_BC1)
    mean, var = hidden.mean(1, keepdim=True), hidden.var(1, correction=0, keepdim=True)
    hidden = (hidden - mean) / (var + 1e-5).sqrt() * w["norm.weight"][:, None] + w["norm.bias"][:, None]
    return x + conv(w, "out", hidden.relu())


def a2(w: Weights, x: Tensor, size: Any, heads: int = 1) -> Tensor:
    value, key, query = (conv(w, name, x).unflatten(1, (heads, -1)) for name in ("g", "phi", "theta"))
    weights_BHNM = torch.einsum("bhdn,bhdm->bhnm", query.softmax(2), key.softmax(3))
    return x + conv(w, "out", torch.einsum("bhnm,bhvm->bhvn", weights_BHNM, value).flatten(1, 2))


def efficient(w: Weights, x: Tensor, size: Any) -> Tensor:
    return a2(w, x, size, heads=2)


def cgnl(w: Weights, x: Tensor, size: Any, groups: int = 2) -> Tensor:
    theta, phi, g = (conv(w, name, x).unflatten(1, (groups, -1)).flatten(2) for name in ("theta", "phi", "g"))
    y = torch.einsum("bgnm,bgm->bgn", theta[..., :, None] * phi[..., None, :], g).view(len(x), -1, x.shape[2])
    per_group = w["out.weight"].flatten(1).unflatten(0, (groups, -1))
    z = torch.einsum("goc,bgcn->bgon", per_group, y.unflatten(1, (groups, -1)))
    mean, var = z.mean((2, 3), keepdim=True), z.var((2, 3), correction=0, keepdim=True)
    z = ((z - mean) / (var + 1e-5).sqrt()).flatten(1, 2)
    return x + z * w["norm.weight"][:, None] + w["norm.bias"][:, None]


def dnl(w: Weights, x: Tensor, size: Any) -> Tensor:
    q, k, g = conv(w, "theta", x), conv(w, "phi", x), conv(w, "g", x)
    pairwise = attended(q - q.mean(2, keepdim=True), k - k.mean(2, keepdim=True), g, 1 / 0.5)
    unary = (conv(w, "score", x).softmax(-1) * g).sum(-1, keepdim=True)
    return x + conv(w, "out", pairwise + unary)


def ccnet(w: Weights, x: Tensor, size: Any) -> Tensor:
    """One softmax over the row and the column of a position, which is one of its own keys."""
    places = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij")).flatten(1)
    same_frame = (places[:-2, :, None] == places[:-2, None, :]).all(0)
    line = (places[-2, :, None] == places[-2]) | (places[-1, :, None] == places[-1])
    for _ in range(2):
        logits_BNM = torch.einsum("bdn,bdm->bnm", conv(w, "theta", x), conv(w, "phi", x))
        weights_BNM = logits_BNM.masked_fill(~(line & same_frame), -torch.inf).softmax(-1)
        x = x + w["gamma.weight"] * torch.einsum("bnm,bvm->bvn", weights_BNM, conv(w, "g", x))
    return x


def regions(x: Tensor, size: Any) -> Tensor:
    """Averages over 1, 3, 6 and 8 regions an axis, from the floor to the ceiling of each border; clips by frames."""
    if len(size) == 3:
        frames = x.unflatten(2, (size[0], -1)).unbind(2)
        return torch.cat([regions(one, size[1:]) for one in frames], 2)
    maps, found = x.unflatten(2, size), []
    for side in (1, 3, 6, 8):
        for place in torch.cartesian_prod(*[torch.arange(side)] * len(size)).view(-1, len(size)).tolist():
            part = maps
            for axis, (cell, full) in enumerate(zip(place, size, strict=True)):
                start, end = cell * full // side, -(-(cell + 1) * full // side)
                part = part.narrow(axis + 2, start, end - start)
            found.append(part.flatten(2).mean(2))
    return torch.stack(found, 2)


def apnb(w: Weights, x: Tensor, size: Any) -> Tensor:
    phi, g = (regions(conv(w, name, x), size) for name in ("phi", "g"))
    return x + conv(w, "out", attended(conv(w, "theta", x), phi, g))


def se(w: Weights, x: Tensor, size: Any) -> Tensor:
    return x * conv(w, "out", conv(w, "reduce", x.mean(2, keepdim=True)).relu()).sigmoid()


def cbam(w: Weights, x: Tensor, size: Any) -> Tensor:
    pooled = (x.mean(2, keepdim=True), x.max(2, keepdim=True).values)
    x = x * sum(conv(w, "out", conv(w, "reduce", one).relu()) for one in pooled).sigmoid()  # pyright: ignore
    both = torch.stack([x.mean(1), x.max(1).values], 1).unflatten(2, size)
    convolve = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}[len(size)]
    return x * convolve(both, w["spatial.weight"], padding=3).flatten(2).sigmoid()


OPTIONS: dict[str, dict[str, Any]] = {
    "efficient": {"head_count": 2},
    "cgnl": {"groups": 2},
    "dnl": {"temperature": 0.5},
    "danet": {"reduction": 2},
    "ccnet": {"reduction": 2},
    "gcnet": {"ratio": 2},
    "se": {"reduction": 2},
    "cbam": {"reduction": 2},
}
FORMULAS: dict[str, Callable[[Weights, Tensor, Any], Tensor]] = {
    name: globals()[name] for name in RELATIVES if name != "afnb"
}
FORMULAS["afnb"] = apnb


def made(name: str, dims: int, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """A relative with random values for all parameters, those that start at zero included."""
    torch.manual_seed(0)
    block = block_kind(name).build(dims, 8, **{**OPTIONS.get(name, {}), **options}).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
        if name == "cgnl":  # the group norm takes out the size of its input, and with it the gradients of phi and g,
            block.out.weight.mul_(1e-3)  # but for an input as small as its epsilon
    return block.to(dtype)


def agreement(block: Any, x: Tensor, formula: Callable[[Weights, Tensor, Any], Tensor]) -> float:
    """The largest relative error of the output and of all gradients, against the formula in float64."""
    weights = {key: value.detach().double().requires_grad_() for key, value in block.named_parameters()}
    exact = x.detach().double().requires_grad_()
    expected = formula(weights, exact.flatten(2), x.shape[2:]).view(x.shape)
    toward = torch.randn(x.shape, dtype=torch.float64)
    expected.backward(toward)
    x = x.detach().requires_grad_()
    found = block(x)
    found.backward(toward.to(x.dtype))
    errors = [error(found, expected), error(x.grad, exact.grad)]
    for key, value in block.named_parameters():
        # The gradient of a bias before a softmax is zero in theory: its scale is that of the gradient of the weight.
        of_weight = weights.get(key.replace(".bias", ".weight"), weights[key]).grad
        errors.append(error(value.grad, weights[key].grad, like=of_weight))
    return max(errors)


def error(found: Tensor | None, expected: Tensor | None, like: Tensor | None = None) -> float:
    """The largest difference, relative to the largest expected value."""
    assert found is not None
    assert expected is not None
    largest = max(float(one.detach().abs().max()) for one in (expected, expected if like is None else like))
    return float((found.detach().double() - expected.detach()).abs().max()) / largest


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", RELATIVES)
def test_output_and_gradients_equal_the_formula(name, dims):
    if name == "ccnet" and dims == 1:
        with pytest.raises(ValueError, match="applies to maps of 2 to 3 axes"):
            block_kind(name).build(1, 8)
        return
    x = torch.randn(2, 8, *SIZES[dims], dtype=torch.float64)
    assert agreement(made(name, dims), x, FORMULAS[name]) < 1e-12
    assert agreement(made(name, dims, torch.float32), x.float(), FORMULAS[name]) < 1e-5


@pytest.mark.parametrize("name", [name for name in RELATIVES if name not in GATES])
def test_every_algorithm_computes_the_same(name):
    x = torch.randn(2, 8, 9, 10, dtype=torch.float64)
    other = "reassociated" if name in ("a2", "efficient", "cgnl") else "tiled"
    for algorithm in ("dense", "auto" if name == "ccnet" else other):
        assert agreement(made(name, 2, algorithm=algorithm), x, FORMULAS[name]) < 1e-12


@pytest.mark.parametrize("name", RELATIVES)
def test_a_new_block_is_the_identity_and_stays_it_when_initialized_again(name):
    block, x = block_kind(name).build(2, 8), torch.randn(2, 8, 9, 10)
    for _ in range(2):
        assert torch.equal(block(x), x) == (name not in GATES)
        block.reset_parameters()
        block.apply(lambda module: getattr(module, "reset_parameters", lambda: None)())
    assert type(block)(**block.config).config == block.config


@pytest.mark.parametrize("name", RELATIVES)
def test_layouts_hold_the_same_map(name):
    x = torch.randn(2, 8, 4, 5, dtype=torch.float64)
    block = made(name, 2)
    expected = block(x)
    last = made(name, 2, layout="channels_last")
    torch.testing.assert_close(last(x.movedim(1, -1)).movedim(-1, 1), expected)
    tokens = made(name, 2, layout="tokens", grid=(4, 5))
    given = torch.cat([torch.ones(2, 1, 8, dtype=torch.float64), x.flatten(2).mT], dim=1)
    found = tokens(given)
    torch.testing.assert_close(found[:, 1:].mT.unflatten(2, (4, 5)), expected)
    assert torch.equal(found[:, :1], given[:, :1])


def test_channel_attention_has_the_sign_of_the_option():
    """With scale=1, as published, a channel attends most to those that are like it."""
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    flat_CN = x[0].flatten(1)
    for scale in (1.0, -1.0):
        block = block_kind("danet_channel").build(2, 4, scale=scale).double()
        nn.init.ones_(block.gamma.weight)
        expected = x + ((scale * flat_CN @ flat_CN.T).softmax(-1) @ flat_CN).view(x.shape)
        torch.testing.assert_close(block(x), expected)


def test_a_small_global_context_depends_on_its_map():
    """One channel in the bottleneck would be constant after the layer norm."""
    block = made("gcnet", 2, ratio=16)
    nn.init.ones_(block.norm.weight)
    nn.init.zeros_(block.norm.bias)
    nn.init.zeros_(block.reduce.bias)
    x = torch.randn(32, 8, 2, 2, dtype=torch.float64)
    added = block(x) - x
    assert float((added[1:] - added[:1]).detach().abs().max()) > 1e-3


def test_fusion_takes_keys_of_another_map():
    block = made("afnb", 2, key_channels=6)
    x, low = torch.randn(2, 8, 5, 6, dtype=torch.float64), torch.randn(2, 6, 9, 12, dtype=torch.float64)
    w = dict(block.named_parameters())
    phi, g = (regions(conv(w, name, low.flatten(2)), low.shape[2:]) for name in ("phi", "g"))
    expected = x.flatten(2) + conv(w, "out", attended(conv(w, "theta", x.flatten(2)), phi, g))
    torch.testing.assert_close(block(x, low), expected.view(x.shape))
    with pytest.raises(ValueError, match="key_channels=6 needs a second map"):
        block(x)
    with pytest.raises(ValueError, match=r"keys_from of shape \(B, 6, \*size\)"):
        block(x, x)


def test_fusion_takes_keys_of_clips_for_frames():
    x, low = torch.randn(2, 8, 3, 5, 6, dtype=torch.float64), torch.randn(2, 6, 3, 4, 4, dtype=torch.float64)
    expected = made("afnb", 3, key_channels=6)(x, low)
    found = made("afnb", 3, key_channels=6, layout="frames", grid=(3,))(x.transpose(1, 2).flatten(0, 1), low)
    torch.testing.assert_close(found, expected.transpose(1, 2).flatten(0, 1))


WRONG = [
    ("gcnet", {"ratio": 0}, "at least 1"),
    ("danet", {"reduction": True}, "at least 1"),
    ("danet_channel", {"scale": "large"}, "scale"),
    ("dnl", {"temperature": 0.0}, "positive"),
    ("dnl", {"temperature": float("nan")}, "positive"),
    ("efficient", {"head_count": 3}, "divisor"),
    ("cgnl", {"groups": 3}, "divisor"),
    ("ccnet", {"recurrence": 0}, "at least 1"),
    ("ccnet", {"recurrence": 10**9}, "at most 64"),
    ("apnb", {"psp_size": ()}, "sides of the levels"),
    ("apnb", {"psp_size": (1, 10**6)}, "sides of the levels"),
    ("apnb", {"psp_size": (1, 2.0)}, "sides of the levels"),
    ("apnb", {"algorithm": "sorted"}, "'dense'"),
    ("afnb", {"key_channels": 0}, "at least 1"),
    ("cbam", {"kernel_size": 4}, "odd"),
    ("se", {"layout": "tokens"}, "grid"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG, ids=lambda value: str(value))
def test_wrong_values_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        block_kind(name).build(2, 8, **options)


def test_wrong_names_suggest_the_nearest_one():
    with pytest.raises(ValueError, match="did you mean 'gcnet'"):
        block_kind("gcnett")
    with pytest.raises(TypeError, match=r"did you mean 'ratio'\?.*block 'gcnet': ratio"):
        block_kind("gcnet").build(2, 8, ratoi=4)
    with pytest.raises(ValueError, match="GlobalContext: expected"):
        block_kind("gcnet").build(2, 8)(torch.randn(2, 7, 4, 4))


@pytest.mark.parametrize("name", RELATIVES)
def test_exported_graphs_hold_ordinary_operations(name):
    block, x = made(name, 2, torch.float32), torch.randn(2, 8, 9, 10)
    program = torch.export.export(block, (x,))
    assert not any("torch_nonlocal" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), block(x))
    network, other = nn.Sequential(block), torch.randn(3, 8, 7, 8)
    torch.testing.assert_close(torch.fx.symbolic_trace(network)(other), block(other))


COMPILED = [
    pytest.param(name, marks=() if name in ("gcnet", "a2") else pytest.mark.extended, id=name) for name in RELATIVES
]


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_blocks_have_one_graph(name):
    block, x = made(name, 2, torch.float32), torch.randn(2, 8, 9, 10)
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), block(x))


SIDE = 88  # N = 7,744 positions: a map of 240 MB


def all_exact() -> Callable[[], None]:
    """Return a forward and backward pass of each block that needs no N x M map, after a small one of each."""
    torch.set_num_threads(2)
    names = [name for name in RELATIVES if name not in GATES]
    blocks = [block_kind(name).build(2, 16) for name in names]

    def run(side: int) -> None:
        for block in blocks:
            block(torch.randn(1, 16, side, side, requires_grad=True)).sum().backward()

    run(16)
    return lambda: run(SIDE)


@pytest.mark.extended
def test_no_relative_holds_a_map_of_all_pairs():
    assert measure(all_exact, repeats=0).extra_bytes < 4 * SIDE**4 / 3
