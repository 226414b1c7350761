"""Importing the package imports neither torch nor optional packages; public names are imported on first use."""

import json
import subprocess
import sys

import pytest

import torch_nonlocal

PROBE = """
import json, sys
import torch_nonlocal
alone = sorted({name.split(".")[0] for name in sys.modules})
import torch
before = set(sys.modules)
for name in torch_nonlocal.__all__:
    if name != "view":
        getattr(torch_nonlocal, name)
print(json.dumps([alone, sorted({name.split(".")[0] for name in set(sys.modules) - before})]))
"""


@pytest.fixture(scope="module")
def imported():
    """Top-level packages that `import torch_nonlocal` imports, and those that its public names add to torch."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    return [set(names) - set(sys.stdlib_module_names) for names in json.loads(done.stdout)]


def test_the_import_alone_does_not_import_torch(imported):
    assert "torch_nonlocal" in imported[0]
    assert not imported[0] & {"torch", "numpy", "tyro", "rich", "av", "PIL", "matplotlib"}


def test_public_names_need_torch_alone(imported):
    assert imported[1] <= {"torch", "torch_nonlocal", "triton"}  # torch imports triton where it is installed


@pytest.mark.parametrize("name", torch_nonlocal.__all__)
def test_public_names_exist_and_are_listed(name):
    assert getattr(torch_nonlocal, name) is not None
    assert name in dir(torch_nonlocal)


def test_unknown_names_raise_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'torch_nonlocal' has no attribute 'inser'"):
        _ = torch_nonlocal.inser
