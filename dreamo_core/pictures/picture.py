"""A picture as the model will see it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

TASKS = ("subject", "identity", "try-on", "style")
"""A style reference is kept whole; the others show one thing on white."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the model will see it.

    Attributes:
        pixels: (1, h, w, 3) in [0, 1], both sides a multiple of 16.
        keep: (1, h, w) in [0, 1], 1 where the subject is; None when the whole picture is meant.
        note: in words, what was done to the picture.
    """

    pixels: torch.Tensor
    keep: torch.Tensor | None = None
    note: str = ""
