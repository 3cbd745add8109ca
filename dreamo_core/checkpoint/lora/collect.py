"""From the keys and tensors of a file to a `Lora`, every key accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from ...flux import swap_halves
from .keys import ALPHA, BIAS, DORA_SCALE, DOWN, MAGNITUDE, UP, LoraKey
from .layer import Lora, LoraLayer
from .slots import Slot

AlphaRule = Callable[[str, int], float]
"""alpha of a module (its name in the file, the rank of its tensors) where the file does not store it itself."""

_SHOWN = 5


def listing(names: Iterable[str]) -> str:
    """Names for a message: all of a few, else the first ones and how many more."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _group(keys: Iterable[LoraKey], source: str) -> dict[Slot, dict[str, LoraKey]]:
    groups: dict[Slot, dict[str, LoraKey]] = {}
    for key in keys:
        roles = groups.setdefault(key.place.slot, {})
        if key.role in roles:
            raise ValueError(
                f"{source} has two keys for the {key.role} of {key.place.slot}: {roles[key.role].name} and {key.name}; "
                "which one counts cannot be known. Save the LoRA again with one of them."
            )
        roles[key.role] = key
    return groups


def _check_pairs(groups: dict[Slot, dict[str, LoraKey]], source: str) -> None:
    lone = [next(iter(roles.values())).name for roles in groups.values() if not {DOWN, UP} <= roles.keys()]
    if lone:
        raise ValueError(
            f"{source}: {len(lone)} LoRA keys have no partner (down and up, or A and B, come in pairs): "
            f"{listing(lone)}. The file is incomplete; download or save it again."
        )


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite, for every float dtype."""
    if tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:
        tensor = tensor.to(torch.float16)
    # Both ends carry a NaN along; unlike isfinite().all() this makes no tensor of the same size.
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor))


def _check_layer(layer: LoraLayer, roles: dict[str, LoraKey], source: str) -> None:
    down, up = roles[DOWN].name, roles[UP].name
    if layer.down.ndim != 2 or layer.up.ndim != 2:
        raise ValueError(
            f"{source}: {down} has shape {tuple(layer.down.shape)} and {up} {tuple(layer.up.shape)}, expected two "
            "matrices (rank, in) and (out, rank); FLUX.1 has linear layers only."
        )
    if layer.down.shape[0] != layer.up.shape[1] or layer.rank == 0:
        raise ValueError(
            f"{source}: the rank of {down} is {layer.down.shape[0]} but that of {up} is {layer.up.shape[1]}; "
            "the file is damaged or was put together from two LoRAs."
        )
    rows = layer.up.shape[0]
    for role, tensor in ((MAGNITUDE, layer.magnitude), (BIAS, layer.bias)):
        if tensor is not None and tensor.shape != (rows,):
            raise ValueError(f"{source}: {roles[role].name} has shape {tuple(tensor.shape)}, expected ({rows},).")
    if layer.dora_scale is not None and layer.dora_scale.shape not in ((rows, 1), (1, layer.down.shape[1])):
        raise ValueError(
            f"{source}: {roles[DORA_SCALE].name} has shape {tuple(layer.dora_scale.shape)}, "
            f"expected ({rows}, 1) or (1, {layer.down.shape[1]})."
        )


def _read_layer(
    roles: dict[str, LoraKey], tensor: Callable[[str], torch.Tensor], alpha_rule: AlphaRule | None, source: str
) -> LoraLayer:
    tensors = {role: tensor(key.name) for role, key in roles.items()}
    for role, value in tensors.items():
        if not value.is_floating_point() and role != ALPHA:
            raise ValueError(f"{source}: {roles[role].name} holds {value.dtype}, expected floating point weights.")
        if not is_finite(value):
            raise ValueError(
                f"{source}: {roles[role].name} holds NaN or infinite values; the file is damaged, download it again."
            )
    alpha = tensors.get(ALPHA)
    if alpha is not None and alpha.numel() != 1:
        raise ValueError(f"{source}: {roles[ALPHA].name} has shape {tuple(alpha.shape)}, expected a single number.")
    down, up, magnitude, bias = tensors[DOWN], tensors[UP], tensors.get(MAGNITUDE), tensors.get(BIAS)
    if roles[UP].place.swapped:
        up, magnitude, bias = (None if rows is None else swap_halves(rows) for rows in (up, magnitude, bias))
    if alpha is not None:
        scale_numerator = float(alpha)
    elif alpha_rule is not None:
        scale_numerator = alpha_rule(roles[DOWN].module, down.shape[0])
    else:
        scale_numerator = None
    layer = LoraLayer(down, up, scale_numerator, magnitude, tensors.get(DORA_SCALE), bias)
    _check_layer(layer, roles, source)
    return layer


def collect_lora(
    keys: Iterable[LoraKey],
    tensor: Callable[[str], torch.Tensor],
    source: str,
    alpha_rule: AlphaRule | None = None,
) -> Lora:
    """Put a file's LoRA keys together.

    Args:
        keys: what `read_key` understood.
        tensor: gives a key's tensor; called once per key.
        source: the file's name, for messages.
        alpha_rule: gives alpha where no key does; without it the scale is 1, as diffusers has it.

    Raises:
        ValueError: a key twice for one purpose, one of a pair missing, ranks or shapes that do not go together,
            weights that are not floating point or not finite.
    """
    keys = list(keys)
    groups = _group(keys, source)
    _check_pairs(groups, source)
    layers = {slot: _read_layer(roles, tensor, alpha_rule, source) for slot, roles in groups.items()}
    return Lora(source, layers, frozenset(key.format for key in keys))
