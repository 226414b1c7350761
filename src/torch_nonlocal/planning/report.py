"""Text of a plan: the table, plain or as Markdown, and the recommendation."""

from typing import TYPE_CHECKING

from torch_nonlocal.layers.registry import NON_LOCAL

if TYPE_CHECKING:
    from torch_nonlocal.planning.plan import Cost, Plan

HEADER = ("", "place", "output", "N", "M", "D", "parameters", "GFLOPs", "share", "memory", "with the map")
RIGHT = (False, False, False, True, True, True, True, True, True, True, True)
CHOSEN = "*"
_LAYOUTS = {"channels_first": "", "channels_last": " channels last", "tokens": " tokens", "frames": " frames"}
_MOST_REFUSED = 3  # reasons in the text; `Plan.refused` has all

EVIDENCE = (
    "Wang et al. (CVPR 2018), Kinetics-400 top-1: one block in ResNet-50 (71.8 without) gives 72.7 in res2, 72.9 in "
    "res3, 72.7 in res4 and 72.3 in res5 (table 2b); 1, 5 and 10 blocks give 72.7, 73.8 and 74.3 (table 2c); five "
    "blocks over space alone give 72.9, over time alone 73.1, over spacetime 73.8 (table 2d)."
)


def rows(plan: "Plan") -> list[tuple[str, ...]]:
    """Return the cells of each place in the order of `HEADER`."""
    return [
        (
            CHOSEN if place.chosen else "",
            place.name,
            "x".join(map(str, place.shape[1:])) + _LAYOUTS[place.layout],
            f"{place.queries:,}",
            f"{place.keys:,}",
            str(place.inner_channels),
            *_costs(place),
        )
        for place in plan.places
    ]


def total_row(plan: "Plan") -> tuple[str, ...]:
    """Return the cells of the last row: all chosen places together."""
    count = len(plan.chosen)
    return (CHOSEN, f"{count} block{'' if count == 1 else 's'} together", "", "", "", "", *_costs(plan.total))


def plain(plan: "Plan") -> str:
    """Return the table with columns aligned by spaces. Lines are not wrapped."""
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
    """Return the summary, the table as Markdown, the legend and the recommendation."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEADER, *rows(plan), total_row(plan))]
    lines.insert(1, "|" + "|".join("---:" if right else "---" for right in RIGHT) + "|")
    return "\n".join([summary(plan), "", *lines, "", legend(plan), "", advice(plan), ""])


def summary(plan: "Plan") -> str:
    """Return the cost of the network and the options of the blocks."""
    network = plan.network
    memory = "" if network.memory is None else f", {size(network.memory)} peak memory of a training step"
    return (
        f"{network.name}: {network.parameters / 1e6:,.2f}M parameters, {network.flops / 1e9:,.2f} GFLOPs{memory}. "
        f"Blocks: {_described(plan)}, batch size {plan.places[0].shape[0]}."
    )


def _described(plan: "Plan") -> str:
    return f"{plan.pairwise.replace('_', ' ')}, {plan.attend}" if plan.block == NON_LOCAL else plan.block


def legend(plan: "Plan") -> str:
    """Return the meaning of the columns."""
    alone = "" if plan.network.memory is not None else " (counted for each block separately)"
    dense = ""
    if plan.total.flops_dense != plan.total.flops:
        dense = f" The definition takes {plan.total.flops_dense / 1e9:,.2f} GFLOPs for the chosen blocks."
    return (
        f"{CHOSEN} chosen place. N: queries; M: keys; D: inner channels. GFLOPs: forward pass, two per multiply-add. "
        f"share: GFLOPs divided by those of the network. memory: extra peak memory of a training step{alone}. "
        f"with the map: the same with algorithm='dense', which holds the N x M map.{dense}{_refusals(plan)}"
    )


def advice(plan: "Plan") -> str:
    """Return the recommendation and, for a network that classifies, the paper's results."""
    names = ", ".join(plan.recommended) or "none, because no map has a size that the paper studied"
    if plan.network.is_classifier:
        return f"Recommended: {names}. {EVIDENCE} In short: several blocks in res3 and res4, over spacetime."
    by_size = ", whose maps have an eighth or a sixteenth of the input's side where there are such maps"
    return (
        f"Recommended: {names}{by_size if plan.recommended else ''}. The paper measured networks that classify; for "
        "other networks this is a place to start from."
    )


def size(count: int) -> str:
    """Format bytes as text, such as "1,234.5 MB"."""
    return f"{count / 2**20:,.1f} MB"


def _refusals(plan: "Plan") -> str:
    """Return why candidates are not in the table."""
    reasons = [reason for _, reason in plan.refused]
    more = f" (and {len(reasons) - _MOST_REFUSED} more)" if len(reasons) > _MOST_REFUSED else ""
    return f" Not listed{more}: {'; '.join(reasons[:_MOST_REFUSED])}." if reasons else ""


def _costs(cost: "Cost") -> tuple[str, ...]:
    return (
        f"{cost.parameters:,}",
        f"{cost.flops / 1e9:,.3f}",
        f"{100 * cost.share:.1f}%",
        size(cost.memory),
        size(cost.memory_dense),
    )
