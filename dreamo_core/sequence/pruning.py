"""Which tokens of a reference take part: those that show its subject, a margin around them, and a choice of the rest.

A reference of one thing is mostly white. A token whose patch is background can leave the sequence: positions are
explicit, so the tokens that stay keep theirs, and with them their index embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .coverage import coverage
from .positions import Grid

BACKGROUND = 0.01
"""A patch of which less than this part is subject is background."""


@dataclass(frozen=True)
class Foreground:
    """How much of each token's patch is subject; compares by value, as it rides on conditionings.

    Attributes:
        grid: rows and columns of the reference's tokens.
        coverage: one byte a token, row by row: 0 (background) to 255 (subject all over).
    """

    grid: Grid
    coverage: bytes

    def tensor(self) -> torch.Tensor:
        """Whether each token shows some of the subject: (rows, columns), bool."""
        values = torch.frombuffer(bytearray(self.coverage), dtype=torch.uint8).reshape(self.grid)
        return values >= BACKGROUND * 255


def foreground_of(keep: torch.Tensor, grid: Grid) -> Foreground:
    """The part of each token's patch that `keep` (1, h, w; 1 where the subject is) selects, by area."""
    covered = coverage(keep, grid).clamp(0, 1).mul(255).ceil().to(torch.uint8)
    return Foreground(grid, covered.flatten().cpu().numpy().tobytes())


def grow(mask: torch.Tensor, margin: int) -> torch.Tensor:
    """Every token within `margin` tokens of the mask, diagonals too: (rows, columns), bool."""
    if margin == 0:
        return mask
    size = 2 * margin + 1
    return torch.nn.functional.max_pool2d(mask[None, None].float(), size, stride=1, padding=margin)[0, 0] > 0


def evenly(count: int, ratio: float) -> torch.Tensor:
    """Marks about ratio · count of `count` things, evenly spread: (count,), bool; 0 marks none and 1 all."""
    steps = (torch.arange(count + 1, dtype=torch.float64) * ratio + 1e-9).floor()
    return steps.diff() > 0


def kept_tokens(foreground: Foreground, margin: int, keep_ratio: float) -> tuple[int, ...]:
    """Tokens that stay, counted from 0, row by row.

    Args:
        foreground: what each token shows. Without any subject in it nothing is pruned.
        margin: tokens this near to the subject stay too.
        keep_ratio: part of all other tokens that stay anyway, evenly spread; 0 to 1, and 1 prunes nothing.
    """
    subject = foreground.tensor()
    if not subject.any():
        return tuple(range(subject.numel()))
    keep = grow(subject, margin).flatten()
    rest = (~keep).nonzero().flatten()
    keep[rest[evenly(len(rest), keep_ratio)]] = True
    return tuple(keep.nonzero().flatten().tolist())


def random_keep(tokens: int, drop: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """A random choice of the tokens that stay: (tokens,), bool, at least one of them true.

    DreamO drops 95 % of the reference tokens in its third training stage (section 3.4, "quality alignment").

    Args:
        tokens: number of tokens of a reference.
        drop: part of them to drop, 0 to 1.
        generator: makes the choice repeatable.

    Raises:
        ValueError: drop is not in 0 to 1, or there are no tokens.
    """
    if not 0.0 <= drop <= 1.0 or tokens < 1:
        raise ValueError(f"drop must lie in 0 to 1 and tokens be at least 1, got {drop} and {tokens}.")
    stay = max(1, tokens - round(tokens * drop))
    keep = torch.zeros(tokens, dtype=torch.bool)
    keep[torch.randperm(tokens, generator=generator)[:stay]] = True
    return keep
