"""DINO (Caron et al. 2021) and DINOv2 (Oquab et al. 2023): cosine of the class token's feature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModel

from .embedding import Embed, Likeness, state_of, version_of

TIMM = {"dino": "vit_small_patch16_224.dino", "dinov2": "vit_base_patch14_dinov2.lvd142m"}
"""The papers' sizes, for files of weights alone."""


def _from_transformers(folder: Path) -> Embed:
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    def embed(pictures: Sequence[Image.Image]) -> torch.Tensor:
        pixels = processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return functional.normalize(model(pixel_values=pixels).last_hidden_state[:, 0], dim=-1)

    return embed


def _from_timm(name: str, file: Path) -> Embed:
    model = timm.create_model(name, num_classes=0).eval()
    model.load_state_dict({key: value for key, value in state_of(file).items() if not key.startswith("head")})
    transform = create_transform(**resolve_data_config(model.pretrained_cfg, model=model))

    def embed(pictures: Sequence[Image.Image]) -> torch.Tensor:
        features = model.forward_features(torch.stack([transform(picture) for picture in pictures]))
        return functional.normalize(features[:, 0], dim=-1)

    return embed


def _likeness(name: str, metric: str, path: Path) -> Likeness:
    version = version_of(path)
    return Likeness(name, metric, version, _from_transformers(path) if path.is_dir() else _from_timm(TIMM[name], path))


def dino(path: str) -> Likeness:
    """DINO ViT-S/16: a folder of `facebook/dino-vits16`, or a file for timm's `vit_small_patch16_224.dino`."""
    return _likeness("dino", "DINO", Path(path))


def dinov2(path: str) -> Likeness:
    """DINOv2 ViT-B/14: a folder of `facebook/dinov2-base`, or a file for timm's `vit_base_patch14_dinov2.lvd142m`."""
    return _likeness("dinov2", "DINOv2", Path(path))
