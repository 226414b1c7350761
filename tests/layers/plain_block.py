"""A block by its definition: every pair of a query and a key, a mask, and plain operations in float64."""

import math
from functools import lru_cache
from itertools import product

import torch
from torch.nn import functional as F

PYRAMID = (1, 3, 6, 8)


def points(size):
    return list(product(*map(range, size)))


def linear(conv, x):
    """A 1x1 convolution of a map (B, C, *size)."""
    if not hasattr(conv, "weight"):
        return x
    y = torch.einsum("dc,bcn->bdn", conv.weight.flatten(1), x.flatten(2)) + conv.bias[:, None]
    return y.unflatten(2, x.shape[2:])


@lru_cache
def averages(size):
    """The shares (M, N) of the positions of an image or a sequence in the parts of the pyramid."""
    shares = []
    for parts in PYRAMID:
        for cell in product(range(parts), repeat=len(size)):
            part = torch.zeros(size, dtype=torch.float64)
            part[tuple(slice(i * n // parts, -(-(i + 1) * n // parts)) for i, n in zip(cell, size, strict=True))] = 1
            shares.append(part.flatten() / part.sum())
    return torch.stack(shares)


def pyramid(x):
    """Averages over the parts of an image or a sequence, (B, C, M), from (B, C, *size)."""
    return x.flatten(2) @ averages(tuple(x.shape[2:])).to(x).T


def keys_of(block, x):
    """The keys (B, C, M) of a map, and the point of the map that each stands for: its first, or a frame."""
    kind, factors = block.keys, block.subsample or (1,) * block.dims
    if kind == "pyramid":
        if block.dims < 3:
            return pyramid(x), [(0,) * block.dims] * sum(parts**block.dims for parts in PYRAMID)
        frames = [pyramid(x[:, :, t]) for t in range(x.shape[2])]
        return torch.cat(frames, 2), [(t, 0, 0) for t in range(x.shape[2]) for _ in range(110)]
    if kind == "stride":
        kept = [point for point in points(x.shape[2:]) if all(i % s == 0 for i, s in zip(point, factors, strict=True))]
        return torch.stack([x[(..., *point)] for point in kept], 2), kept
    size = [n // s for n, s in zip(x.shape[2:], factors, strict=True)]
    firsts = [tuple(i * s for i, s in zip(cell, factors, strict=True)) for cell in points(size)]
    cells = [
        x[(..., *(slice(i, i + s) for i, s in zip(first, factors, strict=True)))].flatten(2).amax(2) for first in firsts
    ]
    return torch.stack(cells, 2), firsts


def sees(block, query, key, size):
    """Whether a query attends to a key, by the options of the block."""
    same = [a == b for a, b in zip(query, key, strict=True)]
    if block.attend == "space" and not same[0]:
        return False
    if block.attend == "time" and not (same[1] and same[2]):
        return False
    if block.attend == "criss_cross" and not ((block.dims == 2 or same[0]) and (same[-1] or same[-2])):
        return False
    if block.causal and not (0 <= query[0] - key[0] < (block.window_frames or math.inf)):
        return False
    for axis, window in enumerate(block.windows or ()):
        if window is not None:
            count = -(-size[axis] // window)
            window_of = (lambda i, n=count: i % n) if block.interlaced else (lambda i, w=window: i // w)
            if window_of(query[axis]) != window_of(key[axis]):
                return False
    return True


def weights_of(block, theta_BND, phi_BMD, seen_NM):
    """Weights (B, N, M) of theta and phi; keys that a query does not see have none."""
    over = 2 if block.normalize == "keys" else 1
    count = seen_NM.sum(over - 1, keepdim=True)
    if block.pairwise == "concatenation":
        w_theta, w_phi = block.score.weight[0].split(theta_BND.shape[2])
        pairs = F.relu((theta_BND @ w_theta)[:, :, None] + (phi_BMD @ w_phi)[:, None, :])
        return pairs * seen_NM / count
    pairs = torch.einsum("bnd,bmd->bnm", theta_BND, phi_BMD)
    if block.pairwise == "dot_product":
        return pairs * seen_NM / count
    return torch.softmax((block.scale * pairs).masked_fill(~seen_NM, -math.inf), over)


def plain_weights(block, x, source=None):
    """Weights (B, N, M) and values (B, M, V)."""
    source = x if source is None else source
    size = x.shape[2:]
    if block.attend == "channel":
        theta, phi, g = linear(block.theta, x), linear(block.phi, source), linear(block.g, source)
        theta, phi, g = theta.flatten(2), phi.flatten(2), g.flatten(2)
        everything = torch.ones(theta.shape[1], phi.shape[1], dtype=torch.bool)
        return weights_of(block, theta, phi, everything), g
    if block.pool_first:
        pooled, firsts = keys_of(block, source)
        phi, g = linear(block.phi, pooled), linear(block.g, pooled)
    else:
        (phi, firsts), (g, _) = keys_of(block, linear(block.phi, source)), keys_of(block, linear(block.g, source))
    seen = torch.tensor([[sees(block, query, key, size) for key in firsts] for query in points(size)])
    theta = linear(block.theta, x).flatten(2).mT
    return weights_of(block, theta, phi.mT, seen), g.mT


def plain_block(block, x, source=None):
    """The output of a block without a norm."""
    weights, g = plain_weights(block, x, source)
    y = weights @ g
    y = y if block.attend == "channel" else y.mT
    return x + linear(block.out, y.unflatten(2, x.shape[2:]))
