"""Recipes and settings as plain text, at most 80 columns wide."""

from collections.abc import Mapping
from typing import Any

from torch_nonlocal.tasks.base import Recipe

_WIDTHS = (28, 10, 7, 15, 8, 12)
_HEADER = ("recipe", "frames", "batch", "length", "lr", "published")


def recipe_lines(recipes: Mapping[str, Recipe[Any]]) -> list[str]:
    """A table of recipes, one per line, under a heading for each source."""
    lines, source = [_row(_HEADER)], None
    for name, recipe in recipes.items():
        config = recipe.config
        if recipe.source != source:
            source = recipe.source
            lines += ["", source]
        length = f"{config.epochs} epochs" if config.epochs else f"{config.steps:,} steps"
        frames = str(getattr(recipe.settings, "frames", ""))
        lines.append(_row((f"  {name}", frames, str(config.batch_size), length, f"{config.lr:g}", recipe.published)))
    return lines


def setting_lines(values: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """A table of settings under the names of their options; a changed one shows the recipe's value beside it."""
    lines = []
    for name, value in values.items():
        changed = f"  (recipe: {_text(recipe[name])})" if value != recipe[name] else ""
        lines.append(f"  {name.replace('_', '-'):<20}{_text(value)}{changed}")
    return lines


def _row(texts: tuple[str, ...]) -> str:
    return "".join(text.ljust(width) for text, width in zip(texts, _WIDTHS, strict=True)).rstrip()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)
