"""Writing what was trained, so that it loads elsewhere too: DreamO's released layout, and PEFT adapter folders."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

from ..files import save_whole
from ..flux import swap_halves
from ..sequence.embeddings import INDEX_KEY, PLACEHOLDER_KEY, TASK_KEY, Embeddings
from .lora.collect import listing
from .lora.keys import XLABS_LAYERS
from .lora.layer import LoraLayer
from .lora.peft_settings import CONFIG_NAME, WEIGHTS_NAME
from .lora.regroup import fuse_qkv, split_fused
from .lora.slots import Slot, diffusers_name
from .read import EMBEDDINGS_NAME

_RELEASED = {str(Slot(*layer)): f"{what}_lora{stream}" for (_, what, stream), layer in XLABS_LAYERS.items()}
"""Released names by original layer."""
_RELEASED_PREFIX = "lora_unet"
"""Free by the format; this is the usual one."""


def embedding_tensors(embeddings: Embeddings) -> dict[str, torch.Tensor]:
    """The tables under their released keys."""
    tables = {TASK_KEY: embeddings.task, INDEX_KEY: embeddings.index, PLACEHOLDER_KEY: embeddings.placeholders}
    return {key: table for key, table in tables.items() if table is not None}


def _released_key(slot: Slot) -> str | None:
    kind, number, rest = str(slot).split(".", 2) if str(slot).count(".") >= 2 else ("", "", "")
    name = _RELEASED.get(rest)
    return f"{_RELEASED_PREFIX}_{kind}_{number}_processor_{name}" if name else None


def _scaled_up(layer: LoraLayer) -> torch.Tensor:
    """`up` with the scale in it, because the released layout has no alpha; exact where the scale is a power of two."""
    return layer.up if layer.scale == 1.0 else (layer.up.float() * layer.scale).to(layer.up.dtype)


def write_dreamo(path: Path, layers: Mapping[Slot, LoraLayer], embeddings: Embeddings | None) -> None:
    """Write the layout of `dreamo.safetensors`, which every DreamO implementation reads.

    Separate q, k and v (as diffusers models train them) are fused; bit for bit where the scale is 1.

    Args:
        path: the file to write; replaced at once or not at all.
        layers: target layer to LoRA layer, as `Lora.layers`: `Slot("double_blocks.0.img_attn.qkv")`, or its parts
            "q", "k", "v"; `Slot("single_blocks.0.linear1", "qkv")` or parts; `linear2`; the two `proj`.
        embeddings: task, index and placeholder tables; None for a companion LoRA without them.

    Raises:
        ValueError: a layer that the layout has no key for (MLP, modulation), or DoRA or a bias.
    """
    fused = fuse_qkv(layers)
    unnamed = [str(slot) for slot in fused if _released_key(slot) is None]
    if unnamed:
        raise ValueError(
            f"The layout of dreamo.safetensors covers attention and linear2 only, not {listing(unnamed)}; "
            "write a PEFT folder instead."
        )
    extended = [str(slot) for slot, x in fused.items() if not (x.magnitude is x.dora_scale is x.bias is None)]
    if extended:
        raise ValueError(
            f"The layout of dreamo.safetensors has no DoRA and no bias, which {listing(extended)} have; "
            "write a PEFT folder instead."
        )
    tensors = embedding_tensors(embeddings) if embeddings is not None else {}
    for slot, layer in fused.items():
        tensors[f"{_released_key(slot)}.down.weight"] = layer.down
        tensors[f"{_released_key(slot)}.up.weight"] = _scaled_up(layer)
    save_whole(tensors, path, {"format": "pt"})


def _most_common(values: list) -> int | float:
    return Counter(values).most_common(1)[0][0]


def write_peft_folder(folder: Path, layers: Mapping[Slot, LoraLayer], embeddings: Embeddings | None = None) -> None:
    """Write a PEFT adapter of diffusers' `FluxTransformer2DModel`, which peft and diffusers load; bit for bit.

    The folder gets `adapter_config.json`, `adapter_model.safetensors` and, for the tables, `embedding.safetensors`.

    Args:
        folder: made if missing; files of these names are replaced.
        layers: target layer to LoRA layer, as `Lora.layers`; fused layers become separate ones that share `down`.
        embeddings: DreamO's tables.

    Raises:
        ValueError: nothing to write, or some layers have DoRA and others not, or DoRA of the LyCORIS kind.
    """
    if not layers:
        raise ValueError("There are no LoRA layers to write.")
    separate = split_fused(layers)
    with_dora = [slot for slot, layer in separate.items() if layer.magnitude is not None]
    if any(layer.dora_scale is not None for layer in separate.values()):
        raise ValueError("LyCORIS DoRA scales have another meaning than PEFT's; they cannot be written as PEFT.")
    if 0 < len(with_dora) < len(separate):
        raise ValueError(f"{len(with_dora)} of {len(separate)} layers have DoRA; PEFT wants it on all or none.")
    with_bias = any(layer.bias is not None for layer in separate.values())

    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for slot, layer in separate.items():
        module, swapped = diffusers_name(slot)
        tensors |= _peft_tensors(f"base_model.model.{module}", layer, swapped, with_bias)
        ranks[module] = layer.rank
        alphas[module] = layer.rank if layer.alpha is None else layer.alpha
    rank, alpha = _most_common(list(ranks.values())), _most_common(list(alphas.values()))
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        # Anchored, because PEFT matches by the end of a name and proj_out is the end of another layer's.
        "target_modules": f"({'|'.join(sorted(ranks))})".replace(".", r"\."),
        "rank_pattern": {f"^{name}": value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {f"^{name}": value for name, value in alphas.items() if value != alpha},
        "use_dora": bool(with_dora),
        "lora_bias": with_bias,
        "bias": "none",
        "base_model_name_or_path": None,
        "task_type": None,
    }
    save_whole(tensors, folder / WEIGHTS_NAME, {"format": "pt"})
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if embeddings is not None:
        save_whole(embedding_tensors(embeddings), folder / EMBEDDINGS_NAME, {"format": "pt"})


def _peft_tensors(module: str, layer: LoraLayer, swapped: bool, with_bias: bool) -> dict[str, torch.Tensor]:
    def own_order(rows: torch.Tensor) -> torch.Tensor:
        return swap_halves(rows) if swapped else rows

    # Cloned where q, k and v share one: the format refuses tensors that share memory.
    tensors = {f"{module}.lora_A.weight": layer.down.clone(), f"{module}.lora_B.weight": own_order(layer.up)}
    if layer.magnitude is not None:
        tensors[f"{module}.lora_magnitude_vector"] = own_order(layer.magnitude)
    if with_bias:
        bias = layer.bias if layer.bias is not None else torch.zeros(layer.up.shape[0], dtype=layer.up.dtype)
        tensors[f"{module}.lora_B.bias"] = own_order(bias)
    return tensors
