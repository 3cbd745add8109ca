"""What routing does to pictures of the mini world with two and three held-out subjects, by the host's own sampler.

    python3 scripts/host.py exec benchmarks/routed_scores.py [--pictures 24] [--seeds 2] [--dreamo FILE]

The same prompts and seeds are drawn unrouted and with routing in four settings, and judged as in `minidreamo.score`:
`subject` is how much a place is like its reference, `other` how much it is like the other references of the picture,
which routing is to keep out. Then the same without placeholders in the prompts, where nothing but routing can say which
reference is meant: unrouted, by the words of the prompt, and with a box painted around each subject.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from boot import REPO, boot

boot(cpu=True)
sys.path.insert(0, str(REPO))

import nodes  # noqa: E402  the host's
from dreamo_routed.dreamo_core.host.routing import with_routing  # noqa: E402
from dreamo_routed.dreamo_core.routing.settings import RoutingSettings  # noqa: E402
from dreamo_routed.dreamo_core.sequence.reference import Reference  # noqa: E402
from dreamo_routed.minidreamo.host import mini_world  # noqa: E402
from dreamo_routed.nodes.apply import DreamOApply  # noqa: E402
from dreamo_routed.nodes.region import FILL, DreamORegion, DreamORoutingWords  # noqa: E402
from dreamo_routed.nodes.text import DreamOTextEncode  # noqa: E402
from mini_host import Host  # noqa: E402

from minidreamo import art, classifier, scenes  # noqa: E402
from minidreamo.ablation import as_table  # noqa: E402
from minidreamo.score import SEED, Task, measure, tasks  # noqa: E402


@dataclass(frozen=True)
class Way:
    """Of drawing a task; `painted` gives every reference a box of its subject's size as its region."""

    routing: RoutingSettings | None = None
    placeholders: bool = True
    painted: bool = False


# A subject stands on nine of 36 tokens.
FIRST = RoutingSettings(gamma=0.25, masks_from="extra first pass")
WORDS = RoutingSettings(gamma=0.25, soft=False, source="words", masks_from="pass without references")
WAYS = {
    "unrouted": Way(),
    "routed": Way(FIRST),
    "routed, hard": Way(replace(FIRST, soft=False)),
    "routed, hard, gamma 0.4": Way(replace(FIRST, soft=False, gamma=0.4)),
    "routed, hard, outside 0.2": Way(replace(FIRST, soft=False, outside=0.2)),
    "no placeholders, unrouted": Way(placeholders=False),
    "no placeholders, routed by words": Way(WORDS, placeholders=False),
    "no placeholders, regions painted": Way(placeholders=False, painted=True),
}


def box(subject: scenes.Subject) -> torch.Tensor:
    """A mask (1, 96, 96) as a user would paint it: the square that the subject is drawn in."""
    mask = np.zeros((scenes.SIDE, scenes.SIDE), np.float32)
    scenes.window(mask, subject, scenes.SUBJECT_SIDE)[:] = 1
    return torch.from_numpy(mask)[None]


def draw(host: Host, world: art.Art, task: Task, chain: tuple[Reference, ...], seed: int, way: Way) -> np.ndarray:
    """(96, 96, 3) bytes."""
    prompt = task.scene.text(way.placeholders)
    (positive,) = DreamOTextEncode.execute(host.clip, host.dreamo, prompt, 3.5, chain).args
    model, positive = DreamOApply.execute(host.model, positive, chain, host.dreamo).args[:2]
    if way.routing:
        model = with_routing(model, way.routing)
        if way.routing.source == "words":
            words = "\n".join(world.names[subject.name] for subject in task.scene.references)
            (positive,) = DreamORoutingWords.execute(positive, host.clip, prompt, words).args
    if way.painted:
        for subject, number in zip(task.scene.subjects, task.scene.numbers, strict=True):
            (positive,) = DreamORegion.execute(positive, box(subject), number + 1, FILL, 0, False).args
    empty = {"samples": torch.zeros(1, 16, 12, 12)}
    (latent,) = nodes.common_ksampler(model, seed, 12, 1.0, "euler", "simple", positive, positive, empty)
    return (host.vae.decode(latent["samples"])[0].clamp(0, 1) * 255).round().byte().numpy()


def others(judge: classifier.Judge, task: Task, picture: np.ndarray) -> list[float]:
    """How much each subject's place is like the references that belong elsewhere."""
    subjects = task.scene.subjects
    features = judge.features([scenes.window(picture, subject, classifier.SIDE) for subject in subjects])
    return [judge.likeness(f, o) for f, s in zip(features, subjects, strict=True) for o in subjects if o is not s]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--art", type=Path, default=classifier.CACHE / "art")
    parser.add_argument("--dreamo", type=Path, default=mini_world.WEIGHTS / "dreamo.safetensors")
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    world, host = art.load(arguments.art), Host(arguments.dreamo)
    judge = classifier.load(world)
    rows: dict[str, dict[str, list[float]]] = {name: {} for name in arguments.only}
    for count in (2, 3):
        for seed in range(arguments.seeds):
            found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in arguments.only}
            for task in tasks(world, count, arguments.pictures):
                with torch.no_grad():
                    chain = host.chain_of(world, task)
                for name in arguments.only:
                    with torch.no_grad():
                        picture = draw(host, world, task, chain, SEED + seed, WAYS[name])
                    # The same rivals for every way.
                    numbers = measure(judge, world, task, picture, np.random.default_rng(task.scene.seed))
                    for key in ("subject", "named", "swapped"):
                        found[name][key] += numbers.get(key, [])
                    found[name]["other"] += others(judge, task, picture)
            for name, values in found.items():
                for key, numbers in values.items():
                    if numbers:
                        rows[name].setdefault(f"{key} ({count})", []).append(float(np.mean(numbers)))
    print(f"{arguments.seeds} seeds of {arguments.pictures} pictures, mean ± deviation over seeds\n")
    print(as_table("sampling", rows, tuple(next(iter(rows.values())))))


if __name__ == "__main__":
    main()
