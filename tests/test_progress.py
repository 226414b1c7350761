"""The progress bar draws on a terminal alone, and only with rich."""

import pytest

from torch_nonlocal._common import heartbeat, progress
from torch_nonlocal._common.progress import ProgressBar


class TestOnATerminal:
    @pytest.fixture(autouse=True)
    def terminal(self, monkeypatch):
        pytest.importorskip("rich", reason="pip install 'torch-nonlocal[cli]'")
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("TTY_COMPATIBLE", "1")

    def test_counter_unit_values_and_lines_are_shown(self, capsys):
        with ProgressBar("train [a]", 8, unit="steps", done=2, values=("loss",)) as bar:
            assert bar.visible
            bar.update(5, loss=0.25)
            bar.print("a line [b]")
            bar.advance()
        printed = capsys.readouterr().err
        assert "a line [b]" in printed
        assert "train [a]" in printed
        assert "6/8 steps loss 0.250" in printed

    def test_total_and_description_may_come_later(self, capsys):
        with ProgressBar("") as bar:
            bar.update(3, 10, description="reading")
        printed = capsys.readouterr().err
        assert "reading" in printed
        assert "3/10" in printed


def test_nothing_is_drawn_elsewhere(capsys):
    with ProgressBar("train", 8) as bar:
        bar.update(5)
        assert not bar.visible
    assert capsys.readouterr() == ("", "")


def test_nothing_is_drawn_without_rich(monkeypatch, capsys):
    monkeypatch.setattr(progress, "is_installed", lambda name: False)
    with ProgressBar("train", 8, values=("loss",)) as bar:
        bar.update(5, 9, loss=0.5)
        bar.advance()
        bar.print("a line")
        assert not bar.visible
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("done", "seconds", "line"),
    [
        (0, 8.0, "predict: 0/40 views after 0:00:08"),
        (10, 20.0, "predict: 10/40 views, 0.5 per second, 0:01:00 left"),
    ],
)
def test_without_a_terminal_a_line_tells_how_far_the_work_is(monkeypatch, capsys, done, seconds, line):
    now = [50.0]
    monkeypatch.setattr(heartbeat, "_LOOK", 3600.0)  # the thread does not look; the test calls `beat`
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with ProgressBar("predict", unit="views") as bar:
        bar.update(done, total=40)
        now[0] += seconds
        bar._heartbeat.beat()
    assert capsys.readouterr().err.splitlines() == [line]
