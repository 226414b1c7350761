"""The non-local block, z = W_z y + x, for 1D, 2D and 3D maps (Wang et al., CVPR 2018, eq. 6)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from torch_nonlocal._common.tracing import is_recorded, needs_plain_operations
from torch_nonlocal.functional import Algorithm, Normalize, Pairwise
from torch_nonlocal.layers.block import Block
from torch_nonlocal.layers.groups import Attend, Causal, Groups
from torch_nonlocal.layers.identity import zero_initialized
from torch_nonlocal.layers.layout import Layout, check_layout, from_map
from torch_nonlocal.layers.norm import NormKind, changed_options, zero_norm
from torch_nonlocal.layers.observed import show_observers
from torch_nonlocal.layers.options import SOFTMAX_FORMS, Scale, Subsample, check_options, softmax_scale
from torch_nonlocal.layers.ordinary import is_linear
from torch_nonlocal.layers.projection import apply, linears, project, with_norm
from torch_nonlocal.layers.scores import folded_scores, pair_scores
from torch_nonlocal.layers.small import small_forward
from torch_nonlocal.layers.streamed import stream_of_blocks
from torch_nonlocal.layers.weighted_sum import weighted_sum
from torch_nonlocal.layers.widths import in_channels, out_channels


class NonLocal(Block):
    """Base class of the non-local blocks `NonLocal1d`, `NonLocal2d` and `NonLocal3d`.

    A block adds to each position a weighted sum of the features g at all positions: (B, C, *size) -> (B, C, *size).
    A new block is the identity, since its norm (W_z for norm=None) is initialized to zero.

    Child modules: `theta`, `phi` and `g` are 1x1 convolutions from C to D channels, `out` (W_z) is a 1x1 convolution
    from D to C channels, followed by `norm`. The form "concatenation" also has `score` (w_f), a linear map from 2D
    channels to 1. The form "gaussian" compares x with itself; there, `theta` and `phi` are identities.

    Args:
        channels: number of channels C of the map.
        inner_channels: inner width D. Defaults to C / 2.
        pairwise: pairwise function f, "embedded_gaussian", "gaussian", "dot_product" or "concatenation".
        attend: positions that a position attends to. "spacetime": all positions of all frames. For 3D maps also
            "space": the positions of its frame, and "time": its pixel in every frame.
        causal: "frames" for blocks in which a position attends to its own and to earlier frames only, for video as it
            arrives; None for all frames. The number of keys, by which dot products and concatenations are divided, is
            then the number that the position attends to. 3D maps with attend="spacetime" or "time" only.
        window_frames: with causal="frames", the number of frames that a position attends to, its own included. None for
            all up to its own.
        subsample: max pooling of the keys: one factor for the axes H and W (L for sequences, T for attend="time"), or
            one factor per axis. None uses every position as a key.
        pool_first: pool x before phi and g, as the code of the paper's authors does, instead of the outputs phi(x) and
            g(x), as the paper describes. The results differ for the same weights.
        scale: factor of theta_i . phi_j before the softmax: None for 1 (the paper), "sqrt" for the inner width to the
            power -1/2, or a number. Softmax forms only.
        norm: normalization after W_z: "batch", "group", "layer" or None.
        norm_options: "eps", "momentum" (batch) and "num_groups" (group) of the norm, if they are not the usual ones.
        normalize: axis over which weights sum to one: "keys" for the weights of each query (the paper), "queries" for
            the weights of each key. The dot product is divided by the number of keys or of queries, which differ if
            keys are pooled. Not for the concatenation form.
        algorithm: how the sums are computed. All algorithms give the same result; see `torch_nonlocal.functional` and
            `torch_nonlocal.explain`.
        checkpoint: recompute the block in backward instead of keeping its activations. The norm is not recomputed,
            since this would update its running statistics twice.
        layout: order of the axes of input and output. "channels_first": (B, C, *size). "channels_last":
            (B, *size, C), as in Swin. "tokens": (B, P + N, C), as in ViT, where the last N tokens are the positions of
            `grid`, row by row, and the P tokens before them pass unchanged. "frames": (B * T, C, H, W), as in networks
            that see the frames of a clip as images (TSM). `NonLocal3d` only, with grid=(T,).
        grid: sizes of the map of tokens, such as (14, 14), one per axis of the block, or the number of frames of a
            clip, such as (8,). layout="tokens" and layout="frames" only.
        prefix_tokens: number P of tokens before the map. None accepts any number. layout="tokens" only.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ValueError: if an option has an invalid value.

    Reference: Wang et al., Non-local Neural Networks, CVPR 2018.
    """

    pairwise: Pairwise
    normalize: Normalize
    norm_kind: NormKind | None
    _conv: ClassVar[type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]]
    _pool: ClassVar[type[nn.MaxPool1d] | type[nn.MaxPool2d] | type[nn.MaxPool3d]]

    def __init__(
        self,
        channels: int,
        *,
        inner_channels: int | None = None,
        pairwise: Pairwise = "embedded_gaussian",
        attend: Attend = "spacetime",
        causal: Causal = None,
        window_frames: int | None = None,
        subsample: Subsample = None,
        pool_first: bool = False,
        scale: Scale = None,
        norm: NormKind | None = "batch",
        norm_options: Mapping[str, float] | None = None,
        normalize: Normalize = "keys",
        algorithm: Algorithm = "auto",
        checkpoint: bool = False,
        layout: Layout = "channels_first",
        grid: Sequence[int] | None = None,
        prefix_tokens: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if type(self) is NonLocal:
            raise TypeError("NonLocal is an abstract base class: use NonLocal1d, NonLocal2d or NonLocal3d")
        check_options(channels, inner_channels, pairwise, normalize, algorithm)
        inner = max(channels // 2, 1) if inner_channels is None else inner_channels
        width = channels if pairwise == "gaussian" else inner
        factory: dict[str, Any] = {"device": device, "dtype": dtype}

        self._widths = (channels, inner)  # where the children do not show theirs
        self.pairwise, self.normalize = pairwise, normalize
        self.groups = Groups(attend, self.dims, causal, window_frames)
        if causal and normalize == "queries":
            raise ValueError("normalize='queries' is not causal: sums over queries run over later frames")
        self.subsample = self.groups.pool_factors(subsample)
        self.pool_first, self.norm_kind = pool_first, norm
        self.grid = check_layout(layout, grid, prefix_tokens, self.dims)
        self.layout, self.prefix_tokens = layout, prefix_tokens
        self.algorithm, self.checkpoint = algorithm, checkpoint
        self.scale = softmax_scale(scale, width, pairwise)

        conv = self._conv
        embeds = pairwise != "gaussian"
        self.theta = conv(channels, inner, 1, **factory) if embeds else nn.Identity()
        self.phi = conv(channels, inner, 1, **factory) if embeds else nn.Identity()
        self.g = conv(channels, inner, 1, **factory)
        self.score = nn.Linear(2 * inner, 1, bias=False, **factory) if pairwise == "concatenation" else None
        self.pool = self._pool(self.subsample, self.subsample) if self.subsample else nn.Identity()
        self.out = conv(inner, channels, 1, **factory)
        self.norm = zero_norm(norm, channels, self.dims, norm_options, **factory)
        if norm is None:
            zero_initialized(self.out)
        self._awaits_values = self.g.weight.is_meta

    @property
    def channels(self) -> int:
        """The number of channels C of the map, which the weights determine."""
        return in_channels(self.g, self.dims) or self._widths[0]

    @property
    def inner_channels(self) -> int:
        """The number of channels of g, which the weights determine."""
        return out_channels(self.g, self.dims) or self._widths[1]

    @property
    def embedding_channels(self) -> int:
        """The number of channels of theta and phi, which the weights determine; C in the form "gaussian"."""
        if self.pairwise == "gaussian":
            return self.channels
        return out_channels(self.theta, self.dims) or self._widths[1]

    @property
    def computed(self) -> "NonLocal":
        """What the block computes: its own options."""
        return self

    @property
    def attend(self) -> Attend:
        """The option `attend`."""
        return self.groups.attend

    @property
    def causal(self) -> Causal:
        """The option `causal`."""
        return self.groups.causal

    @property
    def window_frames(self) -> int | None:
        """The option `window_frames`."""
        return self.groups.window_frames

    @property
    def config(self) -> dict[str, Any]:
        """The options as JSON values; `type(block)(**block.config)` creates an equal block.

        Raises:
            ValueError: if no options describe the block, since theta and phi were pruned to another width than g.
        """
        if self.pairwise != "gaussian" and self.embedding_channels != self.inner_channels:
            raise ValueError(
                f"{type(self).__name__}: theta and phi have {self.embedding_channels} channels and g has "
                f"{self.inner_channels}; options describe only blocks with one inner width"
            )
        causal = {"causal": self.causal, "window_frames": self.window_frames} if self.causal else {}
        return {
            "channels": self.channels,
            "inner_channels": self.inner_channels,
            "pairwise": self.pairwise,
            "attend": self.attend,
            "subsample": list(self.subsample) if self.subsample else None,
            "pool_first": self.pool_first,
            "scale": self.scale if self.pairwise in SOFTMAX_FORMS else None,
            "norm": None if isinstance(self.norm, nn.Identity) else self.norm_kind,
            "norm_options": changed_options(self.norm),
            "normalize": self.normalize,
            "algorithm": self.algorithm,
            "checkpoint": self.checkpoint,
            "layout": self.layout,
            "grid": list(self.grid) if self.grid else None,
            "prefix_tokens": self.prefix_tokens,
            **causal,  # files of blocks that are not causal can be read by earlier versions
        }

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to a map (B, C, *size), or to a tensor in its `layout`. The shape does not change.

        Raises:
            ValueError: if the number of axes or channels is wrong, or the map is smaller than the pooling factors.
        """
        if (small := small_forward(self, x)) is not None:
            return small
        self._check_input(x)
        return x + from_map(self._update(self.to_map(x)), self.layout, x)

    def _update(self, x: Tensor) -> Tensor:
        """Return what the block adds to a map (B, C, *size)."""
        if self.checkpoint and self.training and torch.is_grad_enabled():
            expanded = recompute(lambda x: self._expanded(self._response(x)), x, use_reentrant=False)
            return self.norm(expanded)
        y = self._response(x)
        folded = None if needs_plain_operations(x) else with_norm(self.out, self.norm, y)
        if folded is None:
            return self.norm(self._expanded(y))
        return apply(y, [folded])[0]

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return theta (B', N, D), phi (B', M, D) and g (B', M, V) of a map (B, C, *size).

        B' is the batch size times the number of groups.
        """
        if self.pool_first:
            (theta,), (phi, g) = project(x, [self.theta]), project(self.pool(x), [self.phi, self.g])
        else:
            theta, phi, g = project(x, [self.theta, self.phi, self.g])
            phi, g = self.pool(phi), self.pool(g)
        return self.groups.to_positions(theta), self.groups.to_positions(phi), self.groups.to_positions(g)

    def _expanded(self, y: Tensor) -> Tensor:
        """Return W_z y, the input of the norm: (B, C, *size)."""
        return project(y, [self.out], contiguous=True)[0]

    def _response(self, x: Tensor) -> Tensor:
        """Return y as a map (B, V, *size)."""
        folded = self._folded_scores(x)
        query, key, g_BMV = self._operands(x) if folded is None else folded
        attending = stream_of_blocks()
        if attending is None:
            show_observers(self, self, x, None if folded is not None else (query, key))
            y_BNV = self._weighted_sum(query, key, g_BMV, x.shape[2] if self.causal else None)
        else:
            y_BNV = attending(self, query, key, g_BMV, x.shape[2:])
        y = self.groups.to_map(y_BNV, x.shape[2:])
        if needs_plain_operations(x) or x.shape[0] == 1 or not x.is_contiguous():
            return y
        return y.contiguous()  # `out` convolves batches, in the memory order of its input

    def _operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return theta, phi and g of a map (B, C, *size), or a, b and g in the concatenation form."""
        theta_BND, phi_BMD, g_BMV = self.embed(x)
        if self.pairwise != "concatenation":
            return theta_BND, phi_BMD, g_BMV
        return *self.scores(theta_BND, phi_BMD, groups=self.groups.count(x.shape[2:])), g_BMV

    def _folded_scores(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return a, b and g of the concatenation form, with w_f folded into theta and phi: one channel each, not D.

        None if the result would differ, since phi is pooled before w_f, or if the modules are not ordinary.
        """
        if self.score is None or needs_plain_operations(x) or (self.subsample and not self.pool_first):
            return None
        plain = linears([self.theta, self.phi, self.g], x)
        if plain is None or not is_linear(self.score, x):
            return None
        theta, phi, g = plain
        a, b = folded_scores(self.score, theta, phi)
        if self.subsample:
            (a_map,), (b_map, g_map) = apply(x, [a]), apply(self.pool(x), [b, g])
        else:
            a_map, b_map, g_map = apply(x, [a, b, g])
        a_BN1, b_BM1, g_BMV = map(self.groups.to_positions, (a_map, b_map, g_map))
        return a_BN1.squeeze(2), b_BM1.squeeze(2), g_BMV

    def respond(
        self, theta_BND: Tensor, phi_BMD: Tensor, g_BMV: Tensor, *, groups: int = 1, frames: int | None = None
    ) -> Tensor:
        """Return the weighted sums y (B', N, V) of eq. 1.

        Args:
            theta_BND: queries, (B', N, D).
            phi_BMD: keys, (B', M, D).
            g_BMV: values, (B', M, V).
            groups: as for `scores`.
            frames: the number of frames of the positions, for causal="frames" only.

        Raises:
            ValueError: if the block is causal and `frames` is not given, or the other way around.
        """
        if (frames is None) == (self.causal is not None):
            needed = "the number of frames" if self.causal else "None"
            raise ValueError(f"frames={frames!r}: expected {needed} for causal={self.causal!r}")
        if self.pairwise == "concatenation":
            return self._weighted_sum(*self.scores(theta_BND, phi_BMD, groups=groups), g_BMV, frames)
        return self._weighted_sum(theta_BND, phi_BMD, g_BMV, frames)

    def _weighted_sum(self, query: Tensor, key: Tensor, g_BMV: Tensor, frames: int | None) -> Tensor:
        return weighted_sum(self, query, key, g_BMV, frames, self.algorithm)

    def scores(self, theta_BND: Tensor, phi_BMD: Tensor, *, groups: int = 1) -> tuple[Tensor, Tensor]:
        """Return a_i = w_theta . theta_i (B', N) and b_j = w_phi . phi_j (B', M), where w_f = [w_theta, w_phi].

        Args:
            theta_BND: queries, (B', N, D).
            phi_BMD: keys, (B', M, D).
            groups: groups per batch item, B' / B. A `score` that is not an ordinary linear layer is called once, with
                one row per batch item.

        Raises:
            ValueError: if the form is not "concatenation".
        """
        if self.score is None:
            raise ValueError(f"pairwise={self.pairwise!r} has no scores: expected 'concatenation'")
        return pair_scores(self.score, theta_BND, phi_BMD, groups)

    def _last(self) -> nn.Module:
        """The module whose zero parameters make the block the identity: the norm, or W_z where there is none."""
        return self.out if next(self.norm.parameters(), None) is None else self.norm

    def extra_repr(self) -> str:
        """Return the options that the child modules do not show."""
        shown: dict[str, Any] = {
            "pairwise": self.pairwise,
            "attend": self.attend,
            "scale": self.scale,
            "normalize": self.normalize,
        }
        if self.causal:
            shown |= {"causal": self.causal, "window_frames": self.window_frames}
        if self.layout != "channels_first":
            shown["layout"] = self.layout
        if self.grid is not None:
            shown |= {"grid": self.grid, "prefix_tokens": self.prefix_tokens}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())

    def _check_input(self, x: Tensor) -> None:
        if is_recorded(x):
            return
        size = self.map_shape(x.shape)[2:]
        if self.subsample and any(one < factor for one, factor in zip(size, self.subsample, strict=True)):
            raise ValueError(
                f"{type(self).__name__}: a map of size {tuple(size)} is smaller than the pooling factors "
                f"{self.subsample} of the keys"
            )


class NonLocal1d(NonLocal):
    """Non-local block for sequences (B, C, L). `NonLocal` describes the options."""

    dims = 1
    _conv, _pool = nn.Conv1d, nn.MaxPool1d


class NonLocal2d(NonLocal):
    """Non-local block for images (B, C, H, W). `NonLocal` describes the options."""

    dims = 2
    _conv, _pool = nn.Conv2d, nn.MaxPool2d


class NonLocal3d(NonLocal):
    """Non-local block for clips (B, C, T, H, W). `NonLocal` describes the options."""

    dims = 3
    _conv, _pool = nn.Conv3d, nn.MaxPool3d
