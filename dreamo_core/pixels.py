"""Pictures in, pictures as DreamO was trained to see them out: checks, area resize, white background."""

from __future__ import annotations

import math

import torch

SIDE_MULTIPLE = 16
"""Both sides of a prepared reference are a multiple of this (8 for the VAE times 2 for the patches)."""


def check_picture(image: torch.Tensor) -> None:
    """Raise ValueError unless `image` is one finite picture (1, h, w, 1 or 3 or 4) with pixels in it."""
    if image.ndim != 4:
        raise ValueError(
            f"The reference must be an IMAGE of shape (1, height, width, channels), got {tuple(image.shape)}."
        )
    if image.shape[0] != 1:
        raise ValueError(
            f"One reference is one picture, got a batch of {image.shape[0]}; "
            "pick one with ImageFromBatch, or chain one DreamO Reference per picture."
        )
    if min(image.shape[1:3]) < 1:
        raise ValueError(f"The reference has no pixels: its size is {image.shape[2]} × {image.shape[1]}.")
    if image.shape[3] not in (1, 3, 4):
        raise ValueError(f"The reference must have 1, 3 or 4 channels, got {image.shape[3]}.")
    if not torch.isfinite(image).all():
        raise ValueError("The reference has pixels that are NaN or infinite; check the node that made it.")


def reference_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Height and width with an area of about resolution², the aspect kept, both sides rounded down to 16.

    As the reference implementation (`resize_numpy_image_area`); a side never falls below 16.
    """
    scale = math.sqrt(resolution * resolution / (height * width))
    sides = (int(side * scale) // SIDE_MULTIPLE * SIDE_MULTIPLE for side in (height, width))
    new_height, new_width = (max(side, SIDE_MULTIPLE) for side in sides)
    return new_height, new_width


def _overlap(source: int, target: int, device: torch.device) -> torch.Tensor:
    """How much of each source pixel lies in each target pixel's box, as weights that sum to 1: (target, source)."""
    scale = source / target
    edges = torch.arange(target + 1, dtype=torch.float64, device=device) * scale
    pixels = torch.arange(source, dtype=torch.float64, device=device)
    low = torch.maximum(edges[:-1, None], pixels[None, :])
    high = torch.minimum(edges[1:, None], pixels[None, :] + 1)
    return ((high - low).clamp(min=0) / scale).float()


def area_resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize (b, h, w, c) by exact box averaging, as OpenCV's INTER_AREA; enlarging spreads pixels likewise."""
    if image.shape[1:3] == (height, width):
        return image
    rows = _overlap(image.shape[1], height, image.device)
    columns = _overlap(image.shape[2], width, image.device)
    shrunk = torch.tensordot(image.float(), rows, dims=([1], [1]))  # (b, w, c, height)
    return torch.tensordot(shrunk, columns, dims=([1], [1])).permute(0, 2, 3, 1).contiguous()


def split_alpha(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """RGB (1, h, w, 3) and, where the picture carries one, its alpha (1, h, w) in [0, 1]; grey becomes RGB."""
    if image.shape[3] == 1:
        return image.expand(-1, -1, -1, 3), None
    if image.shape[3] == 4:
        return image[..., :3], image[..., 3].clamp(0, 1)
    return image, None


def on_white(image: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Put what `keep` (1, h, w; 1 keeps, 0 drops, between blends) selects of (1, h, w, 3) on white."""
    keep = keep.to(image).unsqueeze(-1)
    return image * keep + (1 - keep)


def fit_mask(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A MASK of any size as (1, height, width) in [0, 1], resized by area.

    Raises:
        ValueError: not one mask, or values that are not finite.
    """
    if mask.ndim == 2:
        mask = mask.unsqueeze(0)
    if mask.ndim != 3 or mask.shape[0] != 1 or min(mask.shape[1:]) < 1:
        raise ValueError(f"The mask must be one MASK of shape (1, height, width), got {tuple(mask.shape)}.")
    if not torch.isfinite(mask).all():
        raise ValueError("The mask has values that are NaN or infinite; check the node that made it.")
    return area_resize(mask.unsqueeze(-1).float(), height, width).squeeze(-1).clamp(0, 1)
