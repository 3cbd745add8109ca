"""Where reference tokens sit in the rotary position space of FLUX (DreamO, section 3.1).

Every reference continues the diagonal: its rows start where the rows of what came before it end, and so do
its columns. Nothing overlaps, and a reference never looks like a neighbour of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

Grid = tuple[int, int]
"""Rows and columns of a token grid."""


def token_grid(latent_height: int, latent_width: int, patch_size: int = 2) -> Grid:
    """Rows and columns of tokens that a latent becomes; an odd edge is padded, so it counts as a whole patch."""
    return -(-latent_height // patch_size), -(-latent_width // patch_size)


@dataclass(frozen=True)
class ImagePositions:
    """How another node has stretched and moved the image's positions (the host's `rope_options`).

    Attributes:
        scale: distance of two neighbouring rows, and of two columns; 1 as trained.
        shift: of the index axis, of rows and of columns.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def end(self, image: Grid) -> tuple[float, float]:
        """The first row and column that the image does not reach."""
        return tuple((n - 1) * s + 1 + moved for n, s, moved in zip(image, self.scale, self.shift[1:], strict=True))


AS_TRAINED = ImagePositions()


def diagonal_offsets(
    image: Grid, references: Sequence[Grid], positions: ImagePositions = AS_TRAINED
) -> list[tuple[float, float]]:
    """First row and column of each reference: the sizes of the image and of all references before it, summed.

    Where the image is stretched or moved, they begin where it then ends.
    """
    row, column = positions.end(image)
    offsets = []
    for height, width in references:
        offsets.append((row, column))
        row, column = row + height, column + width
    return offsets


def grid_ids(
    grid: Grid,
    offset: tuple[float, float] = (0, 0),
    axes: int = 3,
    device: torch.device | None = None,
    index: float = 0.0,
) -> torch.Tensor:
    """Position ids of the image or of one reference, row by row: (h·w, axes), float32.

    Args:
        grid: rows and columns of its tokens.
        offset: its first row and column; of a reference, from `diagonal_offsets`.
        axes: number of RoPE axes; FLUX.1 has 3 (index, row, column).
        index: on axis 0; DreamO's references have the image's own.
    """
    height, width = grid
    ids = torch.zeros(height, width, axes, dtype=torch.float32, device=device)
    ids[..., 0] = index
    ids[..., 1] = torch.arange(height, device=device)[:, None] + offset[0]
    ids[..., 2] = torch.arange(width, device=device)[None, :] + offset[1]
    return ids.reshape(height * width, axes)
