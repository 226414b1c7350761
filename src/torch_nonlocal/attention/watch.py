"""Record what the blocks of a network compare, while it runs."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.record import BlockRecord
from torch_nonlocal.attention.weights import PairWeights
from torch_nonlocal.layers import NonLocal


class Seen(Mapping[str, BlockRecord]):
    """The blocks' records of the last run, by the name of the place (as in `nl.blocks`), in running order."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._records: dict[str, BlockRecord] = {}

    def __getitem__(self, name: str) -> BlockRecord:
        if name not in self._records:
            if name in self._names:
                raise KeyError(f"the block at {name!r} has not run; run the model inside `with nl.watch(model)`")
            raise KeyError(f"no block at {name!r}; blocks: {', '.join(self._names)}")
        return self._records[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        lines = [repr(record) for record in self._records.values()]
        return "\n".join(["Seen:", *lines]) if lines else f"Seen: nothing has run; blocks: {', '.join(self._names)}"


class watch:  # noqa: N801 (used as a function: `with nl.watch(model) as seen`)
    """Record theta and phi of each block while the model runs inside the context; nothing of it stays on the model.

    Works in train and eval mode, with and without gradients. What is kept is detached: two tensors (B, N, D) a block,
    of the last run only.

    Args:
        model: a network with blocks, or a block.

    Raises:
        ValueError: the model has no blocks.

    Example:
        >>> with nl.watch(model) as seen:
        ...     model(clip)
        >>> seen["layer3.2"].links((t, y, x), k=20)
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._blocks = {_place(name): module for name, module in model.named_modules() if isinstance(module, NonLocal)}
        if not self._blocks:
            raise ValueError("the model has no non-local blocks to watch; nl.insert puts them in")
        self._handles: list[Any] = []
        self._input_size: tuple[int, ...] = ()

    def __enter__(self) -> Seen:
        seen = Seen(list(self._blocks))
        self._handles.append(self._model.register_forward_pre_hook(self._note_input, with_kwargs=True))
        for name, block in self._blocks.items():
            hook = self._recorder(seen, name)
            self._handles.append(block.register_forward_pre_hook(hook))
        return seen

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _note_input(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim >= 3]
        self._input_size = tuple(tensors[0].shape[2:]) if tensors else ()

    def _recorder(self, seen: Seen, name: str) -> Any:
        def record(block: NonLocal, args: tuple[Tensor, ...]) -> None:
            seen._records[name] = _record(name, block, args[0], self._input_size)

        return record


@torch.no_grad()
def _record(name: str, block: NonLocal, x: Tensor, input_size: tuple[int, ...]) -> BlockRecord:
    theta, phi, _ = block.embed(x.detach())
    query, key = block.scores(theta, phi) if block.pairwise == "concatenation" else (theta, phi)
    weights = PairWeights(block.pairwise, query.clone(), key.clone(), block.scale, block.normalize)
    grid = tuple(x.shape[2:])
    pool = block.subsample or (1,) * len(grid)
    key_grid = tuple(size // factor for size, factor in zip(grid, pool, strict=True))
    size = input_size if len(input_size) == len(grid) else grid
    geometry = Geometry.evenly(grid, key_grid, pool, size)
    return BlockRecord(name, weights, geometry, attend=block.attend, batch=x.shape[0])


def _place(name: str) -> str:
    """The module a block follows: "layer3.1.non_local" is the block at "layer3.1"."""
    return name.removesuffix("non_local").removesuffix(".") or name
