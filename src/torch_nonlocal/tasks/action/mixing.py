"""Mixed training clips: mixup and cutmix, with the classes of both clips in the loss.

Random numbers come from torch's CPU generator, which `training` seeds for every step, so a resumed run mixes alike.
Shapes: B clips of a batch, C channels, T frames, H height, W width.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Mixed(NamedTuple):
    """A batch of mixed clips.

    Attributes:
        clips: (B, C, T, H, W).
        partner: index of the clip that each one is mixed with, (B,).
        share: share of each clip itself, (B,); the partner's is 1 - share.
    """

    clips: Tensor
    partner: Tensor
    share: Tensor


@dataclass(frozen=True)
class Mixing:
    """Mixes each clip of a batch with another one. If both kinds are on, each batch has one of them at random.

    Args:
        mixup: parameter of Beta(mixup, mixup), from which shares of blended clips are drawn; 0 for no mixup.
        cutmix: parameter of Beta(cutmix, cutmix), from which shares of the area are drawn; 0 for no cutmix. The
            rectangle is the same in all frames of a clip.

    Reference: Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def __call__(self, clips_BCTHW: Tensor) -> Mixed:
        """Mix a batch of at least one clip; a single clip is its own partner."""
        batch, device = len(clips_BCTHW), clips_BCTHW.device
        use_mixup = self.mixup > 0 and (self.cutmix == 0 or float(torch.rand(())) < 0.5)
        parameter = self.mixup if use_mixup else self.cutmix
        share_B = torch.distributions.Beta(parameter, parameter).sample((batch,))
        partner = (torch.arange(batch) + 1) % batch  # batches are in random order
        other_BCTHW = clips_BCTHW[partner.to(device)]
        if use_mixup:
            weight = share_B.to(clips_BCTHW).view(-1, 1, 1, 1, 1)
            return Mixed(clips_BCTHW * weight + other_BCTHW * (1 - weight), partner.to(device), share_B.to(device))
        inside_BHW = _rectangles(1 - share_B, *clips_BCTHW.shape[3:])
        share_B = 1 - inside_BHW.float().mean((1, 2))  # of whole pixels, without those outside the picture
        mixed = torch.where(inside_BHW[:, None, None].to(device), other_BCTHW, clips_BCTHW)
        return Mixed(mixed, partner.to(device), share_B.to(device))


def _rectangles(area_B: Tensor, height: int, width: int) -> Tensor:
    """Random rectangles of these shares of the area, clipped at the border: (B, H, W), True inside."""
    edges = []
    for side in (height, width):
        center_B, half_B = torch.rand(len(area_B)) * side, area_B.sqrt() * side / 2
        position = torch.arange(side) + 0.5
        edges.append((position - center_B[:, None]).abs() < half_B[:, None])
    return edges[0][:, :, None] & edges[1][:, None, :]
