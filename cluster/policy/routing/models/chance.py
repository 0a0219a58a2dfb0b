"""From one draw to one of several models, so that the probability of what happened is known exactly."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def check_draw(draw: float) -> None:
    """Raises ValueError unless the draw lies in [0, 1)."""
    if not 0 <= draw < 1:
        raise ValueError(f"a draw lies in [0, 1), not {draw}")


def drawn(probabilities: Sequence[float] | NDArray[np.float64], draw: float) -> int:
    """The index whose stretch of the cumulated probabilities holds the draw."""
    reached = 0.0
    last = 0
    for index, probability in enumerate(probabilities):
        if probability > 0:
            reached += float(probability)
            last = index
            if draw < reached:
                return index
    return last  # the sum fell short of one by rounding


def with_uniform_share(probabilities: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """A share of the chance spread evenly, the rest as it was."""
    return (1 - share) * probabilities + share / len(probabilities)
