"""Where reference tokens sit in the rotary position space of FLUX (DreamO, section 3.1).

Every reference continues the diagonal: its rows start where the rows of what came before it end, and so do
its columns. Nothing overlaps, and a reference never looks like a neighbour of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Grid = tuple[int, int]
"""Rows and columns of a token grid."""


def token_grid(latent_height: int, latent_width: int, patch_size: int = 2) -> Grid:
    """Rows and columns of tokens that a latent becomes; an odd edge is padded, so it counts as a whole patch."""
    return -(-latent_height // patch_size), -(-latent_width // patch_size)


def diagonal_offsets(image: Grid, references: Sequence[Grid]) -> list[Grid]:
    """First row and column of each reference: the sizes of the image and of all references before it, summed."""
    row, column = image
    offsets = []
    for height, width in references:
        offsets.append((row, column))
        row, column = row + height, column + width
    return offsets


def grid_ids(grid: Grid, offset: Grid = (0, 0), axes: int = 3, device: torch.device | None = None) -> torch.Tensor:
    """Position ids of the image or of one reference, row by row: (h·w, axes), float32, axis 0 is always 0.

    Args:
        grid: rows and columns of its tokens.
        offset: its first row and column; of a reference, from `diagonal_offsets`.
        axes: number of RoPE axes; FLUX.1 has 3 (index, row, column).
    """
    height, width = grid
    ids = torch.zeros(height, width, axes, dtype=torch.float32, device=device)
    ids[..., 1] = torch.arange(height, device=device)[:, None] + offset[0]
    ids[..., 2] = torch.arange(width, device=device)[None, :] + offset[1]
    return ids.reshape(height * width, axes)
