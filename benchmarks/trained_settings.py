"""What only trained weights can tell: reuse of references, their strength and their range, in the mini world.

    python3 scripts/host.py exec benchmarks/trained_settings.py [--pictures 24] [--seeds 2] [--dreamo FILE]

Held-out subjects in pairs, drawn by the host's own sampler in 12 steps, every setting with the same prompts and seeds.
`error` is ‖latent − latent of the unchanged settings‖ / ‖the latter‖; beside it is its part of the spread between
seeds, which is the same number for two seeds of one prompt. `subject` and `named` are those of `minidreamo.score`,
and `ran in steps` says in how many of them the references were computed. Prints three Markdown tables.
"""

from __future__ import annotations

import argparse
import logging
import re
import statistics
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from boot import REPO, boot

boot(cpu=True)
sys.path.insert(0, str(REPO))

import nodes  # noqa: E402  the host's
from dreamo_routed.dreamo_core.host.reuse import with_policy  # noqa: E402
from dreamo_routed.dreamo_core.reuse.policy import EXACT, PRESETS, ReusePolicy  # noqa: E402
from dreamo_routed.dreamo_core.sequence.reference import References  # noqa: E402
from dreamo_routed.minidreamo.host import mini_world  # noqa: E402
from dreamo_routed.nodes.apply import DreamOApply  # noqa: E402
from dreamo_routed.nodes.text import DreamOTextEncode  # noqa: E402
from mini_host import Host  # noqa: E402

from minidreamo import art, classifier  # noqa: E402
from minidreamo.score import SEED, Task, measure, tasks  # noqa: E402

STEPS = 12


@dataclass(frozen=True)
class Setting:
    """A policy for reuse, and what every reference is changed to."""

    policy: ReusePolicy = EXACT
    reference: dict[str, float] = field(default_factory=dict)


REUSE = {
    "exact": Setting(),
    **{f"preset {name}": Setting(settings) for name, settings in PRESETS.items() if settings is not EXACT},
    "never refreshed": Setting(ReusePolicy(refresh="never")),
    **{f"sigma distance {d}": Setting(ReusePolicy(refresh="sigma distance", sigma_distance=d)) for d in (0.2, 0.3)},
    **{f"drift {d}": Setting(ReusePolicy(refresh="drift", drift=d)) for d in (0.05, 0.1, 0.25, 0.5, 1.0)},
}
STRENGTH = {f"{s:g}": Setting(reference={"strength": s}) for s in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)}
RANGE = {
    "0 to 1": Setting(),
    **{f"0 to {end:g}": Setting(reference={"end_percent": end}) for end in (0.25, 0.5, 0.75)},
    **{f"{start:g} to 1": Setting(reference={"start_percent": start}) for start in (0.1, 0.25, 0.5)},
}
TABLES = {"reuse": REUSE, "strength": STRENGTH, "start to end": RANGE}


class Refreshes(logging.Handler):
    """Takes from the log in how many steps a run's references ran; a run that reuses nothing says nothing."""

    def __init__(self):
        super().__init__()
        self.seen: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        if match := re.search(r"references ran in (\d+) of \d+ model calls", record.getMessage()):
            self.seen.append(int(match[1]))


def sample(host: Host, task: Task, chain: References, seed: int, setting: Setting) -> torch.Tensor:
    """(1, 16, 12, 12)."""
    chain = tuple(replace(reference, **setting.reference) for reference in chain)
    (positive,) = DreamOTextEncode.execute(host.clip, host.dreamo, task.scene.text(placeholders=True), 3.5, chain).args
    model, positive = DreamOApply.execute(host.model, positive, chain, host.dreamo).args[:2]
    if setting.policy.reuses or setting.policy.prune:
        model = with_policy(model, setting.policy)
    empty = {"samples": torch.zeros(1, 16, 12, 12)}
    (latent,) = nodes.common_ksampler(model, seed, STEPS, 1.0, "euler", "simple", positive, positive, empty)
    return latent["samples"]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--art", type=Path, default=classifier.CACHE / "art")
    parser.add_argument("--dreamo", type=Path, default=mini_world.WEIGHTS / "dreamo.safetensors")
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    arguments = parser.parse_args()
    world, host = art.load(arguments.art), Host(arguments.dreamo)
    judge = classifier.load(world)
    chosen = tasks(world, 2, arguments.pictures)
    seeds = range(SEED, SEED + arguments.seeds)
    with torch.no_grad():
        chains = [host.chain_of(world, task) for task in chosen]
        unchanged = {
            (n, seed): sample(host, task, chains[n], seed, Setting()) for n, task in enumerate(chosen) for seed in seeds
        }
    spread = statistics.fmean(
        distance(unchanged[n, a], unchanged[n, b]) for n in range(len(chosen)) for a in seeds for b in seeds if a != b
    )
    log = Refreshes()
    logging.getLogger().addHandler(log)
    logging.getLogger().setLevel(logging.INFO)
    print(f"{arguments.seeds} seeds of {arguments.pictures} pairs; spread between seeds {spread:.3f}\n")
    for title in arguments.only:
        print(f"| {title} | ran in steps | error | of the spread | subject (2) | named (2) | swapped (2) |")
        print("|" + " --- |" * 7)
        for name, setting in TABLES[title].items():
            log.seen.clear()
            errors, found = [], {"subject": [], "named": [], "swapped": []}
            for (n, seed), wanted in unchanged.items():
                with torch.no_grad():
                    latent = sample(host, chosen[n], chains[n], seed, setting)
                    picture = (host.vae.decode(latent)[0].clamp(0, 1) * 255).round().byte().numpy()
                errors.append(distance(latent, wanted))
                # The same rivals for every setting.
                rng = np.random.default_rng(chosen[n].scene.seed)
                numbers = measure(judge, world, chosen[n], picture, rng)
                for key, values in found.items():
                    values += numbers[key]
            error = statistics.fmean(errors)
            means = " | ".join(f"{np.mean(values):.3f}" for values in found.values())
            ran = f"{statistics.fmean(log.seen):.1f}" if log.seen else ""
            print(f"| {name} | {ran} | {error:.4f} | {error / spread:.1%} | {means} |", flush=True)
        print()


if __name__ == "__main__":
    main()
