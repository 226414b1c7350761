"""Optional packages of the tests of other tools."""

import importlib
import os
from typing import Any

import pytest


def package(name: str) -> Any:
    """Import a package, or skip the test if it is not installed. In CI, a missing package is a failure."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] != name.split(".")[0]:
            raise
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed; .ci/run installs it")
        pytest.skip(f"{name} is not installed: pip install -e '.[dev,ecosystem]'")
