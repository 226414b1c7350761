"""The versions and hashes that CI installs match pyproject.toml and constraints.txt."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pinned(file: str) -> dict[str, str]:
    """Versions by normalized name; every entry of the file must be one exact version with hashes."""
    text = (ROOT / file).read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            entry = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", line)
            assert entry, line
            found[normalized(entry[1])] = entry[2]
    return found


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_ci_installs_a_version_of_every_requirement_within_its_range() -> None:
    packaging = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    versions = pinned("requirements/ci.txt")
    extras = project["project"]["optional-dependencies"]
    lists = [project["project"]["dependencies"], project["build-system"]["requires"], *extras.values()]
    required = [packaging.Requirement(line) for lines in lists for line in lines]
    for one in required:
        name = normalized(one.name)
        if name != "torch-nonlocal" and (one.marker is None or one.marker.evaluate()):
            assert name in versions, f"{one}: not in requirements/ci.txt; run `make lock`"
            assert one.specifier.contains(versions[name]), f"{one}: {versions[name]}; run `make lock`"
    assert len(versions) > len(required) / 2


def test_constraints_and_hashes_name_the_same_versions() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    versions = pinned("requirements/ci.txt")
    assert {name: versions[normalized(name)] for name, _, _ in (line.partition("==") for line in lines)} == dict(
        line.split("==") for line in lines
    )


def test_tools_of_ci_are_pinned_with_hashes() -> None:
    assert {"pip-audit", "pip-tools"} <= set(pinned("requirements/tools.txt"))
