"""Empty batches, maps and widths: empty results and zero gradients; M = 0 raises. Every form, algorithm and dtype."""

import pytest
import torch

import torch_nonlocal as nl
from torch_nonlocal import functional

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [  # B, N, M, D, V
    (0, 5, 6, 4, 4),
    (2, 0, 6, 4, 4),
    (0, 0, 6, 4, 4),
    (2, 0, 0, 4, 4),
    (2, 5, 6, 0, 4),
    (2, 5, 6, 4, 0),
    (2, 5, 6, 0, 0),
]
NO_KEYS = [(2, 5, 0, 4, 4), (0, 5, 0, 4, 4)]
OPERATIONS = [
    *((form, algorithm, {}) for form in functional.ALGORITHMS for algorithm in functional.ALGORITHMS[form]),
    *(("embedded_gaussian", algorithm, {"normalize": "queries"}) for algorithm in ("auto", "dense", "tiled")),
    *(("embedded_gaussian", algorithm, {"biased": True}) for algorithm in ("auto", "dense", "tiled")),
]


def operation(form, algorithm, options, sizes, dtype):
    """Return the operation and its inputs."""
    B, N, M, D, V = sizes
    inputs = [torch.ones(B, N, D, dtype=dtype), torch.ones(B, M, D, dtype=dtype), torch.ones(B, M, V, dtype=dtype)]
    if form == "concatenation":
        inputs[:2] = [torch.ones(B, N, dtype=dtype), torch.ones(B, M, dtype=dtype)]
    if options.get("biased"):
        inputs.append(torch.zeros(B, M, dtype=dtype))
        return lambda t, p, g, b: functional.embedded_gaussian(t, p, g, key_bias_BM=b, algorithm=algorithm), inputs
    return lambda *x: getattr(functional, form)(*x, **options, algorithm=algorithm), inputs


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("form", "algorithm", "options"), OPERATIONS)
def test_empty_inputs_have_empty_results_and_zero_gradients(form, algorithm, options, sizes, dtype, training, autocast):
    if algorithm == "fused":
        sizes = (*sizes[:4], sizes[3])  # fused attention has one width
    function, inputs = operation(form, algorithm, options, sizes, dtype)
    inputs = [tensor.requires_grad_(training) for tensor in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = function(*inputs)
    B, N, M, _, V = sizes
    assert y.shape == (B, N, V)
    if y.numel():  # D = 0: all logits are equal, and the mean of ones is one; products of no channels are zero
        expected = {"dot_product": 0.0, "concatenation": 2.0}.get(form, N / N)
        if options.get("normalize") == "queries":
            expected = M / N
        torch.testing.assert_close(y.float(), torch.full(y.shape, expected), rtol=1e-2, atol=0)
    if training:
        gradients = torch.autograd.grad(y.sum(), inputs)
        for tensor, gradient in zip(inputs, gradients, strict=True):
            assert gradient.shape == tensor.shape
            assert y.numel() or not gradient.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", NO_KEYS, ids=str)
@pytest.mark.parametrize(("form", "algorithm", "options"), OPERATIONS)
def test_queries_without_keys_raise(form, algorithm, options, sizes, dtype):
    function, inputs = operation(form, algorithm, options, sizes, dtype)
    with pytest.raises(ValueError, match="expected at least one key, got M = 0 keys for N = 5 queries"):
        function(*inputs)
    with pytest.raises(ValueError, match="expected at least one key"), torch.autocast("cpu", torch.bfloat16):
        function(*inputs)


FORMS = list(functional.ALGORITHMS)
BLOCKS = [
    (nl.NonLocal1d, (0, 4, 6), {}),
    (nl.NonLocal2d, (0, 4, 6, 4), {}),
    (nl.NonLocal2d, (0, 4, 6, 4), {"subsample": 2}),
    (nl.NonLocal2d, (0, 4, 6, 4), {"subsample": 2, "pool_first": True}),
    (nl.NonLocal2d, (0, 4, 6, 4), {"checkpoint": True}),
    (nl.NonLocal2d, (0, 4, 6, 4), {"norm": "group"}),
    (nl.NonLocal3d, (0, 4, 2, 6, 4), {}),
    (nl.NonLocal3d, (0, 4, 2, 6, 4), {"attend": "space"}),
    (nl.NonLocal3d, (0, 4, 2, 6, 4), {"attend": "time"}),
    (nl.NonLocal3d, (0, 4, 2, 6, 4), {"attend": "time", "subsample": 2, "norm": None}),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("block_type", "size", "options"), BLOCKS)
@pytest.mark.parametrize("pairwise", FORMS)
@pytest.mark.parametrize("algorithm", ["auto", "named"])
def test_blocks_pass_empty_batches(block_type, size, options, pairwise, dtype, algorithm):
    chosen = "auto" if algorithm == "auto" else functional.ALGORITHMS[pairwise][2]
    block = block_type(4, pairwise=pairwise, algorithm=chosen, **options).to(dtype)
    x = torch.zeros(size, dtype=dtype, requires_grad=True)
    assert block(x).shape == size
    block.zero_grad()
    block(x).sum().backward()
    assert x.grad.shape == size
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in block.parameters())
    with torch.no_grad():
        assert block.eval()(x).shape == size
        with torch.autocast("cpu", dtype if dtype.itemsize == 2 else torch.bfloat16):
            assert block(x).shape == size


@pytest.mark.parametrize("pairwise", FORMS)
def test_compiled_blocks_pass_empty_batches(pairwise):
    block = nl.NonLocal2d(4, pairwise=pairwise)
    compiled = torch.compile(block, backend="eager")
    x = torch.zeros(0, 4, 6, 4, requires_grad=True)
    y = compiled(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape
