"""Fused kernels are compared with the definition before their first use. Those that fail are left out."""

import threading
import time
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import torch_nonlocal as nl
from torch_nonlocal import functional
from torch_nonlocal.ops import dense, fused, kernels
from torch_nonlocal.ops.kernels import Kernel

CPU = torch.device("cpu")
BUILT_IN = fused.KERNEL.name


def anywhere(device, dtype, width, values):
    return None


@pytest.fixture
def register():
    """Register a kernel named "trial" and count its calls."""

    def add(compute, cannot_run=anywhere, **options):
        calls = []

        def run(theta, phi, g, *, scale):
            calls.append((theta.dtype, theta.shape[2], theta.requires_grad))
            return compute(theta, phi, g, scale=scale)

        kernels.register(Kernel("trial", cannot_run, run, **options))
        return calls

    yield add
    kernels.unregister("trial")


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.view_as(y)

    @staticmethod
    def backward(ctx, dy):
        return 1.1 * dy


def crash(theta, phi, g, *, scale):
    raise RuntimeError("no kernel image")


def first(width=8, *, dtype=torch.float32, training=True):
    return kernels.first(CPU, dtype, width, width, training=training).name


def large(width=8, **options):
    return [torch.randn(1, 1100, width, **options) for _ in range(3)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("width", [0, 1, 24, 256, 512])
def test_the_kernel_of_pytorch_passes(dtype, width):
    assert first(width, dtype=dtype) == BUILT_IN


def test_a_right_kernel_is_checked_once_and_then_used(register):
    calls = register(dense.softmax)
    theta, phi, g = large()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            y = functional.embedded_gaussian(theta, phi, g)
    torch.testing.assert_close(y, dense.softmax(theta, phi, g))
    assert calls == [(torch.float32, 8, False)] * 4  # the check, and three calls


def test_each_dtype_and_width_is_checked_once_and_training_includes_inference(register):
    calls = register(dense.softmax)
    for _ in range(2):
        for dtype in (torch.float32, torch.bfloat16):
            for width in (8, 16):
                assert first(width, dtype=dtype) == first(width, dtype=dtype, training=False) == "trial"
    assert sorted(calls, key=str) == sorted(
        [(dtype, width, True) for dtype in (torch.float32, torch.bfloat16) for width in (8, 16)], key=str
    )


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda *t, scale: 1.1 * dense.softmax(*t, scale=scale), r"its output differs from the definition by 0\.1"),
        (lambda *t, scale: dense.softmax(*t, scale=1.0), "its output differs from the definition by"),
        (lambda *t, scale: torch.nan * dense.softmax(*t, scale=scale), "its output differs from the definition by nan"),
        (lambda *t, scale: dense.softmax(*t, scale=scale)[:, 1:], r"its output has the shape \(2, 36, 8\)"),
        (crash, "it raises RuntimeError: no kernel image"),
    ],
    ids=["wrong", "wrong scale", "nan", "wrong shape", "crash"],
)
def test_a_failing_kernel_is_left_out_with_one_warning(register, compute, message):
    calls = register(compute)
    theta, phi, g = large()
    expected = dense.softmax(theta, phi, g)
    with pytest.warns(RuntimeWarning, match=message) as caught:
        results = [functional.embedded_gaussian(theta, phi, g) for _ in range(3)]
    torch.testing.assert_close(results, [expected] * 3)
    assert len(caught) == 1
    assert str(caught[0].message).startswith("trial is not used for torch.float32, D = 8 on cpu: ")
    assert len(calls) == 1


def test_a_kernel_with_wrong_gradients_is_used_for_inference_only(register):
    register(lambda *t, scale: WrongGradient.apply(dense.softmax(*t, scale=scale)))
    assert first(training=False) == "trial"
    with pytest.warns(RuntimeWarning, match=r"its gradient of theta differs from the definition by 0\.1"):
        assert first() == BUILT_IN
    assert first(training=False) == "trial"


def test_without_another_kernel_tiles_are_used_and_fused_by_name_says_why(register, monkeypatch):
    monkeypatch.setattr(kernels, "_kernels", [])
    monkeypatch.setattr(fused, "KERNEL", Kernel("trial", anywhere, crash))
    kernels.register(fused.KERNEL)
    theta, phi, g = large()
    with pytest.warns(RuntimeWarning, match="no kernel image"):
        torch.testing.assert_close(functional.embedded_gaussian(theta, phi, g), dense.softmax(theta, phi, g))
    assert ": tiled, because" in nl.explain(nl.NonLocal2d(16).eval(), (1, 16, 33, 34))
    with pytest.raises(ValueError, match=r"no kernel with linear memory .*it raises RuntimeError: no kernel image"):
        functional.embedded_gaussian(theta, phi, g, algorithm="fused")
    kernels.unregister("trial")


def test_a_kernel_that_cannot_run_or_does_not_win_is_not_called(register):
    calls = register(dense.softmax, lambda device, dtype, width, values: "width" if width > 8 else None)
    assert first(16) == BUILT_IN
    calls += register(dense.softmax, wins=lambda device, width: False)
    assert kernels.first(CPU, torch.float32, 8, 8, training=False, winning=True).name == BUILT_IN
    assert not calls
    assert first() == "trial"


def test_a_kernel_replaces_the_one_of_its_name_and_needs_a_name(register):
    register(crash)
    with pytest.warns(RuntimeWarning, match="no kernel image"):
        assert first() == BUILT_IN
    register(dense.softmax)
    assert first() == "trial"
    with pytest.raises(ValueError, match="needs a name"):
        kernels.register(Kernel("", anywhere, crash))


def test_threads_share_one_check(register):
    calls = register(lambda *t, scale: time.sleep(0.05) or dense.softmax(*t, scale=scale))
    names = []
    threads = [threading.Thread(target=lambda: names.append(first(training=False))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == ["trial"] * 6
    assert len(calls) == 1


@pytest.mark.parametrize(
    "mode",
    [
        torch.inference_mode,
        torch.no_grad,
        FakeTensorMode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
        lambda: torch.autograd.graph.saved_tensors_hooks(crash, crash),
    ],
    ids=["inference", "no_grad", "fake", "autocast", "default device", "saved tensors"],
)
def test_the_check_is_independent_of_the_modes_of_the_caller(register, mode):
    calls = register(dense.softmax)
    with mode():
        assert first() == "trial"
    assert calls == [(torch.float32, 8, True)]


def test_the_check_draws_no_random_numbers():
    state = torch.random.get_rng_state()
    kernels._failure(fused.KERNEL, CPU, torch.float32, 8, True)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_checkpointed_block_and_a_compiled_one_are_checked_too(register):
    calls = register(lambda *t, scale: fused.softmax(*t, scale=scale))
    block = nl.NonLocal2d(16, checkpoint=True)
    torch.nn.init.normal_(block.norm.weight)
    x = torch.randn(1, 16, 33, 34, requires_grad=True)
    block(x).square().sum().backward()
    assert len(calls) == 3  # the check, forward, and forward again in backward
    torch._dynamo.reset()
    compiled = torch.compile(functional.embedded_gaussian, fullgraph=True, backend="aot_eager", dynamic=True)
    inputs = large(24, requires_grad=True)
    torch.testing.assert_close(compiled(*inputs), dense.softmax(*inputs))
    assert calls[3] == (torch.float32, 24, True)  # the check, while torch.compile traces


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_here_is_not_checked(register):
    calls = register(crash)
    assert kernels.first(torch.device("cuda:0"), torch.float16, 384, 384, training=True).name == "trial"
    assert not calls
