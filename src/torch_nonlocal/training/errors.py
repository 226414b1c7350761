"""What ends a run, each with what to do about it. All of them leave the last checkpoint as it was."""


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient became NaN or infinite.

    Attributes:
        step: the update that would have been next, counted from 1.
        clips: names of the clips in the batch.
    """

    def __init__(self, message: str, *, step: int, clips: list[str]) -> None:
        super().__init__(message)
        self.step = step
        self.clips = clips


class TrainingMemoryError(RuntimeError):
    """The device's memory does not hold the step; the message names the settings to lower."""


class CheckpointError(OSError):
    """A checkpoint could not be written, usually because the disk is full; the one before is intact."""
