"""Ranked lists as pictures: order, signs, and what is written below the pictures."""

import sys

import numpy as np
import pytest

from torch_nonlocal.tasks.attention_picture import rendered
from torch_nonlocal.tasks.reid.ranked_picture import RIGHT, WRONG, RankedList, Shown, camera_text, ranked_picture

GRAY = np.full((16, 8, 3), 128, np.uint8)


def shown(name, right=None, picture=GRAY):
    return Shown(picture, [name, "camera 1"], right)


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def frames(figure):
    """Color and line of the frame around each match."""
    import matplotlib.colors as colors
    from matplotlib.patches import Rectangle

    found = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle) and not patch.get_fill()]
    return [(colors.to_hex(patch.get_edgecolor()), patch.get_linestyle() in ("-", "solid")) for patch in found]


def test_matches_are_marked_by_sign_color_and_line():
    matches = [shown("b", right=False), shown("a", right=True), shown("c")]
    figure = ranked_picture([RankedList(shown("a"), matches)])
    assert texts(figure)[::3] == ["query", "\u2717 1", "\u2713 2", "3"]
    assert texts(figure)[1::3] == ["a", "b", "a", "c"]
    assert frames(figure) == [(WRONG, False), (RIGHT, True)]


def test_ranks_may_leave_some_out_and_a_verdict_stands_before_the_matches():
    far = RankedList(shown("a"), [shown("b", right=False), shown("a", right=True)], ranks=[1, 77], title="far")
    unknown = RankedList(shown("z"), [], verdict="unknown")
    figure = ranked_picture([far, unknown])
    assert "\u2713 77" in texts(figure)
    assert texts(figure)[0] == "far"
    assert texts(figure)[-1] == "unknown"
    with pytest.raises(ValueError, match="got 1 ranks, expected one for each of 2 matches"):
        ranked_picture([RankedList(shown("a"), far.matches, ranks=[1])])


def test_pictures_and_names_of_any_kind_are_drawn():
    hostile = ["$x_", "a\nb\x1b[31m", "x" * 300, "\u4eba", "<b>"]
    pictures = [GRAY, np.zeros((4, 40, 3), np.uint8), None, np.zeros((300, 150, 3), np.uint8), GRAY]
    matches = [shown(name, True, picture) for name, picture in zip(hostile, pictures, strict=True)]
    figure = ranked_picture([RankedList(shown("q", picture=None), matches, title="$\\frac{" * 40)])
    image = rendered(figure)
    assert image.mode == "RGB"
    assert all("\x1b" not in text and "\n" not in text and len(text) < 200 for text in texts(figure))
    assert texts(figure).count("not readable") == 2
    assert len(sys.modules["matplotlib.pyplot"].get_fignums()) == 0 if "matplotlib.pyplot" in sys.modules else True


@pytest.mark.parametrize(
    ("name", "text"),
    [("1", "camera 1"), ("door", "camera door"), ("camera2", "camera2"), ("Cam_a", "Cam_a"), ("", "")],
)
def test_cameras_are_named_as_cameras(name, text):
    assert camera_text(name) == text


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="no ranked lists"):
        ranked_picture([])
    with pytest.raises(ValueError, match=r"shape \(8, 8\)"):
        ranked_picture([RankedList(shown("a", picture=np.zeros((8, 8), np.uint8)), [])])
