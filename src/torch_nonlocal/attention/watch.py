"""Record theta and phi of the blocks of a network while it runs."""

import html
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from torch_nonlocal._common.capture import eager
from torch_nonlocal._common.own_hooks import OwnHooks, own_hooks
from torch_nonlocal._common.wrappers import is_a, named_modules, unwrapped
from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.inputs import Images, Placement, example_of, images_of, placements
from torch_nonlocal.attention.locate import located
from torch_nonlocal.attention.receptive import AxisRule, Example, pixel_rules
from torch_nonlocal.attention.record import BlockRecord
from torch_nonlocal.attention.weights import PairWeights
from torch_nonlocal.layers.block import Block
from torch_nonlocal.layers.observed import observed_by
from torch_nonlocal.layers.operation import is_observable
from torch_nonlocal.layers.regions import region_mask, saliency_map
from torch_nonlocal.layers.visibility import visibility, why_no_rows


class Seen(Mapping[str, BlockRecord]):
    """Records of all blocks from the last run, by name as in `nl.blocks`, in the order in which the blocks ran.

    Names are those of the network without wrappers, such as the "module." of DistributedDataParallel.
    """

    def __init__(self, names: list[str], hidden: Mapping[str, str]) -> None:
        self._names, self._hidden = names, dict(hidden)
        self._records: dict[str, BlockRecord] = {}

    def __getitem__(self, name: str) -> BlockRecord:
        if name in self._records:
            return self._records[name]
        if name in self._hidden:
            raise KeyError(f"the block at {name!r} has {self._hidden[name]}; blocks: {', '.join(self._names)}")
        if name in self._names:
            raise KeyError(
                f"the block at {name!r} has not run in this thread: run the model in `with nl.watch(model)`, outside "
                "functions that are compiled"
            )
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
    DistributedDataParallel; compiled code runs as plain PyTorch inside the context, because it may not call hooks. A
    context opened inside a compiled function records nothing. All hooks are removed afterwards.

    When the context ends without an exception, a copy of the network, which shares its parameters, runs on thin strips
    in eval mode to find the receptive fields of each block. This takes a second or less, once for each architecture.
    Where receptive fields cannot be found, the geometry assumes a grid that divides the input evenly, and
    `geometry.probed` is False.

    Args:
        model: a network with blocks, or a single block.

    Raises:
        ValueError: the model has no blocks, or only blocks without weights over positions, such as gates.

    Example:
        >>> with nl.watch(model) as seen:
        ...     model(clip)
        >>> seen["layer3.2"].links((t, y, x), k=20)
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = unwrapped(model)
        self._modules = named_modules(model)
        self._blocks = {target_name(n): module for n, module in self._modules.items() if is_observable(module)}
        self._hidden = {target_name(n): module.hidden_weights for n, module in self._modules.items() if _hides(module)}
        if not self._blocks and self._hidden:
            shown = "; ".join(f"{name or 'it'} has {why}" for name, why in self._hidden.items())
            raise ValueError(f"the blocks of the model have no weights to watch: {shown}")
        if not self._blocks:
            raise ValueError(
                "the model has no non-local blocks to watch; add them with nl.insert, or let nl.replace take over the "
                "attention of another project"
            )
        self._open: list[_Opened] = []

    def __enter__(self) -> Seen:
        seen, stack = Seen(list(self._blocks), self._hidden), ExitStack()
        run = _Run(seen, self._model, self._blocks, self._modules)
        with stack:  # removes the hooks if a registration fails
            stack.enter_context(eager())
            hooks = stack.enter_context(own_hooks())
            run.register(hooks)
            stack.enter_context(observed_by(run.note_block))
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


class _Input(NamedTuple):
    """The map (B, C, *size) that a module was given."""

    module: nn.Module
    shape: tuple[int, ...]
    example: Example | None


class _Run:
    """Notes the input of the current run and makes a record for each block."""

    def __init__(
        self, seen: Seen, model: nn.Module, blocks: dict[str, nn.Module], modules: dict[str, nn.Module]
    ) -> None:
        self._seen, self._model, self._blocks, self._modules = seen, model, blocks, modules
        self._names = {block: name for name, block in blocks.items()}
        self._ran: set[str] = set()
        self._images: Images | None = None
        self._inside: list[tuple[int, ...]] | None = None  # sizes of images that the network has resized
        self._inputs: dict[nn.Module, _Input] = {}

    def register(self, hooks: OwnHooks) -> None:
        around = {module: None for name in self._blocks for module in self._around(name)}
        for module in {self._model: None, **around}:
            hooks.before(module, self._note_input)
        for module in self._modules.values():
            if is_a(module, "torchvision", "GeneralizedRCNNTransform"):
                hooks.after(module, self._note_resized)

    def _around(self, name: str) -> list[nn.Module]:
        """The modules around the block at a place, from the outermost."""
        parts = name.split(".") if name else []
        names = ["", *(".".join(parts[:count]) for count in range(1, len(parts) + 1))]
        return [self._modules[one] for one in names if one in self._modules]

    def _note_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is self._model:
            self._images, self._inside = images_of(args, kwargs), None
            self._inputs.clear()
            self._ran.clear()
        self._inputs[module] = _Input(module, *example_of(args, kwargs))

    def _note_resized(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._inside = [tuple(size) for size in output[0].image_sizes]
        self._inputs.clear()  # those of modules around it have other pixels

    def note_block(
        self,
        module: Any,
        options: Any,
        x: Tensor,
        operands: tuple[Tensor, Tensor] | None,
        keys_from: Tensor | None,
    ) -> None:
        name = self._names.get(module)
        if name is None:
            return
        grid, source = tuple(x.shape[2:]), x if keys_from is None else keys_from
        if why := why_no_rows(options, grid, source.shape[2:]):
            self._seen._hidden[name] = why
            self._seen._records.pop(name, None)  # of an earlier run
            return
        self._seen._hidden.pop(name, None)
        pool = options.subsample or (1,) * len(grid)
        key_grid = options.key_grid(grid)
        frames = grid[:1] if getattr(module, "layout", None) == "frames" else ()  # the network sees images
        axes = len(grid) - len(frames)
        given, images = self._input(name, axes)
        input_size = (*frames, *given.shape[-axes:]) if given is not None else grid
        even = Geometry.evenly(grid, key_grid, pool, input_size, strided=options.keys == "stride")
        if name not in self._ran:  # a block may run again in backward, which does not change the order
            self._seen._records.pop(name, None)
        self._ran.add(name)
        self._seen._records[name] = BlockRecord(
            name,
            _weights(options, x, operands, keys_from),
            even,
            attend=options.attend,
            batch=x.shape[0],
            locate=partial(self._locate, name, given, even, len(frames)),
            images=images,
            saliency=_saliency(options, source),
        )

    def _input(self, name: str, axes: int) -> tuple[_Input | None, list[Placement]]:
        """Return the outermost map around a block, and the places of the images in it; None if it is not of images."""
        inputs = (self._inputs.get(module) for module in self._around(name))
        given = next((one for one in inputs if one is not None and len(one.shape) >= axes + 2), None)
        if given is None or given.module is self._model or self._images is None:
            return given, []
        images = placements(self._images, given.shape, self._inside)
        return given if images else None, images

    def _locate(self, name: str, given: _Input | None, even: Geometry, unseen: int) -> Geometry:
        """Return the geometry of a record; `unseen`: leading axes, of frames, that the network's images lack."""
        if given is None or given.example is None:
            return even
        inside = set(given.module.modules())  # all blocks in it at once, in the same runs
        running = {other: block for other in self._seen if (block := self._blocks[other]) in inside}
        rules = pixel_rules(given.module, running, given.example)[name]
        return located(
            even,
            [AxisRule(0.0, 1.0, even.grid[0], even.grid[0], 1)] * unseen + list(rules)[-(len(even.grid) - unseen) :],
        )


@torch.no_grad()
def _weights(options: Any, x: Tensor, operands: tuple[Tensor, Tensor] | None, keys_from: Tensor | None) -> PairWeights:
    seen = operands
    if seen is None:  # `options` is a block
        theta, phi, _ = options.embed(x.detach(), None if keys_from is None else keys_from.detach())
        seen = options.scores(theta, phi, groups=options.groups.count(x.shape[2:]))
    # A contiguous copy: theta of a Gaussian block is the feature map itself, which the network may change in place.
    query, key = (tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in seen)
    frames = options.groups.frames(x.shape[2:])
    sees, selection = visibility(options, x.shape[2:]), options.selection
    kept = 1 if selection.hard else selection.top_k
    regions = None if options.regions is None else region_mask(options, x if keys_from is None else keys_from)
    return PairWeights(options.pairwise, query, key, options.scale, options.normalize, frames, sees, kept, regions)


@torch.no_grad()
def _saliency(options: Any, source: Tensor) -> Tensor | None:
    return None if options.regions is None else saliency_map(options, source)


def _hides(module: nn.Module) -> TypeGuard[Block]:
    return isinstance(module, Block) and bool(module.hidden_weights)


def target_name(name: str) -> str:
    """Name of the module that a block follows: "layer3.1.non_local" is the block at "layer3.1"."""
    place, _, child = name.rpartition(".")
    return place if child == "non_local" else name
