"""Training on moving digits: clips in the drawn order, the optimizer, and resuming."""

import math
import os
import signal

import pytest
import torch
from torch import nn

for module, extra in {"sklearn": "demo", "accelerate": "demo"}.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

from torch_nonlocal.data.moving_digits import MovingDigits  # noqa: E402 (after the skips)
from torch_nonlocal.models.relation_net import RelationNet  # noqa: E402
from torch_nonlocal.tasks.digits.data import ConsecutiveBatches, RunClips  # noqa: E402
from torch_nonlocal.tasks.digits.muon import MuonAdamW  # noqa: E402
from torch_nonlocal.tasks.digits.task import DigitsTask, train  # noqa: E402
from torch_nonlocal.training import TrainConfig, fit  # noqa: E402

DIGITS = MovingDigits(frames=2, size=16)
OPTIONS = {"lr_scale": 16.0, "momentum": 0.9, "betas": (0.9, 0.99), "weight_decay": 0.1, "clip_grad": 1.0}


def small_net():
    torch.manual_seed(0)
    return RelationNet(4, hidden=4)


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11])
def test_any_number_of_steps_trains(steps):
    reported = []
    losses = train(small_net(), DIGITS, steps=steps, batch=2, on_step=lambda *one: reported.append(one))
    assert reported == list(enumerate(losses, 1))
    assert len(losses) == steps
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize(
    ("options", "message"), [({"steps": 0}, "steps"), ({"batch": 0}, "batch_size"), ({"lr": 0}, "lr")]
)
def test_options_out_of_range_raise(options, message):
    with pytest.raises(ValueError, match=f"{message}=0"):
        train(small_net(), DIGITS, **{"steps": 1, **options})


def test_a_run_uses_the_clips_of_consecutive_batches():
    clips, batches = RunClips(DIGITS, steps=3, batch_size=4, seed=5), ConsecutiveBatches(12, 4)
    generator = torch.Generator().manual_seed(5)
    for step in range(batches.steps_per_epoch):
        drawn = DIGITS.batch(4, generator)
        rendered, labels = clips.render([clips[item.index] for item in batches.batch(step)])
        assert torch.equal(rendered, drawn.clips)
        assert torch.equal(labels, drawn.labels)


def test_losses_equal_those_of_a_plain_loop():
    steps, net = 20, small_net()
    optimizer = MuonAdamW(net, lr=6e-3, **OPTIONS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [6e-3 * 16, 6e-3], total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    generator, expected = torch.Generator().manual_seed(1), []
    for _ in range(steps):
        drawn = DIGITS.batch(8, generator)
        loss = nn.functional.cross_entropy(net(drawn.clips), drawn.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        expected.append(loss.item())
    losses = train(small_net(), DIGITS, steps=steps, batch=8, seed=1)
    assert losses == pytest.approx(expected, rel=1e-6)


def test_ctrl_c_ends_training():
    losses = []

    def interrupt(step, loss):
        losses.append(loss)
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(small_net(), DIGITS, steps=9, batch=2, on_step=interrupt)
    assert len(losses) == 3


def test_an_interrupted_run_resumes_to_identical_losses(tmp_path):
    config = TrainConfig(
        steps=6, batch_size=4, schedule="one-cycle", workers=0, attention_items=0, checkpoint_minutes=0.0
    )

    def run(folder, stop=math.inf):
        losses = []

        def on_loss(loss):
            losses.append(loss)
            if len(losses) == stop:
                raise KeyboardInterrupt

        fit(DigitsTask(small_net(), DIGITS, config, on_loss=on_loss), config, folder, log=lambda line: None)
        return losses

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "interrupted", stop=4)
    assert run(tmp_path / "interrupted") == whole[3:]


@pytest.mark.parametrize("shape", [(4, 30), (30, 4), (5, 5)])
def test_muon_updates_have_singular_values_near_one(shape):
    model = nn.Conv1d(shape[1], shape[0], 1, bias=False, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    model.weight.grad = torch.randn(model.weight.shape, generator=generator, dtype=torch.float64)
    before = model.weight.detach().clone()
    MuonAdamW(model, lr=1.0, **{**OPTIONS, "lr_scale": 1.0, "weight_decay": 0.0}).step()
    update = (before - model.weight.detach())[..., 0] / max(1.0, shape[0] / shape[1]) ** 0.5
    singular = torch.linalg.svdvals(update)
    assert singular.min() > 0.3  # five steps lift all but the smallest singular values to 0.7
    assert singular.max() < 1.25


def test_parameters_other_than_convolution_kernels_are_updated_by_adamw():
    first, second = small_net(), small_net()
    ours = MuonAdamW(first, lr=1e-2, **{**OPTIONS, "clip_grad": math.inf})
    kernels = {name for name, module in second.named_modules() if isinstance(module, nn.Conv3d)}
    others = {name: one for name, one in second.named_parameters() if name.removesuffix(".weight") not in kernels}
    adamw = torch.optim.AdamW(others.values(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    for _ in range(2):
        for one, other in zip(first.parameters(), second.parameters(), strict=True):
            one.grad = torch.ones_like(one)
            other.grad = torch.ones_like(other)
        ours.step()
        adamw.step()
    parameters = dict(first.named_parameters())
    assert others
    assert all(torch.equal(parameters[name], one) for name, one in others.items())


def test_a_large_gradient_is_scaled_to_the_maximum_norm():
    nets = [small_net(), small_net()]
    for net, size in zip(nets, (1e3, 1e6), strict=True):
        for one in net.parameters():
            one.grad = torch.full_like(one, size)
        MuonAdamW(net, lr=1e-2, **OPTIONS).step()
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)
