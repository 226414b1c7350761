"""Scenes of handwritten persons: the random draws of a tracklet, and its pixels.

A person's picture shows one handwritten digit as upper body and another one as lower body, each on a colored ground.
The pictures walk over a background full of strokes; other persons pass in front of them, and posts hide a part.

All pixels are computed with integers, so the same draws give the same pixels on every machine.

Shape suffixes: L layers (the persons of a scene, the last in front), F frames, H height, W width, P the 64 x 32 pixels
of a person's picture. Lengths are in 1/256 pixel unless stated. A color is packed into one integer: 65536 red + 256
green + blue.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

HEIGHT: Final = 48
"""Rows of a frame."""

WIDTH: Final = 24
"""Columns of a frame."""

LENGTH: Final = 16
"""Frames of a tracklet."""

_ONE: Final = 256  # one pixel
_SIDE: Final = 32  # side of a body part's picture
_TILE: Final = 16  # side of a digit in the background
_TILES: Final = 16  # digits along a side of the background
_NOISE: Final = 1 << 16  # length of the table of noise
_ROUNDED: Final = 6  # side of the triangle that is cut off a picture's corners
_CLEAR: Final = -1  # a pixel of a picture that shows what is behind
_INK: Final = (235, 235, 225)
_GROUNDS: Final = ((150, 60, 55), (140, 110, 40), (60, 130, 60), (45, 120, 130), (65, 80, 155), (135, 60, 135))
_POST: Final = 70 * 65536 + 70 * 256 + 75
_TRAM: Final = 215 * 65536 + 185 * 256 + 30
_TRAM_ROWS: Final = 5
_AWAY: Final = 60  # frames before the first and after the last one in which a passer may be in the middle
_NOISE_STEP: Final = 7919  # a prime: frames have different noise
_RANGE: Final = 1 << 15
_MOST_DRAWS: Final = 64


class Camera(NamedTuple):
    """How a camera sees.

    Attributes:
        width: of a person.
        height: of a person.
        lean: columns per 256 rows by which persons lean.
        direction: 1 or -1, the side to which the background moves.
        gains: of red, green and blue, in 1/256.
        curve: gray values added to middle gray.
        noise: largest noise, in gray values.
    """

    width: int
    height: int
    lean: int
    direction: int
    gains: tuple[int, int, int]
    curve: int
    noise: int


CAMERAS: Final = (
    Camera(15 * _ONE, 38 * _ONE, 15, 1, (265, 256, 240), 8, 12),
    Camera(14 * _ONE, 36 * _ONE, -20, -1, (230, 240, 260), -10, 20),
)


class Scene(NamedTuple):
    """What a tracklet shows in some of its frames.

    Attributes:
        persons: (L,), rows of the pictures: the person, one who passes in front, a passenger of a tram.
        seen: (L, F), bool, frames in which a layer is seen.
        x: (L, F), column of the waist.
        y: (L, F), row of the waist.
        stride: (L, F), columns per 256 rows by which the legs are set.
        size: (L, 2), width and height.
        lean: columns per 256 rows.
        corner: (F, 2), top left corner in the background, in whole pixels.
        post: (F, 2), the first row that a post hides and the one after the last, in whole pixels.
        tram: (F,), bool, frames with a tram.
        table: (3, 256), red, green and blue after the camera's light.
        noise: largest noise, in gray values.
        noise_at: (F,), starts in the table of noise.
    """

    persons: Tensor
    seen: Tensor
    x: Tensor
    y: Tensor
    stride: Tensor
    size: Tensor
    lean: int
    corner: Tensor
    post: Tensor
    tram: Tensor
    table: Tensor
    noise: int
    noise_at: Tensor


class Stage:
    """The pictures of all persons of a split, and what is behind them.

    Args:
        digits: (images, 64), int64 in [0, 16].
        seed: of the pairs of digits, the colors and the background.
    """

    def __init__(self, digits: Tensor, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.pictures = _pictures(digits, generator)
        """(persons, P), int32, packed colors or -1; as many persons as images."""
        self.background = _background(digits, generator)
        """(side, side), int32, packed colors."""
        self.noise = torch.randint(-_ONE, _ONE + 1, (_NOISE,), generator=generator, dtype=torch.int32)
        """Noise in [-256, 256]."""

    def draw(self, person: int, camera: int, frames: Tensor, seed: int) -> Scene:
        """Draw the scene of a tracklet.

        Args:
            person: row of `pictures`.
            camera: 0 or 1.
            frames: (F,), numbers of frames.
            seed: of the tracklet.
        """
        view, draw, side = CAMERAS[camera], _Draws(seed), len(self.background)
        passer, passenger = (self._other(person, draw) for _ in range(2))
        x_LF, y_LF, stride_LF, size_L2 = (
            torch.stack(part) for part in zip(*(_walk(view, frames, draw) for _ in range(3)), strict=True)
        )
        speed = (2 * draw(0, 1) - 1) * draw(3 * _ONE, 6 * _ONE)
        x_LF[1] += speed * (frames - draw(-_AWAY, LENGTH + _AWAY))
        is_tram_F = _during(frames, draw(-4, LENGTH - 4), draw(5, 9))
        is_post_F = _during(frames, draw(-LENGTH, LENGTH - 1), draw(2, 4)) & ~is_tram_F
        first = HEIGHT // 2 * draw(0, 1)
        left, top, drift = draw(0, side - 1), draw(0, side - HEIGHT), draw(1, 3) * view.direction
        return Scene(
            persons=torch.tensor([person, passer, passenger]),
            seen=torch.stack((~is_tram_F, ~is_tram_F, is_tram_F)),
            x=x_LF,
            y=y_LF,
            stride=stride_LF,
            size=size_L2,
            lean=view.lean + draw(-15, 15),
            corner=torch.stack((torch.full_like(frames, top), (left + frames * drift) % side), 1),
            post=is_post_F.unsqueeze(1) * torch.tensor([first, first + HEIGHT // 2]),
            tram=is_tram_F,
            table=_table(view, draw),
            noise=view.noise,
            noise_at=(draw(0, _NOISE - 1) + frames * _NOISE_STEP) % (_NOISE - 3 * HEIGHT * WIDTH),
        )

    def _other(self, person: int, draw: _Draws) -> int:
        """Another person of the split."""
        return (person + draw(1, len(self.pictures) - 1)) % len(self.pictures)

    def render(self, scene: Scene) -> Tensor:
        """The pixels of a scene: (3, F, H, W) uint8 RGB."""
        colors_FHW = self._behind(scene.corner)
        for person, seen_F, at_FHW in zip(scene.persons.tolist(), scene.seen, _positions(scene), strict=True):
            person_FHW = _look_up(self.pictures[person], at_FHW.clamp(min=0))
            is_seen_FHW = (at_FHW >= 0) & (person_FHW >= 0) & seen_F[:, None, None]
            colors_FHW = torch.where(is_seen_FHW, person_FHW, colors_FHW)
        rows_H = torch.arange(HEIGHT)
        is_post_FH = (rows_H >= scene.post[:, :1]) & (rows_H < scene.post[:, 1:])
        is_tram_FH = scene.tram.unsqueeze(1) & (rows_H >= HEIGHT - _TRAM_ROWS)
        for is_covered_FH, color in ((is_post_FH, _POST), (is_tram_FH, _TRAM)):
            colors_FHW = torch.where(is_covered_FH.unsqueeze(-1), color, colors_FHW)
        values_3FHW = torch.stack(
            [_look_up(table, (colors_FHW >> shift) & 255) for table, shift in zip(scene.table, (16, 8, 0), strict=True)]
        )
        cells = 3 * HEIGHT * WIDTH
        noise = torch.stack([self.noise[start : start + cells] for start in scene.noise_at.tolist()])
        noise_3FHW = (noise * scene.noise >> 8).view(-1, 3, HEIGHT, WIDTH).transpose(0, 1)
        return (values_3FHW + noise_3FHW).clamp_(0, 255).to(torch.uint8)

    def _behind(self, corner_F2: Tensor) -> Tensor:
        side = len(self.background)
        rows_FH = corner_F2[:, :1] + torch.arange(HEIGHT)
        columns_FW = (corner_F2[:, 1:] + torch.arange(WIDTH)) % side
        return _look_up(self.background.flatten(), rows_FH.unsqueeze(-1) * side + columns_FW.unsqueeze(1))


def _look_up(values: Tensor, at: Tensor) -> Tensor:
    """values[at] of a vector, in a tenth of the time that indexing takes."""
    return values.index_select(0, at.flatten()).view(at.shape)


class _Draws:
    """Uniform random integers of one tracklet: (low, high) -> a number in [low, high]."""

    def __init__(self, seed: int) -> None:
        drawn = torch.randint(0, _RANGE, (_MOST_DRAWS,), generator=torch.Generator().manual_seed(seed))
        self._drawn = iter(drawn.tolist())

    def __call__(self, low: int, high: int) -> int:
        return low + next(self._drawn) * (high - low + 1) // _RANGE


def _walk(view: Camera, frames: Tensor, draw: _Draws) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A person walking in the middle: column and row of the waist and set of the legs, (F,); width and height, (2,)."""
    pace, phase, swing = draw(1, 2), draw(0, 7), draw(30, 70)
    step_F = ((frames * pace + phase) % 8 - 4).abs() - 2  # a triangle wave, -2 to 2
    x_F = WIDTH * _ONE // 2 + draw(-2 * _ONE, 2 * _ONE) + step_F * draw(-160, 160)
    y_F = HEIGHT * _ONE // 2 + draw(-2 * _ONE, 2 * _ONE) - step_F.abs() * draw(64, 256)
    grown = draw(230, 280)
    return x_F, y_F, step_F * swing, torch.tensor((view.width * grown >> 8, view.height * grown >> 8))


def _during(frames: Tensor, first: int, count: int) -> Tensor:
    """Whether each frame is one of `count` frames from the first one, (F,)."""
    return (frames >= first) & (frames < first + count)


def _table(view: Camera, draw: _Draws) -> Tensor:
    """Gray values after the camera's light, (3, 256)."""
    gain, curve = draw(240, 272), view.curve + draw(-6, 6)
    values = torch.arange(256)
    curved = values + curve * values * (255 - values) // (128 * 127)
    gains_31 = torch.tensor(view.gains).unsqueeze(1) * gain >> 8
    return (curved * gains_31 >> 8).to(torch.int32)


def _positions(scene: Scene) -> Tensor:
    """The pixel of a person's picture that each pixel of a frame shows, (L, F, H, W); -1 outside the person."""
    below_LFH = _ONE * torch.arange(HEIGHT) + _ONE // 2 - scene.y.unsqueeze(-1)
    right_LFW = _ONE * torch.arange(WIDTH) + _ONE // 2 - scene.x.unsqueeze(-1)
    width_L, height_L = scene.size.unbind(1)
    leaning_LFH = (scene.lean * below_LFH + scene.stride.unsqueeze(-1) * below_LFH.clamp(min=0)) >> 8
    row_LFH = _SIDE + 2 * _SIDE * below_LFH // height_L[:, None, None]
    across_LFHW = right_LFW.unsqueeze(2) + leaning_LFH.unsqueeze(-1)
    column_LFHW = _SIDE // 2 + _SIDE * across_LFHW // width_L[:, None, None, None]
    inside_LFH1 = ((row_LFH >= 0) & (row_LFH < 2 * _SIDE)).unsqueeze(-1)
    inside_LFHW = inside_LFH1 & (column_LFHW >= 0) & (column_LFHW < _SIDE)
    return torch.where(inside_LFHW, row_LFH.unsqueeze(-1) * _SIDE + column_LFHW, -1)


def _enlarged(digits: Tensor, factor: int) -> Tensor:
    """Digits (n, 64) in [0, 16] -> (n, 8 factor, 8 factor) in [0, 255], bilinear."""
    at = 2 * torch.arange(8 * factor) + 1 - factor  # in 1 / (2 factor) cells
    left, part = at // (2 * factor), at % (2 * factor)
    weights = torch.zeros(8 * factor, 8, dtype=torch.int64)
    weights.scatter_add_(1, left.clamp(0, 7).unsqueeze(1), (2 * factor - part).unsqueeze(1))
    weights.scatter_add_(1, (left + 1).clamp(0, 7).unsqueeze(1), part.unsqueeze(1))
    return torch.einsum("yi,nij,xj->nyx", weights, digits.view(-1, 8, 8), weights) * 255 // (16 * (2 * factor) ** 2)


def _colored(ink: Tensor, ground: Tensor, color: Tensor) -> Tensor:
    """Mix ground and color by the ink, (n, y, x) in [0, 255]; both colors (n, 3). Packed colors (n, y, x)."""
    mixed = [ground[:, c, None, None] + (color - ground)[:, c, None, None] * ink // 255 for c in range(3)]
    return (mixed[0] * 65536 + mixed[1] * 256 + mixed[2]).to(torch.int32)


def _pictures(digits: Tensor, generator: torch.Generator) -> Tensor:
    """Pair the digits and color them: (persons, P)."""
    n = len(digits)
    row_SS, column_SS = torch.meshgrid(torch.arange(_SIDE), torch.arange(_SIDE), indexing="ij")
    from_side_SS = torch.minimum(column_SS, _SIDE - 1 - column_SS)
    order = torch.randperm(n, generator=generator)
    parts = []
    # the same order one further: an image is never both halves of a person
    for images, from_end_SS in ((order, row_SS), (order.roll(1), _SIDE - 1 - row_SS)):
        grounds = torch.tensor(_GROUNDS)[torch.randint(0, len(_GROUNDS), (n,), generator=generator)]
        picture = _colored(_enlarged(digits[images], _SIDE // 8), grounds, torch.tensor(_INK).expand(n, 3))
        parts.append(torch.where(from_end_SS + from_side_SS < _ROUNDED, _CLEAR, picture))
    return torch.cat(parts, 1).flatten(1)


def _background(digits: Tensor, generator: torch.Generator) -> Tensor:
    """A picture of many digits in muted colors, which repeats to the right."""
    n = _TILES**2
    chosen = digits[torch.randint(0, len(digits), (n,), generator=generator)]
    ground = torch.randint(50, 110, (n, 3), generator=generator)
    ink = ground + torch.randint(20, 100, (n, 1), generator=generator)
    tiles = _colored(_enlarged(chosen, _TILE // 8), ground, ink).view(_TILES, _TILES, _TILE, _TILE)
    return tiles.transpose(1, 2).reshape(_TILES * _TILE, _TILES * _TILE)
