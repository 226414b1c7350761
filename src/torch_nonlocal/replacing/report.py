"""The report of `replace`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch_nonlocal._common.text import counted, megabytes
from torch_nonlocal.layers.operation import Computed


@dataclass(frozen=True)
class Predicted:
    """Positions, memory and time of a place on the example input.

    Attributes:
        shape: shape of the input of the module.
        queries: N, the number of query positions.
        keys: M, the number of key positions.
        map_bytes: size of the N x M map of the batch.
        memory_before: peak memory of the module's own code beside its parameters and input, in bytes: of a forward
            pass, and of the backward pass if the module is in train mode.
        memory_after: the same after the replacement.
        time: CPU time after the replacement divided by that of the module's own code; None if it was not measured.
    """

    shape: tuple[int, ...]
    queries: int
    keys: int
    map_bytes: int
    memory_before: int
    memory_after: int
    time: float | None


@dataclass(frozen=True)
class Found:
    """A module that can be replaced.

    Attributes:
        name: its name in the network.
        kind: name of its class.
        family: name of its family.
        project: projects of the family.
        computed: what it computes.
        predicted: positions, memory and time, if an example input was given and it ran there.
    """

    name: str
    kind: str
    family: str
    project: str
    computed: Computed
    predicted: Predicted | None = None


@dataclass(frozen=True)
class Replacement:
    """What `replace` found. `print` shows a table.

    Attributes:
        found: the modules that were replaced or, after a dry run, that would be.
        left: modules that were left alone, and why.
        dry_run: whether nothing was changed.
    """

    found: tuple[Found, ...]
    left: dict[str, str]
    dry_run: bool

    @property
    def replaced(self) -> list[str]:
        """Names of the modules that were replaced; after a dry run, of those that would be."""
        return [one.name for one in self.found]

    def __str__(self) -> str:
        verb = "would be replaced" if self.dry_run else "replaced"
        lines = [f"{counted(len(self.found), 'module')} {verb}, {len(self.left)} left alone"]
        if self.found:
            lines += ["", *_table(self.found)]
        if any(one.predicted is not None and one.predicted.time is not None for one in self.found):
            lines += [
                "",
                "time: CPU time of a forward pass divided by that of its own code, on at most 2,048 positions",
            ]
        if self.left:
            lines += ["", "left alone:", *(f"  {_shown(name)}: {reason}" for name, reason in self.left.items())]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {**asdict(self), "found": [asdict(one) for one in self.found], "replaced": self.replaced}


def _table(found: Sequence[Found]) -> list[str]:
    """The places in columns aligned by spaces; costs only where an example input was given."""
    head: tuple[str, ...] = ("module", "form", "as in")
    rows = [(_shown(one.name), one.computed.pairwise.replace("_", " "), one.family.partition(".")[0]) for one in found]
    if any(one.predicted is not None for one in found):
        head = (*head, "N", "M", "memory before", "after", "time")
        rows = [(*row, *_costs(one.predicted)) for row, one in zip(rows, found, strict=True)]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, tuple("-" * width for width in widths), *rows)
    ]


def _costs(what: Predicted | None) -> tuple[str, ...]:
    if what is None:
        return ("", "", "did not run", "", "")
    share = "" if what.time is None else f"x {what.time:.2f}"
    memory = megabytes(what.memory_before), megabytes(what.memory_after)
    return (f"{what.queries:,}", f"{what.keys:,}", *memory, share)


def _shown(name: str) -> str:
    return name or "(the network)"
