"""What a user reads of an error: one line, not a traceback."""

import sys

import pytest

pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")

from torch_nonlocal.cli import app
from torch_nonlocal.training.errors import NonFiniteLossError

WORKER = """Caught BrokenVideoError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "worker.py", line 1, in fetch
torch_nonlocal.media.broken.BrokenVideoError: 'a.mp4' is damaged: frame 3 cannot be decoded
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("crop=-3: expected 1 pixel or more"), "crop=-3: expected 1 pixel or more"),
        (ValueError(WORKER), "'a.mp4' is damaged: frame 3 cannot be decoded"),
        (FileExistsError(17, "File exists", "afile"), "[Errno 17] File exists: 'afile'"),
        (NonFiniteLossError("the loss is nan in step 2", step=2, items=[]), "the loss is nan in step 2"),
    ],
    ids=["a value", "in a worker", "a file", "a loss"],
)
def test_mistakes_and_events_end_in_one_line(error, said, monkeypatch, capsys):
    def fail(arguments):
        raise error

    monkeypatch.setattr(app, "app_for", fail)
    monkeypatch.setattr(sys, "argv", ["nonlocal", "train"])
    with pytest.raises(SystemExit) as ended:
        app.run()
    assert ended.value.code == 2
    assert capsys.readouterr().err.split() == ["nonlocal:", *said.split()]


def test_a_mistake_in_the_program_keeps_its_traceback(monkeypatch):
    def fail(arguments):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(app, "app_for", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        app.run()
