"""Folders that commands write to."""

from pathlib import Path


def check_folder(out: Path) -> None:
    """Refuse a name that cannot become a folder, before long work.

    Raises:
        ValueError: it is a file.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: expected a folder, or a name that is free")
