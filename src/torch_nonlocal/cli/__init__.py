"""The `nonlocal` command; one file per sub-command. No module of this package imports torch before a command runs."""

from torch_nonlocal.cli.entry import main

__all__ = ["main"]
