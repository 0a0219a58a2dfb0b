"""How many made-up inputs a property is tried on: all of them, or a part in the fast loop.

`make check` loads the profile `fast` of Hypothesis, whose number of examples says how large the part is.
"""

from hypothesis import settings

_WHOLE = 100
_FEWEST = 10


def examples(count: int) -> int:
    """This many where all are tried; under the profile `fast` a quarter, but ten if there are that many."""
    part = count * settings().max_examples // _WHOLE
    return max(min(count, _FEWEST), part)
