"""Learning rates, parameter groups, EMA and loss scale, compared with their formulas."""

import math

import pytest
import torch
from tiny_training import network, plain_config
from torch import nn

from torch_nonlocal.training.ema import EMA, copy_into, restore_state, state_tensors
from torch_nonlocal.training.optimizer import gradient_norm, make_optimizer, parameter_groups, schedule_factor
from torch_nonlocal.training.precision import LossScale


@pytest.mark.parametrize(
    ("settings", "steps", "expected"),
    [
        ({}, 400_000, {0: 1, 149_999: 1, 150_000: 0.1, 299_999: 0.1, 300_000: 0.01, 399_999: 0.01}),  # the paper's
        ({"milestones": (0.5,)}, 10, {4: 1, 5: 0.1, 9: 0.1}),
        ({"milestones": ()}, 10, {0: 1, 9: 1}),
        ({"warmup": 0.4}, 10, {0: 0.25, 1: 0.5, 3: 1, 4: 0.1, 8: 0.01}),
        ({"schedule": "cosine"}, 8, {0: 1, 2: (1 + math.sqrt(0.5)) / 2, 4: 0.5}),
        ({"schedule": "cosine", "warmup": 0.2}, 10, {0: 0.5, 1: 1, 2: 1, 6: 0.5}),
        ({"schedule": "cosine"}, 1, {0: 1}),
        ({"schedule": "one-cycle"}, 1, {0: 1}),
    ],
)
def test_schedule_follows_its_formula(settings, steps, expected):
    config = plain_config(**settings)
    for step, factor in expected.items():
        assert schedule_factor(config, step, steps) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(("warmup", "steps"), [(0.3, 50), (0.0, 40), (0.5, 7)])
def test_one_cycle_equals_torch(warmup, steps):
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=steps, pct_start=round((warmup or 0.1) * steps) / steps, cycle_momentum=False
    )
    config = plain_config(schedule="one-cycle", warmup=warmup)
    for step in range(steps):
        assert schedule_factor(config, step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step < steps - 1:
            theirs.step()


def test_norms_and_biases_have_no_weight_decay():
    net = nn.Sequential(network(), nn.LayerNorm([3, 1]), nn.GroupNorm(1, 3))
    net[0][5].bias.requires_grad_(False)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    decayed, plain = parameter_groups(net, 0.5)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    assert {names[id(one)] for one in decayed["params"]} == {
        "0.0.weight", "0.5.weight", *(f"0.0.non_local.{name}.weight" for name in ("theta", "phi", "g", "out"))
    }  # fmt: skip
    names_plain = {names[id(one)] for one in plain["params"]}
    assert {"0.0.bias", "0.1.weight", "0.1.bias", "0.0.non_local.norm.weight", "1.weight", "2.bias"} <= names_plain
    assert "1.weight" in names_plain, "a norm's weight with two axes belongs to a norm"
    assert "0.5.bias" not in names_plain, "frozen parameters are in no group"


@pytest.mark.parametrize(
    ("settings", "kind", "options"),
    [
        ({"momentum": 0.8, "nesterov": True}, torch.optim.SGD, {"momentum": 0.8, "nesterov": True, "lr": 0.05}),
        ({"optimizer": "adamw"}, torch.optim.AdamW, {"betas": (0.9, 0.999), "lr": 0.05}),
    ],
)
def test_optimizer_follows_the_configuration(settings, kind, options):
    optimizer = make_optimizer(network(), plain_config(**settings))
    assert type(optimizer) is kind
    assert {name: optimizer.param_groups[0][name] for name in options} == options


def test_no_trainable_parameter_raises():
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(network().requires_grad_(False), 0.1)


def test_gradient_norm_covers_all_gradients():
    net = nn.Linear(2, 1)
    net(torch.tensor([[3.0, 4.0]])).sum().backward()
    assert gradient_norm(list(net.parameters())).item() == pytest.approx(math.sqrt(9 + 16 + 1))


def test_ema_follows_its_formula():
    net = nn.BatchNorm1d(1, dtype=torch.float64)
    ema = EMA(net, 0.3)
    expected = 1.0
    for step, value in enumerate((2.0, -1.0, 5.0, 0.5), start=1):
        nn.init.constant_(net.weight, value)
        net.num_batches_tracked.fill_(step)
        ema.update(net, step)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        assert ema.values["weight"].item() == pytest.approx(expected, rel=1e-12)
        assert ema.values["num_batches_tracked"].item() == step


def test_restore_state_restores_after_an_exception():
    net = network()
    before = {name: one.clone() for name, one in state_tensors(net).items()}
    with pytest.raises(KeyError), restore_state(net):  # noqa: PT012
        copy_into(net, {name: one + 1 for name, one in before.items()})
        assert not torch.equal(net[0].weight, before["0.weight"])
        raise KeyError
    assert all(torch.equal(one, before[name]) for name, one in state_tensors(net).items())


def test_loss_scale_halves_on_overflow_and_doubles_after_2000_steps():
    scale = LossScale(enabled=True)
    first = scale.value
    assert scale.overflowed()
    assert scale.value == first / 2
    for _ in range(1999):
        scale.succeeded()
    held = LossScale(enabled=True)
    held.restore(scale.state())
    assert held.value == first / 2
    held.succeeded()
    assert held.value == first
    while held.value > 1:
        assert held.overflowed()
    assert not held.overflowed(), "a scale below 1 cannot help"


def test_loss_is_scaled_with_fp16_only():
    scale = LossScale(enabled=False)
    scale.succeeded()
    assert scale.value == 1
    assert not scale.overflowed()
