"""Make the mini world's autoencoder: fit its linear encoder, then train its decoder.

    python -m minidreamo.train_autoencoder CACHE_DIR OUT.safetensors [--steps 3000]

The encoder is final before the first step, so the transformer may be trained while the decoder still is. Goes on from
OUT.state where it stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from . import art, scenes
from .autoencoder import SCALE, BlockAutoencoder
from .store import save_half, save_whole

NOISE, TOKEN_NOISE = 0.12, 0.06
"""Of `disturbed`."""


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


def disturbed(latent: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Latents (b, 16, h, w) as a sampler might give them: uncertain everywhere, and wrong by whole tokens.

    Each has noise of its own strength, up to `NOISE`, and an error that is one within a token, up to `TOKEN_NOISE`,
    both in units of what the transformer sees. A decoder that has seen only exact latents shows the seams of tokens.
    """
    count, channels, height, width = latent.shape

    def strength(most: float) -> torch.Tensor:
        return most / SCALE * torch.rand(count, 1, 1, 1, generator=generator)

    fine = torch.randn(latent.shape, generator=generator)
    coarse = torch.randn(count, channels, height // 2, width // 2, generator=generator)
    coarse = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return latent + strength(NOISE) * fine + strength(TOKEN_NOISE) * coarse


def edges(pixels: torch.Tensor) -> torch.Tensor:
    """Mean size of the differences between neighbours, across and down."""
    return pixels.diff(dim=-1).abs().mean() + pixels.diff(dim=-2).abs().mean()


def train(cache: Path, out: Path, steps: int, seed: int, begin: bool = False, until: float | None = None) -> bool:
    """Train the decoder for so many steps in all, from its last state; whether that is reached.

    Args:
        begin: from the file at `out`, whose encoder stays as it is, instead of from nothing.
        until: stop with a state at this time (seconds since the epoch).
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    world = art.load(cache)
    state = out.with_suffix(".state")
    torch.manual_seed(seed)
    if begin or state.exists():
        model = load(out).requires_grad_(True).train()
    else:
        model = BlockAutoencoder()
        model.fit_linear(batch(world, rng, 600))
        save(model, out, {"steps": "0", "seed": str(seed)})
        print("the encoder is fitted", flush=True)
    model.analysis.requires_grad_(False)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, 1e-3, betas=(0.9, 0.98))
    step = restore(state, model, optimizer)
    if step >= steps:
        return True
    saved = time.time()
    while step < steps and (until is None or time.time() < until):
        # Pictures and noise depend on the step alone, so a training that was stopped goes on the same.
        rng, generator = np.random.default_rng((seed, step)), generator.manual_seed(seed * 1_000_003 + step)
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 50, 2.2 * (1 - step / steps))
        pixels = batch(world, rng, 8)
        difference = model.decode(disturbed(model.encode(pixels), generator)) - pixels
        loss = difference.abs().mean() + difference.square().mean() + edges(difference)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 100 == 0:
            psnr = -10 * torch.log10(difference.detach().square().mean() / 4)
            print(f"decoder: step {step} of {steps}, loss {loss.item():.4f}, {psnr:.2f} dB with noise", flush=True)
        if time.time() - saved > 60:
            keep(state, model, optimizer, step)
            saved = time.time()
    keep(state, model, optimizer, step)
    if step == steps:
        save(model, out, {"steps": str(steps), "seed": str(seed)})
    return step == steps


def keep(path: Path, model: BlockAutoencoder, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items()}
    save_whole(tensors, path, {"step": str(step)})


def restore(path: Path, model: BlockAutoencoder, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on with; 0 without a state."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
    tensors = load_file(path)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--begin", action="store_true", help="from OUT as it is; its encoder stays")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train(arguments.cache, arguments.out, arguments.steps, arguments.seed, arguments.begin)
