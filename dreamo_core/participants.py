"""What can take part in the joint attention of a call: strength, and whatever else weighs or replaces keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .attention import log_strength
from .constants import Constants


@dataclass(frozen=True)
class Block:
    """Which block is running: `kind` is "double" or "single", `index` counts from 0 within its kind."""

    kind: str
    index: int


@dataclass(frozen=True)
class Layout:
    """Where things are among the keys of a joint attention: `[text, image, …, reference, reference, …]`.

    Attributes:
        text: number of text tokens.
        image: number of tokens of the noisy image, which follow the text.
        references: first and one-past-last key of each active reference. Where a reference's own tokens did not run
            and keys of an earlier step stand in for them, its span lies beyond the queries.
    """

    text: int
    image: int
    references: tuple[tuple[int, int], ...]


class Participant:
    """One concern in the joint attention of a call. Tensors are q, k, v: (b, heads, l, d), after RoPE.

    A participant that is not `needed` is not asked; if none is, attention is left alone entirely.
    """

    def needed(self) -> bool:
        return True

    def keys(
        self, block: Block, layout: Layout, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[Layout, torch.Tensor, torch.Tensor]:
        """Layout, keys and values to attend to; may add or replace some."""
        return layout, k, v

    def query_bias(self, block: Block, layout: Layout, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor | None:
        """Bias of each query towards each reference's keys, natural log: (b or 1, queries, references), or None."""
        return None

    def finished(self) -> None:
        """The model call is over and did not fail."""


class Strength(Participant):
    """log(strength) for each reference, for all queries but its own.

    A reference's own queries are left alone, so its features stay what they are; only what others take from it
    changes. At strength 0 nobody would attend to it, which is the sequence without it.
    """

    def __init__(self, strengths: Sequence[float], constants: Constants | None = None):
        self.strengths = tuple(strengths)
        self._constants = constants or Constants()

    def needed(self) -> bool:
        return any(strength != 1.0 for strength in self.strengths)

    def query_bias(self, block, layout, q, k):
        key = ("strength", self.strengths, layout.references, q.shape[2], q.device)
        return self._constants.get(key, lambda: self._bias(layout, q.shape[2], q.device))

    def _bias(self, layout: Layout, queries: int, device: torch.device) -> torch.Tensor:
        bias = torch.tensor([log_strength(s) for s in self.strengths], dtype=torch.float32, device=device)
        bias = bias.repeat(1, queries, 1)
        for i, (start, end) in enumerate(layout.references):
            bias[:, start:end, i] = 0
        return bias
