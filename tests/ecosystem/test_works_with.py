"""The page "Works with": every row names tests, and the tests exist."""

import ast
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "works-with.md"


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|") and not line.startswith("|---")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[-1] != "test"]


def test_every_row_names_tests_that_exist() -> None:
    assert len(rows()) > 25
    for tool, _, tests in rows():
        names = tests.replace("`", "").split(", ")
        for name in names:
            file, _, function = name.partition("::")
            path = (HERE / f"{file}.py").resolve()
            assert path.is_file(), f"{tool}: {name}"
            found = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
            assert function in found or (not function and found), f"{tool}: {name}"
