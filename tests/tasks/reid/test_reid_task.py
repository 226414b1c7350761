"""Training and testing of re-identification, and the commands that use it, on miniatures of MARS."""

import csv
import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

for package in ("accelerate", "numpy", "PIL.Image", "pytorch_metric_learning", "rich", "torchvision", "tyro"):
    pytest.importorskip(package, reason="pip install 'torch-nonlocal[reid]'")
sys.path.insert(0, str(Path(__file__).parents[2] / "data" / "tracklets"))

import miniatures  # noqa: E402
import numpy as np  # noqa: E402

import torch_nonlocal as nl  # noqa: E402
from torch_nonlocal.cli import main  # noqa: E402
from torch_nonlocal.media.frame_folders import read_picture  # noqa: E402
from torch_nonlocal.tasks.reid import task as reid_task  # noqa: E402
from torch_nonlocal.tasks.reid.clips import TrackletViews, TrainingClips  # noqa: E402
from torch_nonlocal.tasks.reid.data import training_data  # noqa: E402
from torch_nonlocal.tasks.reid.settings import ReidSettings, ReidTestOptions  # noqa: E402
from torch_nonlocal.tasks.reid.trained_on import digests_of, tracklet_digest  # noqa: E402
from torch_nonlocal.training import load_weights_file  # noqa: E402

NETWORK = """
import torch
from torch import nn

def maps():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
    network.inputs = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    return network
"""
WORDS = [
    "--frames=uniform-2",
    "--height=16",
    "--width=8",
    "--pad=1",
    "--per-identity=2",
    "--batch-size=4",
    "--workers=0",
]
TEST = ["--workers", "0", "--views", "1", "--pictures", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A miniature of MARS with a network of a file, and a run of three steps on it."""
    folder = tmp_path_factory.mktemp("reid")
    mars(folder / "mars")
    miniatures.prid450s(folder / "pairs8", persons=8)
    (folder / "net.py").write_text(NETWORK)
    train(folder, "run", "--steps=3", "--held-out=0.34")
    return folder


def mars(root):
    """A miniature of MARS whose queries are those of camera 1, so that the common protocol keeps their matches."""
    miniatures.mars(root, train=6, test=4)
    miniatures.matlab(root / "info/query_IDX.mat", query_IDX=[[3, 5, 7, 9]])  # junk, distractor, then the identities
    return root


def train(folder, name, *words, data="mars"):
    network = f"--network={folder / 'net.py'}:maps"
    options = [network, "--non-local", "3", *WORDS, *words]
    main(
        ["train", "reid", "--data", str(folder / data), "--out", str(folder / name), "--recipe", "reid-small", *options]
    )


def rank(folder, name, out, *words, data="mars"):
    network = f"--network={folder / 'net.py'}:maps"
    main(["test", "reid", str(folder / name), "--data", str(folder / data), "--out", str(out), network, *TEST, *words])


def test_training_writes_the_best_weights_by_the_held_out_identities(folder):
    content = load_weights_file(folder / "run" / "checkpoints" / "best.pt")
    assert content["about"]["task"] == "reid"
    assert content["about"]["identities"] == 4  # two of six are held out
    assert content["about"]["split"] == 0
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if "mAP" in str(line)]
    assert evaluated
    assert len(content["extra"]["trained_on"]) == 8  # two tracklets of each identity


def test_a_test_scores_both_protocols_and_lists_the_ranking(folder, tmp_path, capsys):
    rank(folder, "run", tmp_path / "out")
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert set(scores["scores"]) == {"official", "common"}
    assert scores["verification"]["same_pairs"] > 0
    chosen = scores["verification"]["chosen"]
    assert chosen["at_most"] == 0.01
    printed = capsys.readouterr().out
    pairs, unknown = scores["verification"]["different_pairs"], scores["open_set"]["unknown"]
    for what, number in (("pairs of different", pairs), ("queries of unknown", unknown)):
        few = f"--false-accept 0.01: of {number} {what} identities, the threshold accepts none; rates below"
        assert f"{few} {1 / number:.2g} cannot be measured" in printed
    assert f"similarity \u2265 {1 - chosen['threshold']:.4f} accepts" in printed
    found = next(one for one in scores["open_set"]["operating_points"] if one["at_most"] == 0.01)
    rates = (
        f"{found['detection_rate']:.1%} of the enrolled are found, {found['false_positive_rate']:.2%} of the unknown"
    )
    assert f"half of the identities not in the gallery: {rates} are accepted" in printed
    assert "official" in printed
    assert "common" in printed
    rows = list(csv.DictReader((tmp_path / "out" / "rankings.csv").open()))
    assert {row["protocol"] for row in rows} == {"official"}
    tracklets = {row["match_identity"] for row in rows}
    assert not {"-1", "00-1"} & tracklets  # junk is not ranked
    assert rows[0]["rank"] == "1"
    for row in rows:
        assert (row["right"] == "yes") == (row["identity"] == row["match_identity"])
        assert row["query"] != row["match"]


def test_identities_that_were_trained_on_are_left_out_unless_asked_for(folder, tmp_path, capsys):
    copy = folder / "leak"
    mars(copy)
    digests = set(load_weights_file(folder / "run" / "checkpoints" / "best.pt")["extra"]["trained_on"])
    source = training_data(folder / "mars", ReidSettings(height=16, width=8, held_out=0.34), 0).source
    assert tracklet_digest(source, 0) in digests
    known = source.tracklets[0]
    own = sorted((copy / "bbox_test" / "0007").glob("0007C1T0001*"))
    assert len(own) == len(known.files)
    for name, picture in zip(known.files, own, strict=True):
        shutil.copy(known.folder / name, picture)  # the first test identity is now one that was trained on
    rank(folder, "run", tmp_path / "out", data="leak")
    assert "left out, since trained on: 1 identity: 0007" in capsys.readouterr().out
    rank(folder, "run", tmp_path / "whole", "--whole", data="leak")
    assert "tested though the weights were trained on them: 1 identity: 0007" in capsys.readouterr().out


def test_identities_that_chose_the_weights_are_named(folder, tmp_path, capsys):
    training = training_data(folder / "mars", ReidSettings(height=16, width=8, held_out=0.34), 0)
    held_out = training.validation.source
    content = load_weights_file(folder / "run" / "checkpoints" / "best.pt")
    assert content["extra"]["chosen_on"] == digests_of(held_out)
    data = mars(tmp_path / "mars")
    known = held_out.tracklets[0]
    own = sorted((data / "bbox_test" / "0007").glob("0007C1T0001*"))
    for name, picture in zip(known.files, own, strict=True):
        shutil.copy(known.folder / name, picture)
    rank(folder, "run", tmp_path / "out", data=data)
    assert "chose the best weights: 1 identity: 0007" in capsys.readouterr().out
    notes = json.loads((tmp_path / "out" / "scores.json").read_text())["notes"]
    assert any(note.startswith("chose the best weights") for note in notes)


def test_what_initial_weights_were_trained_on_counts_as_trained_on(folder):
    first = folder / "run" / "checkpoints" / "best.pt"
    train(folder, "again", "--steps=1", "--held-out=0", f"--weights={first}", "--frames=uniform-1", data="pairs8")
    known, both = (load_weights_file(folder / name / "checkpoints" / "best.pt")["extra"] for name in ("run", "again"))
    own = set(digests_of(training_data(folder / "pairs8", ReidSettings(held_out=0.0), 0).source))
    assert known["trained_on"]
    assert own
    assert set(both["trained_on"]) == {*known["trained_on"], *own}
    assert both["chosen_on"] == known["chosen_on"]


def test_a_run_that_failed_in_the_middle_ends_with_the_weights_of_an_uninterrupted_one(folder, monkeypatch):
    words = ["--steps=4", "--held-out=0", "--checkpoint-minutes=0"]
    train(folder, "whole", *words)
    calls = 0
    own = reid_task.ReidTask.loss

    def failing(self, model, batch):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("power cut")
        return own(self, model, batch)

    monkeypatch.setattr(reid_task.ReidTask, "loss", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        train(folder, "cut", *words)
    monkeypatch.setattr(reid_task.ReidTask, "loss", own)
    train(folder, "cut", *words)
    one, other = (load_weights_file(folder / name / "checkpoints" / "best.pt")["model"] for name in ("whole", "cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_trained_network_embeds_files_and_frames_alike(folder, capsys):
    model = nl.load(folder / "run", network=f"{folder / 'net.py'}:maps")
    assert (model.task, model.dimension) == ("reid", 8)
    assert model.inputs.size == (16, 8)
    files = sorted((folder / "mars" / "bbox_test" / "0007").glob("*C1T0001*"))
    tracklet = folder / "one"
    tracklet.mkdir(exist_ok=True)
    for file in files:
        shutil.copy(file, tracklet)
    frames = np.stack([read_picture(file).numpy() for file in files])
    from_files, from_frames = model.embed(tracklet), model.embed(frames)
    torch.testing.assert_close(from_files, from_frames)
    torch.testing.assert_close(from_files.norm(), torch.tensor(1.0))
    assert model.embed([tracklet, files[0]]).shape == (2, 8)

    main(["predict", str(folder / "run"), str(tracklet), str(files[0]), "--json", str(folder / "found.json"),
          "--csv", str(folder / "found.csv"), "--network", f"{folder / 'net.py'}:maps", "--workers", "0"])  # fmt: skip
    found = json.loads((folder / "found.json").read_text())["tracklets"]
    assert [one["tracklet"] for one in found] == [str(tracklet), str(files[0])]
    torch.testing.assert_close(torch.tensor(found[0]["embedding"]), from_files)
    similarity = float(from_files @ model.embed(files[0]))
    assert math.isclose(found[0]["similarity"], similarity, abs_tol=1e-5)
    table = list(csv.DictReader((folder / "found.csv").open()))
    assert float(table[0]["e7"]) == pytest.approx(float(from_files[7]), abs=1e-6)
    assert "most similar" in capsys.readouterr().out


def test_the_exported_program_returns_the_embeddings(folder):
    out = folder / "net.pt2"
    main(["export", str(folder / "run"), str(out), "--network", f"{folder / 'net.py'}:maps"])
    model = nl.load(folder / "run", network=f"{folder / 'net.py'}:maps")
    clips = torch.randn(3, 3, 5, 16, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.export.load(out).module()(clips), model(clips), rtol=1e-4, atol=1e-4)


@pytest.mark.extended
def test_the_exported_graph_returns_the_embeddings(folder):
    pytest.importorskip("onnxruntime", reason="pip install 'torch-nonlocal[export]'")
    import onnxruntime

    out = folder / "net.onnx"
    main(["export", str(folder / "run"), str(out), "--network", f"{folder / 'net.py'}:maps"])
    model = nl.load(folder / "run", network=f"{folder / 'net.py'}:maps")
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert (about["task"], about["dimension"], about["digest"]) == ("reid", "8", model.digest)
    clips = torch.randn(3, 3, 5, 16, 8, generator=torch.Generator().manual_seed(0))
    (found,) = session.run(["embeddings"], {"clips": clips.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(clips), rtol=1e-4, atol=1e-4)


def test_embeddings_that_are_not_finite_are_named_and_nothing_is_written(folder, tmp_path, capsys):
    content = torch.load(folder / "run" / "checkpoints" / "best.pt", weights_only=True)
    content["model"]["neck.weight"][:] = torch.finfo(torch.float32).max  # finite weights, infinite products
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save(content, tmp_path / "run" / "checkpoints" / "best.pt")
    with pytest.raises(SystemExit):
        main(["test", "reid", str(tmp_path / "run"), "--data", str(folder / "mars"), "--out", str(tmp_path / "out"),
              "--network", f"{folder / 'net.py'}:maps", *TEST])  # fmt: skip
    assert "embeddings with NaN or infinite values: 00" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_protocol_under_which_no_query_has_a_match_is_named_and_the_other_one_is_scored(folder, tmp_path, capsys):
    data = folder / "all"
    miniatures.mars(data, train=6, test=4)  # every tracklet is a query: nothing is left of the gallery
    rank(folder, "run", tmp_path / "out", data="all")
    assert "not scored: protocol 'common': none of 8 queries has a match" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "out" / "scores.json").read_text())["scores"]) == {"official"}


def test_a_broken_picture_is_skipped_and_counted_or_fails(folder, tmp_path, capsys):
    data = folder / "broken"
    mars(data)
    for picture in (data / "bbox_test" / "0007").glob("*C1*"):
        picture.write_bytes(b"no picture")
    rank(folder, "run", tmp_path / "out", data="broken")
    assert "tracklets that could not be read: 1" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        rank(folder, "run", tmp_path / "failed", "--on-error", "fail", data="broken")
    assert "cannot be read" in capsys.readouterr().err


def test_a_tracklet_of_which_one_clip_cannot_be_read_is_left_out(folder, tmp_path, capsys):
    data = folder / "half"
    mars(data)
    pictures = sorted((data / "bbox_test" / "0007").glob("*C1*"))
    pictures[0].write_bytes(b"no picture")  # four frames: one of the two clips reads it
    words = ["--views", "2", "--on-error", "skip"]
    rank(folder, "run", tmp_path / "out", *words, data="half")
    assert "tracklets that could not be read: 1" in capsys.readouterr().out
    queries = {row["query"] for row in csv.DictReader((tmp_path / "out" / "rankings.csv").open())}
    assert len(queries) == 3
    assert not any("0007" in query for query in queries)


def test_training_clips_are_flipped_shifted_and_erased_as_a_whole(folder):
    settings = ReidSettings(frames="uniform-2", height=16, width=8, pad=0, erase=0.0, flip=False)
    source = training_data(folder / "mars", settings, 0).source
    plain = TrainingClips(source, [0] * len(source.tracklets), settings)
    torch.manual_seed(0)
    clip, label, index = plain[3]
    assert (clip.shape, clip.dtype, label, index) == ((3, 2, 16, 8), torch.uint8, 0, 3)
    views = TrackletViews(source, [3], settings, views=1)[0]
    assert views is not None
    assert int(clip.float().sub(views[0].float()).abs().amax((0, 1))[2:, 2:].max()) <= 2  # other frames, one color
    flipped = replace(settings, flip=True)
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        one, _, _ = TrainingClips(source, [0] * len(source.tracklets), flipped)[3]
        seen.add(bool((one[:, :, 0, 7].int() - clip[:, :, 0, 7].int()).abs().max() > 8))
    assert seen == {True, False}
    erased = replace(settings, erase=1.0)
    torch.manual_seed(0)
    one, _, _ = TrainingClips(source, [0] * len(source.tracklets), erased, fill=(1, 2, 3))[3]
    gone = (one == torch.tensor([1, 2, 3]).view(3, 1, 1, 1)).all(0)
    assert torch.equal(gone[0], gone[1])  # the same rectangle in all frames
    assert 0.01 < float(gone.float().mean()) < 0.45


def test_runs_of_several_seeds_are_trained_and_tested_on_their_own_splits_and_averaged(folder, tmp_path, capsys):
    miniatures.prid450s(folder / "pairs", persons=8)
    train(folder, "ten", "--seeds=2", "--steps=1", "--held-out=0.5", "--frames=uniform-1", data="pairs")
    splits = [
        load_weights_file(folder / "ten" / f"seed-{seed}/checkpoints/best.pt")["about"]["split"] for seed in (0, 1)
    ]
    assert splits == [0, 1]
    capsys.readouterr()
    (folder / "ten" / "seed-2" / "checkpoints").mkdir(parents=True)  # a run that was interrupted at its start
    rank(folder, "ten", tmp_path / "out", data="pairs")
    printed = capsys.readouterr().out
    assert "left out, since trained on" not in printed
    average = json.loads((tmp_path / "out" / "average.json").read_text())
    values = [one["mAP_common"] for one in average["runs"].values()]
    assert average["average"]["mAP_common"]["mean"] == pytest.approx(sum(values) / 2)
    assert average["average"]["mAP_common"]["deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert "mean and standard deviation of 2 runs" in printed
    assert "left out, without trained weights: seed-2" in printed
    runs = [json.loads((tmp_path / "out" / f"seed-{seed}" / "scores.json").read_text())["scores"] for seed in (0, 1)]
    for rank_number in (1, 5, 10, 20):
        name = f"rank{rank_number}"
        expected = (runs[0]["common"][name] + runs[1]["common"][name]) / 2
        assert average["average"][f"{name}_common"]["mean"] == pytest.approx(expected)
        assert average["cmc"]["common"][rank_number - 1] == pytest.approx(expected)
    row = next(line.split() for line in printed.split("mean and standard")[1].splitlines() if "±" in line)
    spread = average["average"]["mAP_official"]
    assert row[:4] == ["official", f"{100 * spread['mean']:.1f}", "±", f"{100 * spread['deviation']:.1f}"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"network": "smal"}, "did you mean 'small'"),
        ({"temporal": "full"}, "expected frames or factorized"),
        ({"frames": "8"}, "expected FRAMESxSTRIDE"),
        ({"height": 4}, "height=4"),
        ({"held_out": 1.0}, "held_out=1.0"),
        ({"margin": -1.0}, "margin=-1.0: expected 0 to 1,000 or none"),
        ({"erase": 2.0}, "erase=2.0"),
        ({"frames": "uniform-256", "height": 2048}, "at most 16,777,216"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ReidSettings(**values)


def test_options_of_the_test_out_of_range_are_refused():
    with pytest.raises(ValueError, match="--false-accept 0"):
        ReidTestOptions(false_accept=0.0)
    with pytest.raises(ValueError, match="--views 0"):
        ReidTestOptions(views=0)


def test_more_identities_in_a_batch_than_in_the_data_are_named(folder, capsys):
    with pytest.raises(SystemExit):
        train(folder, "many", "--steps=1", "--batch-size=64")
    assert "a batch has 32 identities, the training data have" in capsys.readouterr().err


def test_built_in_persons_need_their_size():
    with pytest.raises(ValueError, match="built-in persons have frames of 48 x 24 pixels, the network takes 128 x 64"):
        training_data(None, ReidSettings(), 0)
