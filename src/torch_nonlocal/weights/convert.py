"""Convert checkpoints of other projects to blocks and networks of torch-nonlocal."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.tensor_files import WeightsFile, read_weights, write_tensors
from torch_nonlocal._common.text import listed
from torch_nonlocal.insertion.attachment import CHILD
from torch_nonlocal.insertion.block_files import write_blocks
from torch_nonlocal.weights.assemble import Assembled, Overrides, assemble, of_frames
from torch_nonlocal.weights.foreign import SOURCES
from torch_nonlocal.weights.foreign.source import CONVOLUTIONS, FoundBlock, Source
from torch_nonlocal.weights.refused import other_kind
from torch_nonlocal.weights.whole_network import Network, network_keys, whole_network

NETWORK_FORMAT = "torch-nonlocal network 1"
_MAX_BLOCKS = 200  # finding the place of a block compares it with all names
_MIN_NETWORK_TENSORS = 50  # fewer matching names do not identify a network
_OWN_USES = {
    "blocks": "nl.load_blocks reads it",
    "network": "nl.create_model(..., weights=...) reads it",
    "training state": "training resumes from it, and best.pt in its folder holds the weights",
    "weights": "nl.load reads it, and nl.save_blocks writes the blocks of the network that it returns",
    "state dict": "insert blocks with nl.insert at the same places, then nl.load_weights(model, ...) reads it",
}


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint of another project.

    Attributes:
        source: the project, a name in `SOURCES`.
        plan: class and options of each block by place, as in files of `nl.save_blocks`.
        tensors: tensors of the blocks by "<place>/<parameter>".
        network: the whole network, if torch-nonlocal has the same one.
        no_network: the reason if the file holds a network that torch-nonlocal does not have.
        renamed: maps keys of the file to "<place>/<parameter>", or to keys of the network.
        left_over: keys of the file that were not used.
        assumptions: sentences about options that the file does not determine and that follow the source's usual
            settings.
    """

    source: str
    plan: dict[str, dict[str, Any]]
    tensors: dict[str, Tensor]
    network: Network | None
    no_network: str | None
    renamed: dict[str, str]
    left_over: list[str]
    assumptions: list[str]

    def save(self, path: str | os.PathLike[str], *, whole: bool | None = None) -> None:
        """Write the whole network for `nl.create_model(..., weights=path)`, or the blocks for `nl.load_blocks`.

        Args:
            path: with the suffix .safetensors for a safetensors file, with any other for a file of `torch.save`. An
                existing file is replaced.
            whole: True for the network, False for its blocks only, None for the network if there is one.

        Raises:
            ValueError: the checkpoint has no such part; the message gives the reason.
            ImportError: safetensors is needed and not installed.
        """
        if whole or (whole is None and self.network is not None):
            if self.network is None:
                raise ValueError(f"no whole network to save: {self.no_network or 'the file holds only blocks'}")
            network = self.network
            header = {"format": NETWORK_FORMAT, "call": network.call(Path(path).name), "architecture": network.text}
            write_tensors(Path(path), self.network.state, header, key="state_dict")
            return
        if not self.plan:
            raise ValueError("no blocks to save: the file holds a network without blocks")
        write_blocks(Path(path), self.plan, self.tensors)


def convert_weights(
    path: str | os.PathLike[str],
    *,
    source: str | None = None,
    pairwise: str | None = None,
    subsample: int | Sequence[int] | None = None,
    scale: float | str | None = None,
    places: Mapping[str, str] | None = None,
    frames: int | None = None,
) -> Converted:
    """Convert the non-local blocks of another project's checkpoint, and the whole network if torch-nonlocal has it.

    Args:
        path: a file that `read_weights` reads: safetensors, `torch.save`, or a pickle of Caffe2 blobs. Nothing in it is
            executed.
        source: the project, a name in `SOURCES`; None detects it from the tensor names.
        pairwise: "embedded_gaussian" or "dot_product", which have the same tensors. None for the source's usual form.
        subsample: factor of the max-pooling of keys; 1 for no pooling. None for the source's usual factor.
        scale: of the softmax: "sqrt" or a number; 1 for no scaling. None for the source's usual scale.
        places: maps a block's name in the file, or its usual place, to the name of the module that it follows in your
            network.
        frames: number of frames of a clip, for networks that see frames as a batch of images (B * T, C, H, W), such as
            TSM: the blocks then have layout="frames".

    Returns:
        The converted blocks and network, with the names that were renamed and left over and the options assumed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read; it holds no block of a known source, or blocks of several; it holds
            attention without an equivalent (the message gives the reason); tensors are missing or inconsistent; an
            option contradicts them.
        ImportError: the file is in safetensors format and safetensors is not installed.

    Example:
        >>> converted = convert_weights("i3d_nonlocal_32x2_IN_pretrain_400k.pkl")
        >>> converted.save("i3d.safetensors")
        >>> model = nl.create_model("i3d_resnet50_8x8", non_local=list(converted.plan), weights="i3d.safetensors", ...)
    """
    if source is not None and source not in SOURCES:
        raise ValueError(f"source={source!r}: expected one of {', '.join(SOURCES)}")
    file = read_weights(path)
    try:
        converted = _convert(file, source, Overrides(pairwise, subsample, scale), dict(places or {}), frames)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if converted.assumptions:
        warnings.warn(f"{path}: {'; '.join(converted.assumptions)}", stacklevel=2)
    return converted


def _convert(
    file: WeightsFile, wanted: str | None, overrides: Overrides, places: dict[str, str], frames: int | None
) -> Converted:
    tensors = file.tensors
    if own := _own_use(file):
        raise ValueError(f"is a file of this library, expected one of another project; {own}")
    if other := other_kind(tensors):
        kind, name = other
        raise ValueError(f"{name!r} is {kind.name}, which no non-local block of torch-nonlocal computes: {kind.reason}")
    source, found = _found(tensors, wanted)
    if len(found) > _MAX_BLOCKS:
        raise ValueError(f"{len(found):,} blocks, expected at most {_MAX_BLOCKS}")
    _check_repeated(source, found, tensors)
    stated = {block.name: source.stated(file.facts, block) for block in found}
    unsure = [name for name, one in stated.items() if not one.options]
    if source.unsure and wanted != source.name and unsure:
        raise ValueError(f"{unsure[0]!r} is a block of {source.project}: {source.unsure}")
    placed, notes, aliases = _placed(source, found, tensors, places)
    assembled = {
        place: assemble(block, source, overrides, stated[block.name], file.facts) for place, block in placed.items()
    }
    if frames is not None:
        assembled = {place: of_frames(one, frames) for place, one in assembled.items()}
    network, of_network, no_network = whole_network(
        tensors,
        source,
        {place: one.tensors for place, one in assembled.items()},
        {place: one.settings for place, one in assembled.items()},
        file.facts,
    )
    if no_network:  # the names of a VideoResNet are of no use: the network that the blocks belong to is the source's
        placed = {aliases.get(place, place): one for place, one in placed.items()}
        assembled = {aliases.get(place, place): one for place, one in assembled.items()}
        aliases = {}
    renamed = {
        key: f"{place}/{name}"
        for place, block in placed.items()
        for key, name in [*((key, name) for name, key in block.keys.items()), *block.repeated.items()]
    }
    renamed |= of_network
    left_over = [key for key in tensors if key not in renamed]
    return Converted(
        source=source.name,
        plan={
            place: {"class": one.kind, "options": one.options, "theirs": _theirs(placed[place], aliases.get(place))}
            for place, one in assembled.items()
        },
        tensors={f"{place}/{name}": tensor for place, one in assembled.items() for name, tensor in one.tensors.items()},
        network=network,
        no_network=no_network,
        renamed=renamed,
        left_over=left_over,
        assumptions=_assumptions(assembled)
        + notes
        + (_frames_as_images(assembled, [tensors[key] for key in left_over]) if frames is None else []),
    )


def _own_use(file: WeightsFile) -> str:
    """How to load a file of this library; "" for the file of another project."""
    values = [name for name in file.tensors if name.endswith(f"{CHILD}.g.weight")]
    has_own = any(f"{name.removesuffix('g.weight')}out.weight" in file.tensors for name in values)
    return _OWN_USES[file.kind] if has_own or file.kind in ("blocks", "network") else ""


def _found(tensors: dict[str, Tensor], wanted: str | None) -> tuple[Source, list[FoundBlock]]:
    """The source of the file and its blocks."""
    best: dict[str, tuple[int, Source, FoundBlock]] = {}
    for source in SOURCES.values():
        for block in _blocks_of(source, tensors):
            score = len(block.keys) + len(block.repeated)
            forced = wanted == source.name
            if not forced and not source.is_own(block):
                continue
            if forced or block.name not in best or score > best[block.name][0]:
                best[block.name] = (len(tensors) + 1 if forced else score, source, block)
    by_source: dict[str, list[FoundBlock]] = {}
    for _, source, block in best.values():
        by_source.setdefault(source.name, []).append(block)
    if len(by_source) > 1:
        names = " and ".join(f"{name} ({blocks[0].name!r})" for name, blocks in by_source.items())
        raise ValueError(f"blocks of several sources in one file, {names}: convert each with source=")
    if by_source:
        name, blocks = next(iter(by_source.items()))
        if wanted is not None and name != wanted:
            raise ValueError(f"source={wanted!r}: its blocks have the names of {name} ({SOURCES[name].project})")
        return SOURCES[name], blocks
    for source in SOURCES.values():
        names = source.network
        if names and wanted in (None, source.name) and network_keys(tensors, names) >= _MIN_NETWORK_TENSORS:
            return source, []
    known = ", ".join(f"{source.name} ({source.project})" for source in SOURCES.values())
    raise ValueError(
        f"no non-local block of a known source; tensor names: {listed(tensors)}; known sources: {known}{_hint(tensors)}"
    )


def _hint(tensors: Mapping[str, Tensor]) -> str:
    if any(f".{CHILD}." in key for key in tensors):
        return "; the names are those of torch-nonlocal: nl.load_weights(model, path) loads the file"
    return ""


def _blocks_of(source: Source, tensors: Mapping[str, Tensor]) -> list[FoundBlock]:
    grouped: dict[str, FoundBlock] = {}
    for key, tensor in tensors.items():
        named = source.named(key)
        if named is None:
            continue
        block = grouped.setdefault(named.block, FoundBlock(named.block, {}, {}, {}, tensors))
        if named.parameter in block.tensors:
            block.repeated[key] = named.parameter
        else:
            block.tensors[named.parameter] = tensor
            block.keys[named.parameter] = key
    return [block for block in grouped.values() if _is_block(block)]


def _check_repeated(source: Source, found: list[FoundBlock], tensors: Mapping[str, Tensor]) -> None:
    for block in found:
        for key, name in block.repeated.items():
            if not torch.equal(tensors[key], block.tensors[name]):
                raise ValueError(
                    f"{key} and {block.keys[name]} are the same tensor in {source.name}, but their values differ"
                )


def _is_block(block: FoundBlock) -> bool:
    """Three of the four convolutions make a block, maybe an incomplete one; the Gaussian form has g and W_z alone."""
    present = [part for part in CONVOLUTIONS if f"{part}.weight" in block.tensors]
    if len(present) >= 3:
        return True
    g, out = block.tensors.get("g.weight"), block.tensors.get("out.weight")
    return g is not None and out is not None and g.ndim > 2 and g.shape[:2] == out.shape[1::-1]


def _placed(
    source: Source, found: list[FoundBlock], tensors: Mapping[str, Tensor], places: dict[str, str]
) -> tuple[dict[str, FoundBlock], list[str], dict[str, str]]:
    """The blocks by place, notes, and the names of places in the source's own network if they differ."""
    placed: dict[str, FoundBlock] = {}
    notes: list[str] = []
    aliases: dict[str, str] = {}
    names = [block.name for block in found]
    unused = set(places)
    for block in found:
        usual = source.place(block.name, names, tensors)
        asked = [name for name in (block.name, usual.name, usual.alias) if name in places]
        unused -= set(asked)
        place = places[asked[0]] if asked else usual.name
        if place in placed:
            raise ValueError(
                f"two blocks for {place!r}: {placed[place].name!r} and {block.name!r}; `places` can separate them"
            )
        placed[place] = block
        if usual.note and not asked:
            notes.append(usual.note)
        if usual.alias and not asked:
            aliases[place] = usual.alias
    if unused:
        blocks = ", ".join(map(repr, names))
        raise ValueError(
            f"places: no block {', '.join(map(repr, sorted(unused)))} in the file; it has {blocks or 'none'}"
        )
    return placed, notes, aliases


def _theirs(block: FoundBlock, place: str | None) -> dict[str, str]:
    """Names in the source's own network: of the block, of one of its modules, and of its place; see `load_blocks`."""
    part = block.keys["g.weight"].removesuffix(".weight").removeprefix(f"{block.name}.")
    return {"block": block.name, "part": part, **({"place": place} if place else {})}


def _assumptions(assembled: Mapping[str, Assembled]) -> list[str]:
    """Assumptions of all blocks, without repetitions."""
    return list(dict.fromkeys(sentence for one in assembled.values() for sentence in one.assumed.values()))


def _frames_as_images(assembled: Mapping[str, Assembled], others: list[Tensor]) -> list[str]:
    """A note for TSM networks: they run frames as a batch of images, and wrap the block so that it sees clips."""
    if any(one.kind == "NonLocal3d" for one in assembled.values()) and any(tensor.ndim == 4 for tensor in others):
        return [
            "blocks expect clips (B, C, T, H, W), but the file has 2D convolutions: its network sees frames as images; "
            "frames=8 converts them for batches of images (8 frames a clip)"
        ]
    return []
