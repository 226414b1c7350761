"""Moving digits: synthetic clips of real handwritten digits, labeled with the relation of their directions.

Two 8x8 digits move over an empty square field, each along one of the four axis directions. The class is the relation of
the two directions and is independent of either direction alone: a network that sees one digit at a time stays at
chance, while a network that relates distant positions can reach full accuracy.

Shape suffixes: B clips, O the two digits of a clip, T frames, P the 64 pixels of a digit, H height, W width.
"""

from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from torch_nonlocal.data.fixed_split import fixed_split

RELATIONS: Final = ("same", "opposite", "perpendicular")
"""Class names; a label is an index into this tuple."""

DIGIT_SIZE: Final = 8
"""Side of a digit in pixels."""

_DIRECTIONS: Final = ((0, 1), (1, 0), (0, -1), (-1, 0))  # (dy, dx): right, down, left, up: quarter turns
_SPLIT_SEED: Final = 1797


class Clips(NamedTuple):
    """A batch of clips and their ground truth.

    Attributes:
        clips: (B, 1, T, H, W), float32 in [0, 1]; bright digits on black.
        labels: (B,), int64, indices into `RELATIONS`.
        corners: (B, 2, T, 2), int64, (y, x) of each digit's top left corner in each frame, in pixels, in [0, size). A
            digit covers `DIGIT_SIZE` rows and columns from there, wrapped around the frame.
        images: (B, 2), int64, indices of the digit images in the split.
    """

    clips: Tensor
    labels: Tensor
    corners: Tensor
    images: Tensor

    def masks(self) -> Tensor:
        """Masks of the digits: (B, 2, T, H, W), bool, true in each digit's box of `DIGIT_SIZE` squared pixels."""
        size = self.clips.shape[-1]
        offset_BOTS = (torch.arange(size, device=self.corners.device) - self.corners.unsqueeze(-1)) % size
        inside = offset_BOTS < DIGIT_SIZE  # (B, 2, T, 2, size)
        return inside[..., 0, :, None] & inside[..., 1, None, :]


class Motions(NamedTuple):
    """The random draws of a batch of clips, from which the pixels follow.

    Attributes:
        images: (B, 2), indices of the digit images in the split.
        start: (B, 2, 2), (y, x) of each digit's top left corner in the first frame, in pixels.
        step: (B, 2, 2), (dy, dx) of each digit per frame, in pixels.
        labels: (B,), indices into `RELATIONS`.
    """

    images: Tensor
    start: Tensor
    step: Tensor
    labels: Tensor


class MovingDigits:
    """Generator of moving-digit clips.

    The digits are the 1,797 handwritten digits of scikit-learn (8x8, from UCI ML). One in five is reserved for the test
    split, so test clips show handwriting that is not in the training split. Each of the two digits has its own speed (a
    whole number of pixels per frame), direction (right, down, left or up) and start, and wraps around the frame. Where
    digits overlap, the brighter pixel is visible. All classes are equally likely.

    Args:
        split: "train" or "test", the digit images to use.
        frames: T, frames per clip, at least 2.
        size: H = W in pixels, at least 16.
        speeds: slowest and fastest speed in pixels per frame, 1 <= slowest <= fastest < size / 2 (with wrap-around, a
            step of half the field has no unique direction).

    Raises:
        ValueError: an argument is out of range.
        ImportError: scikit-learn is not installed.
    """

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        *,
        frames: int = 8,
        size: int = 32,
        speeds: tuple[int, int] = (1, 3),
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split: got {split!r}, expected 'train' or 'test'")
        if frames < 2:
            raise ValueError(f"frames: got {frames}, expected at least 2 (one frame has no motion)")
        if size < 2 * DIGIT_SIZE:
            raise ValueError(f"size: got {size}, expected at least {2 * DIGIT_SIZE} pixels (two digits side by side)")
        if len(speeds) != 2 or not 1 <= speeds[0] <= speeds[1] or not speeds[1] < size / 2:
            raise ValueError(
                f"speeds: got {speeds}, expected (slowest, fastest) in pixels per frame with "
                f"1 <= slowest <= fastest < size / 2 = {size / 2:g}"
            )
        self.split = split
        self.frames = frames
        self.size = size
        self.speeds = tuple(speeds)
        self.digits = _load_digits(split)
        """Digit images of the split: (images, 64), float32 in [0, 1]."""

    def batch(self, n: int, generator: torch.Generator) -> Clips:
        """Draw n clips; the same generator state gives the same clips.

        Args:
            n: number of clips, at least 1.
            generator: a CPU generator; it is advanced.

        Raises:
            ValueError: n is below 1.
        """
        return self.render(self.draw(n, generator))

    def draw(self, n: int, generator: torch.Generator) -> Motions:
        """Draw the motions of n clips without rendering them; arguments and errors as in `batch`."""
        if n < 1:
            raise ValueError(f"n: got {n}, expected at least 1 clip")

        def draw(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, shape, generator=generator)

        images_BO = draw(0, len(self.digits), n, 2)
        start_BO2 = draw(0, self.size, n, 2, 2)
        speed_BO = draw(self.speeds[0], self.speeds[1] + 1, n, 2)
        labels_B = draw(0, len(RELATIONS), n)
        first_B = draw(0, 4, n)
        side_B = draw(0, 2, n)
        # quarter turns from the first direction to the second, by label: 0, 2, or 1 to either side
        turn_B = torch.tensor([0, 2, 1])[labels_B] + 2 * side_B * (labels_B == 2)
        direction_BO = torch.stack((first_B, (first_B + turn_B) % 4), dim=1)
        step_BO2 = torch.tensor(_DIRECTIONS)[direction_BO] * speed_BO.unsqueeze(-1)
        return Motions(images_BO, start_BO2, step_BO2, labels_B)

    def render(self, motions: Motions) -> Clips:
        """Render the clips of drawn motions."""
        size, frames = self.size, self.frames
        start_BO12, step_BO12 = motions.start.unsqueeze(2), motions.step.unsqueeze(2)
        corners_BOT2 = (start_BO12 + step_BO12 * torch.arange(frames).view(1, 1, -1, 1)) % size

        cells_S = torch.arange(DIGIT_SIZE)
        rows_BOTS = (corners_BOT2[..., 0, None] + cells_S) % size
        columns_BOTS = (corners_BOT2[..., 1, None] + cells_S) % size
        pixels_BOTP = (rows_BOTS.unsqueeze(-1) * size + columns_BOTS.unsqueeze(-2)).flatten(-2)
        ink_BOTP = self.digits[motions.images].unsqueeze(2).expand_as(pixels_BOTP)
        n = len(motions.labels)
        layers = torch.zeros(n, 2, frames, size * size).scatter_(-1, pixels_BOTP, ink_BOTP)
        clips = layers.amax(dim=1).view(n, 1, frames, size, size)
        return Clips(clips, motions.labels, corners_BOT2, motions.images)

    def dataset(self, length: int, *, seed: int = 0) -> "MovingDigitsDataset":
        """A map-style dataset of `length` clips; see `MovingDigitsDataset`."""
        return MovingDigitsDataset(self, length, seed=seed)


class MovingDigitsDataset(Dataset[tuple[Tensor, int]]):
    """Map-style dataset of moving digits: item i is always the same (clip, label), in any order and worker process.

    `MovingDigits.batch` draws a whole batch at once and is faster.

    Args:
        source: generator of the clips.
        length: number of clips, at least 1.
        seed: seed of the random draws.

    Raises:
        ValueError: `length` is below 1.
    """

    def __init__(self, source: MovingDigits, length: int, *, seed: int = 0) -> None:
        if length < 1:
            raise ValueError(f"length: got {length}, expected at least 1 clip")
        self.source = source
        self.length = length
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Clip (1, T, H, W), float32 in [0, 1], and its label; negative indices count from the end."""
        if not -self.length <= index < self.length:
            raise IndexError(f"index: got {index}, expected {-self.length} <= index < {self.length}")
        # CPU generators keep 32 bits of a seed. Spreading `seed` over them keeps neighboring seeds from sharing clips
        # (item 1 of seed 0 must differ from item 0 of seed 1).
        start = self.seed * 0x9E3779B1
        generator = torch.Generator().manual_seed((start + index % self.length) % 2**32)
        drawn = self.source.batch(1, generator)
        return drawn.clips[0], int(drawn.labels[0])


def _load_digits(split: str) -> Tensor:
    """Load the digit images of a split: (images, 64), float32 in [0, 1]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "moving digits use the handwritten digits of scikit-learn: pip install 'torch-nonlocal[demo]'"
        ) from error
    digits = torch.from_numpy(load_digits(return_X_y=True)[0]).float() / 16  # values in steps of 1/16
    return fixed_split(digits, split, _SPLIT_SEED)
