"""Studies: networks trained with several seeds, one JSON line per run, and the table of a page.

A script describes what it compares as a `Study`. A finished run is one line of the output file; a rerun skips it. The
default is one thread: the results then do not depend on the number of cores, and two processes with different seeds can
share two cores and one file.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from torch_nonlocal.benchmark.report import machine

START, END = "<!-- table: begin -->", "<!-- table: end -->"

Run = dict[str, Any]
"""The results of a run as JSON values."""


class Row(NamedTuple):
    """One network of the table.

    Attributes:
        text: its name in the table.
        configuration: keyword arguments of the function that builds it, plain JSON values.
    """

    text: str
    configuration: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What a script compares.

    Attributes:
        name: name of the output file.
        rows: the networks by name.
        groups: the names in each group of the table, by its title.
        header: titles of the columns, that of the networks first.
        cells: the other cells of a row, from its name and its runs.
        steps: default number of steps.
        batch: batch size, for the help.
        shows_missing: whether the table has rows, and groups, without a run.
        clips: default number of test clips, or of test identities.
    """

    name: str
    rows: Mapping[str, Row]
    groups: Mapping[str, Sequence[str]]
    header: Sequence[str]
    cells: Callable[[str, Sequence[Run]], Sequence[str]]
    steps: int
    batch: int
    shows_missing: bool = False
    clips: int = 2000

    def finished(self, records: Iterable[Run], name: str, seeds: Sequence[int], steps: int, clips: int) -> list[Run]:
        """The finished runs of one network with these seeds, steps and clips, in the order of the seeds."""
        wanted = (self.rows[name].configuration, steps, clips)
        found = {
            record["seed"]: record
            for record in records
            if (record["configuration"], record["steps"], record["clips"]) == wanted
        }
        return [found[seed] for seed in seeds if seed in found]

    def table(self, records: Sequence[Run], seeds: Sequence[int], steps: int, clips: int) -> str:
        """A Markdown table of the finished runs by group; rows with fewer runs than seeds give their number."""
        lines = ["| " + " | ".join(self.header) + " |", "|---|" + "---:|" * (len(self.header) - 1)]
        for title, names in self.groups.items():
            rows = [(name, self.finished(records, name, seeds, steps, clips)) for name in names]
            if not self.shows_missing:
                rows = [(name, found) for name, found in rows if found]
            if rows:
                lines.append(f"| **{title}** |" + " |" * (len(self.header) - 1))
            for name, found in rows:
                partly = f" ({len(found)} of {len(seeds)} seeds)" if 0 < len(found) < len(seeds) else ""
                cells = self.cells(name, found) if found else ["not run yet"] + [""] * (len(self.header) - 2)
                lines.append("| " + " | ".join([self.rows[name].text + partly, *cells]) + " |")
        return "\n".join(lines)

    def main(
        self, arguments: Sequence[str] | None, description: str | None, run: Callable[[str, int, int, int], Run]
    ) -> None:
        """Run what is missing, then print the table.

        Args:
            arguments: those of the command line; None for those of this process.
            description: text of the help.
            run: trains and tests a network: `run(name, seed, steps, clips)`.
        """
        given = self._parsed(arguments, description)
        torch.set_num_threads(given.threads)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        todo = [(name, seed) for seed in given.seeds for name in given.only or self.rows]
        for number, (name, seed) in enumerate(todo, start=1):
            # read again each time: another process may write to the file
            if self.finished(read(given.out), name, [seed], given.steps, given.clips):
                print(f"{number}/{len(todo)} {name}, seed {seed}: already finished", flush=True)
                continue
            record = run(name, seed, given.steps, given.clips)
            with given.out.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(
                f"{number}/{len(todo)} {name}, seed {seed}: accuracy {record['accuracy']:.4f}, "
                f"loss {record['loss']:.4f}, {record['cpu_seconds']:.0f} CPU s",
                flush=True,
            )
        text = self.table(read(given.out), given.seeds, given.steps, given.clips)
        print(text)
        if given.markdown:
            write_table(given.markdown, text)

    def _parsed(self, arguments: Sequence[str] | None, description: str | None) -> argparse.Namespace:
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument(
            "--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of networks and clips (default 0 1 2)"
        )
        parser.add_argument(
            "--steps", type=int, default=self.steps, help=f"steps of batch size {self.batch} (default {self.steps})"
        )
        parser.add_argument(
            "--clips", type=int, default=self.clips, help=f"test clips, or identities (default {self.clips})"
        )
        parser.add_argument(
            "--out", type=Path, default=Path(f"bench-out/{self.name}.jsonl"), help="output, one JSON line per run"
        )
        parser.add_argument(
            "--only", nargs="+", choices=list(self.rows), metavar="NAME", help=f"some of {', '.join(self.rows)}"
        )
        parser.add_argument("--threads", type=int, default=1, help="threads of this process (default 1)")
        parser.add_argument("--markdown", type=Path, help="page whose table is replaced")
        given = parser.parse_args(arguments)
        if given.steps < 1 or given.clips < 1 or given.threads < 1:
            parser.error(
                f"--steps {given.steps} --clips {given.clips} --threads {given.threads}: expected at least 1 each"
            )
        return given


def blocks_at(*places: str, **options: Any) -> dict[str, Any]:
    """The configuration of a network with blocks at these places, all with the same options."""
    return {"at": list(places), "block": options}


def parameters(net: nn.Module) -> int:
    """Number of parameters."""
    return sum(one.numel() for one in net.parameters())


def flops(net: nn.Module, clip_shape: Sequence[int]) -> int:
    """FLOPs of one clip's forward pass, two per multiply-add; sorting and pointwise operations are not counted."""
    net.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(tuple(clip_shape)))
    return counter.get_total_flops()


def costs(net: nn.Module, clip_shape: Sequence[int], seconds: float) -> Run:
    """What a run records of its costs and of the machine; `seconds` is the CPU time of the training."""
    return {
        "parameters": parameters(net),
        "flops": flops(net, clip_shape),
        "cpu_seconds": round(seconds, 2),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": machine(),
    }


def scores(found: Sequence[Run]) -> list[str]:
    """The cells of the accuracy, its deviation, its values and the loss of the runs of a network."""
    accuracies = [one["accuracy"] for one in found]
    return [
        f"{statistics.mean(accuracies):.3f}",
        f"{statistics.stdev(accuracies):.3f}" if len(accuracies) > 1 else "",
        ", ".join(f"{one:.3f}" for one in accuracies),
        f"{statistics.mean([one['loss'] for one in found]):.3f}",
    ]


def shown_costs(found: Sequence[Run], digits: int) -> list[str]:
    """The cells of the parameters, the MFLOPs with some digits, and the CPU seconds of the runs of a network."""
    return [
        f"{found[0]['parameters']:,}",
        f"{found[0]['flops'] / 1e6:.{digits}f}",
        f"{statistics.mean([one['cpu_seconds'] for one in found]):.0f}",
    ]


def read(file: Path) -> list[Run]:
    """The runs in a file; none if the file does not exist.

    Raises:
        ValueError: a line is not JSON; the message gives its number.
    """
    records = []
    for number, line in enumerate(file.read_text().splitlines() if file.exists() else [], start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {number}: not JSON ({error}); delete the line to repeat its run") from error
    return records


def write_table(page: Path, text: str) -> None:
    """Replace the table between the two marks of a page; a new page consists of the table.

    Raises:
        ValueError: the page exists and lacks a mark.
    """
    old = page.read_text() if page.exists() else f"{START}\n{END}\n"
    if START not in old or END not in old:
        raise ValueError(f"{page}: expected the lines {START} and {END} around the table")
    head, tail = old.split(START)[0], old.split(END)[1]
    page.write_text(f"{head}{START}\n{text}\n{END}{tail}")
