"""Pictures and small model files for a ComfyUI base directory: what the example graphs ask for.

The photographs are those that scikit-image carries, all free to use: astronaut (NASA, public domain), rocket
(SpaceX, CC0), coffee (Rachel Michetti, CC0) and chelsea the cat (Stéfan van der Walt, CC0). Garments are drawn here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from PIL import Image, ImageDraw
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
DEMO_UXO_FILES = ("dit_lora.safetensors", "uso-flux1-dit-lora-v1.safetensors", "UMO_UNO.safetensors")


def sketch() -> Image.Image:
    """The cat as a pencil drawing, for a style."""
    _, colours = cv2.pencilSketch(data.chelsea(), sigma_s=60, sigma_r=0.07, shade_factor=0.05)
    return Image.fromarray(colours)


def table() -> Image.Image:
    """The cup on its table; what lies beside it is transparent, as MaskEditor leaves what was painted over."""
    picture = Image.fromarray(data.coffee())
    opaque = Image.new("L", picture.size, 255)
    ImageDraw.Draw(opaque).ellipse((395, 20, 595, 330), fill=0)
    picture.putalpha(opaque)
    return picture


def garment(outline: list[tuple[float, float]], colours: tuple[str, str], stripes: int) -> Image.Image:
    """A garment lying flat on grey: its outline in parts of the picture's sides, `stripes` of a second colour on it."""
    size, edge = 1024, 512
    place = lambda x, y: (round(x * size), round(y * size))  # noqa: E731
    cloth = Image.new("RGB", (size, size), colours[0])
    draw = ImageDraw.Draw(cloth)
    for n in range(stripes):
        draw.rectangle((*place(0, (n + 0.25) / stripes), *place(1, (n + 0.6) / stripes)), fill=colours[1])
    mask = Image.new("L", (size, size))
    ImageDraw.Draw(mask).polygon([place(x, y) for x, y in outline], fill=255)
    picture = Image.composite(cloth, Image.new("RGB", (size, size), "#d8d8d8"), mask)
    # Drawn twice as large for smooth edges.
    return picture.resize((edge, edge), Image.Resampling.LANCZOS)


SHIRT = [
    (0.36, 0.12), (0.43, 0.18), (0.57, 0.18), (0.64, 0.12), (0.78, 0.18), (0.95, 0.42), (0.83, 0.51), (0.74, 0.38),
    (0.74, 0.9), (0.26, 0.9), (0.26, 0.38), (0.17, 0.51), (0.05, 0.42), (0.22, 0.18),
]  # fmt: skip
TROUSERS = [(0.32, 0.06), (0.68, 0.06), (0.77, 0.94), (0.57, 0.94), (0.5, 0.32), (0.43, 0.94), (0.23, 0.94)]

PICTURES: dict[str, Callable[[], Image.Image]] = {
    **{name: lambda load=load: Image.fromarray(load()) for name, load in PHOTOGRAPHS.items()},
    "dreamo_sketch.png": sketch,
    "dreamo_table.png": table,
    "dreamo_shirt.png": lambda: garment(SHIRT, ("#f5f1e6", "#b5342d"), stripes=12),
    "dreamo_trousers.png": lambda: garment(TROUSERS, ("#2d4f86", "#2a4a7d"), stripes=60),
}


def write_photographs(base: Path) -> None:
    """The photographs, and the pictures drawn or made of them, that the graphs load."""
    (base / "input").mkdir(parents=True, exist_ok=True)
    for name, make in PICTURES.items():
        make().save(base / "input" / name)


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


def write_demo_upscaler(base: Path) -> None:
    """A small upscaler of the kind that Real-ESRGAN calls compact, under the name of its large one.

    Its weights are zero, so each pixel becomes 4 × 4 of the same colour.
    """
    width, scale = 8, 4
    weights = {
        "body.0.weight": torch.zeros(width, 3, 3, 3),
        "body.1.weight": torch.zeros(width),
        "body.2.weight": torch.zeros(width, width, 3, 3),
        "body.3.weight": torch.zeros(width),
        "body.4.weight": torch.zeros(3 * scale**2, width, 3, 3),
    }
    for layer in (0, 2, 4):
        weights[f"body.{layer}.bias"] = torch.zeros(weights[f"body.{layer}.weight"].shape[0])
    folder = base / "models" / "upscale_models"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "RealESRGAN_x4plus.safetensors")


def write_example_inputs(base: Path) -> None:
    """All pictures and files that the shipped graphs name and that the demo models do not stand in for."""
    write_photographs(base)
    write_demo_dreamo(base)
    write_demo_upscaler(base)
