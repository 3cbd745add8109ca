"""How much is spent on references: the settings, and when their keys and values are made anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONSTANT = "constant"

REFRESH_POLICIES = ("always", "every n steps", "sigma distance", "drift", "never", CONSTANT)

STORES = ("as computed", "fp8")


@dataclass(frozen=True)
class ReusePolicy:
    """What `DreamOSpeed` puts on a model.

    Attributes:
        prune: whether background tokens of references with a mask leave the sequence.
        margin: tokens around the subject that stay.
        keep_ratio: part of the other background tokens that stay anyway, 0 to 1.
        refresh: one of `REFRESH_POLICIES`. "always" runs the whole sequence at each step and keeps nothing; "never"
            makes keys and values once, at the first step. "constant" makes them of the references alone, by the rule
            in `reuse.constant`, and keeps them for other runs.
        interval: of "every n steps", at least 1.
        sigma_distance: of "sigma distance": refreshed when the noise level has moved this far, 0 to 1.
        drift: of "drift": refreshed when the references' features entering the first block's attention have changed
            by this part of their norm.
        store: one of `STORES`; fp8 halves bf16 keys and values.
        keep_share: part of each reference's tokens that stay after the first step, above 0 to 1: those that the picture
            looks at most. Not with "constant".
        low_memory: whether the store is kept in the computer's memory instead of the device's.
    """

    prune: bool = False
    margin: int = 1
    keep_ratio: float = 0.0
    refresh: str = "always"
    interval: int = 6
    sigma_distance: float = 0.45
    drift: float = 0.25
    store: str = "as computed"
    low_memory: bool = False
    keep_share: float = 1.0

    def __post_init__(self) -> None:
        if self.refresh not in REFRESH_POLICIES or self.store not in STORES:
            raise ValueError(
                f"refresh must be one of {', '.join(REFRESH_POLICIES)} and store one of {', '.join(STORES)}, "
                f"got {self.refresh} and {self.store}."
            )
        if self.margin < 0 or not 0.0 <= self.keep_ratio <= 1.0 or self.interval < 1:
            raise ValueError(
                "margin must be at least 0, keep_ratio lie in 0 to 1 and interval be at least 1, got "
                f"{self.margin}, {self.keep_ratio} and {self.interval}."
            )

        if not 0.0 <= self.sigma_distance <= 1.0 or not 0.0 <= self.drift < math.inf:
            raise ValueError(
                "sigma_distance must lie in 0 to 1 and drift be a number of at least 0, got "
                f"{self.sigma_distance} and {self.drift}."
            )

        if not 0.0 < self.keep_share <= 1.0:
            raise ValueError(f"keep_share must be above 0 and at most 1, got {self.keep_share}.")
        if self.keep_share < 1.0 and self.refresh == CONSTANT:
            raise ValueError(
                'keep_share drops tokens by what this picture looks at, and "constant" keeps keys and values for every '
                "picture; set keep_share to 1 or take another preset."
            )

    @property
    def acts(self) -> bool:
        """Whether references of stock nodes, which have no mask, are treated otherwise than the host does."""
        return self.reuses or self.keep_share < 1.0

    @property
    def reuses(self) -> bool:
        """Whether keys and values are kept at all."""
        return self.refresh != "always" and not (self.refresh == "every n steps" and self.interval == 1)


EXACT = ReusePolicy()
"""Full references at each step; what a model without `DreamOSpeed` does."""

PRESETS = {
    "exact": EXACT,
    "balanced": ReusePolicy(prune=True, refresh="sigma distance"),
    "fast": ReusePolicy(prune=True, refresh="never", store="fp8"),
    "constant": ReusePolicy(refresh=CONSTANT),
}
"""Chosen by `benchmarks/reference_error.py`: for two refreshes in a run, one halfway down the noise levels errs least,
and a margin of one token keeps most of what pruning would cost."""


def step_of(sigma: float, sigmas: Sequence[float]) -> int:
    """Which step of the schedule a model call belongs to, from 0; calls between two noise levels belong to the first.

    Samplers of higher order call the model several times a step, so calls cannot be counted.

    Args:
        sigma: noise level of the call.
        sigmas: the run's schedule, falling (or rising, when an image is turned into noise).
    """
    rising = sigmas[-1] > sigmas[0]
    slack = 1e-5 * max(abs(s) for s in sigmas)
    passed = sum(s <= sigma + slack if rising else s >= sigma - slack for s in sigmas)
    return max(0, passed - 1)


def refresh_is_due(
    settings: ReusePolicy, step: int, sigma: float, last_step: int, last_sigma: float, drift: float
) -> bool:
    """Whether a call has to make the references' keys and values anew.

    Args:
        step, sigma: of the call.
        last_step, last_sigma: of the call that made what is kept.
        drift: relative change of the references' features since then; only looked at by "drift".
    """
    if settings.refresh == "every n steps":
        return abs(step - last_step) >= settings.interval
    if settings.refresh == "sigma distance":
        return abs(sigma - last_sigma) >= settings.sigma_distance
    if settings.refresh == "drift":
        return drift >= settings.drift
    return settings.refresh == "always"
