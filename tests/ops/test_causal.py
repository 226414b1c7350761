"""Forms that are causal over frames: the definition by hand, and every algorithm against it, forward and backward."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from torch_nonlocal import functional
from torch_nonlocal.benchmark.meter import measure
from torch_nonlocal.ops import _second, causal, dispatch
from torch_nonlocal.ops.frames import CausalFrames

F = functional
SHAPES = [  # B, T, positions of a frame in the queries and in the keys, D, V
    (1, 1, 3, 2, 4, 4),
    (2, 5, 7, 3, 6, 6),
    (2, 5, 3, 7, 4, 6),
    (1, 8, 30, 30, 16, 16),
]
WINDOWS = [None, 1, 2, 3, 100]
ALGORITHMS = [
    ("gaussian", "tiled"),
    ("embedded_gaussian", "tiled"),
    ("embedded_gaussian", "fused"),
    ("embedded_gaussian", "auto"),
    ("dot_product", "reassociated"),
    ("concatenation", "sorted"),
    ("concatenation", "auto"),
]
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def draw(shape, form="embedded_gaussian", dtype=torch.float32, device="cpu", channel_major=False):
    """theta, phi, g and dy, or a, b, g and dy of the concatenation form."""
    B, T, n, m, D, V = shape
    generator = torch.Generator().manual_seed(0)
    tensors = []
    for positions, width in ((n, D), (m, D), (m, V), (n, V)):
        x = torch.randn(B, width, T * positions, generator=generator, dtype=torch.float64).mT.to(device, dtype)
        tensors.append(x if channel_major else x.contiguous())
    if form == "concatenation":
        tensors[:2] = [x[..., 0].contiguous() for x in tensors[:2]]
    return tensors


def run(form, inputs, dy, **options):
    inputs = [x.detach().requires_grad_() for x in inputs]
    y = getattr(F, form)(*inputs, **options)
    return [y.detach(), *torch.autograd.grad(y, inputs, dy)]


def relative_error(one, other):
    return float((one.double() - other.double()).norm() / other.double().norm().clamp_min(1e-300))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("form", F.ALGORITHMS)
def test_the_definition_is_that_of_each_frame_with_the_keys_it_sees(form, window):
    theta, phi, g, _ = draw((2, 5, 3, 2, 4, 4), form, torch.float64)
    y = getattr(F, form)(theta, phi, g, algorithm="dense", frames=5, window_frames=window)
    for t in range(5):
        first = 0 if window is None else max(0, t - window + 1)
        queries, keys = slice(3 * t, 3 * t + 3), slice(2 * first, 2 * t + 2)
        expected = getattr(F, form)(theta[:, queries], phi[:, keys], g[:, keys], algorithm="dense")
        torch.testing.assert_close(y[:, queries], expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channel_major", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("form", "algorithm"), ALGORITHMS)
def test_algorithms_equal_the_definition(form, algorithm, shape, channel_major, dtype, device, monkeypatch):
    monkeypatch.setattr(dispatch, "CAUSAL_DENSE_BYTES", 0)
    monkeypatch.setattr(dispatch, "SMALL_BYTES", 0)
    monkeypatch.setattr(dispatch, "SMALL_ITEM_BYTES", 0)
    if algorithm == "fused" and (shape[4] != shape[5] or device == "cuda"):
        pytest.skip("this kernel does not support it")
    *inputs, dy = draw(shape, form, dtype, device, channel_major)
    for window in WINDOWS:
        options = {"frames": shape[1], "window_frames": window}
        fast = run(form, inputs, dy, algorithm=algorithm, **options)
        slow = run(form, [x.double() for x in inputs], dy.double(), algorithm="dense", **options)
        for one, other in zip(fast, slow, strict=True):
            assert one.dtype == dtype
            assert relative_error(one, other) <= (1e-5 if dtype == torch.float32 else 1e-12)


def test_gradients_of_the_fused_kernel_in_parts_of_the_keys(monkeypatch):
    monkeypatch.setattr(causal, "KEYS", 7)
    *inputs, dy = draw(SHAPES[3], dtype=torch.float64)
    for one, other in zip(
        run("embedded_gaussian", inputs, dy, algorithm="fused", frames=8, window_frames=5),
        run("embedded_gaussian", inputs, dy, algorithm="dense", frames=8, window_frames=5),
        strict=True,
    ):
        assert relative_error(one, other) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("form", "algorithm"), ALGORITHMS)
def test_half_types(form, algorithm, dtype):
    *inputs, dy = draw(SHAPES[3], form, dtype)
    fast = run(form, inputs, dy, algorithm=algorithm, frames=8, window_frames=3)
    slow = run(form, [x.double() for x in inputs], dy.double(), algorithm="dense", frames=8, window_frames=3)
    for one, other in zip(fast, slow, strict=True):
        assert one.dtype == dtype
        assert relative_error(one, other) <= 3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("window", [None, 2])
def test_a_key_bias_is_added(window):
    theta, phi, g, dy = draw(SHAPES[1], dtype=torch.float64)
    bias = torch.randn(2, 15, dtype=torch.float64)
    bias[0, 1] = -torch.inf
    options = {"frames": 5, "window_frames": window}
    for one, other in zip(
        run("embedded_gaussian", (theta, phi, g), dy, key_bias_BM=bias, algorithm="tiled", **options),
        run("embedded_gaussian", (theta, phi, g), dy, key_bias_BM=bias, algorithm="dense", **options),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    bias = bias.nan_to_num(neginf=-3.0).requires_grad_()
    gradients = [
        torch.autograd.grad(F.embedded_gaussian(theta, phi, g, key_bias_BM=bias, algorithm=name, **options), bias, dy)
        for name in ("tiled", "dense")
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("form", "algorithm"), ALGORITHMS)
def test_a_later_frame_changes_nothing_not_even_by_nan(form, algorithm, monkeypatch):
    monkeypatch.setattr(dispatch, "CAUSAL_DENSE_BYTES", 0)
    monkeypatch.setattr(dispatch, "SMALL_BYTES", 0)
    monkeypatch.setattr(dispatch, "SMALL_ITEM_BYTES", 0)
    *inputs, _ = draw((1, 6, 4, 4, 8, 8), form)
    later = [x.clone() for x in inputs]
    for x in later:
        x[:, 16:] = torch.nan
    before, after = (getattr(F, form)(*x, algorithm=algorithm, frames=6) for x in (inputs, later))
    torch.testing.assert_close(after[:, :16], before[:, :16])


@pytest.mark.parametrize(("form", "algorithm"), [case for case in ALGORITHMS if case[1] != "auto"])
def test_second_derivatives(form, algorithm, monkeypatch):
    monkeypatch.setattr(_second, "PART_BYTES", 1)  # parts of 16 positions
    *inputs, _ = draw((1, 6, 3, 2, 2, 2), form, torch.float64)
    inputs = [x.requires_grad_() for x in inputs]

    def operation(*inputs):
        return getattr(F, form)(*inputs, algorithm=algorithm, frames=6, window_frames=4)

    assert torch.autograd.gradcheck(operation, inputs)
    assert torch.autograd.gradgradcheck(operation, inputs, check_batched_grad=False)


@pytest.mark.parametrize("form", F.ALGORITHMS)
def test_torch_func(form):
    *inputs, _ = draw((3, 4, 2, 2, 3, 3), form, torch.float64)
    options = {"frames": 4, "window_frames": 2}
    operation = getattr(F, form)
    samples = [x.unsqueeze(1) for x in inputs]
    y = torch.func.vmap(lambda *x: operation(*x, **options))(*samples).squeeze(1)
    torch.testing.assert_close(y, operation(*inputs, algorithm="dense", **options))


@pytest.mark.parametrize("frames", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("window", [None, 1, 2, 3, 7, 20])
def test_rectangles_hold_each_visible_pair_once(frames, window):
    seen_by = CausalFrames(frames, window)
    seen = torch.zeros(2 * frames, 3 * frames)
    for queries, keys in seen_by.rectangles(2 * frames, 3 * frames):
        seen[queries, keys] += 1
    visible = seen_by.visible(torch.arange(2 * frames), torch.arange(3 * frames), 2 * frames, 3 * frames)
    assert torch.equal(seen, visible.float())
    assert seen_by.pairs(2 * frames, 3 * frames) == int(visible.sum())
    assert torch.equal(seen_by.seen_keys(torch.arange(2 * frames), 2 * frames, 3 * frames), visible.sum(1))
    for frame in range(frames):
        assert visible[:, 3 * frame].nonzero()[::2, 0].div(2, rounding_mode="floor").tolist() == list(
            range(frames)[seen_by.seen_by(frame)]
        )


@pytest.mark.parametrize("algorithm", ["tiled", "fused"])
def test_flops_are_those_of_the_visible_pairs(algorithm):
    theta, phi, g, _ = draw((2, 5, 6, 4, 8, 8))
    theta.requires_grad_()
    with FlopCounterMode(display=False) as forward:
        y = F.embedded_gaussian(theta, phi, g, algorithm=algorithm, frames=5)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    product = 2 * 2 * 15 * 6 * 4 * 8
    assert forward.get_total_flops() == 2 * product
    assert backward.get_total_flops() == 5 * product


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "frames=0: expected the number of frames"),
        ({"frames": 2.0}, "frames=2.0: expected the number of frames"),
        ({"frames": 4}, "multiples of it, got N = 10 queries and M = 15 keys"),
        ({"window_frames": 2}, "window_frames=2 needs frames=T"),
        ({"frames": 5, "window_frames": 0}, "window_frames=0: expected None or a number of frames"),
        ({"frames": 5, "normalize": "queries"}, "not causal: the weights of a key would depend on the queries"),
    ],
)
def test_wrong_options(options, message):
    theta, phi, g, _ = draw((1, 5, 2, 3, 4, 4))
    with pytest.raises(ValueError, match=message):
        F.embedded_gaussian(theta, phi, g, **options)


class _Form(nn.Module):
    def __init__(self, form, frames):
        super().__init__()
        self.form, self.frames = form, frames

    def forward(self, *inputs):
        return getattr(F, self.form)(*inputs, frames=self.frames)


@pytest.mark.parametrize("form", F.ALGORITHMS)
def test_exported_programs(form):
    *inputs, _ = draw((1, 4, 3, 2, 4, 4), form)
    expected = getattr(F, form)(*inputs, algorithm="dense", frames=4)
    program = torch.export.export(_Form(form, 4), tuple(inputs))
    torch.testing.assert_close(program.module()(*inputs), expected)
    traced: Any = torch.jit.trace(_Form(form, 4), tuple(inputs), check_trace=False)
    torch.testing.assert_close(traced(*inputs), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        ("softmax_causal", lambda t, p, g, b: (t, p, g, b, 0.5, 3, None, False)),
        ("softmax_causal", lambda t, p, g, b: (t, p, g, None, 0.5, 3, 2, True)),
        (
            "ramp_sum_causal",
            lambda t, p, g, b: (*(x.detach()[..., 0].clone().requires_grad_() for x in (t, p)), g, 3, 2, True),
        ),
    ],
)
def test_operators_pass_opcheck(operator, arguments):
    *tensors, _ = (x.requires_grad_() for x in draw((2, 3, 4, 2, 4, 4), dtype=torch.float64))
    bias = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(getattr(torch.ops.torch_nonlocal, operator), arguments(*tensors, bias))


def _forward_backward(form, frames):
    torch.set_num_threads(2)

    def prepared(frames):
        inputs = [torch.randn(1, 32, 392 * frames).mT.requires_grad_() for _ in range(3)]
        if form == "concatenation":
            inputs[:2] = [torch.randn(1, 392 * frames, requires_grad=True) for _ in range(2)]
        return lambda: getattr(F, form)(*inputs, frames=frames).sum().backward()

    prepared(2)()
    return prepared(frames)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["embedded_gaussian", "dot_product", "concatenation"])
def test_no_map_and_no_mask_is_built(form):
    positions = 392 * 20  # a map of 246 MB, a mask of 61 MB
    bound = 10 * 4 * 32 * positions + 32 * 2**20
    assert bound < positions**2
    assert measure(_forward_backward, form, 20, repeats=0).extra_bytes <= bound
