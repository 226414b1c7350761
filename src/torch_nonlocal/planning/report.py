"""A plan as text: the table, plain or as Markdown, and the recommendation in words."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch_nonlocal.planning.plan import Cost, Plan

HEADER = ("", "where", "output", "N", "M", "D", "parameters", "GFLOPs", "share", "memory", "with the map")
RIGHT = (False, False, False, True, True, True, True, True, True, True, True)
CHOSEN = "*"

EVIDENCE = (
    "Wang et al. (CVPR 2018), Kinetics-400 top-1: one block in ResNet-50 (71.8 without) gives 72.7 in res2, 72.9 in "
    "res3, 72.7 in res4 and 72.3 in res5 (table 2b); 1, 5 and 10 blocks give 72.7, 73.8 and 74.3 (table 2c); five "
    "blocks over space alone give 72.9, over time alone 73.1, over spacetime 73.8 (table 2d)."
)


def rows(plan: "Plan") -> list[tuple[str, ...]]:
    """The cells of each place, in `HEADER`'s order."""
    return [
        (
            CHOSEN if place.chosen else "",
            place.name,
            "x".join(map(str, place.shape[1:])),
            f"{place.queries:,}",
            f"{place.keys:,}",
            str(place.inner_channels),
            *_costs(place),
        )
        for place in plan.places
    ]


def total_row(plan: "Plan") -> tuple[str, ...]:
    """The cells of the last line: all chosen places together."""
    count = len(plan.chosen)
    return (CHOSEN, f"{count} block{'' if count == 1 else 's'} together", "", "", "", "", *_costs(plan.total))


def plain(plan: "Plan") -> str:
    """Columns aligned with spaces; no line is broken."""
    lines = [HEADER, *rows(plan), total_row(plan)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    texts = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, RIGHT, strict=True)
        ).rstrip()
        for line in lines
    ]
    rule = "-" * max(map(len, texts))
    table = [texts[0], rule, *texts[1:-1], rule, texts[-1]]
    return "\n".join([summary(plan), "", *table, "", legend(plan), "", advice(plan)])


def markdown(plan: "Plan") -> str:
    """A Markdown table between its summary and what it means."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEADER, *rows(plan), total_row(plan))]
    lines.insert(1, "|" + "|".join("---:" if right else "---" for right in RIGHT) + "|")
    return "\n".join([summary(plan), "", *lines, "", legend(plan), "", advice(plan), ""])


def summary(plan: "Plan") -> str:
    """The network, and the kind of block."""
    network = plan.network
    memory = "" if network.memory is None else f", {size(network.memory)} of memory in a training step"
    return (
        f"{network.name}: {network.parameters / 1e6:,.2f}M parameters, {network.flops / 1e9:,.2f} GFLOPs{memory}. "
        f"Blocks: {plan.pairwise.replace('_', ' ')}, {plan.attend}, batch of {plan.places[0].shape[0]}."
    )


def legend(plan: "Plan") -> str:
    """What the columns mean."""
    alone = "" if plan.network.memory is not None else " (here of each block by itself)"
    dense = ""
    if plan.total.flops_dense != plan.total.flops:
        dense = f" The chosen blocks follow the definition in {plan.total.flops_dense / 1e9:,.2f} GFLOPs."
    return (
        f"{CHOSEN} chosen. N queries, M keys, D inner width; GFLOPs of a forward pass, two operations a multiply-add; "
        f"share of the network's own; memory: what a training step needs more at its peak{alone}, by this library's "
        f"exact algorithms and with the N x M map.{dense}"
    )


def advice(plan: "Plan") -> str:
    """The recommendation, with the paper's numbers."""
    names = ", ".join(plan.recommended) or "no place: every map is far from the sizes that the paper studied"
    return f"Recommended: {names}. {EVIDENCE} So: res3 and res4, several blocks rather than one, over spacetime."


def size(count: int) -> str:
    """Bytes as text, "1,234.5 MB"."""
    return f"{count / 2**20:,.1f} MB"


def _costs(cost: "Cost") -> tuple[str, ...]:
    return (
        f"{cost.parameters:,}",
        f"{cost.flops / 1e9:,.3f}",
        f"{100 * cost.share:.1f}%",
        size(cost.memory),
        size(cost.memory_dense),
    )
