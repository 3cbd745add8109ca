"""How much of each token a mask covers."""

from __future__ import annotations

import torch

from .positions import Grid


def coverage(mask: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The mean of a mask (b, h, w) of any size over the area of each token: (b, rows, columns), float32."""
    rows, columns = (_shares(side, count).to(mask.device) for side, count in zip(mask.shape[1:], grid, strict=True))
    return torch.einsum("th,bhw,vw->btv", rows, mask.float(), columns)


def _shares(source: int, target: int) -> torch.Tensor:
    """The part that each of `source` pixels has in each of `target` boxes: (target, source), rows sum to 1."""
    scale = source / target
    boxes, pixels = torch.arange(target, dtype=torch.float64)[:, None], torch.arange(source, dtype=torch.float64)
    overlap = torch.minimum((boxes + 1) * scale, pixels + 1) - torch.maximum(boxes * scale, pixels)
    overlap = overlap.clamp(min=0)
    return (overlap / overlap.sum(dim=1, keepdim=True)).float()
