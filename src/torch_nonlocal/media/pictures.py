"""Decoded frames as RGB tensors: orientation, and one size for all frames of a video.

Shapes: H height, W width.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_nonlocal._common.optional import require
from torch_nonlocal.media.limits import reduced


class Orientation(NamedTuple):
    """How a stored frame becomes a displayed one: transposed, then flipped. The eight combinations are all there are.

    Attributes:
        transposed: rows and columns are swapped.
        flip_rows: upside down.
        flip_columns: mirrored, left to right.
    """

    transposed: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def is_mirrored(self) -> bool:
        """Whether no rotation does the same."""
        return sum(self) % 2 == 1

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a displayed frame."""
        return (width, height) if self.transposed else (height, width)

    def apply(self, picture_HWC: Tensor) -> Tensor:
        """The displayed frame."""
        picture = picture_HWC.transpose(0, 1) if self.transposed else picture_HWC
        flipped = [dim for dim, flip in enumerate(self[1:]) if flip]
        return picture.flip(flipped) if flipped else picture


_AS_STORED = Orientation()
_PLAIN_FORMATS = frozenset({"yuv420p", "yuvj420p"})  # converted without filters to the same values, if of even size


def orientation(frame: Any) -> Orientation:
    """The orientation of a frame of PyAV; angles that are not multiples of 90 degrees are not applied.

    Reference: ISO/IEC 14496-12, section 6.2.2: (p, q) is displayed at (a p + c q + x, b p + d q + y).
    """
    data = _display_matrix(frame)
    if data is None:
        return _AS_STORED
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
    largest = max(map(abs, (a, b, c, d))) or 1
    a, b, c, d = (round(value / largest) for value in (a, b, c, d))
    if a and d and not (b or c):
        return Orientation(False, d < 0, a < 0)
    if b and c and not (a or d):
        return Orientation(True, b < 0, c < 0)
    return _AS_STORED


def _display_matrix(frame: Any) -> Any | None:
    """The display matrix of a frame of PyAV as a buffer.

    PyAV 18 raises for all side data of a frame if FFmpeg gives one of a kind that PyAV has no name for, such as EXIF.
    """
    try:
        return frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        kinds = require("av.sidedata.sidedata", extra="video").Type
        kinds._missing_ = classmethod(_unnamed)
        return frame.side_data.get("DISPLAYMATRIX")


def _unnamed(kinds: Any, value: object) -> Any:
    """A member for a value without a name, as the members of `enum.Flag` are made."""
    if not isinstance(value, int):
        return None
    member = object.__new__(kinds)
    member._name_, member._value_ = f"UNNAMED_{value}", value
    return kinds._value2member_map_.setdefault(value, member)


class Converter:
    """Converts frames to RGB, to the values of FFmpeg's command line.

    Args:
        size: height and width of stored frames; frames of another size are scaled to it.
        short_side: largest short side of the results, in pixels; None keeps the size.
    """

    def __init__(self, size: tuple[int, int], short_side: int | None) -> None:
        self.size = size
        self._reduced = reduced(*size, short_side)
        # PyAV's default creates a converter and its threads per frame: several times slower for the same bytes.
        self._converter = require("av.video.reformatter", extra="video").VideoReformatter()
        self._graph: Any = None
        self._graph_form: tuple[int, int, str] | None = None

    def convert(self, frame: Any) -> Tensor:
        """A displayed frame, (H, W, 3) RGB uint8."""
        size = (frame.height, frame.width)
        if self._reduced != self.size:
            # FFmpeg scales to packed RGB with half the colors in a row, to planar RGB with all of them.
            height, width = self._reduced
            converted = self._converter.reformat(frame, width=width, height=height, format="gbrp", threads=1)
        elif (
            frame.format.name in _PLAIN_FORMATS and size == self.size and not (_is_odd(size) or frame.interlaced_frame)
        ):
            converted = self._converter.reformat(frame, format="rgb24", threads=1)
        else:
            converted = self._filtered(frame)
        return orientation(frame).apply(torch.from_numpy(converted.to_ndarray()))

    def _filtered(self, frame: Any) -> Any:
        """A frame whose colors or size need interpolation, converted by the filters that the command line inserts.

        The command line interpolates the colors of interlaced frames over all rows, as in progressive ones.
        """
        form = (frame.width, frame.height, frame.format.name)
        if form != self._graph_form:
            graph = require("av.filter", extra="video").Graph()
            graph.threads = 1
            source = graph.add_buffer(
                width=form[0], height=form[1], format=form[2], time_base=frame.time_base or Fraction(1, 25)
            )
            scale = graph.add("scale", f"w={self.size[1]}:h={self.size[0]}:flags=bicubic")
            chain = (
                source,
                graph.add("setfield", "prog"),
                scale,
                graph.add("format", "rgb24"),
                graph.add("buffersink"),
            )
            graph.link_nodes(*chain).configure()
            self._graph, self._graph_form = graph, form
        self._graph.push(frame)
        return self._graph.pull()


def _is_odd(size: tuple[int, int]) -> bool:
    return bool(size[0] % 2 or size[1] % 2)
