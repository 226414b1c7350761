"""Workers survive signals to the process group, and are replaced or named when they are killed."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch
from tiny_training import TinyClips, TinyTask, accuracy, last, network, plain_config, same_state, train
from torch.utils.data import DataLoader

from torch_nonlocal._common.workers import STOP_SIGNALS, WorkerBatches, WorkerError, ignore_stop_signals
from torch_nonlocal.training import fit
from torch_nonlocal.training.signals import StopRequest

pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[train]'")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Numbers:
    """Items 0 to 19; `act` is called in the worker with each index before it is read."""

    def __init__(self, act=lambda index: None):
        self.act = act

    def __len__(self):
        return 20

    def __getitem__(self, index):
        self.act(index)
        return index


def batches(data, workers=2, **options):
    def loader_from(number):
        rest = torch.utils.data.Subset(data, range(2 * number, 20))
        return DataLoader(rest, batch_size=2, num_workers=workers, worker_init_fn=ignore_stop_signals)

    return WorkerBatches(loader_from, **options)


def once(path, number=signal.SIGKILL, at=9):
    """Send this process a signal at one item, the first time it is read."""

    def act(index):
        if index == at and not path.exists():
            path.touch()
            os.kill(os.getpid(), number)

    return act


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_killed_worker_is_replaced_and_each_batch_comes_once(tmp_path, number):
    lines = []
    with batches(Numbers(once(tmp_path / "killed", number)), warn=lines.append) as found:
        assert torch.cat(list(found)).tolist() == list(range(20))
    assert len(lines) == 1
    assert lines[0].startswith("a worker that loads data (process ")
    assert lines[0].endswith(f") was killed by {number.name}; it is replaced")
    assert not multiprocessing.active_children()


def test_worker_that_exits_is_replaced(tmp_path):
    def leave(index):
        if index == 9 and not (tmp_path / "left").exists():
            (tmp_path / "left").touch()
            os._exit(3)

    lines = []
    with batches(Numbers(leave), warn=lines.append) as found:
        assert torch.cat(list(found)).tolist() == list(range(20))
    assert lines[0].endswith("exited with code 3; it is replaced")


def test_workers_that_die_again_and_again_are_named_in_one_line():
    def die(index):
        if index == 9:
            os.kill(os.getpid(), signal.SIGKILL)

    given = []
    with (
        pytest.raises(
            WorkerError, match=r"died 3 times before batch \d; .*was killed by SIGKILL\. If memory is short"
        ) as error,
        batches(Numbers(die), warn=lambda line: None) as found,
    ):
        given += found
    assert "\n" not in str(error.value)
    assert torch.cat(given).tolist() == list(range(2 * len(given))), "no wrong data before"
    assert not multiprocessing.active_children()


def test_worker_killed_while_the_main_process_computes_is_noticed_at_the_next_batch():
    lines = []
    with batches(Numbers(), warn=lines.append) as found:
        given = [next(found)]
        victim = multiprocessing.active_children()[0]
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        time.sleep(0.1)  # the signal of its end arrives here, and raises nothing
        assert not lines
        given += list(found)
    assert torch.cat(given).tolist() == list(range(20))
    assert len(lines) == 1


def test_errors_of_the_data_are_raised_as_they_are():
    def fail(index):
        if index == 9:
            raise OSError("no such clip")

    with pytest.raises(OSError, match="no such clip"), batches(Numbers(fail)) as found:
        list(found)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_workers_ignore_signals_to_stop(number):
    with batches(Numbers(lambda index: os.kill(os.getpid(), number)), warn=pytest.fail) as found:
        assert torch.cat(list(found)).tolist() == list(range(20))


def test_worker_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)  # seconds that torch waits for it
    with batches(Numbers(lambda index: time.sleep(600 if index > 3 else 0))) as found:
        next(found)
    assert not multiprocessing.active_children()


def test_killed_worker_of_a_training_changes_nothing(tmp_path):
    config, lines = plain_config(workers=2, accumulate=2, eval_every=4), []
    train(tmp_path / "whole", config)
    act = once(tmp_path / "killed", at=5)
    data = TinyClips(on_read=lambda index, clip: (act(index), clip)[1])
    train(tmp_path / "broken", config, data=data, log=lines.append)
    assert sum("was killed by SIGKILL; it is replaced" in line for line in lines) == 1
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "broken"))


class Evaluates(TinyTask):
    """Evaluates through a plain loader with workers, to whose first item `act` happens."""

    def __init__(self, act):
        super().__init__(network(), TinyClips())
        self.act = act

    def evaluate(self, model):
        list(DataLoader(Numbers(self.act), num_workers=1))
        return accuracy(model)


def test_signal_that_ends_workers_of_an_evaluation_stops_the_run_and_the_evaluation_is_repeated(tmp_path):
    main = os.getpid()

    def act(index):
        os.kill(main, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    lines = []
    result = fit(Evaluates(act), plain_config(), tmp_path / "run", log=lines.append)
    assert (result.status, result.step) == ("stopped", 3)
    assert lines[-1] == "interrupted in the validation after 3 steps; rerun the command to resume"
    fit(Evaluates(lambda index: None), plain_config(), tmp_path / "run", log=lambda text: None)
    fit(Evaluates(lambda index: None), plain_config(), tmp_path / "whole", log=lambda text: None)
    assert same_state(last(tmp_path / "whole"), last(tmp_path / "run"))


def test_later_signal_has_its_usual_effect_and_one_at_once_counts_as_the_same(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # a launcher passes the same event on
        assert request.requested
        now[0] += 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not request.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_training_in_another_thread_loads_with_workers(tmp_path):
    thread = threading.Thread(target=train, args=(tmp_path, plain_config(workers=1)))
    thread.start()
    thread.join()
    assert last(tmp_path)["progress"]["finished"]
