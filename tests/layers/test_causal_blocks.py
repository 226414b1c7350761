"""Blocks that are causal over frames: equal to the masked definition, alone and in what uses blocks."""

import copy

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.ops import dense, dispatch
from torch_nonlocal.ops.frames import CausalFrames

T, H, W = 5, 4, 3
FORMS = ["embedded_gaussian", "gaussian", "dot_product", "concatenation"]
CASES = [
    *({"pairwise": form} for form in FORMS),
    *({"pairwise": form, "window_frames": 2, "subsample": 2} for form in FORMS),
    {"attend": "time"},
    {"attend": "time", "window_frames": 3, "pairwise": "dot_product"},
    {"window_frames": 1, "scale": "sqrt", "pool_first": True, "subsample": (1, 2, 1)},
    {"layout": "channels_last", "window_frames": 2},
]


@pytest.fixture(autouse=True)
def no_map_is_small(monkeypatch):
    monkeypatch.setattr(dispatch, "CAUSAL_DENSE_BYTES", 0)
    monkeypatch.setattr(dispatch, "SMALL_BYTES", 0)
    monkeypatch.setattr(dispatch, "SMALL_ITEM_BYTES", 0)


def trained(**options):
    torch.manual_seed(0)
    block = nl.NonLocal3d(6, causal="frames", **{"norm": None, **options})
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    return block


def clip(block, size=(T, H, W), batch=2):
    x = torch.randn(batch, 6, *size, generator=torch.Generator().manual_seed(1))
    return x.movedim(1, -1).contiguous() if block.layout == "channels_last" else x


def defined(block, x):
    """The block by its definition: a map with a mask."""
    x = block.to_map(x)
    theta, phi, g = block.embed(x)
    n, m = theta.shape[1], phi.shape[1]
    visible = CausalFrames(x.shape[2], block.window_frames).visible(torch.arange(n), torch.arange(m), n, m)
    if block.pairwise == "dot_product":
        y = dense.dot_product(theta, phi, g, visible)
    elif block.pairwise == "concatenation":
        y = dense.concatenation(*block.scores(theta, phi), g, visible)
    else:
        y = dense.softmax(theta, phi, g, scale=block.scale, visible_NM=visible)
    y = x + block.out(block.groups.to_map(y, x.shape[2:]))
    return y.movedim(1, -1) if block.layout == "channels_last" else y


@pytest.mark.parametrize("options", CASES, ids=str)
def test_outputs_and_gradients_are_those_of_the_definition(options):
    block = trained(**options).double()
    x = clip(block).double().requires_grad_()
    wanted = [x, *block.parameters()]
    y, expected = block(x), defined(block, x)
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(y)
    for one, other in zip(
        torch.autograd.grad(y, wanted, dy, allow_unused=True),
        torch.autograd.grad(expected, wanted, dy, allow_unused=True),
        strict=True,
    ):
        if one is not None:
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_later_frames_do_not_change_earlier_ones(options):
    block = trained(**options).eval()
    x = clip(block)
    time = 1 if block.layout == "channels_last" else 2
    torch.testing.assert_close(block(x.narrow(time, 0, 3)), block(x).narrow(time, 0, 3))


def test_checkpoint_keeps_the_gradients():
    block, other = trained(), trained(checkpoint=True)
    gradients = []
    for one in (block, other):
        one(clip(one)).square().sum().backward()
        gradients.append([parameter.grad for parameter in one.parameters()])
    torch.testing.assert_close(*gradients)


def test_autocast_computes_in_its_dtype():
    block = trained(window_frames=2)
    x = clip(block)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = block(x)
    torch.testing.assert_close(y.float(), block(x), rtol=0.05, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_compiled_blocks_are_one_graph_and_equal_eager_blocks(form):
    torch.compiler.reset()
    block = trained(pairwise=form, window_frames=3)
    x = clip(block).requires_grad_()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    results = []
    for run in (block, compiled):
        y = run(x)
        results.append(
            [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *block.parameters()], allow_unused=True)]
        )
    for one, other in zip(*results, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_exported_programs_equal_the_block(form):
    block = trained(pairwise=form, window_frames=2).eval()
    x = clip(block)
    program = torch.export.export(block, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    for batch in (1, 2, 3):
        y = clip(block, batch=batch)
        torch.testing.assert_close(program.module()(y), block(y))
    torch.testing.assert_close(torch.fx.symbolic_trace(block)(x), block(x))


@pytest.mark.parametrize("form", FORMS)
def test_onnx_equals_the_block(form, tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="pip install 'torch-nonlocal[export]'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'torch-nonlocal[export]'")
    block = trained(pairwise=form, window_frames=2).eval()
    x = clip(block)
    program = torch.onnx.export(block, (x,), dynamo=True, verbose=False)
    assert program is not None
    program.save(tmp_path / "block.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "block.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), block(x).detach())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"causal": "pixels"}, "causal='pixels': expected None or 'frames'"),
        ({"window_frames": 2}, "window_frames=2 needs causal='frames'"),
        ({"causal": "frames", "window_frames": 0}, "window_frames=0: expected None or a number of frames"),
        ({"causal": "frames", "window_frames": True}, "window_frames=True: expected None or a number of frames"),
        ({"causal": "frames", "attend": "space"}, "attend='space' does not reach other frames"),
        ({"causal": "frames", "subsample": (2, 2, 2)}, "needs keys of single frames"),
        ({"causal": "frames", "attend": "time", "subsample": 2}, "needs keys of single frames"),
        ({"causal": "frames", "normalize": "queries"}, "normalize='queries' is not causal"),
        ({"causal": "frames", "normalize": "queries", "pairwise": "dot_product"}, "normalize='queries' is not causal"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        nl.NonLocal3d(4, **options)


def test_images_have_no_frames():
    with pytest.raises(ValueError, match="causal='frames' needs a clip"):
        nl.NonLocal2d(4, causal="frames")


def test_options_are_in_files_of_causal_blocks_only(tmp_path):
    assert not {"causal", "window_frames"} & nl.NonLocal3d(4).config.keys()
    net = nn.Sequential(nn.Conv3d(3, 6, 1))
    nl.insert(net, at="0", example_input=torch.zeros(1, 3, T, H, W), causal="frames", window_frames=3)
    block = nl.blocks(net)["0"]
    nn.init.normal_(block.norm.weight)
    twin = type(block)(**block.config)
    assert (twin.causal, twin.window_frames) == ("frames", 3)
    assert "causal='frames', window_frames=3" in repr(block)
    nl.save_blocks(net, tmp_path / "blocks.pt")
    other = nn.Sequential(copy.deepcopy(net[0]))
    nl.remove(other)
    nl.load_blocks(other, tmp_path / "blocks.pt")
    assert nl.blocks(other)["0"].config == block.config
    nl.remove(other)
    nl.insert(other, at="0", example_input=torch.zeros(1, 3, T, H, W))
    with pytest.raises(ValueError, match=r"differs in causal, window_frames: the file has \['frames', 3\]"):
        nl.load_blocks(other, tmp_path / "blocks.pt")


def test_respond_needs_the_number_of_frames():
    block = trained()
    operands = block.embed(clip(block))
    assert block.respond(*operands, frames=T).shape == (2, T * H * W, 3)
    with pytest.raises(ValueError, match="frames=None: expected the number of frames for causal='frames'"):
        block.respond(*operands)


def test_explain_and_plan(monkeypatch):
    block = nl.NonLocal3d(64, causal="frames")
    text = nl.explain(block, (1, 64, 16, 14, 14))
    assert "causal over 16 frames): fused, because one call for each of 16 frames" in text
    text = nl.explain(nl.NonLocal3d(64, causal="frames", pairwise="dot_product"), (1, 64, 16, 14, 14))
    assert "reassociated, because theta (phi^T g) needs one 32 x 32 matrix for each frame" in text
    net = nn.Sequential(nn.Conv3d(3, 16, 1))
    x = torch.zeros(1, 3, 8, 8, 8)
    (place,) = nl.plan(net, x, at="0", causal="frames").places
    (whole,) = nl.plan(net, x, at="0").places
    projections = whole.flops - 2 * 2 * 512 * 512 * 8
    assert place.flops == projections + 2 * 2 * (512 * 512 + 8 * 64 * 64) // 2 * 8
    assert place.memory < whole.memory_dense
