"""What one source is: how it names a block's tensors, and what its code computes with them."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from torch_nonlocal.models.video_resnet import TimePlan
from torch_nonlocal.weights.places import Placing, follow

PARAMETERS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
CONVOLUTIONS = ("theta", "phi", "g", "out")


class Named(NamedTuple):
    """A tensor of a block: the block's name in the file ("layer2.1.nl"), and ours for the tensor ("theta.weight")."""

    block: str
    parameter: str


@dataclass(frozen=True)
class FoundBlock:
    """A block in a file.

    Attributes:
        name: in the file.
        tensors: by our parameter names ("theta.weight", "norm.running_mean", "score.weight", "score.bias").
        keys: the file's key of each; of two for the same tensor, the first.
        repeated: further keys of the same tensors, with our names.
    """

    name: str
    tensors: dict[str, Tensor]
    keys: dict[str, str]
    repeated: dict[str, str]

    @property
    def pools_after(self) -> bool:
        """Whether g is the first of two modules, so that pooling follows it: "g.0.weight", not "g.weight"."""
        return re.search(r"(^|\.)g\.0\.", self.keys.get("g.weight", "")) is not None

    @property
    def form(self) -> str:
        """The pairwise form as far as the tensors tell; "embedded_gaussian" may as well be "dot_product"."""
        if "score.weight" in self.tensors:
            return "concatenation"
        return "embedded_gaussian" if "theta.weight" in self.tensors else "gaussian"


@dataclass(frozen=True)
class Computes:
    """What a source's code does with a block's tensors; options of our block.

    Attributes:
        subsample: factor of the keys' pooling in space; None for none.
        pool_first: it pools x before phi and g.
        scale: of the softmax forms.
        assumed: which of "pairwise", "subsample", "scale" the tensors do not tell.
    """

    pairwise: str
    subsample: int | None
    pool_first: bool = False
    scale: float | str | None = None
    assumed: tuple[str, ...] = ("pairwise",)


@dataclass(frozen=True)
class NetworkNames:
    """How a source names a ResNet's tensors.

    Attributes:
        rename: a key of the file -> the key of our `VideoResNet`, or None for a key of something else.
        time: how the source's networks treat time, from the frames of their first kernel.
        notes: differences that every network of this source has.
    """

    rename: Callable[[str], str | None]
    time: Callable[[int], TimePlan]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A project (or several that share their code) whose blocks can be read.

    Attributes:
        name: what `source=` takes.
        project: for people.
        named: a key of the file -> what it is of a block; None for any other key.
        computes: what the code does with a block.
        is_own: of sources with the same names, whether this block is of this one.
        place: the modules that the blocks follow.
        network: how whole networks are named, where ours match.
        affine: norms without statistics are y = weight x + bias; else they are group norms.
    """

    name: str
    project: str
    named: Callable[[str], Named | None]
    computes: Callable[[FoundBlock], Computes]
    is_own: Callable[[FoundBlock], bool] = lambda _: True
    place: Placing = follow
    network: NetworkNames | None = None
    affine: bool = False


def dotted(modules: Mapping[str, Iterable[str]]) -> Callable[[str], Named | None]:
    """`Source.named` for PyTorch's dotted names.

    Args:
        modules: our module -> the source's names for it, {"g": ("g.0", "g")}.
    """
    ours = {theirs: module for module, names in modules.items() for theirs in names}
    choices = "|".join(re.escape(name) for name in sorted(ours, key=len, reverse=True))
    pattern = re.compile(rf"(?:(?P<block>.+)\.)?(?P<module>{choices})\.(?P<parameter>{'|'.join(PARAMETERS)})")

    def named(key: str) -> Named | None:
        match = pattern.fullmatch(key)
        return match and Named(match["block"] or "", f"{ours[match['module']]}.{match['parameter']}")

    return named


def norm_key(parameter: str) -> str | None:
    """Caffe2's short names of a norm's tensors in PyTorch's words."""
    return {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}.get(parameter)
