"""What training leaves behind: a `dreamo.safetensors` in the released layout."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..embeddings import INDEX_KEY, PLACEHOLDER_KEY, TASK_KEY
from .model import DreamOTransformer

_RELEASED = {
    ("transformer_blocks", "attn.to_qkv"): ("double", "qkv_lora1"),
    ("transformer_blocks", "attn.to_added_qkv"): ("double", "qkv_lora2"),
    ("transformer_blocks", "attn.to_out.0"): ("double", "proj_lora1"),
    ("transformer_blocks", "attn.to_add_out"): ("double", "proj_lora2"),
    ("single_transformer_blocks", "attn.to_qkv"): ("single", "qkv_lora"),
    ("single_transformer_blocks", "proj_out"): ("single", "proj_lora"),
}
_KEY = re.compile(r"(\w+)\.(\d+)\.(.+)\.lora_(A|B)\.default\.weight")


def _places(model: DreamOTransformer) -> dict[str, torch.nn.Parameter]:
    """The trained parts by their released keys."""
    tensors = {TASK_KEY: model.task, INDEX_KEY: model.index, PLACEHOLDER_KEY: model.placeholders}
    for name, parameter in model.transformer.named_parameters():
        match = _KEY.fullmatch(name)
        if match:
            kind, lora = _RELEASED[match[1], match[3]]
            half = {"A": "down", "B": "up"}[match[4]]
            tensors[f"lora_unet_{kind}_blocks_{match[2]}_processor_{lora}.{half}.weight"] = parameter
    return tensors


def released_tensors(model: DreamOTransformer) -> dict[str, torch.Tensor]:
    """Copies of the trained parts under the released keys."""
    return {key: tensor.detach().cpu().contiguous() for key, tensor in _places(model).items()}


def write_dreamo(model: DreamOTransformer, path: Path, about: dict[str, str], dtype=torch.float32) -> None:
    """Write `dreamo.safetensors`; the file is replaced at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.part")
    save_file({key: tensor.to(dtype) for key, tensor in released_tensors(model).items()}, scratch, about)
    os.replace(scratch, path)


@torch.no_grad()
def load_released(model: DreamOTransformer, path: Path) -> None:
    """Put a written `dreamo.safetensors` back into a model of the same rank.

    Raises:
        ValueError: keys or shapes differ.
    """
    stored = load_file(path)
    places = _places(model)
    if set(stored) != set(places):
        raise ValueError(f"{path} does not fit the model: {sorted(set(stored) ^ set(places))[:3]} differ.")
    for key, parameter in places.items():
        if stored[key].shape != parameter.shape:
            raise ValueError(f"{path}: {key} is {tuple(stored[key].shape)}, the model has {tuple(parameter.shape)}.")
        parameter.copy_(stored[key])
