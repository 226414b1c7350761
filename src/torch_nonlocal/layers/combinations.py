"""Checks that the options of a block go together."""

from typing import Any

from torch_nonlocal._common.counts import is_count
from torch_nonlocal.functional import Selection
from torch_nonlocal.layers.groups import Groups
from torch_nonlocal.layers.keys import KEYS, Keys


def check_combination(
    *,
    groups: Groups,
    pairwise: str,
    scale: Any,
    normalize: str,
    algorithm: str,
    factors: tuple[int, ...] | None,
    keys: Keys,
    channels: int,
    inner: int | None,
    key_channels: int | None,
    selection: Selection,
    regions: int | None,
) -> None:
    """Check that the options of a block go together.

    Args:
        groups: the options `attend`, `causal`, `windows` and `interlaced`.
        pairwise: the pairwise form.
        scale: the option as it was given.
        normalize: the axis over which weights sum to one.
        algorithm: how the sums are computed.
        factors: the option `subsample`, one factor per axis.
        keys: the option `keys`.
        channels: C.
        inner: the option `inner_channels`.
        key_channels: the channels of another map that keys come from.
        selection: the options `top_k`, `hard` and `temperature`.
        regions: the option `regions`.

    Raises:
        ValueError: if two options do not go together. The message gives the reason.
    """
    if keys not in KEYS:
        raise ValueError(f"keys={keys!r}: expected one of {', '.join(map(repr, KEYS))}")
    if key_channels is not None and (isinstance(key_channels, bool) or key_channels < 1):
        raise ValueError(f"key_channels={key_channels!r}: expected None or at least 1")
    if regions is not None and not is_count(regions):
        raise ValueError(f"regions={regions!r}: expected None or a number of keys, at least 1")
    if selection:
        selection.check_goes_with(pairwise, normalize, causal=groups.causal is not None, algorithm=algorithm)
    attend, top_k = f"attend={groups.attend!r}", selection.top_k
    whole = algorithm in ("auto", "dense")
    rules = [
        # "channel"
        (groups.mixes_channels, pairwise == "concatenation", f"{attend} multiplies channels, which the form "
            "'concatenation' does not: expected 'embedded_gaussian', 'gaussian' or 'dot_product'"),
        (groups.mixes_channels, scale == "sqrt", f"{attend} sums products over positions, whose number is that of the "
            "input, so scale='sqrt' has no width: expected None or a number"),
        (groups.mixes_channels, factors is not None or keys != "pool", f"{attend} multiplies phi with theta position "
            "by position: keys cannot be pooled, expected keys='pool' and subsample=None"),
        (groups.mixes_channels, key_channels is not None, f"{attend} multiplies phi with theta position by position: "
            "keys cannot come from another map, expected key_channels=None"),
        (groups.mixes_channels, pairwise == "gaussian" and inner not in (None, channels), f"{attend} with "
            f"pairwise='gaussian' weighs the {channels} channels of x, so g needs as many: expected "
            f"inner_channels={channels}, got {inner}"),
        (groups.mixes_channels, not whole, f"{attend} builds its small map of channels: expected algorithm='auto' or "
            f"'dense', got {algorithm!r}"),
        # "criss_cross"
        (groups.is_cross, factors is not None or keys != "pool", f"{attend} needs the keys of a row and a column: they "
            "cannot be pooled, expected keys='pool' and subsample=None"),
        (groups.is_cross, normalize == "queries", f"{attend} has weights that sum to one over the keys of each query: "
            "expected normalize='keys'"),
        (groups.is_cross, not whole, f"{attend} has its own algorithm: expected algorithm='auto' or 'dense', got "
            f"{algorithm!r}"),
        # selections
        (groups.is_cross, bool(selection), f"{attend} has its own algorithm, without {selection.text}: expected one of "
            "the two"),
        (regions is not None, groups.is_cross or groups.window_sizes is not None, f"regions={regions} are keys of all "
            f"positions of a group, which attend within {groups.within}: expected one of the two"),
        (regions is not None, groups.mixes_channels, f"regions={regions} selects positions, but {attend} has weights "
            "among channels: expected another attend"),
        (regions is not None, groups.causal, f"regions={regions} selects among the positions of all frames, which is "
            "not causal: expected causal=None"),
        (regions is not None, normalize == "queries", f"regions={regions} leaves keys without weights, but "
            "normalize='queries' gives every key weights that sum to one: expected normalize='keys'"),
        (regions is not None, top_k is not None and top_k > (regions or 0), f"top_k={top_k} selects among "
            f"regions={regions} keys: expected at most {regions}"),
        # keys
        (keys == "stride", factors is None, "keys='stride' needs subsample, the distance of two keys"),
        (keys == "pyramid", factors is not None, "keys='pyramid' has pools of fixed numbers: expected subsample=None"),
        (keys == "pyramid", not groups.image_axes, f"keys='pyramid' pools images: {attend} does not sum over them"),
        (keys == "pyramid", groups.has_windows(groups.image_axes), f"keys='pyramid' pools over whole images: "
            f"windows={groups.window_sizes} divide them, expected None on the image axes"),
        (key_channels is not None, pairwise == "gaussian" and key_channels != channels, "pairwise='gaussian' compares "
            f"the channels of both maps: expected key_channels={channels}, got {key_channels}"),
        # causal
        (groups.causal, normalize == "queries", "normalize='queries' is not causal: sums over queries run over later "
            "frames"),
    ]  # fmt: skip
    for concerns, clashes, reason in rules:
        if concerns and clashes:
            raise ValueError(reason)
    _check_pooled_windows(groups, factors)


def _check_pooled_windows(groups: Groups, factors: tuple[int, ...] | None) -> None:
    for window, factor in zip(groups.window_sizes or (), factors or (), strict=False):
        if window is None or factor == 1:
            continue
        if groups.interlaced:
            raise ValueError(
                f"subsample={factors} pools neighbors, which are in different windows with interlaced=True: expected 1 "
                f"along the axes of windows={groups.window_sizes}"
            )
        if window % factor:
            raise ValueError(
                f"windows={groups.window_sizes}: expected multiples of the factors subsample={factors}, so that no key "
                "belongs to two windows"
            )
