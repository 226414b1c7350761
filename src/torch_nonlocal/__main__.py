"""`python -m torch_nonlocal`: the `nonlocal` command, for launchers that start modules."""

from torch_nonlocal.cli import main

if __name__ == "__main__":
    main()
