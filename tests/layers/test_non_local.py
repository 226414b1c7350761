"""The block: all options against the formula in plain tensor operations."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torch_nonlocal as nl
from torch_nonlocal.layers import NonLocal

BLOCKS = {1: nl.NonLocal1d, 2: nl.NonLocal2d, 3: nl.NonLocal3d}
SIZES = {1: (10,), 2: (4, 6), 3: (3, 4, 6)}
FORMS = ["embedded_gaussian", "gaussian", "dot_product", "concatenation"]


def sample(dims, channels=8, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(dims)
    return torch.randn(batch, channels, *SIZES[dims], generator=generator, dtype=dtype)


def randomized(block):
    """Set all parameters to random values, since the zero initialization makes a block the identity."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in block.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.4)
    return block


def by_formula(block, x, keys=lambda x: x):
    """Compute z = x + norm(W_z y) with the N x M weights of eq. 2 to 5; `keys` pools a map."""
    flat = lambda t: t.flatten(2)  # noqa: E731
    theta = flat(block.theta(x))
    phi = flat(keys(block.phi(x)) if not block.pool_first else block.phi(keys(x)))
    g = flat(keys(block.g(x)) if not block.pool_first else block.g(keys(x)))
    pairs = torch.einsum("bdn,bdm->bnm", theta, phi)
    if block.pairwise == "concatenation":
        n, m = theta.shape[2], phi.shape[2]
        both = torch.cat([theta[:, :, :, None].expand(-1, -1, n, m), phi[:, :, None, :].expand(-1, -1, n, m)], dim=1)
        weights = torch.relu(torch.einsum("c,bcnm->bnm", block.score.weight[0], both)) / m
    elif block.pairwise == "dot_product":
        weights = pairs / phi.shape[2]
    else:
        exponent = torch.exp(block.scale * pairs)
        weights = exponent / exponent.sum(dim=2 if block.normalize == "keys" else 1, keepdim=True)
    y = torch.einsum("bnm,bdm->bdn", weights, g).reshape(x.shape[0], -1, *x.shape[2:])
    return x + block.norm(block.out(y))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("pairwise", FORMS)
def test_block_equals_the_formula(dims, pairwise):
    block = randomized(BLOCKS[dims](8, pairwise=pairwise, dtype=torch.float64)).eval()
    x = sample(dims)
    torch.testing.assert_close(block(x), by_formula(block, x))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("pairwise", FORMS)
@pytest.mark.parametrize("pool_first", [False, True])
def test_subsampled_keys(dims, pairwise, pool_first):
    block = randomized(
        BLOCKS[dims](8, pairwise=pairwise, subsample=2, pool_first=pool_first, dtype=torch.float64)
    ).eval()
    x = sample(dims)
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: lambda t, _: F.max_pool3d(t, (1, 2, 2))}[dims]
    torch.testing.assert_close(block(x), by_formula(block, x, keys=lambda t: pool(t, 2)))


def test_pooling_before_and_after_phi_and_g_differ():
    after = randomized(nl.NonLocal2d(8, subsample=2, dtype=torch.float64)).eval()
    before = nl.NonLocal2d(8, subsample=2, pool_first=True, dtype=torch.float64).eval()
    before.load_state_dict(after.state_dict())
    assert (after(sample(2)) - before(sample(2))).abs().max() > 1e-3


@pytest.mark.parametrize("attend", ["space", "time"])
def test_attend_in_one_axis_is_a_loop_over_the_other(attend):
    block = randomized(nl.NonLocal3d(8, attend=attend, dtype=torch.float64)).eval()
    whole = nl.NonLocal3d(8, dtype=torch.float64).eval()
    whole.load_state_dict(block.state_dict())
    x = sample(3)
    if attend == "space":
        expected = torch.cat([whole(frame) for frame in x.split(1, dim=2)], dim=2)
    else:
        rows = [torch.cat([whole(pixel) for pixel in row.split(1, dim=4)], dim=4) for row in x.split(1, dim=3)]
        expected = torch.cat(rows, dim=3)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("attend", "subsample", "factors"),
    [("spacetime", 2, (1, 2, 2)), ("space", 2, (1, 2, 2)), ("time", 2, (2, 1, 1)), ("spacetime", (3, 2, 1), (3, 2, 1))],
)
def test_subsample_factors_follow_attend(attend, subsample, factors):
    block = nl.NonLocal3d(4, attend=attend, subsample=subsample)
    assert block.subsample == factors
    phi = block.embed(torch.randn(1, 4, 3, 4, 6))[1]
    keys = [size // factor for size, factor in zip((3, 4, 6), factors, strict=True)]
    summed = {"spacetime": keys[0] * keys[1] * keys[2], "space": keys[1] * keys[2], "time": keys[0]}[attend]
    assert phi.shape[1] == summed


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian"])
@pytest.mark.parametrize("options", [{"scale": "sqrt"}, {"scale": 0.3}, {"normalize": "queries"}])
def test_softmax_options(pairwise, options):
    block = randomized(nl.NonLocal2d(8, inner_channels=3, pairwise=pairwise, dtype=torch.float64, **options)).eval()
    if options.get("scale") == "sqrt":
        assert block.scale == (8 if pairwise == "gaussian" else 3) ** -0.5
    x = sample(2)
    torch.testing.assert_close(block(x), by_formula(block, x))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("norm", ["batch", "group", "layer", None])
@pytest.mark.parametrize("training", [True, False])
def test_a_new_block_is_exactly_the_identity(dims, norm, training):
    block = BLOCKS[dims](8, norm=norm).train(training)
    x = sample(dims, dtype=torch.float32)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", None])
def test_after_a_training_step_the_block_is_not_the_identity(norm):
    block = nl.NonLocal2d(8, norm=norm)
    x = sample(2, dtype=torch.float32)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        (block(x) * torch.linspace(-1, 1, x.numel()).view_as(x)).sum().backward()
        optimizer.step()
    assert not torch.equal(block(x), x)
    assert all(parameter.grad is not None for parameter in block.parameters())
    if norm != "batch":  # with batch norm, the convolutions need another step for a gradient of noticeable size
        assert block.theta.weight.grad.abs().max() > 0


def test_layer_norm_is_over_the_channels_of_a_position():
    block = randomized(nl.NonLocal2d(8, norm="layer", dtype=torch.float64))
    x = sample(2)
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    weight, bias = (p.view(1, -1, 1, 1) for p in (block.norm.weight, block.norm.bias))
    torch.testing.assert_close(block.norm(x), (x - mean) / (var + block.norm.eps).sqrt() * weight + bias)


@pytest.mark.parametrize(
    ("pairwise", "names"),
    [
        ("embedded_gaussian", {"theta", "phi", "g", "out", "norm"}),
        ("dot_product", {"theta", "phi", "g", "out", "norm"}),
        ("gaussian", {"g", "out", "norm"}),
        ("concatenation", {"theta", "phi", "g", "out", "norm", "score"}),
    ],
)
def test_parameter_names(pairwise, names):
    assert {key.split(".")[0] for key in nl.NonLocal3d(8, pairwise=pairwise).state_dict()} == names


def test_default_inner_width_is_half():
    assert nl.NonLocal3d(9).inner_channels == 4
    assert nl.NonLocal3d(1).inner_channels == 1


def test_config_creates_an_equal_block_from_json():
    block = nl.NonLocal3d(8, pairwise="gaussian", subsample=2, scale="sqrt", norm="group", attend="space")
    again = nl.NonLocal3d(**json.loads(json.dumps(block.config)))
    again.load_state_dict(block.state_dict())
    assert again.config == block.config
    assert torch.equal(again.eval()(sample(3).float()), block.eval()(sample(3).float()))


def test_device_and_dtype():
    block = nl.NonLocal2d(4, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in block.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pairwise", FORMS)
def test_forward_and_backward_on_the_meta_device(pairwise, dtype):
    block = nl.NonLocal2d(4, pairwise=pairwise, device="meta", dtype=dtype)
    z = block(torch.zeros(2, 4, 6, 6, device="meta", dtype=dtype))
    z.sum().backward()
    assert (z.device.type, z.shape, z.dtype) == ("meta", (2, 4, 6, 6), dtype)
    assert block.g.weight.grad.is_meta


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_equal_the_float32_result_of_the_same_numbers(dtype):
    half = randomized(nl.NonLocal2d(8, dtype=dtype)).eval()
    full = nl.NonLocal2d(8).eval()
    full.load_state_dict({key: value.float() for key, value in half.state_dict().items()})
    x = sample(2, dtype=torch.float32).to(dtype)
    difference = (half(x).float() - full(x.float())).norm() / full(x.float()).norm()
    assert half(x).dtype == dtype
    assert difference < 4 * torch.finfo(dtype).eps


def test_non_contiguous_and_channels_last_inputs():
    block = randomized(nl.NonLocal3d(8, dtype=torch.float64)).eval()
    x = sample(3)
    expected = block(x)
    torch.testing.assert_close(block(x.contiguous(memory_format=torch.channels_last_3d)), expected)
    torch.testing.assert_close(block(x.transpose(3, 4).contiguous().transpose(3, 4)), expected)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (nl.NonLocal2d, {"pairwise": "cosine"}, "pairwise='cosine': expected one of 'embedded_gaussian'"),
        (nl.NonLocal2d, {"inner_channels": 0}, "inner_channels=0: expected at least 1"),
        (nl.NonLocal3d, {"attend": "channels"}, "attend='channels': expected one of 'spacetime'"),
        (nl.NonLocal2d, {"attend": "time"}, "needs a clip"),
        (nl.NonLocal3d, {"attend": "time", "subsample": (1, 2, 2)}, "does not sum over a pooled axis"),
        (nl.NonLocal3d, {"subsample": (2, 2)}, "expected a positive factor, or 3"),
        (nl.NonLocal3d, {"subsample": 0}, "expected a positive factor"),
        (nl.NonLocal2d, {"scale": "root"}, "expected None, 'sqrt' or a number"),
        (nl.NonLocal2d, {"scale": float("nan")}, "expected None, 'sqrt' or a number"),
        (nl.NonLocal2d, {"pairwise": "dot_product", "scale": "sqrt"}, "applies to the softmax forms"),
        (nl.NonLocal2d, {"pairwise": "concatenation", "normalize": "queries"}, "applies to the softmax forms"),
        (
            nl.NonLocal2d,
            {"norm_options": {"momentun": 0.1}},
            "norm='batch' has no option 'momentun'; it has eps, momentum",
        ),
        (nl.NonLocal2d, {"norm_options": {"eps": -1.0}}, "eps=-1.0, expected a number of at least 0"),
        (nl.NonLocal2d, {"norm": "group", "norm_options": {"num_groups": 3}}, "a divisor of 8 channels"),
        (nl.NonLocal2d, {"norm": "instance"}, "norm='instance': expected one of 'batch'"),
        (nl.NonLocal2d, {"algorithm": "magic"}, "algorithm='magic': expected one of 'auto'"),
    ],
)
def test_invalid_options_raise(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(8, **options)


def test_invalid_inputs_raise():
    block = nl.NonLocal2d(8, subsample=2)
    with pytest.raises(ValueError, match=r"expected \(B, 8, H, W\), got \(1, 4, 5, 5\)"):
        block(torch.zeros(1, 4, 5, 5))
    with pytest.raises(ValueError, match=r"expected \(B, 8, H, W\), got \(1, 8, 2, 5, 5\)"):
        block(torch.zeros(1, 8, 2, 5, 5))
    with pytest.raises(ValueError, match=r"smaller than the pooling factors \(2, 2\)"):
        block(torch.zeros(1, 8, 1, 5))
    with pytest.raises(ValueError, match="channels=0"):
        nl.NonLocal2d(0)


def test_the_base_class_cannot_be_instantiated():
    with pytest.raises(TypeError, match="NonLocal1d, NonLocal2d or NonLocal3d"):
        NonLocal(8)


def test_a_checkpoint_with_some_keys_of_a_block_missing_raises():
    net = nn.Sequential(nl.NonLocal2d(8))
    state = net.state_dict()
    del state["0.theta.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*theta\.weight"):
        net.load_state_dict(state)
    with pytest.raises(RuntimeError, match="Missing key"):
        nl.NonLocal2d(8).load_state_dict({})


@pytest.mark.parametrize(
    ("norm", "options"),
    [("batch", {"eps": 1e-3, "momentum": 0.01}), ("group", {"num_groups": 2, "eps": 1e-3}), ("layer", {"eps": 1e-2})],
)
def test_options_of_the_norm_are_kept(norm, options, tmp_path):
    block = nl.NonLocal2d(8, norm=norm, norm_options=options)
    assert block.config["norm_options"] == options
    assert nl.NonLocal2d(8, norm=norm).config["norm_options"] is None
    model = nl.insert(nn.Sequential(nn.Identity(), nn.Conv2d(8, 8, 1), nn.ReLU()), "1", norm=norm)
    setattr(nl.blocks(model)["1"].norm, "eps", 0.5)  # noqa: B010 (as another tool may do)
    nl.save_blocks(model, tmp_path / "blocks.pt")
    loaded = nl.load_blocks(nn.Sequential(nn.Identity(), nn.Conv2d(8, 8, 1), nn.ReLU()), tmp_path / "blocks.pt")
    assert getattr(nl.blocks(loaded)["1"].norm, "eps", None) == 0.5
