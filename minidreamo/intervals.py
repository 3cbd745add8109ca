"""How sure a score is: intervals over pictures, and how many pictures would tell two models apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

NORMAL = 1.959964
"""Two-sided 95 %."""
DRAWS = 2000


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean: percentiles of the means of pictures drawn again (Efron's bootstrap).

    Args:
        values: one a picture (its mean where it was drawn with several seeds); pictures of different prompts are
            independent, seeds of one prompt are not.
    """
    array = np.asarray(values, float)
    picks = np.random.default_rng(seed).integers(len(array), size=(DRAWS, len(array)))
    low, high = np.percentile(array[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)


def pictures_needed(gap: float, deviation: float) -> float:
    """How many pictures each of two models must draw for a gap between their means to exceed its 95 % interval.

    Args:
        gap: between the means.
        deviation: of one picture's score, the same for both models, whose pictures are independent.

    Returns:
        n with gap = 1.96 · deviation · √(2 / n); infinite where there is no gap.
    """
    return math.inf if gap == 0 else 2 * (NORMAL * deviation / gap) ** 2
