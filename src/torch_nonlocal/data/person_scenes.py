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

PASSERS: Final = 2
"""Other persons of a scene."""

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
    Camera(15 * _ONE, 38 * _ONE, 20, 1, (275, 256, 225), 20, 16),
    Camera(13 * _ONE, 34 * _ONE, -30, -1, (190, 215, 250), -25, 28),
)


class Scene(NamedTuple):
    """What a tracklet shows in some of its frames.

    Attributes:
        persons: (L,), rows of the pictures; the last one is in front.
        x: (L, F), column of the waist.
        y: (L, F), row of the waist.
        stride: (L, F), columns per 256 rows by which the legs are set.
        size: (L, 2), width and height.
        lean: columns per 256 rows.
        corner: (F, 2), top left corner in the background, in whole pixels.
        post: (F, 2), the first row that a post hides and the one after the last, in whole pixels.
        table: (3, 256), red, green and blue after the camera's light.
        noise: largest noise, in gray values.
        noise_at: (F,), starts in the table of noise.
    """

    persons: Tensor
    x: Tensor
    y: Tensor
    stride: Tensor
    size: Tensor
    lean: int
    corner: Tensor
    post: Tensor
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
        view = CAMERAS[camera]
        drawn = torch.randint(0, 1 << 15, (64,), generator=torch.Generator().manual_seed(seed)).tolist()

        def uniform(low: int, high: int) -> int:
            return low + drawn.pop() * (high - low + 1) // (1 << 15)

        x, y, stride, size, persons = [], [], [], [], []
        for layer in range(PASSERS + 1):
            own = layer == 0
            persons.append(person if own else (person + uniform(1, len(self.pictures) - 1)) % len(self.pictures))
            phase, pace, swing = uniform(0, 7), uniform(1, 2), uniform(30, 70)
            step = ((frames * pace + phase) % 8 - 4).abs() - 2  # a triangle wave, -2 to 2
            stride.append(step * swing)
            y.append(HEIGHT * _ONE // 2 + uniform(-2 * _ONE, 2 * _ONE) - step.abs() * uniform(64, 256))
            middle = WIDTH * _ONE // 2
            if own:
                x.append(middle + uniform(-2 * _ONE, 2 * _ONE) + step * uniform(-160, 160))
            else:
                side, speed, when = 2 * uniform(0, 1) - 1, uniform(2 * _ONE, 5 * _ONE), uniform(0, LENGTH - 1)
                x.append(middle + side * speed * (frames - when))
            grown = uniform(230, 280)
            size.append((view.width * grown >> 8, view.height * grown >> 8))
        side = _TILE * _TILES
        left, top, drift = uniform(0, side - 1), uniform(0, side - HEIGHT), uniform(1, 3) * view.direction
        corner = torch.stack((torch.full_like(frames, top), (left + frames * drift) % side), 1)
        start, frames_hidden, is_low = uniform(-4, LENGTH - 1), uniform(3, 7), uniform(0, 1)
        hidden = (frames >= start) & (frames < start + frames_hidden)
        first = HEIGHT // 2 * is_low
        post = torch.stack((hidden * first, hidden * (first + HEIGHT // 2)), 1)
        gain, curve = uniform(225, 288), view.curve + uniform(-12, 12)
        values = torch.arange(256)
        curved = values + curve * values * (255 - values) // (128 * 127)
        gains = torch.tensor([one * gain >> 8 for one in view.gains])
        return Scene(
            torch.tensor(persons),
            torch.stack(x),
            torch.stack(y),
            torch.stack(stride),
            torch.tensor(size),
            view.lean + uniform(-15, 15),
            corner,
            post,
            (curved * gains.unsqueeze(1)) >> 8,
            view.noise,
            (uniform(0, _NOISE - 1) + frames * 7919) % (_NOISE - 3 * HEIGHT * WIDTH),
        )

    def render(self, scene: Scene) -> Tensor:
        """The pixels of a scene: (3, F, H, W) uint8 RGB."""
        n = scene.x.shape[1]
        colors_FHW = self._behind(scene.corner)
        for layer_P, at_FHW in zip(self.pictures[scene.persons], _positions(scene), strict=True):
            person_FHW = torch.where(at_FHW >= 0, layer_P[at_FHW.clamp(min=0)], _CLEAR)
            colors_FHW = torch.where(person_FHW >= 0, person_FHW, colors_FHW)
        rows_H = torch.arange(HEIGHT)
        hidden_FH = (rows_H >= scene.post[:, :1]) & (rows_H < scene.post[:, 1:])
        colors_FHW = torch.where(hidden_FH.unsqueeze(-1), _POST, colors_FHW)
        values = torch.stack(
            [table[(colors_FHW >> shift) & 255] for table, shift in zip(scene.table, (16, 8, 0), strict=True)]
        )
        cells = torch.arange(3 * HEIGHT * WIDTH)
        noise = self.noise[scene.noise_at.unsqueeze(1) + cells].view(n, 3, HEIGHT, WIDTH).transpose(0, 1)
        return (values + (noise * scene.noise >> 8)).clamp_(0, 255).to(torch.uint8)

    def _behind(self, corner_F2: Tensor) -> Tensor:
        side = len(self.background)
        rows_FH = corner_F2[:, :1] + torch.arange(HEIGHT)
        columns_FW = (corner_F2[:, 1:] + torch.arange(WIDTH)) % side
        return self.background[rows_FH.unsqueeze(-1), columns_FW.unsqueeze(1)]


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
