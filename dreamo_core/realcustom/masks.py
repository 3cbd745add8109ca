"""Where a subject acts: from attention maps to masks (arXiv 2408.09744, adaptive mask guidance).

Maps and masks are (b, r, n) float32 over the positions of the mask's grid, r of them a sample. The equations that the
pack implements are one function each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..routing.masks import max_norm
from ..sequence.positions import Grid

_EPS = 1e-6
"""As in the released code."""


def word_probabilities(
    q: torch.Tensor, k: torch.Tensor, heads: int, words: Sequence[Sequence[int]], attention: Callable
) -> torch.Tensor:
    """Cross-attention probability at each word's tokens, summed over them and averaged over heads: (b, r, n) float32.

    Nothing of size n × t is kept: the kernel is given columns of V that are 1 at a word's tokens and 0 elsewhere, and
    its output is the sum.

    Args:
        q: (b, n, heads · d); k: (b, t, heads · d).
        words: token positions of each of r words.
        attention: (q, k, v, heads) to (b, n, heads · d).
    """
    indicator = k.new_zeros(k.shape[1], len(words))
    for column, positions in enumerate(words):
        indicator[list(positions), column] = 1
    return attended(q, k, heads, indicator.expand(k.shape[0], -1, -1), attention)


def attended(q: torch.Tensor, k: torch.Tensor, heads: int, values: torch.Tensor, attention: Callable) -> torch.Tensor:
    """Softmax(q kᵀ / √d) @ values with the same values in every head, averaged over heads: (b, r, n) float32.

    Args:
        q: (b, n, heads · d); k: (b, t, heads · d).
        values: (b, t, r).
        attention: (q, k, v, heads) to (b, n, heads · d).
    """
    width = k.shape[-1] // heads
    found = []
    for columns in values.split(width, dim=-1):
        v = torch.nn.functional.pad(columns, (0, width - columns.shape[-1])).unsqueeze(2).expand(-1, -1, heads, -1)
        out = attention(q, k, v.flatten(2).to(q.dtype), heads)
        found.append(out.unflatten(-1, (heads, width))[..., : columns.shape[-1]].float().mean(2))
    return torch.cat(found, dim=-1).transpose(1, 2)


def resize(maps: torch.Tensor, grid: Grid, to: Grid) -> torch.Tensor:
    """Maps (b, r, n) on another grid, bilinear."""
    if grid == to:
        return maps
    planes = torch.nn.functional.interpolate(maps.unflatten(-1, grid), size=to, mode="bilinear", align_corners=False)
    return planes.flatten(-2)


def stretch(maps: torch.Tensor) -> torch.Tensor:
    """Each map to [0, 1] by its least and largest value, as the released code does it for each layer."""
    low, high = maps.amin(-1, keepdim=True), maps.amax(-1, keepdim=True)
    return (maps - low) / (high - low + _EPS)


def self_refined(
    m: torch.Tensor, grid: Grid, q: torch.Tensor, k: torch.Tensor, heads: int, at: Grid, attention: Callable
) -> torch.Tensor:
    """Eq. 14 for one layer: a self-attention map times the words' map, as one attention whose V is the map.

    Args:
        m: (b, r, n) on `grid`.
        q, k: (b, n', heads · d) of a self-attention whose tokens are the grid `at`.

    Returns:
        (b, r, n) on `grid` again.
    """
    values = resize(m, grid, at).transpose(1, 2)
    return resize(attended(q, k, heads, values, attention), at, grid)


def room(gamma: float, n: int) -> int:
    """⌊γ n⌋, at least 1: how many positions a subject gets (Eq. 15)."""
    # 0.7 · 10 is a little below 7.
    return max(1, int(gamma * n + 1e-6))


def select(maps: torch.Tensor, gammas: Sequence[float]) -> torch.Tensor:
    """Eq. 15, first half: the ⌊γ n⌋ largest values of each map, 0 elsewhere."""
    kept = torch.zeros_like(maps)
    for r, gamma in enumerate(gammas):
        values, at = maps[:, r].topk(room(gamma, maps.shape[-1]), dim=-1)
        kept[:, r].scatter_(-1, at, values)
    return kept


def assign(maps: torch.Tensor, gammas: Sequence[float]) -> torch.Tensor:
    """Algorithm 1: several subjects without overlap: (b, r, n), each map's own values where it was given room.

    In each round every subject that still has room takes its largest position that is free; the first in the chain
    chooses first. A subject stops early when all its positions above 0 are taken.
    """
    samples, r, n = maps.shape
    orders = maps.argsort(dim=-1, descending=True, stable=True).tolist()
    counts = (maps > 0).sum(-1).tolist()
    own = torch.zeros(maps.shape, dtype=torch.bool)
    for sample in range(samples):
        taken, left = [False] * n, [room(gamma, n) for gamma in gammas]
        queues = [iter(orders[sample][i][: counts[sample][i]]) for i in range(r)]
        chosen: list[list[int]] = [[] for _ in range(r)]
        while any(left):
            for i in range(r):
                if not left[i]:
                    continue
                at = next((position for position in queues[i] if not taken[position]), None)
                if at is None:
                    left[i] = 0
                    continue
                taken[at] = True
                chosen[i].append(at)
                left[i] -= 1
        for i in range(r):
            own[sample, i, chosen[i]] = True
    return torch.where(own.to(maps.device), maps, torch.zeros_like(maps))


def masks_from_maps(maps: torch.Tensor, gammas: Sequence[float], soft: bool, norm: bool) -> torch.Tensor:
    """The whole way from maps to masks in [0, 1] that do not overlap.

    Args:
        gammas: of each of the r maps.
        soft: keep the values; otherwise 1 wherever a subject has room.
        norm: divide by the largest value, as the paper does and the released code does not (its maps reach 1 anyway).
    """
    kept = assign(maps, gammas) if len(gammas) > 1 else select(maps, gammas)
    if not soft:
        return (kept > 0).to(kept)
    return max_norm(kept) if norm else kept
