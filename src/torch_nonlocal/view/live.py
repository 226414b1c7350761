"""The newest frame of a video with the links of one of its positions, drawn with Pillow while the video runs."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from torch_nonlocal.view.colors import bright_part
from torch_nonlocal.view.link_arrows import NEGLIGIBLE
from torch_nonlocal.view.look import Look
from torch_nonlocal.view.movie import panel, panel_size
from torch_nonlocal.view.overlays import ALPHA, CMAP, paint, scale_around

_AGES = "viridis"


def live_picture(clip_THWC: np.ndarray, looked: Look, *, title: str, label: str) -> np.ndarray:
    """Draw the newest frame, the weights on it, and lines to the strongest links, wherever in time they are.

    Args:
        clip_THWC: the frames that the block keeps, the newest last, uint8.
        looked: the weights and links of a position of the newest frame.
        title: text above the picture.
        label: text below it.

    Returns:
        (H, W, 3) uint8. Lines are bright for links to the newest frames and dark for links to the oldest.
    """
    newest = len(clip_THWC) - 1
    scale = scale_around(looked.row, looked.query, clip_THWC, cmap=CMAP, vmax=None)
    width, height = panel_size(clip_THWC.shape[1], clip_THWC.shape[2], 1)
    frame = Image.fromarray(paint(clip_THWC, looked.row, newest, scale, ALPHA, "nearest"))
    picture = frame.resize((width, height), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    ages = bright_part(_AGES)

    def place(pixel: tuple[float, ...]) -> tuple[float, float]:
        return (pixel[2] + 0.5) * width / clip_THWC.shape[2], (pixel[1] + 0.5) * height / clip_THWC.shape[1]

    strongest = max((abs(link.weight) for link in looked.links), default=0.0)
    for link in reversed(looked.links):  # the strongest on top
        share = abs(link.weight) / strongest if strongest else 0.0
        if not share >= NEGLIGIBLE:  # negligible or NaN
            continue
        age = 1 - (newest - min(link.target_pixel[0], newest)) / max(newest, 1)
        color = tuple(round(255 * part) for part in ages(age)[:3])
        source, target = place(link.source_pixel), place(link.target_pixel)
        draw.line([source, target], fill=color, width=1 + round(4 * share))
        draw.ellipse([target[0] - 4, target[1] - 4, target[0] + 4, target[1] + 4], fill=color, outline=(0, 0, 0))
    return panel(np.asarray(picture), (width, height), title, label, scale, (looked.query, True))
