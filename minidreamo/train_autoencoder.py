"""Make the mini world's autoencoder: fit its linear encoder, then train its decoder.

    python -m minidreamo.train_autoencoder CACHE_DIR OUT.safetensors [--steps 3000]

The encoder is final before the first step, so the transformer may be trained while the decoder still is.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from minidreamo.autoencoder import BlockAutoencoder

from . import art, scenes
from .store import save_half


def batch(world: art.Art, rng: np.random.Generator, size: int) -> torch.Tensor:
    """(size, 3, 96, 96) in −1 to 1: scenes, and references on white."""
    pool = np.argwhere(world.trained)
    pictures = []
    for _ in range(size):
        scene = scenes.random_scene(world, rng, pool, int(rng.integers(1, 4)))
        picture, _ = scenes.draw(world, scene)
        if rng.random() < 0.2:
            picture[: scenes.REFERENCE_SIDE, : scenes.REFERENCE_SIDE] = scenes.draw_reference(world, scene.subjects[0])
        pictures.append(picture)
    return scenes.to_pixels(np.stack(pictures))


def save(model: BlockAutoencoder, out: Path, about: dict[str, str]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    save_half(model.state_dict(), out, about)


def load(path: Path) -> BlockAutoencoder:
    model = BlockAutoencoder()
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return model.eval().requires_grad_(False)


def train(cache: Path, out: Path, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    world = art.load(cache)
    model = BlockAutoencoder()
    model.fit_linear(batch(world, rng, 600))
    model.analysis.requires_grad_(False)
    save(model, out, {"steps": "0", "seed": str(seed)})
    print("the encoder is fitted", flush=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3, betas=(0.9, 0.98))
    start = time.time()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 50, 2.2 * (1 - step / steps))
        pixels = batch(world, rng, 8)
        latent = model.encode(pixels)
        # A sampled latent is never exact: the decoder learns to bear a little noise.
        difference = model.decode(latent + 0.1 * torch.randn_like(latent)) - pixels
        loss = difference.abs().mean() + difference.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            psnr = -10 * torch.log10(difference.square().mean() / 4)
            print(f"step {step + 1} {time.time() - start:.0f}s loss {loss.item():.4f} psnr {psnr:.2f}", flush=True)
    save(model, out, {"steps": str(steps), "seed": str(seed), "seconds": f"{time.time() - start:.0f}"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train(arguments.cache, arguments.out, arguments.steps, arguments.seed)
