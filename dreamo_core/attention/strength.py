"""The strength of each reference: a bias on the logits of its keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..run.memo import Memo
from .bias import log_strength
from .curve import Curve
from .hook import AttentionHook
from .layout import Block, Layout


class Strength(AttentionHook):
    """log(strength) for each reference, for all queries but its own.

    A reference's own queries are left alone, so its features stay what they are; only what others take from it
    changes. At strength 0 nobody would attend to it, which is the sequence without it.

    Args:
        strengths: of the references.
        memo: where biases are kept between steps.
        curves: factors on them; none for references whose strength is the same everywhere.
        done: the part of sampling before this call; asked for only where a curve depends on it.
        depths: numbers of double and single blocks, for curves.
    """

    def __init__(
        self,
        strengths: Sequence[float],
        memo: Memo | None = None,
        curves: Sequence[Curve] = (),
        done: Callable[[], float] = lambda: 0.0,
        depths: tuple[int, int] = (0, 0),
    ):
        self.strengths = tuple(strengths)
        self.curves = tuple(curves) or (Curve(),) * len(self.strengths)
        self._done, self._depths = done, depths
        # With curves it is another bias at each step, so it is kept for this call only.
        self._memo = memo if memo is not None and all(curve == Curve() for curve in self.curves) else Memo()

    def needed(self) -> bool:
        return any(strength != 1.0 for strength in self.strengths) or any(curve != Curve() for curve in self.curves)

    def strengths_in(self, block: Block) -> tuple[float, ...]:
        """Of the references in that block of this call."""
        if all(curve == Curve() for curve in self.curves):
            return self.strengths
        done = self._done() if any(curve.time for curve in self.curves) else 0.0
        before = self._depths[0] if block.kind == "single" else 0
        depth = (before + block.index) / max(1, sum(self._depths) - 1)
        return tuple(s * c.factor(done, depth) for s, c in zip(self.strengths, self.curves, strict=True))

    def query_bias(self, block, layout, q, k):
        strengths = self.strengths_in(block)
        key = ("strength", strengths, layout.references, q.shape[2], q.device)
        return self._memo.get(key, lambda: self._bias(strengths, layout, q.shape[2], q.device))

    @staticmethod
    def _bias(strengths: Sequence[float], layout: Layout, queries: int, device: torch.device) -> torch.Tensor:
        bias = torch.tensor([log_strength(s) for s in strengths], dtype=torch.float32, device=device)
        bias = bias.repeat(1, queries, 1)
        for i, (start, end) in enumerate(layout.references):
            bias[:, start:end, i] = 0
        return bias
