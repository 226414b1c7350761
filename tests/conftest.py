"""Signals as an interactive shell sets them, however the tests were started."""

import signal

import pytest


@pytest.fixture(scope="session", autouse=True)
def usual_signals():
    """A background job of a shell starts with SIGINT ignored, and training respects ignored signals."""
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
        (getattr(signal, "SIGHUP", signal.SIGTERM), signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)
