"""`nonlocal view --follow` and `--camera`: links on the newest frame of a running video."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

for name in ("av", "jinja2", "matplotlib", "rich", "tyro"):
    pytest.importorskip(name, reason="pip install 'torch-nonlocal[all]'")
Image = pytest.importorskip("PIL.Image", reason="pip install 'torch-nonlocal[all]'")

import torch_nonlocal as nl  # noqa: E402 (after the skips)
from torch_nonlocal.cli.entry import main  # noqa: E402
from torch_nonlocal.media import probe, read_clip, write_mp4  # noqa: E402
from torch_nonlocal.media.live import file_frames  # noqa: E402
from torch_nonlocal.tasks import live  # noqa: E402

FRAMES = 40
NETWORK = """
import torch
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv3d(3, 8, (1, 8, 8), (1, 8, 8)), torch.nn.ReLU())
"""


def video():
    frames = torch.full((FRAMES, 48, 64, 3), 40, dtype=torch.uint8)
    for t in range(FRAMES):
        frames[t, 16:32, t : t + 16, 0] = 255
    return frames


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("live")
    write_mp4(root / "clip.mp4", video().numpy(), 10)
    (root / "net.py").write_text(NETWORK)
    for causal in ("frames", None):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv3d(3, 8, (1, 8, 8), (1, 8, 8)), nn.ReLU())
        options = {"causal": causal, "window_frames": 4} if causal else {}
        nl.insert(net, at="0", example_input=torch.zeros(1, 3, 4, 48, 64), **options)
        nn.init.ones_(nl.blocks(net)["0"].norm.weight)
        nl.save_blocks(net, root / f"{causal or 'all'}.pt")
    return root


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    monkeypatch.setattr(live, "_has_display", lambda: False)


def test_frames_of_a_file_are_those_of_the_clip(files):
    frames = torch.stack(list(file_frames(files / "clip.mp4")))
    assert torch.equal(frames, read_clip(files / "clip.mp4"))
    reduced = next(file_frames(files / "clip.mp4", 24))
    assert reduced.shape == (24, 32, 3)


def test_following_a_video_with_causal_blocks(files, tmp_path, capsys):
    arguments = ["view", str(files / "frames.pt"), "--model", f"{files / 'net.py'}:network"]
    main([*arguments, "--follow", str(files / "clip.mp4"), "--point", "24,50%", "-o", str(tmp_path / "out")])
    assert f"0: {FRAMES} frames" in capsys.readouterr().out
    assert probe(tmp_path / "out" / "live.mp4").frames == FRAMES
    with Image.open(tmp_path / "out" / "latest.png") as latest:
        assert latest.size[0] > 64
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["latest.png", "live.mp4"]


def test_pictures_show_the_links_of_the_network_on_the_whole_clip(files, monkeypatch):
    network = live.live_network(
        f"{files / 'net.py'}:network",
        checkpoint=files / "frames.pt",
        at="",
        temperature=0.1,
        window=8,
        pretrained=False,
    )
    looks = []
    monkeypatch.setattr(live, "live_picture", lambda clip, looked, **_: looks.append((len(clip), looked)))
    list(live._Pictures(network, ("20", "30"), "", 5).draw(video()))
    with nl.watch(network) as seen, torch.no_grad():
        network(live.inputs_of(network).normalize(video().permute(0, 3, 1, 2)).transpose(0, 1)[None])
    assert [kept for kept, _ in looks] == [1, 2, 3, *[4] * (FRAMES - 3)]
    for newest in (0, 2, 20, FRAMES - 1):
        kept, looked = looks[newest]
        row = seen["0"].rows([(newest, 2, 3)])[0][newest + 1 - kept : newest + 1]
        torch.testing.assert_close(torch.from_numpy(looked.row).float(), row, rtol=1e-4, atol=1e-6)
        assert len(looked.links) == 5


def test_following_without_a_checkpoint(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.ReLU()).eval()
    similar = live.SimilarFeatures(network, "0", window=3, temperature=0.1)
    found = live.follow(similar, video()[:7], tmp_path, fps=10, k=4, window=False)
    assert (found.frames, found.block) == (7, "similarity")
    assert read_clip(found.film).shape[0] == 7


class Camera:
    def __init__(self, number):
        self.left, self.released = (5 if number == 0 else 0), False

    def isOpened(self):  # noqa: N802 (OpenCV's name)
        return self.left > 0

    def read(self):
        self.left -= 1
        return self.left >= 0, video()[5 - self.left].numpy()[..., ::-1]

    def release(self):
        self.released = True


def test_following_a_camera(files, tmp_path, monkeypatch, capsys):
    cv2 = pytest.importorskip("cv2", reason="pip install 'torch-nonlocal[camera]'")
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    arguments = ["view", str(files / "frames.pt"), "--model", f"{files / 'net.py'}:network"]
    main([*arguments, "--camera", "0", "-o", str(tmp_path / "out")])
    assert "0: 5 frames" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*arguments, "--camera", "3", "-o", str(tmp_path / "out")])
    assert "camera 3 cannot be opened" in capsys.readouterr().err


def test_a_missing_opencv_is_named(monkeypatch):
    from torch_nonlocal.media.live import camera_frames

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"missing package opencv-python: pip install 'torch-nonlocal\[camera\]'"):
        next(camera_frames(0))


def test_a_window_ends_with_a_key(tmp_path, monkeypatch):
    keys = iter([-1, -1, ord("q")])
    shown = []
    cv2 = SimpleNamespace(
        imshow=lambda _, picture: shown.append(picture), waitKey=lambda _: next(keys), destroyAllWindows=shown.clear
    )
    monkeypatch.setattr(live, "_has_display", lambda: True)
    monkeypatch.setattr(live, "is_installed", lambda name: True)
    monkeypatch.setattr(live, "require", lambda name: cv2 if name == "cv2" else Image)
    network = nn.Sequential(nn.Conv2d(3, 6, 8, 8)).eval()
    similar = live.SimilarFeatures(network, "0", window=3, temperature=0.1)
    found = live.follow(similar, video(), tmp_path, fps=10)
    assert probe(found.film).frames == 3
    assert shown == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--follow", "CLIP", "--camera", "0"], "expected one of them"),
        (["CAUSAL", "CAUSAL", "--follow", "CLIP"], "take one file of blocks"),
        (["ALL", "--model", "NET", "--follow", "CLIP"], "its blocks attend to all frames"),
        (["CAUSAL", "--model", "NET", "--follow", "CLIP", "--point", "500,3"], "y is 500, expected 0 to 47"),
        (["CAUSAL", "--model", "NET", "--follow", "CLIP", "--point", "5"], "expected y,x"),
        (["CAUSAL", "--model", "NET", "--follow", "CLIP", "--block", "7"], "--block 7: expected one of 0"),
        (["--model", "NET", "--follow", "CLIP"], "--at is required without a checkpoint"),
        (["CAUSAL", "--model", "NET", "--follow", "none.mp4"], "there is no file"),
        ([], "PATH: expected a video"),
    ],
)
def test_wrong_options(files, tmp_path, capsys, arguments, message):
    names = {
        "CLIP": files / "clip.mp4",
        "CAUSAL": files / "frames.pt",
        "ALL": files / "all.pt",
        "NET": f"{files / 'net.py'}:network",
    }
    with pytest.raises(SystemExit):
        main(["view", *(str(names.get(word, word)) for word in arguments), "-o", str(tmp_path)])
    assert message in " ".join(capsys.readouterr().err.split())
