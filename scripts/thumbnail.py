"""The picture of a graph in the host's template browser: its input pictures over the graph itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

REPO = Path(__file__).resolve().parent.parent
# Of DreamO Example Picture; a name says which.
EXAMPLES = {"mini world: ": REPO / "minidreamo" / "references", "": REPO / "pictures"}
SIDE, GAP = 512, 12
BACKGROUND = "#262626"


def input_pictures(workflow: dict[str, Any], input_folder: Path) -> list[Path]:
    """Files of the pictures that the graph loads, each once."""
    found = []
    for node in workflow["nodes"]:
        if node["type"] == "LoadImage":
            found.append(input_folder / node["widgets_values"][0])
        elif node["type"] == "DreamOExamplePicture":
            _, mini, name = node["widgets_values"][0].rpartition("mini world: ")
            found += EXAMPLES[mini].glob(f"{name}.*")
    return list(dict.fromkeys(found))


def thumbnail(graph: Image.Image, inputs: list[Image.Image]) -> Image.Image:
    """A square of `SIDE` pixels: `inputs` side by side, cut to squares, and under them the whole `graph`."""
    card = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    graph = ImageOps.contain(graph, (SIDE, SIDE // 2), Image.Resampling.LANCZOS)
    card.paste(graph, ((SIDE - graph.width) // 2, SIDE - graph.height))
    room = SIDE - graph.height - 2 * GAP
    side = min(room, (SIDE - GAP) // len(inputs) - GAP)
    left = (SIDE - len(inputs) * (side + GAP) + GAP) // 2
    for n, picture in enumerate(inputs):
        # Transparent parts, such as a painted mask, let the card through.
        cell = ImageOps.fit(picture.convert("RGBA"), (side, side), Image.Resampling.LANCZOS)
        card.paste(cell, (left + n * (side + GAP), GAP + (room - side) // 2), cell)
    return card


def save_thumbnail(workflow: dict[str, Any], graph: Image.Image, input_folder: Path, target: Path) -> None:
    """Write the thumbnail as the JPEG that the front end asks for."""
    inputs = [Image.open(path) for path in input_pictures(workflow, input_folder)]
    thumbnail(graph, inputs).save(target, quality=82, optimize=True)
