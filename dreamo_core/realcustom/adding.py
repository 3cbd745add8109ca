"""Adding pictures to the text's cross-attention in one model call of the generation branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..run.memo import Memo
from ..sequence.positions import Grid
from .masks import resize
from .weights import VisionAttention


def generation_attention(
    text: torch.Tensor, pictures: Sequence[torch.Tensor], masks: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Eq. 16, and Eq. 19 for several: the text's attention plus each picture's where its mask is.

    Args:
        text: (b, n, c), Attn(q, K_text, V_text).
        pictures: (b, n, c) each, Attn(q, K_vis, V_vis), with a softmax of its own.
        masks: (b, n) each, strength included.
    """
    for picture, mask in zip(pictures, masks, strict=True):
        text = torch.addcmul(text, picture, mask.unsqueeze(-1).to(text))
    return text


@dataclass
class Adder:
    """What one conditioning's rows of a model call see of pictures.

    Attributes:
        pictures: tokens (1, m, d) of each.
        masks: (b, n) each on `grid`, strength included.
        grid: of the masks.
        weights: keys and values of pictures.
        memo: keeps them for the run; None computes them each time.
        attention: (q, k, v, heads, extra) to the attention's output; `extra` is what the host tells replacements.
    """

    pictures: Sequence[torch.Tensor]
    masks: Sequence[torch.Tensor]
    grid: Grid
    weights: VisionAttention
    memo: Memo | None
    attention: Callable
    _resized: dict[Grid, list[torch.Tensor]] = field(default_factory=dict)

    def _keys_values(self, name: str, tokens: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        make = lambda: self.weights.keys_values(name, tokens.to(like))  # noqa: E731
        # The conditioning holds tokens and weights at least as long as the run lasts.
        key = (id(self.weights), name, id(tokens), like.dtype, like.device)
        return make() if self.memo is None else self.memo.get(key, make)

    def add(self, name: str, q: torch.Tensor, text: torch.Tensor, at: Grid, extra: dict[str, Any]) -> torch.Tensor:
        """(b, n, c) of the text's attention with the pictures' added; `at` is the grid of the n tokens."""
        if at not in self._resized:
            self._resized[at] = [resize(mask.unsqueeze(1), self.grid, at).squeeze(1) for mask in self.masks]
        seen = []
        for tokens in self.pictures:
            k, v = (part.expand(len(q), -1, -1) for part in self._keys_values(name, tokens, q))
            seen.append(self.attention(q, k, v, extra["n_heads"], extra))
        return generation_attention(text, seen, self._resized[at])
