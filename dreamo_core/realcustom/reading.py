"""Reading the words' attention maps in one model call of the guidance branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..sequence.positions import Grid
from .masks import resize, self_refined, stretch, word_probabilities
from .settings import MaskSource


@dataclass(frozen=True)
class AttentionPlace:
    """A transformer block of a UNet.

    Attributes:
        key: as the host's block replacements name it.
        name: path of its cross-attention in the model.
        factor: how many times coarser than the latent its tokens are.
        middle: whether it is in the middle block.
    """

    key: tuple[str, int, int]
    name: str
    factor: int
    middle: bool = False


@dataclass(frozen=True)
class Layers:
    """The blocks that a source reads, by their keys."""

    cross: frozenset
    own: frozenset


def chosen_layers(places: Sequence[AttentionPlace], source: MaskSource) -> Layers:
    """Which blocks a source means, in a model of any size.

    "low" is the coarsest resolution of the down and up blocks, "high" the finest: 32² and 64² of SDXL at 1024².
    """
    factors = [place.factor for place in places if not place.middle] or [place.factor for place in places]
    of = {
        "all": lambda place: True,
        "low": lambda place: place.factor == max(factors),
        "high": lambda place: place.factor == min(factors),
        "none": lambda place: False,
    }
    pick = lambda which: frozenset(place.key for place in places if of[which](place))  # noqa: E731
    return Layers(pick(source.cross), pick(source.own))


@dataclass
class Reader:
    """Collects the maps of one conditioning's words in one model call.

    Attributes:
        words: positions of each word, all subjects' one after the other.
        source: what is read.
        layers: where.
        grid: of the masks.
        attention: (q, k, v, heads) to the attention's output.
    """

    words: Sequence[Sequence[int]]
    source: MaskSource
    layers: Layers
    grid: Grid
    attention: Callable
    _sum: torch.Tensor | None = None
    _count: int = 0
    _self: list[tuple] = field(default_factory=list)

    def cross(self, key: tuple, q: torch.Tensor, k: torch.Tensor, heads: int, at: Grid) -> None:
        """A cross-attention's q (b, n, c) and k (b, t, c) go by."""
        if key not in self.layers.cross:
            return
        maps = resize(word_probabilities(q, k, heads, self.words, self.attention), at, self.grid)
        maps = stretch(maps) if self.source.stretched else maps
        self._sum = maps if self._sum is None else self._sum + maps
        self._count += 1

    def own(self, key: tuple, q: torch.Tensor, k: torch.Tensor, heads: int, at: Grid) -> None:
        """A self-attention's q and k (b, n, c) go by; they are kept until the words' map is known."""
        if key in self.layers.own:
            self._self.append((q, k, heads, at))

    def maps(self) -> torch.Tensor | None:
        """The words' maps (b, r, n), once the call is over; None if no layer went by."""
        if self._sum is None:
            return None
        m = self._sum / self._count
        if self._self:
            refined = [self_refined(m, self.grid, *kept, self.attention) for kept in self._self]
            self._self.clear()
            m = torch.stack(refined).mean(0)
        return stretch(m) if self.source.stretched else m
