"""The border of an image: patches reach beyond it.

Shapes: C channels, T frames, H height, W width.
"""

import torch.nn.functional as F
from torch import Tensor

from torch_nonlocal.denoising.scaling import Sizes


def reflected(image_CTHW: Tensor, patch: Sizes) -> Tensor:
    """The image with half a patch around it, reflected without repeating its edge."""
    t, y, x = (size // 2 for size in patch)
    return F.pad(image_CTHW, (x, x, y, y, t, t), mode="reflect")
