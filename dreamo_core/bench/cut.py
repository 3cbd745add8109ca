"""What of a picture is scored: all of it, the subject on white, or the garment; as the papers take it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..pictures.background import cut_out

Cut = Callable[[Image.Image, Image.Image | None], Image.Image]
"""A picture (RGB) and its mask, where one is known, to what is scored of it."""

THRESHOLD = 0.5
GARMENT_LABELS = ("upper-clothes", "upper_clothes", "dress", "coat", "top", "shirt", "skirt", "pants")
"""Names by which segmentation models call what is worn, in lower case."""


def whole(picture: Image.Image, mask: Image.Image | None) -> Image.Image:
    return picture


def on_white(picture: Image.Image, keep: np.ndarray) -> Image.Image:
    """The picture where `keep` (h, w) in [0, 1] is 1, on white."""
    pixels, share = np.asarray(picture, np.float32), keep[..., None]
    return Image.fromarray((pixels * share + 255 * (1 - share)).round().astype(np.uint8))


def _as_array(mask: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(mask.convert("L").resize(size, Image.Resampling.BILINEAR), np.float32) / 255


def background(picture: Image.Image, mask: Image.Image | None) -> Image.Image:
    """The subject on white: by its mask, else by the pack's own removers; all of it where they see no subject."""
    keep = cut_out(np.asarray(picture)).keep if mask is None else _as_array(mask, picture.size)
    return picture if keep is None else on_white(picture, keep)


def box_of(keep: np.ndarray) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of what is kept."""
    rows, columns = np.flatnonzero((keep > THRESHOLD).any(1)), np.flatnonzero((keep > THRESHOLD).any(0))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class Garment:
    """The garment, cropped: by its mask, else by a semantic segmentation model.

    Args:
        folder: of a model for transformers' `AutoModelForSemanticSegmentation` whose labels name clothes.

    Raises:
        ValueError: the model has no label for clothes.
    """

    def __init__(self, folder: Path):
        from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

        self.model = AutoModelForSemanticSegmentation.from_pretrained(folder, local_files_only=True).eval()
        self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        labels = {n: name.lower() for n, name in self.model.config.id2label.items()}
        self.numbers = [n for n, name in labels.items() if name in GARMENT_LABELS]
        if not self.numbers:
            raise ValueError(f"The model in {folder} knows {', '.join(labels.values())}: none of these is a garment.")

    @torch.no_grad()
    def _worn(self, picture: Image.Image) -> np.ndarray:
        logits = self.model(**self.processor(images=picture, return_tensors="pt")).logits
        size = picture.size[::-1]
        found = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)[0].argmax(0)
        return torch.isin(found, torch.tensor(self.numbers)).float().numpy()

    def __call__(self, picture: Image.Image, mask: Image.Image | None) -> Image.Image:
        keep = self._worn(picture) if mask is None else _as_array(mask, picture.size)
        box = box_of(keep)
        return picture if box is None else on_white(picture, keep).crop(box)


def make_cut(spec: str) -> tuple[Cut, str]:
    """What is scored, and a note for the report.

    Args:
        spec: "none", "background", or "garment=FOLDER".

    Raises:
        ValueError: unknown, or a model that cannot be used.
    """
    kind, _, path = spec.partition("=")
    if kind == "none":
        return whole, "Whole pictures are scored."
    if kind == "background":
        return background, "Backgrounds are removed before scoring: by masks where there are some, else by the pack."
    if kind == "garment" and path:
        return Garment(Path(path)), f"Garments are cut out before scoring, by {Path(path).name}."
    if kind == "garment":
        raise ValueError(
            "Garments are cut out by a segmentation model: give --cut garment=FOLDER of one for transformers, "
            "or --cut none to score whole pictures (which does not compare with the paper)."
        )
    raise ValueError(f"There is no cut {spec!r}; choose none, background or garment=FOLDER.")
