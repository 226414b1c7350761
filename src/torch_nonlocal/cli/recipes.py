"""Recipes and settings as plain text, at most 80 columns wide."""

from collections.abc import Mapping
from typing import Any

from torch_nonlocal.tasks.base import Recipe

_WIDTHS = (28, 10, 7, 15, 8, 12)
_HALF = 39  # width of a setting in a row of two
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
