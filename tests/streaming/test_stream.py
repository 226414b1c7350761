"""`nl.stream`: a video in chunks gives what the network gives for the whole video; what cannot is refused by name."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torch_nonlocal as nl
from torch_nonlocal.streaming.cache import FrameBuffer

FORMS = ["embedded_gaussian", "gaussian", "dot_product", "concatenation"]
FRAMES = 200


def trained(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def block(**options):
    return trained(nl.NonLocal3d(4, **{"causal": "frames", "norm": "batch", **options}))


class CausalConv(nn.Conv3d):
    """Pads with zeros before the first frame, in its own forward."""

    def forward(self, x):
        return super().forward(F.pad(x, (0, 0, 0, 0, self.dilation[0] * (self.kernel_size[0] - 1), 0)))


class FirstFrameConv(nn.Module):
    """Pads with the first frame, as video autoencoders do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(4, 4, 3)

    def forward(self, x):
        return self.conv(F.pad(x, (1, 1, 1, 1, 2, 0), mode="replicate"))


class Residual(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return torch.relu(x + self.layers(x))


def network(**options):
    return trained(
        nn.Sequential(
            nn.Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1)),
            nn.BatchNorm3d(4),
            nn.MaxPool3d((1, 2, 2)),
            Residual(CausalConv(4, 4, (3, 3, 3), padding=(0, 1, 1)), nl.NonLocal3d(4, causal="frames", **options)),
            Residual(nn.ConstantPad3d((0, 0, 0, 0, 4, 0), 0.0), nn.Conv3d(4, 4, (3, 1, 1), dilation=(2, 1, 1))),
            FirstFrameConv(),
            nl.NonLocal3d(4, attend="space"),
            nn.AdaptiveAvgPool3d((None, 1, 1)),
        )
    )


def video(channels=4, frames=FRAMES, size=(3, 4), batch=1):
    return torch.randn(batch, channels, frames, *size, generator=torch.Generator().manual_seed(0))


def streamed(model, x, chunk):
    with nl.stream(model) as step:
        parts = [step(frames) for frames in x.split(chunk, 2)]
    assert all(part.shape[2] == frames.shape[2] for part, frames in zip(parts, x.split(chunk, 2), strict=True))
    return torch.cat(parts, 2)


def assert_equal(one, other):
    assert float((one - other).norm() / other.norm()) <= 1e-5


@pytest.mark.parametrize("chunk", [1, 3, 16])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("form", FORMS)
def test_blocks_over_200_frames(form, window, chunk):
    model, x = block(pairwise=form, window_frames=window), video()
    with torch.no_grad():
        assert_equal(streamed(model, x, chunk), model(x))


@pytest.mark.parametrize("options", [{"attend": "time", "window_frames": 7}, {"subsample": 2}, {"pool_first": True}])
def test_other_options_of_blocks(options):
    model, x = block(**options), video(frames=20, batch=2)
    with torch.no_grad():
        assert_equal(streamed(model, x, 3), model(x))


@pytest.mark.parametrize("options", [{"regions": 3}, {"top_k": 3}, {"hard": True}], ids=str)
def test_blocks_that_select_keys_of_their_frame(options):
    model, x = trained(nl.NonLocal3d(4, attend="space", **options)), video(frames=4, size=(4, 6))
    with torch.no_grad():
        assert_equal(streamed(model, x, 3), model(x))


@pytest.mark.parametrize("chunk", [1, 3, 16])
@pytest.mark.parametrize("form", FORMS)
def test_networks_with_causal_convolutions(form, chunk):
    model, x = network(pairwise=form, window_frames=6), video(3, 60, (8, 6))
    with torch.no_grad():
        assert_equal(streamed(model, x, chunk), model(x))


def test_chunks_of_any_size_and_a_window_larger_than_the_video():
    model, x = network(window_frames=100), video(3, 25, (8, 6))
    with torch.no_grad(), nl.stream(model) as step:
        y = torch.cat([step(frames) for frames in x.split([7, 1, 12, 2, 3], 2)], 2)
        assert step.frames == 25
        assert_equal(y, model(x))  # outside of steps, the network runs as usual


def test_inserted_blocks():
    model = trained(nn.Sequential(nn.Conv3d(3, 4, 1), nn.ReLU()))
    nl.insert(model, at="0", example_input=video(3, 4), causal="frames", window_frames=3)
    trained(model)
    x = video(3, 12)
    with torch.no_grad():
        assert_equal(streamed(model, x, 5), model(x))


@pytest.mark.parametrize("form", FORMS)
def test_memory_is_flat_with_a_window(form):
    model = block(pairwise=form, window_frames=4)
    sizes = []
    with nl.stream(model) as step:
        for frames in video(frames=60).split(3, 2):
            step(frames)
            (cache,) = step._state.blocks.values()
            sizes.append(sum(buffer._stored.numel() for buffer in (cache.keys, cache._values)))
    assert len(set(sizes)) == 1
    positions, width = 3 * 4, 2 if form in ("embedded_gaussian", "dot_product") else 4 if form == "gaussian" else 1
    assert sizes[0] == 2 * 4 * positions * (width + 2)


def test_a_dot_product_without_a_window_keeps_one_sum():
    with nl.stream(block(pairwise="dot_product")) as step:
        for frames in video(frames=12).split(3, 2):
            step(frames)
        (cache,) = step._state.blocks.values()
        assert cache.keys.count == 0
        assert cache._sum_BDV.shape == (1, 2, 2)


@pytest.mark.parametrize("window", [None, 1, 2, 5, 30])
def test_the_buffer_holds_the_last_frames(window):
    generator = torch.Generator().manual_seed(0)
    buffer, seen = FrameBuffer(window), torch.zeros(2, 0, 3)
    for _ in range(40):
        frames = int(torch.randint(1, 7, (), generator=generator))
        new = torch.randn(2, 4 * frames, 3, generator=generator)
        buffer.append(new, frames)
        seen = torch.cat([seen, new], 1)
        for later in range(frames):
            stop = seen.shape[1] - 4 * later
            first = 0 if window is None else max(0, stop - 4 * window)
            assert torch.equal(buffer.until(later, window), seen[:, first:stop])


REFUSED = {
    "noncausal": (nl.NonLocal3d(4), r"'1' \(NonLocal3d\) attends to all frames \(attend='spacetime'\)"),
    "noncausal time": (nl.NonLocal3d(4, attend="time"), r"attends to all frames \(attend='time'\)"),
    "tokens": (
        nl.NonLocal3d(4, causal="frames", layout="tokens", grid=(4, 3, 4)),
        "has a fixed number of frames, grid=",
    ),
    "max pool": (nn.MaxPool3d(2), r"'1' \(MaxPool3d\) pools over time with a kernel of 2 and a stride of 2 frames"),
    "average pool": (nn.AvgPool3d((3, 1, 1), 1), "pools over time with a kernel of 3 and a stride of 1"),
    "global pool": (nn.AdaptiveAvgPool3d(1), "pools over time: expected the output size None"),
    "both ends": (nn.Conv3d(4, 4, 3, padding=1), r"'1' \(Conv3d\) pads both ends of the time axis"),
    "same": (nn.Conv3d(4, 4, 3, padding="same"), "pads both ends of the time axis"),
    "stride": (nn.Conv3d(4, 4, 1, stride=(2, 1, 1)), "has a stride of 2 on the time axis"),
    "transposed": (nn.ConvTranspose3d(4, 4, (2, 1, 1)), "is a transposed convolution over time"),
    "train mode": (nn.BatchNorm3d(4).train(), "takes the statistics of the clip in train mode"),
    "dropout": (nn.Dropout3d(0.5).train(), "is random in train mode"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_known_modules_are_refused_before_the_first_step(name):
    module, message = REFUSED[name]
    with pytest.raises(ValueError, match=message), nl.stream(nn.Sequential(nn.ReLU(), module)):
        pytest.fail("the context must not open")


class Mean(nn.Module):
    def forward(self, x):
        return x - x.mean(2, keepdim=True)


class Score(nn.Module):
    def forward(self, x):
        return x.mean((2, 3, 4))


class Symmetric(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(4, 4, (3, 1, 1))

    def forward(self, x):
        return self.conv(F.pad(x, (0, 0, 0, 0, 1, 1)))


class Flipped(nn.Module):
    def forward(self, x):
        return x.flip(2)


FOUND = {
    "group norm": (nn.GroupNorm(2, 4), r"'1' \(GroupNorm\) mixes frames"),
    "group norm of a block": (
        nl.NonLocal3d(4, causal="frames", norm="group"),
        r"'1.norm' \(GroupNorm\) mixes frames",
    ),
    "mean": (Mean(), r"'1' \(Mean\) mixes frames"),
    "later frames": (Flipped(), r"'1' \(Flipped\) mixes frames"),
    "scores of clips": (Score(), r"'1' \(Score\) has no output for each frame: it returns \(1, 4\) for 4 frames"),
    "both ends": (Symmetric(), r"'1\.?(conv)?' \(\w+\) mixes frames"),
    "no padding": (nn.Conv3d(4, 4, (3, 1, 1)), "'1' convolves 1 frames for 1 frames of the video; with a reach of 2"),
}


@pytest.mark.parametrize("name", FOUND)
def test_other_modules_are_found_by_a_trial(name):
    module, message = FOUND[name]
    model = trained(nn.Sequential(nn.ReLU(), module))
    with nl.stream(model) as step, pytest.raises(ValueError, match=message):
        step(video(frames=2))


def test_the_model_is_unchanged_also_after_errors():
    model = network(window_frames=3)
    state, names = copy.deepcopy(model.state_dict()), {key: set(vars(module)) for key, module in model.named_modules()}
    x = video(3, 4, (8, 6))
    with torch.no_grad():
        expected = model(x)
    with nl.stream(model) as step:
        step(x)
        with pytest.raises(ValueError, match="of the first frames"):
            step(x[..., :4])
    assert {key: set(vars(module)) for key, module in model.named_modules()} == names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    with torch.no_grad():
        assert torch.equal(model(x), expected)
    assert model(x).requires_grad
    with pytest.raises(RuntimeError, match="the stream has ended"):
        step(x)


def test_streams_cannot_be_nested_and_follow_each_other():
    model = block()
    with nl.stream(model) as step:
        assert not step(video(frames=1)).requires_grad
        with pytest.raises(RuntimeError, match="streams cannot be nested"), nl.stream(block()):
            pytest.fail("the context must not open")
        step(video(frames=1))
    with nl.stream(model) as other:
        assert other.frames == 0


@pytest.mark.parametrize("frames", [torch.zeros(4, 3, 4), torch.zeros(1, 4, 0, 3, 4), None])
def test_wrong_frames(frames):
    with nl.stream(block()) as step, pytest.raises(ValueError, match="expected frames"):
        step(frames)


def test_sizes_do_not_change():
    with nl.stream(block()) as step:
        step(video(frames=2))
        with pytest.raises(ValueError, match="of the first frames"):
            step(video(frames=2, size=(4, 4)))
        step(video(frames=3))
        assert step.frames == 5


def test_half_types_and_autocast():
    model, x = block(window_frames=3), video(frames=9)
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(streamed(model, x, 2).float(), expected, rtol=0.05, atol=0.05)
    y = streamed(copy.deepcopy(model).bfloat16(), x.bfloat16(), 2)
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("options", [{}, {"window_frames": 4, "subsample": 2}, {"attend": "time", "window_frames": 2}])
@pytest.mark.parametrize("form", FORMS)
def test_records_hold_the_weights_of_the_newest_frames(form, options, chunk):
    if options.get("attend") == "time" and options.get("subsample"):
        pytest.skip("pools over time")
    model, x = block(pairwise=form, **options), video(frames=12, batch=2)
    with nl.watch(model) as whole, torch.no_grad():
        model(x)
    with nl.stream(model, watch=True) as step:
        for frames in x.split(chunk, 2):
            step(frames)
            seen = step.seen[""]
        window = options.get("window_frames")
        kept = 12 if window is None else window - 1 + chunk
        assert seen.geometry.grid == (kept, 3, 4)
        assert seen.geometry.input_size == (kept, 3, 4)
        for newest in range(1, chunk + 1):
            for y, z in [(0, 0), (2, 3)]:
                row = seen.rows([(kept - newest, y, z)], batch=1)[0]
                expected = whole[""].rows([(12 - newest, y, z)], batch=1)[0]
                torch.testing.assert_close(row, expected[12 - kept :], rtol=1e-4, atol=1e-6)
                assert (expected[: 12 - kept] == 0).all()
    with nl.stream(model) as step:
        step(x)
        with pytest.raises(RuntimeError, match="watch=True"):
            step.seen  # noqa: B018 (a property)


def test_watch_records_nothing_in_a_stream():
    model = block()
    with nl.watch(model) as seen, nl.stream(model) as step:
        step(video(frames=2))
    assert len(seen) == 0


def test_an_error_inside_the_network_ends_the_stream():
    class Camera(nn.Module):
        broken = False

        def forward(self, x: Tensor) -> Tensor:
            if self.broken:
                raise OSError("no frame")
            return x

    camera = Camera()
    model, x = nn.Sequential(block(), camera, block(pairwise="dot_product")).eval(), video(frames=6)
    with nl.stream(model) as step:
        step(x[:, :, :2])
        camera.broken = True
        with pytest.raises(OSError, match="no frame"):
            step(x[:, :, 2:3])
        camera.broken = False
        with pytest.raises(RuntimeError, match=r"after 2 frames raised an error.*open another stream"):
            step(x[:, :, 2:3])  # the first block has seen the frame, the second has not
    torch.testing.assert_close(streamed(model, x, 2), model(x))
