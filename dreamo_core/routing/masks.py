"""From response maps to regions, one pure function a step; maps are (b, r, n) float32.

After the adaptive mask guidance of RealCustom++ (arXiv 2408.09744): smoothing (Eq. 14), the largest γ part with max
normalisation (Eq. 15), assignment to several subjects without overlap (Algorithm 1). The roles of the equations are
as this project's design describes them.
"""

from __future__ import annotations

import math

import torch

from ..attention.bias import NEVER
from ..sequence.positions import Grid
from .maps import pool


def min_max(maps: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
    """Each map stretched to [0, 1]; a flat one becomes 0.

    Eq. 2's responses are logits, which have no sign or scale of their own; Eq. 15 needs values from 0.

    Args:
        allowed: (b or 1, r, n); where it is 0 a map counts as absent and becomes 0.
    """
    inside = torch.ones_like(maps, dtype=torch.bool) if allowed is None else (allowed > 0).expand_as(maps)
    low = maps.masked_fill(~inside, math.inf).amin(-1, keepdim=True)
    high = maps.masked_fill(~inside, -math.inf).amax(-1, keepdim=True)
    scaled = (maps - low) / (high - low)
    return torch.where(inside & (high > low), scaled, torch.zeros_like(maps))


def smooth(maps: torch.Tensor, similar: torch.Tensor, grid: Grid, amount: float) -> torch.Tensor:
    """(1 − a) M + a S M: a token takes part of its response from the tokens that look like it (Eq. 14).

    Args:
        similar: (b, n, p) from `maps.similarity`; M is averaged over the same p patches first.
        amount: a, 0 to 1.
    """
    if amount == 0.0:
        return maps
    spread = similar @ pool(maps.transpose(1, 2), grid)
    return torch.lerp(maps, spread.transpose(1, 2), amount)


def top_gamma(maps: torch.Tensor, gamma: float, allowed: torch.Tensor | None = None) -> torch.Tensor:
    """Keep of each map what is as large as its ⌈γ n⌉-th largest value, and above 0; the rest becomes 0 (Eq. 15).

    Args:
        gamma: part of the tokens, 0 to 1; of the allowed ones where `allowed` is given.
        allowed: (b or 1, r, n); where it is 0 nothing is kept.
    """
    if allowed is None:
        counts = torch.full(maps.shape[:-1], float(maps.shape[-1]), device=maps.device)
    else:
        maps = torch.where(allowed > 0, maps, torch.zeros_like(maps))
        counts = (allowed > 0).expand_as(maps).sum(-1).float()
    # Rounded first: 0.2 · 35 is a little above 7.
    last = (counts * gamma).round(decimals=3).ceil().long().clamp(1, maps.shape[-1]) - 1
    limits = maps.sort(dim=-1, descending=True).values.gather(-1, last.unsqueeze(-1))
    return torch.where((maps >= limits) & (maps > 0), maps, torch.zeros_like(maps))


def max_norm(maps: torch.Tensor) -> torch.Tensor:
    """M / max M for each map; an empty one stays 0 (Eq. 15)."""
    highest = maps.amax(-1, keepdim=True)
    return torch.where(highest > 0, maps / highest.clamp(min=torch.finfo(maps.dtype).tiny), torch.zeros_like(maps))


def assign(masks: torch.Tensor) -> torch.Tensor:
    """Each token to the one reference that it answers most, the first of equals (Algorithm 1)."""
    winner = masks.argmax(1, keepdim=True)
    own = torch.zeros_like(masks, dtype=torch.bool).scatter_(1, winner, True)
    return torch.where(own, masks, torch.zeros_like(masks))


def blend(earlier: torch.Tensor | None, now: torch.Tensor, memory: float) -> torch.Tensor:
    """Exponential average over steps: memory · earlier + (1 − memory) · now; the first step has no earlier one."""
    return now if earlier is None else torch.lerp(now, earlier, memory)


def regions_from_maps(
    maps: torch.Tensor, gamma: float, threshold: float, soft: bool, allowed: torch.Tensor | None = None
) -> torch.Tensor:
    """The whole way from averaged maps to regions that do not overlap: (b, r, n) in [0, 1].

    Args:
        maps: (b, r, n), any range.
        gamma, threshold, soft: as in `RoutingSettings`.
        allowed: (b or 1, r, n) in [0, 1], where each reference may be at all; its value is an upper limit.
    """
    masks = max_norm(top_gamma(min_max(maps, allowed), gamma, allowed))
    masks = torch.where(masks >= threshold, masks, torch.zeros_like(masks))
    masks = assign(masks)
    if not soft:
        masks = (masks > 0).to(masks)
    return masks if allowed is None else torch.minimum(masks, allowed.expand_as(masks))


def log_influence(w: torch.Tensor, strength: float) -> torch.Tensor:
    """strength · log w, at least `NEVER`; w = 0 is `NEVER` at any strength above 0, strength 0 is 0 everywhere."""
    if strength == 0.0:
        return torch.zeros_like(w)
    return torch.where(w > 0, (strength * w.clamp(min=torch.finfo(w.dtype).tiny).log()).clamp(min=NEVER), NEVER)
