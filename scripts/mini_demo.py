"""The trained mini world in the real server: held-out subjects as one, two and three references, and style.

    python3 scripts/host.py exec scripts/mini_demo.py [--out DIR]

Writes a contact sheet: each row has a prompt, its references, then one picture a seed. With two and three references
the same seeds follow once more, routed, and the regions that routing found in the first. Also called by ./demo.sh.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_server import Server
from graph import default_of, inputs_of, is_widget
from PIL import Image, ImageDraw, ImageOps

REPO = Path(__file__).resolve().parent.parent
MINI = REPO / "minidreamo"
SEEDS = (1, 2, 3)
CELL = 144

# (prompt, references, task). No reference shows a subject that was seen in training; a style's content is one of those
# that the base knows by name.
ROWS = (
    ("a pineapple from [ref#1], on plain blue", ("pineapple-noto",), "subject"),
    ("a balloon from [ref#1] on the left, on plain teal", ("balloon-fluent",), "subject"),
    ("a tiger face from [ref#1], on dotted yellow", ("tiger-face-twemoji",), "subject"),
    ("a pizza from [ref#1] left of a snowman from [ref#2], on plain purple",
     ("pizza-fluent", "snowman-noto"), "subject"),
    ("a guitar from [ref#2] above a pig from [ref#1], on plain pink", ("pig-noto", "guitar-flat"), "subject"),
    ("a sushi from [ref#1] above a stop sign from [ref#2] and an ambulance from [ref#3], on plain green",
     ("sushi-noto", "stop-sign-flat", "ambulance-twemoji"), "subject"),
    ("generate a same style image. a dog face, on plain orange", ("pizza-fluent",), "style"),
    ("generate a same style image. a dog face, on plain orange", ("stop-sign-flat",), "style"),
)  # fmt: skip


# A subject stands on nine of the 36 tokens, too few to grade, and there is no step to lose: regions before the first.
ROUTING = {"gamma": 0.25, "soft": False, "masks_from": "extra first pass"}


def routing_node(object_info: dict[str, Any]) -> dict[str, Any]:
    """DreamO Routing with its defaults but for `ROUTING`; its model is still to be linked."""
    declared = inputs_of(object_info["DreamORouting"])
    defaults = {name: default_of(kind, options) for name, kind, options in declared if is_widget(kind, options)}
    return {"class_type": "DreamORouting", "inputs": defaults | ROUTING}


def prompt_for(
    text: str, references: tuple[str, ...], task: str, seed: int, routing: dict[str, Any] | None = None
) -> dict[str, Any]:
    """An API prompt: demo models, DreamO, references, one picture of 96 × 96; with a routing node, its regions too."""
    nodes: dict[str, Any] = {
        "models": {"class_type": "DreamODemoModels", "inputs": {"seed": 0, "weights": "mini world"}},
        "text": {
            "class_type": "DreamOTextEncode",
            "inputs": {"clip": ["models", 1], "dreamo_model": ["models", 3], "prompt": text, "guidance": 3.5},
        },
        "empty": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["models", 1], "text": ""}},
        "latent": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 96, "height": 96, "batch_size": 1}},
    }
    chain = None
    for n, name in enumerate(references):
        picture = {"picture": f"mini world: {name}"}
        nodes[f"image{n}"] = {"class_type": "DreamOExamplePicture", "inputs": picture}
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
            "model": ["models", 4],
            "positive": ["text", 0],
            "references": chain,
            "dreamo_model": ["models", 3],
        },
    }
    sampling = {"seed": seed, "steps": 12, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    sampling |= {"positive": ["apply", 1], "negative": ["empty", 0], "latent_image": ["latent", 0]}
    if routing:
        nodes["routing"] = {**routing, "inputs": routing["inputs"] | {"model": ["apply", 0]}}
        sampling |= {"model": ["routing", 0], "live_maps": False}
        nodes["sample"] = {"class_type": "DreamORoutedSampler", "inputs": sampling}
        nodes["preview"] = {
            "class_type": "DreamORoutingPreview",
            "inputs": {"maps": ["sample", 3], "image": ["decode", 0], "opacity": 0.8},
        }
        nodes["regions"] = {
            "class_type": "SaveImage",
            "inputs": {"images": ["preview", 0], "filename_prefix": "mini_regions"},
        }
    else:
        nodes["sample"] = {"class_type": "KSampler", "inputs": sampling | {"model": ["apply", 0]}}
    nodes["decode"] = {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["models", 2]}}
    nodes["save"] = {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "mini"}}
    return nodes


@dataclass(frozen=True)
class Row:
    """A row of the sheet: picture files, `routed` and `regions` empty with one reference."""

    text: str
    references: list[Path]
    pictures: list[Path]
    routed: list[Path]
    regions: list[Path]


def run_rows(server: Server) -> list[Row]:
    """Draw every row."""
    done, routing = [], routing_node(server.object_info())

    def draw(*values: Any) -> dict[str, list[Path]]:
        outputs = server.run(prompt_for(*values))
        return {node: server.image_files({node: output}) for node, output in outputs.items()}

    for text, references, task in ROWS:
        started = time.monotonic()
        plain = [draw(text, references, task, seed) for seed in SEEDS]
        kept = [draw(text, references, task, seed, routing) for seed in SEEDS] if len(references) > 1 else []
        print(f"  {text}: {time.monotonic() - started:.1f} s", flush=True)
        shown = [MINI / "references" / f"{name}.png" for name in references]
        pictures, routed = ([found["save"][0] for found in group] for group in (plain, kept))
        done.append(Row(text, shown, pictures, routed, [found["regions"][0] for found in kept[:1]]))
    return done


def sheet(rows: list[Row], target: Path) -> None:
    most = max(len(row.references) for row in rows)
    routed = most + len(SEEDS)
    starts = {"references": 0, "unrouted": most, "routed": routed, "regions of the first": routed + len(SEEDS)}
    picture = Image.new("RGB", ((starts["regions of the first"] + 1) * CELL, len(rows) * (CELL + 20) + 20), "white")
    draw = ImageDraw.Draw(picture)
    for name, column in starts.items():
        draw.text((column * CELL + 4, 4), name, fill="gray")
    for n, row in enumerate(rows):
        top = n * (CELL + 20) + 20
        draw.text((4, top + 4), row.text, fill="black")
        parts = (row.references, row.pictures, row.routed, row.regions)
        for start, paths in zip(starts.values(), parts, strict=True):
            for column, path in enumerate(paths, start=start):
                opened = Image.open(path).convert("RGB")
                cell = ImageOps.contain(opened, (CELL - 6, CELL - 6), Image.Resampling.BICUBIC)
                picture.paste(cell, (column * CELL + 3, top + 20))
    picture.save(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPO / "demo_output")
    out = parser.parse_args().out.resolve()
    base = out / "comfyui"
    base.mkdir(parents=True, exist_ok=True)
    with Server(base) as server:
        sheet(run_rows(server), out / "mini_world.webp")
    print(out / "mini_world.webp")


if __name__ == "__main__":
    main()
