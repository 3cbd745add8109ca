"""The losses beside flow matching: routing (DreamO, Eq. 3) and placeholders (Eq. 4)."""

from __future__ import annotations

import math

import torch


def routing_errors(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Eq. 3 before averaging over conditions: squared distance of each response map from its mask.

    Args:
        maps: (b, r, n) response maps of one layer.
        masks: (b, r, n) in [0, 1].

    Returns:
        (b, r).
    """
    return (maps - masks).square().mean(-1)


def placeholder_errors(queries: torch.Tensor, keys: torch.Tensor, present: torch.Tensor, own: int) -> torch.Tensor:
    """Eq. 4 for one reference: its tokens should look at its own placeholder and at no other's.

    Args:
        queries: (b, l, h, d) of the reference's tokens.
        keys: (b, p, h, d) of the text tokens that are placeholders; anything where there is none.
        present: (b, p) True where the prompt has that placeholder.
        own: which of the p belongs to the reference.

    Returns:
        (b,): mean squared distance of the softmax over the placeholders from the one-hot match; 0 where the
        reference's own placeholder is not in the prompt.
    """
    heads, width = queries.shape[-2:]
    logits = torch.einsum("blhd,bphd->blp", queries, keys) / (heads * math.sqrt(width))
    has_own = present[:, own]
    # A row without any placeholder would be a softmax over nothing; its error is dropped below.
    shown = present | ~has_own[:, None]
    share = logits.masked_fill(~shown[:, None], float("-inf")).softmax(-1)
    match = torch.zeros_like(share)
    match[..., own] = 1
    errors = ((share - match).square() * shown[:, None]).sum((1, 2)) / (share.shape[1] * shown.sum(-1))
    return torch.where(has_own, errors, torch.zeros_like(errors))


def weighted_sum(parts: dict[str, torch.Tensor], weights: dict[str, float]) -> torch.Tensor:
    """Eq. 5."""
    return sum(weights[name] * part for name, part in parts.items())
