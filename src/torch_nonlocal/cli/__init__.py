"""The `nonlocal` command; one file a sub-command."""

import sys


def main() -> None:
    """Entry point: user mistakes end in one line and exit code 2, not in a traceback."""
    try:
        from torch_nonlocal.cli.app import run
    except ImportError as error:
        sys.exit(f"nonlocal: {error.name or error} is missing: pip install 'torch-nonlocal[cli]'")
    run()
