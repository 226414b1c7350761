"""Tasks that are registered for a test."""

import pytest

from torch_nonlocal.tasks import base


@pytest.fixture
def register(monkeypatch, tmp_path):
    """A function that registers a task, and an empty working folder."""
    monkeypatch.chdir(tmp_path)

    def registered(spec):
        monkeypatch.setitem(base._registered, spec.name, spec)
        return spec

    return registered
