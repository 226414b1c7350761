"""Record theta and phi of the blocks of a network while it runs."""

import html
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal._common.capture import eager
from torch_nonlocal._common.own_hooks import OwnHooks, own_hooks
from torch_nonlocal._common.wrappers import named_modules, unwrapped
from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.locate import example_of, located
from torch_nonlocal.attention.receptive import Example, pixel_rules
from torch_nonlocal.attention.record import BlockRecord
from torch_nonlocal.attention.weights import PairWeights
from torch_nonlocal.layers import NonLocal


class Seen(Mapping[str, BlockRecord]):
    """Records of all blocks from the last run, by name as in `nl.blocks`, in the order in which the blocks ran.

    Names are those of the network without wrappers, such as the "module." of DistributedDataParallel.
    """

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._records: dict[str, BlockRecord] = {}

    def __getitem__(self, name: str) -> BlockRecord:
        if name in self._records:
            return self._records[name]
        if name in self._names:
            raise KeyError(f"the block at {name!r} has not run in this thread: run the model in `with nl.watch(model)`")
        raise KeyError(f"no block at {name!r}; blocks: {', '.join(self._names)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        lines = [repr(record) for record in self._records.values()]
        return "\n".join(["Seen:", *lines]) if lines else f"Seen: no block has run; blocks: {', '.join(self._names)}"

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        if not self._records:
            return f"<p>{html.escape(repr(self))}</p>"
        heads = ("block", "form", "attend", "grid", "keys", "input", "batch", "weights")
        rows = [
            (name, record.weights.pairwise, record.attend, *record.sizes, record.batch_size, record.shown)
            for name, record in self._records.items()
        ]
        body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{body}</table>"


class watch:  # noqa: N801 (used as a function: `with nl.watch(model) as seen`)
    """Record theta and phi of each block while the model runs inside the context.

    Runs in other threads, and in asyncio tasks that were not started inside the context, are neither recorded nor
    changed: several threads can watch one model at once. DataParallel on several devices runs copies of the model in
    threads of their own, which are not recorded; run its `module` instead.

    Works in train and eval mode, with and without gradients, and under autocast. For each block, the record keeps two
    detached tensors (B, N, D) of the last run. The model may be compiled or wrapped, such as in
    DistributedDataParallel; compiled code runs as plain PyTorch inside the context, because it may not call hooks. All
    hooks are removed afterwards.

    When the context ends without an exception, a copy of the network, which shares its parameters, runs on thin strips
    in eval mode to find the receptive fields of each block. This takes a second or less, once for each architecture.
    Where receptive fields cannot be found, the geometry assumes a grid that divides the input evenly, and
    `geometry.probed` is False.

    Args:
        model: a network with blocks, or a single block.

    Raises:
        ValueError: the model has no blocks.

    Example:
        >>> with nl.watch(model) as seen:
        ...     model(clip)
        >>> seen["layer3.2"].links((t, y, x), k=20)
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = unwrapped(model)
        named = named_modules(model).items()
        self._blocks = {_target_name(name): module for name, module in named if isinstance(module, NonLocal)}
        if not self._blocks:
            raise ValueError("the model has no non-local blocks to watch; add them with nl.insert")
        self._open: list[_Opened] = []

    def __enter__(self) -> Seen:
        seen, stack = Seen(list(self._blocks)), ExitStack()
        run = _Run(self._model, self._blocks)
        with stack:  # removes the hooks if a registration fails
            stack.enter_context(eager())
            hooks = stack.enter_context(own_hooks())
            hooks.before(self._model, run.note_input)
            for name, block in self._blocks.items():
                hooks.before(block, partial(run.note_block, seen, name))
            self._open.append(_Opened(seen, hooks, stack.pop_all()))
        return seen

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        opened = self._open
        mine = next((one for one in reversed(opened) if one.hooks.is_own()), opened[-1])
        opened.remove(mine)
        with mine.stack:
            for record in mine.seen.values():
                record.settle(probe=kind is None)


@dataclass(frozen=True, eq=False)
class _Opened:
    """A context of a `watch`, which several threads may enter at once."""

    seen: Seen
    hooks: OwnHooks
    stack: ExitStack


class _Run:
    """Notes the input of the current run and makes a record for each block."""

    def __init__(self, model: nn.Module, blocks: dict[str, NonLocal]) -> None:
        self._model, self._blocks = model, blocks
        self._size: tuple[int, ...] = ()
        self._example: Example | None = None

    def note_input(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._size, self._example = example_of(args, kwargs)

    def note_block(self, seen: Seen, name: str, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = block.to_map(args[0] if args else kwargs["x"])
        grid = tuple(x.shape[2:])
        pool = block.subsample or (1,) * len(grid)
        key_grid = tuple(size // factor for size, factor in zip(grid, pool, strict=True))
        size = self._size[-len(grid) :] if len(self._size) >= len(grid) else grid
        even = Geometry.evenly(grid, key_grid, pool, size)
        seen._records.pop(name, None)  # keep the order of the last run
        seen._records[name] = BlockRecord(
            name,
            _weights(block, x),
            even,
            attend=block.attend,
            batch=x.shape[0],
            locate=partial(self._locate, seen, name, self._example, even),
        )

    def _locate(self, seen: Seen, name: str, example: Example | None, even: Geometry) -> Geometry:
        if example is None:
            return even
        running = {other: self._blocks[other] for other in seen}  # all blocks at once, in the same runs
        return located(even, pixel_rules(self._model, running, example)[name])


@torch.no_grad()
def _weights(block: NonLocal, x: Tensor) -> PairWeights:
    theta, phi, _ = block.embed(x.detach())
    query, key = block.scores(theta, phi) if block.pairwise == "concatenation" else (theta, phi)
    # A contiguous copy: theta of a Gaussian block is the feature map itself, which the network may change in place.
    query, key = (tensor.clone(memory_format=torch.contiguous_format) for tensor in (query, key))
    return PairWeights(block.pairwise, query, key, block.scale, block.normalize)


def _target_name(name: str) -> str:
    """Name of the module that a block follows: "layer3.1.non_local" is the block at "layer3.1"."""
    place, _, child = name.rpartition(".")
    return place if child == "non_local" else name
