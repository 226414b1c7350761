"""Attention layers without an equivalent in torch-nonlocal, recognized so that the error gives the reason."""

from collections.abc import Collection
from typing import NamedTuple


class OtherKind(NamedTuple):
    """A layer that no block of torch-nonlocal computes.

    Attributes:
        name: name and origin of the layer.
        keys: endings of its keys; the layer has all of them.
        reason: why it has no equivalent.
    """

    name: str
    keys: tuple[str, ...]
    reason: str


OTHER_KINDS = (
    OtherKind(
        "criss-cross attention (CCNet) or position attention (DANet)",
        ("query_conv.weight", "key_conv.weight", "value_conv.weight", "gamma"),
        "its values have C channels while queries and keys have C/8, and CCNet's keys are one row and one column only",
    ),
    OtherKind(
        "disentangled non-local (DNL)",
        ("conv_query.weight", "conv_key.weight", "conv_value.weight"),
        "it whitens queries and keys and adds a second, unary attention",
    ),
    OtherKind(
        "compact generalized non-local (CGNL)",
        ("t.weight", "p.weight", "g.weight", "z.weight", "gn.weight"),
        "it compares positions and channels together, in groups",
    ),
    OtherKind(
        "asymmetric non-local (ANN: APNB, AFNB)",
        ("f_key.0.weight", "f_value.weight"),
        "its keys are pooled to a pyramid of several sizes",
    ),
    OtherKind(
        "double attention (A2-Net)",
        ("convA.weight", "convB.weight", "convV.weight"),
        "it gathers with a softmax over positions and distributes with a softmax over channels",
    ),
    OtherKind(
        "global context (GCNet)",
        ("conv_mask.weight", "channel_add_conv.0.weight"),
        "all positions get the same weighted sum, transformed by a small network",
    ),
)


def other_kind(keys: Collection[str]) -> tuple[OtherKind, str] | None:
    """The first such layer among the keys of a file and its name there; None if there is none."""
    for kind in OTHER_KINDS:
        ending = kind.keys[0]
        for key in keys:
            name = key.removesuffix(ending)
            if (name == key) or (name and not name.endswith(".")):
                continue
            if all(f"{name}{part}" in keys for part in kind.keys):
                return kind, name.rstrip(".")
    return None
