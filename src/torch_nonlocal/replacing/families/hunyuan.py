"""The attention of HunyuanVideo's autoencoders in diffusers, causal over frames.

HunyuanVideo 1.5 builds its N x N mask in the attention block. HunyuanVideo 1.0 builds it in the block around the
attention, `HunyuanVideoMidBlock3D`, which is replaced as a whole. Here, the keys of each frame are a growing prefix,
and there is no mask.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal.layers.operation import Computed
from torch_nonlocal.replacing.convolutional import ConvolutionalAttention, Parts, Rule
from torch_nonlocal.replacing.families.diffusers import Tokens, mismatch_of_attention, without_upcast
from torch_nonlocal.replacing.family import Family

_PROJECT = "HunyuanVideo in diffusers, or a copy"


class _Hunyuan15(ConvolutionalAttention):
    """Its own code runs with one clip only, because of the shape of its mask."""

    def example(self, module: Any, size: Sequence[int], batch: int = 1) -> Tensor:
        return super().example(module, size, batch)


HUNYUAN_15 = _Hunyuan15(
    "hunyuan15",
    _PROJECT,
    ("HunyuanVideo15AttnBlock",),
    Parts("to_q", "to_k", "to_v", "proj_out", norms=("norm",)),
    Rule(scaled=True),
    causal=True,
)


class HunyuanMidBlock(Family):
    """Convolutions, attention causal over frames, convolutions."""

    name = "hunyuan"
    project = _PROJECT
    class_names = ("HunyuanVideoMidBlock3D",)

    def mismatch(self, module: Any) -> str | None:
        attentions, resnets = module._modules.get("attentions"), module._modules.get("resnets")
        if not isinstance(attentions, nn.ModuleList) or not isinstance(resnets, nn.ModuleList):
            return "attentions and resnets are not lists of modules"
        if len(attentions) != 1 or len(resnets) != 2 or attentions[0] is None:
            return f"it has {len(attentions)} attentions between {len(resnets)} residual blocks, not 1 between 2"
        return mismatch_of_attention(attentions[0])

    def computed(self, module: Any) -> Computed:
        return Computed(3, scale=module.attentions[0].scale, causal="frames")

    def heads(self, module: Any) -> int:
        return module.attentions[0].heads

    def channels(self, module: Any) -> int:
        return module.attentions[0].to_q.in_features

    def prepare(self, trial: Any) -> None:
        without_upcast(trial.attentions[0])

    def embed(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return Tokens(module.attentions[0]).embed(self._before(module, x))

    def finish(self, module: Any, y: Tensor, x: Tensor) -> Tensor:
        return self._after(module, y, self._before(module, x))

    def run(self, module: Any, x: Tensor) -> Tensor:
        before = self._before(module, x)
        theta, phi, g = Tokens(module.attentions[0]).embed(before)
        return self._after(module, self.respond(module, x, theta, phi, g), before)

    def _before(self, module: Any, x: Tensor) -> Tensor:
        return _checkpointed(module, module.resnets[0], x)

    def _after(self, module: Any, y: Tensor, before: Tensor) -> Tensor:
        return _checkpointed(module, module.resnets[1], Tokens(module.attentions[0]).finish(y, before))


def _checkpointed(module: Any, part: nn.Module, x: Tensor) -> Tensor:
    if torch.is_grad_enabled() and module.gradient_checkpointing:
        return module._gradient_checkpointing_func(part, x)
    return part(x)


HUNYUAN = (HUNYUAN_15, HunyuanMidBlock())
