"""A run folder belongs to one training at a time and to one set of data, and its best weights are what it says."""

import json
import os
import signal
import time

import pytest
import torch
from tiny_training import TinyClips, TinyTask, last, network, plain_config, same_state, train

from torch_nonlocal._common import files
from torch_nonlocal._common.locks import FolderInUseError, locked
from torch_nonlocal.training import fit, load_weights_file

pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[train]'")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class NamedClips(TinyClips):
    """Clips with a name and a size each."""

    def __init__(self, sizes, **options):
        super().__init__(len(sizes), **options)
        self.sizes = sizes

    def fingerprint(self):
        return self.sizes


class HeldOut(TinyTask):
    """`NamedClips` with held-out items."""

    def __init__(self, sizes, held_out, **options):
        super().__init__(network(), NamedClips(sizes), **options)
        self.held_out = held_out

    def fingerprint(self):
        return {**super().fingerprint(), "held out": self.held_out}


SIZES = {f"clip{number}.mp4": 100 + number for number in range(13)}
HELD_OUT = {"h1.mp4": 7, "h2.mp4": 8}


def forked(action):
    """Start a process that calls `action` and exits with 0."""
    process = os.fork()
    if not process:
        try:
            torch.set_num_threads(1)
            action()
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
    return process


def exit_code(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sleep_in_lock(path):
    with locked(path, "training"):
        (path.parent / "locked").touch()
        time.sleep(60)


@needs_fork
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_second_training_is_refused_until_the_first_ends(tmp_path, number):
    train(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    holder = forked(lambda: sleep_in_lock(tmp_path / "run.lock"))
    wait_for((tmp_path / "locked").exists)
    with pytest.raises(
        FolderInUseError, match=rf"in use by another training: process {holder} on '.+', since 20"
    ) as error:
        train(tmp_path)
    assert "\n" not in str(error.value)
    assert all(path.read_bytes() == content for path, content in before.items())
    os.kill(holder, number)
    exit_code(holder)
    assert (tmp_path / "run.lock").exists(), "a killed process leaves the file behind"
    assert train(tmp_path)[0].status == "finished before"
    assert not (tmp_path / "run.lock").exists()


@needs_fork
def test_children_of_a_killed_training_do_not_keep_its_lock(tmp_path):
    def with_a_child():
        with locked(tmp_path / "run.lock", "training"):
            forked(lambda: time.sleep(60))
            (tmp_path / "locked").touch()
            time.sleep(60)

    holder = forked(lambda: (os.setsid(), with_a_child()))
    wait_for((tmp_path / "locked").exists)
    os.kill(holder, signal.SIGKILL)
    exit_code(holder)
    with locked(tmp_path / "run.lock", "training"):
        pass
    os.killpg(holder, signal.SIGKILL)


def test_a_full_disk_does_not_prevent_a_lock(tmp_path, monkeypatch):
    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with locked(tmp_path / "run.lock", "training"):
        monkeypatch.undo()
        with (
            pytest.raises(FolderInUseError, match="a process that has just started"),
            locked(tmp_path / "run.lock", "x"),
        ):
            pass


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
def test_what_is_no_lock_file_is_refused_and_a_link_is_not_followed(tmp_path, kind):
    other, path = tmp_path / "other.txt", tmp_path / "run" / "run.lock"
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(other)
    if kind != "link to nothing":
        other.write_text("unchanged")
    with (
        pytest.raises(ValueError, match=r"run\.lock is not a regular file: expected a lock file, or none"),
        locked(path, "run"),
    ):
        pass
    assert os.path.lexists(path)
    assert not other.exists() if kind == "link to nothing" else other.read_text() == "unchanged"


@needs_fork
def test_one_of_many_processes_gets_the_lock_at_a_time(tmp_path):
    def take_turns():
        taken = 0
        while taken < 30:
            try:
                with locked(tmp_path / "run" / "run.lock", "training"):
                    handle = os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL)  # fails if another is inside
                    os.close(handle)
                    (tmp_path / "inside").unlink()
                    taken += 1
            except FolderInUseError:
                time.sleep(0.001)

    assert [exit_code(process) for process in [forked(take_turns) for _ in range(4)]] == [0, 0, 0, 0]


def test_errors_before_a_run_leave_no_folder(tmp_path):
    with pytest.raises(ValueError, match="fewer than one batch"):
        train(tmp_path / "run", data=TinyClips(3))
    data = NamedClips(SIZES)
    data.fingerprint = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


@needs_fork
def test_savers_of_one_file_never_collide(tmp_path):
    path = tmp_path / "last.pt"

    def save(value):
        for _ in range(40):
            files.write_bytes(path, lambda file: torch.save(torch.full((500,), value), file))

    processes = [forked(lambda value=value: save(value)) for value in range(3)]
    wait_for(path.exists)
    for _ in range(100):
        assert torch.load(path, weights_only=True).unique().numel() == 1, "a reader never sees a mixture"
    assert [exit_code(process) for process in processes] == [0, 0, 0]
    assert [one.name for one in tmp_path.iterdir()] == ["last.pt"]


CHANGED_DATA = [
    ({**SIZES, "new.mp4": 5}, HELD_OUT, r"training: 1 added \(new.mp4\)"),
    ({k: v for k, v in SIZES.items() if k != "clip3.mp4"}, HELD_OUT, r"training: 1 removed \(clip3.mp4\)"),
    ({**SIZES, "clip4.mp4": 99}, HELD_OUT, r"training: 1 changed \(clip4.mp4\)"),
    (dict(reversed(SIZES.items())), HELD_OUT, "training: the same items in another order"),
    (SIZES, {"h1.mp4": 7}, r"held out: 1 removed \(h2.mp4\)"),
    (SIZES, {}, r"held out: 2 removed \(h1.mp4, h2.mp4\)"),
    (
        {("h1.mp4" if k == "clip5.mp4" else k): v for k, v in SIZES.items()},
        {"h2.mp4": 8, "clip5.mp4": 105},
        r"training: 1 added \(h1.mp4\), 1 removed \(clip5.mp4\); held out: 1 added \(clip5.mp4\), "
        r"1 removed \(h1.mp4\); 1 moved from training to held out \(clip5.mp4\); "
        r"1 moved from held out to training \(h1.mp4\)\. Use the same",
    ),
    ({f"other{i}": i for i in range(13)}, HELD_OUT, r"13 added \(other0, other1, other2 and 10 more\), 13 removed"),
]


@pytest.mark.parametrize(("sizes", "held_out", "message"), CHANGED_DATA)
def test_other_data_are_refused_with_what_differs(tmp_path, sizes, held_out, message):
    config = plain_config()
    fit(HeldOut(SIZES, HELD_OUT), config, tmp_path, log=lambda text: None)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=message):
        fit(HeldOut(sizes, held_out), config, tmp_path, log=lambda text: None)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert fit(HeldOut(SIZES, HELD_OUT), config, tmp_path, log=lambda text: None).status == "finished before"


def test_run_without_a_list_of_items_resumes(tmp_path):
    """As earlier versions left it."""
    train(tmp_path, data=NamedClips(SIZES))
    (tmp_path / "data.json").unlink()
    assert train(tmp_path, data=NamedClips({f"other{i}": i for i in range(13)}))[0].status == "finished before"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"items": 3}', '{"items": {"training": 3}}', "[" * 100_000])
def test_damaged_list_of_items_raises(tmp_path, content):
    train(tmp_path)
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(ValueError, match=r"data.json is damaged; restore it, or delete it"):
        train(tmp_path)


def damage(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        torch.save({**torch.load(path, weights_only=True), "step": 1}, path)


@pytest.mark.parametrize(
    ("how", "message"), [("missing", "is missing"), ("cut", "is damaged"), ("other", "is of step 1, expected")]
)
def test_lost_best_weights_of_a_finished_run_are_evaluated_again(tmp_path, how, message):
    config, messages = plain_config(eval_every=2), []
    first, _ = train(tmp_path, config)
    state = last(tmp_path)
    damage(first.weights, how)
    result, _ = train(tmp_path, config, log=messages.append)
    assert any(f"best.pt {message}" in line and "the next evaluation replaces it" in line for line in messages)
    assert (result.status, result.best["step"]) == ("finished", 6)
    held = load_weights_file(result.weights)
    assert (held["step"], held["metrics"]["accuracy"]) == (6, result.best["value"])
    assert same_state(last(tmp_path)["model"], state["model"])
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
        if '"validation"' in line
    ]
    assert steps == [2, 4, 6]
    assert train(tmp_path, config)[0].status == "finished before"


def test_best_weights_lost_during_a_run_are_replaced_by_the_next_evaluation(tmp_path):
    accuracies = iter((0.9, 0.5))

    def evaluate(model):
        value = next(accuracies)
        if value == 0.5:
            damage(tmp_path / "checkpoints" / "best.pt", "cut")
        return {"accuracy": value}

    result, _ = train(tmp_path, evaluate=evaluate)
    assert result.best == {"step": 6, "metric": "accuracy", "value": 0.5}
    assert load_weights_file(result.weights)["metrics"] == {"accuracy": 0.5}
