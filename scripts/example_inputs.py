"""Real photographs and small DreamO files for a ComfyUI base directory: what the example graphs ask for.

The photographs are those that scikit-image carries, all free to use: astronaut (NASA, public domain), rocket
(SpaceX, CC0), coffee (Rachel Michetti, CC0) and chelsea the cat (Stéfan van der Walt, CC0).
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data

PHOTOGRAPHS = {
    "dreamo_astronaut.png": data.astronaut,
    "dreamo_cat.png": data.chelsea,
    "dreamo_coffee.png": data.coffee,
    "dreamo_rocket.png": data.rocket,
}

DEMO_HIDDEN_SIZE, DEMO_TEXT_WIDTH = 64, 64

DEMO_FILES = (
    "dreamo.safetensors",
    "dreamo_cfg_distill.safetensors",
    "dreamo_sft_lora.safetensors",
    "dreamo_dpo_lora.safetensors",
    "FLUX.1-Turbo-Alpha.safetensors",
)
# Released layers with rows and columns in multiples of the hidden size.
DEMO_LAYERS = {
    "double_blocks_0_processor_qkv_lora1": (3, 1),
    "double_blocks_0_processor_qkv_lora2": (3, 1),
    "double_blocks_0_processor_proj_lora1": (1, 1),
    "double_blocks_0_processor_proj_lora2": (1, 1),
    "single_blocks_0_processor_qkv_lora": (3, 1),
    "single_blocks_0_processor_proj_lora": (1, 5),
}


# UNO's and USO's LoRA, with their released keys; in models/loras.
DEMO_UXO_FILES = ("dit_lora.safetensors", "uso-flux1-dit-lora-v1.safetensors")


def write_photographs(base: Path) -> None:
    (base / "input").mkdir(parents=True, exist_ok=True)
    for name, load in PHOTOGRAPHS.items():
        Image.fromarray(load()).save(base / "input" / name)


def write_demo_dreamo(base: Path) -> None:
    """The files of DreamO v1.1, UNO and USO under their released names, small and random, to fit the demo models."""
    dreamo, loras = base / "models" / "dreamo", base / "models" / "loras"
    generator = torch.Generator().manual_seed(0)
    draw = lambda rows, width: torch.randn(rows, width, generator=generator) * 0.5  # noqa: E731
    tables = {
        "dreamo_task_embedding.weight": draw(2, DEMO_HIDDEN_SIZE),
        "dreamo_idx_embedding.weight": draw(10, DEMO_HIDDEN_SIZE),
        "dreamo_t5_embedding.weight": draw(10, DEMO_TEXT_WIDTH),
    }
    for folder, names, prefix in ((dreamo, DEMO_FILES, "lora_unet_"), (loras, DEMO_UXO_FILES, "")):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            lora = {}
            for layer, (rows, columns) in DEMO_LAYERS.items():
                key = prefix + (layer if prefix else layer.replace("_blocks_0_processor_", "_blocks.0.processor."))
                lora[f"{key}.down.weight"] = draw(4, columns * DEMO_HIDDEN_SIZE) / DEMO_HIDDEN_SIZE**0.5
                lora[f"{key}.up.weight"] = draw(rows * DEMO_HIDDEN_SIZE, 4) / 4
            save_file({**lora, **(tables if name == "dreamo.safetensors" else {})}, folder / name)
