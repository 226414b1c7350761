"""The softmax forms with a selection of keys (`ops.selection`): which algorithm computes them.

Shapes: B batch, N query positions, M key positions, D inner width, V value width.
"""

from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.tracing import is_exported, needs_plain_operations
from torch_nonlocal.ops import dense, exported, hard, inputs, noise, top_k
from torch_nonlocal.ops import dispatch as choose
from torch_nonlocal.ops.names import Algorithm
from torch_nonlocal.ops.selection import Selection


def softmax(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    selection: Selection,
    *,
    scale: float = 1.0,
    key_bias_BM: Tensor | None = None,
    algorithm: Algorithm = "auto",
) -> Tensor:
    """Compute the softmax forms over keys with a selection: (B, N, V). The arguments have been checked."""
    options: dict[str, Any] = {"scale": scale, "key_bias_BM": key_bias_BM}
    if algorithm != "dense" and is_exported(theta_BND):
        return _exported(theta_BND, phi_BMD, g_BMV, selection, options)
    algorithm = inputs.differentiable(algorithm, theta_BND, phi_BMD, g_BMV, key_bias_BM)
    if algorithm != "dense":
        theta_BND, phi_BMD, g_BMV = inputs.one_dtype("embedded_gaussian", theta=theta_BND, phi=phi_BMD, g=g_BMV)
    if algorithm == "auto":
        sizes = (theta_BND.shape[0], theta_BND.shape[1], phi_BMD.shape[1])
        algorithm = choose.for_selected(selection, *sizes, dtype=g_BMV.dtype).algorithm
    if algorithm == "dense":
        return _dense(theta_BND, phi_BMD, g_BMV, selection, options)
    if key_bias_BM is not None:
        options["key_bias_BM"] = key_bias_BM.to(theta_BND.dtype)
    if selection.top_k is not None:
        return top_k.softmax(theta_BND, phi_BMD, g_BMV, selection.top_k, **options)
    seeds_BS = noise.draw_seeds(*theta_BND.shape[:2]) if selection.hard == "gumbel" else None
    return hard.attend(theta_BND, phi_BMD, g_BMV, **options, temperature=selection.temperature, seeds_BS=seeds_BS)


def _dense(theta: Tensor, phi: Tensor, g: Tensor, selection: Selection, options: dict[str, Any]) -> Tensor:
    if selection.top_k is not None:
        return dense.top_k(theta, phi, g, selection.top_k, **options)
    noise_BNM = None
    if selection.hard == "gumbel":
        if needs_plain_operations(theta):
            noise_BNM = noise.plain_noise(theta.detach() @ phi.detach().transpose(-1, -2))
        else:
            noise_BNM = noise.whole_noise(noise.draw_seeds(*theta.shape[:2]), theta, phi)
    return dense.hard(theta, phi, g, **options, temperature=selection.temperature, noise_BNM=noise_BNM)


def _exported(theta: Tensor, phi: Tensor, g: Tensor, selection: Selection, options: dict[str, Any]) -> Tensor:
    if selection.hard == "gumbel":
        return _dense(theta, phi, g, selection, options)
    scale, bias = options["scale"], options["key_bias_BM"]

    def form(theta: Tensor, phi: Tensor, g: Tensor, *bias: Tensor) -> Tensor:
        own = {"scale": scale, "key_bias_BM": bias[0] if bias else None}
        if selection.hard and torch.onnx.is_in_onnx_export():
            return exported.strongest(theta, phi, g, **own)
        return _dense(theta, phi, g, selection, own)

    return exported.in_parts(form, theta, phi, g, *(() if bias is None else (bias,)))
