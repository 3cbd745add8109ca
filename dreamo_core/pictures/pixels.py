"""Pictures in, pictures as the model was trained to see them out: checks, resizing, white background."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image

from .opencv import cv2

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
            "give it to DreamO Reference Batch, or pick one with ImageFromBatch."
        )
    if min(image.shape[1:3]) < 1:
        raise ValueError(f"The reference has no pixels: its size is {image.shape[2]} × {image.shape[1]}.")
    if image.shape[3] not in (1, 3, 4):
        raise ValueError(f"The reference must have 1, 3 or 4 channels, got {image.shape[3]}.")
    # Least and largest: what is not finite shows in them, and a large picture is not copied to find out.
    if not torch.isfinite(torch.stack(image.aminmax())).all():
        raise ValueError("The reference has pixels that are NaN or infinite; check the node that made it.")


def reference_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Height and width with an area of about resolution², the aspect kept, both sides rounded down to 16.

    As the reference implementation (`resize_numpy_image_area`). Where that would give a side of nothing (a picture
    more than a thousand times as long as wide) the side is 16 and the other one takes what is left of the area.
    """
    scale = math.sqrt(resolution * resolution / (height * width))
    longest = max(resolution * resolution // SIDE_MULTIPLE, SIDE_MULTIPLE)
    sides = (min(int(side * scale), longest) // SIDE_MULTIPLE * SIDE_MULTIPLE for side in (height, width))
    new_height, new_width = (max(side, SIDE_MULTIPLE) for side in sides)
    return new_height, new_width


def limited_size(height: int, width: int, long_edge: int) -> tuple[int, int]:
    """Height and width with no side above `long_edge`, as the reference implementation (`resize_numpy_image_long`)."""
    if max(height, width) <= long_edge:
        return height, width
    scale = long_edge / max(height, width)
    return max(int(height * scale), 1), max(int(width * scale), 1)


def long_side_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Height and width with the longer side at `long_side`, the aspect kept, the shorter one rounded down.

    As UNO and USO resize a reference (`preprocess_ref`). A side that would come out under 16 is 16.
    """
    longest = max(height, width)
    scaled = (long_side if side == longest else int(long_side / longest * side) for side in (height, width))
    new_height, new_width = (max(side, SIDE_MULTIPLE) for side in scaled)
    return new_height, new_width


def lanczos_resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize (1, h, w, 3) with Pillow's Lanczos filter, which works in 8 bit as UNO's and USO's own pipelines do."""
    resized = Image.fromarray(to_uint8(image)).resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized))[None].to(image.device) / 255


def centre_crop(image: torch.Tensor) -> torch.Tensor:
    """The middle of (b, h, w, …), with both sides cut down to a multiple of 16."""
    height, width = (side // SIDE_MULTIPLE * SIDE_MULTIPLE for side in image.shape[1:3])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]


BAND = 1024
"""Rows that are put on white at once: a large picture is not copied whole."""


def area_resize(image: torch.Tensor, height: int, width: int, keep: torch.Tensor | None = None) -> torch.Tensor:
    """Resize (b, h, w, c) with OpenCV's INTER_AREA, as the reference implementation does; float32.

    Args:
        image: (b, h, w, c); with `keep` b is 1 and c is 3.
        keep: (1, h, w) in [0, 1]; what it drops is put on white first, so that no fringe of it is mixed in.
    """

    def resized(pixels: torch.Tensor, rows: int) -> torch.Tensor:
        planes = [cv2.resize(p, (width, rows), interpolation=cv2.INTER_AREA) for p in pixels.float().cpu().numpy()]
        return torch.from_numpy(np.stack(planes)).reshape(len(planes), rows, width, -1).to(image.device)

    if image.shape[1:3] == (height, width):
        return image if keep is None else on_white(image, keep)
    if keep is None:
        return resized(image, height)
    if height > image.shape[1] or width > image.shape[2]:
        return resized(on_white(image, keep), height)
    # Averages of areas are averages along one side of averages along the other.
    bands = zip(image.split(BAND, dim=1), keep.split(BAND, dim=1), strict=True)
    return resized(torch.cat([resized(on_white(band, part), band.shape[1]) for band, part in bands], dim=1), height)


def split_alpha(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """RGB (1, h, w, 3) and, where the picture carries one, its alpha (1, h, w) in [0, 1]; grey becomes RGB."""
    if image.shape[3] == 1:
        return image.expand(-1, -1, -1, 3), None
    if image.shape[3] == 4:
        return image[..., :3], image[..., 3].clamp(0, 1)
    return image, None


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """(1, h, w, 3) in [0, 1] as (h, w, 3) uint8."""
    return image[0].mul(255).round().clamp(0, 255).byte().cpu().numpy()


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
    if not torch.isfinite(torch.stack(mask.aminmax())).all():
        raise ValueError("The mask has values that are NaN or infinite; check the node that made it.")
    return area_resize(mask.unsqueeze(-1).float(), height, width).squeeze(-1).clamp(0, 1)
