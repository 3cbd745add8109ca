"""From the encoders' features to the tokens that cross-attention reads: the cross-layer cross-scale projector (Eq. 9).

Parameter names are those of the released files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

HEAD_DIM = 64


@dataclass(frozen=True, eq=False)
class Features:
    """What both encoders see of a picture, joined along channels to c.

    Attributes:
        deep: (b, n, c) of the whole picture.
        local: (b, 4 n, c) of its four parts, the same layer.
        shallow: three of (b, n, c), from lower layers, the whole picture; read by the shallow variant alone.
    """

    deep: torch.Tensor
    local: torch.Tensor
    shallow: tuple[torch.Tensor, ...] = ()


class MinAttention(nn.Module):
    """Multi-head attention of one set of tokens over another, without an output projection."""

    def __init__(self, width: int, operations: Any, **place: Any):
        super().__init__()
        self.heads = width // HEAD_DIM or 1
        self.norm1 = operations.LayerNorm(width, **place)
        self.norm2 = operations.LayerNorm(width, **place)
        self.to_q = operations.Linear(width, width, bias=False, **place)
        self.to_k = operations.Linear(width, width, bias=False, **place)
        self.to_v = operations.Linear(width, width, bias=False, **place)

    def forward(self, queries: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """(b, n, c) over (b, m, c) to (b, n, c)."""
        others = self.norm2(others)
        projected = (self.to_q(self.norm1(queries)), self.to_k(others), self.to_v(others))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in projected)
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _mlp(width: int, out: int, operations: Any, **place: Any) -> nn.Sequential:
    return nn.Sequential(
        operations.Linear(width, 4 * width, **place),
        nn.GELU(),
        operations.Linear(4 * width, out, **place),
        nn.GELU(),
        operations.Linear(out, out, **place),
        operations.LayerNorm(out, **place),
    )


class Projector(nn.Module):
    """Eq. 9: details of the parts (cross-scale) or of lower layers (cross-layer) are fused into the deep features.

    Args:
        width: c of the features, both encoders together; 2176 as released.
        out: width of the tokens, that of the model's text; 2048 for SDXL.
        shallow: the released shallow variant. Its result has the deep tokens and behind them as many of lower layers;
            its cross-scale branch has weights and is not run, as in the released code.
    """

    def __init__(
        self, width: int, out: int, shallow: bool, operations: Any = nn, dtype: Any = None, device: Any = None
    ):
        super().__init__()
        place = {"dtype": dtype, "device": device}
        self.width, self.out, self.shallow = width, out, shallow
        self.min_attention = MinAttention(width, operations, **place)
        self.projector = _mlp(width, out, operations, **place)
        self.projector_base = operations.Linear(width, out, **place)
        if shallow:
            self.min_attention2 = MinAttention(width, operations, **place)
            self.projector2 = _mlp(width, out, operations, **place)

    def forward(self, features: Features) -> torch.Tensor:
        """Tokens of a picture: (b, n, out), or (b, 2 n, out) of the shallow variant."""
        base = self.projector_base(features.deep)
        if self.shallow:
            lower = torch.cat(features.shallow, dim=1)
            return torch.cat((base, self.projector2(self.min_attention2(features.deep, lower))), dim=1)
        return base + self.projector(self.min_attention(features.deep, features.local))
