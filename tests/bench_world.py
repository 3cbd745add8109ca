"""Stand-ins for what the benchmarks need: data sets of their layouts, small random scorers, the demo models' graph."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizerFast,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from dreamo_core.bench.graph import OwnGraph
from dreamo_core.measure.graphs import Models, Setting

MODELS = Models(
    {"demo": {"class_type": "DreamODemoModels", "inputs": {"seed": 0}}}, ["demo", 0], ["demo", 1], ["demo", 2]
)
SMALL = {"steps": 2, "width": 64, "height": 64, "resolution": 64}
GRAPH = OwnGraph(MODELS, Setting(**SMALL))
FAST = OwnGraph(MODELS, Setting(speed="fast", **SMALL))

PROMPTS_AND_CLASSES = """Classes

subject_name,class
{classes}

Prompts

Object Prompts

prompt_list = [
{objects}
]

Live Subject Prompts

prompt_list = [
{live}
]
"""


def picture(path: Path, seed: int, size=(40, 32)) -> Path:
    """A disc of one colour on a ground of another, with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    disc = (x - size[0] / 2) ** 2 + (y - size[1] / 2) ** 2 < (min(size) / 3) ** 2
    pixels = np.where(disc[..., None], *rng.integers(0, 256, (2, 3))) + rng.normal(0, 8, (*size[::-1], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def write_dreambench(root: Path, subjects: dict[str, str], prompts: int = 25) -> Path:
    """The published layout. Its first prompts are plain, the last two have something in front of the class."""
    frames = [f"a {{0}} {{1}} in place {n}" for n in range(prompts - 2)] + ["a red {0} {1}", "a cube shaped {0} {1}"]
    listed = {kind: ",\n".join(f"'{f} ({kind})'.format(unique_token, class_token)" for f in frames) for kind in "ol"}
    text = PROMPTS_AND_CLASSES.format(
        classes="\n".join(f"{name},{kind}" for name, kind in subjects.items()), objects=listed["o"], live=listed["l"]
    )
    root.mkdir(parents=True, exist_ok=True)
    (root / "prompts_and_classes.txt").write_text(text)
    for n, name in enumerate(subjects):
        picture(root / name / "00.jpg", n)
        picture(root / name / "01.jpg", 100 + n)
    return root


def write_folders(root: Path, counts: dict[str, int], prompts: dict[str, int]) -> Path:
    """Folders of pictures, and files of prompts."""
    for name, count in counts.items():
        for n in range(count):
            picture(root / name / f"{n:03}.png", n)
    for name, count in prompts.items():
        (root / name).write_text("# mine\n" + "\n".join(f"prompt {n} of {name}" for n in range(count)) + "\n\n")
    return root


def write_all(root: Path) -> dict[str, Path]:
    """A small data folder for every benchmark of the papers, by its name."""
    bench = write_dreambench(root / "dreambench", {"cat2": "cat", "clock": "clock", "duck_toy": "toy"}, prompts=3)
    uso = write_folders(root / "uso", {"content": 2, "style": 2}, {"subject_prompts.txt": 2, "style_prompts.txt": 2})
    one = {"prompts.txt": 2}
    cloth = write_folders(root / "viton", {"cloth": 2, "cloth-mask": 2}, one)
    for mask in (cloth / "cloth-mask").iterdir():
        Image.fromarray(np.pad(np.full((16, 20), 255, np.uint8), ((8, 8), (10, 10)))).save(mask)
    return {
        **dict.fromkeys(("dreambench", "dreambench_pairs", "realcustom", "realcustom_pairs"), bench),
        **dict.fromkeys(("uso_subject", "uso_style", "uso_joint"), uso),
        "unsplash50": write_folders(root / "faces", {"faces": 2}, one),
        "style": write_folders(root / "style", {"styles": 2}, one),
        "viton_hd": cloth,
    }


def write_clip(folder: Path, tokenizer: Path, seed: int = 0) -> Path:
    """A small random CLIP as a folder of the released kind, with the real tokenizer."""
    torch.manual_seed(seed)
    text = {
        "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2,
        "vocab_size": 49408, "max_position_embeddings": 77, "projection_dim": 16, "eos_token_id": 49407,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2,
        "image_size": 32, "patch_size": 16, "projection_dim": 16,
    }  # fmt: skip
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    CLIPTokenizerFast.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def write_dino(folder: Path, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=32, intermediate_size=48, num_attention_heads=2, num_hidden_layers=2, image_size=32, patch_size=8
    )
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_garments(folder: Path, labels: dict[int, str]) -> Path:
    """A small random segmentation model."""
    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[3, 3], strides=[4, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, id2label=labels,
        label2id={name: n for n, name in labels.items()},
    )  # fmt: skip
    SegformerForSemanticSegmentation(config).eval().save_pretrained(folder)
    SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
