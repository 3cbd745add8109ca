"""Write the mini world's training pairs: pictures, masks and a manifest.

    python -m minidreamo.build_data CACHE_DIR OUT_DIR [--samples 6000] [--seed 1]

Tasks: `subject` (one reference), `pair`, `triple`, and `style` (the reference shows another subject of the same
vendor). Only drawings that training may see occur.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from dreamo_core.text.style import STYLE_TRIGGER

from . import art, scenes

SHARES = {"subject": 0.3, "pair": 0.42, "triple": 0.1, "style": 0.18}
LONGEST_PROMPT = 92
"""Letters; keeps every prompt within 36 T5 tokens. Only some of the triples are drawn again for it."""
STYLE_START = f"{STYLE_TRIGGER} "
"""How the released model is told about a style reference."""


def style_sample(
    world: art.Art, rng: np.random.Generator, common: np.ndarray, pool: np.ndarray
) -> tuple[scenes.Scene, scenes.Subject]:
    """A scene with one of the common subjects, and another subject out of `pool` drawn by the same vendor."""
    scene = scenes.random_scene(world, rng, common, 1, styled=0)
    subject = scene.subjects[0]
    same = pool[(pool[:, 1] == subject.vendor) & (pool[:, 0] != subject.name)]
    name = int(same[rng.integers(len(same)), 0])
    return replace(scene, prompt=STYLE_START + scene.prompt), scenes.Subject(name, subject.vendor)


def varied_scene(world: art.Art, rng: np.random.Generator, pool: np.ndarray, count: int) -> scenes.Scene:
    """A scene whose drawings are varied: what a name looks like is then for the reference to say."""
    return scenes.random_scene(world, rng, pool, count, styled=0, mirrored=0.5, recoloured=0.5)


def write_sample(folder: Path, world: art.Art, common: np.ndarray, pool: np.ndarray, seed: tuple[int, int]) -> str:
    """Draw sample `seed[1]`; returns its manifest line."""
    rng = np.random.default_rng(seed)
    name = f"{seed[1]:06d}"
    task = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    if task == "style":
        scene, reference = style_sample(world, rng, common, pool)
        shown, masked, prompt = [reference], False, scene.text()
    else:
        count = ["subject", "pair", "triple"].index(task) + 1
        while len((scene := varied_scene(world, rng, pool, count)).text(placeholders=True)) > LONGEST_PROMPT:
            pass
        shown, masked, prompt = list(scene.references), True, scene.text(placeholders=True)
    picture, masks = scenes.draw(world, scene)
    masks = [masks[scene.numbers.index(n)] for n in range(len(masks))]
    Image.fromarray(picture).save(folder / f"{name}.png")
    entries = []
    for number, subject in enumerate(shown):
        entry = {"image": f"{name}-{number}.png"}
        Image.fromarray(scenes.draw_reference(world, subject)).save(folder / entry["image"])
        if masked:
            entry["mask"] = f"{name}-{number}m.png"
            Image.fromarray(masks[number]).save(folder / entry["mask"])
        entries.append(entry)
    return json.dumps({"target": f"{name}.png", "task": task, "prompt": prompt, "references": entries})


def _range(arguments: tuple[Path, Path, int, int, int]) -> list[str]:
    cache, folder, seed, start, stop = arguments
    world = art.load(cache)
    common, pool = scenes.common_pool(world), np.argwhere(world.trained)
    return [write_sample(folder, world, common, pool, (seed, n)) for n in range(start, stop)]


def build(cache: Path, folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts = [(cache, folder, seed, start, min(start + 500, count)) for start in range(0, count, 500)]
    with ProcessPoolExecutor() as pool:
        lines = [line for part in pool.map(_range, parts) for line in part]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} samples in {folder / 'train.jsonl'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    build(arguments.cache, arguments.out, arguments.samples, arguments.seed)
