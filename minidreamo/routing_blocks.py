"""Which blocks know where a reference belongs: the IoU of their response maps with the true masks.

    python3 scripts/host.py exec -m minidreamo.routing_blocks CONFIG.toml DREAMO.safetensors [--pictures 24] [--seeds 2]

Held-out subjects are drawn with placeholders, one, two and three references. A block's map (Eq. 2) is made as routing
makes it, brought to 0 to 1 and averaged over the steps so far; its top tokens, as many as the mask has, are compared
with the mask. Sets of blocks have the mean of their maps. Prints a Markdown table: every block, both kinds, all, and
the best pairs; `first 3 steps` is what routing has to begin with.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dreamo_core.routing.masks import min_max
from dreamo_core.training.config import load_config

from . import art, classifier, scenes
from .sampling import Artist, load_artist
from .score import SEED, Task, draw_all, in_prompts_order, iou, tasks, token_masks

FIRST = 3
COUNTS = (1, 2, 3)
BEST_PAIRS = 5


def collect(artist: Artist, world: art.Art, chosen: list[Task], seed: int) -> torch.Tensor:
    """(steps, k, b, r, n) maps in 0 to 1 of every block."""
    seen: list[torch.Tensor] = []
    draw_all(artist, world, chosen, seed, watch=lambda maps: seen.append(min_max(in_prompts_order(maps, chosen))))
    return torch.stack(seen)


def overlap(maps: torch.Tensor, masks: Sequence[torch.Tensor]) -> float:
    """Mean IoU of (b, r, n) maps with b masks of (r, n)."""
    return float(np.mean([iou(m, t) for maps_, masks_ in zip(maps, masks, strict=True)
                          for m, t in zip(maps_, masks_, strict=True)]))  # fmt: skip


def block_sets(double: int, single: int) -> dict[str, tuple[int, ...]]:
    """Names as DreamO Routing's `blocks` writes them, and numbers, double blocks first."""
    names = [f"double {n}" for n in range(double)] + [f"single {n}" for n in range(single)]
    sets = {name: (n,) for n, name in enumerate(names)}
    sets |= {"double": tuple(range(double)), "single": tuple(range(double, double + single))}
    sets["all"] = tuple(range(double + single))
    return sets | {f"{names[a]}, {names[b]}": (a, b) for a, b in itertools.combinations(range(len(names)), 2)}


def measure(
    artist: Artist, world: art.Art, pictures: int, seeds: int, sets: dict[str, tuple[int, ...]]
) -> dict[str, dict[str, float]]:
    """IoU by set and column, the mean over seeds."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in sets}
    for count in COUNTS:
        chosen = tasks(world, count, pictures)
        masks = [token_masks(scenes.draw(world, task.scene)[1]) for task in chosen]
        for seed in range(seeds):
            maps = collect(artist, world, chosen, SEED + seed)
            for span, part in (("all steps", maps.mean(0)), (f"first {FIRST} steps", maps[:FIRST].mean(0))):
                for name, numbers in sets.items():
                    value = overlap(part[list(numbers)].mean(0), masks)
                    found[name].setdefault(f"{count}, {span}", []).append(value)
    return {name: {column: float(np.mean(v)) for column, v in columns.items()} for name, columns in found.items()}


def table(found: dict[str, dict[str, float]], sets: dict[str, tuple[int, ...]]) -> str:
    """Markdown: single blocks and kinds in order, then the best pairs."""
    means = {name: float(np.mean(list(columns.values()))) for name, columns in found.items()}
    pairs = sorted((n for n in sets if "," in n), key=lambda n: -means[n])[:BEST_PAIRS]
    columns = list(next(iter(found.values())))
    lines = ["| blocks | mean | " + " | ".join(columns) + " |", "|" + " --- |" * (len(columns) + 2)]
    for name in [n for n in sets if "," not in n] + pairs:
        cells = [f"{value:.3f}" for value in (means[name], *found[name].values())]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("dreamo", type=Path)
    parser.add_argument("--art", type=Path, default=classifier.CACHE / "art")
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    run = load_config(arguments.config)
    torch.set_num_threads(run.threads or torch.get_num_threads())
    artist = load_artist(replace(run, model=replace(run.model, probed=())), arguments.dreamo)
    flux = artist.model.transformer
    sets = block_sets(len(flux.transformer_blocks), len(flux.single_transformer_blocks))
    found = measure(artist, art.load(arguments.art), arguments.pictures, arguments.seeds, sets)
    print(f"IoU by number of references, {arguments.seeds} seeds of {arguments.pictures} pictures\n")
    print(table(found, sets))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
