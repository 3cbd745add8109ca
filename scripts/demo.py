"""The demo: the real server, the example graphs, real photographs as references, and a contact sheet.

Called by ./demo.sh. For the shipped graphs, with only their model loaders swapped, the models are small and made on the
spot, so those pictures are noise. Then the trained mini world draws its own sheet.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import mini_demo
from comfy_server import Server
from example_inputs import write_example_inputs
from graph import to_prompt, use_demo_models
from PIL import Image, ImageDraw

REPO = Path(__file__).resolve().parent.parent
GRAPHS = ("subject", "three_references", "two_subjects_placeholders", "reference_controlnet_upscale")
THUMBNAIL = 256


def contact_sheet(rows: list[tuple[str, list[Path], list[Path]]], target: Path) -> None:
    """One row a graph: its prepared references, then its pictures."""
    columns = max(len(references) + len(pictures) for _, references, pictures in rows)
    sheet = Image.new("RGB", (columns * THUMBNAIL, len(rows) * (THUMBNAIL + 24)), "white")
    draw = ImageDraw.Draw(sheet)
    for n, (name, references, pictures) in enumerate(rows):
        top = n * (THUMBNAIL + 24)
        draw.text((6, top + 6), f"{name}: {len(references)} prepared reference(s), then the result", fill="black")
        for column, path in enumerate([*references, *pictures]):
            picture = Image.open(path).convert("RGB")
            picture.thumbnail((THUMBNAIL - 8, THUMBNAIL - 8))
            sheet.paste(picture, (column * THUMBNAIL + 4, top + 24))
    sheet.save(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPO / "demo_output", help="folder for pictures and the log")
    out = parser.parse_args().out.resolve()
    base = out / "comfyui"
    base.mkdir(parents=True, exist_ok=True)
    write_example_inputs(base)
    mini_demo.install(base)
    rows = []
    with Server(base) as server:
        print(f"Server ready at {server.url}, log in {server.log_file}", flush=True)
        object_info = server.object_info()
        for name in GRAPHS:
            workflow = json.loads((REPO / "workflows" / f"{name}.json").read_text())
            prompt = use_demo_models(to_prompt(workflow, object_info))
            started = time.monotonic()
            print(name, flush=True)
            outputs = server.run(prompt, lambda line: print("  ", line, flush=True))
            print(f"   done in {time.monotonic() - started:.1f} s", flush=True)
            pictures = []
            for n, path in enumerate(server.image_files(outputs)):
                pictures.append(out / f"{name}_{n}.png")
                shutil.copy(path, pictures[-1])
            rows.append((name, server.image_files(outputs, "temp"), pictures))
        contact_sheet(rows, out / "contact_sheet.png")
        print("the mini world", flush=True)
        mini_demo.sheet(mini_demo.run_rows(server), out / "mini_world.webp")
    print("\nPictures:")
    for path in sorted([*out.glob("*.png"), *out.glob("*.webp")]):
        print("  ", path)


if __name__ == "__main__":
    main()
