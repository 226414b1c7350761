"""The options of a block, as JSON values and as text. Later options appear only where they are set."""

from typing import Any

from torch import nn

from torch_nonlocal.layers.norm import changed_options
from torch_nonlocal.layers.options import SOFTMAX_FORMS


def config_of(block: Any) -> dict[str, Any]:
    """Return the options of a `NonLocal` as JSON values, as its property `config`."""
    if block.pairwise != "gaussian" and block.embedding_channels != block.inner_channels:
        raise ValueError(
            f"{type(block).__name__}: theta and phi have {block.embedding_channels} channels and g has "
            f"{block.inner_channels}; options describe only blocks with one inner width"
        )
    return {
        "channels": block.channels,
        "inner_channels": block.inner_channels,
        "pairwise": block.pairwise,
        "attend": block.attend,
        "subsample": list(block.subsample) if block.subsample else None,
        "pool_first": block.pool_first,
        "scale": block.scale if block.pairwise in SOFTMAX_FORMS else None,
        "norm": None if isinstance(block.norm, nn.Identity) else block.norm_kind,
        "norm_options": changed_options(block.norm),
        "normalize": block.normalize,
        "algorithm": block.algorithm,
        "checkpoint": block.checkpoint,
        "layout": block.layout,
        "grid": list(block.grid) if block.grid else None,
        "prefix_tokens": block.prefix_tokens,
        **later_options(block),
    }


def shown_options(block: Any) -> str:
    """Return the options that the child modules do not show, as text."""
    shown: dict[str, Any] = {
        "pairwise": block.pairwise,
        "attend": block.attend,
        "scale": block.scale,
        "normalize": block.normalize,
        **later_options(block),
    }
    if block.layout != "channels_first":
        shown["layout"] = block.layout
    if block.grid is not None:
        shown |= {"grid": block.grid, "prefix_tokens": block.prefix_tokens}
    return ", ".join(f"{name}={value!r}" for name, value in shown.items())


def later_options(block: Any) -> dict[str, Any]:
    """Return the set options that earlier versions lack. They can read the files of blocks without these."""
    groups = block.groups
    found: dict[str, Any] = {}
    if groups.causal:
        found |= {"causal": groups.causal, "window_frames": groups.window_frames}
    if groups.window_sizes is not None:
        found |= {"windows": list(groups.window_sizes), "interlaced": groups.interlaced}
    if block.keys != "pool":
        found["keys"] = block.keys
    if block.key_channels is not None:
        found["key_channels"] = block.key_channels
    if block.top_k is not None:
        found["top_k"] = block.top_k
    if block.hard:
        found |= {"hard": block.hard, "temperature": block.temperature}
    if block.regions is not None:
        found["regions"] = block.regions
    return found
