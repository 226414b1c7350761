"""Networks that are causal over frames, run on a video as it arrives."""

from torch_nonlocal.streaming.stream import Step, stream

__all__ = ["Step", "stream"]
