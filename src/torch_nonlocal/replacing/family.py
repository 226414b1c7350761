"""A family: modules of one project, and its copies, that compute a non-local operation.

    x (B, C, *size) -> embed: theta, phi, g as maps -> the exact operation -> y (B, V, *size) -> finish: the output

`embed` and `finish` call the module's own children, as its own code does, so that their hooks run and their parameters
are used. Only what lies between the two is ours.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from torch_nonlocal.layers.observed import show_observers
from torch_nonlocal.layers.operation import Operation
from torch_nonlocal.layers.weighted_sum import weighted_sum


class Family(Operation):
    """What is known about the modules of a project.

    Attributes:
        name: short name, as an argument of `nl.replace(model, only=...)`.
        project: the projects, for messages.
        class_names: names of the classes.
    """

    name: str
    project: str
    class_names: tuple[str, ...]

    @abstractmethod
    def mismatch(self, module: nn.Module) -> str | None:
        """Return in which way the structure of a module with a matching class name differs; None if it matches."""

    @abstractmethod
    def embed(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return theta, phi and g of a map (B, C, *size) as maps; the sizes of phi and g are those of the keys."""

    @abstractmethod
    def finish(self, module: Any, y: Tensor, x: Tensor) -> Tensor:
        """Return the output of a module from y (B, V, *size) and its input."""

    @abstractmethod
    def channels(self, module: Any) -> int:
        """Return C, the channels of the input."""

    def scores(self, module: Any, theta: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return a (B, N) and b (B, M) of the form "concatenation" from theta (B, N, D) and phi (B, M, D)."""
        raise NotImplementedError

    def heads(self, module: Any) -> int:
        """Return the number of heads. theta, phi and g hold one head after the other."""
        return 1

    def input(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Return the map of a call; None for calls that the original forward must answer, such as for the map."""
        given = [*args, *kwargs.values()]
        return given[0] if len(given) == 1 and isinstance(given[0], Tensor) else None

    def example_size(self, module: Any) -> tuple[int, ...]:
        """Return a small size for the numerical check, with a different length on each axis."""
        return (2, 6, 8)[-self.computed(module).dims :]

    def example(self, module: Any, size: Sequence[int], batch: int = 2) -> Tensor:
        """Return an empty input of a module with a map of a size."""
        return torch.empty(batch, self.channels(module), *size)

    def prepare(self, trial: Any) -> None:
        """Adjust the float64 copy of a module for the numerical check, such as switch off a cast to float32."""

    def position_axes(self, shape: Sequence[int]) -> range:
        """Return the axes of an input of a shape that are positions."""
        return range(2, len(shape))

    def run(self, module: Any, x: Tensor) -> Any:
        """Return the output of a module for its input."""
        theta, phi, g = self.embed(module, x)
        return self.finish(module, self.respond(module, x, theta, phi, g), x)

    def respond(self, module: Any, x: Tensor, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        """Return y as a map (B, V, *size) from theta, phi and g as maps."""
        what, heads = self.computed(module), self.heads(module)
        theta_BND, phi_BMD, g_BMV = (_split_heads(one.flatten(2).transpose(1, 2), heads) for one in (theta, phi, g))
        query, key = (
            self.scores(module, theta_BND, phi_BMD) if what.pairwise == "concatenation" else (theta_BND, phi_BMD)
        )
        # Observers of several heads see a batch of B times heads; of the map, they use the shape.
        shown = x if heads == 1 else x.new_empty(()).expand(x.shape[0] * heads, *x.shape[1:])
        show_observers(module, what, shown, (query, key))
        frames = theta.shape[2] if what.causal == "frames" else None
        y_BNV = weighted_sum(what, query, key, g_BMV, frames)
        y_BVN = _join_heads(y_BNV, heads).transpose(1, 2).contiguous()  # the network may call `view` on the output
        return y_BVN.unflatten(2, theta.shape[2:])

    def sizes(self, module: nn.Module, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """The sizes (B', N, M, D, V) of the operation on a map of a shape (B, C, *size)."""
        dims, channels = self.computed(module).dims, self.channels(module)
        if len(shape) != dims + 2 or shape[1] != channels:
            raise ValueError(f"shape {tuple(shape)}: expected {dims + 2} sizes, the second {channels} channels")
        parameter = next(module.parameters(), None)
        like = torch.empty(0) if parameter is None else parameter
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            x = torch.empty(tuple(shape), dtype=like.dtype, device=like.device)
            theta, phi, g = self.embed(module, x)
        queries, keys, heads = theta.flatten(2).shape[2], phi.flatten(2).shape[2], self.heads(module)
        return theta.shape[0] * heads, queries, keys, theta.shape[1] // heads, g.shape[1] // heads


def is_pointwise(module: Any) -> bool:
    """Return whether a module is a convolution with kernel size 1 and without stride, padding or groups."""
    return (
        isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        and set(module.kernel_size) == {1}
        and set(module.stride) == {1}
        and set(module.padding) <= {0}
        and module.groups == 1
    )


def dims_of(conv: Any) -> int:
    """Return the axes of the maps of a convolution."""
    return len(conv.kernel_size)


def pool_factors(pool: Any, dims: int) -> tuple[int, ...] | None:
    """Return the factors of a max or average pooling whose windows do not overlap; None for any other module."""
    if not isinstance(pool, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d | nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d):
        return None
    kernel, stride, padding = (_per_axis(one, dims) for one in (pool.kernel_size, pool.stride, pool.padding))
    dilation = _per_axis(getattr(pool, "dilation", 1), dims)
    plain = kernel == stride and set(padding) == {0} and set(dilation) == {1} and not pool.ceil_mode
    return kernel if plain and not getattr(pool, "return_indices", False) else None


def split_scores(weight: Tensor, bias: Tensor | None, theta_BND: Tensor, phi_BMD: Tensor) -> tuple[Tensor, Tensor]:
    """Return a and b of the concatenation form from the weight (1, 2D, 1, 1) of a convolution over pairs."""
    w_theta, w_phi = weight.flatten().split([theta_BND.shape[2], phi_BMD.shape[2]])
    a_BN = theta_BND @ w_theta
    return (a_BN if bias is None else a_BN + bias), phi_BMD @ w_phi


def _split_heads(positions_BNC: Tensor, heads: int) -> Tensor:
    """Turn the heads of (B, N, heads * D) into batch items: (B * heads, N, D)."""
    if heads == 1:
        return positions_BNC
    return positions_BNC.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)


def _join_heads(positions_BNC: Tensor, heads: int) -> Tensor:
    """The inverse of `_split_heads`."""
    if heads == 1:
        return positions_BNC
    return positions_BNC.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def _per_axis(value: Any, dims: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,) * dims
