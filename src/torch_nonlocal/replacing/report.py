"""The report of `replace`."""

from dataclasses import dataclass

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
        lines = [f"{counted(len(self.found), 'module')} {verb}, {len(self.left)} left"]
        lines += [f"  {one.name or '(the network)'}: {_described(one)}" for one in self.found]
        lines += [f"  left: {name or '(the network)'}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def _described(one: Found) -> str:
    form = one.computed.pairwise.replace("_", " ")
    text = f"{one.kind}, {form} ({one.project})"
    what = one.predicted
    if what is None:
        return text
    text += f"; N = {what.queries:,}, M = {what.keys:,}: {megabytes(what.memory_before)} before, "
    text += f"{megabytes(what.memory_after)} after"
    return text if what.time is None else f"{text}, {what.time:.2f} of the time"
