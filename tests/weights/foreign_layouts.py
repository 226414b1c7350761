"""Checkpoints in the layouts of other projects, built from random parts, and the formula of their blocks."""

import pickle

import torch
import torch.nn.functional as F

POOLED = {"theta": "theta", "phi": "phi.0", "g": "g.0", "out": "W.0", "norm": "W.1", "score": "concat_project.0"}
NAMES = {
    "alexhex7 pooled": POOLED,
    "alexhex7": POOLED | {"phi": "phi", "g": "g"},
    "alexhex7 bare": POOLED | {"phi": "phi", "g": "g", "out": "W"},
    "tea1528": {"theta": "theta", "phi": "phi", "g": "g", "out": "W_z.0", "norm": "W_z.1", "score": "W_f.0"},
    "slowfast": {"theta": "conv_theta", "phi": "conv_phi", "g": "conv_g", "out": "conv_out", "norm": "bn"},
    "pytorchvideo": {"theta": "conv_theta", "phi": "conv_phi", "g": "conv_g", "out": "conv_out", "norm": "norm"},
    "mmcv": {
        "theta": "theta.conv",
        "phi": "phi.conv",
        "g": "g.conv",
        "out": "conv_out.conv",
        "norm": "conv_out.bn",
        "score": "concat_project.conv",
    },
    "timm": {"theta": "t", "phi": "p", "g": "g", "out": "z", "norm": "norm"},
    "cgnl": {"theta": "t", "phi": "p", "g": "g", "out": "z", "norm": "bn"},
    "gluoncv": {"theta": "theta", "phi": "phi", "g": "g", "out": "W", "norm": "bn"},
}
NAMES["mmcv pooled"] = NAMES["mmcv"] | {"phi": "phi.0.conv", "g": "g.0.conv"}
CAFFE2_PARAMETERS = {"weight": "w", "bias": "b"}
CAFFE2_NORM = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def random_parts(
    dims,
    channels=8,
    inner=4,
    *,
    form="embedded",
    norm: str | None = "batch",
    biases: bool | str = True,
    score_bias=False,
    seed=0,
):
    """Random float32 tensors of a block by parameter name: {"theta.weight": ..., ...}."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator) * 0.4

    ones = (1,) * dims
    parts = {}
    for part in ("g",) if form == "gaussian" else ("theta", "phi", "g"):
        parts[f"{part}.weight"] = normal(inner, channels, *ones)
        if biases:
            parts[f"{part}.bias"] = normal(inner)
    parts["out.weight"] = normal(channels, inner, *ones)
    if biases is True:
        parts["out.bias"] = normal(channels)
    if norm:
        parts |= {"norm.weight": normal(channels), "norm.bias": normal(channels)}
    if norm == "batch":
        parts |= {"norm.running_mean": normal(channels), "norm.running_var": normal(channels).square() + 0.3}
        parts["norm.num_batches_tracked"] = torch.tensor(7)
    if form == "concatenation":
        parts["score.weight"] = normal(1, 2 * inner, 1, 1)
        if score_bias:
            parts["score.bias"] = normal(1) + 1
    return parts


def named_as(layout, parts, block):
    """The parts as a state dict in a layout, for a block of this name."""
    prefix = f"{block}." if block else ""
    state = {}
    for name, tensor in parts.items():
        part, _, parameter = name.partition(".")
        state[f"{prefix}{NAMES[layout][part]}.{parameter}"] = tensor
        if layout == "gluoncv" and part in ("out", "norm"):
            state[f"{prefix}W_bn.{0 if part == 'out' else 1}.{parameter}"] = tensor.clone()
    return state


def caffe2_blobs(parts, block):
    blobs = {}
    for name, tensor in parts.items():
        part, _, parameter = name.partition(".")
        if parameter == "num_batches_tracked":
            continue
        short = f"bn_{CAFFE2_NORM[parameter]}" if part == "norm" else f"{part}_{CAFFE2_PARAMETERS[parameter]}"
        blobs[f"{block}_{short}"] = tensor.numpy()
        blobs[f"{block}_{short}_momentum"] = tensor.numpy()
    return blobs


def save_pickle(path, content, protocol=2):
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=protocol)


def formula(x, parts, *, form="embedded", pool=None, pool_first=False, scale=1.0, groups=None, by_queries=False):
    """z = W_z y + x in float64, computed with the N x M weights."""
    x = x.double()
    parts = {name: tensor.double() for name, tensor in parts.items()}
    dims = x.ndim - 2
    pooling = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]

    def convolved(part, value):
        weight = parts[f"{part}.weight"].flatten(1)
        y = torch.einsum("oc,bc...->bo...", weight, value)
        bias = parts.get(f"{part}.bias")
        return y if bias is None else y + bias.view(1, -1, *(1,) * dims)

    def pooled(value):
        return pooling(value, pool, pool) if pool else value

    keys = pooled(x) if pool_first else x
    after = (lambda value: value) if pool_first else pooled
    g = after(convolved("g", keys)).flatten(2)
    if form == "gaussian":
        theta, phi = x.flatten(2), pooled(x).flatten(2)
    else:
        theta, phi = convolved("theta", x).flatten(2), after(convolved("phi", keys)).flatten(2)
    if form == "concatenation":
        w_theta, w_phi = parts["score.weight"].flatten().split(theta.shape[1])
        a, b = torch.einsum("d,bdn->bn", w_theta, theta), torch.einsum("d,bdm->bm", w_phi, phi)
        f = torch.relu(a[:, :, None] + b[:, None, :] + parts.get("score.bias", 0.0)) / b.shape[1]
    else:
        f = torch.einsum("bdn,bdm->bnm", theta, phi)
        f = f / f.shape[1 if by_queries else 2] if form == "dot_product" else torch.softmax(f * scale, dim=2)
    y = torch.einsum("bnm,bdm->bdn", f, g).unflatten(2, x.shape[2:])
    y = convolved("out", y)
    view = (1, -1, *(1,) * dims)
    if groups:
        y = F.group_norm(y, groups, parts["norm.weight"], parts["norm.bias"])
    elif "norm.running_var" in parts:
        y = (y - parts["norm.running_mean"].view(view)) / (parts["norm.running_var"].view(view) + 1e-5).sqrt()
        y = y * parts["norm.weight"].view(view) + parts["norm.bias"].view(view)
    elif "norm.weight" in parts:
        y = y * parts["norm.weight"].view(view) + parts["norm.bias"].view(view)
    return x + y
