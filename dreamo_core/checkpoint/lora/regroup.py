"""Between fused attention projections and separate ones: the same ΔW, rows moved, no arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from .layer import LoraLayer
from .slots import Slot, split_slot


def _rows(tensor: torch.Tensor | None, start: int, length: int) -> torch.Tensor | None:
    return None if tensor is None else tensor[start : start + length]


def split_fused(layers: Mapping[Slot, LoraLayer]) -> dict[Slot, LoraLayer]:
    """Every fused layer as the separate layers that diffusers has: they share `down`, and each takes its rows of `up`.

    Raises:
        ValueError: LyCORIS DoRA on columns, whose norm runs over all rows and cannot be split.
    """
    result: dict[Slot, LoraLayer] = {}
    for slot, layer in layers.items():
        parts = split_slot(slot)
        if len(parts) > 1 and layer.dora_scale is not None and layer.dora_scale.shape[0] == 1:
            raise ValueError(f"The DoRA scale of {slot} runs over its columns; it cannot be split into q, k and v.")
        for part in parts:
            # Without "qkv" the part's own layer starts at row 0 of `up`.
            start, length = part.rows(*_fused_shape(layer)) if len(parts) > 1 else (0, layer.up.shape[0])
            result[part] = replace(
                layer,
                up=_rows(layer.up, start, length),
                magnitude=_rows(layer.magnitude, start, length),
                dora_scale=_rows(layer.dora_scale, start, length),
                bias=_rows(layer.bias, start, length),
            )
    return result


def _fused_shape(layer: LoraLayer) -> tuple[int, int]:
    return layer.up.shape[0], layer.down.shape[1]


def fuse_qkv(layers: Mapping[Slot, LoraLayer]) -> dict[Slot, LoraLayer]:
    """q, k and v of each attention as one layer; everything else as it was.

    Where the three share `down` (as after `split_fused`) the rank stays; else ranks add up, with a block-diagonal `up`.

    Raises:
        ValueError: only some of the three are there, or their scales differ, or they have DoRA or a bias.
    """
    result: dict[Slot, LoraLayer] = {}
    for slot, layer in layers.items():
        if slot.part not in ("q", "k", "v"):
            result[slot] = layer
            continue
        fused = Slot(slot.layer, "qkv" if slot.layer.endswith(".linear1") else "")
        if fused in result:
            continue
        three = [layers.get(Slot(slot.layer, part)) for part in ("q", "k", "v")]
        if None in three:
            raise ValueError(
                f"{slot.layer} has LoRA weights for only some of q, k and v; a fused layer needs all three."
            )
        result[fused] = _fuse(three, fused)
    return result


def _fuse(three: list[LoraLayer], slot: Slot) -> LoraLayer:
    if any(layer.magnitude is not None or layer.dora_scale is not None or layer.bias is not None for layer in three):
        raise ValueError(f"{slot} has DoRA or bias weights; they cannot be fused.")
    first = three[0]
    if len({layer.scale for layer in three}) > 1:
        raise ValueError(f"q, k and v of {slot} have different scales; write them as a PEFT folder.")
    if all(layer.rank == first.rank and torch.equal(layer.down, first.down) for layer in three):
        return replace(first, up=torch.cat([layer.up for layer in three]))
    rank = sum(layer.rank for layer in three)
    up = torch.block_diag(*(layer.up for layer in three))
    alpha = None if first.alpha is None else first.scale * rank
    return LoraLayer(torch.cat([layer.down for layer in three]), up, alpha)
