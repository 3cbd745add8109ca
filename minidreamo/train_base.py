"""Train the mini world's text-to-image base: a small FLUX.1 with its CLIP-L, on the frozen T5 of `train_text`.

    python -m minidreamo.train_base CACHE_DIR WEIGHTS_DIR WORK_DIR TOKENIZERS [--minutes 40] [--begin]

TOKENIZERS is the folder that holds `text_encoders/t5_tokenizer` and `sd1_tokenizer` (ComfyUI's `comfy`). Stops after
the given minutes of training in all; started again, it goes on from WORK_DIR/base.safetensors. Writes flux.safetensors
(the host's layout) and clip.safetensors to WEIGHTS_DIR; with `--begin` the training begins from those that are there.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast

from dreamo_core.sequence.positions import grid_ids
from dreamo_core.training import flow, weight_map
from dreamo_core.training.encoders import T5Prompts, load_clip, load_t5
from dreamo_core.training.model import load_transformer
from minidreamo.autoencoder import SCALE, SHIFT

from . import art, scenes
from .attention import explicit_attention
from .store import save_half
from .train_autoencoder import load as load_autoencoder
from .train_text import T5_CONFIG

CLIP_CONFIG = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
    "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407, "attention_dropout": 0.0,
}  # fmt: skip
FLUX_CONFIG = {
    "patch_size": 1, "in_channels": 64, "num_layers": 2, "num_single_layers": 6, "attention_head_dim": 48,
    "num_attention_heads": 4, "joint_attention_dim": 64, "pooled_projection_dim": 32, "guidance_embeds": True,
    "axes_dims_rope": (8, 20, 20),
}  # fmt: skip
STATE = "base.safetensors"
TEXT_TOKENS = 24
"""Prompts are padded to this; longer ones stay longer."""
BATCH = 32
RATE = 2e-3
COMMON_SHARE = 0.6
"""Of the pictures that show the common subjects only."""
STYLED = 0.6
"""Share of names that say their style: which word belongs to which subject is what DreamO rests on."""
TWINS = 0.6
"""Share of the pairs that show one drawing twice: a large base can repeat a subject within a picture, and DreamO rests
on it."""


class Scenes(torch.utils.data.Dataset):
    """Endless batches of training scenes, the n-th always the same."""

    def __init__(self, world: art.Art, weights: Path, tokenizers: Path, seed: int, size: int):
        self.world, self.seed, self.size = world, seed, size
        self.pools = (np.argwhere(world.trained), scenes.common_pool(world))
        self.autoencoder = load_autoencoder(weights / "autoencoder.safetensors")
        self.t5 = T5Prompts(tokenizers / "text_encoders" / "t5_tokenizer", T5_CONFIG["vocab_size"], TEXT_TOKENS)
        self.clip = CLIPTokenizerFast.from_pretrained(tokenizers / "sd1_tokenizer")

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents as the transformer sees them, T5 ids and CLIP ids."""
        rng = np.random.default_rng((self.seed, number))
        pictures, texts = [], []
        for _ in range(self.size):
            pool = self.pools[int(rng.random() < COMMON_SHARE)]
            count = int(rng.choice([1, 2, 3], p=[0.42, 0.5, 0.08]))
            twins = count == 2 and rng.random() < TWINS
            # Twins in other colours cannot be drawn by name alone: the one must be seen in the other.
            recoloured = 0.5 if twins else 0.0
            scene = scenes.random_scene(
                self.world, rng, pool, count, styled=STYLED, twins=twins, mirrored=0.5, recoloured=recoloured
            )
            pictures.append(scenes.draw(self.world, scene)[0])
            # A tenth learns without text, so that true classifier-free guidance works.
            texts.append(scene.text() if rng.random() > 0.1 else "")
        with torch.no_grad():
            latents = (self.autoencoder.encode(scenes.to_pixels(np.stack(pictures))) - SHIFT) * SCALE
        ids = [self.t5(text).ids for text in texts]
        longest = max(map(len, ids))
        t5 = torch.tensor([row + (0,) * (longest - len(row)) for row in ids])
        return latents, t5, self.clip(texts, padding=True, truncation=True, return_tensors="pt")["input_ids"]


def build(seed: int) -> nn.ModuleDict:
    """A transformer and a CLIP-L that know nothing."""
    torch.manual_seed(seed)
    model = nn.ModuleDict(
        {"flux": FluxTransformer2DModel(**FLUX_CONFIG), "clip": CLIPTextModel(CLIPTextConfig(**CLIP_CONFIG))}
    )
    # Every block starts as the identity (Peebles and Xie 2023, adaLN-Zero).
    for name, module in model["flux"].named_modules():
        if name.endswith(("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear", "proj_out")):
            if name.startswith("single") and name.endswith("proj_out"):
                continue
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def load(weights: Path) -> nn.ModuleDict:
    """Those that `export` wrote."""
    flux, clip = load_transformer(weights / "flux.safetensors"), load_clip(weights / "clip.safetensors")
    return nn.ModuleDict({"flux": flux, "clip": clip}).requires_grad_(True).train()


def predict(model: nn.ModuleDict, noisy: torch.Tensor, times: torch.Tensor, text: torch.Tensor, clip: torch.Tensor):
    """Velocity of (b, 16, h, w) latents, from T5's (b, t, c) features and CLIP's ids."""
    (height, width), device = noisy.shape[-2:], noisy.device
    pooled = model["clip"](input_ids=clip).pooler_output
    out = model["flux"](
        hidden_states=flow.pack(noisy),
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=times,
        guidance=1 + 4 * torch.rand(len(noisy), device=device),
        img_ids=grid_ids((height // 2, width // 2)).to(device),
        txt_ids=torch.zeros(text.shape[1], 3, device=device),
    ).sample
    return flow.unpack(out, height, width)


def build_optimizers(model: nn.ModuleDict) -> dict[str, torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of the transformer's blocks, AdamW for everything else.

    In five minutes from nothing on one core, loss on validation scenes 0.617, against 0.642 with AdamW alone.
    """
    blocks, others = [], []
    for name, parameter in model.named_parameters():
        inner = "transformer_blocks." in name and "norm" not in name and parameter.ndim == 2
        (blocks if inner else others).append(parameter)
    return {
        "muon": torch.optim.Muon(blocks, RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        "adamw": torch.optim.AdamW(others, RATE, betas=(0.9, 0.98), weight_decay=0.0),
    }


def save_state(path: Path, model, average, optimizers, spent: float, step: int, generator: torch.Generator) -> None:
    """Everything needed to go on, in one file that is complete or absent."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for kind, optimizer in optimizers.items():
        for n, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{kind}.{n}.{k}": v for k, v in state.items()}
    tensors |= {"generator": generator.get_state()}
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    save_file(tensors, str(path) + ".part", {"spent": str(spent), "step": str(step)})
    os.replace(str(path) + ".part", path)


def load_state(path: Path, model, average, optimizers, generator: torch.Generator) -> tuple[float, int]:
    with safe_open(path, "pt") as file:
        spent, step = float(file.metadata()["spent"]), int(file.metadata()["step"])
    tensors = load_file(path)

    def part(prefix):
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    model.load_state_dict(part("model."))
    average.load_state_dict(part("average."))
    generator.set_state(tensors["generator"])
    for kind, optimizer in optimizers.items():
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in part(f"{kind}.").items():
            number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return spent, step


def minutes_spent(work: Path) -> float:
    """Of training in all, by the state in a folder."""
    if not (work / STATE).exists():
        return 0.0
    with safe_open(work / STATE, "pt") as file:
        return float(file.metadata()["spent"]) / 60


def clip_state(clip: CLIPTextModel) -> dict[str, torch.Tensor]:
    """CLIP's weights under the names of its released files, whatever transformers calls them now."""
    prefix = "text_model."
    return {prefix + k.removeprefix(prefix): v for k, v in clip.state_dict().items() if "position_ids" not in k}


def export(average: nn.ModuleDict, weights: Path, about: dict[str, str]) -> None:
    flux_config = {key: list(value) if isinstance(value, tuple) else value for key, value in FLUX_CONFIG.items()}
    files = {
        "flux": (weight_map.to_host(average["flux"].state_dict()), flux_config),
        "clip": (clip_state(average["clip"]), CLIP_CONFIG),
    }
    for name, (state, config) in files.items():
        save_half(state, weights / f"{name}.safetensors", {**about, "config": json.dumps(config)})


def train(
    cache: Path, weights: Path, work: Path, tokenizers: Path, minutes: float, seed: int, size: int = BATCH,
    device: str = "cpu", workers: int = 0, begin: bool = False, until: float | None = None,
) -> None:  # fmt: skip
    """Train for so many minutes in all, from the last state.

    Args:
        begin: from the weights that are there, where there is no state yet.
        until: stop at this time (seconds since the epoch), with fewer.
    """
    work.mkdir(parents=True, exist_ok=True)
    data = Scenes(art.load(cache), weights, tokenizers, seed, size)
    model = (load(weights) if begin else build(seed)).to(device)
    t5_encoder = load_t5(weights / "t5.safetensors").to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizers = build_optimizers(model)
    generator = torch.Generator().manual_seed(seed)
    state, spent, step = work / STATE, 0.0, 0
    if state.exists():
        spent, step = load_state(state, model, average, optimizers, generator)
    limit, started, saved = 60 * minutes, time.time(), time.time()
    smooth = None
    # The fused kernels of a GPU are the quicker ones there.
    attention = explicit_attention if device == "cpu" else nullcontext
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, sampler=itertools.count(step), num_workers=workers, pin_memory=device != "cpu"
    )
    for clean, t5, clip in loader:
        if spent + (now := time.time() - started) >= limit or (until is not None and time.time() >= until):
            break
        clean, t5, clip = clean.to(device), t5.to(device), clip.to(device)
        done = (spent + now) / limit
        rate = RATE * min(1, (step + 1) / 100) * max(0.02, min(1.0, 2.5 * (1 - done)))
        for optimizer in optimizers.values():
            optimizer.param_groups[0]["lr"] = rate
        noise = torch.randn(clean.shape, generator=generator).to(device)
        times = flow.sample_times(size, generator, mean=0.3).to(device)
        with torch.no_grad():
            text = t5_encoder(input_ids=t5).last_hidden_state
        with torch.autocast(torch.device(device).type, torch.bfloat16), attention():
            out = predict(model, flow.interpolate(clean, noise, times), times, text, clip)
        loss = (out.float() - flow.velocity(clean, noise)).square().mean()
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
        step += 1
        decay = min(0.999, step / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 100 == 0:
            print(f"step {step} {spent + now:.0f}s loss {smooth:.4f} rate {rate:.1e}", flush=True)
        if time.time() - saved > 90:
            save_state(state, model, average, optimizers, spent + time.time() - started, step, generator)
            saved = time.time()
    spent += time.time() - started
    save_state(state, model, average, optimizers, spent, step, generator)
    export(average, weights, {"steps": str(step), "seconds": f"{spent:.0f}", "seed": str(seed), "batch": str(size)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("cache", "weights", "work", "tokenizers"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--device", default="cpu", help="cuda, with --batch 256 --workers 14 or so, does it properly")
    parser.add_argument("--begin", action="store_true", help="from the weights that are there, not from nothing")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw scenes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(
        arguments.cache, arguments.weights, arguments.work, arguments.tokenizers, arguments.minutes, arguments.seed,
        arguments.batch, arguments.device, arguments.workers, arguments.begin,
    )  # fmt: skip
