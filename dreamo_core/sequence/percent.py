"""Parts of sampling, given in percent as everywhere in the host."""

from __future__ import annotations

from collections.abc import Callable


def in_range(
    sigma: float, start_percent: float, end_percent: float, percent_to_sigma: Callable[[float], float]
) -> bool:
    """Whether a noise level lies between two percentages of sampling, bounds included, as the host counts them.

    A range that starts at 0 has no upper noise bound and one that ends at 1 no lower one, so 0 to 1 is always.
    """
    after_start = start_percent <= 0.0 or sigma <= float(percent_to_sigma(start_percent))
    before_end = end_percent >= 1.0 or sigma >= float(percent_to_sigma(end_percent))
    return after_start and before_end


def check_range(start_percent: float, end_percent: float) -> None:
    """Raise ValueError unless 0 ≤ start ≤ end ≤ 1."""
    if not 0.0 <= start_percent <= end_percent <= 1.0:
        raise ValueError(
            f"start_percent must not be above end_percent and both lie in 0 to 1, got {start_percent} to {end_percent}."
        )
