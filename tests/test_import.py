"""Importing the package brings nothing but torch and the standard library, and costs little."""

import json
import subprocess
import sys

PROBE = """
import json, sys
import torch
before = set(sys.modules)
import torch_nonlocal
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before})))
"""


def test_import_brings_only_torch_and_the_standard_library():
    result = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    brought = set(json.loads(result.stdout)) - set(sys.stdlib_module_names)
    assert brought <= {"torch", "torch_nonlocal"}


def test_all_public_names_exist():
    import torch_nonlocal

    assert all(hasattr(torch_nonlocal, name) for name in torch_nonlocal.__all__)
