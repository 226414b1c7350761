"""Error messages for derivatives that the fast algorithms do not have."""

from typing import Any

ONLY_DENSE = "use algorithm='dense', which consists of ordinary PyTorch operations"


def refuse_second_derivative(backward_op: Any) -> None:
    """Register an autograd formula for a backward operator that raises NotImplementedError."""

    def setup(ctx, inputs, output):
        pass

    def refuse(ctx, *_):
        raise NotImplementedError(f"this algorithm of the non-local operation has no double backward: {ONLY_DENSE}")

    backward_op.register_autograd(refuse, setup_context=setup)
