"""Whether a call is only being recorded, with stand-ins for sizes and values."""

from typing import Any

import torch


def is_recorded(x: Any) -> bool:
    """True under fx symbolic tracing and torch.jit.trace: Python checks of shapes would fail or be frozen."""
    return isinstance(x, torch.fx.Proxy) or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
