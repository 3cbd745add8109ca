"""Draw with the trained weights outside the host: for scores, and for stage 3's own pictures of the base."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dreamo_core.training.config import Run
from dreamo_core.training.encoders import clip_ids, t5_inputs
from dreamo_core.training.engine import build_model, load_encoders
from dreamo_core.training.export import load_released
from dreamo_core.training.features import Encoders
from dreamo_core.training.model import DreamOTransformer
from minidreamo.autoencoder import SCALE, SHIFT

HOST_SHIFT = 1.15
"""The host's FLUX.1 default: times are shifted by exp of this."""


def host_times(steps: int) -> list[float]:
    """The host's `simple` schedule for FLUX.1: steps + 1 times from 1 to 0."""
    factor = math.exp(HOST_SHIFT)
    table = [factor / (factor + (10000 / (n + 1) - 1)) for n in range(10000)]
    return [table[-(1 + int(n * 10000 / steps))] for n in range(steps)] + [0.0]


@dataclass(frozen=True)
class Artist:
    """A model and what it needs to read prompts and make pixels."""

    model: DreamOTransformer
    encoders: Encoders
    guidance: float

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(b, 3, h, w) in −1 to 1 to latents as the transformer sees them."""
        return (self.encoders.autoencoder.encode(pixels) - SHIFT) * SCALE

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents as the transformer sees them to (b, 3, h, w) in −1 to 1."""
        return self.encoders.autoencoder.decode(latents / SCALE + SHIFT).clamp(-1, 1)

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, list[dict[int, int]]]:
        tokens = [self.encoders.t5_prompts(prompt) for prompt in prompts]
        longest = max(len(t.ids) for t in tokens)
        ids = torch.tensor([t.ids + (0,) * (longest - len(t.ids)) for t in tokens])
        inputs = t5_inputs(self.encoders.t5.shared.weight, self.model.placeholders, ids)
        pooled = self.encoders.clip(input_ids=clip_ids(self.encoders.clip_tokenizer, list(prompts))).pooler_output
        return self.encoders.t5(inputs_embeds=inputs).last_hidden_state, pooled, [t.placeholders for t in tokens]

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[str], references: Sequence[torch.Tensor], seed: int, steps: int = 12, cfg: float = 1.0,
        side: int = 96, watch: Callable[[torch.Tensor], None] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
        """Euler on the host's schedule, from the host's noise.

        Args:
            references: each (b, 16, h, w) latents, one per place in the chain.
            watch: shown every step's (k, b, r, n) response maps of the k probed blocks.
            cfg: true classifier-free guidance against the empty prompt without references; 1 for none.

        Returns:
            (b, 16, h, w) latents, and (b, r, n) response maps, the mean over blocks and steps.
        """
        count = len(prompts)
        text, pooled, placeholders = self.text(prompts)
        empty, empty_pooled, _ = self.text([""] * count)
        places = [[p.get(n, -1) for n in range(len(references))] for p in placeholders]
        positions = torch.tensor(places, dtype=torch.long).reshape(count, len(references))
        generator = torch.Generator().manual_seed(seed)
        latent = torch.randn(count, 16, side // 8, side // 8, generator=generator)
        guidance = torch.full((count,), self.guidance)
        maps = []
        times = host_times(steps)
        for now, then in zip(times, times[1:], strict=False):
            at = torch.full((count,), now)
            out = self.model(latent, at, text, pooled, guidance, references, positions=positions)
            velocity = out.velocity
            if out.maps is not None:
                maps.append(out.maps.mean(0))
                if watch:
                    watch(out.maps)
            if cfg != 1.0:
                plain = self.model(latent, at, empty, empty_pooled, guidance).velocity
                velocity = plain + cfg * (velocity - plain)
            latent = latent + (then - now) * velocity
        return latent, torch.stack(maps).mean(0) if maps else None

    def draw(self, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `sample`, with (b, 3, h, w) pixels in −1 to 1."""
        latent, maps = self.sample(*args, **kwargs)
        return self.decode(latent), maps


def load_artist(run: Run, dreamo: Path | None) -> Artist:
    """The base of a run's config, with a `dreamo.safetensors` or without."""
    encoders = load_encoders(run)
    model = build_model(run, encoders.t5.config.d_model).eval()
    if dreamo:
        load_released(model, dreamo)
    return Artist(model, encoders, run.times.guidance)
