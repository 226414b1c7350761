"""The non-local operation, one function per pairwise form; the only door to `algorithms/`.

    y_i = 1 / C(x) * sum over all j of f(x_i, x_j) g(x_j)        Wang et al., CVPR 2018, eq. 1

| function             | f(x_i, x_j)                    | C(x)          |
|----------------------|--------------------------------|---------------|
| `gaussian`           | exp(x_i . x_j)                 | sum over j of f |
| `embedded_gaussian`  | exp(scale * theta_i . phi_j)   | sum over j of f |
| `dot_product`        | theta_i . phi_j                | M             |
| `concatenation`      | ReLU(a_i + b_j)                | M             |

Shapes: B batch, N query positions, M key positions, D inner width, V value width. The last axis holds features:
a feature map (B, C, T, H, W) becomes (B, N, C) by `x.flatten(2).transpose(1, 2)`, a view.
"""

from torch import Tensor

from torch_nonlocal._tracing import is_recorded
from torch_nonlocal.algorithms import dense

ALGORITHMS = ("auto", "dense")
NORMALIZE = ("keys", "queries")


def gaussian(
    x_query_BND: Tensor, x_key_BMD: Tensor, g_BMV: Tensor, *, normalize: str = "keys", algorithm: str = "auto"
) -> Tensor:
    """Gaussian form, y_i = sum_j softmax_j(x_i . x_j) g_j.

    Args:
        x_query_BND: features at the query positions, (B, N, D).
        x_key_BMD: features at the key positions, (B, M, D); the same tensor unless keys are sub-sampled.
        g_BMV: values at the key positions, (B, M, V).
        normalize: "keys": each query's weights sum to one; "queries": each key's weights sum to one.
        algorithm: "auto" or "dense"; every one gives the same numbers.

    Returns:
        (B, N, V), dtype of g.

    Raises:
        ValueError: shapes that disagree, an unknown `normalize` or `algorithm`.
    Reference: Wang et al., Non-local Neural Networks, CVPR 2018, eq. 2.
    """
    return embedded_gaussian(x_query_BND, x_key_BMD, g_BMV, normalize=normalize, algorithm=algorithm)


def embedded_gaussian(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    *,
    scale: float = 1.0,
    normalize: str = "keys",
    algorithm: str = "auto",
) -> Tensor:
    """Embedded gaussian (softmax) form, y_i = sum_j softmax_j(scale * theta_i . phi_j) g_j.

    Args:
        theta_BND: queries, (B, N, D).
        phi_BMD: keys, (B, M, D).
        g_BMV: values, (B, M, V).
        scale: multiplies theta_i . phi_j; 1 in the paper, D ** -0.5 in later code.
        normalize: "keys": each query's weights sum to one (the paper); "queries": each key's weights sum to one,
            a different operator.
        algorithm: "auto" or "dense"; every one gives the same numbers.

    Returns:
        (B, N, V), dtype of g.

    Raises:
        ValueError: shapes that disagree, an unknown `normalize` or `algorithm`.
    Reference: Wang et al., Non-local Neural Networks, CVPR 2018, eq. 3.
    """
    _check_features("embedded_gaussian", theta_BND, phi_BMD, g_BMV)
    _check_choice("normalize", normalize, NORMALIZE)
    _check_choice("algorithm", algorithm, ALGORITHMS)
    return dense.softmax(theta_BND, phi_BMD, g_BMV, scale=scale, normalize=normalize)


def dot_product(theta_BND: Tensor, phi_BMD: Tensor, g_BMV: Tensor, *, algorithm: str = "auto") -> Tensor:
    """Dot product form, y_i = 1 / M * sum_j (theta_i . phi_j) g_j.

    Args:
        theta_BND: queries, (B, N, D).
        phi_BMD: keys, (B, M, D).
        g_BMV: values, (B, M, V).
        algorithm: "auto" or "dense"; every one gives the same numbers.

    Returns:
        (B, N, V), dtype of g.

    Raises:
        ValueError: shapes that disagree or an unknown `algorithm`.
    Reference: Wang et al., Non-local Neural Networks, CVPR 2018, eq. 4.
    """
    _check_features("dot_product", theta_BND, phi_BMD, g_BMV)
    _check_choice("algorithm", algorithm, ALGORITHMS)
    return dense.dot_product(theta_BND, phi_BMD, g_BMV)


def concatenation(a_BN: Tensor, b_BM: Tensor, g_BMV: Tensor, *, algorithm: str = "auto") -> Tensor:
    """Concatenation form, y_i = 1 / M * sum_j ReLU(a_i + b_j) g_j.

    w_f . [theta_i, phi_j] is a sum of two scalars, a_i = w_theta . theta_i and b_j = w_phi . phi_j, so the tensor of
    all concatenated pairs (B, 2D, N, M) is never needed.

    Args:
        a_BN: query scores, (B, N).
        b_BM: key scores, (B, M).
        g_BMV: values, (B, M, V).
        algorithm: "auto" or "dense"; every one gives the same numbers.

    Returns:
        (B, N, V), dtype of g.

    Raises:
        ValueError: shapes that disagree or an unknown `algorithm`.
    Reference: Wang et al., Non-local Neural Networks, CVPR 2018, eq. 5.
    """
    _check_scores(a_BN, b_BM, g_BMV)
    _check_choice("algorithm", algorithm, ALGORITHMS)
    return dense.concatenation(a_BN, b_BM, g_BMV)


def _check_features(form: str, theta: Tensor, phi: Tensor, g: Tensor) -> None:
    if is_recorded(theta):
        return
    agree = (
        theta.ndim == phi.ndim == g.ndim == 3
        and theta.shape[0] == phi.shape[0] == g.shape[0]
        and theta.shape[2] == phi.shape[2]
        and phi.shape[1] == g.shape[1]
    )
    if not agree:
        raise _shape_error(form, "theta (B, N, D), phi (B, M, D), g (B, M, V)", theta=theta, phi=phi, g=g)
    _check_keys(form, g)


def _check_scores(a: Tensor, b: Tensor, g: Tensor) -> None:
    if is_recorded(a):
        return
    agree = (
        a.ndim == b.ndim == 2 and g.ndim == 3 and a.shape[0] == b.shape[0] == g.shape[0] and b.shape[1] == g.shape[1]
    )
    if not agree:
        raise _shape_error("concatenation", "a (B, N), b (B, M), g (B, M, V)", a=a, b=b, g=g)
    _check_keys("concatenation", g)


def _check_keys(form: str, g: Tensor) -> None:
    if g.shape[1] == 0:
        raise ValueError(f"{form}: there are no keys to sum over (M = 0)")


def _check_choice(name: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise ValueError(f"{name}={given!r}: expected one of {', '.join(map(repr, allowed))}")


def _shape_error(form: str, expected: str, **given: Tensor) -> ValueError:
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in given.items())
    return ValueError(f"{form}: expected {expected}, got {shapes}")
