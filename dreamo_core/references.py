"""What a reference is: a prepared picture, its latent, and how, how strongly and when it acts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .embeddings import MAX_REFERENCES
from .pixels import area_resize, check_picture, fit_mask, on_white, reference_size, split_alpha

TASKS = ("subject", "identity", "try-on", "style")
"""A style reference is kept whole; the others show one thing on white."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the model will see it.

    Attributes:
        pixels: (1, h, w, 3) in [0, 1], both sides a multiple of 16.
        keep: (1, h, w) in [0, 1], 1 where the subject is; None when the whole picture is meant.
    """

    pixels: torch.Tensor
    keep: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Reference:
    """One link of a `DREAMO_REFERENCES` chain.

    Attributes:
        picture: what the model sees.
        latent: (1, 16, h/8, w/8) as the VAE gives it; the host scales it when sampling.
        task: one of `TASKS`.
        strength: influence on attention, 0 (as if absent) to 2; 1 leaves attention alone.
        start_percent, end_percent: the part of sampling in which the reference takes part, 0 to 1.
    """

    picture: Picture
    latent: torch.Tensor
    task: str
    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0


References = tuple[Reference, ...]


def prepare_picture(image: torch.Tensor, task: str, resolution: int, mask: torch.Tensor | None = None) -> Picture:
    """Make the picture that DreamO was trained to see: area-resized, and on white unless it is a style.

    Args:
        image: (1, h, w, c) in [0, 1], c is 1, 3 or 4.
        task: one of `TASKS`.
        resolution: the result has about resolution² pixels.
        mask: (1, h, w) of any size, 1 where the subject is. Without it an alpha channel serves.

    Raises:
        ValueError: not one finite picture, or not one finite mask.
    """
    check_picture(image)
    rgb, alpha = split_alpha(image)
    height, width = image.shape[1:3]
    keep = fit_mask(mask, height, width) if mask is not None else alpha
    # The background goes white before the resize, as in the reference implementation, so no fringe of it is mixed in.
    if keep is not None and task != "style":
        rgb = on_white(rgb, keep)
    else:
        keep = None
        if alpha is not None:
            rgb = on_white(rgb, alpha)
    size = reference_size(height, width, resolution)
    pixels = area_resize(rgb, *size).clamp(0, 1)
    return Picture(pixels, None if keep is None else fit_mask(keep, *size))


def extend(chain: References, reference: Reference) -> References:
    """The chain with one more reference; ValueError past the nine that DreamO has index rows for."""
    if len(chain) >= MAX_REFERENCES:
        raise ValueError(f"DreamO takes at most {MAX_REFERENCES} references and the chain already has {len(chain)}.")
    return (*chain, reference)
