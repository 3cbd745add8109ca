"""Subjects: pictures and their words, in a chain of nodes and on a conditioning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..routing.regions import Region
from ..sequence.percent import check_range, in_range
from .settings import RealCustomSettings
from .weights import VisionAttention

MAX_SUBJECTS = 9
"""As many as regions can be painted for."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A picture and the words of the prompt that it is: what `REALCUSTOM_SUBJECTS` is a tuple of.

    Attributes:
        picture: (1, h, w, 3) in [0, 1].
        words: its target words; more than one where several things of the picture are meant.
        gamma: part of the image that each of its words gets.
        strength: scales what the picture adds.
        start_percent, end_percent: part of sampling in which it acts.
        mask: (b, h, w) in [0, 1], where it acts, in place of what is found; or None.

    Raises:
        ValueError: a value out of its range.
    """

    picture: torch.Tensor
    words: tuple[str, ...]
    gamma: float = 0.2
    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0
    mask: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.picture.ndim != 4 or self.picture.shape[0] != 1 or self.picture.shape[-1] < 3:
            raise ValueError(
                f"A RealCustom subject is one picture, (1, height, width, 3), got {tuple(self.picture.shape)}; pick "
                "one of the batch, or make a subject of each."
            )
        if not torch.isfinite(self.picture).all():
            raise ValueError("The subject's picture has values that are NaN or infinite; check the node that made it.")
        if not self.words or not all(self.words):
            raise ValueError("A subject needs its target word, as it stands in the prompt; write one a line.")
        if not 0.0 < self.gamma <= 1.0:
            raise ValueError(f"A subject's gamma is a part of the image, above 0 and up to 1, got {self.gamma}.")
        if not math.isfinite(self.strength) or self.strength < 0:
            raise ValueError(f"A subject's strength must be 0 or more, got {self.strength}.")
        check_range(self.start_percent, self.end_percent)


def words_from(text: str) -> tuple[str, ...]:
    """Target words from a text, one a line; empty lines do not count."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


@dataclass(frozen=True, eq=False)
class PlacedSubject:
    """A subject on a conditioning.

    Attributes:
        number: in its chain, from 1.
        tokens: (1, m, d) from the projector.
        words: positions of each of its words among the conditioning's text tokens.
        Others as in `Subject`.
    """

    number: int
    tokens: torch.Tensor
    words: tuple[tuple[int, ...], ...]
    gamma: float
    strength: float
    start_percent: float = 0.0
    end_percent: float = 1.0

    def active(self, sigma: float, percent_to_sigma: Callable[[float], float]) -> bool:
        return in_range(sigma, self.start_percent, self.end_percent, percent_to_sigma)


@dataclass(frozen=True, eq=False)
class RealCustomConditioning:
    """What rides on a conditioning.

    Attributes:
        subjects: those with a strength above 0.
        count: of all subjects in the chain.
        black: (1, m, d), tokens of a black picture: what the negative sees; None leaves it without.
        negative: whether this is the negative's.
        regions: painted masks of the subjects, by their numbers.
        settings: how masks are found.
        attention: keys and values of pictures.
    """

    subjects: tuple[PlacedSubject, ...]
    count: int
    black: torch.Tensor | None
    negative: bool
    regions: tuple[Region, ...]
    settings: RealCustomSettings
    attention: VisionAttention
