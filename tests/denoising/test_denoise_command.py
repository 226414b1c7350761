"""`nonlocal denoise` and the image files that it reads and writes."""

import sys

import pytest
import torch

pytest.importorskip("numpy", reason="pip install 'torch-nonlocal[video]'")
pytest.importorskip("PIL.Image", reason="pip install 'torch-nonlocal[video]'")
pytest.importorskip("av", reason="pip install 'torch-nonlocal[video]'")
pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
pytest.importorskip("rich", reason="pip install 'torch-nonlocal[cli]'")

import numpy as np
from PIL import Image

from torch_nonlocal import functional
from torch_nonlocal.cli import main
from torch_nonlocal.media import BrokenVideoError, probe, read_clip, write_mp4
from torch_nonlocal.media.stills import Still, read_still, write_still
from torch_nonlocal.tasks.denoise.files import STRENGTH, Denoiser, Strength, denoise_frames

NOISE = 20 / 255


def scene(*shape):
    """A smooth picture in [0, 1], (C, H, W)."""
    C, H, W = shape
    return (torch.linspace(0.2, 0.8, W) * torch.linspace(0.6, 1, H)[:, None]).expand(C, H, W).clone()


def noisy(*shape, seed=0):
    return scene(*shape) + NOISE * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def values(path):
    """The stored integers, (H, W, ...)."""
    still = read_still(path)
    planes = still.pixels if still.alpha is None else torch.cat([still.pixels, still.alpha[None] / still.highest])
    return (planes * still.highest).round().int()


def save(path, values_HWC, bits=8):
    """Write integers with Pillow, or by `write_still` what Pillow cannot write."""
    if bits == 16 and values_HWC.ndim == 3:
        planes = torch.from_numpy(values_HWC.astype(np.int32)).permute(2, 0, 1)
        alpha = planes[3] if len(planes) == 4 else None
        return write_still(path, Still(planes[:3] / 65535, alpha, 16, {}))
    Image.fromarray(values_HWC.astype(np.uint8 if bits == 8 else np.uint16)).save(path)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("bits", "channels"), [(8, 1), (8, 2), (8, 3), (8, 4), (16, 1), (16, 3), (16, 4)])
def test_stills_keep_every_value(tmp_path, suffix, bits, channels):
    rng = np.random.default_rng(0)
    given = rng.integers(0, 2**bits, (5, 6, channels))
    path = save(tmp_path / f"in{suffix}", given[..., 0] if channels == 1 else given, bits)
    still = read_still(path)
    assert still.bits == bits
    assert (still.alpha is not None) == (channels in (2, 4))
    np.testing.assert_array_equal(values(path).permute(1, 2, 0), given)
    copy = write_still(tmp_path / f"out{suffix}", still)
    np.testing.assert_array_equal(values(copy), values(path))


def test_colors_of_16_bits_are_those_of_another_reader(tmp_path):
    given = np.random.default_rng(0).integers(0, 2**16, (5, 6, 3))
    path = save(tmp_path / "deep.png", given, 16)
    with Image.open(path) as picture:  # Pillow reads the upper 8 bits
        np.testing.assert_array_equal(np.asarray(picture), given >> 8)


def test_colors_of_16_bits_need_pyav(tmp_path, monkeypatch):
    path = save(tmp_path / "deep.png", np.zeros((2, 2, 3)), 16)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"torch-nonlocal\[video\]"):
        read_still(path)


def test_a_palette_becomes_colors_and_metadata_is_kept(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)).quantize(8)
    picture.save(tmp_path / "palette.png", dpi=(300, 300))
    still = read_still(tmp_path / "palette.png")
    assert still.pixels.shape == (3, 8, 8)
    write_still(tmp_path / "out.png", still)
    with Image.open(tmp_path / "out.png") as written:
        assert written.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize(
    ("name", "fill", "message"),
    [
        ("no.png", None, "there is no file"),
        ("text.png", lambda path: path.write_text("no image"), "cannot be read"),
        ("float.tif", lambda path: Image.fromarray(np.zeros((4, 4), np.float32)).save(path), "32 bits"),
        (
            "two.tif",
            lambda path: Image.new("L", (4, 4)).save(path, save_all=True, append_images=[Image.new("L", (4, 4))]),
            "2 pages",
        ),
    ],
)
def test_files_that_are_no_stills_are_refused_by_name(tmp_path, name, fill, message):
    path = tmp_path / name
    if fill is not None:
        fill(path)
    with pytest.raises(BrokenVideoError, match=rf"{name}.*{message}|{message}.*{name}"):
        read_still(path)


def test_an_image_is_denoised_with_the_estimated_noise(tmp_path, capsys):
    save(tmp_path / "in.png", noisy(3, 40, 48).clamp(0, 1).mul(255).round().permute(1, 2, 0).numpy())
    main(["denoise", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--device", "cpu"])
    pixels = read_still(tmp_path / "in.png").pixels[None]
    sigma = float(functional.estimate_noise(pixels).square().mean().sqrt())
    expected = functional.non_local_means(pixels, patch=5, h=STRENGTH * sigma, sigma=sigma)
    np.testing.assert_array_equal(values(tmp_path / "out.png"), expected[0].clamp(0, 1).mul(255).round().int())
    assert (read_still(tmp_path / "out.png").pixels - scene(3, 40, 48)).square().mean().sqrt() < NOISE / 3
    assert f"noise {sigma * 255:.1f}, h {STRENGTH * sigma * 255:.1f}" in capsys.readouterr().out


@pytest.mark.parametrize(("bits", "channels"), [(16, 4), (8, 2)])
def test_bits_and_alpha_are_kept(tmp_path, bits, channels):
    given = noisy(channels, 20, 24).clamp(0, 1).mul(2**bits - 1).round().permute(1, 2, 0).numpy()
    save(tmp_path / "in.png", given, bits)
    words = ["--sigma", "20", "--h", "15", "--window", "global", "--patch", "3"]
    main(["denoise", str(tmp_path / "in.png"), str(tmp_path / "out.png"), *words])
    before, after = (read_still(tmp_path / f"{name}.png") for name in ("in", "out"))
    assert after.bits == bits
    assert torch.equal(after.alpha, before.alpha)
    expected = functional.non_local_means(before.pixels[None], patch=3, window=None, h=15 / 255, sigma=20 / 255)
    np.testing.assert_allclose(after.pixels, expected[0].clamp(0, 1), atol=0.51 / (2**bits - 1) + 1e-6)


def test_a_folder_names_what_cannot_be_read(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        save(folder / name, noisy(1, 24, 24)[0].clamp(0, 1).mul(255).numpy())
    (folder / "broken.png").write_bytes(b"no image")
    save(folder / "tiny.png", np.zeros((1, 1)))
    (folder / "notes.txt").write_text("no image, and not taken for one")
    words = ["denoise", str(folder), str(tmp_path / "out"), "--sigma", "20"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "b.jpg"}
    assert "broken.png' cannot be read" in printed
    assert "tiny.png: patch=" in printed
    assert "2 of 4 images skipped" in printed
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "exists; --overwrite" in capsys.readouterr().err


def test_weights_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="pip install 'torch-nonlocal[view]'")
    save(tmp_path / "in.png", noisy(1, 24, 30)[0].clamp(0, 1).mul(255).numpy())
    main(["denoise", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--sigma", "20", "--show", "5,7"])
    with Image.open(tmp_path / "out-weights.png") as picture:
        assert min(picture.size) > 100


@pytest.mark.parametrize("frames", [1, 3, 7])
def test_frames_one_after_another_equal_the_whole_video(frames):
    denoiser = Denoiser(patch=3, window=5, frames=frames)
    strength = Strength(NOISE, STRENGTH * NOISE)
    video = torch.stack([noisy(3, 12, 14, seed=seed) for seed in range(21)], 1).clamp(0, 1).mul(255).round()
    whole = functional.non_local_means(
        video[None] / 255, patch=(1, 3, 3), window=(frames, 5, 5), h=strength.h, sigma=strength.sigma
    )
    expected = whole[0].clamp(0, 1).mul(255)
    for count in (1, 2, 9, 21):  # the last frames of a part see frames that the part does not have
        part = video[:, :count].byte().permute(1, 2, 3, 0)
        given = torch.stack(list(denoise_frames(part, denoiser, strength))).permute(3, 0, 1, 2)
        certain = count if count == 21 else max(0, count - frames // 2)
        assert given.shape[1] == count
        assert ((given - expected[:, :count]).abs().amax((0, 2, 3))[:certain] < 0.51).all()


def test_a_video_is_denoised(tmp_path, capsys):
    clip = torch.stack([noisy(3, 32, 48, seed=seed) for seed in range(11)]).clamp(0, 1).mul(255).byte()
    write_mp4(tmp_path / "in.mp4", clip.permute(0, 2, 3, 1), 10)
    main(["denoise", str(tmp_path / "in.mp4"), str(tmp_path / "out.mp4"), "--frames", "3", "--window", "9"])
    about = probe(tmp_path / "out.mp4")
    assert (about.frames, about.fps, about.height, about.width) == (11, 10, 32, 48)
    errors = [
        (read_clip(tmp_path / name).float() / 255 - scene(3, 32, 48).permute(1, 2, 0)).square().mean().sqrt()
        for name in ("in.mp4", "out.mp4")
    ]
    assert errors[1] < errors[0] / 2
    assert "noise" in capsys.readouterr().out


def test_a_clean_image_is_unchanged(tmp_path, capsys):
    save(tmp_path / "in.png", np.full((16, 16), 100))
    main(["denoise", str(tmp_path / "in.png"), str(tmp_path / "out.png")])
    assert torch.equal(values(tmp_path / "in.png"), values(tmp_path / "out.png"))
    assert "unchanged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in.png", "out.png", "--sigma", "much"], "--sigma much: expected auto or a number, 0 or more"),
        (["in.png", "out.png", "--sigma", "-1"], "--sigma -1"),
        (["in.png", "out.png", "--h", "0"], "--h 0: expected auto or a number, above 0"),
        (["in.png", "out.png", "--sigma", "0"], "expected a number for --h"),
        (["in.png", "out.png", "--patch", "4"], "--patch 4: expected an odd number"),
        (["in.png", "out.png", "--window", "20"], "--window 20: expected an odd number"),
        (["in.png", "out.png", "--window", "all"], "--window all: expected an odd number of pixels, or global"),
        (["in.png", "out.png", "--frames", "2"], "--frames 2"),
        (["in.png", "out.png", "--show", "5"], "--show 5: expected y,x"),
        (["in.png", "out.png", "--show", "99,0"], "expected 2 numbers from 0, below (8, 8)"),
        (["in.png", "out.txt"], "expected a name that ends in .bmp"),
        (["no.png", "out.png"], "there is no file 'no.png'"),
        (["film.mp4", "out.png"], "expected a name that ends in .mp4 or .gif"),
        (["deep.png", "out.jpg"], "JPEG files have no 16 bits; expected a name that ends in .png"),
        (["alpha.png", "out.jpg"], "JPEG files have no alpha"),
        (["empty", "out"], "no images in this folder"),
        (["in.png", "in.png"], "OUT in.png exists; --overwrite replaces it"),
    ],
)
def test_mistakes_are_named_and_leave_no_file(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "in.png", np.arange(64).reshape(8, 8))
    save(tmp_path / "alpha.png", np.zeros((8, 8, 4)))
    save(tmp_path / "deep.png", np.zeros((8, 8)), 16)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(["denoise", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
