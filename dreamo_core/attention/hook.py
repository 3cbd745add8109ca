"""Who takes part in the joint attention, block by block."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .layout import Block, Layout


class AttentionHook:
    """One concern in the joint attention of a call. Tensors are q, k, v: (b, heads, l, d), after RoPE.

    A hook that is not `needed` is not asked; if none is, attention is left alone entirely.
    """

    def needed(self) -> bool:
        return True

    def keys(
        self, block: Block, layout: Layout, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[Layout, torch.Tensor, torch.Tensor]:
        """Layout, keys and values to attend to; may add or replace some."""
        return layout, k, v

    def attend(
        self,
        call: Callable[..., torch.Tensor],
        block: Block,
        layout: Layout,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
    ) -> torch.Tensor | None:
        """The result of attention (b, l, heads · d) in place of what `call(q, k, v)` would give, or None."""
        return None

    def query_bias(self, block: Block, layout: Layout, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor | None:
        """Bias of each query towards each reference's keys, natural log: (b or 1, queries, references), or None."""
        return None

    def finished(self) -> None:
        """The model call is over and did not fail."""
