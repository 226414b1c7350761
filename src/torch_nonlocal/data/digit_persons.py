"""Handwritten persons: generated tracklets for re-identification, seen by two cameras.

A person has the image of one handwritten digit as upper body and of another one as lower body, each on a colored
ground, and walks through a small RGB frame. Another person passes in front, a post hides the upper or the lower body,
and for up to 9 of the 16 frames a tram hides the person: its window shows a passenger, another person of the same size,
so only the yellow band at the foot of the frame tells that these digits are not the person's. The background is full
of strokes of digits. The two cameras differ in viewpoint, light and noise. Training, validation and test show different
persons, made of different images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from torch_nonlocal._common.files import replacing
from torch_nonlocal._common.optional import require
from torch_nonlocal._common.seeds import mix_seed
from torch_nonlocal._common.text import did_you_mean
from torch_nonlocal.data.fixed_split import fixed_split
from torch_nonlocal.data.person_scenes import CAMERAS, HEIGHT, LENGTH, WIDTH, Stage
from torch_nonlocal.data.tracklets.tracklet import Tracklet

PersonSplit = Literal["train", "validation", "test"]

SIZE: Final = (HEIGHT, WIDTH)
"""Height and width of a frame in pixels."""

_SPLITS: Final = get_args(PersonSplit)
_SPLIT_SEED: Final = 1797  # as for moving digits: their test images are test images here too
_TRAINED, _TESTED = 400, 240  # identities by default


class DigitPersons:
    """Generator of tracklets of handwritten persons, a `TrackletSource`.

    The digits are the 1,797 handwritten digits of scikit-learn (8x8, from UCI ML). One in five is reserved for test,
    and one in five of the others for validation. Each image is the upper body of one person and the lower body of
    another one. All tracklets have 16 frames of 48 x 24 pixels (height x width).

    Training has `tracklets_per_camera` tracklets of each identity and camera. Validation and test have a query in
    camera 1 and a gallery tracklet in camera 2 of each identity, another gallery tracklet in camera 1 of every fourth
    one, and a gallery tracklet of each distractor, a person whom one camera sees only.

    Args:
        split: "train", "validation" or "test".
        identities: number of identities, at least 2; None for 400 in training and 240 in validation and test. Images
            that they leave over are distractors and persons who pass.
        tracklets_per_camera: tracklets of an identity and camera in training, at least 1.
        seed: seed of the tracklets; the persons do not depend on it.

    Attributes:
        tracklets: all tracklets.
        query: positions of the queries in `tracklets`; empty in training.
        gallery: positions of the gallery in `tracklets`, without the queries; empty in training.

    Raises:
        ValueError: an argument is out of range.
        ImportError: scikit-learn is not installed.
    """

    def __init__(
        self,
        split: PersonSplit = "train",
        *,
        identities: int | None = None,
        tracklets_per_camera: int = 2,
        seed: int = 0,
    ) -> None:
        if split not in _SPLITS:
            hint = did_you_mean(str(split), _SPLITS)
            raise ValueError(f"split: got {split!r}, expected {', '.join(_SPLITS)}{'; ' + hint if hint else ''}")
        digits = _digits(split)
        if identities is None:
            identities = _TRAINED if split == "train" else _TESTED
        if not 2 <= identities <= len(digits):
            raise ValueError(f"identities: got {identities}, expected 2 to {len(digits)} in {split}")
        if tracklets_per_camera < 1:
            raise ValueError(f"tracklets_per_camera: got {tracklets_per_camera}, expected at least 1")
        self.split = split
        self.seed = seed
        self._number = _SPLITS.index(split)
        self._stage = Stage(digits, mix_seed(_SPLIT_SEED, self._number))
        both = range(len(CAMERAS))
        if split == "train":
            tracklets = [
                (one, camera) for one in range(identities) for camera in both for _ in range(tracklets_per_camera)
            ]
            queries = 0
        else:
            tracklets = [(one, 0) for one in range(identities)]
            queries = len(tracklets)
            tracklets += [(one, 1) for one in range(identities)] + [(one, 0) for one in range(0, identities, 4)]
            tracklets += [(one, one % 2) for one in range(identities, len(digits))]
        self._seen = tracklets  # person and camera
        self.tracklets: Sequence[Tracklet] = [
            self._tracklet(number, person, camera, person >= identities)
            for number, (person, camera) in enumerate(tracklets)
        ]
        self.query = tuple(range(queries))
        self.gallery = tuple(range(queries, len(tracklets))) if queries else ()

    def _tracklet(self, number: int, person: int, camera: int, is_distractor: bool) -> Tracklet:
        identity, seen_by = f"{self.split}-{person:04d}", f"camera{camera + 1}"
        role = "distractor" if is_distractor else "person"
        return Tracklet(f"{identity}/{seen_by}/{number:05d}", identity, seen_by, LENGTH, role=role)

    def read(self, index: int, frames: Sequence[int]) -> Tensor:
        """The frames of a tracklet: (3, T, 48, 24) uint8 RGB; the same pixels for the same arguments.

        Args:
            index: position in `tracklets`.
            frames: T numbers of frames in [0, 16), in any order; they may repeat.

        Raises:
            IndexError: there is no such tracklet.
            ValueError: there is no such frame, or no frames are asked for.
        """
        if not 0 <= index < len(self.tracklets):
            raise IndexError(f"index: got {index}, expected 0 <= index < {len(self.tracklets)}")
        if not len(frames) or min(frames) < 0 or max(frames) >= LENGTH:
            raise ValueError(f"frames: got {list(frames)}, expected numbers of frames in [0, {LENGTH})")
        person, camera = self._seen[index]
        seed = mix_seed(_SPLIT_SEED, self._number, self.seed, index)
        return self._stage.render(self._stage.draw(person, camera, torch.tensor(list(frames)), seed))


def write_examples(folder: str | Path = ".", *, identities: int = 12) -> Path:
    """Write a small set of handwritten persons as PNG files, in folders that `find_tracklets` reads.

    The frames of a tracklet are train/IDENTITY/CAMERA/NUMBER/FRAME.png, or the same below query or gallery. Training
    persons are those of the split "train", the others of "test".

    Args:
        folder: an existing folder; the set is written below it.
        identities: number of identities in training and in the test, at least 2.

    Returns:
        The folder of the set, "digit-persons".

    Raises:
        ValueError: `folder` does not exist, there is already such a set in it, or `identities` is out of range.
        ImportError: scikit-learn or Pillow is not installed.
    """
    image = require("PIL.Image", extra="reid")
    if not Path(folder).is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}")
    root = Path(folder, "digit-persons")
    if root.exists():
        raise ValueError(f"{str(root)!r} already exists; expected a folder without it")
    train, test = (DigitPersons(split, identities=identities) for split in ("train", "test"))
    used = [(train, "train", index) for index in range(len(train.tracklets))]
    used += [(test, "query", index) for index in test.query]
    used += [(test, "gallery", index) for index in test.gallery if test.tracklets[index].role == "person"]
    for source, part, index in used:
        place = root / part / source.tracklets[index].name
        place.mkdir(parents=True)
        for frame, picture_HWC in enumerate(source.read(index, range(LENGTH)).permute(1, 2, 3, 0)):
            with replacing(place / f"{frame:02d}.png") as temporary:
                image.fromarray(picture_HWC.numpy()).save(temporary, format="PNG")
    return root


def _digits(split: str) -> Tensor:
    """The digit images of a split: (images, 64), int64 in [0, 16]."""
    values = require("sklearn.datasets", extra="reid").load_digits(return_X_y=True)[0]
    digits = torch.from_numpy(values).long()
    if split == "test":
        return fixed_split(digits, "test", _SPLIT_SEED)
    return fixed_split(fixed_split(digits, "train", _SPLIT_SEED), "test" if split == "validation" else "train", 1)
