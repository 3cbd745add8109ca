"""Names of the host's samplers and schedulers, with those that other packs have added so far."""

from __future__ import annotations

import comfy.samplers


def sampler_names() -> list[str]:
    return list(comfy.samplers.KSampler.SAMPLERS)


def scheduler_names() -> list[str]:
    return list(comfy.samplers.KSampler.SCHEDULERS)
