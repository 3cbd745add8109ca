"""A low-rank change of one layer's weight, and a set of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from .slots import Slot


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """ΔW = scale · up · down (LoRA, arXiv 2106.09685), with scale = alpha / r, or 1 without alpha.

    Attributes:
        down: (r, i)
        up: (o, r), rows in the original model's order.
        alpha: numerator of the scale; rank-stabilised LoRA's α/√r is kept as alpha = α·√r.
        magnitude: (o,) of DoRA as PEFT stores it: row norms that W + ΔW is brought to.
        dora_scale: (o, 1) or (1, i) of DoRA as LyCORIS stores it; the host's own adapter reads it.
        bias: (o,) added to the layer's bias, times the scale.
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float | None = None
    magnitude: torch.Tensor | None = None
    dora_scale: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def delta(self) -> torch.Tensor:
        """scale · up · down in float32: (o, i). DoRA's magnitude is not in it."""
        return self.scale * (self.up.float() @ self.down.float())


@dataclass(frozen=True, eq=False)
class Lora:
    """The LoRA of one file.

    Attributes:
        name: the file's name, for messages.
        layers: what lands where.
        formats: the key formats it was written in.
        note: what the user should know about its scales; empty for nothing.
    """

    name: str
    layers: Mapping[Slot, LoraLayer]
    formats: frozenset[str] = field(default_factory=frozenset)
    note: str = ""

    @property
    def ranks(self) -> list[int]:
        return sorted({layer.rank for layer in self.layers.values()})
