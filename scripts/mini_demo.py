"""The trained mini world in the real server: held-out subjects as one, two and three references, and style.

    python3 scripts/host.py exec scripts/mini_demo.py [--out DIR]

Writes a contact sheet: each row has a prompt, its references, then one picture a seed. Also called by ./demo.sh.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from comfy_server import Server
from PIL import Image, ImageDraw

REPO = Path(__file__).resolve().parent.parent
MINI = REPO / "minidreamo"
DREAMO_NAME = "minidreamo.safetensors"
SEEDS = (1, 2, 3)
CELL = 144

# (prompt, references, task). None of these subjects was seen in training.
ROWS = (
    ("a pineapple from [ref#1], on plain blue", ("pineapple-noto",), "subject"),
    ("a balloon from [ref#1] on the left, on plain teal", ("balloon-fluent",), "subject"),
    ("a tiger face from [ref#1], on dotted yellow", ("tiger-face-twemoji",), "subject"),
    ("a pizza from [ref#1] left of a snowman from [ref#2], on plain purple",
     ("pizza-fluent", "snowman-noto"), "subject"),
    ("a guitar from [ref#1] above a pig from [ref#2], on plain pink", ("guitar-flat", "pig-noto"), "subject"),
    ("a sushi from [ref#1] above a stop sign from [ref#2] and an ambulance from [ref#3], on plain green",
     ("sushi-noto", "stop-sign-flat", "ambulance-twemoji"), "subject"),
    ("generate a same style image. a cat, on plain orange", ("pineapple-noto",), "style"),
)  # fmt: skip


def prompt_for(text: str, references: tuple[str, ...], task: str, seed: int) -> dict[str, Any]:
    """An API prompt: demo models, DreamO, references, one picture of 96 × 96."""
    nodes: dict[str, Any] = {
        "models": {"class_type": "DreamODemoModels", "inputs": {"seed": 0, "weights": "mini world"}},
        "dreamo": {
            "class_type": "DreamOLoader",
            "inputs": {"dreamo_name": DREAMO_NAME, "strength": 1.0, "model": ["models", 0]},
        },
        "text": {
            "class_type": "DreamOTextEncode",
            "inputs": {"clip": ["models", 1], "dreamo_model": ["dreamo", 0], "prompt": text, "guidance": 3.5},
        },
        "empty": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["models", 1], "text": ""}},
        "latent": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 96, "height": 96, "batch_size": 1}},
    }
    chain = None
    for n, name in enumerate(references):
        nodes[f"image{n}"] = {"class_type": "LoadImage", "inputs": {"image": f"{name}.png"}}
        inputs = {
            "image": [f"image{n}", 0], "vae": ["models", 2], "task": task, "resolution": 48, "strength": 1.0,
            "start_percent": 0.0, "end_percent": 1.0,
        }  # fmt: skip
        nodes[f"reference{n}"] = {
            "class_type": "DreamOReference",
            "inputs": inputs | ({"references": chain} if chain else {}),
        }
        chain = [f"reference{n}", 0]
    nodes["apply"] = {
        "class_type": "DreamOApply",
        "inputs": {
            "model": ["dreamo", 1],
            "positive": ["text", 0],
            "references": chain,
            "dreamo_model": ["dreamo", 0],
        },  # fmt: skip
    }
    sampling = {"seed": seed, "steps": 12, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    nodes["sample"] = {
        "class_type": "KSampler",
        "inputs": {
            "model": ["apply", 0],
            "positive": ["apply", 1],
            "negative": ["empty", 0],
            "latent_image": ["latent", 0],
            **sampling,
        },  # fmt: skip
    }
    nodes["decode"] = {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["models", 2]}}
    nodes["save"] = {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "mini"}}
    return nodes


def install(base: Path) -> None:
    """Put the mini world's DreamO file and reference pictures where the server looks for them."""
    pictures, models = base / "input", base / "models" / "dreamo"
    for folder in (pictures, models):
        folder.mkdir(parents=True, exist_ok=True)
    for path in (MINI / "references").glob("*.png"):
        shutil.copy(path, pictures)
    shutil.copy(MINI / "weights" / "dreamo.safetensors", models / DREAMO_NAME)


def run_rows(server: Server) -> list[tuple[str, list[Path], list[Path]]]:
    """Draw every row; returns prompt, reference pictures and results."""
    done = []
    for text, references, task in ROWS:
        started = time.monotonic()
        results = []
        for seed in SEEDS:
            outputs = server.run(prompt_for(text, references, task, seed))
            results += server.image_files(outputs)
        print(f"  {text}: {time.monotonic() - started:.1f} s", flush=True)
        done.append((text, [MINI / "references" / f"{name}.png" for name in references], results))
    return done


def sheet(rows: list[tuple[str, list[Path], list[Path]]], target: Path) -> None:
    most = max(len(references) for _, references, _ in rows)
    picture = Image.new("RGB", ((most + len(SEEDS)) * CELL, len(rows) * (CELL + 20)), "white")
    draw = ImageDraw.Draw(picture)
    for n, (text, references, results) in enumerate(rows):
        top = n * (CELL + 20)
        draw.text((4, top + 4), text, fill="black")
        for column, path in [*enumerate(references), *enumerate(results, start=most)]:
            cell = Image.open(path).convert("RGB").resize((CELL - 6, CELL - 6), Image.Resampling.BICUBIC)
            picture.paste(cell, (column * CELL + 3, top + 20))
    picture.save(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPO / "demo_output")
    out = parser.parse_args().out.resolve()
    base = out / "comfyui"
    base.mkdir(parents=True, exist_ok=True)
    install(base)
    with Server(base) as server:
        sheet(run_rows(server), out / "mini_world.webp")
    print(out / "mini_world.webp")


if __name__ == "__main__":
    main()
