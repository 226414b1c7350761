"""The layouts of the attention of image and video autoencoders, with the map or the mask in memory."""

from typing import Any

import torch
from torch import Tensor, nn

_CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class AttnBlock(nn.Module):
    """taming-transformers and latent diffusion: q, k, v and proj_out keep the number of channels.

    Args:
        channels: channels of the map.
        dims: axes of the map.
        norm: name of the norm; None for none.
        scaled: whether logits are multiplied by C^-0.5.
        product: "bmm", "einsum" or "matmul"; "unturned" forgets to transpose the map, as some copies do.
        axis: axis of the softmax.
    """

    def __init__(
        self,
        channels: int,
        dims: int = 2,
        *,
        norm: str | None = "norm",
        scaled: bool = True,
        product: str = "bmm",
        axis: int = 2,
    ) -> None:
        super().__init__()
        self.scale, self.product, self.axis = channels**-0.5 if scaled else 1.0, product, axis
        if norm is not None:
            self.add_module(norm, nn.GroupNorm(4, channels, eps=1e-6))
        self.norm_name = norm
        for name in ("q", "k", "v", "proj_out"):
            self.add_module(name, _CONVS[dims](channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.norm_name is None else self.get_submodule(self.norm_name)(x)
        q, k, v = (self.get_submodule(name)(h).flatten(2) for name in ("q", "k", "v"))
        if self.product == "einsum":
            weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) * self.scale, dim=self.axis)
            y = torch.einsum("bij,bcj->bci", weights, v)
        elif self.product == "matmul":
            weights = torch.softmax((q.transpose(1, 2) * self.scale) @ k, dim=self.axis)
            y = (weights @ v.transpose(1, 2)).transpose(1, 2)
        else:
            weights = torch.softmax(torch.bmm(q.transpose(1, 2), k) * self.scale, dim=self.axis)
            y = torch.bmm(v, weights if self.product == "unturned" else weights.transpose(1, 2))
        return x + self.get_submodule("proj_out")(y.reshape(x.shape))


class LTX2AudioAttnBlock(AttnBlock):
    """The attention of the LTX-2 audio autoencoder in diffusers."""


class _RMSNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=1) * x.shape[1] ** 0.5 * self.gamma


def frame_mask(frames: int, positions: int, like: Tensor) -> Tensor:
    """0 where a position may attend, -inf for the positions of later frames: (N, N)."""
    frame = torch.arange(frames).repeat_interleave(positions)
    mask = torch.zeros(len(frame), len(frame), dtype=like.dtype)
    return mask.masked_fill(frame[:, None] < frame[None, :], float("-inf"))


class HunyuanVideo15AttnBlock(nn.Module):
    """HunyuanVideo 1.5: causal over frames by a mask that the block builds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _RMSNorm(channels)
        for name in ("to_q", "to_k", "to_v", "proj_out"):
            self.add_module(name, nn.Conv3d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (self.get_submodule(name)(h).flatten(2).transpose(1, 2) for name in ("to_q", "to_k", "to_v"))
        mask = frame_mask(x.shape[2], x.shape[3] * x.shape[4], x)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return x + self.get_submodule("proj_out")(y.transpose(1, 2).reshape(x.shape))


class SABlock(nn.Module):
    """MONAI's attention of positions (B, N, C)."""

    def __init__(self, channels: int, heads: int, *, combined: bool, flash: bool, fc: bool) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (channels // heads) ** -0.5
        self.use_combined_linear, self.use_flash_attention, self.include_fc = combined, flash, fc
        self.qkv: Any = nn.Linear(channels, 3 * channels) if combined else nn.Identity()
        for name in ("to_q", "to_k", "to_v"):
            self.add_module(name, nn.Identity() if combined else nn.Linear(channels, channels))
        self.out_proj = nn.Linear(channels, channels) if fc else nn.Identity()
        self.drop_output, self.drop_weights = nn.Dropout(0.0), nn.Dropout(0.0)
        self.save_attn, self.causal, self.attention_dtype, self.rel_positional_embedding = False, False, None, None

    def forward(self, x: Tensor) -> Tensor:
        if self.use_combined_linear:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            q, k, v = (self.get_submodule(name)(x) for name in ("to_q", "to_k", "to_v"))
        q, k, v = (one.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for one in (q, k, v))
        if self.use_flash_attention:
            y = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
        else:
            y = torch.softmax(torch.einsum("blxd,blyd->blxy", q, k) * self.scale, dim=-1) @ v
        return self.drop_output(self.out_proj(y.transpose(1, 2).flatten(2)))


class SpatialAttentionBlock(nn.Module):
    """MONAI: GroupNorm and attention of all positions of a map with one to three axes."""

    def __init__(
        self,
        dims: int,
        channels: int,
        *,
        head_channels: int | None = None,
        combined: bool = False,
        flash: bool = False,
        fc: bool = True,
    ) -> None:
        super().__init__()
        self.spatial_dims = dims
        self.norm = nn.GroupNorm(4, channels, eps=1e-6)
        heads = 1 if head_channels is None else channels // head_channels
        self.attn = SABlock(channels, heads, combined=combined, flash=flash, fc=fc)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return self.attn(tokens).transpose(1, 2).reshape(x.shape) + x
