"""Random seeds: mixed from several numbers, set for every generator, or set for a block of code only."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's (if it is in use) and torch's random numbers, on every device."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and the CPU's random numbers inside; outside they go on as if nothing had been drawn."""
    numpy = sys.modules.get("numpy")
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    numpy_state = numpy.random.get_state() if numpy else None
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if numpy:
        numpy.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        torch.set_rng_state(torch_state)
        if numpy:
            numpy.random.set_state(numpy_state)


def mix_seed(*numbers: int) -> int:
    """Mix whole numbers into one 32-bit seed; other numbers, or the same in another order, give another seed.

    The mixing is the finaliser of MurmurHash3 (Appleby, 2011), applied after each number.
    """
    state = 0x9E3779B9
    for number in numbers:
        state = (state * 31 + number) & 0xFFFFFFFF
        state = ((state ^ (state >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
        state = ((state ^ (state >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
        state ^= state >> 16
    return state
