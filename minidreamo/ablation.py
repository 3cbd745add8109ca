"""The paper's Table 5 and Figure 6 in the mini world: what each part of the training is worth.

    python3 scripts/host.py exec -m minidreamo.ablation CONFIG.toml OUT_DIR [--steps 0.25] [--seeds 3] [--only NAME…]

Every variant is trained by the trainer from the same base, data, seed and number of steps, then scored on held-out
subjects. What is finished is not done again, so the command may be stopped and repeated. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from dreamo_core.training.config import Run, load_config
from dreamo_core.training.engine import train

from . import art
from .sampling import load_artist
from .score import score


def without_condition_embedding(run: Run) -> Run:
    return replace(run, model=replace(run.model, condition_embedding=False))


def without_routing(run: Run) -> Run:
    return replace(run, losses=replace(run.losses, routing=0.0))


def without_stages(run: Run) -> Run:
    """All tasks from the first step on, for as many steps."""
    last = run.stages[-1]
    return replace(run, stages=(replace(last, warm_up=run.stages[0].warm_up, steps=sum(s.steps for s in run.stages)),))


def without_placeholders(run: Run) -> Run:
    return replace(run, losses=replace(run.losses, placeholders=0.0))


def without_placeholder_loss(run: Run) -> Run:
    return replace(run, losses=replace(run.losses, placeholder=0.0))


VARIANTS = {
    "full": lambda run: run,
    "no condition embedding": without_condition_embedding,
    "no routing loss": without_routing,
    "no progressive stages": without_stages,
    "no placeholders": without_placeholders,
    "no placeholder loss": without_placeholder_loss,
}


def shortened(run: Run, share: float) -> Run:
    return replace(run, stages=tuple(replace(s, steps=max(1, round(s.steps * share))) for s in run.stages))


def run_variant(run: Run, name: str, folder: Path, world: art.Art, pictures: int, seeds: int) -> dict[str, list[float]]:
    """Train and score one variant, or read what an earlier call found."""
    folder = folder / name.replace(" ", "-")
    result = folder / "scores.json"
    if not result.exists():
        variant = replace(VARIANTS[name](run), output=folder)
        dreamo = train(variant)
        marked = variant.losses.placeholders > 0
        numbers, _ = score(load_artist(variant, dreamo), world, pictures, seeds, marked)
        result.write_text(json.dumps(numbers, indent=1) + "\n")
    return json.loads(result.read_text())


def as_table(results: dict[str, dict[str, list[float]]]) -> str:
    columns = list(next(iter(results.values())))
    lines = ["| variant | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, numbers in results.items():
        cells = [f"{statistics.mean(numbers[c]):.3f} ± {statistics.pstdev(numbers[c]):.3f}" for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--art", type=Path, default=Path.home() / ".cache" / "minidreamo" / "art")
    parser.add_argument("--steps", type=float, default=1.0, help="share of the config's steps")
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    run = shortened(load_config(arguments.config), arguments.steps)
    torch.set_num_threads(run.threads or torch.get_num_threads())
    world = art.load(arguments.art)
    results = {}
    for name in arguments.only:
        results[name] = run_variant(run, name, arguments.out, world, arguments.pictures, arguments.seeds)
        print(name, flush=True)
    print(
        f"\n{sum(s.steps for s in run.stages)} steps each, {arguments.seeds} seeds of {arguments.pictures} pictures\n"
    )
    print(as_table(results))


if __name__ == "__main__":
    main()
