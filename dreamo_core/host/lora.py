"""LoRA on the host's model: patches of its own adapter classes, so offload, low VRAM, fp8 and hooks keep working."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_management
import torch
from comfy.weight_adapter import LoRAAdapter

from ..checkpoint.lora.collect import listing
from ..checkpoint.lora.layer import Lora, LoraLayer
from ..checkpoint.lora.slots import Slot

_PREFIX = "diffusion_model."


class PeftDoRAAdapter(LoRAAdapter):
    """DoRA (arXiv 2402.09353) as PEFT defines it: rows of W + ΔW are brought to the stored norms.

    The host's own DoRA divides by the norm of W instead, which is another model.
    """

    def calculate_weight(
        self, weight, key, strength, strength_model, offset, function,
        intermediate_dtype=torch.float32, original_weight=None, **kwargs,
    ):  # fmt: skip
        """Move `weight` (o, i), in place, by strength · (m · (W + ΔW)/‖W + ΔW‖ − W)."""
        up, down, alpha, _, magnitude, _ = self.weights
        up, down, magnitude = (
            comfy.model_management.cast_to_device(tensor, weight.device, torch.float32)
            for tensor in (up, down, magnitude)
        )
        scale = 1.0 if alpha is None else alpha / down.shape[0]
        base = weight.to(torch.float32)
        merged = base + scale * (up @ down)
        merged *= (magnitude / torch.linalg.vector_norm(merged, dim=1)).unsqueeze(1)
        # In place: `weight` may be a view of some rows.
        weight += function(strength * (merged - base)).to(weight.dtype)
        return weight


def _adapter(layer: LoraLayer) -> LoRAAdapter:
    kind = LoRAAdapter if layer.magnitude is None else PeftDoRAAdapter
    dora = layer.dora_scale if layer.magnitude is None else layer.magnitude
    # up, down, alpha, mid, DoRA, reshape: the order of the host's class.
    return kind(set(), (layer.up, layer.down, layer.alpha, None, dora, None))


def _key(name: str, start: int, length: int, whole: int) -> str | tuple[str, tuple[int, int, int]]:
    return name if (start, length) == (0, whole) else (name, (0, start, length))


def _check_layer(slot: Slot, layer: LoraLayer, shape: tuple[int, ...], lora: Lora) -> tuple[int, int]:
    """The rows that the layer lands on."""
    start, length = slot.rows(shape[0], shape[1])
    expected = (length, shape[1])
    given = (layer.up.shape[0], layer.down.shape[1])
    if given != expected:
        raise ValueError(
            f"{lora.name} changes {slot} by {given[0]} × {given[1]} weights, this model has "
            f"{expected[0]} × {expected[1]} there: the LoRA was made for another model (FLUX.2 is 6144 wide, FLUX.1 is "
            "3072). Choose a FLUX.1 LoRA."
        )
    return start, length


def _patches(lora: Lora, weights: Mapping[str, tuple[int, ...]], model_name: str) -> dict[Any, Any]:
    """The host's patch for every layer; `weights` are the shapes of the model's parameters by name."""
    missing = [str(slot) for slot in lora.layers if f"{_PREFIX}{slot.layer}.weight" not in weights]
    if missing:
        raise ValueError(
            f"{lora.name} has LoRA weights for {len(missing)} of {len(lora.layers)} layers that this model "
            f"({model_name}) does not have: {listing(missing)}. It was made for another model; load flux1-dev or "
            "choose a FLUX.1 LoRA."
        )
    patches: dict[Any, Any] = {}
    for slot, layer in lora.layers.items():
        name = f"{_PREFIX}{slot.layer}"
        shape = weights[f"{name}.weight"]
        start, length = _check_layer(slot, layer, shape, lora)
        patches[_key(f"{name}.weight", start, length, shape[0])] = _adapter(layer)
        if layer.bias is not None:
            if f"{name}.bias" not in weights:
                raise ValueError(f"{lora.name} changes the bias of {slot}, but that layer of this model has none.")
            patches[_key(f"{name}.bias", start, length, shape[0])] = ("diff", (layer.scale * layer.bias,))
    return patches


def with_loras(model: Any, loras: Sequence[tuple[Lora, float]]) -> Any:
    """A clone of the ModelPatcher with each LoRA at its strength; a strength of 0 leaves a LoRA out.

    All are checked before the first is applied.

    Raises:
        ValueError: a LoRA does not fit the model, or a strength is no finite number.
    """
    wrong = [(lora.name, strength) for lora, strength in loras if not math.isfinite(strength)]
    if wrong:
        raise ValueError(f"The strength of {wrong[0][0]} must be a finite number, got {wrong[0][1]}.")
    weights = {name: tuple(parameter.shape) for name, parameter in model.model.named_parameters()}
    model_name = type(model.model).__name__
    checked = [(_patches(lora, weights, model_name), lora, strength) for lora, strength in loras if strength]
    model = model.clone()
    for patches, lora, strength in checked:
        refused = patches.keys() - set(model.add_patches(patches, strength))
        if refused:
            raise ValueError(f"The host did not take {lora.name}'s patches of {listing(str(key) for key in refused)}.")
    return model
