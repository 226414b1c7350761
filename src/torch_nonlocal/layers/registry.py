"""Blocks by name: "non_local" and its relatives."""

from dataclasses import dataclass
from typing import Any

from torch_nonlocal._common.text import did_you_mean
from torch_nonlocal.layers import relatives
from torch_nonlocal.layers.block import Block
from torch_nonlocal.layers.non_local import NonLocal, NonLocal1d, NonLocal2d, NonLocal3d
from torch_nonlocal.layers.options import BLOCK_OPTIONS, check_option_names
from torch_nonlocal.layers.relatives import Relative

NON_LOCAL = "non_local"
BLOCK_CLASSES: dict[int, type[NonLocal]] = {1: NonLocal1d, 2: NonLocal2d, 3: NonLocal3d}
_RELATIVES: dict[str, type[Relative]] = {
    kind.name: kind
    for kind in (
        relatives.DANet,
        relatives.DANetPosition,
        relatives.DANetChannel,
        relatives.GlobalContext,
        relatives.DoubleAttention,
        relatives.EfficientAttention,
        relatives.CompactGeneralizedNonLocal,
        relatives.DisentangledNonLocal,
        relatives.CrissCross,
        relatives.PyramidNonLocal,
        relatives.FusionNonLocal,
        relatives.SqueezeExcitation,
        relatives.CBAM,
    )
}
_STORED: dict[str, type[Block]] = {**{kind.__name__: kind for kind in BLOCK_CLASSES.values()}, **_RELATIVES}


def list_blocks() -> list[str]:
    """Names of the blocks that `insert` and `plan` take as `block`, "non_local" first.

    Example:
        >>> nl.list_blocks()[:3]
        ['non_local', 'danet', 'danet_position']
    """
    return [NON_LOCAL, *_RELATIVES]


@dataclass(frozen=True)
class Kind:
    """One kind of blocks.

    Attributes:
        name: the name in `list_blocks()`.
    """

    name: str

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options of these blocks, without `channels` and the number of axes."""
        return BLOCK_OPTIONS if self.name == NON_LOCAL else _RELATIVES[self.name].option_names()

    @property
    def fixed(self) -> tuple[str, ...]:
        """Names of further options, which the place of a block determines."""
        return () if self.name == NON_LOCAL else ("dims",)

    def check_options(self, function: str, given: Any, parameters: Any = ()) -> None:
        """Check the names of options that a function received.

        Raises:
            TypeError: if an option does not exist; the message suggests the nearest name and lists all.
        """
        of = "blocks" if self.name == NON_LOCAL else f"block {self.name!r}"
        check_option_names(function, given, parameters, names=self.options, of=of)

    def class_for(self, dims: int) -> type[Block]:
        """Return the class for maps with a number of axes."""
        return BLOCK_CLASSES[dims] if self.name == NON_LOCAL else _RELATIVES[self.name]

    def build(self, dims: int, channels: int, **options: Any) -> Block:
        """Create a block for maps with a number of axes and channels.

        Raises:
            ValueError: if an option has an invalid value.
        """
        given = {} if self.name == NON_LOCAL else {"dims": dims}
        return self.class_for(dims)(channels, **given, **options)  # pyright: ignore[reportCallIssue]


def block_kind(name: str) -> Kind:
    """Return a kind of blocks by its name.

    Raises:
        ValueError: if there is none of this name; the message suggests the nearest name and lists all.
    """
    if name not in list_blocks():
        hint = did_you_mean(name, list_blocks()) if isinstance(name, str) else ""
        raise ValueError(f"block={name!r}: {hint + ' ' if hint else ''}expected one of {', '.join(list_blocks())}")
    return Kind(name)


def stored_name(block: Block) -> str:
    """Return the name of a block's class in block files: "NonLocal3d", or the name of a relative."""
    return block.name if isinstance(block, Relative) else type(block).__name__


def stored_kind(name: Any) -> tuple[type[Block], Kind]:
    """Return the class and the kind of blocks that a block file names.

    Raises:
        ValueError: if the name is unknown.
    """
    if not isinstance(name, str) or name not in _STORED:
        raise ValueError(f"class {name!r} is unknown: expected one of {', '.join(_STORED)}")
    return _STORED[name], Kind(name if name in _RELATIVES else NON_LOCAL)
