"""Real photographs and a small DreamO file for a ComfyUI base directory: what the example graphs ask for.

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


def write_photographs(base: Path) -> None:
    (base / "input").mkdir(parents=True, exist_ok=True)
    for name, load in PHOTOGRAPHS.items():
        Image.fromarray(load()).save(base / "input" / name)


def write_demo_dreamo(base: Path) -> None:
    """Random embeddings that fit the demo models, in the released file's layout."""
    folder = base / "models" / "dreamo"
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    draw = lambda rows, width: torch.randn(rows, width, generator=generator) * 0.5  # noqa: E731
    tables = {
        "dreamo_task_embedding.weight": draw(2, DEMO_HIDDEN_SIZE),
        "dreamo_idx_embedding.weight": draw(10, DEMO_HIDDEN_SIZE),
        "dreamo_t5_embedding.weight": draw(10, DEMO_TEXT_WIDTH),
    }
    save_file(tables, folder / "dreamo.safetensors")
