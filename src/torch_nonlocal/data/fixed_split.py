"""A fixed split of the images that synthetic clips are made of: test clips show images that training clips do not."""

from typing import Final

import torch
from torch import Tensor

_TEST_SHARE: Final = 5  # one of five images is in the test split


def fixed_split(images: Tensor, split: str, seed: int) -> Tensor:
    """The images of the split "train" or "test" in random order; the seed determines the split and the order."""
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held_out = len(images) // _TEST_SHARE
    return images[shuffled[:held_out] if split == "test" else shuffled[held_out:]]
