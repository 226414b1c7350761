"""`plan`: the places for blocks in a network and the cost of each, without changing or running the network."""

from dataclasses import asdict, dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from torch_nonlocal._common.text import listed
from torch_nonlocal._common.wrappers import named_modules, unwrapped
from torch_nonlocal.insertion.attachment import CHILD
from torch_nonlocal.insertion.insert import check_free
from torch_nonlocal.insertion.probe import running
from torch_nonlocal.insertion.targets import Places, find_targets, preset_targets
from torch_nonlocal.layers import Block
from torch_nonlocal.layers.explain import causal_frames, operation_sizes
from torch_nonlocal.layers.operation import computed_by
from torch_nonlocal.layers.options import AnyBlockOptions, Layout
from torch_nonlocal.layers.registry import NON_LOCAL, Kind, block_kind
from torch_nonlocal.layers.sizes import Sizes, algorithm_of
from torch_nonlocal.layers.widths import device_and_dtype
from torch_nonlocal.planning.candidates import candidates, recommended
from torch_nonlocal.planning.fake_run import Rehearsal, as_dense
from torch_nonlocal.planning.report import advice, markdown, plain


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of blocks for the whole batch of the example input.

    Attributes:
        parameters: number of parameters.
        flops: FLOPs of the forward pass by PyTorch's counter, two per multiply-add.
        flops_dense: FLOPs with algorithm="dense", the definition without re-association or sorting.
        share: `flops` divided by the FLOPs of the network without blocks.
        memory: extra peak memory of a training step (forward and backward) in bytes: activations and gradients, not
            parameters.
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
    """A place and the cost of a block there.

    Attributes:
        name: name of the module that the block follows.
        kind: class name of the module.
        shape: shape of the module's output.
        layout: order of the axes of the output: "channels_first", "channels_last" or "tokens".
        queries: N, number of queries of a group or window: positions, or channels with attend="channel".
        keys: M, number of keys that a query attends to, after subsampling.
        channels: C.
        inner_channels: D.
        algorithm: algorithm of a training step, such as "fused". All algorithms are exact. "direct" for gates, which
            have no queries and keys.
        map_bytes: size of the N x M map of the batch in bytes, in float32 or wider.
        chosen: True if the place is named by `at` or, with at=None, recommended.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    layout: Layout
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
        name: class name of the network.
        parameters: number of parameters.
        flops: FLOPs of the forward pass on the example input.
        memory: peak memory of a training step in bytes, excluding parameters and input. None if the training step
            cannot run with fake tensors; the memory of the places is then counted for each block separately.
        is_classifier: whether it returns one row of scores per input, (B, K), as the networks that the paper measured.
    """

    name: str
    parameters: int
    flops: int
    memory: int | None
    is_classifier: bool = True


@dataclass(frozen=True)
class Plan:
    """Places for blocks, their costs and the paper's recommendation. `print` shows a table.

    Attributes:
        places: the places in the network's order.
        total: cost of all chosen places together.
        network: the network without blocks.
        recommended: names of the places that the paper's results recommend.
        pairwise: pairwise form of the blocks; "" for gates.
        attend: the positions that a query attends to; "" for gates.
        refused: the candidates that cannot have a block with these options, and why, as pairs.
        block: name of the blocks in `list_blocks`.
    """

    places: tuple[Place, ...]
    total: Cost
    network: Network
    recommended: tuple[str, ...]
    pairwise: str
    attend: str
    refused: tuple[tuple[str, str], ...] = ()
    block: str = NON_LOCAL

    @property
    def chosen(self) -> list[str]:
        """Names of the chosen places, for `nl.insert(model, at=plan.chosen)`."""
        return [place.name for place in self.places if place.chosen]

    def __str__(self) -> str:
        return plain(self)

    def markdown(self) -> str:
        """Return the table and the recommendation as Markdown."""
        return markdown(self)

    def advice(self) -> str:
        """Return the recommendation as a sentence, with the paper's results."""
        return advice(self)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        places = [{**asdict(place), "shape": list(place.shape)} for place in self.places]
        return {**asdict(self), "places": places, "recommended": list(self.recommended), "refused": dict(self.refused)}


def plan(
    model: nn.Module,
    example_input: Any,
    at: Places | None = None,
    *,
    block: str = NON_LOCAL,
    **options: Unpack[AnyBlockOptions],
) -> Plan:
    """List the places for blocks and their cost: positions, parameters, FLOPs, memory with and without the N x M map.

    The model is unchanged. A copy with fake tensors runs instead of the model where the model's code allows it.

    Args:
        model: any network, with or without wrappers around it.
        example_input: an input of the model, as for `insert`. Costs are for its size and batch.
        at: places, as for `insert`, marked in the table. None marks the recommended places.
        block: "non_local", or the name of a relative, as for `insert`.
        **options: options of the blocks, as for `insert`.

    Returns:
        The plan. It lists the named places and the candidates: every residual block of the stages of the network or of
        its encoder or, in a network without stages, the outermost modules with convolutions that are not containers.

    Raises:
        ValueError: if a place or an option is wrong (as for `insert`), the network does not run on the example input,
            or it has no place for a block.
        TypeError: if a block has no such option.

    Example:
        >>> print(nl.plan(torchvision.models.video.r3d_18(), torch.randn(1, 3, 16, 112, 112)))
    """
    kind = block_kind(block)
    kind.check_options("plan", options, parameters=("at", "block"))
    model = unwrapped(model)
    named = {} if at is None else find_targets(model, at)
    check_free(named)
    with torch.random.fork_rng(devices=[]):
        rehearsal = Rehearsal(model, example_input)
        named = {name: named[name] for name in running(rehearsal.outputs, named, preset_targets(model, at or ()))}
        offered = candidates(model, rehearsal.outputs)
        blocks, refused = _blocks(kind, model, rehearsal, named, offered, options)
        best = _recommended(model, rehearsal, {name: blocks[name] for name in blocks if name in offered})
        chosen = set(named) if at is not None else set(best)
        places = tuple(_place(model, rehearsal, name, one, name in chosen) for name, one in blocks.items())
        marked = [place for place in places if place.chosen]
        total = _cost(
            rehearsal, {place.name: blocks[place.name] for place in marked}, {place.algorithm for place in marked}
        )
    network = Network(
        type(model).__name__,
        sum(parameter.numel() for parameter in model.parameters()),
        rehearsal.flops,
        rehearsal.memory_without if rehearsal.whole else None,
        rehearsal.returns_scores,
    )
    form = computed_by(next(iter(blocks.values())))
    pairwise, attend = ("", "") if form is None else (form.pairwise, form.attend)
    return Plan(places, total, network, tuple(best), pairwise, attend, tuple(refused.items()), block)


def _blocks(
    kind: Kind,
    model: nn.Module,
    rehearsal: Rehearsal,
    named: dict[str, nn.Module],
    offered: list[str],
    options: AnyBlockOptions,
) -> tuple[dict[str, Block], dict[str, str]]:
    """Build a block for every named place and every suitable candidate, in the network's order.

    Returns:
        the blocks, and the reasons why candidates have none.
    """
    blocks: dict[str, Block] = {}
    refused: dict[str, str] = {}
    for name, module in named_modules(model).items():
        if name in named:
            blocks[name] = rehearsal.block(kind, name, rehearsal.output(name, options), options)
        elif name in offered and CHILD not in module._modules:
            try:
                output = rehearsal.output(name, options)
            except ValueError as error:
                refused[name] = str(error)
                continue
            block = rehearsal.block(kind, name, output, options)
            size = block.map_shape(rehearsal.outputs[name][0].shape)[2:]
            try:
                block.check_size(size)
            except ValueError as error:
                refused[name] = f"{name!r}: {error}"
            else:
                blocks[name] = block
    if not blocks:
        reason = next(
            iter(refused.values()), f"candidates: {listed(offered) or 'none'}. Name one, such as at='layer3.1'"
        )
        raise ValueError(f"{type(model).__name__} has no place for a block: {reason}")
    return blocks, refused


def _recommended(model: nn.Module, rehearsal: Rehearsal, blocks: dict[str, Block]) -> list[str]:
    sizes = {name: block.map_shape(rehearsal.outputs[name][0].shape)[2:][-2:] for name, block in blocks.items()}
    largest = max(sizes.values(), default=())
    return recommended(model, sizes, (rehearsal.input_size or largest)[-2:])


def _place(model: nn.Module, rehearsal: Rehearsal, name: str, block: Block, chosen: bool) -> Place:
    output: Tensor = rehearsal.outputs[name][0]
    sizes = operation_sizes(block, output.shape)
    _, dtype = device_and_dtype(block)
    algorithm = _algorithm(block, sizes, output, dtype)
    cost = _cost(rehearsal, {name: block}, {algorithm})
    return Place(
        name=name,
        kind=type(named_modules(model)[name]).__name__,
        shape=tuple(output.shape),
        layout=block.layout,
        queries=sizes.queries,
        keys=sizes.keys,
        channels=block.channels,
        inner_channels=getattr(block, "inner_channels", sizes.width),
        algorithm=algorithm,
        map_bytes=max(dtype.itemsize, 4) * sizes.pairs,
        chosen=chosen,
        **asdict(cost),
    )


def _algorithm(block: Block, sizes: Sizes, output: Tensor, dtype: torch.dtype) -> str:
    """Return the algorithm of a training step, "direct" for gates."""
    options = computed_by(block)
    if options is None:
        return "direct"
    frames = causal_frames(block, output.shape)
    run: dict[str, Any] = {"device": output.device, "dtype": dtype, "training": True}
    return algorithm_of(options, block.algorithm, sizes, frames, **run)[0]


def _cost(rehearsal: Rehearsal, blocks: dict[str, Block], algorithms: set[str]) -> Cost:
    """Return the cost of the blocks together."""
    flops = sum(rehearsal.block_flops(name, block) for name, block in blocks.items())
    memory = rehearsal.memory_added(blocks)
    flops_dense, memory_dense = flops, memory
    if algorithms - {"dense", "direct"}:
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
