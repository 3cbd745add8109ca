"""Scores of a trained mini DreamO on subjects it has never seen, seeds fixed, with spread over seeds.

    python3 scripts/host.py exec -m minidreamo.score CONFIG.toml [DREAMO.safetensors] [--pictures 48] [--seeds 3]
                                                     [--sheet FILE.webp] [--no-placeholders]

- similarity: the subject's place in the picture against the reference's drawing, as the correlation of their pixels
  over the drawing's opaque part (1 is a copy; `chance` is the same against another subject's drawing).
- right: share of subjects more like their own drawing than like any of 19 others.
- swapped: in two-subject pictures, share in which each place is more like the other reference.
- IoU: the reference's response map (Eq. 2), its top tokens as many as the mask has, against the mask.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dreamo_core.training.config import load_config
from dreamo_core.training.text import without_placeholders

from . import art, scenes
from .sampling import Artist, load_artist

SEED = 20_000
OTHERS = 19


@dataclass(frozen=True)
class Task:
    """A scene to draw and its references."""

    scene: scenes.Scene
    count: int


def tasks(world: art.Art, count: int, pictures: int) -> list[Task]:
    """Scenes of held-out subjects only, plain grounds, always the same."""
    rng = np.random.default_rng(SEED + count)
    pool = np.argwhere(~world.trained & ~world.trained.any(1, keepdims=True))
    return [Task(scenes.random_scene(world, rng, pool, count, styled=0), count) for _ in range(pictures)]


def window(picture: np.ndarray, subject: scenes.Subject) -> np.ndarray:
    """(46, 46, 3) of a picture where a subject stands."""
    x, y = (c - scenes.SUBJECT_SIDE // 2 for c in subject.centre)
    return picture[y : y + scenes.SUBJECT_SIDE, x : x + scenes.SUBJECT_SIDE].astype(float)


def likeness(part: np.ndarray, drawing: np.ndarray) -> float:
    """Correlation of the pixels under a cut-out's opaque part, colours together."""
    mask = drawing[..., 3] > 0.5
    a, b = part[mask].ravel(), drawing[..., :3][mask].ravel()
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-9))


def iou(response: torch.Tensor, mask: torch.Tensor) -> float:
    """Top tokens of a response map, as many as the mask has, against the mask."""
    wanted = mask > 0.3
    chosen = torch.zeros_like(wanted)
    chosen[response.topk(int(wanted.sum())).indices] = True
    return float((chosen & wanted).sum() / (chosen | wanted).sum())


def token_masks(masks: np.ndarray) -> torch.Tensor:
    """(n, h, w) bytes to (n, tokens) shares."""
    count, height, width = masks.shape
    return (
        torch.from_numpy(masks).float().reshape(count, height // 16, 16, width // 16, 16).mean((2, 4)).flatten(1) / 255
    )


def draw_all(artist: Artist, world: art.Art, chosen: list[Task], seed: int, placeholders: bool, steps: int):
    """Pictures (n, h, w, 3) bytes and response maps (n, r, tokens) of tasks with equally many references."""
    prompts = [task.scene.text(placeholders=True) for task in chosen]
    if not placeholders:
        prompts = [without_placeholders(prompt) for prompt in prompts]
    references = []
    for place in range(chosen[0].count):
        shown = np.stack([scenes.draw_reference(world, task.scene.references[place]) for task in chosen])
        references.append(artist.encode(scenes.to_pixels(shown)))
    pixels, maps = artist.draw(prompts, references, seed, steps)
    return ((pixels + 1) * 127.5).round().byte().movedim(1, -1).numpy(), maps


def score(artist: Artist, world: art.Art, pictures: int, seeds: int, placeholders: bool = True, steps: int = 12):
    """Numbers by name, one list entry a seed; and the first seed's pictures by number of references."""
    numbers: dict[str, list[float]] = {}
    shown = {}
    rng = np.random.default_rng(SEED)
    for count in (1, 2):
        chosen = tasks(world, count, pictures)
        for seed in range(seeds):
            drawn, maps = draw_all(artist, world, chosen, SEED + seed, placeholders, steps)
            if seed == 0:
                shown[count] = drawn
            similar, chance, right, swapped, overlap = [], [], [], [], []
            for task, picture, responses in zip(chosen, drawn, maps, strict=True):
                subjects = task.scene.subjects
                _, masks = scenes.draw(world, task.scene)
                wanted = token_masks(masks)
                for n, subject in enumerate(subjects):
                    part = window(picture, subject)
                    own = likeness(part, scenes.cutout(world, subject, scenes.SUBJECT_SIDE))
                    others = rng.choice(
                        [m for m in range(len(world.names)) if m != subject.name], OTHERS, replace=False
                    )
                    rivals = [
                        likeness(
                            part, scenes.cutout(world, scenes.Subject(int(m), subject.vendor), scenes.SUBJECT_SIDE)
                        )
                        for m in others
                    ]
                    similar.append(own)
                    chance.append(rivals[0])
                    right.append(own > max(rivals))
                    overlap.append(iou(responses[task.scene.numbers[n]], wanted[n]))
                if count == 2:
                    drawings = [scenes.cutout(world, s, scenes.SUBJECT_SIDE) for s in subjects]
                    table = [[likeness(window(picture, s), d) for d in drawings] for s in subjects]
                    swapped.append(table[0][1] + table[1][0] > table[0][0] + table[1][1])
            for name, values in (
                ("similarity", similar), ("chance", chance), ("right", right), ("swapped", swapped), ("IoU", overlap),
            ):  # fmt: skip
                if values:
                    numbers.setdefault(f"{name} ({count})", []).append(float(np.mean(values)))
    return numbers, shown


def table(numbers: dict[str, list[float]]) -> str:
    return "\n".join(
        f"{name:16} {statistics.mean(values):.3f} ± {statistics.pstdev(values):.3f}" for name, values in numbers.items()
    )


def write_sheet(world: art.Art, shown: dict[int, np.ndarray], pictures: int, path: Path) -> None:
    """References above what was drawn with them, ten columns a row."""
    rows = []
    for count, drawn in shown.items():
        for start in range(0, min(len(drawn), 20), 10):
            columns = []
            for task, picture in list(zip(tasks(world, count, pictures), drawn, strict=True))[start : start + 10]:
                top = np.full((scenes.REFERENCE_SIDE, scenes.SIDE, 3), 255, np.uint8)
                for n, subject in enumerate(task.scene.references):
                    left = n * scenes.REFERENCE_SIDE
                    top[:, left : left + scenes.REFERENCE_SIDE] = scenes.draw_reference(world, subject)
                columns.append(np.concatenate([top, picture]))
            rows.append(np.concatenate(columns, 1))
    picture = Image.fromarray(np.concatenate(rows))
    picture.resize((picture.width * 3 // 2, picture.height * 3 // 2), Image.Resampling.BICUBIC).save(path, quality=88)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("dreamo", type=Path, nargs="?")
    parser.add_argument("--art", type=Path, default=Path.home() / ".cache" / "minidreamo" / "art")
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-placeholders", action="store_true")
    arguments = parser.parse_args()
    run = load_config(arguments.config)
    torch.set_num_threads(run.threads or torch.get_num_threads())
    world, artist = art.load(arguments.art), load_artist(run, arguments.dreamo)
    numbers, shown = score(artist, world, arguments.pictures, arguments.seeds, not arguments.no_placeholders)
    print(table(numbers))
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")
    if arguments.sheet:
        write_sheet(world, shown, arguments.pictures, arguments.sheet)


if __name__ == "__main__":
    main()
