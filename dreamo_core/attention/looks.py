"""How much the picture looks at each token of a reference: what may leave the sequence without a mask."""

from __future__ import annotations

import math

import torch

from .hook import AttentionHook
from .layout import Block

QUERIES = 256
"""Image tokens that are asked, evenly spread; all of them would cost as much as the attention itself."""


def looks(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Mean attention of queries (b, heads, n, d) among the keys (b, heads, m, d) of one reference: (m,) float32."""
    logits = (queries @ keys.transpose(2, 3)).float() / math.sqrt(keys.shape[3])
    return logits.softmax(dim=3).mean(dim=(0, 1, 2))


class Looks(AttentionHook):
    """Reads it in every block of one call and changes nothing (after ReCAST, which drops tokens by attention)."""

    def __init__(self) -> None:
        self._sums: list[torch.Tensor] = []
        self._read: set[Block] = set()

    def query_bias(self, block, layout, q, k):
        step = -(-layout.image // QUERIES)
        queries = q[:, :, layout.text : layout.text + layout.image : step]
        found = [looks(queries, k[:, :, start:end]) for start, end in layout.references]
        self._sums = [a + b for a, b in zip(self._sums, found, strict=True)] if self._sums else found
        self._read.add(block)
        return None

    def best(self, share: float, blocks: int) -> list[tuple[int, ...]] | None:
        """Of each reference the tokens that are looked at most, in their order: `share` of them, at least one.

        None if not all of the model's `blocks` took part: another node has answered the call.
        """
        if len(self._read) != blocks:
            return None
        count = lambda total: max(1, round(share * len(total)))  # noqa: E731
        return [tuple(sorted(total.topk(count(total)).indices.tolist())) for total in self._sums]
