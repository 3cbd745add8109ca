"""Which samples, noise and times a step uses: a pure function of seed, stage and step.

Every process works out the whole batch and takes its slice, so the number of processes changes nothing, and a run
that stopped needs to remember only its step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..sequence.pruning import random_keep
from . import flow
from .config import Losses, Stage, Times
from .features import FeatureStore
from .manifest import Sample


@dataclass(frozen=True)
class Batch:
    """One process' part of a step.

    Attributes:
        target, noise: (b, 16, h, w); times: (b,).
        references: each (b, 16, h_i, w_i); kept: numbers of the tokens that stay, None for all.
        masks: (b, r, n); not a number where the place is unknown.
        positions: (b, r) of the placeholders, −1 where the prompt has none.
        t5_ids: (b, t) with placeholders; t5: (b, t, c) features of the plain prompts.
        marked: (b,) whether the prompt has placeholders.
        pooled: (b, c).
        routed, placed: conditions with a mask, and with a placeholder, in the batch of all processes.
    """

    target: torch.Tensor
    noise: torch.Tensor
    times: torch.Tensor
    references: tuple[torch.Tensor, ...]
    kept: tuple[torch.Tensor, ...] | None
    masks: torch.Tensor
    positions: torch.Tensor
    t5_ids: torch.Tensor
    t5: torch.Tensor
    marked: torch.Tensor
    pooled: torch.Tensor
    routed: int
    placed: int


class Sampler:
    """Draws samples by a stage's mixture; one batch holds samples of one shape.

    Raises:
        ValueError: the mixture names a task that the manifest does not have.
    """

    def __init__(self, samples: Sequence[Sample], stage: Stage, seed: tuple[int, ...]):
        tasks = defaultdict(list)
        for number, sample in enumerate(samples):
            tasks[sample.task].append(number)
        missing = [task for task in stage.mixture if task not in tasks]
        if missing:
            raise ValueError(
                f"Stage {stage.name!r} wants task {missing[0]!r}, which {stage.manifest.name} does not have; "
                f"it has {', '.join(sorted(tasks))}."
            )
        by_shape: dict[tuple, list[tuple[int, float]]] = defaultdict(list)
        for task, weight in stage.mixture.items():
            for number in tasks[task]:
                by_shape[samples[number].shape].append((number, weight / len(tasks[task])))
        self.groups = []
        for members in by_shape.values():
            numbers, weights = map(np.array, zip(*members, strict=True))
            if weights.sum() > 0:
                self.groups.append((numbers, weights / weights.sum(), weights.sum()))
        self.chances = np.array([total for *_, total in self.groups])
        self.chances /= self.chances.sum()
        self.size = stage.batch
        self.seed = seed

    def draw(self, step: int) -> list[int]:
        rng = np.random.default_rng((*self.seed, step))
        numbers, weights, _ = self.groups[rng.choice(len(self.groups), p=self.chances)]
        return rng.choice(numbers, self.size, p=weights).tolist()


class Batches:
    """Batches of a stage by step number, for one of `world` processes."""

    def __init__(
        self, store: FeatureStore, stage: Stage, losses: Losses, times: Times, seed: tuple[int, ...],
        rank: int = 0, world: int = 1,
    ):  # fmt: skip
        if stage.batch % world:
            raise ValueError(f"Stage {stage.name!r}: a batch of {stage.batch} cannot be split over {world} processes.")
        self.store, self.stage, self.losses, self.times = store, stage, losses, times
        self.sampler = Sampler(store.samples, stage, seed)
        self.seed = seed
        self.mine = slice(rank * stage.batch // world, (rank + 1) * stage.batch // world)

    def __getitem__(self, step: int) -> Batch:
        numbers = self.sampler.draw(step)
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence((*self.seed, step)).generate_state(1)[0]))
        features = [self.store[number] for number in numbers]
        count = len(self.store.samples[numbers[0]].references)
        target = torch.stack([f["target"] for f in features]).float()
        noise = torch.randn(target.shape, generator=generator)
        times = flow.sample_times(len(numbers), generator, self.times.mean, self.times.std, self.times.shift)
        marked = torch.rand(len(numbers), generator=generator) < self.losses.placeholders
        references = tuple(torch.stack([f[f"reference{n}"] for f in features]).float() for n in range(count))
        kept = None
        if self.stage.reference_token_drop:
            kept = tuple(self._keep(reference, generator) for reference in references)
        masks = torch.stack([self._rows(f, "mask", count, target) for f in features])
        positions = torch.stack([f["positions"] for f in features]).long()
        positions = positions.masked_fill(~marked[:, None], -1)
        pooled = torch.stack([f["pooled"] if m else f["pooled_plain"] for f, m in zip(features, marked, strict=True)])
        part = self.mine
        return Batch(
            target[part], noise[part], times[part], tuple(r[part] for r in references), kept, masks[part],
            positions[part], torch.stack([f["t5_ids"] for f in features]).long()[part],
            torch.stack([f["t5"] for f in features]).float()[part], marked[part], pooled.float()[part],
            int(masks.isfinite().all(-1).sum()), int((positions >= 0).sum()),
        )  # fmt: skip

    def _keep(self, reference: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        tokens = reference.shape[-1] * reference.shape[-2] // 4
        return random_keep(tokens, self.stage.reference_token_drop, generator).nonzero().flatten()

    @staticmethod
    def _rows(features: dict[str, torch.Tensor], name: str, count: int, target: torch.Tensor) -> torch.Tensor:
        tokens = target.shape[-1] * target.shape[-2] // 4
        rows = [features[f"{name}{n}"] for n in range(count)]
        return torch.stack(rows) if rows else torch.zeros(0, tokens)
