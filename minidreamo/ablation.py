"""The paper's Table 5 and Figure 6 in the mini world: what each part of the training is worth.

    python3 scripts/host.py exec -m minidreamo.ablation CONFIG.toml OUT_DIR [--steps 0.25] [--minutes 60] [--only NAME…]
    python3 scripts/host.py exec -m minidreamo.ablation CONFIG.toml OUT_DIR --table

Every variant is trained by the trainer from the same base, data, seed and number of steps, then scored on held-out
subjects; its scores are written at once. What is finished is not done again and what is not goes on, so the command may
be stopped, killed and repeated. `--minutes` is for the whole command: it stops with a checkpoint and says what is left.
Prints Markdown tables of whatever is there; `--table` does nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dreamo_core.training.config import Run, load_config
from dreamo_core.training.engine import train
from dreamo_core.training.resume import progress

from . import art, classifier
from .intervals import interval, pictures_needed
from .sampling import Artist, load_artist
from .score import over_pictures, over_seeds, score_pictures


def without_condition_embedding(run: Run) -> Run:
    return replace(run, model=replace(run.model, condition_embedding=False))


def without_routing(run: Run) -> Run:
    return replace(run, losses=replace(run.losses, routing=0.0))


def without_stages(run: Run) -> Run:
    """The widest mixture from the first step on, for as many steps; quality tuning afterwards stays."""
    tuning = [s for s in run.stages[1:] if s.reference_token_drop]
    learning = [s for s in run.stages if s not in tuning]
    steps = sum(s.steps for s in learning)
    return replace(run, stages=(replace(learning[-1], warm_up=run.stages[0].warm_up, steps=steps), *tuning))


def without_placeholders(run: Run) -> Run:
    return replace(run, losses=replace(run.losses, placeholders=0.0))


def without_placeholder_loss(run: Run) -> Run:
    return replace(run, losses=replace(run.losses, placeholder=0.0))


VARIANTS: dict[str, Callable[[Run], Run]] = {
    "full": lambda run: run,
    "no routing loss": without_routing,
    "no condition embedding": without_condition_embedding,
    "no progressive stages": without_stages,
    "no placeholders": without_placeholders,
    "no placeholder loss": without_placeholder_loss,
}
"""Those of the paper's tables first."""

COLUMNS = (
    "subject (1)", "named (1)", "prompt (1)", "IoU (1)", "subject (2)", "named (2)", "prompt (2)", "swapped (2)",
    "IoU (2)",
)  # fmt: skip
PROMPTS = {
    "with placeholders": {"placeholders": True},
    "without placeholders": {"placeholders": False},
}
"""Figure 6. The references of a pair are in either order, so without placeholders only a name can say which is which,
and those of held-out subjects have never been heard."""
PLACEHOLDER_VARIANTS = ("full", "no placeholder loss", "no placeholders")
PLACEHOLDER_COLUMNS = ("swapped (2)", "pixels swapped (2)", "subject (2)", "named (2)")


Tools = Callable[[Path], tuple[Artist, art.Art, classifier.Judge]]


def shortened(run: Run, share: float) -> Run:
    """Every stage, and its warm-up, `share` as long; at least one step each."""

    def part(steps: int) -> int:
        return max(min(steps, 1), round(steps * share))

    return replace(run, stages=tuple(replace(s, steps=part(s.steps), warm_up=part(s.warm_up)) for s in run.stages))


def recipe(run: Run) -> str:
    """Changes when anything does that the trained weights depend on."""
    digest = hashlib.sha256(repr(replace(run, output=Path(), save_every=1, log_every=1, threads=1)).encode())
    base = (run.base.transformer, run.base.autoencoder, run.base.t5, run.base.clip)
    for path in dict.fromkeys((*base, *(stage.manifest for stage in run.stages))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Ablation:
    """The variants of one run in a folder.

    Attributes:
        run: with its final numbers of steps.
        pictures, seeds: of scoring.
        trained: a finished `dreamo.safetensors` of the run itself, so that `full` need not be trained again.
    """

    run: Run
    folder: Path
    pictures: int
    seeds: int
    trained: Path | None = None

    def of(self, name: str) -> Run:
        return replace(VARIANTS[name](self.run), output=self.folder / name.replace(" ", "-"))

    def claim(self, name: str) -> None:
        """Make a variant's folder, or see that it is this variant's.

        Raises:
            SystemExit: the folder was made from another config, base or data.
        """
        folder, wanted = self.of(name).output, recipe(self.of(name))
        note = folder / "recipe.txt"
        if folder.exists() and (not note.exists() or note.read_text() != wanted):
            raise SystemExit(
                f"{folder} was made from another config, base or data; remove it or choose another OUT_DIR."
            )
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(wanted)

    def weights(self, name: str, until: float | None) -> Path | None:
        """Train a variant, or go on with it; None if time ran out."""
        variant = self.of(name)
        if name == "full" and self.trained:
            return self.trained
        dreamo = train(variant, until)
        return dreamo if progress(variant.output)[0] == len(variant.stages) else None

    def _key(self, prompts: str) -> str:
        return f"{prompts} ({self.pictures} pictures, {self.seeds} seeds)"

    def _stored(self, name: str) -> dict[str, dict[str, list[list[float]]]]:
        path = self.of(name).output / "scores.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def measure(self, name: str, prompts: str, counts: tuple[int, ...], tools: Tools, until: float | None) -> bool:
        """Score a variant with one kind of prompt, unless it has been; whether the scores are there now.

        Args:
            counts: numbers of references.
            tools: gives artist, art and judge for a `dreamo.safetensors`.

        Raises:
            SystemExit: see `claim`.
        """
        self.claim(name)
        found, key = self._stored(name), self._key(prompts)
        if key in found:
            return True
        dreamo = self.weights(name, until)
        if dreamo is None or (until is not None and time.time() > until):
            return False
        numbers, _ = score_pictures(*tools(dreamo), self.pictures, self.seeds, counts=counts, **PROMPTS[prompts])
        (self.of(name).output / "scores.json").write_text(json.dumps({**found, key: numbers}, indent=1) + "\n")
        return True

    def scores(self, name: str, prompts: str) -> dict[str, list[list[float]]]:
        """Those with this number of pictures and seeds, empty if there are none."""
        return self._stored(name).get(self._key(prompts), {})


def own_prompts(name: str) -> str:
    """The prompts that a variant was trained for."""
    return "without placeholders" if name == "no placeholders" else "with placeholders"


def as_table(first: str, rows: dict[str, dict[str, list[float]]], columns: tuple[str, ...]) -> str:
    """Markdown; a dash where a number is missing."""
    lines = [f"| {first} | " + " | ".join(columns) + " |", "|" + " --- |" * (len(columns) + 1)]
    for name, numbers in rows.items():
        cells = [
            f"{statistics.mean(numbers[c]):.3f} ± {statistics.pstdev(numbers[c]):.3f}" if c in numbers else "–"
            for c in columns
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def interval_table(first: str, rows: dict[str, dict[str, list[list[float]]]], columns: tuple[str, ...]) -> str:
    """Markdown: mean and 95 % interval over pictures."""
    lines = [f"| {first} | " + " | ".join(columns) + " |", "|" + " --- |" * (len(columns) + 1)]
    for name, numbers in rows.items():
        cells = []
        for column in columns:
            values = over_pictures(numbers[column]) if column in numbers else []
            low, high = interval(values) if values else (0.0, 0.0)
            cells.append(f"{statistics.fmean(values):.3f} ({low:.2f} to {high:.2f})" if values else "–")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def needed_table(rows: dict[str, dict[str, list[list[float]]]], columns: tuple[str, ...]) -> str:
    """Markdown: the pictures a variant and `full` would have to draw for their gap to exceed its 95 % interval."""
    full = rows["full"]
    lines = ["| told apart from full by | " + " | ".join(columns) + " |", "|" + " --- |" * (len(columns) + 1)]
    for name, numbers in rows.items():
        cells = []
        for column in columns if name != "full" else ():
            if column not in numbers or column not in full:
                cells.append("–")
                continue
            own, other = over_pictures(full[column]), over_pictures(numbers[column])
            count = pictures_needed(statistics.fmean(own) - statistics.fmean(other), statistics.pstdev(own))
            cells.append(f"{count:.0f} pictures" if math.isfinite(count) else "never")
        if cells:
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables(ablation: Ablation) -> str:
    """Table 5 and Figure 6 from what is there."""
    variants = {name: ablation.scores(name, own_prompts(name)) for name in VARIANTS}
    holders = {
        f"{name}, {prompts}": ablation.scores(name, prompts) for name in PLACEHOLDER_VARIANTS for prompts in PROMPTS
    }
    steps = sum(stage.steps for stage in ablation.run.stages)
    seen = {k: v for k, v in variants.items() if v}
    parts = [f"{steps} steps each; {ablation.seeds} seeds of {ablation.pictures} pictures, mean ± deviation over seeds"]
    parts += [as_table("variant", {name: over_seeds(numbers) for name, numbers in seen.items()}, COLUMNS)]
    parts += ["Mean and 95 % interval over pictures:", interval_table("variant", seen, COLUMNS)]
    if len(seen) > 1 and "full" in seen:
        parts += [needed_table(seen, COLUMNS)]
    if found := {k: over_seeds(v) for k, v in holders.items() if v}:
        parts += [as_table("trained, then prompted", found, PLACEHOLDER_COLUMNS)]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--art", type=Path, default=classifier.CACHE / "art")
    parser.add_argument("--steps", type=float, default=1.0, help="share of the config's steps")
    parser.add_argument("--minutes", type=float, help="of the whole command")
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--full", type=Path, help="a finished dreamo.safetensors of the config itself")
    parser.add_argument("--table", action="store_true", help="print what is there and do nothing")
    arguments = parser.parse_args()
    run = shortened(load_config(arguments.config), arguments.steps)
    if arguments.full and arguments.steps != 1:
        parser.error("--full is of all steps; leave --steps out")
    ablation = Ablation(run, arguments.out, arguments.pictures, arguments.seeds, arguments.full)
    if not arguments.table:
        torch.set_num_threads(run.threads or torch.get_num_threads())
        world = art.load(arguments.art)
        until = None if arguments.minutes is None else time.time() + 60 * arguments.minutes

        def tools(name: str) -> Tools:
            return lambda dreamo: (load_artist(ablation.of(name), dreamo), world, classifier.load(world))

        jobs = [(name, own_prompts(name), (1, 2)) for name in arguments.only]
        jobs += [
            (name, prompts, (2,))
            for name in PLACEHOLDER_VARIANTS
            if name in arguments.only
            for prompts in PROMPTS
            if prompts != own_prompts(name)
        ]
        for name, prompts, counts in jobs:
            if until is not None and time.time() > until:
                print("time is up; the same command goes on", flush=True)
                break
            done = ablation.measure(name, prompts, counts, tools(name), until)
            print(f"{name}, {prompts}: {'scored' if done else 'not finished; the same command goes on'}", flush=True)
    print(f"\n{tables(ablation)}")


if __name__ == "__main__":
    main()
