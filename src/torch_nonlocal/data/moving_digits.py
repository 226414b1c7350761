"""Moving digits: real handwritten digits that cross a clip; the label is how their directions relate.

Two 8x8 digits move over an empty square field, each along one of the four axis directions. The class is the relation
between the two directions, and either direction alone says nothing about it: a network that sees one digit at a time
stays at chance, one that relates far positions can be right every time.

Shape suffixes: B clips, O the two digits of a clip, T frames, P the 64 pixels of a digit, H height, W width.
"""

from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

RELATIONS: Final = ("same", "opposite", "perpendicular")
"""Class names; a label is an index into this tuple."""

DIGIT_SIZE: Final = 8
"""Side of a digit in pixels."""

_DIRECTIONS: Final = ((0, 1), (1, 0), (0, -1), (-1, 0))  # (dy, dx): right, down, left, up: quarter turns
_TEST_SHARE: Final = 5  # one digit image of five is for testing
_SPLIT_SEED: Final = 1797


class Clips(NamedTuple):
    """A batch of clips and what is true of them.

    Attributes:
        clips: (B, 1, T, H, W), float32 in [0, 1]; digits are bright on black.
        labels: (B,), int64, index into `RELATIONS`.
        corners: (B, 2, T, 2), int64, (y, x) in pixels of each digit's top left corner in each frame, in [0, size).
            A digit covers the `DIGIT_SIZE` rows and columns from there, continued on the other side of the frame.
        images: (B, 2), int64, which digit images of the split these are.
    """

    clips: Tensor
    labels: Tensor
    corners: Tensor
    images: Tensor

    def masks(self) -> Tensor:
        """Where each digit is: (B, 2, T, H, W), bool, true on the digit's `DIGIT_SIZE` squared box."""
        size = self.clips.shape[-1]
        offset_BOTS = (torch.arange(size, device=self.corners.device) - self.corners.unsqueeze(-1)) % size
        inside = offset_BOTS < DIGIT_SIZE  # (B, 2, T, 2, size)
        return inside[..., 0, :, None] & inside[..., 1, None, :]


class Motions(NamedTuple):
    """What a batch of clips shows: a few integers a clip, drawn before any pixel.

    Attributes:
        images: (B, 2), which digit images of the split.
        start: (B, 2, 2), (y, x) of each digit's top left corner in the first frame, in pixels.
        step: (B, 2, 2), (dy, dx) of each digit from one frame to the next, in pixels.
        labels: (B,), index into `RELATIONS`.
    """

    images: Tensor
    start: Tensor
    step: Tensor
    labels: Tensor


class MovingDigits:
    """Generator of moving-digit clips.

    The digits are scikit-learn's 1,797 handwritten ones (8x8, from UCI ML). One in five is kept for the test split, so
    that test clips show handwriting never seen in training. Each of the two digits has its own speed (a whole number of
    pixels per frame), direction (right, down, left or up) and start, and leaves the frame on one side to enter it on
    the other. Where digits cross, the brighter pixel shows. Classes are equally likely.

    Args:
        split: "train" or "test": which digit images to use.
        frames: T, frames per clip, at least 2.
        size: H = W in pixels, at least 16.
        speeds: slowest and fastest speed, pixels per frame, 1 <= slowest <= fastest < size / 2 (from half the field on,
            wrapping around makes a direction ambiguous).

    Raises:
        ValueError: for an argument out of range.
        ImportError: if scikit-learn is missing.
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
        """(images, 64), float32 in [0, 1]: the digits of this split."""

    def batch(self, n: int, generator: torch.Generator) -> Clips:
        """Draw n clips; the same generator state gives the same clips.

        Args:
            n: number of clips, at least 1.
            generator: a CPU generator; it is advanced.

        Raises:
            ValueError: if n is below 1.
        """
        return self.render(self.draw(n, generator))

    def draw(self, n: int, generator: torch.Generator) -> Motions:
        """Draw what n clips show, without their pixels; arguments and errors as in `batch`."""
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
        # quarter turns from the first direction to the second, by label: none, two, or one to either side
        turn_B = torch.tensor([0, 2, 1])[labels_B] + 2 * side_B * (labels_B == 2)
        direction_BO = torch.stack((first_B, (first_B + turn_B) % 4), dim=1)
        step_BO2 = torch.tensor(_DIRECTIONS)[direction_BO] * speed_BO.unsqueeze(-1)
        return Motions(images_BO, start_BO2, step_BO2, labels_B)

    def render(self, motions: Motions) -> Clips:
        """The clips of drawn motions."""
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
        """A map-style view of `length` clips for a DataLoader; see `MovingDigitsDataset`."""
        return MovingDigitsDataset(self, length, seed=seed)


class MovingDigitsDataset(Dataset[tuple[Tensor, int]]):
    """Clips by index: item i is always the same (clip, label), in any order and any worker process.

    For training, `MovingDigits.batch` is faster: it draws a whole batch at once.

    Args:
        source: draws the clips.
        length: number of clips, at least 1.
        seed: another seed gives other clips.

    Raises:
        ValueError: if length is below 1.
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
        # The CPU generator keeps 32 bits of a seed. Scattering `seed` over them keeps neighbouring seeds from sharing
        # clips (item 1 of seed 0 must not be item 0 of seed 1).
        start = self.seed * 0x9E3779B1
        generator = torch.Generator().manual_seed((start + index % self.length) % 2**32)
        drawn = self.source.batch(1, generator)
        return drawn.clips[0], int(drawn.labels[0])


def _load_digits(split: str) -> Tensor:
    """The digit images of a split, (images, 64), float32 in [0, 1]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "moving digits need scikit-learn's handwritten digits: pip install 'torch-nonlocal[demo]'"
        ) from error
    digits = torch.from_numpy(load_digits(return_X_y=True)[0]).float() / 16  # ink in steps of 1/16
    shuffled = torch.randperm(len(digits), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    held_out = len(digits) // _TEST_SHARE
    return digits[shuffled[:held_out] if split == "test" else shuffled[held_out:]]
