"""A reference that takes part in one model call, and its place in it."""

from __future__ import annotations

from dataclasses import dataclass

from .positions import Grid
from .reference import ReferenceSetting


@dataclass(frozen=True)
class PlacedReference:
    """A reference that takes part in this call, and where it sits.

    Attributes:
        offset: its first row and column on the diagonal; None where its positions stay as the host made them.
        kept: its tokens that stay in the sequence, counted row by row; None for all, () for one that only keeps its
            place for the others.
        index: its position on the index axis, the image's own.
    """

    setting: ReferenceSetting
    grid: Grid
    offset: tuple[float, float] | None
    kept: tuple[int, ...] | None = None
    index: float = 0.0

    @property
    def whole(self) -> int:
        """Number of tokens that the host makes of it."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Number of its tokens in the sequence."""
        return self.whole if self.kept is None else len(self.kept)
