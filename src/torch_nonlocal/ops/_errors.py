"""What the fast algorithms cannot differentiate, said clearly."""

from typing import Any

ONLY_DENSE = "pass algorithm='dense' (the definition, made of ordinary operations) where you need it"


def refuse_second_derivative(backward_op: Any) -> None:
    """Give a backward operator an autograd formula that says which algorithm has second derivatives."""

    def setup(ctx, inputs, output):
        pass

    def refuse(ctx, *_):
        raise NotImplementedError(f"this algorithm of the non-local operation has no double backward; {ONLY_DENSE}")

    backward_op.register_autograd(refuse, setup_context=setup)
