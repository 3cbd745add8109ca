"""What the frozen encoders say of the data, computed once and kept on disk.

One safetensors file per `SHARD` samples, written whole or not at all, so an interrupted run goes on where it stopped.
A file made from other data, or with other encoders, is made again.
"""

from __future__ import annotations

import hashlib
import importlib
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from transformers import CLIPTextModel, CLIPTokenizerFast, T5EncoderModel

from ..files import save_whole
from ..flux import LATENT_SCALE, LATENT_SHIFT
from .encoders import T5Prompts, clip_ids, without_placeholders
from .manifest import Sample

SHARD = 64

WAIT = 10.0
"""Seconds between two looks for the files of other processes."""


class Autoencoder(Protocol):
    """(b, 3, h, w) pixels in −1 to 1 to (b, 16, h / 8, w / 8) latents and back."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor: ...

    def decode(self, latent: torch.Tensor) -> torch.Tensor: ...

    def to(self, device: torch.device) -> Autoencoder: ...


class KlAutoencoder:
    """diffusers' AutoencoderKL, as FLUX.1's, with the mean of its posterior."""

    def __init__(self, folder: Path):
        from diffusers import AutoencoderKL

        self.model = AutoencoderKL.from_pretrained(folder, use_safetensors=True).eval().requires_grad_(False)

    def to(self, device: torch.device) -> KlAutoencoder:
        self.model.to(device)
        return self

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.encode(pixels).latent_dist.mode()

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return self.model.decode(latent).sample


def load_autoencoder(path: Path, kind: str = "") -> Autoencoder:
    """A folder of diffusers' AutoencoderKL, or a file of weights for the module that `kind` names.

    Args:
        kind: "package.module.Class" of a torch module that is an `Autoencoder` and is made without arguments.
    """
    if path.is_dir():
        return KlAutoencoder(path)
    module, _, name = kind.rpartition(".")
    if not module:
        raise ValueError(f"{path} is a file; say in base.autoencoder_class whose weights it holds, or name a folder.")
    with safe_open(path, "pt") as file:
        state = {key: file.get_tensor(key).float() for key in file.keys()}
    model = getattr(importlib.import_module(module), name)()
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Encoders:
    """The frozen encoders and their tokenizers; `identity` changes when any of their files does."""

    autoencoder: Autoencoder
    t5: T5EncoderModel
    t5_prompts: T5Prompts
    clip: CLIPTextModel
    clip_tokenizer: CLIPTokenizerFast
    identity: str

    def to(self, device: torch.device) -> None:
        for encoder in (self.autoencoder, self.t5, self.clip):
            encoder.to(device)


def file_identity(path: Path) -> str:
    """Names, sizes and times of a file or of the files in a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return "".join(f"{f}{f.stat().st_size}{f.stat().st_mtime_ns}" for f in files if f.is_file())


def picture_tensor(path: Path) -> torch.Tensor:
    """(1, 3, h, w) in −1 to 1."""
    with Image.open(path) as picture:
        array = np.array(picture.convert("RGB"))
    return torch.from_numpy(array).movedim(-1, 0)[None].float() / 127.5 - 1


def token_mask(path: Path) -> torch.Tensor:
    """(n,) share of each image token that a mask covers."""
    with Image.open(path) as picture:
        height, width = picture.height // 16, picture.width // 16
        array = np.array(picture.convert("L").resize((width, height), Image.Resampling.BOX))
    return torch.from_numpy(array).flatten().float() / 255


def encode_sample(sample: Sample, encoders: Encoders) -> dict[str, torch.Tensor]:
    """Latents as the transformer sees them, token masks, and both prompts' ids and features; on the CPU.

    Encoded on the device that the encoders are on.
    """
    device = encoders.t5.device

    def latent(path: Path) -> torch.Tensor:
        encoded = encoders.autoencoder.encode(picture_tensor(path).to(device)).cpu()
        return ((encoded - LATENT_SHIFT) * LATENT_SCALE)[0]

    out = {"target": latent(sample.target)}
    tokens = out["target"].shape[-1] * out["target"].shape[-2] // 4
    for number, reference in enumerate(sample.references):
        out[f"reference{number}"] = latent(reference.image)
        # Not a number: the place is not known.
        out[f"mask{number}"] = token_mask(reference.mask) if reference.mask else torch.full((tokens,), torch.nan)
    plain = without_placeholders(sample.prompt)
    marked, unmarked = encoders.t5_prompts(sample.prompt), encoders.t5_prompts(plain)
    if len(marked.ids) > encoders.t5_prompts.length:
        raise ValueError(
            f"The prompt {sample.prompt!r} has {len(marked.ids)} T5 tokens, more than the {encoders.t5_prompts.length} "
            "of base.text_tokens; raise that or shorten the prompt."
        )
    places = [marked.placeholders.get(n, -1) for n in range(len(sample.references))]
    ids = torch.tensor([unmarked.ids], device=device)
    out |= {
        "t5_ids": torch.tensor(marked.ids, dtype=torch.int32),
        "positions": torch.tensor(places, dtype=torch.int32),
        "t5": encoders.t5(input_ids=ids).last_hidden_state[0].cpu(),
    }
    pooled_ids = clip_ids(encoders.clip_tokenizer, [sample.prompt, plain]).to(device)
    pooled = encoders.clip(input_ids=pooled_ids).pooler_output.cpu()
    return {**out, "pooled": pooled[0], "pooled_plain": pooled[1]}


class FeatureStore:
    """Features of every sample of a manifest, made where missing; read lazily.

    Several processes share the missing files out and wait for each other's by looking for them, not at a barrier: the
    last one may be hours behind the first, and a barrier gives up. All must see the folder.

    Args:
        say: told how far it is.
        device: to encode on; the encoders come back to the CPU.
        rank, world: number of this process, from 0, and of all.
    """

    def __init__(
        self,
        samples: list[Sample],
        encoders: Encoders,
        folder: Path,
        say=print,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ):
        self.samples = samples
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        parts = [samples[start : start + SHARD] for start in range(0, len(samples), SHARD)]
        identities = [self._identity(part, encoders) for part in parts]
        missing = [shard for shard, identity in enumerate(identities) if self._stored(shard) != identity]
        own = [shard for shard in missing if shard % world == rank]
        if own:
            encoders.to(torch.device(device))
            for done, shard in enumerate(own):
                self._make(shard, parts[shard], encoders, identities[shard])
                say(f"features: {done + 1} of this process's {len(own)} files made")
            encoders.to(torch.device("cpu"))
        while waiting := [shard for shard in missing if self._stored(shard) != identities[shard]]:
            say(f"features: waiting for {len(waiting)} files of other processes")
            time.sleep(WAIT)
        say(f"features: {len(missing)} of {len(parts)} files made, the others were there")
        self._open: dict[int, Any] = {}
        self._names: dict[int, dict[int, list[str]]] = {}

    def _path(self, shard: int) -> Path:
        return self.folder / f"features-{shard:06d}.safetensors"

    @staticmethod
    def _identity(part: list[Sample], encoders: Encoders) -> str:
        files = [f for s in part for f in (s.target, *(p for r in s.references for p in (r.image, r.mask) if p))]
        text = repr(part) + "".join(map(file_identity, files)) + encoders.identity
        return hashlib.sha256(text.encode()).hexdigest()

    def _stored(self, shard: int) -> str | None:
        if not self._path(shard).exists():
            return None
        with safe_open(self._path(shard), "pt") as file:
            return (file.metadata() or {}).get("identity")

    @torch.no_grad()
    def _make(self, shard: int, part: list[Sample], encoders: Encoders, identity: str) -> None:
        tensors = {
            f"{n}.{key}": value
            for n, sample in enumerate(part)
            for key, value in encode_sample(sample, encoders).items()
        }
        save_whole(tensors, self._path(shard), {"identity": identity})

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """The features of one sample, by the names that `encode_sample` gives."""
        shard, n = divmod(number, SHARD)
        if shard not in self._open:
            self._open[shard] = safe_open(self._path(shard), "pt")
            self._names[shard] = defaultdict(list)
            for key in self._open[shard].keys():
                owner, name = key.split(".", 1)
                self._names[shard][int(owner)].append(name)
        # The file is mapped, so this reads what is asked for and leaves the rest to the system's cache.
        return {name: self._open[shard].get_tensor(f"{n}.{name}") for name in self._names[shard][n]}
