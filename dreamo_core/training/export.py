"""What training leaves behind: `dreamo.safetensors` in the released layout, and the same as a PEFT folder."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ..checkpoint import load_dreamo_model, write_dreamo, write_peft_folder
from ..checkpoint.lora.layer import LoraLayer
from ..checkpoint.lora.slots import Slot
from ..sequence.embeddings import Embeddings
from .model import DreamOTransformer
from .parallel import whole

_SLOTS = {
    ("transformer_blocks", "attn.to_qkv"): "img_attn.qkv",
    ("transformer_blocks", "attn.to_added_qkv"): "txt_attn.qkv",
    ("transformer_blocks", "attn.to_out.0"): "img_attn.proj",
    ("transformer_blocks", "attn.to_add_out"): "txt_attn.proj",
    ("single_transformer_blocks", "attn.to_qkv"): "linear1",
    ("single_transformer_blocks", "proj_out"): "linear2",
}
_KEY = re.compile(r"(\w+)\.(\d+)\.(.+)\.lora_A\.default\.weight")


def lora_parameters(model: DreamOTransformer) -> dict[Slot, tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    """`down` and `up` of every adapted layer, by the place the original model has for it."""
    parameters = dict(model.transformer.named_parameters())
    found = {}
    for name, down in parameters.items():
        if match := _KEY.fullmatch(name):
            kind = "single_blocks" if match[1].startswith("single") else "double_blocks"
            layer = _SLOTS[match[1], match[3]]
            slot = Slot(f"{kind}.{match[2]}.{layer}", "qkv" if layer == "linear1" else "")
            found[slot] = (down, parameters[name.replace("lora_A", "lora_B")])
    return found


def lora_layers(model: DreamOTransformer) -> dict[Slot, LoraLayer]:
    """The LoRA as the pack's own files know it; its scale is 1."""
    return {slot: LoraLayer(whole(down).cpu(), whole(up).cpu()) for slot, (down, up) in lora_parameters(model).items()}


def export(model: DreamOTransformer, folder: Path, write: bool = True) -> Path:
    """Write `dreamo.safetensors` and `peft/`; each file is replaced at once or not at all. Returns the former.

    Args:
        write: whether this process writes. Where parameters are sharded every process must call this.
    """
    tables = Embeddings(*(whole(t).cpu() for t in (model.task, model.index, model.placeholders)))
    layers = lora_layers(model)
    if write:
        write_dreamo(folder / "dreamo.safetensors", layers, tables)
        if layers:
            write_peft_folder(folder / "peft", layers, tables)
    return folder / "dreamo.safetensors"


@torch.no_grad()
def load_released(model: DreamOTransformer, path: Path) -> None:
    """Put a `dreamo.safetensors` into a model of the same rank, to draw with it or to train on.

    Raises:
        ValueError: layers or shapes differ.
    """
    stored = load_dreamo_model(path)
    layers = stored.lora.layers if stored.lora else {}
    own = lora_parameters(model)
    if set(layers) != set(own):
        raise ValueError(f"{path} does not fit the model: {sorted(map(str, set(layers) ^ set(own)))[:3]} differ.")
    tables = stored.embeddings
    pairs = [(model.task, tables.task), (model.index, tables.index), (model.placeholders, tables.placeholders)]
    for slot, (down, up) in own.items():
        pairs += [(down, layers[slot].down), (up, layers[slot].up)]
    for parameter, value in pairs:
        if value is None or parameter.shape != value.shape:
            given = None if value is None else tuple(value.shape)
            raise ValueError(f"{path} has {given} where the model has {tuple(parameter.shape)}.")
        parameter.copy_(value)
