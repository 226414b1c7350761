"""An overview of embeddings: their first two principal components. N tracklets, E embedding width, C components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.optional import require
from torch_nonlocal._common.text import counted, elided
from torch_nonlocal.tasks.reid.labels import Array
from torch_nonlocal.tasks.reid.ranked_picture import camera_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORED = 20  # identities
_MARKERS = "os^DvP*X"
_LETTERS = 22  # of a name
_ROUNDING = 4 * torch.finfo(torch.float64).eps


class Components(NamedTuple):
    """Principal components.

    Attributes:
        coordinates: (N, C) float64.
        shares: (C,) float64, shares of the variance; 0 if all embeddings are equal.
    """

    coordinates: Array
    shares: Array


def principal_components(embeddings_NE: Any, components: int = 2) -> Components:
    """The coordinates of embeddings on the directions of their largest variance.

    Deterministic: the entry of each direction with the largest absolute value is positive. Computed in float64 from the
    smaller one of the E x E and the N x N products.

    Args:
        embeddings_NE: embeddings, tensor or array.
        components: C; components beyond the rank of the embeddings are zero.

    Raises:
        ValueError: the shape is not (N, E).
    """
    x_NE = torch.as_tensor(embeddings_NE).detach().cpu().double()
    if x_NE.ndim != 2 or not x_NE.numel():
        raise ValueError(f"embeddings have shape {tuple(x_NE.shape)}, expected (tracklets, width)")
    noise = float(x_NE.abs().max()) * _ROUNDING
    x_NE = x_NE - x_NE.mean(0)
    total = float(x_NE.square().sum())
    number, width = x_NE.shape
    kept = min(components, number, width)
    product = x_NE @ x_NE.T if number < width else x_NE.T @ x_NE
    variances_K, vectors = torch.linalg.eigh(product)
    variances_C, vectors_C = variances_K.flip(0)[:kept].clamp(min=0), vectors.flip(1)[:, :kept]
    if number < width:
        vectors_C = torch.nn.functional.normalize(x_NE.T @ vectors_C, dim=0)
    largest = vectors_C.gather(0, vectors_C.abs().argmax(0, keepdim=True))
    vectors_C = vectors_C * torch.where(largest < 0, -1.0, 1.0)
    coordinates, shares = np.zeros((number, components)), np.zeros(components)
    if total > x_NE.numel() * noise**2:
        coordinates[:, :kept] = (x_NE @ vectors_C).numpy()
        shares[:kept] = (variances_C / total).numpy()
    return Components(coordinates, shares)


def overview_picture(components: Components, identities: Sequence[str], cameras: Sequence[str]) -> Figure:
    """Tracklets at their first two principal components: colors are identities, markers are cameras.

    At most 20 identities have colors, those with the most tracklets; thin lines join their tracklets to their mean. The
    others are gray.

    Args:
        components: of N tracklets.
        identities: name of the identity of each tracklet; "" for junk and distractors, which are gray.
        cameras: name of the camera of each tracklet.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure_module = require("matplotlib.figure", extra="view")
    lines = require("matplotlib.lines", extra="view")
    colormaps = require("matplotlib", extra="view").colormaps
    figure = figure_module.Figure(figsize=(11.3, 5.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    points, names = components.coordinates, np.array(identities)
    known = sorted(set(cameras))
    markers = {camera: _MARKERS[min(number, len(_MARKERS) - 1)] for number, camera in enumerate(known)}
    seen_by = np.array([markers[camera] for camera in cameras])
    colored = most_frequent(identities, _COLORED)
    for marker in dict.fromkeys(markers.values()):
        others = ~np.isin(names, colored) & (seen_by == marker)
        axes.scatter(*points[others].T, marker=marker, s=9, color="#9a9a9a", alpha=0.35, linewidths=0)
    legend = []
    for number, name in enumerate(colored):
        color = colormaps["tab20"](number % 20)
        own = names == name
        middle = points[own].mean(0)
        for point in points[own]:
            axes.plot(*np.stack([middle, point]).T, color=color, linewidth=0.9, alpha=0.8, zorder=2)
        for marker in dict.fromkeys(markers.values()):
            here = own & (seen_by == marker)
            axes.scatter(
                *points[here].T, marker=marker, s=46, color=[color], edgecolors="#1a1a1a", linewidths=0.6, zorder=3
            )
        legend.append(lines.Line2D([], [], color=color, linewidth=3, label=elided(printable(name), _LETTERS)))
    gray = len({name for name in identities if name} - set(colored))
    for camera in known[: len(_MARKERS)]:
        is_shared = len(known) > len(_MARKERS) and camera == known[len(_MARKERS) - 1]
        label = "other cameras" if is_shared else elided(printable(camera_text(camera)), _LETTERS)
        style = {"color": "#1a1a1a", "markerfacecolor": "none", "linestyle": "none"}
        legend.append(lines.Line2D([], [], marker=markers[camera], label=label, **style))
    for at, axis in enumerate((axes.xaxis, axes.yaxis)):
        axis.set_label_text(f"component {at + 1}: {components.shares[at]:.1%} of the variance")
    others = f"; gray: {counted(gray, 'other identity', 'other identities')}" if gray else ""
    axes.set_title(f"embeddings by principal components, {counted(len(points), 'tracklet')}{others}", fontsize=11)
    axes.grid(color="#ececec", linewidth=0.7)
    axes.set_axisbelow(True)
    columns = 1 if len(legend) <= 24 else 2
    key = figure.legend(handles=legend, loc="outside right center", fontsize=8, ncols=columns, frameon=False)
    for text in key.get_texts():
        text.set_parse_math(False)
    return figure


def most_frequent(names: Sequence[str], most: int) -> list[str]:
    """The names that occur most often, at most `most`; of equals the first by name. "" does not count."""
    counts: dict[str, int] = {}
    for name in names:
        if name:
            counts[name] = counts.get(name, 0) + 1
    return sorted(sorted(counts), key=lambda name: -counts[name])[:most]
