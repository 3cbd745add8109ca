"""What a scorer is. A plugin needs nothing else of this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from ..case import Case


@dataclass(frozen=True)
class Shot:
    """A picture to be scored.

    Attributes:
        case: what it was drawn for.
        seed: it was drawn with.
        picture: as cut for scoring (see `cut.py`), RGB.
        whole: as drawn, RGB.
        references: those of the case, cut likewise, RGB.
    """

    case: Case
    seed: int
    picture: Image.Image
    whole: Image.Image
    references: tuple[Image.Image, ...]


class Scorer(Protocol):
    """Gives numbers to pictures; the higher the better.

    Attributes:
        name: of its file of results; letters, digits, `-` and `_`.
        version: changes when its numbers would (weights, settings): kept results of another version are not used.
    """

    name: str
    version: str

    def score(self, shots: Sequence[Shot]) -> list[dict[str, float]]:
        """Numbers of each picture by metric; a metric that says nothing about a picture is left out there."""
        ...
