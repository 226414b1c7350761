"""Selection of keys: which of its softmax weights a query keeps.

| selection      | weights of a query                    | gradient of theta and phi                             |
|----------------|---------------------------------------|-------------------------------------------------------|
| none (soft)    | softmax over all keys                 | exact                                                 |
| top_k=k        | softmax over its k largest logits     | exact; zero for keys that are not selected            |
| hard=True      | 1 for its largest logit, 0 for others | straight-through: of softmax(logits / temperature)    |
| hard="gumbel"  | the same for logits + Gumbel noise    | the same, with the noise                              |

The gradient of g is exact in all of them. Gumbel noise draws a key with the probability of its soft weight, that of
softmax(logits) for any temperature (Jang et al., Categorical Reparameterization with Gumbel-Softmax, ICLR 2017).
"""

import math
from dataclasses import dataclass
from typing import Literal

from torch_nonlocal._common.counts import is_count

Hard = bool | Literal["gumbel"]
"""False for soft weights, True for one key per query, "gumbel" for one key that is drawn."""


@dataclass(frozen=True)
class Selection:
    """Which of its softmax weights a query keeps.

    Args:
        top_k: number of keys of a query; None for all, or for one with `hard`.
        hard: whether a query has one key, of weight 1.
        temperature: divisor of the logits in the gradient of a hard selection.

    Raises:
        ValueError: if an option has an invalid value, or does not go with another.
    """

    top_k: int | None = None
    hard: Hard = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.hard not in (False, True, "gumbel") or (isinstance(self.hard, int) and not isinstance(self.hard, bool)):
            raise ValueError(f"hard={self.hard!r}: expected False, True or 'gumbel'")
        if self.top_k is not None and not is_count(self.top_k):
            raise ValueError(f"top_k={self.top_k!r}: expected None or a number of keys, at least 1")
        given = self.temperature
        number = isinstance(given, int | float) and not isinstance(given, bool)
        if not number or not 0 < given < math.inf:
            raise ValueError(f"temperature={given!r}: expected a finite number above 0")
        if self.hard and self.top_k is not None:
            raise ValueError(
                f"top_k={self.top_k} and hard={self.hard!r} exclude each other: a hard selection keeps one key; "
                "expected one of the two"
            )
        if not self.hard and given != 1:
            raise ValueError(
                f"temperature={given!r} applies to hard=True and hard='gumbel'; soft weights have scale, the inverse "
                "of a temperature"
            )

    def __bool__(self) -> bool:
        """Whether it selects, which soft weights do not."""
        return self.top_k is not None or bool(self.hard)

    @property
    def text(self) -> str:
        """The options as a user writes them, such as "top_k=8"."""
        return f"top_k={self.top_k}" if self.top_k is not None else f"hard={self.hard!r}"

    def check_goes_with(self, pairwise: str, normalize: str, *, causal: bool, algorithm: str) -> None:
        """Raise ValueError, with the reason, for a combination that makes no sense or is not supported."""
        if pairwise in ("dot_product", "concatenation"):
            raise ValueError(
                f"{self.text} selects softmax weights; pairwise={pairwise!r} has weights that do not sum to one, "
                "so that nothing can be renormalized; expected 'embedded_gaussian' or 'gaussian'"
            )
        if normalize == "queries":
            raise ValueError(
                f"{self.text} selects keys of each query, but normalize='queries' normalizes the weights of each key; "
                "expected normalize='keys'"
            )
        if causal:
            raise ValueError(
                f"{self.text} selects among all keys; with causal frames, the first ones may have fewer keys than "
                "are selected. Expected one of the two"
            )
        if algorithm not in ("auto", "dense", "tiled"):
            raise ValueError(f"algorithm={algorithm!r} does not support {self.text}; 'auto', 'dense' and 'tiled' do")

    def check_keys(self, keys: int) -> None:
        """Raise ValueError if there are fewer keys than are selected."""
        if self.top_k is not None and self.top_k > keys:
            raise ValueError(f"top_k={self.top_k}: expected at most the number of keys, M = {keys}")


SOFT = Selection()
"""All keys."""


def selection_of(top_k: int | None, hard: Hard, temperature: float) -> Selection:
    """Return the selection of the options of a form."""
    if top_k is None and hard is False and temperature == 1.0:
        return SOFT
    return Selection(top_k, hard, temperature)
