"""The attention of SAGAN and BigGAN, and DANet's position attention, which follows SAGAN.

SAGAN's returns (output, map); the map is built if it is used. BigGAN's pools phi and g in its forward.
"""

from typing import Any

from torch import Tensor

from torch_nonlocal.replacing.convolutional import ConvolutionalAttention, Parts, rules

_GAMMAS = ("gamma", "alpha", "sigma")
_SAGAN = (
    Parts("query_conv", "key_conv", "value_conv", gammas=_GAMMAS),
    Parts("query", "key", "value", gammas=_GAMMAS),
    Parts("conv_b", "conv_c", "conv_d", gammas=_GAMMAS),
    Parts("f", "g", "h", gammas=_GAMMAS),
)
_SAGAN_CLASSES = ("Self_Attn", "SelfAttn", "SelfAttention", "Self_Attention", "SelfAttention2d", "SelfAttentionBlock")
_DANET_CLASSES = ("PAM_Module", "PAM", "PAMBlock", "PositionAttentionModule", "_PositionAttentionModule", "PAM_Layer")
_BIGGAN = (
    Parts("theta", "phi", "g", "o", gammas=_GAMMAS),
    Parts("conv1x1_theta", "conv1x1_phi", "conv1x1_g", "conv1x1_attn", gammas=_GAMMAS),
    Parts("snconv1x1_theta", "snconv1x1_phi", "snconv1x1_g", "snconv1x1_o_conv", gammas=_GAMMAS),
    Parts("snconv1x1_theta", "snconv1x1_phi", "snconv1x1_g", "snconv1x1_attn", gammas=_GAMMAS),
)
_BIGGAN_CLASSES = ("Attention", "SelfAttn", "Self_Attn", "SelfAttention", "AttentionBlock", "NonLocalBlock")


class _BigGan(ConvolutionalAttention):
    """The generator gives class features as well, which the module does not use."""

    def input(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        return args[0] if len(args) in (1, 2) and kwargs.keys() <= {"y"} else None


SAGAN = tuple(
    ConvolutionalAttention(
        f"sagan.{parts.theta}_{rule.suffix}{'_map' if returns_map else ''}",
        "SAGAN, or a copy",
        _SAGAN_CLASSES,
        parts,
        rule,
        returns_map=returns_map,
    )
    for parts in _SAGAN
    for rule in rules(scaled=False)
    for returns_map in (True, False)
)
DANET = tuple(
    ConvolutionalAttention(f"danet.{parts.theta}_{rule.suffix}", "DANet, or a copy", _DANET_CLASSES, parts, rule)
    for parts in _SAGAN
    for rule in rules(scaled=False)
)
BIGGAN = tuple(
    _BigGan(f"biggan.{parts.out}_{rule.suffix}_{pool}", "BigGAN, or a copy", _BIGGAN_CLASSES, parts, rule, pool=pool)
    for parts in _BIGGAN
    for rule in rules(scaled=False)
    for pool in (2, 1)
)
GAN = (*SAGAN, *DANET, *BIGGAN)
