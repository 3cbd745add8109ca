"""The noise schedule of the released pipelines: FLUX.1's, shifted by the number of image tokens."""

from __future__ import annotations

from ..sequence.positions import token_grid

AS_RELEASED, MODELS_OWN = "as released", "the model's own"
SCHEDULES = (AS_RELEASED, MODELS_OWN)

TIMESTEPS = 25_200
"""Entries of the sigma table. The host's `simple` scheduler takes every nth of them, so that 1, 1 − 1/n, … 1/n are
exact for every usual number of steps: all from 1 to 10, and 12, 14, 15, 16, 18, 20, 24, 25, 28, 30, 35, 36, 40, 50."""


def shift_for_tokens(tokens: int) -> float:
    """µ of `exp(µ) / (exp(µ) + 1/t − 1)`: 0.5 at 256 image tokens, 1.15 at 4096, on a line through both.

    As diffusers' `calculate_shift` and black-forest-labs' `get_lin_function`; neither stops at the two ends.
    """
    return 0.5 + (1.15 - 0.5) / (4096 - 256) * (tokens - 256)


def dreamo_shift(height: int, width: int) -> float:
    """µ of DreamO's pipeline for a latent of that size: 0.847 at 768 × 768 pixels, 1.15 at 1024 × 1024."""
    rows, columns = token_grid(height, width)
    return shift_for_tokens(rows * columns)


def uxo_shift(height: int, width: int) -> float:
    """µ of UNO's, USO's and UMO's released code for a latent of that size: 0.459 at 512 × 512, 0.4675 at 1024 × 1024.

    They divide the latent's pixels by 16 · 16 where 2 · 2 would count its tokens. Their demos were made that way.
    """
    return shift_for_tokens(height * width // 256)
