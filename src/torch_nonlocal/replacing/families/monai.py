"""MONAI's `SpatialAttentionBlock`: GroupNorm and self-attention (`SABlock`) of all positions of a map."""

from typing import Any

from torch import Tensor, nn

from torch_nonlocal.layers.operation import Computed
from torch_nonlocal.replacing.family import Family


class MonaiAttention(Family):
    """With one linear layer for theta, phi and g, or with three."""

    name = "monai"
    project = "MONAI"
    class_names = ("SpatialAttentionBlock",)

    def mismatch(self, module: Any) -> str | None:
        attention = module._modules.get("attn")
        if not isinstance(module._modules.get("norm"), nn.GroupNorm) or not isinstance(attention, nn.Module):
            return "norm or attn is missing"
        if not isinstance(getattr(attention, "qkv" if _combined(module) else "to_q", None), nn.Linear):
            return "attn has no linear layers"
        if attention.causal or attention.rel_positional_embedding is not None:  # pyright: ignore
            return "its attention is causal or has relative positions"
        if attention.attention_dtype is not None:
            return f"it computes in attention_dtype={attention.attention_dtype}"
        if attention.save_attn:
            return "it keeps its map (save_attn)"
        if attention.drop_weights.p:  # pyright: ignore
            return "it has dropout of the map"
        return None

    def computed(self, module: Any) -> Computed:
        return Computed(module.spatial_dims, scale=module.attn.scale)

    def heads(self, module: Any) -> int:
        return module.attn.num_heads

    def channels(self, module: Any) -> int:
        return module.norm.num_channels

    def embed(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens_BNC, attention = module.norm(x).flatten(2).transpose(1, 2), module.attn
        if _combined(module):
            parts = attention.qkv(tokens_BNC).chunk(3, dim=2)
        else:
            parts = (attention.to_q(tokens_BNC), attention.to_k(tokens_BNC), attention.to_v(tokens_BNC))
        theta, phi, g = (one.transpose(1, 2).unflatten(2, x.shape[2:]) for one in parts)
        return theta, phi, g

    def finish(self, module: Any, y: Tensor, x: Tensor) -> Tensor:
        attention = module.attn
        y_BNC = y.flatten(2).transpose(1, 2)
        if attention.include_fc:
            y_BNC = attention.out_proj(y_BNC)
        return attention.drop_output(y_BNC).transpose(1, 2).reshape(x.shape) + x


def _combined(module: Any) -> bool:
    return bool(getattr(module.attn, "use_combined_linear", False))


MONAI = (MonaiAttention(),)
