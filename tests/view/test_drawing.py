"""Pictures show their input: colors follow weights, arrows end at their targets, and files have the right format."""

import io
import subprocess
import sys

import pytest
import torch

np = pytest.importorskip("numpy", reason="drawing needs it: pip install 'torch-nonlocal[view]'")
Image = pytest.importorskip("PIL.Image", reason="drawing needs Pillow: pip install 'torch-nonlocal[view]'")
patches = pytest.importorskip("matplotlib.patches", reason="drawing needs it: pip install 'torch-nonlocal[view]'")

from matplotlib import colormaps  # noqa: E402 (after the skips)
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402 (after the skips)

from torch_nonlocal import view  # noqa: E402 (after the skips)


def hot_row(frames: int = 4, size: int = 8) -> torch.Tensor:
    """Weights that sum to one, with most of the sum in cell (2, 1, 6)."""
    row = torch.full((frames, size, size), 0.2 / (frames * size * size - 1))
    row[2, 1, 6] = 0.8
    return row


def warmth(frame) -> np.ndarray:
    """Red minus blue: inferno goes from black to yellow."""
    return frame[..., 0].astype(int) - frame[..., 2].astype(int)


def frame_extents(picture) -> list:
    """(left, right, bottom, top) of each frame on the sheet, in inches, y downward."""
    return [image.get_extent() for image in picture.figure.axes[0].images]


def drawn_arrows(picture) -> list:
    return [patch for patch in picture.figure.axes[0].patches if isinstance(patch, patches.FancyArrowPatch)]


def on_the_sheet(picture, pixel, size) -> np.ndarray:
    left, right, bottom, top = frame_extents(picture)[picture.frames.index(int(pixel[0]))]
    across = left + (pixel[2] + 0.5) / size[1] * (right - left)
    return np.array([across, top + (pixel[1] + 0.5) / size[0] * (bottom - top)])


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_largest_weight_has_the_brightest_color_in_its_frames_only(digits, interpolation):
    frames = view.overlay(digits, hot_row(), interpolation=interpolation)
    assert frames.shape == (8, 32, 32, 3)
    assert frames.dtype == np.uint8
    hot = np.zeros((8, 32, 32), dtype=bool)
    hot[4:6, 4:8, 24:28] = True  # the pixels of the cell: frames 4 and 5, rows 4 to 7, columns 24 to 27
    center = hot.copy()
    center[:, [4, 7]] = center[:, :, [24, 27]] = False
    around = np.zeros_like(hot)
    around[4:6, :12, 20:32] = True  # where bilinear interpolation fades out
    heat = warmth(frames)
    assert heat[center].min() > heat[~around].max() + 60
    if interpolation == "nearest":
        assert heat[hot].min() > heat[~hot].max() + 60
        assert len(np.unique(frames[4, 4:8, 24:28].reshape(-1, 3), axis=0)) == 1


def test_nearest_keeps_all_cells_where_sizes_do_not_divide():
    row = torch.arange(6.0).reshape(1, 2, 3)
    frame = view.overlay(torch.zeros(5, 10, 3), row, interpolation="nearest")[0].sum(-1)
    assert (np.diff(frame.astype(int), axis=1) >= 0).all()
    assert len(np.unique(frame)) == 6
    assert [len(np.unique(line)) for line in frame] == [3] * 5


def test_alpha_zero_shows_the_frame_in_grayscale(digits):
    frames = view.overlay(digits, hot_row(), alpha=0)
    np.testing.assert_array_equal(frames[..., 0], np.rint(digits.numpy() * 255))


def test_signed_weights_have_two_colors(digits):
    row = torch.zeros(8, 4, 4)
    row[0, 0, 0], row[0, 3, 3] = 2.0, -2.0
    frame = view.overlay(digits, row, interpolation="nearest")[0]
    assert warmth(frame)[3, 3] > 60
    assert warmth(frame)[28, 28] < -60


def test_vmax_sets_a_common_scale(digits):
    faint = hot_row() / 10
    own, common = view.overlay(digits, faint), view.overlay(digits, faint, vmax=0.8)
    np.testing.assert_array_equal(own, view.overlay(digits, hot_row()))
    assert warmth(common).max() < warmth(own).max()


def test_heatmap_shows_frames_numbers_scale_and_query(digits):
    picture = view.heatmap(digits, hot_row(), query=(3, 13, 18))
    assert picture.frames == list(range(8))
    words = [text.get_text() for text in picture.figure.axes[0].texts]
    assert words[:8] == [f"frame {t}" for t in range(8)]
    assert "frame 3, y 13, x 18" in words[-1]
    (ring,) = [line for line in picture.figure.axes[0].lines if line.get_gid() == "query"]
    np.testing.assert_allclose(np.ravel(ring.get_data()), on_the_sheet(picture, (3, 13, 18), (32, 32)))
    assert len(picture.figure.axes) == 2
    assert len(view.heatmap(digits, hot_row(), scale_bar=False).figure.axes) == 1
    assert picture.array.shape == (picture.image.height, picture.image.width, 3)
    assert len(np.unique(picture.array.reshape(-1, 3), axis=0)) > 100


def test_compare_draws_one_strip_per_block(digits):
    picture = view.compare(digits, {"layer2": hot_row(), "layer3": hot_row(4, 4 * 2)[:, ::2, ::2]}, frames=[0, 4])
    assert len(frame_extents(picture)) == 4
    words = [text.get_text() for text in picture.figure.axes[0].texts]
    assert {"layer2", "layer3", "frame 0", "frame 4"} <= set(words)
    assert len(picture.figure.axes) == 3  # the sheet and a scale for each


def test_arrows_start_at_the_source_and_end_at_the_target(digits, link):
    links = [link((3, 13, 18), (t, 30 - 4.0 * t, 4.0 * t), 0.01 * (t + 1)) for t in range(8)]
    picture = view.arrows(digits, links)
    drawn = {arrow.get_gid(): arrow for arrow in drawn_arrows(picture)}
    assert sorted(drawn) == [f"link-{rank}" for rank in range(8)]
    for rank, expected in enumerate(sorted(links, key=lambda one: -one.weight)):
        points = drawn[f"link-{rank}"].get_path().vertices
        begin, end = (
            on_the_sheet(picture, pixel, (32, 32)) for pixel in (expected.source_pixel, expected.target_pixel)
        )
        np.testing.assert_allclose(points[0], begin, atol=0.01)  # inches; a pixel here is 0.05
        assert np.linalg.norm(points - end, axis=1).min() < 0.03


def test_arrows_show_the_strongest_links_wider_and_on_top(digits, link):
    links = [link((0, 2, 2), (1 + n % 7, n % 32, 31 - n % 32), 0.001 * (n + 1)) for n in range(50)]
    picture = view.arrows(digits, links, k=12)
    drawn = drawn_arrows(picture)
    assert len(drawn) == 12
    assert [arrow.get_gid() for arrow in drawn] == [f"link-{rank}" for rank in reversed(range(12))]  # strongest last
    widths = [arrow.get_linewidth() for arrow in drawn]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]
    colors = [arrow.get_edgecolor() for arrow in drawn]
    assert len(set(colors)) == 12


def test_links_below_a_hundredth_of_the_strongest_have_no_arrow(digits, link):
    weights = (0.9, 0.0091, 0.0089, -0.02, 1e-6)
    picture = view.arrows(digits, [link((0, 2, 2), (n, 20, 20), weight) for n, weight in enumerate(weights, start=1)])
    assert {arrow.get_gid() for arrow in drawn_arrows(picture)} == {"link-0", "link-1", "link-2"}
    assert picture.frames == [0, 1, 2, 4]
    assert "3 strongest links" in picture.figure.axes[0].texts[-1].get_text()


def test_negative_links_rank_by_absolute_weight_and_have_another_color(digits, link):
    links = [link((0, 2, 2), (2, 20, 20), -3.0), link((0, 2, 2), (3, 20, 20), 2.9), link((0, 2, 2), (5, 9, 9), 0.1)]
    picture = view.arrows(digits, links, k=2)
    negative, positive = (arrow.get_edgecolor() for arrow in sorted(drawn_arrows(picture), key=lambda a: a.get_gid()))
    assert picture.frames == [0, 2, 3]
    assert negative[2] > negative[0]
    assert positive[0] > positive[2]


def test_arrows_use_the_color_scale_that_is_given(digits, link):
    links = [link((3, 9, 9), (4, 9, 9), 0.5), link((3, 9, 9), (6, 9, 9), 1.0)]
    scaled = [link((3, 9, 9), (4, 9, 9), 1.0), link((3, 9, 9), (6, 9, 9), 2.0)]
    wide, same = (
        {arrow.get_gid(): (arrow.get_edgecolor(), arrow.get_linewidth()) for arrow in drawn_arrows(picture)}
        for picture in (view.arrows(digits, links, vmax=2.0), view.arrows(digits, scaled))
    )
    assert wide["link-0"] == same["link-1"]
    (blue, *_), (red, *_) = (
        drawn_arrows(view.arrows(digits, links[:1], signed=signed))[0].get_edgecolor() for signed in (False, True)
    )
    assert blue != red
    assert drawn_arrows(view.arrows(digits, links[:1], signed=True))[0].get_edgecolor() == colormaps["coolwarm"](1.0)


def test_arrows_show_the_connected_frames_and_at_most_eight(link):
    clip = torch.zeros(64, 24, 40, 3)
    few = [link((10, 5, 5), (t, 9, 9), 0.1) for t in (3, 50, 10)]
    assert view.arrows(clip, few).frames == [3, 10, 50]
    many = [link((11, 5, 5), (t + 0.5, 9, 9), 0.1 + t / 1000) for t in range(0, 64, 2)]
    picture = view.arrows(clip, many)
    assert len(picture.frames) == 8
    assert 11 in picture.frames
    assert "within the frames shown" in picture.figure.axes[0].texts[-1].get_text()
    assert view.arrows(clip, many, frames=[11, 13]).frames == [11, 13]  # 12.5 is as near to 13 as to 12


def test_link_to_itself_is_a_dot(digits, link):
    picture = view.arrows(digits, [link((3, 13, 18), (3, 13, 18), 0.5), link((3, 13, 18), (4, 0, 0), 0.1)])
    assert [arrow.get_gid() for arrow in drawn_arrows(picture)] == ["link-1"]
    assert "link-0" in [line.get_gid() for line in picture.figure.axes[0].lines]


def test_ring_marks_the_common_end_of_all_links(digits, link):
    picture = view.arrows(digits, [link((t, 4, 4), (5, 13, 18), 0.1) for t in range(4)])
    (ring,) = [line for line in picture.figure.axes[0].lines if line.get_gid() == "query"]
    np.testing.assert_allclose(np.ravel(ring.get_data()), on_the_sheet(picture, (5, 13, 18), (32, 32)))


def test_positions_in_an_image_may_be_y_and_x(link):
    image = torch.zeros(40, 60, 3)
    picture = view.arrows(image, [link((5.0, 7.0), (30.0, 50.0), 0.2)])
    (arrow,) = drawn_arrows(picture)
    end = on_the_sheet(picture, (0, 30, 50), (40, 60))
    assert np.linalg.norm(arrow.get_path().vertices - end, axis=1).min() < 0.03
    assert view.heatmap(image, torch.rand(4, 6), query=(5, 7)).frames == [0]
    with pytest.raises(ValueError, match=r"\(5\.0, 7\.0\) in a clip of 4 frames"):
        view.arrows(torch.zeros(4, 40, 60, 3), [link((5.0, 7.0), (30.0, 50.0), 0.2)])


@pytest.mark.parametrize(
    ("shape", "frames"), [((8, 32, 32), 8), ((8, 136, 320, 3), 8), ((200, 2000, 3), 1), ((6, 300, 40, 3), 6)]
)
def test_frames_keep_their_aspect_ratio_and_never_overlap(shape, frames):
    clip = torch.zeros(shape)
    height, width = shape[-3:-1] if shape[-1] == 3 else shape[-2:]
    picture = view.heatmap(clip, torch.ones(frames, 4, 4))
    extents = frame_extents(picture)
    assert len(extents) == frames
    for left, right, bottom, top in extents:
        assert (right - left) / (bottom - top) == pytest.approx(width / height)
        assert right - left > 0.4
    boxes = [(left, top, right, bottom) for left, right, bottom, top in extents]
    for n, one in enumerate(boxes):
        for two in boxes[n + 1 :]:
            assert one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]


def test_labels_do_not_overlap(digits):
    picture = view.compare(digits[:, :, :20], {"layer2": hot_row() / 1e4, "layer3": hot_row()}, query=(3, 13, 18))
    renderer = FigureCanvasAgg(picture.figure).get_renderer()
    texts = [*picture.figure.axes[0].texts, *picture.figure.texts]
    texts += [tick for axes in picture.figure.axes[1:] for tick in axes.get_yticklabels()]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    for n, one in enumerate(boxes):
        assert one.x0 >= 0
        assert one.x1 <= picture.figure.bbox.x1
        for two in boxes[n + 1 :]:
            assert not one.overlaps(two)


def test_suffix_selects_the_format_of_the_file(digits, link, tmp_path):
    picture = view.arrows(digits, [link((3, 13, 18), (4, 1, 1), 0.5)])
    for name in ("a.png", "a.jpg"):
        with Image.open(picture.save(tmp_path / name)) as image:
            assert image.size == picture.image.size
    svg = picture.save(tmp_path / "a.svg").read_text()
    assert "frame 3</text>" in svg
    assert 'id="link-0"' in svg
    again = view.arrows(digits, [link((3, 13, 18), (4, 1, 1), 0.5)]).save(tmp_path / "b.svg").read_text()
    assert svg == again
    assert picture.save(tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert Image.open(io.BytesIO(picture._repr_png_())).size == picture.image.size
    with pytest.raises(ValueError, match=r"expected a file name ending in \.png"):
        picture.save(tmp_path / "a.bmp")
    with pytest.raises(ValueError, match="no folder"):
        picture.save(tmp_path / "nowhere" / "a.png")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jpg", "a.pdf", "a.png", "a.svg", "b.svg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, r"alpha=1\.5: expected 0 to 1"),
        ({"cmap": "infrno"}, "no color map 'infrno'"),
        ({"vmax": 0}, "vmax=0: expected a positive number"),
        ({"interpolation": "cubic"}, "'nearest' or 'bilinear'"),
    ],
)
def test_invalid_options_raise(digits, options, message):
    with pytest.raises(ValueError, match=message):
        view.heatmap(digits, hot_row(), **options)


def test_invalid_links_raise(digits, link):
    with pytest.raises(ValueError, match="no links to draw"):
        view.arrows(digits, [])
    with pytest.raises(ValueError, match="k=0: expected the number of arrows"):
        view.arrows(digits, [link((0, 0, 0), (1, 1, 1), 0.1)], k=0)
    with pytest.raises(ValueError, match="link frame 12 is outside the clip: expected 0 to 7"):
        view.arrows(digits, [link((0, 0, 0), (12, 1, 1), 0.1)])
    with pytest.raises(ValueError, match="weight nan"):
        view.arrows(digits, [link((0, 0, 0), (1, 1, 1), float("nan"))])
    with pytest.raises(ValueError, match=r"no link lies within frames \[5\]"):
        view.arrows(digits, [link((0, 0, 0), (1, 1, 1), 0.1)], frames=[5])
    with pytest.raises(ValueError, match=r"expected \{name: row\}"):
        view.compare(digits, {})


@pytest.mark.parametrize("name", ["video.mp4", "video.gif"])
def test_video_shows_the_weights_of_each_frame(digits, tmp_path, name):
    if name.endswith("mp4"):
        pytest.importorskip("av", reason="PyAV writes MP4: pip install 'torch-nonlocal[video]'")
    rows = {"layer2": hot_row(), "layer3": hot_row().flip(0)}
    written = view.video(tmp_path / name, digits, rows, query=(3, 13, 18), fps=8)
    if name.endswith("mp4"):
        from torch_nonlocal.media import probe, read_clip

        assert (probe(written).frames, probe(written).fps) == (8, 8)
        frames = read_clip(written).numpy()
    else:
        with Image.open(written) as gif:
            assert gif.n_frames == 8
            frames = []
            for index in range(8):
                gif.seek(index)
                frames.append(np.asarray(gif.convert("RGB")))
    half = frames[0].shape[1] // 2
    middle = slice(30, -30)  # without titles, frame numbers and the color scale
    left = [warmth(frame[middle, :half]).max() for frame in frames]
    right = [warmth(frame[middle, half:]).max() for frame in frames]
    assert min(left[4:6]) > max(left[:4] + left[6:]) + 60  # the frames of the largest weight
    assert min(right[2:4]) > max(right[:2] + right[4:]) + 60


def test_invalid_videos_raise(digits, tmp_path):
    with pytest.raises(ValueError, match=r"ending in \.mp4 or \.gif"):
        view.video(tmp_path / "video.avi", digits, hot_row())
    with pytest.raises(ValueError, match="rows is empty"):
        view.video(tmp_path / "video.gif", digits, {})
    assert not list(tmp_path.iterdir())


def test_importing_view_imports_no_optional_package():
    code = (
        "import sys, torch_nonlocal.view as view\n"
        "heavy = {'numpy', 'PIL', 'matplotlib', 'av'} & set(sys.modules) - before\n"
        "assert not heavy, heavy\n"
        "import torch_nonlocal.view.link_arrows, torch_nonlocal.view.overlays, torch_nonlocal.view.movie\n"
        "assert all(callable(getattr(view, name)) for name in view.__all__)\n"
        "assert set(view.__all__) <= set(dir(view))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    before = "import sys, torch\nbefore = set(sys.modules)\n"  # torch imports numpy if it is installed
    done = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_missing_package_raises_with_the_pip_command(monkeypatch):
    for module in [name for name in sys.modules if name.startswith("torch_nonlocal.view.")]:
        monkeypatch.delitem(sys.modules, module)
    for name in view.__all__:
        monkeypatch.delitem(vars(view), name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'torch-nonlocal\[view\]'"):
        view.arrows  # noqa: B018 (the access imports)
    with pytest.raises(AttributeError, match="no attribute 'arows'"):
        view.arows  # noqa: B018


def test_names_of_blocks_in_pictures_are_neither_formulas_nor_control_characters(digits: torch.Tensor) -> None:
    names = ["$\\frac{$", "red \x1b[31m\u202e"]
    picture = view.compare(digits, {name: torch.rand(8, 4, 4) for name in names}, scale_bar=False)
    texts = [text.get_text() for text in picture.figure.axes[0].texts]
    assert "$\\frac{$" in texts
    assert r"red \x1b[31m\u202e" in texts
    assert picture.array.ndim == 3  # drawing does not fail


def texts_on(picture) -> list:
    """The texts of a picture except those of the color scale, with their boxes in inches, y downward."""
    renderer = FigureCanvasAgg(picture.figure).get_renderer()
    sheet, dpi = picture.figure.axes[0], picture.figure.dpi
    height = picture.figure.get_size_inches()[1]
    boxes = [text.get_window_extent(renderer) for text in sheet.texts]
    return [(one.x0 / dpi, height - one.y1 / dpi, one.x1 / dpi, height - one.y0 / dpi) for one in boxes]


@pytest.mark.parametrize(
    ("shape", "frames", "label"),
    [((8, 32, 32), None, "frame {}"), ((6, 272, 640), None, "frame {}, 0.40 s"), ((4, 64, 64), None, "frame {}"),
     ((8, 60, 200), None, "a long name of an image {}.png"), ((24, 40, 60), range(24), "frame {}, 12.50 s"),
     ((4, 60, 20), None, "frame {}, 0.40 s")],
    ids=["squares", "wide", "one line", "long names", "more than two lines", "upright"],
)  # fmt: skip
def test_no_arrow_crosses_a_text(shape, frames, label, link):
    clip = torch.zeros(shape)
    total, height, width = shape
    generator = np.random.default_rng(0)
    corners = [(0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1)]
    targets = [(t, *corners[n % 4]) for n, t in enumerate(range(total)) if t != total // 2]
    targets += [(int(t), y * height, x * width) for t, y, x in generator.random((10, 3)) * [total, 0.9, 0.9]]
    links = [link((total // 2, 1, width // 2), target, 0.1 + n / 100) for n, target in enumerate(targets)]
    names = [label.format(t) for t in range(total)]
    picture = view.arrows(clip, links, k=len(links), frames=frames, labels=names, title="what it shows")
    opaque = [text.get_bbox_patch() is not None for text in picture.figure.axes[0].texts]
    lines = {top for *_, top in frame_extents(picture)}
    assert not any(opaque) or len(lines) > 2  # up to two lines, no text lies between frames
    free = [box for box, on_top in zip(texts_on(picture), opaque, strict=True) if not on_top]
    for arrow in drawn_arrows(picture):
        line = arrow.get_transform().transform_path(arrow.get_path()).interpolated(30).vertices / picture.figure.dpi
        line[:, 1] = picture.figure.get_size_inches()[1] - line[:, 1]
        for left, top, right, bottom in free:
            inside = (line[:, 0] > left) & (line[:, 0] < right) & (line[:, 1] > top) & (line[:, 1] < bottom)
            assert not inside.any()


@pytest.mark.parametrize("label", ["frame {}, 411.50 s", "IMG_20260102_1234567890_{}.jpg"])
@pytest.mark.parametrize("shape", [(7, 32, 32), (8, 20, 60), (8, 60, 20)])
def test_long_labels_of_frames_do_not_overlap(shape, label):
    clip = torch.zeros(shape)
    picture = view.heatmap(clip, torch.rand(shape[0], 4, 4), labels=[label.format(12000 + t) for t in range(shape[0])])
    boxes = texts_on(picture)
    for n, one in enumerate(boxes):
        for two in boxes[n + 1 :]:
            assert one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]
