"""`AttnBlock` of taming-transformers (VQGAN) and latent diffusion, and its copies: norm, q, k, v, softmax, proj_out.

The copies, such as diffusers' LTX-2 audio autoencoder, write the product by `bmm`, `einsum` or `matmul`. Some lack the
norm.
"""

from torch_nonlocal.replacing.convolutional import ConvolutionalAttention, Parts, rules

_CLASSES = ("AttnBlock", "LTX2AudioAttnBlock", "SpatialSelfAttention", "VanillaAttnBlock", "AttnBlock2D", "AttnBlock3D")
_CLASSES += ("AttnBlock1D", "AttentionBlock", "NonLocalBlock", "NonLocal", "SelfAttention", "Attention")
_PARTS = Parts("q", "k", "v", "proj_out", norms=("norm", "gn", "group_norm", "norm1"))

LDM = tuple(
    ConvolutionalAttention(f"ldm.{rule.suffix}", "latent diffusion, VQGAN, or a copy", _CLASSES, _PARTS, rule)
    for rule in rules(scaled=True)
)
