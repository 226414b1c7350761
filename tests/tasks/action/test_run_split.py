"""The split of a run: what a test scores, leaves out and refuses, and what a run resumes on."""

import dataclasses
import json
import shutil
from random import Random
from types import SimpleNamespace

import pytest
import torch

MODULES = {"av": "video", "accelerate": "train", "torchmetrics": "train", "torchvision": "train"}
for module, extra in MODULES.items():
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

from action_runs import CONFIG, SETTINGS, film, film_classes, train, use_tiny_networks  # noqa: E402 (after the skips)

from torch_nonlocal.data.clip_list import fingerprints  # noqa: E402
from torch_nonlocal.data.clips import find_clips  # noqa: E402
from torch_nonlocal.data.splits import assign  # noqa: E402
from torch_nonlocal.tasks.action.clips_to_test import clips_to_test  # noqa: E402
from torch_nonlocal.tasks.action.evaluation import evaluate  # noqa: E402
from torch_nonlocal.tasks.action.run_split import as_before, record_tensors, run_record, saved_record  # noqa: E402
from torch_nonlocal.training import load_weights_file  # noqa: E402

CLASSES = ("blue", "red")


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_networks(patch)
        yield


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """A run on a folder without splits, its data, and the names of the clips of each side."""
    root = film_classes(tmp_path_factory.mktemp("flat"), 8)
    run = tmp_path_factory.mktemp("run")
    result, _ = train(root, run)
    items = json.loads((run / "data.json").read_text())["items"]
    sides = {part: sorted(items[part]) for part in ("training", "held out")}
    assert len(sides["training"]) + len(sides["held out"]) == 16
    record = saved_record(load_weights_file(result.weights))
    kept = {"trained": sides["training"], "held": sides["held out"]}
    return SimpleNamespace(root=root, run=run, best=result.weights, record=record, **kept)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """A run on a folder with train, val and test."""
    root = tmp_path_factory.mktemp("split")
    for number, name in enumerate(("train", "val", "test")):
        film_classes(root / name, 3 - number, seed=1 + number)
    run = tmp_path_factory.mktemp("run")
    result, lines = train(root, run)
    record = saved_record(load_weights_file(result.weights))
    return SimpleNamespace(root=root, run=run, best=result.weights, record=record, lines=lines)


@pytest.fixture
def copied(flat, tmp_path):
    """The data of `flat`, to change."""
    return shutil.copytree(flat.root, tmp_path / "copy")


def chosen(run, data, **options):
    found = clips_to_test(data, CLASSES, run.record, **options)
    return sorted(found.clips.name(clip) for clip in found.clips.clips), found


class TestRecord:
    def test_weights_keep_the_split_of_each_clip(self, split):
        clips = {name: fingerprints(find_clips(split.root, name)) for name in ("train", "val", "test")}
        assert split.record == {one: name for name, prints in clips.items() for one in prints}

    def test_a_validation_folder_with_the_names_of_training_clips_stays_apart(self, tmp_path):
        root = film_classes(tmp_path / "data", 2)
        other = film_classes(tmp_path / "other", 1, seed=9)
        settings = dataclasses.replace(SETTINGS, val=str(other))
        trained, held = (set(fingerprints(find_clips(one))) for one in (root, other))
        for epochs in (1, 2):
            config = dataclasses.replace(CONFIG, epochs=epochs, extend=True)
            result, _ = train(root, tmp_path / "run", settings, config)
            record = saved_record(load_weights_file(result.weights))
            assert record == dict.fromkeys(trained, "train") | dict.fromkeys(held, "val")

    def test_a_record_survives_its_tensors(self):
        record = {"ab": "train", "name:ü": "train", "cd@1.5-2.5": "val", "ef": "test"}
        assert saved_record({"extra": {"split": record_tensors(record)}}) == record
        assert saved_record({"extra": {"split": record_tensors({})}}) == {}
        assert saved_record({}) is None

    @pytest.mark.parametrize("damage", [{}, {"train": 1}, dict.fromkeys(("train", "val", "test"), torch.tensor([255]))])
    def test_a_damaged_record_is_refused(self, damage):
        with pytest.raises(ValueError, match="the split of its clips is damaged"):
            saved_record({"extra": {"split": damage}})

    def test_clips_of_the_initial_weights_run_stay_trained_on(self, flat, copied, tmp_path):
        first = tmp_path / "first.pt"
        shutil.copy(flat.best, first)
        settings = dataclasses.replace(SETTINGS, weights=str(first))
        for name in flat.trained[:2]:
            (copied / name).unlink()
        result, _ = train(copied, tmp_path / "second", settings)
        assert saved_record(load_weights_file(result.weights)) == flat.record
        first.unlink()
        result, _ = train(copied, tmp_path / "second", settings, dataclasses.replace(CONFIG, epochs=2, extend=True))
        assert saved_record(load_weights_file(result.weights)) == flat.record


class TestChoice:
    def test_the_held_out_clips_are_tested_and_said_to_have_chosen_the_weights(self, flat):
        names, found = chosen(flat, flat.root)
        assert names == flat.held
        assert found.subset == "the held-out clips"
        assert found.notes == ("note: they chose the weights in training, so the scores are optimistic",)
        assert (found.trained_on, found.left_out) == ((), False)

    def test_trained_clips_are_recognized_under_other_names(self, flat, copied):
        for number, name in enumerate(flat.trained):
            (copied / name).rename(copied / name.replace(".mp4", f"-renamed{number}.mp4"))
        assert chosen(flat, copied)[0] == flat.held

    def test_new_clips_are_tested_with_the_held_out_ones(self, flat, copied):
        film(copied / "red" / "new.mp4", 77)
        names, found = chosen(flat, copied)
        assert names == sorted([*flat.held, "red/new.mp4"])
        assert f"note: {len(flat.held)} of them chose the weights" in found.notes[0]

    def test_other_data_are_tested_completely(self, flat, tmp_path):
        names, found = chosen(flat, film_classes(tmp_path, 2, seed=9))
        assert (len(names), found.subset, found.notes) == (4, "all clips", ())

    def test_only_trained_clips_are_refused(self, flat, copied):
        for name in flat.held:
            (copied / name).unlink()
        count = len(flat.trained)
        with pytest.raises(
            ValueError, match=f"the weights were trained on all {count} clips; --split train or --whole"
        ):
            chosen(flat, copied)

    @pytest.mark.parametrize("options", [{"whole": True}, {"split": "train"}])
    def test_trained_clips_are_tested_on_request_with_a_warning(self, flat, options):
        names, found = chosen(flat, flat.root, **options)
        assert names == (sorted(flat.trained + flat.held) if options.get("whole") else flat.trained)
        assert sorted(found.trained_on) == flat.trained
        assert not found.left_out
        warning = f"warning: the weights were trained on {len(flat.trained)} of {len(names)} clips"
        assert found.notes[0].startswith(warning)

    @pytest.mark.parametrize(
        ("given", "used"), [("auto", "test"), ("test", "test"), ("val", "val"), ("train", "train")]
    )
    def test_the_test_split_is_scored_unless_another_is_named(self, split, given, used):
        names, found = chosen(split, split.root, split=given)
        assert {name.split("/")[0] for name in names} == {used}
        assert len(names) == {"train": 6, "val": 4, "test": 2}[used]
        notes = " ".join(found.notes)
        assert ("chose the weights" in notes, "were trained on" in notes) == (used == "val", used == "train")

    @pytest.mark.parametrize("folder", ["test", "val"])
    def test_the_folder_of_a_split_can_be_given(self, split, folder):
        names, found = chosen(split, split.root / folder)
        assert len(names) == {"test": 2, "val": 4}[folder]
        assert found.subset.endswith(f"(the folder {folder})")
        assert bool(found.notes) == (folder == "val")

    def test_copies_of_trained_clips_are_left_out_by_name_and_count(self, split, tmp_path):
        root = shutil.copytree(split.root, tmp_path / "copy")
        shutil.copy(root / "train" / "red" / "0.mp4", root / "test" / "red" / "other name.mp4")
        for data in (root, root / "test"):
            names, found = chosen(split, data)
            assert len(names) == 2
            assert found.left_out
            (note,) = found.notes
            assert note.startswith("warning: 1 of 3 clips are left out, because the weights were trained on them: ")
            assert note.endswith("red/other name.mp4")

    def test_a_missing_split_is_refused(self, split, flat, tmp_path):
        root = shutil.copytree(split.root, tmp_path / "copy", ignore=shutil.ignore_patterns("test"))
        with pytest.raises(ValueError, match=r"has no split 'test': it has train, val"):
            chosen(split, root, split="test")
        with pytest.raises(ValueError, match=r"has no split 'test'; omit --split"):
            chosen(flat, flat.root, split="test")

    def test_classes_are_matched_by_name(self, split, tmp_path):
        shutil.copytree(split.root / "test" / "red", tmp_path / "test" / "red")
        found = chosen(split, tmp_path / "test")[1]
        assert [clip.label for clip in found.clips.clips] == [1]
        (tmp_path / "test" / "red").rename(tmp_path / "test" / "green")
        with pytest.raises(ValueError, match=r"has 1 classes \(green .*trained on 2 \(blue, red .*unknown: green"):
            chosen(split, tmp_path / "test")

    def test_weights_without_a_record_are_tested_by_the_rule_of_the_split(self, flat):
        names, found = chosen(SimpleNamespace(record=None), flat.root)
        assert names == flat.held
        assert found.notes[0].startswith("warning: the weights do not say which clips they were trained on")


class TestRun:
    def test_scores_are_those_of_the_chosen_split_and_say_so(self, split):
        outcome = evaluate(split.run, split.root, views=1, crops=1, workers=0)
        assert (outcome.scores.clips, outcome.subset) == (2, "the test clips")
        outcome = evaluate(split.run, split.root, views=1, crops=1, workers=0, split="val")
        assert (outcome.scores.clips, outcome.subset) == (4, "the validation clips")
        assert load_weights_file(split.best)["metrics"]["accuracy"] == outcome.scores.top1

    def test_the_log_tells_the_split(self, split):
        (line,) = [line for line in split.lines if "training clips" in line]
        assert "6 training clips, 4 validation clips (the data's own split (train, val, test))" in line

    def test_copies_of_training_clips_do_not_choose_the_weights(self, split, tmp_path):
        root = shutil.copytree(split.root, tmp_path / "copy")
        shutil.copy(root / "train" / "red" / "0.mp4", root / "val" / "red" / "other name.mp4")
        _, lines = train(root, tmp_path / "run")
        reason = "because they are training clips: val/red/other name.mp4"
        assert f"warning: 1 of 5 validation clips are not used, {reason}" in lines
        held = json.loads((tmp_path / "run" / "data.json").read_text())["items"]["held out"]
        assert sorted(held) == [f"val/{color}/{number}.mp4" for color in CLASSES for number in (0, 1)]
        for clip in (root / "val").rglob("*.mp4"):
            shutil.copy(root / "train" / "red" / "1.mp4", clip)
        with pytest.raises(ValueError, match="all 5 validation clips are training clips as well"):
            train(root, tmp_path / "other")

    def test_a_finished_run_on_a_grown_folder_keeps_its_clips(self, flat, copied, tmp_path):
        run = shutil.copytree(flat.run, tmp_path / "run")
        for number in range(4):
            film(copied / "red" / f"a new {number}.mp4", 300 + number)
        before = json.loads((run / "data.json").read_text())
        config = dataclasses.replace(CONFIG, epochs=2, extend=True)
        result, lines = train(copied, run, config=config)
        assert result.status == "finished"
        added = [line for line in lines if "were added to the data since the run began and are not used" in line]
        assert [line.split(" were")[0] for line in added] == ["4 clips"]
        assert json.loads((run / "data.json").read_text()) == before
        names, _ = chosen(SimpleNamespace(record=saved_record(load_weights_file(result.weights))), copied)
        assert set(flat.held) < set(names)
        assert not set(names) & set(flat.trained)

    def test_a_run_without_one_of_its_clips_is_refused(self, flat, copied, tmp_path):
        run = shutil.copytree(flat.run, tmp_path / "run")
        (copied / flat.trained[0]).unlink()
        with pytest.raises(ValueError, match=rf"run on other data: training: 1 removed \({flat.trained[0]}\)"):
            train(copied, run)


@pytest.mark.parametrize("seed", range(12))
def test_no_clip_changes_sides_whatever_happens_to_the_folder(tmp_path, seed):
    """Clips are added, deleted, renamed, copied and moved between runs, tests and resumed runs."""
    random = Random(seed)
    contents = iter(range(10_000))

    def add():
        path = tmp_path / random.choice(CLASSES) / f"{next(contents)}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"video {path.name}".encode() * 9)

    for _ in range(20):
        add()
    splits = assign(tmp_path)
    training, validation = splits.train, splits.validation
    kept = {"training": training.fingerprint(), "held out": validation.fingerprint()}
    record = run_record(splits, training, validation, {})
    trained = {clip.path.read_bytes() for clip in training.clips}
    held = {clip.path.read_bytes() for clip in validation.clips}
    assert min(len(trained), len(held)) > 0
    assert not trained & held
    for _ in range(15):
        files = sorted(tmp_path.rglob("*.mp4"))
        file, to = random.choice(files), tmp_path / random.choice(CLASSES) / f"{next(contents)}.mp4"
        change = random.choice(["add", "delete", "rename", "copy"])
        if change == "add":
            add()
        elif change == "delete" and len(files) > 6:
            file.unlink()
        elif change == "copy":
            shutil.copy(file, to)
        else:
            file.rename(to)
        now = assign(tmp_path, known=record, on_error="skip")
        for part, side in ((now.train, held), (now.validation, trained)):
            assert not side & {clip.path.read_bytes() for clip in part.clips}
        first, second, _ = as_before(now, kept)
        assert {clip.path.read_bytes() for clip in first.clips} <= trained
        assert {clip.path.read_bytes() for clip in second.clips} <= held
        found = clips_to_test(tmp_path, CLASSES, record)
        assert not trained & {clip.path.read_bytes() for clip in found.clips.clips}
