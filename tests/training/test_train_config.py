"""Training configuration: checks, plain values and former names."""

import dataclasses
import json
import subprocess
import sys

import pytest
from tiny_training import plain_config

from torch_nonlocal.training import TrainConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": None, "steps": None}, "exactly one"),
        ({"epochs": 1, "steps": 1}, "exactly one"),
        ({"epochs": 0}, "epochs=0: expected at least 1"),
        ({"epochs": 1, "batch_size": 0}, "batch_size=0"),
        ({"epochs": 1, "batch_size": 6, "accumulate": 4}, "multiple of accumulate=4"),
        ({"epochs": 1, "lr": 0.0}, "lr=0.0: expected above 0"),
        ({"epochs": 1, "lr": float("nan")}, "lr=nan"),
        ({"epochs": 1, "momentum": 1.0}, "momentum=1.0"),
        ({"epochs": 1, "momentum": 0.0, "nesterov": True}, "nesterov=True"),
        ({"epochs": 1, "optimizer": "adam"}, "optimizer='adam': expected one of sgd, adamw"),
        ({"epochs": 1, "schedule": "linear"}, "one of step, cosine, one-cycle"),
        ({"epochs": 1, "precision": "fp8"}, "one of no, bf16, fp16"),
        ({"epochs": 1, "milestones": (0.5, 0.4)}, "milestones="),
        ({"epochs": 1, "milestones": (100.0,)}, "fractions of the run"),
        ({"epochs": 1, "warmup": 5.0}, "warmup=5.0: expected a fraction of the run"),
        ({"epochs": 1, "clip_grad": 0.0}, "clip_grad=0.0"),
        ({"epochs": 1, "ema": 1.0}, "ema=1.0"),
        ({"epochs": 1, "weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"epochs": 1, "workers": -1}, "workers=-1"),
        ({"epochs": 1, "checkpoint_minutes": -1.0}, "checkpoint_minutes"),
        ({"epochs": 1, "log_every": 0}, "log_every=0"),
    ],
)
def test_wrong_values_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_plain_returns_json_values():
    config = plain_config(milestones=(0.25,), ema=0.5)
    plain = config.plain()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["milestones"] == [0.25]
    assert plain["ema"] == 0.5


def test_every_field_has_a_docstring():
    source = TrainConfig.__dict__
    import inspect

    text = inspect.getsource(TrainConfig)
    for name in source["__dataclass_fields__"]:
        after = text.split(f"    {name}: ", 1)[1].split("\n")[1]
        assert after.strip().startswith('"""'), name


@pytest.mark.parametrize(
    ("former", "name", "value"), [("optimiser", "optimizer", "adamw"), ("attention_clips", "attention_items", 5)]
)
def test_former_names_are_accepted_with_a_warning(former, name, value):
    with pytest.warns(DeprecationWarning, match=f"{former} is renamed to {name}"):
        config = TrainConfig(epochs=1, **{former: value})
    assert getattr(config, name) == value
    assert name in config.plain()
    assert former not in config.plain()
    with pytest.warns(DeprecationWarning, match=f"{former} is renamed to {name}"):
        assert getattr(config, former) == value
    with pytest.warns(DeprecationWarning, match=f"{former} is renamed to {name}"):
        assert getattr(dataclasses.replace(TrainConfig(epochs=1), **{former: value}), name) == value


def test_config_does_not_import_torch():
    check = (
        "import sys; from torch_nonlocal.training.config import TrainConfig; from torch_nonlocal.training import "
        "TrainConfig, CheckpointError, is_main_process; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0
