"""diffusers' `Attention` as autoencoders use it: self-attention of a map (B, C, H, W) or of positions (B, N, C).

What it computes is decided by its processor. `AttnProcessor` and `SlicedAttnProcessor` build the map;
`AttnProcessor2_0` and xFormers do not. Calls with a mask or with other keys are answered by its own code.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from torch_nonlocal.layers.operation import Computed
from torch_nonlocal.replacing.family import Family

_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor")


class Tokens:
    """The projections of an `Attention`, on maps (B, C, *size).

    Args:
        attention: a module for which `mismatch_of_attention` returns None.
    """

    def __init__(self, attention: Any) -> None:
        self._attention = attention

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return theta, phi and g."""
        tokens_BCN = x.flatten(2)
        if self._attention.group_norm is not None:
            tokens_BCN = self._attention.group_norm(tokens_BCN)
        tokens_BNC = tokens_BCN.transpose(1, 2)
        linear = (self._attention.to_q, self._attention.to_k, self._attention.to_v)
        theta, phi, g = (one(tokens_BNC).transpose(1, 2).unflatten(2, x.shape[2:]) for one in linear)
        return theta, phi, g

    def finish(self, y: Tensor, x: Tensor) -> Tensor:
        """Return the output from y and the input."""
        y_BNC = y.flatten(2).transpose(1, 2)
        for part in self._attention.to_out:
            y_BNC = part(y_BNC)
        out = y_BNC.transpose(1, 2).unflatten(2, x.shape[2:])
        if self._attention.residual_connection:
            out = out + x
        return out / self._attention.rescale_output_factor


def mismatch_of_attention(module: Any) -> str | None:
    """Return in which way an `Attention` is not the self-attention of an autoencoder; None if it is."""
    if not all(isinstance(module._modules.get(name), nn.Linear) for name in ("to_q", "to_k", "to_v")):
        return "to_q, to_k and to_v are not linear layers"
    processor = getattr(module, "processor", None)
    if type(processor).__name__ not in _PROCESSORS or not type(processor).__module__.startswith("diffusers"):
        return f"its processor is {type(processor).__name__}"
    if module.to_k.out_features != module.to_q.out_features or module.to_k.in_features != module.to_q.in_features:
        return "its keys have other widths than its queries"
    if getattr(module, "spatial_norm", None) is not None:
        return "it has a spatial norm"
    if any(getattr(module, name, None) is not None for name in ("norm_q", "norm_k", "added_kv_proj_dim")):
        return "it has norms of queries and keys, or added keys"
    if not isinstance(module._modules.get("to_out"), nn.ModuleList):
        return "to_out is missing"
    return None


def without_upcast(trial: Any) -> None:
    """Let a copy of an `Attention` compute its map in the dtype of the input, not in float32."""
    trial.upcast_attention = trial.upcast_softmax = False


class DiffusersAttention(Family):
    """Self-attention without a mask."""

    name = "diffusers"
    project = "diffusers"
    class_names = ("Attention",)

    def mismatch(self, module: Any) -> str | None:
        return mismatch_of_attention(module)

    def computed(self, module: Any) -> Computed:
        return Computed(2, scale=module.scale)

    def heads(self, module: Any) -> int:
        return module.heads

    def channels(self, module: Any) -> int:
        return module.to_q.in_features

    def input(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        given = dict(zip(("hidden_states", "encoder_hidden_states", "attention_mask"), args, strict=False)) | kwargs
        x = given.pop("hidden_states", None)
        if not isinstance(x, Tensor) or x.ndim not in (3, 4) or len(args) > 3:
            return None
        return x if all(value is None for value in given.values()) else None

    def prepare(self, trial: Any) -> None:
        without_upcast(trial)

    def position_axes(self, shape: Sequence[int]) -> range:
        return range(1, 2) if len(shape) == 3 else range(2, len(shape))

    def embed(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return Tokens(module).embed(x)

    def finish(self, module: Any, y: Tensor, x: Tensor) -> Tensor:
        return Tokens(module).finish(y, x)

    def run(self, module: Any, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return super().run(module, x)
        return super().run(module, x.transpose(1, 2)).transpose(1, 2)

    def sizes(self, module: nn.Module, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        if len(shape) == 3:  # positions (B, N, C) are a map of one column
            shape = (shape[0], shape[2], shape[1], 1)
        return super().sizes(module, shape)


DIFFUSERS = (DiffusersAttention(),)
