"""True classifier-free guidance over a part of sampling; outside it the negative pass is not even run."""

from __future__ import annotations

from ..sequence.percent import check_range, in_range


def make_cfg_range_wrapper(start_percent: float, end_percent: float):
    """The wrapper for the host's CALC_COND_BATCH hook.

    Outside the range the positive prediction stands in for the negative one, so guidance of any scale leaves it
    unchanged: p + s·(p − p) = p. As `true_cfg_start_step` and `true_cfg_end_step` of the reference pipeline.

    Raises:
        ValueError: the range is not 0 ≤ start ≤ end ≤ 1.
    """
    check_range(start_percent, end_percent)

    def calc_cond_batch(executor, model, conds, x_in, timestep, model_options):
        has_negative = len(conds) == 2 and conds[1] is not None
        sigma = float(timestep.flatten()[0])
        if not has_negative or in_range(sigma, start_percent, end_percent, model.model_sampling.percent_to_sigma):
            return executor(model, conds, x_in, timestep, model_options)
        positive = executor(model, [conds[0], None], x_in, timestep, model_options)[0]
        return [positive, positive]

    return calc_cond_batch
