"""Recipes and settings as plain text, at most 80 columns wide."""

from collections.abc import Mapping
from typing import Any

from torch_nonlocal.tasks.base import Recipe

_WIDTHS = {"recipe": 28, "frames": 10, "batch": 7, "length": 15, "lr": 8, "published": 12}
_HALF = 39  # width of a setting in a row of two


def recipe_lines(recipes: Mapping[str, Recipe[Any]]) -> list[str]:
    """A table of recipes, one per line, under a heading for each source; frames only for tasks that have them."""
    titles = [one for one in _WIDTHS if one != "frames" or any(_frames(recipe) for recipe in recipes.values())]
    lines, source = [_row({title: title for title in titles})], None
    for name, recipe in recipes.items():
        config = recipe.config
        if recipe.source != source:
            source = recipe.source
            lines += ["", source]
        length = f"{config.epochs} epochs" if config.epochs else f"{config.steps:,} steps"
        cells = {
            "recipe": f"  {name}",
            "frames": _frames(recipe),
            "batch": str(config.batch_size),
            "length": length,
            "lr": f"{config.lr:g}",
            "published": recipe.published,
        }
        lines.append(_row({title: cells[title] for title in titles}))
    return lines


def setting_lines(values: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """A table of settings under the names of their options, two in a row.

    A changed setting has a row of its own, with the recipe's value.
    """
    lines, waiting = [], ""
    for name, value in values.items():
        changed = f"  (recipe: {_text(recipe[name])})" if value != recipe[name] else ""
        cell = f"{name.replace('_', '-'):<20}{_text(value)}{changed}"
        if changed or len(cell) >= _HALF:
            lines += [f"  {waiting}".rstrip()] if waiting else []
            lines.append(f"  {cell}")
            waiting = ""
        elif waiting:
            lines.append(f"  {waiting.ljust(_HALF)}{cell}")
            waiting = ""
        else:
            waiting = cell
    return [*lines, f"  {waiting}"] if waiting else lines


def _frames(recipe: Recipe[Any]) -> str:
    return str(getattr(recipe.settings, "frames", ""))


def _row(cells: Mapping[str, str]) -> str:
    return "".join(text.ljust(_WIDTHS[title]) for title, text in cells.items()).rstrip()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)
