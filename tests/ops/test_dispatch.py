"""The algorithms inside PyTorch: compile, operator checks, FLOPs, higher derivatives; the choice; error messages."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import torch_nonlocal as nl
from torch_nonlocal import functional
from torch_nonlocal.ops import dense, fused, tiled
from torch_nonlocal.ops import dispatch as choose

OPS = torch.ops.torch_nonlocal


def inputs(N=20, M=15, D=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, N, D), (2, M, D), (2, M, D)
    return [torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        ("softmax_rows", lambda t, p, g: (t, p, g, None, 0.5, False)),
        ("softmax_rows", lambda t, p, g: (t, p, g, p.detach()[..., 0].clone().requires_grad_(), 0.5, True)),
        ("softmax_columns", lambda t, p, g: (t, p, g, 0.5, False)),
        ("softmax_columns", lambda t, p, g: (t, p, g, 0.5, True)),
        ("softmax_flash", lambda t, p, g: (t, p, g, 0.5)),
        ("ramp_sum", lambda t, p, g: (*(x.detach()[..., 0].clone().requires_grad_() for x in (t, p)), g, True)),
    ],
)
def test_operators_pass_opcheck(operator, arguments):
    # checks the schema, the autograd registration, fake tensors and dynamic shapes
    torch.library.opcheck(getattr(OPS, operator), arguments(*inputs()))


@pytest.mark.slow
@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian", "dot_product", "concatenation"])
def test_compiled_blocks_are_one_graph_and_equal_eager_blocks(pairwise):
    torch.manual_seed(0)
    block = nl.NonLocal2d(6, pairwise=pairwise).double()
    torch.nn.init.normal_(block.norm.weight)
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    expected, grads = [], []
    for run in (block, torch.compile(block, fullgraph=True, backend="aot_eager")):
        block.zero_grad()
        y = run(x)
        y.square().sum().backward()
        expected.append(y.detach())
        grads.append([p.grad.clone() for p in block.parameters()])
        for module in block.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
    torch.testing.assert_close(*expected, rtol=1e-10, atol=1e-12)
    largest = max(float(one.abs().max()) for one in grads[0])  # the gradient of a bias before the norm is a zero sum
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12 * largest)


@pytest.mark.parametrize("algorithm", ["tiled", "fused"])
def test_flops_are_counted(algorithm):
    theta, phi, g = (t.detach().requires_grad_() for t in inputs(40, 30, 8, torch.float32))
    with FlopCounterMode(display=False) as forward:
        y = functional.embedded_gaussian(theta, phi, g, algorithm=algorithm)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    product = 2 * 2 * 40 * 30 * 8
    assert forward.get_total_flops() == 2 * product
    kept = algorithm == "tiled"  # a map of this size is kept, so the logits are not recomputed
    assert backward.get_total_flops() == (4 if kept else 5) * product


def test_a_running_flop_counter_receives_the_formulas():
    program = """
import torch
import torch_nonlocal as nl
from torch.utils.flop_counter import FlopCounterMode
theta = torch.randn(2, 40, 8)
with FlopCounterMode(display=False) as counter:
    nl.functional.embedded_gaussian(theta, theta, theta, algorithm="tiled")
print(counter.get_total_flops())
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(result.stdout) == 2 * 2 * 2 * 40 * 40 * 8


def test_dot_product_computes_the_cheaper_order():
    theta, phi, g = (t.detach() for t in inputs(400, 300, 8, torch.float32))
    with FlopCounterMode(display=False) as counter:
        functional.dot_product(theta, phi, g)
    assert counter.get_total_flops() == 2 * 2 * (400 + 300) * 8 * 8
    theta, phi, g = (t.detach() for t in inputs(4, 3, 80, torch.float32))
    with FlopCounterMode(display=False) as counter:
        functional.dot_product(theta, phi, g)
    assert counter.get_total_flops() == 2 * 2 * 4 * 3 * (80 + 80)


FAST = [
    (lambda t, p, g: functional.embedded_gaussian(t, p, g, algorithm="tiled")),
    (lambda t, p, g: functional.embedded_gaussian(t, p, g, algorithm="tiled", normalize="queries")),
    (lambda t, p, g: functional.embedded_gaussian(t, p, g, algorithm="fused")),
    (lambda t, p, g: functional.concatenation(t[..., 0], p[..., 0], g, algorithm="sorted")),
]


@pytest.mark.parametrize("operation", FAST)
def test_forward_derivatives_raise_and_name_dense(operation):
    theta, phi, g = (t.detach() for t in inputs())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(theta, torch.ones_like(theta))
        with pytest.raises(NotImplementedError, match="no forward-mode derivatives: expected 'dense'"):
            operation(dual, phi, g)


AUTO = [
    functional.embedded_gaussian,
    functional.dot_product,
    (lambda t, p, g: functional.concatenation(t[..., 0], p[..., 0], g)),
]


@pytest.mark.parametrize("operation", AUTO)
def test_auto_has_forward_derivatives(operation, monkeypatch):
    monkeypatch.setattr(choose, "DENSE_BYTES", 0)
    assert torch.autograd.gradcheck(operation, inputs(4, 3, 2), check_forward_ad=True)


@pytest.mark.parametrize("operation", FAST)
def test_autocast_computes_from_rounded_inputs(operation):
    theta, phi, g = (t.detach().float() for t in inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = operation(theta, phi, g)
    assert y.dtype == torch.bfloat16
    rounded = [t.bfloat16().float() for t in (theta, phi, g)]
    torch.testing.assert_close(y.float(), operation(*rounded), rtol=2e-2, atol=2e-2)


def test_different_dtypes_raise():
    theta, phi, g = (t.detach() for t in inputs())
    with pytest.raises(ValueError, match=r"expected one dtype, got theta torch\.float64, phi torch\.float32"):
        functional.embedded_gaussian(theta, phi.float(), g)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "fused", "normalize": "queries"}, "'tiled' supports both"),
        ({"key_bias_BM": torch.zeros(2, 15), "algorithm": "fused"}, "'tiled' supports both"),
        ({"key_bias_BM": torch.zeros(2, 15), "normalize": "queries"}, "cancels in the softmax"),
        ({"key_bias_BM": torch.zeros(2, 9)}, r"key_bias \(B, M\)"),
        ({"algorithm": "sorted"}, "expected one of 'auto', 'dense', 'tiled', 'fused'"),
    ],
)
def test_unsupported_combinations_raise(options, message):
    with pytest.raises(ValueError, match=message):
        functional.embedded_gaussian(*(t.detach().float() for t in inputs()), **options)


def test_fused_raises_for_different_widths():
    theta, phi, g = (t.detach() for t in inputs())
    with pytest.raises(ValueError, match="D = 4, V = 3"):
        functional.embedded_gaussian(theta, phi, g[..., :3], algorithm="fused")


CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


def test_the_choice_depends_on_the_size_of_the_map():
    assert choose.for_softmax(1, 784, 784, 512, 512, training=True, **CPU).algorithm == "dense"
    assert choose.for_softmax(8, 784, 784, 256, 256, training=True, **CPU).algorithm == "fused"
    half = {"device": torch.device("cpu"), "dtype": torch.bfloat16}
    assert choose.for_softmax(1, 784, 784, 512, 512, training=True, **half).algorithm == "fused"
    assert choose.for_softmax(1, 3136, 3136, 64, 32, training=True, **CPU).algorithm == "tiled"
    assert choose.for_softmax(1, 3136, 3136, 256, 256, training=True, **CPU).algorithm == "fused"
    assert choose.for_softmax(1, 3136, 3136, 512, 512, training=True, **CPU).algorithm == "tiled"
    assert choose.for_softmax(1, 3136, 3136, 512, 512, training=False, **CPU).algorithm == "fused"
    assert choose.keeps(1, 3136, 3136, torch.float32, training=True)
    assert not choose.keeps(1, 3136, 3136, torch.float32, training=False)
    assert not choose.keeps(1, 12544, 12544, torch.float32, training=True)


@pytest.mark.parametrize(
    ("sizes", "algorithm"),
    [
        ((1, 256, 256), "dense"),
        ((1, 300, 300), "sorted"),
        ((64, 49, 49), "dense"),
        ((64, 128, 128), "dense"),
        ((64, 196, 196), "sorted"),
    ],
)
def test_concatenation_sorts_unless_the_map_or_that_of_an_item_is_small(sizes, algorithm):
    assert choose.for_concatenation(*sizes, torch.float32).algorithm == algorithm
    assert choose.for_concatenation(*sizes, torch.bfloat16).algorithm == "sorted"


@pytest.mark.parametrize(
    ("dtype", "width", "algorithm"),
    [
        (torch.float32, 64, "fused"),
        (torch.float32, 256, "fused"),
        (torch.float32, 512, "tiled"),
        (torch.bfloat16, 256, "fused"),
        (torch.bfloat16, 512, "tiled"),
        (torch.float64, 64, "tiled"),
    ],
)
def test_cuda_uses_fused_kernels_for_heads_up_to_256(dtype, width, algorithm):
    chosen = choose.for_softmax(1, 12544, 12544, width, width, device=torch.device("cuda"), dtype=dtype, training=True)
    assert chosen.algorithm == algorithm


def test_explain_returns_the_algorithm_and_the_reason():
    text = nl.explain(nl.NonLocal3d(512), (1, 512, 16, 28, 28))
    assert "N = 12,544 queries, M = 12,544 keys, D = 256" in text
    assert "fused, because PyTorch's fused attention kernel" in text
    assert "600 MB" in text
    text = nl.explain(nl.NonLocal3d(8, pairwise="concatenation", subsample=2, attend="space"), (2, 8, 4, 6, 6))
    assert "8 x (N = 36 queries, M = 9 keys" in text
    assert "dense, because the map is small (10 kB)" in text
    large = nl.NonLocal2d(8, pairwise="concatenation")
    assert "sorted, because sorting" in nl.explain(large, (1, 8, 32, 32))
    assert "because it was set by name" in nl.explain(nl.NonLocal1d(8, algorithm="dense"), (1, 8, 5))
    assert "theta (phi^T g)" in nl.explain(nl.NonLocal1d(8, pairwise="dot_product"), (1, 8, 50))
    with pytest.raises(ValueError, match="expected 5 sizes, the second 512 channels"):
        nl.explain(nl.NonLocal3d(512), (1, 256, 28, 28))


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((5, 5), {}, "dense"),
        ((40, 40), {}, "fused"),
        ((40, 40), {"normalize": "queries"}, "tiled"),
        ((40, 40), {"pairwise": "gaussian", "inner_channels": 2}, "tiled"),
    ],
)
def test_explain_names_the_algorithm_that_runs(monkeypatch, size, options, expected):
    block = nl.NonLocal2d(8, **options).train()
    block(torch.randn(1, 8, *size))  # checks the kernel, if it is the first use
    called = []
    for name, module in (("dense", dense), ("fused", fused), ("tiled", tiled)):
        real = module.softmax
        monkeypatch.setattr(
            module, "softmax", lambda *a, name=name, real=real, **k: called.append(name) or real(*a, **k)
        )
    block(torch.randn(1, 8, *size))
    assert called == [expected]
    assert f": {expected}, because" in nl.explain(block, (1, 8, *size))
