"""`plan`: where blocks can go in a network and what each would cost; nothing is changed, next to nothing computed."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torch_nonlocal import functional
from torch_nonlocal.insertion.insert import CHILD
from torch_nonlocal.insertion.probe import one_map
from torch_nonlocal.insertion.targets import Places, find_targets
from torch_nonlocal.layers import NonLocal
from torch_nonlocal.planning.candidates import candidates, recommended, takes_block
from torch_nonlocal.planning.fake_run import Rehearsal, as_dense
from torch_nonlocal.planning.report import advice, markdown, plain


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What blocks cost for the example, its whole batch.

    Attributes:
        parameters: how many.
        flops: of their forward pass, two operations a multiply-add, as PyTorch's counter has them.
        flops_dense: the same with algorithm="dense", which follows the definition: no re-association, no sorting.
        share: `flops` by those of the network.
        memory: bytes that a training step (forward and backward) needs at its peak more than without the blocks:
            activations and gradients, not parameters.
        memory_dense: the same with algorithm="dense", which holds the N x M map.
    """

    parameters: int
    flops: int
    flops_dense: int
    share: float
    memory: int
    memory_dense: int


@dataclass(frozen=True, kw_only=True)
class Place(Cost):
    """One place, and what a block there costs.

    Attributes:
        name: of the module that the block would follow.
        kind: the module's class.
        shape: of its output, (B, C, *size).
        queries: N, positions that look.
        keys: M, positions looked at, after sub-sampling.
        channels: C.
        inner_channels: D.
        algorithm: that a training step uses, such as "fused"; all are exact.
        map_bytes: one N x M map of the batch, in float32 or wider.
        chosen: named by `at`, or recommended where `at` is None.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    queries: int
    keys: int
    channels: int
    inner_channels: int
    algorithm: str
    map_bytes: int
    chosen: bool


@dataclass(frozen=True)
class Network:
    """The network without blocks.

    Attributes:
        name: its class.
        parameters: how many.
        flops: of its forward pass on the example.
        memory: bytes of a training step at its peak, without parameters and input; None where the training step of this
            network cannot be rehearsed. Memory of places is then of each block by itself.
    """

    name: str
    parameters: int
    flops: int
    memory: int | None


@dataclass(frozen=True)
class Plan:
    """Where blocks can go, what they cost and what the paper's results recommend. `print` it.

    Attributes:
        places: in the network's order.
        total: of the chosen places together.
        network: without blocks.
        recommended: names of the places that the paper's results speak for.
        pairwise: form of the blocks.
        attend: what their positions see.
    """

    places: tuple[Place, ...]
    total: Cost
    network: Network
    recommended: tuple[str, ...]
    pairwise: str
    attend: str

    @property
    def chosen(self) -> list[str]:
        """Names of the marked places: `nl.insert(model, at=plan.chosen)`."""
        return [place.name for place in self.places if place.chosen]

    def __str__(self) -> str:
        return plain(self)

    def markdown(self) -> str:
        """The table as Markdown, and what the paper recommends."""
        return markdown(self)

    def advice(self) -> str:
        """The recommendation in words, with the paper's numbers."""
        return advice(self)

    def as_dict(self) -> dict[str, Any]:
        """Everything in plain JSON values."""
        places = [{**asdict(place), "shape": list(place.shape)} for place in self.places]
        return {**asdict(self), "places": places, "recommended": list(self.recommended)}


def plan(model: nn.Module, example_input: Any, at: Places | None = None, **block_options: Any) -> Plan:
    """Where blocks can go, and what they cost: positions, parameters, FLOPs, memory with and without the N x M map.

    The model is not changed and, where its code allows, does not run: a copy without values does.

    Args:
        model: any network.
        example_input: as for `insert`; costs are for its size and batch.
        at: the places in mind, as for `insert`; marked in the table. None marks the recommended ones.
        **block_options: of `NonLocal3d`, as for `insert`.

    Returns:
        The plan: every residual block of the network's stages, or without stages the modules under its containers,
        and the named places.

    Raises:
        ValueError: as `insert`, for named places and options; a network that does not run on the example; one without
            a place for a block.
        TypeError: an option that a block does not have.

    Example:
        >>> print(nl.plan(torchvision.models.video.r3d_18(), torch.randn(1, 3, 16, 112, 112)))
    """
    named = {} if at is None else find_targets(model, at)
    for name, module in named.items():
        if hasattr(module, CHILD):
            raise ValueError(f"{name!r} has a block already: remove it first, nl.remove(model, at={name!r})")
    with torch.random.fork_rng(devices=[]):
        rehearsal = Rehearsal(model, example_input)
        blocks = _blocks(model, rehearsal, named, _input_shape(example_input), block_options)
        best = _recommended(model, rehearsal, blocks, _input_shape(example_input))
        chosen = set(named) if at is not None else set(best)
        places = tuple(_place(model, rehearsal, name, block, name in chosen) for name, block in blocks.items())
        marked = [place for place in places if place.chosen]
        total = _cost(
            rehearsal, {place.name: blocks[place.name] for place in marked}, {place.algorithm for place in marked}
        )
    network = Network(
        type(model).__name__,
        sum(parameter.numel() for parameter in model.parameters()),
        rehearsal.flops,
        rehearsal.memory_without if rehearsal.whole else None,
    )
    form = next(iter(blocks.values()))
    return Plan(places, total, network, tuple(best), form.pairwise, form.attend)


def _blocks(
    model: nn.Module,
    rehearsal: Rehearsal,
    named: dict[str, nn.Module],
    input_shape: tuple[int, ...] | None,
    options: dict[str, Any],
) -> dict[str, NonLocal]:
    """A block for every named place and every candidate that can have one, in the network's order."""
    modules = dict(model.named_modules())
    axes = None if input_shape is None else len(input_shape)
    offered = [name for name in candidates(model) if takes_block(modules[name], rehearsal.outputs[name], axes)]
    wanted = [name for name in modules if name in named or name in offered]
    if not wanted:
        raise ValueError(
            f"no place for a block found in {type(model).__name__}: none of {', '.join(candidates(model)) or 'its'} "
            "modules runs once and returns a channels-first map. Name one, such as at='layer3.1'"
        )
    blocks = {}
    for name in wanted:
        block = rehearsal.block(name, one_map(name, modules[name], rehearsal.outputs[name]), options)
        if name in named or _fits(block, rehearsal.outputs[name][0]):
            blocks[name] = block
    if not blocks:
        raise ValueError(f"subsample={options.get('subsample')!r}: every map of {type(model).__name__} is smaller")
    return blocks


def _fits(block: NonLocal, output: Tensor) -> bool:
    factors = block.subsample or (1,) * block.dims
    return all(size >= factor for size, factor in zip(output.shape[2:], factors, strict=True))


def _recommended(
    model: nn.Module, rehearsal: Rehearsal, blocks: dict[str, NonLocal], input_shape: tuple[int, ...] | None
) -> list[str]:
    offered = set(candidates(model))
    shapes = {name: tuple(rehearsal.outputs[name][0].shape) for name in blocks if name in offered}
    sizes = {name: shape[2:][-2:] for name, shape in shapes.items()}
    largest = max(sizes.values(), default=())
    return recommended(model, sizes, largest if input_shape is None else input_shape[2:][-2:])


def _place(model: nn.Module, rehearsal: Rehearsal, name: str, block: NonLocal, chosen: bool) -> Place:
    output: Tensor = rehearsal.outputs[name][0]
    sizes = groups, queries, keys, _, _ = rehearsal.sizes(name, block)
    dtype = block.g.weight.dtype
    choice = functional.choice(
        block.pairwise,
        sizes,
        algorithm=block.algorithm,
        device=output.device,
        dtype=dtype,  # pyright: ignore[reportArgumentType]
        training=True,
        normalize=block.normalize,
    )
    cost = _cost(rehearsal, {name: block}, {choice.algorithm})
    return Place(
        name=name,
        kind=type(model.get_submodule(name)).__name__,
        shape=tuple(output.shape),
        queries=queries,
        keys=keys,
        channels=block.channels,
        inner_channels=block.inner_channels,
        algorithm=choice.algorithm,
        map_bytes=max(dtype.itemsize, 4) * groups * queries * keys,
        chosen=chosen,
        **asdict(cost),
    )


def _cost(rehearsal: Rehearsal, blocks: dict[str, NonLocal], algorithms: set[str]) -> Cost:
    """Of these blocks together."""
    flops = sum(rehearsal.block_flops(name, block) for name, block in blocks.items())
    memory = rehearsal.memory_added(blocks)
    flops_dense, memory_dense = flops, memory
    if algorithms - {"dense"}:
        with as_dense(blocks.values()):
            flops_dense = sum(rehearsal.block_flops(name, block) for name, block in blocks.items())
            memory_dense = rehearsal.memory_added(blocks)
    return Cost(
        parameters=sum(parameter.numel() for block in blocks.values() for parameter in block.parameters()),
        flops=flops,
        flops_dense=flops_dense,
        share=flops / max(rehearsal.flops, 1),
        memory=memory,
        memory_dense=memory_dense,
    )


def _input_shape(example_input: Any) -> tuple[int, ...] | None:
    """Of the first tensor with positions, (B, C, *size)."""
    shapes = [tuple(one.shape) for one in tree_leaves(example_input) if isinstance(one, Tensor)]
    return next((shape for shape in shapes if len(shape) in (3, 4, 5)), None)
