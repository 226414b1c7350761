"""Synthetic identities, and the network that embeds them, for the tests of galleries."""

import numpy as np

from torch_nonlocal.gallery import EmbeddingModel, Entry

MODEL = EmbeddingModel("0123456789abcdef" * 4, "a test network")
OTHER = EmbeddingModel("fedcba9876543210" * 4, "another test network")


def identities(count, per_identity, dimension=32, *, noise=0.7, seed=0):
    """Vectors (count * per_identity, dimension) around random directions, not normalized, and their identities."""
    random = np.random.default_rng(seed)
    centers = random.standard_normal((count, dimension))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    numbers = np.repeat(np.arange(count), per_identity)
    vectors = centers[numbers] + noise / dimension**0.5 * random.standard_normal((len(numbers), dimension))
    return (3 * vectors).astype(np.float32), numbers


def entries(numbers, *, prefix="t"):
    """A tracklet for each number of an identity."""
    return [
        Entry(f"{prefix}{place:05d}", f"person {number}", f"camera {place % 3}") for place, number in enumerate(numbers)
    ]


def embed_from(vectors):
    """A network that knows its results."""
    return lambda chosen: (vectors[list(chosen)], chosen)
