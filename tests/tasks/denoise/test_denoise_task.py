"""Training and testing of the denoising task, and the commands that use it, on small images."""

import csv
import json

import pytest
import torch

pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[denoise]'")
pytest.importorskip("numpy", reason="pip install 'torch-nonlocal[denoise]'")
pytest.importorskip("PIL.Image", reason="pip install 'torch-nonlocal[denoise]'")
pytest.importorskip("skimage", reason="pip install 'torch-nonlocal[denoise]'")
pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[denoise]'")
pytest.importorskip("rich", reason="pip install 'torch-nonlocal[denoise]'")

import numpy as np
from PIL import Image

import torch_nonlocal as nl
from torch_nonlocal.cli import main
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.media.stills import read_still
from torch_nonlocal.tasks.denoise.crops import NoisyCrops
from torch_nonlocal.tasks.denoise.images import HELD_OUT_PHOTOGRAPHS, TRAINING_PHOTOGRAPHS, photographs, source
from torch_nonlocal.tasks.denoise.network import network, parameter_count
from torch_nonlocal.tasks.denoise.quality import psnr, ssim
from torch_nonlocal.tasks.denoise.settings import DenoiseSettings, DenoiseTestOptions
from torch_nonlocal.training import checkpoint, load_weights_file
from torch_nonlocal.training.sampler import Item, SeededItems

SMALL = ["--width", "4", "--depth", "4", "--crop", "16", "--batch-size", "2", "--eval-every", "1"]


def save(path, shape, seed=0):
    """A smooth image with a few edges."""
    H, W, *C = shape
    y, x = torch.meshgrid(torch.linspace(0, 1, H), torch.linspace(0, 1, W), indexing="ij")
    values = 0.2 + 0.5 * y * x + 0.2 * ((x * (3 + seed)).floor() % 2)
    planes = values.expand(*C, H, W).mul(255).byte()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(planes.permute(1, 2, 0) if C else planes)).save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images, one of them unreadable and one smaller than a crop, and a run of two steps on it."""
    folder = tmp_path_factory.mktemp("denoise")
    for number in range(7):
        save(folder / "images" / f"{number}.png", (40, 44), number)
    save(folder / "images" / "inside" / "color.png", (24, 30, 3))
    save(folder / "images" / "tiny.png", (12, 30))
    (folder / "images" / "broken.png").write_bytes(b"no image")
    train(folder, "run")
    return folder


def train(folder, name, *words, steps=2):
    main([
        "train", "denoise", "--data", str(folder / "images"), "--out", str(folder / name), "--steps", str(steps),
        *SMALL, *words,
    ])  # fmt: skip


def tensors(run):
    return checkpoint.read(run / "checkpoints" / "last.pt")["model"]


@pytest.mark.parametrize("colors", ["gray", "color"])
@pytest.mark.parametrize(("width", "depth"), [(48, 8), (64, 12), (8, 4)])
def test_networks_with_and_without_a_block_have_equally_many_parameters(colors, width, depth):
    counts = [
        parameter_count(network(DenoiseSettings(width=width, depth=depth, colors=colors, non_local=name)))
        for name in ("one", "none")
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("non_local", ["one", "none"])
def test_a_new_network_does_not_use_what_stands_in_the_middle(non_local):
    torch.manual_seed(0)
    model = network(DenoiseSettings(width=8, depth=6, non_local=non_local))
    middle = len(model.body) // 2
    x = torch.randn(2, 8, 5, 7)
    if non_local == "one":
        assert list(nl.blocks(model)) == ["body.0"]
        with_block = model.body[0](x)
        nl.remove(model)
        assert torch.equal(with_block, model.body[0](x))
    else:
        assert torch.equal(model.body[middle](x), x)


def test_images_of_odd_size_keep_it():
    model = network(DenoiseSettings(width=4, depth=4))
    assert model(torch.rand(1, 2, 7, 9)).shape == (1, 1, 7, 9)


def test_crops_repeat_for_the_same_seed_and_have_the_noise_of_their_map():
    images = photographs(("coins",), 1)
    crops = SeededItems(NoisyCrops(images, DenoiseSettings(crop=64, sigma=(20, 40))))
    (_, (noisy, clean, index)), (_, again) = (crops[Item(0, 5, 123)] for _ in range(2))
    assert torch.equal(noisy, again[0])
    assert index == 5
    assert crops.data.name(5) == "coins"
    sigma = float(noisy[1, 0, 0])
    assert 20 / 255 <= sigma <= 40 / 255
    assert (noisy[1] == sigma).all()
    assert float((noisy[0] - clean[0]).std()) == pytest.approx(sigma, rel=0.05)
    assert not torch.equal(noisy, crops[Item(1, 5, 124)][1][0])


def test_each_image_has_as_many_crops_as_its_share_of_pixels():
    images = photographs(("coins", "camera"), 1)
    crops = NoisyCrops(images, DenoiseSettings())
    names = [crops.name(index) for index in range(len(crops))]
    areas = {name: one.numel() for name, one in images.pixels.items()}
    assert names.count("coins") == pytest.approx(len(crops) * areas["coins"] / sum(areas.values()), abs=1)


def test_photographs_are_of_the_package_and_split():
    assert not set(TRAINING_PHOTOGRAPHS) & set(HELD_OUT_PHOTOGRAPHS)
    images = photographs((*TRAINING_PHOTOGRAPHS, *HELD_OUT_PHOTOGRAPHS), 1)
    assert len({images.digest(name) for name in images.names}) == len(images) == 10
    astronaut = pytest.importorskip("skimage.data").astronaut()
    expected = torch.from_numpy(astronaut).float() @ torch.tensor([0.299, 0.587, 0.114])
    assert (images.pixels["astronaut"][0] - expected).abs().max() < 0.51


def test_a_folder_is_split_by_its_folders_or_every_fifth_image_is_held_out(folder, tmp_path):
    settings = DenoiseSettings(crop=16)
    found = source(folder / "images", settings, "skip", broken := BrokenClips())
    assert found.validation.names == ["2.png", "inside/color.png"]
    assert not set(found.training.names) & set(found.validation.names)
    assert found.left_out == ("tiny.png: 12 x 30 pixels, smaller than a crop of 16",)
    assert [entry.path for entry in broken.entries()] == [str(folder / "images" / "broken.png")]
    for split in ("train", "val"):
        save(tmp_path / split / f"{split}.png", (20, 20))
    found = source(tmp_path, settings, "skip", BrokenClips())
    assert (found.training.names, found.validation.names) == (["train/train.png"], ["val/val.png"])
    found = source(tmp_path, DenoiseSettings(crop=16, val=str(tmp_path / "val")), "skip", BrokenClips())
    assert (found.training.names, found.validation.names) == (["train/train.png"], ["val.png"])


def test_quality_is_that_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(3, 24, 31, generator=generator)
    image = (clean + 0.1 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    assert psnr(image, clean) == pytest.approx(
        metrics.peak_signal_noise_ratio(clean.numpy(), image.numpy(), data_range=1), abs=1e-4
    )
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    _, values = metrics.structural_similarity(
        clean.double().numpy(), image.double().numpy(), channel_axis=0, full=True, **options
    )
    assert ssim(image, clean) == pytest.approx(values[:, 5:-5, 5:-5].mean(), abs=1e-6)
    assert psnr(clean, clean) == float("inf")
    assert ssim(clean, clean) == pytest.approx(1)


def test_training_selects_the_weights_by_psnr_and_lists_unreadable_images(folder):
    trained = load_weights_file(folder / "run" / "checkpoints" / "best.pt")
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    measured = [line["psnr"] for line in lines if "psnr" in line]
    assert len(measured) == 2
    assert trained["metrics"]["psnr"] == max(measured)
    assert trained["about"]["task"] == "denoise"
    assert len(trained["extra"]["trained_on"]) == 6
    assert "broken.png" in (folder / "run" / "broken.jsonl").read_text()


def test_a_run_resumes_to_the_weights_of_an_uninterrupted_one(folder, monkeypatch):
    from torch_nonlocal.tasks.denoise import task

    measure, calls = task.validation_psnr, []

    def killed(*given):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return measure(*given)

    monkeypatch.setattr(task, "validation_psnr", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(folder, "killed")
    train(folder, "killed")
    whole, resumed = tensors(folder / "run"), tensors(folder / "killed")
    assert all(torch.equal(one, resumed[name]) for name, one in whole.items())
    with pytest.raises(SystemExit):
        train(folder, "killed", "--sigma", "5", "20")


def test_the_test_leaves_out_what_was_trained_on(folder, tmp_path, capsys):
    options = ["--out", str(tmp_path / "out"), "--data", str(folder / "images"), "--sigma", "15", "50"]
    main(["test", "denoise", str(folder / "run"), *options])
    printed = capsys.readouterr().out
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert len(rows) == len(scores["images"]) == 2 * 3  # two held-out images and the one smaller than a crop
    assert "6 images" in printed
    assert "left out, since trained on" in printed
    assert len(scores["not_read"]) == 1
    mean = scores["sigma"]["50"]
    assert mean["psnr"] == pytest.approx(
        sum(float(row["psnr"]) for row in rows if float(row["sigma"]) == 50) / 3, abs=1e-5
    )
    assert mean["noisy_psnr"] == pytest.approx(-20 * np.log10(50 / 255), abs=0.4)
    main(["test", "denoise", str(folder / "run"), *options, "--whole"])
    assert len(json.loads((tmp_path / "out" / "scores.json").read_text())["images"]) == 2 * 9


def test_the_test_measures_the_seams_of_tiles(folder, tmp_path, capsys):
    save(tmp_path / "large" / "wide.png", (60, 150))
    words = ["--data", str(tmp_path / "large"), "--out", str(tmp_path / "out"), "--tile", "64", "--sigma", "25"]
    main(["test", "denoise", str(folder / "run"), *words])
    seams = json.loads((tmp_path / "out" / "scores.json").read_text())["seams"]
    assert seams["image"] == "wide.png"
    assert seams["largest"] >= seams["rms"] >= 0
    assert "seams: tiles of 64 pixels differ from the whole image wide.png" in capsys.readouterr().out


def test_the_command_denoises_as_the_loaded_network_does(folder, tmp_path, capsys):
    path = save(tmp_path / "in.png", (50, 70, 3))
    words = ["denoise", str(path), str(tmp_path / "out.png"), "--checkpoint", str(folder / "run"), "--sigma", "60"]
    main([*words, "--tile", "48"])
    assert "noise 60.0 of 255 levels; the network was trained for 5 to 55" in capsys.readouterr().out
    model = nl.load(folder / "run")
    expected = model.denoise(path, sigma=60 / 255, tile=48)
    found = read_still(tmp_path / "out.png").pixels
    assert (found - expected).abs().max() <= 0.51 / 255
    channel = read_still(path).pixels[1]
    torch.testing.assert_close(model.denoise(channel, sigma=60 / 255, tile=48), expected[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "denoise", "--data", "none"], "no folder none"),
        (["train", "denoise", "--data", "small"], "no training image is as large as a crop"),
        (["train", "denoise", "--data", "empty"], "no images in this folder"),
        (["train", "denoise", "--data", "bad"], "none of the 1 image can be read; the first: "),
        (["train", "denoise", "--data", "mixed", "--on-error", "fail"], "broken.png' cannot be read"),
        (["train", "denoise", "--sigma", "50", "5"], "sigma=50 5: expected the lowest and the highest noise"),
        (["train", "denoise", "--crop", "33"], "crop=33: expected an even number from 8 to 1,024"),
        (["train", "denoise", "--recipe", "denois"], "no recipe 'denois'; did you mean 'denoise'?"),
        (["test", "denoise", "RUN", "--sigma", "0"], "--sigma 0: expected numbers above 0"),
        (["test", "denoise", "RUN", "--tile", "16"], "tile=16: expected at least 48 pixels"),
        (["test", "denoise", "no.pt"], "no weights at no.pt"),
        (["denoise", "small/0.png", "o.png", "--checkpoint", "no.pt"], "no weights at no.pt"),
        (["denoise", "small/0.png", "o.png", "--checkpoint", "RUN", "--patch", "3"], "--patch 3: an option of"),
        (["denoise", "small/0.png", "o.png", "--tile", "64"], "--tile 64: an option of trained networks"),
    ],
)  # fmt: skip
def test_mistakes_are_named(folder, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "small" / "0.png", (20, 20))
    (tmp_path / "empty").mkdir()
    for name in ("bad", "mixed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "broken.png").write_bytes(b"no image")
    save(tmp_path / "mixed" / "good.png", (70, 70))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main([str(folder / "run") if word == "RUN" else word for word in words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        (torch.zeros(2, 8, 8), {}, ValueError, r"expected \(H, W\), \(1, H, W\) or \(3, H, W\), got \(2, 8, 8\)"),
        (torch.zeros(3, 0, 8), {}, ValueError, "got"),
        (torch.full((8, 8), float("nan")), {"sigma": 0.1}, ValueError, "finite"),
        (torch.zeros(8, 8, dtype=torch.int64), {}, TypeError, "uint8, got torch.int64"),
        (torch.zeros(8, 8), {"sigma": 25}, ValueError, "such as 25 / 255"),
        (torch.zeros(8, 8), {"tile": 7}, ValueError, "tile=7: expected an even number"),
    ],
)
def test_images_that_cannot_be_denoised_are_refused(folder, image, options, error, message):
    with pytest.raises(error, match=message):
        nl.load(folder / "run").denoise(image, **options)


@pytest.mark.parametrize(
    ("name", "value"), [("width", 10**6), ("sigma", [1.0]), ("non_local", "many"), ("widht", 4), ("crop", "64")]
)
def test_settings_of_a_file_are_checked(folder, tmp_path, name, value):
    content = torch.load(folder / "run" / "checkpoints" / "best.pt", weights_only=True)
    content["about"][name] = value
    torch.save(content, tmp_path / "best.pt")
    with pytest.raises(ValueError, match=rf"best.pt: .*{name}"):
        nl.load(tmp_path / "best.pt")


def test_commands_for_action_name_the_one_for_denoising(folder):
    pytest.importorskip("torchvision", reason="pip install 'torch-nonlocal[models]'")
    from torch_nonlocal.tasks.action.classifier import load_classifier

    with pytest.raises(ValueError, match="of the task 'denoise'; `nonlocal denoise --checkpoint` uses them"):
        load_classifier(folder / "run")


def test_options_of_the_test_are_checked():
    with pytest.raises(ValueError, match="tile=-2"):
        DenoiseTestOptions(tile=-2)
