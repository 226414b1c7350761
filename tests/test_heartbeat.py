"""Lines about work in progress: when they are printed."""

import threading

import pytest

from torch_nonlocal._common import heartbeat
from torch_nonlocal._common.heartbeat import Heartbeat, duration


@pytest.fixture
def printed_at(monkeypatch):
    """The seconds after the start at which a heartbeat, asked at these moments, prints."""

    def run(moments, *, lines=(), messages=(), line="busy"):
        now, found = [100.0], []
        monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
        beat = Heartbeat(lambda: line, lambda text: found.append((now[0] - 100, text)))
        for moment in moments:
            now[0] = 100.0 + moment
            if moment in lines:
                beat.print("a line")
            if moment in messages:
                beat.print("a message", progress=False)
            beat.beat()
        return [moment for moment, text in found if text == line]

    return run


def test_a_line_comes_after_eight_seconds_and_then_every_thirty(printed_at):
    assert printed_at(range(100)) == [8, 38, 68, 98]


def test_a_line_about_progress_postpones_the_next_one_and_a_message_does_not(printed_at):
    assert printed_at(range(60), lines=(5, 20)) == [50]
    assert printed_at(range(60), messages=(5, 20)) == [8, 38]


def test_an_empty_line_is_not_printed(printed_at):
    assert printed_at(range(60), line="") == []


def test_the_line_comes_while_the_work_does_not_return(monkeypatch):
    monkeypatch.setattr(heartbeat, "FIRST", 0.0)
    monkeypatch.setattr(heartbeat, "_LOOK", 0.001)
    came = threading.Event()
    with Heartbeat(lambda: "busy", lambda text: came.set()):
        assert came.wait(10)
    assert not any(thread.name == "progress lines" for thread in threading.enumerate())


def test_durations_are_hours_minutes_and_seconds():
    assert [duration(seconds) for seconds in (0, 9.6, 200, 7325)] == ["0:00:00", "0:00:10", "0:03:20", "2:02:05"]
