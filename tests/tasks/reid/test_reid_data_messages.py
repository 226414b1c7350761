"""Messages of `nonlocal train reid` about its data, before anything else is printed."""

from pathlib import Path

import pytest

for package in ("tyro", "rich", "accelerate", "av", "pytorch_metric_learning", "sklearn", "timm", "torchvision"):
    pytest.importorskip(package, reason="pip install 'torch-nonlocal[reid]'")

from torch_nonlocal.cli import main  # noqa: E402


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--seeds", "2"]])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my-sett", "there is no folder or table 'my-sett'; did you mean 'my-set'?"),
        (
            "walk.mp4",
            "'walk.mp4' is a video, one tracklet: `nonlocal gallery build` and `add` store it with --identity NAME; ",
        ),
        ("my-set", "'my-set' has no known layout; it is empty"),
    ],
)
def test_data_that_are_no_set_are_named_before_the_settings(
    tmp_path: Path, monkeypatch, capsys, name: str, message: str, options: list[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-set").mkdir()
    (tmp_path / "walk.mp4").write_bytes(b"x")
    with pytest.raises(SystemExit):
        main(["train", "reid", "--data", name, *options])
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""
    assert not (tmp_path / "runs").exists()
