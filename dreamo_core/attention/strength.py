"""The strength of each reference: a bias on the logits of its keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..run.memo import Memo
from .bias import log_strength
from .hook import AttentionHook
from .layout import Layout


class Strength(AttentionHook):
    """log(strength) for each reference, for all queries but its own.

    A reference's own queries are left alone, so its features stay what they are; only what others take from it
    changes. At strength 0 nobody would attend to it, which is the sequence without it.
    """

    def __init__(self, strengths: Sequence[float], memo: Memo | None = None):
        self.strengths = tuple(strengths)
        self._memo = memo or Memo()

    def needed(self) -> bool:
        return any(strength != 1.0 for strength in self.strengths)

    def query_bias(self, block, layout, q, k):
        key = ("strength", self.strengths, layout.references, q.shape[2], q.device)
        return self._memo.get(key, lambda: self._bias(layout, q.shape[2], q.device))

    def _bias(self, layout: Layout, queries: int, device: torch.device) -> torch.Tensor:
        bias = torch.tensor([log_strength(s) for s in self.strengths], dtype=torch.float32, device=device)
        bias = bias.repeat(1, queries, 1)
        for i, (start, end) in enumerate(layout.references):
            bias[:, start:end, i] = 0
        return bias
