"""Emoji art as cut-outs: one subject in up to five vendors' drawing styles.

    python -m minidreamo.art CACHE_DIR

fetches the npm packages below (through npm, so that its own configuration and integrity checks apply), renders the
chosen subjects and writes CACHE_DIR/art.safetensors. Nothing of the art is kept in this repository; licences and
attributions are in README.md beside this file.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

VENDORS = {
    "noto": "@iconify-json/noto@1.2.9",
    "blob": "@iconify-json/noto-v1@1.2.5",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent": "@iconify-json/fluent-emoji@1.2.7",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
}
"""The word for a vendor's style in prompts, and its package. None is share-alike."""

LICENCES = {"Apache-2.0", "MIT", "CC-BY-4.0"}
CATEGORIES = ("Animals & Nature", "Food & Drink", "Objects", "Travel & Places", "Activities")
SKIPPED_WORDS = ("oclock", "thirty", "moon", "medal", "suit", "button", "globe", "mailbox", "speaker")
"""Subjects that cannot be told apart at this size, or that are signs rather than things."""
LONGEST_NAME = 14
"""Letters in a subject's name: short prompts make short sequences."""
SIZE = 64
"""Side of a stored cut-out in pixels; scenes draw it smaller."""
HELD_OUT_SUBJECTS = 60
HELD_OUT_PAIRS = 0.1
SPLIT_SEED = 9


def fetch(package: str) -> tuple[dict, dict, dict]:
    """The icons, info and metadata of an Iconify package."""
    name = subprocess.run(
        ["npm", "pack", "--silent", package, "--pack-destination", "/tmp"], check=True, capture_output=True, text=True
    ).stdout.strip()
    path = Path("/tmp") / name
    with tarfile.open(path) as archive:
        read = [json.load(archive.extractfile(f"package/{part}.json")) for part in ("icons", "info", "metadata")]
    path.unlink()
    licence = read[1]["license"]["spdx"]
    if licence not in LICENCES:
        raise SystemExit(f"{package} is now under {licence}; only {sorted(LICENCES)} may be used here.")
    return tuple(read)


def render(svg: str) -> np.ndarray:
    """SVG text to (SIZE, SIZE, 4) bytes, alpha not premultiplied."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE * 2, height=SIZE * 2))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def build(cache: Path) -> None:
    sets = {vendor: fetch(package) for vendor, package in VENDORS.items()}
    categories = sets["noto"][2]["categories"]
    names = sorted(
        name
        for category in CATEGORIES
        for name in categories[category]
        if all(name in icons["icons"] for icons, _, _ in sets.values())
        and not any(word in name for word in SKIPPED_WORDS)
        and len(name) <= LONGEST_NAME
    )
    svgs = []
    for name in names:
        for icons, _, _ in sets.values():
            icon = icons["icons"][name]
            width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
            svgs.append(
                f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
            )
    with ProcessPoolExecutor() as pool:
        pictures = np.stack(list(pool.map(render, svgs, chunksize=16)))
    cutouts = torch.from_numpy(pictures).unflatten(0, (len(names), len(VENDORS)))
    cache.mkdir(parents=True, exist_ok=True)
    save_file({"cutouts": cutouts.contiguous()}, cache / "art.safetensors", {"names": json.dumps(names)})
    print(f"{len(names)} subjects in {len(VENDORS)} styles")


@dataclass(frozen=True, eq=False)
class Art:
    """Every cut-out, and what may be trained on.

    Attributes:
        names: of the subjects, as words.
        cutouts: (subject, vendor, SIZE, SIZE, 4) bytes.
        trained: (subject, vendor) True where training may see the drawing.
    """

    names: list[str]
    cutouts: np.ndarray
    trained: np.ndarray


def load(cache: Path) -> Art:
    path = cache / "art.safetensors"
    if not path.exists():
        raise SystemExit(f"{path} is missing; make it with: python -m minidreamo.art {cache}")
    with safe_open(path, "np") as file:
        names = [name.replace("-", " ") for name in json.loads(file.metadata()["names"])]
        cutouts = file.get_tensor("cutouts")
    rng = np.random.default_rng(SPLIT_SEED)
    trained = rng.random((len(names), len(VENDORS))) >= HELD_OUT_PAIRS
    trained[trained.sum(1) == 0, 0] = True
    trained[rng.permutation(len(names))[:HELD_OUT_SUBJECTS]] = False
    return Art(names, cutouts, trained)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
