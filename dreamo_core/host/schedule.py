"""The released schedules on the host's model."""

from __future__ import annotations

from typing import Any

from ..flux import PIXELS
from ..sampling.schedule import AS_RELEASED, dreamo_shift, uxo_shift
from .flux import with_shift


def with_schedule(model: Any, schedule: str, latent: dict | None, dreamo: bool) -> tuple[Any, str]:
    """The model with its noise levels shifted for the latent's size, and a line for the user.

    The model itself is handed on where nothing is to be set: by choice, without a latent to take the size from, or
    where the user has set a schedule with ModelSamplingFlux.

    Args:
        schedule: one of `sampling.schedule.SCHEDULES`.
        latent: the one that will be sampled, in the host's dict.
        dreamo: DreamO's schedule; otherwise that of UNO, USO and UMO.
    """
    if schedule != AS_RELEASED:
        return model, ""
    if latent is None:
        return model, (
            "Schedule: the model's own. Connect the empty latent to DreamO Apply and it will be shifted by the "
            "picture's size, as released."
        )
    height, width = latent["samples"].shape[-2:]
    shift = (dreamo_shift if dreamo else uxo_shift)(height, width)
    name, size = "DreamO" if dreamo else "UNO and USO", f"{width * PIXELS} × {height * PIXELS}"
    shifted = with_shift(model, shift)
    if shifted is None:
        return model, (
            f"Schedule: the one that a node in front (such as ModelSamplingFlux) has put on the model was kept; "
            f"{name} as released would have shift {shift:.4g} at {size}."
        )
    return shifted, f"Schedule: shift {shift:.4g} for {size}, as {name} was released."
