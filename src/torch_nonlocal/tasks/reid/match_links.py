"""What supports a match: the positions of a clip that its similarity to another tracklet comes from, and their links.

The embedding is a weighted mean of the embeddings of the positions of the last map: the pool is a weighted mean, and
the batch norm after it is affine in eval mode. So the cosine similarity with a match is exactly a sum over positions,

    cos(e, m) = sum over p of w_p (e_p . m) / (|e| |m|),

with the weight w_p of position p in the pool and e_p, the batch norm of its features (as class activation maps, Zhou et
al., CVPR 2016, with the match in place of the weights of a class). The links are those of the last block that changes
its input, from the position after it that contributes most to the similarity by gradient times activation; see
`attention_picture`.

Shapes: B clips, C channels, T frames, H height, W width, E embedding width; T', H', W' of the last map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from torch_nonlocal.models.tracklet_net import TrackletNet
from torch_nonlocal.tasks.attention_picture import Look, ends_of, look_at, shown_links, stacked

_ARROWS, _FEW_FRAMES, _ALPHA = 12, 8, 0.8


@dataclass(frozen=True)
class Support:
    """What supports the similarity of two clips.

    Attributes:
        similarity: cosine similarity of their embeddings.
        query: (T', H', W') float64, contributions of the positions of the query; their sum is the similarity.
        match: likewise of the match.
        look: links of a block within the query; None if there are none.
        note: the reason if there are none; "" otherwise.
    """

    similarity: float
    query: Tensor
    match: Tensor
    look: Look | None
    note: str


def support(network: TrackletNet, query_BCTHW: Tensor, match_BCTHW: Tensor) -> Support:
    """What supports the similarity of two clips.

    Args:
        network: in eval mode; it does not change.
        query_BCTHW: the network's input, B = 1.
        match_BCTHW: likewise; it may have another number of frames.
    """
    with torch.no_grad():
        query_E, match_E = network(query_BCTHW)[0], network(match_BCTHW)[0]
    parts_THW = contributions(network, query_BCTHW, match_E)
    look, note = look_at(network, query_BCTHW, lambda output_BE: cosine_similarity(output_BE[0], match_E, dim=0))
    return Support(float(parts_THW.sum()), parts_THW, contributions(network, match_BCTHW, query_E), look, note)


@torch.no_grad()
def contributions(network: TrackletNet, clip_BCTHW: Tensor, other_E: Tensor) -> Tensor:
    """The contribution of each position of the last map to the cosine similarity of a clip and another embedding.

    Args:
        network: in eval mode.
        clip_BCTHW: the network's input, B = 1.
        other_E: the other embedding, of any length.

    Returns:
        (T', H', W') float64 on the CPU; its sum is the similarity.
    """
    map_BCTHW = network.backbone(clip_BCTHW)
    weights_N = network.pool.weights(map_BCTHW)[0].flatten().double().cpu()
    positions_NE = network.neck(map_BCTHW[0].flatten(1).T).double().cpu()
    other_E = other_E.detach().double().cpu()
    embedding_E = weights_N @ positions_NE
    parts_N = weights_N * (positions_NE @ other_E) / (embedding_E.norm() * other_E.norm())
    return parts_N.reshape(map_BCTHW.shape[-3:])


@dataclass(frozen=True)
class ShownClip:
    """A clip to draw.

    Attributes:
        clip: (T, H, W, 3) uint8.
        frames: numbers of its frames in the tracklet.
    """

    clip: Any
    frames: Sequence[int]


def match_picture(query: ShownClip, match: ShownClip, found: Support, lines: Sequence[str]) -> Any:
    """Draw what supports a match: where the similarity comes from in both clips, and the links within the query.

    Colors show contributions times their number: the mean over all cells is the similarity. Both clips have one color
    scale: red is positive, blue negative.

    Args:
        query: the clip of the query.
        match: the clip of the match.
        found: what supports the match.
        lines: lines of text above the frames, the first two in bold.

    Returns:
        An RGB PIL image.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from torch_nonlocal import view

    parts = [(one * one.numel()).numpy() for one in (found.query, found.match)]
    most = max(float(abs(part).max()) for part in parts) or 1.0
    figures = []
    for name, one, part in (("query", query, parts[0]), ("match", match, parts[1])):
        options = {**_options(one), "title": f"{name}: contribution of each position to the similarity", "caption": ""}
        style: dict[str, Any] = {"vmax": most, "signed": True, "alpha": _ALPHA, "quantity": "contribution"}
        figures.append(view.heatmap(one.clip, part, **style, **options).figure)
    if found.look is not None:
        links = shown_links(found.look)[0]
        title = f"query: strongest links of block {found.look.record.name} to {ends_of(found.look)}"
        caption = "ring: the position after the block that supports the match most"
        options = {**_options(query), "title": title, "caption": caption}
        figures.append(view.arrows(query.clip, links, k=_ARROWS, **options).figure)
    return stacked([*lines, *([found.note] if found.note else [])], figures)


def _options(one: ShownClip) -> dict[str, Any]:
    """Frames and their labels: all frames of a short clip; of a long one, the drawing chooses."""
    labels = [f"frame {number}" for number in one.frames]
    return {"frames": range(len(one.clip)) if len(one.clip) <= _FEW_FRAMES else None, "labels": labels}
