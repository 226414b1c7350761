"""Description of a source: the tensor names of its blocks and what its code computes with them."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from torch_nonlocal.models.video_resnet import TimePlan
from torch_nonlocal.weights.places import Placing, follow

PARAMETERS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
CONVOLUTIONS = ("theta", "phi", "g", "out")


class Named(NamedTuple):
    """Name of a block in the file ("layer2.1.nl") and name of a parameter in `NonLocal` ("theta.weight")."""

    block: str
    parameter: str


@dataclass(frozen=True)
class FoundBlock:
    """A block found in a file.

    Attributes:
        name: its name in the file.
        tensors: tensors by parameter name of `NonLocal` ("theta.weight", "norm.running_mean", "score.weight"), and
            "score.bias".
        keys: key in the file of each tensor; if several keys hold the same tensor, the first.
        repeated: maps further keys of the same tensors to their parameter names.
        file: all tensors of the file by key.
    """

    name: str
    tensors: dict[str, Tensor]
    keys: dict[str, str]
    repeated: dict[str, str]
    file: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def pools_after(self) -> bool:
        """Whether pooling follows g, which then is the first of two modules: "g.0.weight" instead of "g.weight"."""
        return re.search(r"(^|\.)g\.0\.", self.keys.get("g.weight", "")) is not None

    @property
    def form(self) -> str:
        """The pairwise form by the tensors; "embedded_gaussian" and "dot_product" have the same tensors."""
        if "score.weight" in self.tensors:
            return "concatenation"
        return "embedded_gaussian" if "theta.weight" in self.tensors else "gaussian"


@dataclass(frozen=True)
class Computes:
    """What a source's code computes with the tensors of a block, as options of `NonLocal`.

    Attributes:
        pairwise: the pairwise form.
        subsample: factor of the spatial pooling of keys; None for no pooling.
        pool_first: whether x is pooled before phi and g.
        scale: scale of the softmax forms.
        assumed: which of "pairwise", "subsample" and "scale" the tensors do not determine.
        dot_by_queries: whether the dot product is divided by the number of queries, although keys are pooled.
    """

    pairwise: str
    subsample: int | None
    pool_first: bool = False
    scale: float | str | None = None
    assumed: tuple[str, ...] = ("pairwise",)
    dot_by_queries: bool = False


@dataclass(frozen=True)
class Stated:
    """Options that a file states about a block, beside its tensors.

    Attributes:
        options: some of "pairwise", "subsample" and "scale".
        by: where the file states them, such as "cfg".
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    by: str = ""


class Trunk(NamedTuple):
    """What is known about the network of a file.

    Attributes:
        stem_kernel: number of frames of the first kernel.
        is_slow: whether only res4 and res5 have kernels over time, in all blocks.
        facts: values beside the tensors.
    """

    stem_kernel: int
    is_slow: bool
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class NetworkNames:
    """Tensor names of a source's ResNets.

    Attributes:
        rename: maps a key of the file, and all its keys, to the key of `VideoResNet`, or to None if it is no key of the
            network.
        time: maps `Trunk` to the time plan of the source's network. Raises ValueError if the file states a network
            without an equivalent.
        notes: sentences about differences that all networks of this source have.
        suffix: of the names of the source's own networks, such as "mmaction2" in "i3d_resnet50.mmaction2".
    """

    rename: Callable[[str, Collection[str]], str | None]
    time: Callable[[Trunk], TimePlan]
    notes: tuple[str, ...] = ()
    suffix: str = ""


@dataclass(frozen=True)
class Source:
    """A project, or several that share their code, whose blocks can be converted.

    Attributes:
        name: value of the argument `source`.
        project: name of the project for messages.
        named: maps a key of the file to the block and parameter it belongs to, or to None.
        computes: what the source's code computes with a block.
        is_own: whether a block is from this source, if several sources use the same names.
        place: the module that a block follows.
        network: tensor names of whole networks, if torch-nonlocal has such networks.
        affine: whether norms without statistics compute y = weight x + bias; otherwise they are group norms.
        stated: what the values beside the tensors, `WeightsFile.facts`, state about a block. Raises ValueError if they
            state a function without an equivalent.
        unsure: a reason why blocks of this source are converted only if the user or the file names their function.
    """

    name: str
    project: str
    named: Callable[[str], Named | None]
    computes: Callable[[FoundBlock], Computes]
    is_own: Callable[[FoundBlock], bool] = lambda _: True
    place: Placing = follow
    network: NetworkNames | None = None
    affine: bool = False
    stated: Callable[[Mapping[str, Any], FoundBlock], Stated] = lambda facts, block: Stated()
    unsure: str | None = None


def dotted(modules: Mapping[str, Iterable[str]]) -> Callable[[str], Named | None]:
    """`Source.named` for the dotted names of PyTorch modules.

    Args:
        modules: maps a module of `NonLocal` to its names in the source: {"g": ("g.0", "g")}.
    """
    ours = {theirs: module for module, names in modules.items() for theirs in names}
    choices = "|".join(re.escape(name) for name in sorted(ours, key=len, reverse=True))
    pattern = re.compile(rf"(?:(?P<block>.+)\.)?(?P<module>{choices})\.(?P<parameter>{'|'.join(PARAMETERS)})")

    def named(key: str) -> Named | None:
        match = pattern.fullmatch(key)
        return match and Named(match["block"] or "", f"{ours[match['module']]}.{match['parameter']}")

    return named


def only_later_kernels(stem: Tensor | None, inside: Tensor | None) -> bool:
    """Whether the stem has no kernel over time and a later convolution has one, as in Slow networks.

    Args:
        stem: weight of the first convolution; None if the file has none.
        inside: weight of the convolution in a later stage.
    """
    if stem is None or inside is None:
        return False
    return stem.ndim == inside.ndim == 5 and stem.shape[2] == 1 < inside.shape[2]


def norm_key(parameter: str) -> str | None:
    """PyTorch's name of a norm's tensor by its short name in Caffe2; None if it has none."""
    return {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}.get(parameter)


def module_notes(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Class name and plain attributes of a module, in files that hold a whole module; empty in all others."""
    modules = facts.get("modules")
    notes = modules.get(name) if isinstance(modules, Mapping) else None
    return notes if isinstance(notes, Mapping) else {}
