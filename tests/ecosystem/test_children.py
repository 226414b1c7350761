"""Other people's tools on the children of a block: every tool on theta, phi, g, out, norm and score.

The judge is `definition`: it calls the children one by one, as any network does, and score on every pair of positions.
"""

import copy
from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from packages import package
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

import torch_nonlocal as nl

FORMS = ["embedded_gaussian", "gaussian", "dot_product", "concatenation"]
CONVOLUTIONS = ["theta", "phi", "g", "out"]
CHILDREN = [*CONVOLUTIONS, "norm", "score"]
SAME = {"rtol": 1e-9, "atol": 1e-9}


def make(pairwise="concatenation", dtype=torch.float64, **options):
    """A block with random parameters and statistics, in eval mode."""
    torch.manual_seed(0)
    block = nl.NonLocal2d(6, inner_channels=4, pairwise=pairwise, dtype=dtype, **options)
    for tensor in (*block.parameters(), *block.norm.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.2, 1.0)
    for child in (block.theta, block.phi):
        if isinstance(child, nn.Conv2d):
            nn.init.normal_(child.bias)
    return block.eval()


def a_map(batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 6, 3, 4, generator=generator, dtype=dtype).requires_grad_()


def definition(block, x):
    """The block by its formula: every child is called, and score on the (B, N, M, 2D) pairs."""
    theta, phi, g = (child(x).flatten(2).mT for child in (block.theta, block.phi, block.g))
    if block.pairwise == "concatenation":
        shape = (*theta.shape[:2], phi.shape[1], theta.shape[2])
        pairs = torch.cat([theta[:, :, None].expand(shape), phi[:, None].expand(shape)], dim=-1)
        weights = torch.relu(block.score(pairs).squeeze(-1)) / phi.shape[1]
    elif block.pairwise == "dot_product":
        weights = theta @ phi.mT / phi.shape[1]
    else:
        weights = torch.softmax(theta @ phi.mT, dim=-1)
    y = (weights @ g).mT.unflatten(2, x.shape[2:])
    return x + block.norm(block.out(y))


@contextmanager
def counted_calls():
    """Count calls of modules by identity, without hooks."""
    counts, call = Counter(), nn.Module.__call__

    def counted(module, *args, **kwargs):
        counts[id(module)] += 1
        return call(module, *args, **kwargs)

    nn.Module.__call__ = counted
    try:
        yield counts
    finally:
        nn.Module.__call__ = call


def gradients(function, block, x):
    leaves = [x, *(parameter for parameter in block.parameters() if parameter.requires_grad)]
    out = function(x)
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
    return out, torch.autograd.grad((out * weights).sum(), leaves, allow_unused=True)


def check(block, child, x=None, **tolerance):
    """Require one call of the child in a forward pass, and the values and gradients of the definition."""
    x = a_map() if x is None else x
    with counted_calls() as counts:
        out, got = gradients(block, block, x)
    expected, wanted = gradients(lambda x: definition(block, x), block, x)
    assert counts[id(getattr(block, child))] == 1
    torch.testing.assert_close(out, expected, **(tolerance or SAME))
    for (name, _), one, other in zip([("x", x), *block.named_parameters()], got, wanted, strict=False):
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(one, other, **(tolerance or SAME), msg=lambda text, name=name: f"{name}: {text}")
    return out


class Half(nn.Module):
    def forward(self, tensor):
        return tensor * 0.5


def patch_forward(child):
    forward = child.forward
    child.forward = lambda x: 0.5 * forward(x)


TOOLS = {
    "forward": patch_forward,
    "forward hook": lambda child: child.register_forward_hook(lambda module, args, out: 0.5 * out),
    "forward pre hook": lambda child: child.register_forward_pre_hook(lambda module, args: (0.5 * args[0],)),
    "full backward hook": lambda child: child.register_full_backward_hook(lambda module, x, out: (0.5 * x[0],)),
    "full backward pre hook": lambda child: child.register_full_backward_pre_hook(lambda module, out: (0.5 * out[0],)),
    "parametrization": lambda child: parametrize.register_parametrization(child, "weight", Half()),
    "prune l1_unstructured": lambda child: prune.l1_unstructured(child, "weight", 0.5),
    "prune ln_structured": lambda child: prune.ln_structured(child, "weight", 0.5, n=2, dim=1),
    "weight_norm": lambda child: nn.utils.weight_norm(child),
    "parametrizations.weight_norm": lambda child: parametrizations.weight_norm(child),
    "spectral_norm": lambda child: nn.utils.spectral_norm(child).eval(),
    "parametrizations.spectral_norm": lambda child: parametrizations.spectral_norm(child).eval(),
}
# A weight norm does not change the value until g and v are trained; a batch norm's weight has one axis.
KEEPS_VALUE = ("weight_norm", "parametrizations.weight_norm", "full backward hook", "full backward pre hook")
ROWS = [(tool, child) for tool in TOOLS for child in CHILDREN if (tool, child) != ("prune ln_structured", "norm")]


@pytest.mark.parametrize(("tool", "child"), ROWS)
def test_a_tool_on_a_child(tool, child):
    block = make()
    plain = block(a_map())
    TOOLS[tool](getattr(block, child))
    out = check(block, child)
    if tool not in KEEPS_VALUE:
        assert not torch.allclose(out, plain)
    check(block, child)  # a second step


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian", "dot_product"])
@pytest.mark.parametrize("child", [*CONVOLUTIONS, "norm"])
@pytest.mark.parametrize("tool", ["forward", "forward pre hook", "parametrization", "full backward hook"])
def test_every_form(tool, child, pairwise):
    block = make(pairwise)
    if pairwise == "gaussian" and child in ("theta", "phi"):
        child = "norm"
    TOOLS[tool](getattr(block, child))
    check(block, child)


@pytest.mark.parametrize("tool", ["weight_norm", "parametrizations.weight_norm", "prune l1_unstructured"])
@pytest.mark.parametrize("child", ["theta", "score", "out"])
def test_a_training_step_reaches_the_tensors_of_the_tool(tool, child):
    block = make().train()
    TOOLS[tool](getattr(block, child))
    own = dict(getattr(block, child).named_parameters())
    before = {name: tensor.clone() for name, tensor in own.items()}
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    (block(a_map()) * torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)).sum().backward()
    optimizer.step()
    for name, tensor in own.items():
        if name != "bias":  # a batch norm follows
            assert not torch.equal(tensor, before[name]), name
    check(block.eval(), child)


@pytest.mark.parametrize("child", ["theta", "score"])
@pytest.mark.parametrize("wrap", [nn.utils.spectral_norm, parametrizations.spectral_norm])
def test_spectral_norm_takes_one_power_iteration_per_step(wrap, child):
    block = make().train()
    wrap(getattr(block, child))
    judge = copy.deepcopy(block)
    block(a_map())
    definition(judge, a_map())
    for (name, one), other in zip(block.named_buffers(), judge.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_score_with_a_bias():
    for tool in (None, "forward hook"):
        block = make()
        block.score = nn.Linear(8, 1, dtype=torch.float64)
        if tool:
            TOOLS[tool](block.score)
        torch.testing.assert_close(block(a_map()), definition(block, a_map()), **SAME)


@pytest.mark.parametrize("tool", ["forward hook", "parametrization"])
def test_score_sees_one_row_per_batch_item_with_groups(tool):
    options = {"inner_channels": 4, "pairwise": "concatenation", "attend": "space", "dtype": torch.float64}
    block = nl.NonLocal3d(6, **options).eval()
    nn.init.ones_(block.norm.weight)
    TOOLS[tool](block.score)
    seen = []
    block.score.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    x = a_map(batch=4).detach().unflatten(0, (2, 2)).transpose(1, 2)
    out = block(x)
    assert seen == [(2, 2 * (12 + 12 + 1), 8)]
    for frame in range(2):
        torch.testing.assert_close(out[:, :, frame], definition2d(block, x[:, :, frame]), **SAME)


def definition2d(block, x):
    frame = nl.NonLocal2d(6, inner_channels=4, pairwise=block.pairwise, dtype=x.dtype).eval()
    for name, parameter in frame.named_parameters():
        source = block.get_parameter(name) if name != "score.weight" else block.score.weight
        parameter.data = source.detach().clone().reshape(parameter.shape)
    if block.score._forward_hooks:
        frame.score.weight.data *= 0.5
    return definition(frame, x)


@pytest.mark.parametrize("child", CHILDREN)
def test_global_hooks_see_every_child(child):
    block, seen = make(), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: seen.append(module))
    try:
        out = block(a_map())
    finally:
        handle.remove()
    assert seen.count(getattr(block, child)) == 1
    torch.testing.assert_close(out, definition(block, a_map()), **SAME)


@pytest.mark.parametrize("pairwise", FORMS)
def test_ordinary_children_are_merged_not_called(pairwise):
    block = make(pairwise)
    with counted_calls() as counts:
        out = block(a_map())
    called = [name for name, child in block.named_children() if counts[id(child)]]
    assert called == ["norm"]  # the norm of a small map is not worth merging; identities are not called
    torch.testing.assert_close(out, definition(block, a_map()), **SAME)


@pytest.mark.parametrize(("tool", "child"), [("forward hook", "score"), ("parametrization", "theta"), (None, "norm")])
def test_compiled_in_one_graph(tool, child):
    block = make()
    if tool:
        TOOLS[tool](getattr(block, child))
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(a_map()), definition(block, a_map()), **SAME)


def test_export_calls_a_changed_score():
    block = make()
    TOOLS["parametrization"](block.score)
    exported = torch.export.export(block, (a_map().detach(),)).module()
    torch.testing.assert_close(exported(a_map()), definition(block, a_map()), **SAME)


class Subclass(nn.Conv2d):
    def forward(self, input):
        return 0.5 * super().forward(input)


@pytest.mark.parametrize("child", CONVOLUTIONS)
@pytest.mark.parametrize(
    "replacement",
    [
        lambda old: Subclass(old.in_channels, old.out_channels, 1),
        lambda old: nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1),
        lambda old: nn.Conv2d(old.in_channels, old.out_channels, 1, groups=2),
        lambda old: nn.Conv2d(old.in_channels, old.out_channels, 1, bias=False),
        lambda old: nn.Sequential(nn.Conv2d(old.in_channels, 3, 1), nn.Conv2d(3, old.out_channels, 1)),
    ],
    ids=["subclass", "3x3", "grouped", "no bias", "factorized"],
)
def test_a_replaced_child(child, replacement):
    block = make()
    setattr(block, child, replacement(getattr(block, child)).double())
    check(block, child)


class Doubling(torch.Tensor):
    """A weight that doubles itself in a convolution or linear layer, as quantized weights interpret operations."""

    def detach(self):
        return super().detach().as_subclass(Doubling)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if func in (torch.conv2d, nn.functional.linear):
                args = [args[0], 2 * args[1].as_subclass(torch.Tensor), *args[2:]]
            return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("child", [*CONVOLUTIONS, "score"])
def test_a_weight_of_a_tensor_subclass(child):
    block, doubled = make(), make()
    getattr(doubled, child).weight.data *= 2
    module = getattr(block, child)
    module.weight = nn.Parameter(module.weight.detach().as_subclass(Doubling), requires_grad=False)
    torch.testing.assert_close(block(a_map()), definition(doubled, a_map()), **SAME)


def test_a_sparse_weight_of_score():
    block, plain = make(), make()
    block.score.weight = nn.Parameter(plain.score.weight.detach().to_sparse_csr(), requires_grad=False)
    torch.testing.assert_close(block(a_map().detach()), definition(plain, a_map()), **SAME)


@pytest.mark.parametrize("tool", ["forward hook", "parametrization"])
def test_an_empty_batch(tool):
    block = make()
    TOOLS[tool](block.score)
    x = a_map()[:0]
    out = block(x)
    out.sum().backward()
    assert out.shape == x.shape


def test_flops_are_counted_of_what_runs():
    """FlopCounterMode registers hooks for all modules, which keep names only."""
    block = make(algorithm="sorted")  # which multiplies no matrices
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        block(a_map())
    # g and W_z are 6 x 4 at 2 x 12 positions; with w_f folded into them, theta and phi have one channel each.
    assert counter.get_total_flops() >= 2 * (2 * 12) * (6 * 4 + 6 * 4 + 2 * 6)
    assert counter.get_total_flops() < 2 * (2 * 12) * (4 * 6 * 4)


# Packages


class Net(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x)


@pytest.mark.parametrize("pairwise", FORMS)
def test_peft_lora(pairwise):
    peft = package("peft")
    net = Net(make(pairwise, dtype=torch.float32)).eval()
    plain = copy.deepcopy(net.block)
    targets = [name for name in (*CONVOLUTIONS, "score") if hasattr(getattr(net.block, name), "weight")]
    model = peft.get_peft_model(net, peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets)).eval()
    block = net.block
    for name, parameter in model.named_parameters():
        if "lora" in name:
            nn.init.uniform_(parameter, -0.3, 0.3)
    for target in targets:  # W + 2 B A
        lora, weight = getattr(block, target), getattr(plain, target).weight
        a, b = lora.lora_A["default"].weight, lora.lora_B["default"].weight
        weight.data += 2 * (b.flatten(1) @ a.flatten(1)).view(weight.shape)
    x = a_map(dtype=torch.float32)
    torch.testing.assert_close(model(x), definition(plain, x), rtol=1e-4, atol=1e-4)
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert ("lora" in name) == (parameter.grad is not None), name
    assert (block.channels, block.inner_channels) == (6, 4)
    torch.testing.assert_close(model.merge_and_unload()(x), definition(plain, x), rtol=1e-4, atol=1e-4)


def test_peft_all_linear_and_modules_to_save():
    peft = package("peft")
    net = nn.Sequential(make(dtype=torch.float32), nn.Flatten(), nn.Linear(72, 3), nn.Linear(3, 2)).eval()
    config = peft.LoraConfig(r=2, target_modules="all-linear", modules_to_save=["theta", "norm"])
    model = peft.get_peft_model(net, config).eval()
    block = net[0]
    assert block.score.lora_A
    for saved in (block.theta, block.norm):
        saved.modules_to_save["default"].weight.data *= 0.5
    x = a_map(dtype=torch.float32)
    out = check(block, "theta", x, rtol=1e-4, atol=1e-4)
    with model.disable_adapter():
        assert not torch.allclose(block(x), out)
        torch.testing.assert_close(block(x), definition(make(dtype=torch.float32), x), rtol=1e-4, atol=1e-4)
    model(x).sum().backward()
    assert block.norm.modules_to_save["default"].weight.grad is not None
    assert block.norm.original_module.weight.grad is None


def test_quantize_dynamic():
    block = make(dtype=torch.float32)
    quantized = torch.ao.quantization.quantize_dynamic(block, {nn.Linear})
    assert type(quantized.score) is not nn.Linear
    x = a_map(dtype=torch.float32).detach()
    with counted_calls() as counts:
        out = quantized(x)
    assert counts[id(quantized.score)] == 1
    torch.testing.assert_close(out, definition(quantized, x), rtol=1e-3, atol=1e-3)
    assert "concatenation" in nl.explain(quantized, x.shape)


def test_torchao_int8_weights():
    torchao = package("torchao.quantization")
    block, plain = make(dtype=torch.float32), make(dtype=torch.float32)
    torchao.quantize_(block, torchao.Int8WeightOnlyConfig())
    plain.score.weight.data = block.score.weight.dequantize()
    assert not torch.equal(plain.score.weight, make(dtype=torch.float32).score.weight)
    x = a_map(dtype=torch.float32).detach()
    torch.testing.assert_close(block(x), definition(plain, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pairwise", FORMS)
@pytest.mark.parametrize("kind", ["2d", "frames"])
def test_opacus_per_sample_gradients(pairwise, kind):
    opacus = package("opacus.grad_sample")
    options = {"inner_channels": 4, "pairwise": pairwise, "norm": "group"}
    torch.manual_seed(0)
    block = nl.NonLocal2d(6, **options) if kind == "2d" else nl.NonLocal3d(6, attend="space", **options)
    nn.init.normal_(block.double().norm.weight)
    x = torch.randn(3, 6, *((3, 4) if kind == "2d" else (2, 3, 2)), dtype=torch.float64)
    looped = []
    for item in x.split(1):
        looped.append(torch.autograd.grad(block(item).square().sum(), list(block.parameters())))
    sampled = opacus.GradSampleModule(copy.deepcopy(block), loss_reduction="sum")
    sampled(x).square().sum().backward()
    for index, (name, parameter) in enumerate(sampled._module.named_parameters()):
        wanted = torch.stack([item[index] for item in looped])
        torch.testing.assert_close(parameter.grad_sample, wanted, rtol=1e-7, atol=1e-7, msg=name)


@pytest.mark.parametrize("pairwise", FORMS)
def test_accelerate_cpu_offload(pairwise):
    accelerate = package("accelerate")
    block, plain = make(pairwise), make(pairwise)
    accelerate.cpu_offload(block, execution_device="cpu")
    assert all(parameter.is_meta for parameter in block.parameters())
    torch.testing.assert_close(block(a_map().detach()), definition(plain, a_map()), **SAME)
    assert (block.channels, block.inner_channels) == (6, 4)
    assert nl.explain(block, a_map().shape)


@pytest.mark.parametrize("child", CHILDREN)
def test_meta_parameters_with_hooks(child):
    block, plain = make(), make()
    module = getattr(block, child)
    weights = dict(module.named_parameters())

    def load(module, args):
        for name, weight in weights.items():
            setattr(module, name, weight)

    def unload(module, args, out):
        for name, weight in weights.items():
            setattr(module, name, nn.Parameter(weight.to("meta")))

    unload(module, None, None)
    module.register_forward_pre_hook(load)
    module.register_forward_hook(unload)
    check_plain = definition(plain, a_map())
    for _ in range(2):
        torch.testing.assert_close(block(a_map()), check_plain, **SAME)


# dtypes


@pytest.mark.parametrize("norm", ["batch", "group", "layer"])
@pytest.mark.parametrize("pairwise", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True])
def test_a_float32_norm_in_a_half_block(norm, pairwise, dtype, training):
    if norm == "batch":
        block = make(pairwise, dtype)
    else:
        block = nl.NonLocal2d(6, pairwise=pairwise, norm=norm, dtype=dtype)
        nn.init.uniform_(block.norm.weight, 0.2, 1)
    block.norm.float()
    block.train(training)
    x = a_map(dtype=dtype)
    exact = definition(copy.deepcopy(block).float(), x.float())
    out = block(x)
    assert out.dtype == dtype
    assert (out - exact).norm() < 8 * torch.finfo(dtype).eps * exact.norm()
    out.float().sum().backward()
    assert block.norm.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("pairwise", FORMS)
def test_a_float32_block_under_autocast_is_merged(pairwise):
    block = make(pairwise, torch.float32)
    x = a_map(dtype=torch.float32).detach()
    with counted_calls() as counts, torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(x)
    assert not counts[id(block.out)]
    torch.testing.assert_close(out.float(), definition(block, x), rtol=0.03, atol=0.08)
