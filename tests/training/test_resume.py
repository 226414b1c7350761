"""Interrupted runs end bit for bit like uninterrupted ones, and checkpoints are never lost."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import TinyClips, last, network, plain_config, same_state, train

from torch_nonlocal._common.files import write_bytes
from torch_nonlocal.training import CheckpointError, checkpoint, load_weights_file

pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[train]'")


class CrashError(Exception):
    """Stands for anything that ends a process."""


def crash_after(reads):
    """Data that raises after so many reads."""
    seen = []

    def count(index, clip):
        seen.append(index)
        if len(seen) > reads:
            raise CrashError
        return clip

    return TinyClips(on_read=count)


def without_times(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = {"seconds", "items_per_second", "waiting_for_data"}
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


SETTINGS = [
    {},
    {"optimizer": "adamw", "schedule": "one-cycle", "ema": 0.9, "clip_grad": 0.5},
    {"accumulate": 2, "nesterov": True, "schedule": "cosine", "warmup": 0.3, "precise_bn": 2},
    {"precision": "bf16", "eval_every": 2, "log_every": 4},
    {"freeze_backbone": 1, "ema": 0.9, "precise_bn": 1},
    {"freeze_bn": True, "channels_last": True, "attention_items": 2},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(settings) or "defaults")
def test_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, settings):
    config = plain_config(**settings, checkpoint_minutes=0.0)
    train(tmp_path / "whole", config)
    for reads in (2, 9, 5):
        with pytest.raises(CrashError):
            train(tmp_path / "broken", config, data=crash_after(reads))
        torch.manual_seed(reads)  # random states outside do not matter
    result, model = train(tmp_path / "broken", config)
    assert result.status == "finished"
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "broken"))
    assert all(torch.equal(one, last(tmp_path / "whole")["model"][name]) for name, one in model.state_dict().items())
    best = [load_weights_file(tmp_path / run / "checkpoints" / "best.pt") for run in ("whole", "broken")]
    assert same_state(best[0], best[1])
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "broken")
    starts = json.loads((tmp_path / "broken" / "environment.json").read_text())["starts"]
    assert [start["from_step"] for start in starts] == [0, 0, 2, 3]


def test_a_run_of_a_version_without_an_option_resumes_with_its_former_value(tmp_path):
    config = plain_config(checkpoint_minutes=0.0)
    with pytest.raises(CrashError):
        train(tmp_path, config, data=crash_after(9))
    file = tmp_path / "config.json"
    held = json.loads(file.read_text())
    assert held["config"].pop("freeze_backbone") == 0
    file.write_text(json.dumps(held))
    with pytest.raises(ValueError, match=r"freeze_backbone \(saved: 0, given: 1\)"):
        train(tmp_path, plain_config(checkpoint_minutes=0.0, freeze_backbone=1))
    assert train(tmp_path, config)[0].status == "finished"


def test_steps_since_the_checkpoint_are_repeated_with_the_same_result(tmp_path):
    train(tmp_path / "whole")
    with pytest.raises(CrashError):
        train(tmp_path / "broken", data=crash_after(21))
    assert last(tmp_path / "broken")["progress"]["step"] == 3, "the end of the first epoch"
    train(tmp_path / "broken")
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "broken"))
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "broken")


def test_run_interrupted_in_an_evaluation_repeats_it(tmp_path):
    def fail(model):
        raise CrashError

    train(tmp_path / "whole")
    with pytest.raises(CrashError):
        train(tmp_path / "broken", evaluate=fail)
    assert last(tmp_path / "broken")["progress"]["step"] == 3
    train(tmp_path / "broken")
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "broken"))


def test_run_saved_under_former_names_resumes(tmp_path):
    """As version 0.1 saved it: `optimiser` in config.json, format 1 of the state, `test` lines in the log."""
    config = plain_config(checkpoint_minutes=0.0, log_every=2, ema=0.9, eval_every=2)
    train(tmp_path / "whole", config)
    with pytest.raises(CrashError):
        train(tmp_path / "former", config, data=crash_after(13))
    state = last(tmp_path / "former")
    assert state["progress"]["step"] == 3
    progress = state["progress"]
    progress["tested"], progress["clips"] = progress.pop("evaluated"), progress.pop("items")
    progress["window"]["updates"] = progress["window"].pop("steps")
    state["optimiser"], state["average"] = state.pop("optimizer"), state.pop("ema")
    torch.save({**state, "format": "torch-nonlocal training state 1"}, tmp_path / "former" / "checkpoints" / "last.pt")
    for name, former, current in (
        ("config.json", '"optimiser":', '"optimizer":'),
        ("config.json", '"attention_clips":', '"attention_items":'),
        ("metrics.jsonl", '"kind": "test"', '"kind": "validation"'),
    ):
        file = tmp_path / "former" / name
        text = file.read_text()
        assert current in text
        file.write_text(text.replace(current, former))
    train(tmp_path / "former", config)
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "former"))
    lines = [json.loads(line) for line in (tmp_path / "former" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines if "accuracy" in line and line["kind"] != "train"] == [
        ("test", 2), ("validation", 4), ("validation", 6)
    ]  # fmt: skip


def test_weights_saved_under_former_names_load(tmp_path):
    result, _ = train(tmp_path)
    saved = torch.load(result.weights, weights_only=True)
    saved["config"]["optimiser"] = saved["config"].pop("optimizer")
    torch.save(saved, tmp_path / "former.pt")
    assert same_state(load_weights_file(tmp_path / "former.pt"), load_weights_file(result.weights))


def test_initial_weights_come_from_the_checkpoint(tmp_path):
    """The untrained weights are saved, so a caller who does not seed can resume, too."""
    config = plain_config(checkpoint_minutes=0.0)
    train(tmp_path / "whole", config)
    with pytest.raises(CrashError):
        train(tmp_path / "broken", config, data=crash_after(0))
    other = network()
    for parameter in other.parameters():
        torch.nn.init.ones_(parameter)
    train(tmp_path / "broken", config, model=other)
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "broken"))


def test_attention_is_measured_on_the_same_items_after_an_interruption(tmp_path):
    config = plain_config(attention_items=2, epochs=3, checkpoint_minutes=0.0)
    train(tmp_path / "whole", config)
    with pytest.raises(CrashError):
        train(tmp_path / "broken", config, data=crash_after(21))
    train(tmp_path / "broken", config)
    assert "attention/0/entropy" in (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "broken")


def test_folder_without_a_step_accepts_another_configuration(tmp_path):
    with pytest.raises(CrashError):
        train(tmp_path / "run", data=crash_after(0))
    changed = plain_config(lr=0.01)
    train(tmp_path / "run", changed)
    train(tmp_path / "whole", changed)
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"run with another configuration: lr \(saved: 0.01, given: 0.05\)"):
        train(tmp_path / "run")


def test_number_of_workers_does_not_matter(tmp_path):
    """Neither between two runs nor when a run resumes."""
    ends = []
    for workers in (0, 2):
        train(tmp_path / str(workers), plain_config(workers=workers))
        ends.append(last(tmp_path / str(workers)))
    with pytest.raises(CrashError):
        train(tmp_path / "mixed", plain_config(checkpoint_minutes=0.0), data=crash_after(9))
    train(tmp_path / "mixed", plain_config(workers=1))
    assert same_state(ends[0], ends[1])
    assert same_state(ends[0], last(tmp_path / "mixed"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_after_the_step_and_the_run_resumes(tmp_path, number):
    seen, messages = [], []

    def stop(index, clip):
        seen.append(index)
        if len(seen) == 14:
            os.kill(os.getpid(), number)
        return clip

    handler = signal.getsignal(number)
    train(tmp_path / "whole")
    result, _ = train(tmp_path / "stopped_run", data=TinyClips(on_read=stop), log=messages.append)
    assert (result.status, result.step) == ("stopped", 4)
    assert messages[-1] == "interrupted; checkpoint saved after 4 steps; rerun the command to resume"
    assert signal.getsignal(number) is handler
    result, _ = train(tmp_path / "stopped_run")
    assert result.status == "finished"
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "stopped_run"))


def test_finished_run_restores_its_weights_and_changes_nothing(tmp_path):
    messages = []
    first, _ = train(tmp_path)
    bytes_before = (tmp_path / "checkpoints" / "last.pt").read_bytes()
    result, model = train(tmp_path, model=network().requires_grad_(True), log=messages.append, data=crash_after(0))
    assert result.status == "finished before"
    assert (result.step, result.best, result.loss) == (6, first.best, first.loss)
    assert "finished (6 steps)" in messages[0]
    assert all(torch.equal(one, last(tmp_path)["model"][name]) for name, one in model.state_dict().items())
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == bytes_before


def test_another_configuration_raises_except_for_harmless_fields(tmp_path):
    train(tmp_path, about={"model": "tiny"})
    with pytest.raises(
        ValueError, match=r"lr \(saved: 0.05, given: 0.1\), about.model \(saved: 'tiny', given: 'large'\)"
    ):
        train(tmp_path, plain_config(lr=0.1), about={"model": "large"})
    with pytest.raises(ValueError, match=r"a run of 2 epochs, given: 3 epochs"):
        train(tmp_path, plain_config(epochs=3), about={"model": "tiny"})
    harmless = plain_config(workers=1, checkpoint_minutes=1.0, keep=1, log_every=7, eval_every=2, attention_items=1)
    assert train(tmp_path, harmless, about={"model": "tiny"})[0].status == "finished before"


def test_other_data_and_models_raise(tmp_path):
    train(tmp_path)
    with pytest.raises(ValueError, match="a run on 13 training items, given: 14"):
        train(tmp_path, data=TinyClips(14))
    net = network()
    net.register_parameter("extra", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(ValueError, match=r"another model: missing keys: extra"):
        train(tmp_path, model=net)
    net = network()
    net[5] = torch.nn.Linear(200, 4)
    before = {name: one.clone() for name, one in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"other shapes: 5.weight \(3, 200\), expected \(4, 200\)"):
        train(tmp_path, model=net)
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())


class Malicious:
    def __reduce__(self):
        return (os._exit, (17,))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"half a zip", "cannot be read as a checkpoint: it is a text file"),
        (pickle.dumps(Malicious(), protocol=2), r"asks for (posix|nt)\._exit"),
    ],
)
def test_damaged_or_malicious_checkpoint_raises_and_executes_nothing(tmp_path, content, said):
    train(tmp_path)
    for name in ("last.pt", "best.pt"):
        (tmp_path / "checkpoints" / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        train(tmp_path)
    assert str(error.value).count("last.pt") == 1
    with pytest.raises(ValueError, match=said):
        load_weights_file(tmp_path / "checkpoints" / "best.pt")


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("progress", 3, "its progress is 3, expected dict"),
        ("progress", {"step": -1, "window": {}}, "its progress is below 0"),
        ("progress", {"step": 10**30, "window": {}}, "step=.*: expected int"),
        ("progress", {"__class__": 1}, "unknown setting '__class__'"),
        ("model", {"a": 1}, "its model is not tensors by name"),
        ("optimizer", None, "its optimizer is None"),
        ("scale", {"value": "x", "good": 1}, "its value is 'x'"),
    ],
)
def test_training_states_with_wrong_entries_are_refused(tmp_path, entry, value, said):
    train(tmp_path)
    last = tmp_path / "checkpoints" / "last.pt"
    checkpoint.write(last, {**checkpoint.read(last), entry: value})
    with pytest.raises(ValueError, match=said) as error:
        train(tmp_path)
    assert "last.pt is not a training state" in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"config": {"lr": 1e999}, "about": {}}', "{", '{"config": 3}'])
def test_broken_configurations_are_named(tmp_path, text):
    train(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not the configuration of a run"):
        train(tmp_path)


def test_loading_weights_from_the_wrong_file_raises(tmp_path):
    train(tmp_path)
    with pytest.raises(ValueError, match=r"best.pt in the same folder holds the weights"):
        load_weights_file(tmp_path / "checkpoints" / "last.pt")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_weights_file(tmp_path / "nowhere.pt")


def test_full_disk_raises_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    config = plain_config(checkpoint_minutes=0.0)
    train(tmp_path / "whole", config)
    real, calls = torch.save, []

    def full(content, file):
        calls.append(1)
        if len(calls) == 4:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(content, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        CheckpointError, match=r"last.pt could not be written: the disk is full; the previous file is intact"
    ):
        train(tmp_path / "full", config)
    assert last(tmp_path / "full")["progress"]["step"] == 2
    assert not list((tmp_path / "full").rglob("*.part*"))
    train(tmp_path / "full", config)
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "full"))


def test_failed_write_inside_torch_is_reported_as_a_full_disk(tmp_path):
    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self):
            pass

    path = tmp_path / "x.pt"
    with pytest.raises(OSError, match="the disk is full; there was no previous file") as caught:
        write_bytes(path, lambda file: torch.save({"a": torch.zeros(9)}, Full()))
    assert caught.value.errno == errno.ENOSPC
    assert not path.exists()


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fifteen_kills_and_five_signals_at_random_moments_change_nothing(tmp_path):
    script = Path(__file__).with_name("killed_runs.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with open(tmp_path / "out", "w+") as out:  # not a pipe, which orphaned workers would keep open for seconds
        command = [sys.executable, str(script), str(tmp_path), "15", "5", "20261122"]
        done = subprocess.run(command, stdout=out, stderr=out, env=environment, timeout=300)
        out.seek(0)
        text = out.read()
    assert done.returncode == 0, text
    assert "killed 15 times and stopped 5 times" in text
