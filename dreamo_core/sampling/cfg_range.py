"""True classifier-free guidance over a part of sampling; outside it the negative pass is not even run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..sequence.percent import check_range, in_range

UNITS = ("percent", "steps")


def step_of(sigma: float, sigmas: torch.Tensor) -> int:
    """Which step of a run a model call at this noise level belongs to, from 0.

    A sampler that looks between two noise levels does so as a part of the step that starts at the upper one.

    Args:
        sigmas: (steps + 1) of the run, falling.
    """
    # What the model is given has been through another dtype or device at times.
    return max(int((sigmas >= sigma * (1 - 1e-4)).sum()) - 1, 0)


@dataclass(frozen=True)
class CfgRange:
    """Where the negative prompt acts: two percentages of sampling, bounds included, or steps, the end excluded.

    Percentages count as everywhere in the host: step s of n begins at s/n, and whether a bound that is typed as s/n
    falls just before or behind it is up to rounding; (s − ½)/n is safe. Steps are those of the reference pipeline's
    `true_cfg_start_step` and `true_cfg_end_step`.
    """

    start_percent: float = 0.0
    end_percent: float = 1.0
    unit: str = UNITS[0]
    start_step: int = 0
    end_step: int = 0

    def check(self) -> None:
        """Raise ValueError unless the range that counts is one."""
        if self.unit not in UNITS:
            raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {self.unit!r}.")
        if self.unit == "percent":
            check_range(self.start_percent, self.end_percent)
        elif not 0 <= self.start_step <= self.end_step:
            raise ValueError(
                f"start_step must not be above end_step and both be 0 or more, got {self.start_step} to "
                f"{self.end_step}."
            )

    def has(self, sigma: float, percent_to_sigma: Callable[[float], float], sigmas: torch.Tensor | None) -> bool:
        """Whether the negative prompt acts at this noise level.

        Args:
            sigmas: (steps + 1) of the run; only for steps.

        Raises:
            ValueError: steps are asked for in a run that does not say its own.
        """
        if self.unit == "percent":
            return in_range(sigma, self.start_percent, self.end_percent, percent_to_sigma)
        if sigmas is None:
            raise ValueError(
                "DreamO True CFG Range counts steps, but this sampler does not say which it takes; set unit to percent."
            )
        return self.start_step <= step_of(sigma, sigmas) < self.end_step


def make_cfg_range_wrapper(wanted: CfgRange):
    """The wrapper for the host's CALC_COND_BATCH hook.

    Outside the range the positive prediction stands in for the negative one, so guidance of any scale leaves it
    unchanged: p + s·(p − p) = p.

    Raises:
        ValueError: the range is none.
    """
    wanted.check()

    def calc_cond_batch(executor, model, conds, x_in, timestep, model_options):
        sigma, sigmas = float(timestep.flatten()[0]), model_options.get("transformer_options", {}).get("sample_sigmas")
        has_negative = len(conds) == 2 and conds[1] is not None
        if not has_negative or wanted.has(sigma, model.model_sampling.percent_to_sigma, sigmas):
            return executor(model, conds, x_in, timestep, model_options)
        positive = executor(model, [conds[0], None], x_in, timestep, model_options)[0]
        return [positive, positive]

    return calc_cond_batch
