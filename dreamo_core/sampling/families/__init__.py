"""The families of models that references work on, one file each."""

from __future__ import annotations

from typing import Any

from .family import Family
from .flux1 import FLUX1
from .flux2 import FLUX2

FAMILIES: tuple[Family, ...] = (FLUX1, FLUX2)


def family_of(diffusion_model: Any) -> Family | None:
    """The family of a host's diffusion model, or None for one that references do not work on."""
    return next((family for family in FAMILIES if family.fits(diffusion_model)), None)
