"""Errors that end a run. Each leaves the last checkpoint intact, and its message names what to change."""


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient is NaN or infinite.

    Attributes:
        step: the step that failed, counted from 1.
        items: names of the items in its batch.
    """

    def __init__(self, message: str, *, step: int, items: list[str]) -> None:
        super().__init__(message)
        self.step = step
        self.items = items


class TrainingMemoryError(RuntimeError):
    """Out of memory; the message names the options to lower."""


class CheckpointError(OSError):
    """A checkpoint cannot be written, usually because the disk is full; the previous one is intact."""


class RunLengthError(ValueError):
    """The folder holds a run of another number of steps.

    Attributes:
        can_extend: whether the run can be extended to the given number of steps.
    """

    def __init__(self, message: str, *, can_extend: bool) -> None:
        super().__init__(message)
        self.can_extend = can_extend
