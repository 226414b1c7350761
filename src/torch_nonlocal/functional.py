"""The non-local operation, one function per pairwise form.

    y_i = 1 / C(x) * sum over all j of f(x_i, x_j) g(x_j)        Wang et al., CVPR 2018, eq. 1

| function             | f(x_i, x_j)                    | C(x)          |
|----------------------|--------------------------------|---------------|
| `gaussian`           | exp(x_i . x_j)                 | sum_j f       |
| `embedded_gaussian`  | exp(scale * theta_i . phi_j)   | sum_j f       |
| `dot_product`        | theta_i . phi_j                | M             |
| `concatenation`      | ReLU(a_i + b_j)                | M             |

Shapes: B batch, N query positions, M key positions, D inner width, V value width. The last axis holds
the features: `x.flatten(2).transpose(1, 2)` turns a map (B, C, T, H, W) into (B, N, C) without a copy.

With `frames=T`, a form is causal over frames: a query sees the keys of its own and of earlier frames only. Positions
are numbered frame by frame, as in the view above: N = T n and M = T m. Weights of keys that a query does not see are
zero, and C(x) = M is the number of keys that it sees. Only "dense" builds a mask.

For B = 0 or N = 0 the result is empty and gradients are zero. M = 0 raises a ValueError if there are queries, since
eq. 1 then is 0 / 0.
"""

from typing import get_args

import torch
from torch import Tensor

from torch_nonlocal._common.tracing import is_exported, is_recorded
from torch_nonlocal.denoising import estimate_noise as estimate_noise
from torch_nonlocal.denoising import non_local_means as non_local_means
from torch_nonlocal.denoising import non_local_means_weights as non_local_means_weights
from torch_nonlocal.ops import causal, dense, exported, fused, inputs, kernels, reassociated, selected, sorted, tiled
from torch_nonlocal.ops import dispatch as choose
from torch_nonlocal.ops.frames import CausalFrames, causal_frames, visible
from torch_nonlocal.ops.names import Algorithm, Normalize, Pairwise
from torch_nonlocal.ops.selection import SOFT, Hard, Selection, selection_of

NORMALIZE: tuple[Normalize, ...] = get_args(Normalize)
ALGORITHMS: dict[Pairwise, tuple[Algorithm, ...]] = {
    "gaussian": ("auto", "dense", "tiled", "fused"),
    "embedded_gaussian": ("auto", "dense", "tiled", "fused"),
    "dot_product": ("auto", "dense", "reassociated"),
    "concatenation": ("auto", "dense", "sorted"),
}
"""Algorithms of each form. All give the same result; "dense" is the definition and builds the N x M map."""


def gaussian(
    x_query_BND: Tensor,
    x_key_BMD: Tensor,
    g_BMV: Tensor,
    *,
    normalize: Normalize = "keys",
    algorithm: Algorithm = "auto",
    frames: int | None = None,
    window_frames: int | None = None,
    top_k: int | None = None,
    hard: Hard = False,
    temperature: float = 1.0,
) -> Tensor:
    """Compute the Gaussian form, y_i = sum_j softmax_j(x_i . x_j) g_j.

    Args:
        x_query_BND: features at the query positions, (B, N, D).
        x_key_BMD: features at the key positions, (B, M, D); the same tensor unless the keys are subsampled.
        g_BMV: values at the key positions, (B, M, V).
        normalize: see `embedded_gaussian`.
        algorithm: see `embedded_gaussian`.
        frames: see `embedded_gaussian`.
        window_frames: see `embedded_gaussian`.
        top_k: see `embedded_gaussian`.
        hard: see `embedded_gaussian`.
        temperature: see `embedded_gaussian`.

    Returns:
        y, (B, N, V), with the dtype of g.

    Raises:
        ValueError: as for `embedded_gaussian`.

    Reference: Wang et al., Non-local Neural Networks, CVPR 2018, eq. 2.
    """
    return embedded_gaussian(
        x_query_BND,
        x_key_BMD,
        g_BMV,
        normalize=normalize,
        algorithm=algorithm,
        frames=frames,
        window_frames=window_frames,
        top_k=top_k,
        hard=hard,
        temperature=temperature,
    )


def embedded_gaussian(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    *,
    scale: float = 1.0,
    normalize: Normalize = "keys",
    key_bias_BM: Tensor | None = None,
    algorithm: Algorithm = "auto",
    frames: int | None = None,
    window_frames: int | None = None,
    top_k: int | None = None,
    hard: Hard = False,
    temperature: float = 1.0,
) -> Tensor:
    """Compute the embedded Gaussian form, y_i = sum_j softmax_j(scale * theta_i . phi_j + bias_j) g_j.

    The result is exact. Only "dense" builds the N x M map; the memory of the other algorithms grows with N + M.

    Args:
        theta_BND: queries, (B, N, D).
        phi_BMD: keys, (B, M, D).
        g_BMV: values, (B, M, V).
        scale: factor of theta_i . phi_j; 1 in the paper, D ** -0.5 in many implementations.
        normalize: axis over which weights sum to one: "keys" for the weights of each query (the paper), "queries" for
            the weights of each key, which is a different operator.
        key_bias_BM: bias of the logits of each key, (B, M); -inf excludes a key, such as the padding of a short clip.
            Not with normalize="queries", where it cancels.
        algorithm: "auto" chooses by cost. "tiled" processes tiles of queries and recomputes them in backward. "fused"
            uses PyTorch's fused attention, for D = V, without bias, with normalize="keys". "dense" is the definition.
            All give the same result and have derivatives of any order; "tiled" and "fused" have no forward-mode
            derivatives. `torch.func` transforms use the definition.
        frames: number of frames T of a form that is causal over frames; None for all keys. N and M are T times the
            positions of a frame. Not with normalize="queries", where the weights of a key depend on later frames.
        window_frames: number of frames that a query sees, its own included; None for all up to its own.
        top_k: number of keys of each query, those with the largest logits, over which the weights are renormalized;
            None for all M. Gradients are exact: those of keys that no query selects are zero. Memory grows with N k.
        hard: True gives each query the value of its strongest key alone, "gumbel" that of a key drawn with the
            probability of its soft weight, by Gumbel noise from PyTorch's generator. The gradient of theta, phi and the
            bias is straight-through, that of softmax(logits / temperature); the gradient of g is exact.
        temperature: see `hard`, which needs it.

    Returns:
        y, (B, N, V), with the dtype of g.

    Raises:
        ValueError: if shapes or dtypes disagree, `normalize` or `algorithm` is unknown, N or M is not a multiple of
            `frames`, `top_k` exceeds M, `temperature` is not above 0, or options or the algorithm do not support the
            combination.
        NotImplementedError: for forward-mode derivatives with "tiled" or "fused".

    Reference: Wang et al., Non-local Neural Networks, CVPR 2018, eq. 3.
    """
    inputs.check_features("embedded_gaussian", theta_BND, phi_BMD, g_BMV)
    inputs.check_choice("normalize", normalize, NORMALIZE)
    inputs.check_bias(key_bias_BM, phi_BMD, normalize)
    inputs.check_choice("algorithm", algorithm, ALGORITHMS["embedded_gaussian"])
    selection = selection_of(top_k, hard, temperature)
    if selection:
        selection.check_goes_with("embedded_gaussian", normalize, causal=frames is not None, algorithm=algorithm)
        if not is_exported(theta_BND):
            selection.check_keys(phi_BMD.shape[1])
    if (seen := causal_frames("embedded_gaussian", theta_BND, phi_BMD, frames, window_frames)) is not None:
        if normalize == "queries":
            raise ValueError(
                "normalize='queries' is not causal: the weights of a key would depend on the queries of later frames; "
                "expected normalize='keys' with frames"
            )
        return _causal_softmax(theta_BND, phi_BMD, g_BMV, seen, scale, key_bias_BM, algorithm)
    if selection and (is_exported(phi_BMD) or selection.top_k != phi_BMD.shape[1]):  # all keys are soft weights
        return selected.softmax(
            theta_BND, phi_BMD, g_BMV, selection, scale=scale, key_bias_BM=key_bias_BM, algorithm=algorithm
        )
    if algorithm != "dense" and is_exported(theta_BND):
        return exported.softmax(theta_BND, phi_BMD, g_BMV, scale=scale, normalize=normalize, key_bias_BM=key_bias_BM)
    algorithm = inputs.differentiable(algorithm, theta_BND, phi_BMD, g_BMV, key_bias_BM)
    if algorithm == "dense":
        return dense.softmax(theta_BND, phi_BMD, g_BMV, scale=scale, normalize=normalize, key_bias_BM=key_bias_BM)
    theta_BND, phi_BMD, g_BMV = inputs.one_dtype("embedded_gaussian", theta=theta_BND, phi=phi_BMD, g=g_BMV)
    batch, queries, keys = theta_BND.shape[0], theta_BND.shape[1], phi_BMD.shape[1]
    training = torch.is_grad_enabled() and any(t.requires_grad for t in (theta_BND, phi_BMD, g_BMV))
    automatic = algorithm == "auto"
    if automatic:
        algorithm = choose.for_softmax(
            batch,
            queries,
            keys,
            phi_BMD.shape[2],
            g_BMV.shape[2],
            device=g_BMV.device,
            dtype=g_BMV.dtype,
            training=training,
            normalize=normalize,
            biased=key_bias_BM is not None,
        ).algorithm
    if algorithm == "dense":
        return dense.softmax(theta_BND, phi_BMD, g_BMV, scale=scale, normalize=normalize, key_bias_BM=key_bias_BM)
    if algorithm == "fused":
        kernel = _kernel(theta_BND, g_BMV, normalize, key_bias_BM, training=training, winning=automatic)
        return kernel.run(theta_BND, phi_BMD, g_BMV, scale=scale)
    bias = key_bias_BM if key_bias_BM is None else key_bias_BM.to(theta_BND.dtype)
    keep = choose.keeps(batch, queries, keys, g_BMV.dtype, training=training)
    return tiled.softmax(theta_BND, phi_BMD, g_BMV, scale=scale, normalize=normalize, key_bias_BM=bias, keep=keep)


def _causal_softmax(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    frames: CausalFrames,
    scale: float,
    key_bias_BM: Tensor | None,
    algorithm: Algorithm,
) -> Tensor:
    """Compute the embedded Gaussian form, causal over frames. The arguments have been checked."""
    if algorithm != "dense" and is_exported(theta_BND):
        return exported.causal_softmax(theta_BND, phi_BMD, g_BMV, frames, scale=scale, key_bias_BM=key_bias_BM)
    algorithm = inputs.differentiable(algorithm, theta_BND, phi_BMD, g_BMV, key_bias_BM)
    if algorithm != "dense":
        theta_BND, phi_BMD, g_BMV = inputs.one_dtype("embedded_gaussian", theta=theta_BND, phi=phi_BMD, g=g_BMV)
    if algorithm == "auto":
        algorithm = choose.for_causal_softmax(
            (theta_BND.shape[0], theta_BND.shape[1], phi_BMD.shape[1], phi_BMD.shape[2], g_BMV.shape[2]),
            frames,
            device=g_BMV.device,
            dtype=g_BMV.dtype,
            biased=key_bias_BM is not None,
        ).algorithm
    if algorithm == "dense":
        visible_NM = visible(frames, theta_BND, phi_BMD)
        return dense.softmax(theta_BND, phi_BMD, g_BMV, scale=scale, key_bias_BM=key_bias_BM, visible_NM=visible_NM)
    if algorithm == "fused":
        _kernel(theta_BND, g_BMV, "keys", key_bias_BM, training=True)
        return causal.softmax(theta_BND, phi_BMD, g_BMV, frames, scale=scale, flash=True)
    bias = key_bias_BM if key_bias_BM is None else key_bias_BM.to(theta_BND.dtype)
    return causal.softmax(theta_BND, phi_BMD, g_BMV, frames, scale=scale, key_bias_BM=bias)


def dot_product(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    *,
    algorithm: Algorithm = "auto",
    frames: int | None = None,
    window_frames: int | None = None,
) -> Tensor:
    """Compute the dot product form, y_i = 1 / M * sum_j (theta_i . phi_j) g_j.

    Args:
        theta_BND: queries, (B, N, D).
        phi_BMD: keys, (B, M, D).
        g_BMV: values, (B, M, V).
        algorithm: "auto" and "reassociated" multiply in the cheaper order, theta (phi^T g) except for small maps.
            "dense" is the definition. Exported graphs always multiply in the order theta (phi^T g).
        frames: number of frames T of a form that is causal over frames, as for `embedded_gaussian`. The divisor M is
            then the number of keys that a query sees, and phi^T g a running sum over frames.
        window_frames: as for `embedded_gaussian`.

    Returns:
        y, (B, N, V), with the dtype of g.

    Raises:
        ValueError: if shapes or dtypes disagree, `algorithm` is unknown, or N or M is not a multiple of `frames`.

    Reference: Wang et al., Non-local Neural Networks, CVPR 2018, eq. 4.
    """
    inputs.check_features("dot_product", theta_BND, phi_BMD, g_BMV)
    inputs.check_choice("algorithm", algorithm, ALGORITHMS["dot_product"])
    seen = causal_frames("dot_product", theta_BND, phi_BMD, frames, window_frames)
    if algorithm == "dense" or (seen is not None and is_recorded(theta_BND)):
        visible_NM = None if seen is None else visible(seen, theta_BND, phi_BMD)
        return dense.dot_product(theta_BND, phi_BMD, g_BMV, visible_NM)
    if is_exported(theta_BND) and seen is None:
        return exported.dot_product(theta_BND, phi_BMD, g_BMV)
    theta_BND, phi_BMD, g_BMV = inputs.one_dtype("dot_product", theta=theta_BND, phi=phi_BMD, g=g_BMV)
    if seen is not None:
        return causal.dot_product(theta_BND, phi_BMD, g_BMV, seen)
    return reassociated.dot_product(theta_BND, phi_BMD, g_BMV)


def concatenation(
    a_BN: Tensor,
    b_BM: Tensor,
    g_BMV: Tensor,
    *,
    algorithm: Algorithm = "auto",
    frames: int | None = None,
    window_frames: int | None = None,
) -> Tensor:
    """Compute the concatenation form, y_i = 1 / M * sum_j ReLU(a_i + b_j) g_j.

    w_f . [theta_i, phi_j] is the sum of the scalars a_i = w_theta . theta_i and b_j = w_phi . phi_j. The tensor of all
    concatenated pairs, (B, 2D, N, M), is not needed.

    Args:
        a_BN: query scores, (B, N).
        b_BM: key scores, (B, M).
        g_BMV: values, (B, M, V).
        algorithm: "sorted" uses sorting and prefix sums, in N log N time. "dense" is the definition, which "auto"
            chooses for small maps. Both give the same result and have derivatives of any order; "sorted" has no
            forward-mode derivatives, for which "auto" uses the definition, as do `torch.func` transforms.
        frames: number of frames T of a form that is causal over frames, as for `embedded_gaussian`. The divisor M is
            then the number of keys that a query sees.
        window_frames: as for `embedded_gaussian`.

    Returns:
        y, (B, N, V), with the dtype of g.

    Raises:
        ValueError: if shapes or dtypes disagree, `algorithm` is unknown, or N or M is not a multiple of `frames`.
        NotImplementedError: for forward-mode derivatives with "sorted".

    Reference: Wang et al., Non-local Neural Networks, CVPR 2018, eq. 5.
    """
    inputs.check_scores(a_BN, b_BM, g_BMV)
    inputs.check_choice("algorithm", algorithm, ALGORITHMS["concatenation"])
    seen = causal_frames("concatenation", a_BN, b_BM, frames, window_frames)
    if algorithm != "dense" and is_exported(a_BN):
        return exported.concatenation(a_BN, b_BM, g_BMV, seen)
    algorithm = inputs.differentiable(algorithm, a_BN, b_BM, g_BMV)
    if algorithm != "dense":
        a_BN, b_BM, g_BMV = inputs.one_dtype("concatenation", a=a_BN, b=b_BM, g=g_BMV)
    if algorithm == "auto":
        algorithm = choose.for_concatenation(a_BN.shape[0], a_BN.shape[1], b_BM.shape[1], g_BMV.dtype).algorithm
    if algorithm == "dense":
        return dense.concatenation(a_BN, b_BM, g_BMV, None if seen is None else visible(seen, a_BN, b_BM))
    return sorted.concatenation(a_BN, b_BM, g_BMV) if seen is None else causal.concatenation(a_BN, b_BM, g_BMV, seen)


def choice(
    pairwise: Pairwise,
    sizes: tuple[int, int, int, int, int],
    *,
    algorithm: Algorithm = "auto",
    device: torch.device,
    dtype: torch.dtype,
    training: bool,
    normalize: Normalize = "keys",
    frames: CausalFrames | None = None,
    selection: Selection = SOFT,
) -> choose.Choice:
    """Return the algorithm and the reason for one form and the sizes (B, N, M, D, V).

    `torch_nonlocal.explain` does this for a block.
    """
    if algorithm != "auto":
        return choose.Choice(algorithm, "it was set by name")
    if pairwise == "dot_product":
        return choose.for_causal_dot_product(*sizes[3:]) if frames else choose.for_dot_product(*sizes[1:])
    if pairwise == "concatenation":
        return choose.for_concatenation(*sizes[:3], dtype)
    if frames is not None:
        return choose.for_causal_softmax(sizes, frames, device=device, dtype=dtype)
    if selection and selection.top_k != sizes[2]:
        return choose.for_selected(selection, *sizes[:3], dtype=dtype)
    return choose.for_softmax(*sizes, device=device, dtype=dtype, training=training, normalize=normalize)


def is_small(pairwise: Pairwise, batch: int, queries: int, keys: int, dtype: torch.dtype) -> bool:
    """Return whether algorithm="auto" builds the map of a form with a softmax or ReLU, since it stays in the caches."""
    return choose.is_small_map(batch, queries, keys, dtype, sorts=pairwise == "concatenation")


def _kernel(
    theta: Tensor, g: Tensor, normalize: Normalize, key_bias: Tensor | None, *, training: bool, winning: bool = False
) -> kernels.Kernel:
    """Return the kernel of algorithm="fused", or raise ValueError."""
    if normalize != "keys" or key_bias is not None:
        raise ValueError("algorithm='fused' does not support a key bias or normalize='queries'; 'tiled' supports both")
    asked = theta.device, theta.dtype, theta.shape[2], g.shape[2]
    kernel = kernels.first(*asked, training=training, winning=winning)
    if kernel is None:
        raise ValueError(
            f"algorithm='fused': no kernel with linear memory for D = {theta.shape[2]}, V = {g.shape[2]}, "
            f"{theta.dtype} on {theta.device} ({kernels.why_not(fused.KERNEL, *asked, training=training)}); "
            "'tiled' supports all"
        )
    return kernel
