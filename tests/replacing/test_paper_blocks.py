"""Blocks in the layouts of many projects: every option, and near misses that are left."""

import copy
from collections.abc import Callable

import pytest
import torch
from agreement import assert_replaced_exactly, randomized
from layouts import dnl, mmcv, slowfast, spatial
from torch import Tensor, nn

import torch_nonlocal as nl
from torch_nonlocal.attention.weights import PairWeights

CLIP, IMAGE, SEQUENCE = (2, 8, 3, 4, 6), (2, 8, 6, 7), (2, 8, 12)
MODES = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
MMCV = {SEQUENCE: mmcv.NonLocal1d, IMAGE: mmcv.NonLocal2d, CLIP: mmcv.NonLocal3d}

BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    f"mmcv {kind.__name__} {mode} {options}": (
        lambda kind=kind, mode=mode, options=options: kind(8, mode, **options),
        shape,
        f"mmcv.{mode}" + (".scaled_inner" if mode == MODES[0] and options.get("use_scale", True) else ""),
    )
    for shape, kind in MMCV.items()
    for mode in MODES
    for options in ({}, {"sub_sample": True, "norm": True, "use_scale": False})
}
BLOCKS |= {
    "GCNet": (lambda: mmcv.NonLocal2D(8, MODES[0]), IMAGE, "gcnet.embedded_gaussian.scaled_inverse"),
    "GCNet unscaled": (lambda: mmcv.NonLocal2D(8, MODES[0], use_scale=False), IMAGE, "gcnet.embedded_gaussian"),
    "GCNet dot product": (lambda: mmcv.NonLocal2D(8, "dot_product"), IMAGE, "gcnet.dot_product"),
}
BLOCKS |= {
    f"PySlowFast {form} {pool} {norm}": (
        lambda form=form, pool=pool, norm=norm: slowfast.Nonlocal(8, 4, pool, form, norm),
        CLIP,
        f"slowfast.{'embedded_gaussian.scaled_inner' if form == 'softmax' else form}",
    )
    for form in ("softmax", "dot_product")
    for pool, norm in (([1, 2, 2], "bn"), ([2, 1, 2], "layer"), (None, "none"))
}
BLOCKS |= {
    f"PyTorchVideo {form} {norm}": (
        lambda form=form, norm=norm: slowfast.pytorchvideo_block(8, 4, (1, 2, 2) if norm else None, form, norm=norm),
        CLIP,
        f"pytorchvideo.{'embedded_gaussian.scaled_inner' if form == 'softmax' else form}",
    )
    for form in ("softmax", "dot_product")
    for norm in (True, False)
}
BLOCKS |= {
    "timm": (lambda: spatial.NonLocalAttn(8), IMAGE, "timm.embedded_gaussian.scaled_input"),
    "timm unscaled": (lambda: spatial.NonLocalAttn(8, use_scale=False), IMAGE, "timm.embedded_gaussian"),
    "cgnl": (lambda: spatial.SpatialNL(8, 4, use_scale=True), IMAGE, "cgnl.embedded_gaussian.scaled_inner"),
    "cgnl unscaled": (lambda: spatial.SpatialNL(8, 4), IMAGE, "cgnl.embedded_gaussian"),
    "cgnl 1D": (lambda: spatial.SpatialNL(8, 4, dims=1, axis=1), SEQUENCE, "cgnl.embedded_gaussian.queries"),
    "gluon-cv": (lambda: spatial.NonLocal(8), CLIP, "gluoncv.embedded_gaussian.scaled_inner"),
    "gluon-cv without norm": (lambda: spatial.NonLocal(8, False), CLIP, "gluoncv.embedded_gaussian.scaled_inner"),
    "AGW": (lambda: spatial.Non_local(8), IMAGE, "agw.dot_product"),
    "fast-reid, wider": (lambda: spatial.Non_local(8, 4, sequential=False), IMAGE, "agw.dot_product"),
    "STE-NVAN": (lambda: spatial.NonLocalBlock(8, "soft"), CLIP, "ste-nvan.embedded_gaussian"),
    "STE-NVAN dot product": (
        lambda: spatial.NonLocalBlock(8, "dot", sub_sample=True, bn_layer=False),
        CLIP,
        "ste-nvan.dot_product.queries",
    ),
}
BLOCKS |= {
    f"STE-NVAN stripes {pool} {instance}": (
        lambda pool=pool, instance=instance: spatial.Stripe_NonLocalBlock(3, 8, pool, instance),
        (2, 8, 3, 6, 4),
        f"ste-nvan-stripe.{family}",
    )
    for pool, instance, family in (
        ("mean", "soft", "embedded_gaussian"),
        ("meanmax", "soft", "embedded_gaussian"),
        ("max", "dot", "dot_product.queries"),
    )
}
BLOCKS |= {
    f"DNL {options}": (
        lambda options=options: dnl.NonLocal2d_bn(8, 4, **options),
        IMAGE,
        "dnl.embedded_gaussian.scaled_inner",
    )
    for options in (
        {},
        {"whiten_type": (), "downsample": False, "out_bn": True},
        {"use_out": True, "out_bn": True, "with_gc": True, "temperature": 0.5},
    )
}
BLOCKS |= {
    f"mmsegmentation {options}": (
        lambda options=options: dnl.DisentangledNonLocal2d(8, temperature=0.05, **options),
        IMAGE,
        f"mmseg.embedded_gaussian{'' if 'use_scale' in options else '.scaled_inner'}",
    )
    for options in ({}, {"use_scale": False, "norm": True})
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_computes_the_same(name):
    make, shape, family = BLOCKS[name]
    block = randomized(make())
    (found,) = nl.replace(block, dry_run=True).found
    assert found.family == family
    assert_replaced_exactly(block, torch.randn(shape))


@pytest.mark.parametrize(
    "name",
    [
        "mmcv NonLocal3d concatenation {}",
        "GCNet",
        "STE-NVAN dot product",
        "STE-NVAN stripes mean soft",
        "cgnl 1D",
    ],
)
def test_watched_weights_are_those_of_the_block(name):
    make, shape, _ = BLOCKS[name]
    block = randomized(make()).eval()
    maps: list[Tensor] = []

    def note(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        maps.append(args[0])

    nl.replace(block)
    out = next(block._modules[part] for part in ("W", "conv_out", "z") if part in block._modules)
    assert out is not None
    out.register_forward_pre_hook(note)
    values: list[Tensor] = []
    block.g.register_forward_hook(lambda _module, _args, output: values.append(output))  # pyright: ignore
    x = torch.randn(shape)
    with nl.watch(block) as seen:
        block(x)
    weights = seen[""].weights
    assert isinstance(weights, PairWeights)
    y = weights.rows(0, torch.arange(weights.queries)) @ values[0].flatten(2)[0].T
    torch.testing.assert_close(y, maps[0].flatten(2)[0].T, rtol=1e-4, atol=1e-5)


def test_the_block_inside_a_residual_block_of_mmaction2_is_found():
    network = nn.Sequential(mmcv.Bottleneck3d(8))
    assert_replaced_exactly(randomized(network), torch.randn(CLIP), ["0.non_local_block"])
    assert "N = 72 queries, M = 72 keys, D = 4" in nl.explain(_replaced(network)[0].non_local_block, CLIP)  # pyright: ignore


def test_a_copy_under_another_name_is_recognized_by_its_structure():
    class MyNLBlock(spatial.SpatialNL):
        pass

    class SpatialNonLocal(slowfast.Nonlocal):
        pass

    for block, shape in ((MyNLBlock(8, 4), IMAGE), (SpatialNonLocal(8, 4), CLIP)):
        assert_replaced_exactly(randomized(block), torch.randn(shape))


class TwiceScaled(slowfast.Nonlocal):
    """A near miss: the scale is squared."""

    def forward(self, x: Tensor) -> Tensor:
        self.conv_theta.weight.data.mul_(self.dim_inner**-0.5)
        try:
            return super().forward(x)
        finally:
            self.conv_theta.weight.data.div_(self.dim_inner**-0.5)


class WithoutResidual(spatial.NonLocalAttn):
    """A near miss: x is not added."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - x


class OverlappingPools(mmcv.NonLocal2d):
    """A near miss: windows of the keys overlap."""

    def __init__(self) -> None:
        super().__init__(8, "embedded_gaussian")
        pool = nn.MaxPool2d(3, 2, 1)
        self.phi, self.g = nn.Sequential(self.phi, pool), nn.Sequential(self.g, pool)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (TwiceScaled(8, 4), "differs by"),
        (WithoutResidual(8), "differs by"),
        (OverlappingPools(), "windows that overlap"),
        (dnl.NonLocal2d_bn(8, 4, whiten_type=("spatial",)), "whitens by spatial"),
        (nl.NonLocal2d(8), "block of this package"),
    ],
)
def test_a_near_miss_is_left_with_a_reason(block, reason):
    network = nn.Sequential(block)
    report = nl.replace(network, only="0")
    assert report.replaced == []
    assert reason in report.left["0"]


def test_the_grid_of_stripes_is_watched():
    block = spatial.Stripe_NonLocalBlock(3, 8).eval()
    nl.replace(block)
    with nl.watch(block) as seen:
        block(torch.randn(1, 8, 2, 6, 4))
    assert seen[""].rows([(1, 2, 0)]).shape == (1, 2, 3, 1)
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        block(torch.randn(1, 8, 2, 7, 4))  # its own code refuses a height that is not divisible by the stripes


def test_relatives_without_a_map_are_left():
    class BatNonLocalAttn(nn.Identity):
        pass

    class SpatialCGNL(spatial.SpatialNL):
        pass

    report = nl.replace(nn.Sequential(BatNonLocalAttn(), SpatialCGNL(8, 4)))
    assert report.replaced == []
    assert all("no N x M map" in reason for reason in report.left.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["mmcv NonLocal3d concatenation {}", "STE-NVAN dot product", "timm"])
def test_half_types_are_as_near_to_float32_as_before(name, dtype):
    make, shape, _ = BLOCKS[name]
    block, x = randomized(make()).eval().to(dtype), torch.randn(shape).to(dtype)
    with torch.no_grad():
        exact = copy.deepcopy(block).float()(x.float())
        before = block(x).float()
        nl.replace(block)
        after = block(x)
    assert after.dtype == dtype
    assert (after.float() - exact).abs().max() <= 2 * (before - exact).abs().max() + 1e-3 * exact.abs().max()


@pytest.mark.parametrize(
    "name", ["mmcv NonLocal3d concatenation {}", "STE-NVAN stripes mean soft", "PySlowFast softmax None none"]
)
def test_modules_on_the_meta_device_are_replaced(name):
    make, shape, family = BLOCKS[name]
    with torch.device("meta"):
        block = make()
    (found,) = nl.replace(block, example_input=torch.empty(shape, device="meta")).found
    assert found.family == family
    assert found.predicted is not None
    assert block(torch.empty(shape, device="meta")).shape == torch.Size(shape)


@pytest.mark.parametrize("form", ["embedded_gaussian", "concatenation"])
def test_no_map_is_built(form):
    block = mmcv.NonLocal2d(8, form).eval()
    (place,) = nl.replace(block, dry_run=True, example_input=torch.empty(1, 8, 80, 80)).found
    assert place.predicted is not None
    assert place.predicted.memory_before - place.predicted.memory_after > place.predicted.map_bytes == 4 * 6400**2


def _replaced(network: nn.Module) -> nn.Module:
    nl.replace(network)
    return network
