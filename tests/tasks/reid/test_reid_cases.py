"""Re-identification on data and files with faults: splits, held-out identities, damaged weights, parts of batches."""

import copy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

for package in ("accelerate", "numpy", "PIL.Image", "pytorch_metric_learning", "rich", "torchvision", "tyro"):
    pytest.importorskip(package, reason="pip install 'torch-nonlocal[reid]'")
sys.path.insert(0, str(Path(__file__).parents[2] / "data" / "tracklets"))

import miniatures  # noqa: E402
import numpy as np  # noqa: E402

import torch_nonlocal as nl  # noqa: E402
from torch_nonlocal.data.broken import BrokenClips  # noqa: E402
from torch_nonlocal.data.tracklets.files import FileTracklets  # noqa: E402
from torch_nonlocal.data.tracklets.given import GivenTracklets  # noqa: E402
from torch_nonlocal.data.tracklets.tracklet import Box, Tracklet  # noqa: E402
from torch_nonlocal.media.broken import BrokenVideoError  # noqa: E402
from torch_nonlocal.models.feature_maps import feature_maps, map_channels  # noqa: E402
from torch_nonlocal.models.tracklet_net import TrackletNet  # noqa: E402
from torch_nonlocal.tasks.reid import data as reid_data  # noqa: E402
from torch_nonlocal.tasks.reid import task as reid_task  # noqa: E402
from torch_nonlocal.tasks.reid.data import retrieval_data, training_data  # noqa: E402
from torch_nonlocal.tasks.reid.network import network  # noqa: E402
from torch_nonlocal.tasks.reid.settings import ReidSettings  # noqa: E402
from torch_nonlocal.tasks.reid.trained_on import tracklet_digest  # noqa: E402
from torch_nonlocal.tasks.trained_files import saved_texts  # noqa: E402
from torch_nonlocal.training import TrainConfig, load_weights_file  # noqa: E402
from torch_nonlocal.training.batch_norm import frozen_norms  # noqa: E402

NETWORK = """
from torch import nn

def maps():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4))
    network.inputs = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    return network
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Miniatures of MARS (one split) and PRID 450S (ten), and a run of one step on MARS."""
    folder = tmp_path_factory.mktemp("cases")
    miniatures.mars(folder / "mars", train=6, test=4)
    miniatures.prid450s(folder / "pairs", persons=8)
    (folder / "net.py").write_text(NETWORK)
    reid_task.train(folder / "mars", folder / "run", settings(folder), config(seed=3))
    return folder


def settings(folder, **changes):
    values = {"network": f"{folder / 'net.py'}:maps", "frames": "uniform-2", "height": 16, "width": 8, "pad": 1}
    return ReidSettings(**{**values, "non_local": "none", "per_identity": 2, "held_out": 0.34, **changes})


def config(**changes):
    return TrainConfig(**{"epochs": None, "steps": 1, "batch_size": 4, "workers": 0, **changes})


def names(source):
    return [one.name for one in source.tracklets]


def test_the_seed_chooses_one_of_the_splits_that_the_data_have(folder):
    content = load_weights_file(folder / "run" / "checkpoints" / "best.pt")
    assert content["about"]["split"] == 0  # of a run with seed 3: MARS has one split
    by_seed = training_data(folder / "pairs", ReidSettings(held_out=0.0), 12)
    assert by_seed.split == 2
    assert "split 2 of 10" in by_seed.summary
    assert names(by_seed.source) == names(
        training_data(folder / "pairs", ReidSettings(split=2, held_out=0.0), 0).source
    )
    assert names(by_seed.source) != names(training_data(folder / "pairs", ReidSettings(held_out=0.0), 0).source)
    with pytest.raises(ValueError, match="got 12, expected 0 to 9"):
        training_data(folder / "pairs", ReidSettings(split=12), 0)


def test_weights_of_one_set_are_tested_on_another_with_fewer_splits(folder):
    found, _ = retrieval_data(folder / "mars", ReidSettings(), 7)
    assert names(found.source) == names(retrieval_data(folder / "mars", ReidSettings(), 0)[0].source)
    tested = {one.identity for one in retrieval_data(folder / "pairs", ReidSettings(), 7)[0].source.tracklets}
    trained = training_data(folder / "pairs", ReidSettings(split=7, held_out=0.0), 0).source.tracklets
    assert not tested & {one.identity for one in trained}


@pytest.mark.parametrize(("in_two_cameras", "held_out"), [(1, 0), (2, 2), (6, 4)])
def test_a_single_identity_is_not_held_out_since_it_would_always_be_found(in_two_cameras, held_out):
    tracklets = [Tracklet(f"{i}{c}", str(i), c, 1) for i in range(8) for c in "ab" if c == "a" or i < in_two_cameras]
    kept, out = reid_data._held_out(tracklets, 0.5)
    assert len({one.identity for one in out}) == held_out
    assert {one.identity for one in kept} | {one.identity for one in out} == set(map(str, range(8)))


def test_a_share_that_holds_nobody_out_is_reported(folder):
    reason = (
        "held_out=0.1 of 6 identities: too few that can be matched, expected two or more; the last weights are kept"
    )
    assert reason in training_data(folder / "mars", ReidSettings(held_out=0.1), 0).notes
    for share in (0.0, 0.34):
        assert not any(
            "held_out" in note for note in training_data(folder / "mars", ReidSettings(held_out=share), 0).notes
        )


def test_digests_tell_tracklets_that_begin_alike_apart_and_know_copies(tmp_path):
    def frames(name, contents):
        (tmp_path / name).mkdir()
        for number, content in enumerate(contents):
            (tmp_path / name / f"{name}{number}.png").write_bytes(content)
        return Tracklet(
            name, "", "", len(contents), tmp_path / name, tuple(f"{name}{i}.png" for i in range(len(contents)))
        )

    (tmp_path / "video.avi").write_bytes(bytes(200_000))
    (tmp_path / "other.avi").write_bytes(bytes(199_999) + b"1")
    boxes = [(Box(0, 0, 0, 4, 8), Box(1, 0, 0, 4, 8)), (Box(0, 0, 0, 4, 8), Box(1, 9, 0, 4, 8))]
    videos = [Tracklet(f"v{i}", "", "", 2, tmp_path / "video.avi", boxes=one) for i, one in enumerate(boxes)]
    whole = [Tracklet(name, "", "", 9, tmp_path / name) for name in ("video.avi", "other.avi")]
    black = bytes(100_000)
    tracklets = [
        frames("a", [black, b"1", b"2"]),
        frames("b", [black, b"1", b"3"]),
        frames("c", [black, b"4", b"2"]),
        frames("d", [black, b"1"]),
        frames("e", [bytes(99_999) + b"1", b"1", b"2"]),
        *videos,
        *whole,
    ]
    tracklets += [frames("copy", [black, b"1", b"2"]), Tracklet("gone", "", "", 1, tmp_path, ("gone.png",))]
    source = FileTracklets(tracklets, (8, 4))
    digests = [tracklet_digest(source, index) for index in range(len(tracklets))]
    assert digests[-1] == ""
    assert digests[-2] == digests[0]
    assert len(set(digests[:-2])) == len(tracklets) - 2


@pytest.mark.parametrize("extra", [[1], 3, {"trained_on": 3}, {"trained_on": [["a"]]}, {"trained_on": {"a": 1}}])
def test_digests_of_another_type_are_refused(extra):
    with pytest.raises(ValueError, match=r"best.pt: its trained_on is .*, expected a list of texts"):
        saved_texts({"extra": extra}, "trained_on", Path("best.pt"))
    assert saved_texts({}, "trained_on", Path("best.pt")) == frozenset()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identities": 10**12}, "identities=1000000000000, but the file has a classifier of shape"),
        ({"identities": -1}, "identities=-1, but the file has a classifier"),
        ({"identities": "4"}, "its identities is '4', expected int"),
        ({"inputs": None}, "its inputs is None, expected dict"),
        ({"inputs": {"mean": [0.5], "std": [1.0]}}, "its inputs have 1 channel, expected 3"),
        ({"lamp": 1}, "unknown setting 'lamp'"),
        ({"height": 2048, "width": 2048, "frames": "uniform-256"}, "at most 16,777,216"),
    ],
)
def test_a_file_with_a_damaged_description_is_refused_by_name(folder, tmp_path, change, message):
    content = copy.deepcopy(torch.load(folder / "run" / "checkpoints" / "best.pt", weights_only=True))
    content["about"].update(change)
    torch.save(content, tmp_path / "best.pt")
    with pytest.raises(ValueError, match=message):
        nl.load(tmp_path / "best.pt", network=f"{folder / 'net.py'}:maps")


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 4), (8, 4), (6, 2), (2, 1)])
def test_parts_of_a_batch_hold_whole_identities_and_at_least_two(folder, tmp_path, batch_size, accumulate):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}: expected a multiple of {2 * accumulate} "):
        reid_task.train(
            folder / "mars", tmp_path / "run", settings(folder), config(batch_size=batch_size, accumulate=accumulate)
        )


def test_the_triplet_loss_needs_two_tracklets_of_an_identity():
    with pytest.raises(ValueError, match="expected per_identity=2 or more, or triplet=0"):
        ReidSettings(per_identity=1)
    assert ReidSettings(per_identity=1, triplet=0.0).per_identity == 1


def test_held_out_tracklets_that_cannot_be_read_fail_if_asked_for(folder, tmp_path):
    shutil.copytree(folder / "mars", tmp_path / "mars")
    found = training_data(tmp_path / "mars", settings(folder), 0)
    assert found.validation is not None
    one = found.validation.source.tracklets[0]
    for name in one.files:
        (one.folder / name).write_bytes(b"no picture")
    reid_task.train(tmp_path / "mars", tmp_path / "skip", settings(folder), config(), log=lambda _: None)
    assert one.name in (tmp_path / "skip" / "broken.jsonl").read_text()
    with pytest.raises(BrokenVideoError):
        reid_task.train(
            tmp_path / "mars", tmp_path / "fail", settings(folder), config(), on_error="fail", log=lambda _: None
        )


def test_new_modules_are_trained_while_the_backbone_or_its_norms_are_frozen(folder):
    found = training_data(folder / "mars", settings(folder), 0)
    net = TrackletNet(nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4)), 4, found.identities, pooling="attention")
    net.inputs = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    task = reid_task.ReidTask(net, found, settings(folder), config(), "skip", BrokenClips())
    assert frozen_norms(net, task.head(net)) == [net.backbone[1]]
    assert {id(one) for module in task.head(net) for one in module.parameters()} == {
        id(one) for name, one in net.named_parameters() if not name.startswith("backbone")
    }


def test_checking_the_data_skips_what_cannot_be_read_and_downloads_nothing(folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "mars", tmp_path / "mars")
    one = training_data(tmp_path / "mars", settings(folder), 0).source.tracklets[0]
    for name in one.files:
        (one.folder / name).write_bytes(b"no picture")
    built, own = [], reid_task.network
    monkeypatch.setattr(reid_task, "network", lambda values, count: built.append(values) or own(values, count))
    lines = []
    reid_task.check_data(tmp_path / "mars", settings(folder, weights="imagenet"), log=lines.append)
    assert [values.weights for values in built] == ["none"]
    assert lines[-1].startswith("weights: ImageNet")
    with pytest.raises(BrokenVideoError):
        reid_task.check_data(tmp_path / "mars", settings(folder), on_error="fail", log=lines.append)


def test_frames_in_memory_may_be_views_with_reversed_channels():
    frames = np.random.default_rng(0).integers(0, 256, (2, 6, 4, 3), dtype=np.uint8)
    source = GivenTracklets([frames[..., ::-1], torch.from_numpy(frames)], (6, 4))
    assert torch.equal(source.read(0, [1, 0]), source.read(1, [1, 0]).flip(0))


def test_automatic_places_of_a_network_that_is_no_resnet_are_named():
    options = {"frames": "2x1", "height": 64, "width": 32}
    with pytest.raises(ValueError, match="non_local='auto' is for ResNets, and network 'torchvision:mobilenet_v2'"):
        network(ReidSettings(network="torchvision:mobilenet_v2", **options), 5)


def test_maps_with_channels_last_are_recognized():
    timm = pytest.importorskip("timm", reason="pip install 'torch-nonlocal[train]'")
    options = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1), "img_size": 32, "window_size": 4}
    net = timm.models.SwinTransformer(patch_size=4, num_classes=3, **options).eval()
    images = torch.rand(2, 3, 32, 32)
    maps = feature_maps(net)
    assert map_channels(maps, images) == 16
    torch.testing.assert_close(maps(images), net.forward_features(images).permute(0, 3, 1, 2))


def test_a_folder_of_several_runs_and_a_run_without_weights_are_named(tmp_path):
    for run in ("runs/reid", "runs/mine"):
        (tmp_path / run / "checkpoints").mkdir(parents=True)
        (tmp_path / run / "checkpoints/best.pt").touch()
    with pytest.raises(FileNotFoundError, match=r"runs holds 2 runs, expected one of .*runs/mine, .*runs/reid"):
        nl.load(tmp_path / "runs")
    (tmp_path / "runs/mine/checkpoints/best.pt").rename(tmp_path / "runs/mine/checkpoints/last.pt")
    with pytest.raises(
        FileNotFoundError, match=r"has not saved weights yet; rerun its `nonlocal train` command"
    ) as error:
        nl.load(tmp_path / "runs/mine")
    assert "did you mean" not in str(error.value)


def test_an_empty_list_of_tracklets_is_named(folder):
    model = nl.load(folder / "run", network=f"{folder / 'net.py'}:maps")
    with pytest.raises(ValueError, match="got an empty list, expected one or more"):
        model.embed([])


def test_data_of_the_other_use_are_named(tmp_path):
    for name in ("a", "b"):
        miniatures.picture(tmp_path / f"{name}.png", ord(name))
    header = "tracklet,identity,camera,frames,split"
    for use, read, other in (("train", retrieval_data, "training"), ("test", training_data, "test")):
        rows = [(name, "ann", name, f"{name}.png", use) for name in ("a", "b")]
        with pytest.raises(ValueError, match=f"; all tracklets are {other} data: there is nothing to"):
            read(miniatures.table(tmp_path / f"{use}.csv", rows, header), ReidSettings(), 0)


def test_what_was_left_out_is_told_in_a_few_lines_and_named_if_nothing_is_left(tmp_path, capsys):
    root = miniatures.market1501(tmp_path / "market")
    for number in range(30):
        miniatures.picture(root / f"query/person{number:02d}.jpg", 1)
    lines = retrieval_data(root, ReidSettings(), 0)[1]
    assert [line for line in lines if "wrong name" in line][2:] == [
        "wrong name: query/person02.jpg: expected a name such as 0002_c1s1_000451_03.jpg (identity, camera)",
        "wrong name: and 27 more",
    ]
    shown = []
    reid_task.check_data(root, ReidSettings(height=16, width=8), log=shown.append)
    assert [line for line in shown if line.startswith("problem")][20:] == [
        "problem: and 10 more; nonlocal data check lists them"
    ]
    for file in root.glob("*/00*.jpg"):
        file.rename(file.with_name(f"x{file.name}"))
    for read in (training_data, retrieval_data):
        with pytest.raises(
            ValueError, match="; 38 problems of the data, the first: wrong name: bounding_box_train/x0002"
        ):
            read(root, ReidSettings(), 0)
