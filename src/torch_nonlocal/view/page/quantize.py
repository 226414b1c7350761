"""Storage of theta and phi in few bits: packed integers with one scale per position.

Shapes: P positions, D inner width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BITS = (8, 10, 12, 14, 16)
_CHUNK = 2**18  # codes packed at a time; a multiple of 8, so that chunks end at whole bytes


@dataclass(frozen=True)
class Quantized:
    """A matrix (P, D) as integers: x = scale_P * (code_PD - zero) with zero = 2^(bits - 1) - 1.

    Attributes:
        bits: bits per code.
        code_PD: uint16, in [0, 2 * zero].
        scale_P: float32.
    """

    bits: int
    code_PD: np.ndarray  # noqa: N815 (shape suffix)
    scale_P: np.ndarray  # noqa: N815

    @property
    def values(self) -> Tensor:
        """The dequantized matrix, (P, D) float32, which the page computes with."""
        integers = torch.from_numpy(self.code_PD.astype(np.int32) - _zero(self.bits)).float()
        return integers * torch.from_numpy(self.scale_P)[:, None]

    def packed(self) -> bytes:
        """All codes as a bit stream, highest bit first, as `unpack` in data.js reads it."""
        codes = self.code_PD.reshape(-1)
        if self.bits == 8:
            return codes.astype(np.uint8).tobytes()
        if self.bits == 16:
            return codes.astype(">u2").tobytes()
        places = np.arange(self.bits - 1, -1, -1, dtype=np.uint16)
        chunks = (codes[start : start + _CHUNK, None] >> places & 1 for start in range(0, len(codes), _CHUNK))
        return b"".join(np.packbits(chunk.astype(np.uint8)).tobytes() for chunk in chunks)


def quantize(values_PD: Tensor, bits: int) -> Quantized:
    """Round a float matrix (P, D) to `bits` bits; the largest value of each position becomes the largest code."""
    zero = _zero(bits)
    values = values_PD.float().numpy()
    largest = np.abs(values).max(axis=1) if values.size else np.zeros(len(values), np.float32)
    scale = np.where(largest > 0, largest / zero, 1.0).astype(np.float32)
    code = np.rint(values / scale[:, None]).clip(-zero, zero) + zero
    return Quantized(bits, code.astype(np.uint16), scale)


def packed_size(positions: int, width: int, bits: int) -> int:
    """Return the number of bytes of `Quantized.packed`."""
    return (positions * width * bits + 7) // 8


def _zero(bits: int) -> int:
    return 2 ** (bits - 1) - 1
