"""How sure a mean is, and whether two settings differ.

Pictures of the same subject are alike, so what is drawn again and again is subjects (groups), not pictures: an
interval over pictures would be far too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 9999
CONFIDENCE = 0.95
SEED = 0


@dataclass(frozen=True)
class Mean:
    """A mean with the ends of its 95 % interval, from `count` values in `groups` groups; ends NaN with one group."""

    mean: float
    low: float
    high: float
    count: int
    groups: int


def _by_group(values: np.ndarray, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each group."""
    names, at = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(at, values, len(names)), np.bincount(at, minlength=len(names)).astype(float)


def _ratio(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
    return sums.sum(axis) / counts.sum(axis)


def mean_of(values: Sequence[float], groups: Sequence[str]) -> Mean:
    """Mean over all values; its interval by the percentile bootstrap over groups (Efron 1979)."""
    array = np.asarray(values, float)
    sums, counts = _by_group(array, groups)
    low = high = float("nan")
    if len(sums) > 1:
        found = stats.bootstrap(
            (sums, counts), _ratio, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile",
            paired=True, vectorized=True, rng=np.random.default_rng(SEED),
        )  # fmt: skip
        low, high = map(float, found.confidence_interval)
    return Mean(float(array.mean()), low, high, len(array), len(sums))


@dataclass(frozen=True)
class Difference:
    """B − A over pairs: its mean with interval, and the p-value of there being none; NaN with one group."""

    mean: Mean
    p: float


def difference_of(a: Sequence[float], b: Sequence[float], groups: Sequence[str]) -> Difference:
    """Paired: the same case and seed under two settings.

    The p-value is that of the paired permutation test: under no difference, the sign of each group's mean difference
    could as well be the other (Fisher's sign flips; exact where all flips can be tried).
    """
    change = np.asarray(b, float) - np.asarray(a, float)
    mean = mean_of(change, groups)
    if mean.groups < 2:
        return Difference(mean, float("nan"))
    sums, counts = _by_group(change, groups)
    test = stats.permutation_test(
        (sums / counts,), lambda x, axis: x.mean(axis), permutation_type="samples", vectorized=True,
        n_resamples=RESAMPLES, rng=np.random.default_rng(SEED),
    )  # fmt: skip
    return Difference(mean, float(test.pvalue))
