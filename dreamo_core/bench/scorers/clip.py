"""CLIP-I and CLIP-T: cosine of CLIP's features (Radford et al. 2021) of pictures, and of a picture and its text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

from ..case import TEXT
from .embedding import Likeness, version_of
from .protocol import Shot


def _features(output: object) -> torch.Tensor:
    # transformers 5 gives the tower's whole output, with the projected feature where the pooled one was.
    return output if torch.is_tensor(output) else output.pooler_output


class Clip(Likeness):
    """CLIP-I of the pictures as cut, and CLIP-T of the whole picture with the plain prompt, cosine × 100.

    Args:
        label: which CLIP it is, in the metrics' names.
        folder: as `save_pretrained` writes it: weights in safetensors, tokenizer, image processor.
    """

    def __init__(self, name: str, label: str, folder: Path):
        super().__init__(name, f"CLIP-I {label}", version_of(folder), self._embed)
        self.text_metric = f"CLIP-T {label}"
        self.model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        self.processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        self.tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)

    def _embed(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return functional.normalize(_features(self.model.get_image_features(pixel_values=pixels)), dim=-1)

    def _embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, return_tensors="pt",
            max_length=self.model.config.text_config.max_position_embeddings,
        )  # fmt: skip
        return functional.normalize(_features(self.model.get_text_features(**tokens)), dim=-1)

    @torch.no_grad()
    def score(self, shots: Sequence[Shot]) -> list[dict[str, float]]:
        numbers = super().score(shots)
        told = [n for n, shot in enumerate(shots) if TEXT in shot.case.scored]
        if told:
            drawn = self._embed([shots[n].whole for n in told])
            texts = self._embed_texts([shots[n].case.text for n in told])
            for n, cosine in zip(told, (drawn * texts).sum(-1).tolist(), strict=True):
                numbers[n][self.text_metric] = 100 * cosine
        return numbers


def clip_b32(folder: str) -> Clip:
    """CLIP ViT-B/32, from a folder of `openai/clip-vit-base-patch32`."""
    return Clip("clip-b32", "B/32", Path(folder))


def clip_l14(folder: str) -> Clip:
    """CLIP ViT-L/14, from a folder of `openai/clip-vit-large-patch14`."""
    return Clip("clip-l14", "L/14", Path(folder))
