"""Groups against their definition written out position by position, and that no other file has rules of `attend`."""

import ast
import json
import math
import re
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
import torch

import torch_nonlocal as nl
from torch_nonlocal.layers import groups as module
from torch_nonlocal.layers.groups import ATTEND, Attend, Groups, flat_index

SOURCE = Path(nl.__file__).parent
GRID = (3, 4, 5)

SEES = {  # whether a position attends to another, by their points
    "spacetime": lambda here, there: True,
    "space": lambda here, there: here[0] == there[0],
    "time": lambda here, there: here[1:] == there[1:],
    "line": lambda here, there: here[:2] == there[:2],
    "column of all frames": lambda here, there: here[2] == there[2],
    "line of all frames": lambda here, there: here[1] == there[1],
}
OTHERS = {  # options that the package does not have: the class holds for any axes
    "line": module._Option((2,), "its line"),
    "column of all frames": module._Option((0, 1), "its column"),
    "line of all frames": module._Option((0, 2), "its line in every frame"),
}
CASES = [(attend, GRID) for attend in SEES] + [("spacetime", (4, 5)), ("spacetime", (7,)), ("time", (1, 2, 3))]


@pytest.fixture(autouse=True)
def further_options(monkeypatch):
    for name, option in OTHERS.items():
        monkeypatch.setitem(module._OPTIONS, name, option)


def points(grid):
    return list(product(*map(range, grid)))


def members(attend, here, grid):
    """The points that a point attends to, in raster order."""
    return [there for there in points(grid) if SEES[attend](here, there)]


@pytest.mark.parametrize(("attend", "grid"), CASES)
def test_each_position_shares_a_group_with_the_positions_it_attends_to(attend, grid):
    groups = Groups(attend, len(grid))
    flat = torch.arange(math.prod(grid)).view(grid)
    table = groups.flat_indices(grid).tolist()
    assert sorted(index for row in table for index in row) == list(range(math.prod(grid)))
    assert (len(table), len(table[0])) == (groups.count(grid), groups.size(grid))
    for here in points(grid):
        expected = [flat_index(there, grid) for there in members(attend, here, grid)]
        group, number = groups.locate(here, grid)
        assert table[group] == expected
        assert table[group][number] == flat_index(here, grid) == int(flat[here])
        assert flat[groups.part(group, grid)].flatten().tolist() == expected
        assert groups.part_of(here) == groups.part(group, grid)


@pytest.mark.parametrize(("attend", "grid"), CASES)
def test_the_layout_for_the_page_lists_the_same_positions(attend, grid):
    layout = json.loads(json.dumps(Groups(attend, len(grid)).layout(grid)))
    steps = [[step * i for i in range(count)] for step, count in zip(layout["steps"], layout["counts"], strict=True)]
    for here in points(grid):
        first = sum(index * stride for index, stride in zip(here, layout["first"], strict=True))
        found = [first + sum(offsets) for offsets in product(*steps)]
        assert found == [flat_index(there, grid) for there in members(attend, here, grid)]


@pytest.mark.parametrize(("attend", "grid"), CASES)
def test_maps_are_split_into_groups_of_one_batch_item_and_joined_again(attend, grid):
    groups = Groups(attend, len(grid))
    maps = torch.arange(2 * 3 * math.prod(grid)).view(2, 3, *grid)
    positions = groups.to_positions(maps)
    assert positions.shape == (2 * groups.count(grid), groups.size(grid), 3)
    for batch, here in product(range(2), points(grid)):
        group, number = groups.locate(here, grid)
        assert (
            positions[batch * groups.count(grid) + group, number].tolist() == maps[(batch, slice(None), *here)].tolist()
        )
    assert torch.equal(groups.to_map(positions, grid), maps)


@pytest.mark.parametrize(("attend", "grid"), CASES)
def test_frames_of_a_group(attend, grid):
    groups = Groups(attend, len(grid))
    here = points(grid)[-1]
    seen = members(attend, here, grid)
    frames = {there[0] for there in seen} if len(grid) == 3 else {0}
    assert groups.spans_time == (len(grid) == 3 and attend != "space" and attend != "line")
    assert groups.frame_size(grid) == len(seen) // len(frames)
    if len(grid) == 3:
        assert len(frames) == (grid[0] if groups.spans_time else 1)
        assert [there[0] for there in seen] == sorted(there[0] for there in seen)
    assert math.prod(groups.shape(grid)) == len(seen)


@pytest.mark.parametrize(
    ("attend", "dims", "subsample", "factors"),
    [
        ("spacetime", 3, 2, (1, 2, 2)),
        ("spacetime", 2, 2, (2, 2)),
        ("spacetime", 1, 3, (3,)),
        ("space", 3, 2, (1, 2, 2)),
        ("time", 3, 2, (2, 1, 1)),
        ("line", 3, 2, (1, 1, 2)),
        ("spacetime", 3, [2, 1, 3], (2, 1, 3)),
        ("spacetime", 3, 1, None),
        ("spacetime", 3, (1, 1, 1), None),
        ("spacetime", 3, None, None),
    ],
)
def test_pool_factors_lie_on_the_axes_of_the_sum(attend, dims, subsample, factors):
    assert Groups(attend, dims).pool_factors(subsample) == factors


@pytest.mark.parametrize(
    ("attend", "subsample"), [("space", (2, 1, 1)), ("time", (1, 2, 1)), ("line", (1, 2, 2)), ("time", (2, 1, 2))]
)
def test_an_axis_that_numbers_groups_cannot_be_pooled(attend, subsample):
    with pytest.raises(ValueError, match="does not sum over a pooled axis"):
        Groups(attend, 3).pool_factors(subsample)


def test_options_are_those_of_the_type(monkeypatch):
    monkeypatch.undo()
    assert tuple(module._OPTIONS) == ATTEND == get_args(Attend)
    with pytest.raises(ValueError, match="attend='channels': expected one of 'spacetime', 'space', 'time'"):
        Groups("channels", 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="attend='space' needs a clip"):
        Groups("space", 2)


@pytest.mark.parametrize("attend", list(OTHERS))
@torch.no_grad()
def test_another_option_is_an_edit_in_one_file(attend, tmp_path):
    for package in ("matplotlib", "jinja2", "PIL"):
        pytest.importorskip(package, reason="pip install 'torch-nonlocal[view]'")
    torch.manual_seed(0)
    block = nl.NonLocal3d(4, attend=attend, norm=None, dtype=torch.float64).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, 4, *GRID, dtype=torch.float64)
    with nl.watch(block) as seen:
        y = block(x)
    theta, phi, g = (layer(x)[0].flatten(1).T for layer in (block.theta, block.phi, block.g))
    mask = torch.tensor([[SEES[attend](here, there) for there in points(GRID)] for here in points(GRID)])
    weights = torch.softmax((theta @ phi.T).masked_fill(~mask, -math.inf), dim=1)
    expected = x + block.out((weights @ g).T.reshape(1, -1, *GRID))
    torch.testing.assert_close(y, expected)

    record = seen[""]
    torch.testing.assert_close(record.rows(points(GRID)).flatten(1), weights)
    best = weights.max(1)
    torch.testing.assert_close(record.strongest(1).weights[:, 0], best.values)
    share = (weights * torch.tensor([[a[0] == b[0] for b in points(GRID)] for a in points(GRID)])).sum(1).mean()
    assert record.statistics().on_own_frame == pytest.approx(float(share), abs=1e-6)
    assert f"N = {int(mask[0].sum())} queries" in nl.explain(block, x.shape)

    page = nl.view.save_page(tmp_path / "page.html", torch.rand(3, 8, 10, 1), seen).read_text()
    assert f'"within":"{OTHERS[attend].within}"' in re.sub(r"\s*([:,])\s*", r"\1", page)


def test_no_other_file_compares_options_of_attend():
    names = set(ATTEND)
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        if path == Path(module.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare | ast.MatchValue):
                used = {one.value for one in ast.walk(node) if isinstance(one, ast.Constant)}
            elif isinstance(node, ast.Dict):
                keys = {one.value for one in node.keys if isinstance(one, ast.Constant)}
                used = keys if len(keys & names) > 1 else set()
            else:
                continue
            if used & names:
                found.append(f"{path.relative_to(SOURCE)}:{node.lineno}")
    for path in sorted(SOURCE.rglob("*.js")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(rf"""["'`]({"|".join(names)})["'`]""", line):
                found.append(f"{path.relative_to(SOURCE)}:{number}")
    assert found == []
