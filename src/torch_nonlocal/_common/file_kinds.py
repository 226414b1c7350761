"""What a file is that was taken for weights."""

from collections.abc import Collection
from pathlib import Path

_MAGIC = (
    (0, b"\x89HDF\r\n", "an HDF5 file (Keras or h5py)"),
    (0, b"\x93NUMPY", "a NumPy .npy file"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x1f\x8b", "a gzip archive; unpack it first"),
    (0, b"BZh", "a bzip2 archive; unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
    (257, b"ustar", "a tar archive, or a checkpoint of a PyTorch older than 0.1.10"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (4, b"ftyp", "an MP4 video"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x7fELF", "a program"),
    (0, b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the file itself"),
)


def describe(path: Path, head: bytes) -> str | None:
    """The kind of a file in words, from its first bytes; None if unknown or if it looks like a checkpoint.

    Args:
        path: the file.
        head: its first 512 bytes, or fewer.
    """
    for offset, magic, kind in _MAGIC:
        if head[offset:].startswith(magic):
            return kind
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "an HTML or XML page, such as the error page of a failed download"
    return "a text file" if _is_text(head) else None


def describe_records(names: Collection[str]) -> str | None:
    """The kind of a zip archive in words, from the names of its records; None if it looks like a checkpoint."""
    last_parts = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in last_parts:
        return "a TorchScript archive; save its state_dict() with torch.save"
    if "data.pkl" in last_parts:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy .npz archive"
    return "a zip archive without a checkpoint"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("ascii")
    except UnicodeDecodeError:
        return False
    return len(text) > 4 and all(char.isprintable() or char in "\n\r\t" for char in text) and " " in text
