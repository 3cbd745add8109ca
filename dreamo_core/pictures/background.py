"""What is the subject and what is background, found without a download.

Two removers, the best two of those compared in `benchmarks/reference_preparation.py`: MediaPipe's person network (which
also separates animals and things in front of a calm background rather well), and OpenCV's GrabCut (Rother et al. 2004),
which has no weights at all. Both give a coarse mask; a guided filter (He et al. 2010) brings its edge to the picture's.

Pictures are numpy arrays (h, w, 3), uint8, RGB; masks are (h, w) float32 in [0, 1], 1 where the subject is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .opencv import cv2
from .tflite import load_graph_net

WEIGHTS = Path(__file__).parent / "weights"

REMOVERS = ("auto", "person", "grabcut")

GRABCUT_SIDE = 256
"""Long edge at which GrabCut runs: more finds more texture, not more subject (measured), and takes far longer."""
GRABCUT_INSET = 0.03
"""GrabCut holds the outermost part of each side, this wide, for background."""
SURE = 0.8
"""The person network is believed where this part of what it half sees it sees clearly."""
SMALLEST_SIDE = 16
LEAST, MOST = 0.005, 0.97
"""Masks that cover less or more than this separate nothing."""


@dataclass(frozen=True, eq=False)
class Cutout:
    """A subject's mask (h, w), or None where nothing could be told apart, and in words how it was found."""

    keep: np.ndarray | None
    note: str


def _resized(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture with its long edge at most `side`, by area."""
    scale = side / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _grown(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The mask at the size of the picture `like`."""
    return cv2.resize(mask.astype(np.float32), (like.shape[1], like.shape[0]), interpolation=cv2.INTER_LINEAR)


def person_mask(picture: np.ndarray) -> np.ndarray:
    """How much each pixel belongs to a person in front, by MediaPipe's selfie segmentation."""
    net = load_graph_net(WEIGHTS / "person.safetensors")
    side = net.input_shape[1]
    square = cv2.resize(_resized(picture, 4 * side), (side, side), interpolation=cv2.INTER_AREA)
    mask = net(torch.from_numpy(square).float().div(255).unsqueeze(0))[0]
    return _grown(mask[0, :, :, 0].numpy(), picture)


def grabcut(picture: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """GrabCut of what lies inside `where` (h, w; above a half may be subject), or away from the picture's edge."""
    small = _resized(picture, GRABCUT_SIDE)
    height, width = small.shape[:2]
    labels = np.full((height, width), cv2.GC_BGD, np.uint8)
    if where is None:
        y, x = max(int(height * GRABCUT_INSET), 1), max(int(width * GRABCUT_INSET), 1)
        labels[y : height - y, x : width - x] = cv2.GC_PR_FGD
    else:
        labels[_grown(where, small) > 0.5] = cv2.GC_PR_FGD
    if (labels == cv2.GC_BGD).all() or (labels == cv2.GC_PR_FGD).all():
        return _grown((labels == cv2.GC_PR_FGD), picture)
    # Its colour models start from k-means with OpenCV's random numbers: the same picture must give the same mask.
    cv2.setRNGSeed(0)
    cv2.grabCut(small, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    return _grown((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD), picture)


def guided_filter(guide: np.ndarray, mask: np.ndarray, radius: int, epsilon: float = 1e-4) -> np.ndarray:
    """The mask with its edges where the guide (h, w, 3, uint8) has them (He et al. 2010, with the grey guide)."""
    grey = cv2.cvtColor(guide, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(x, -1, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    grey_mean, mask_mean = mean(grey), mean(mask)
    slope = (mean(grey * mask) - grey_mean * mask_mean) / (mean(grey * grey) - grey_mean**2 + epsilon)
    return (mean(slope) * grey + mean(mask_mean - slope * grey_mean)).clip(0, 1)


def _refined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A soft edge at the picture's own edge; far inside and outside the mask stays as it was."""
    radius = max(max(picture.shape[:2]) // 128, 1)
    soft = guided_filter(picture, mask, radius)
    # The filter leaks faintly into flat regions: what is nearly nothing is nothing.
    return ((soft - 0.2) / 0.6).clip(0, 1)


def _is_sure(mask: np.ndarray) -> bool:
    seen, clearly = (mask > 0.3).mean(), (mask > 0.9).mean()
    return LEAST * 4 < clearly and clearly > SURE * seen


def cut_out(picture: np.ndarray, remover: str = "auto") -> Cutout:
    """The subject of a photograph.

    Args:
        picture: (h, w, 3) uint8.
        remover: "person", "grabcut", or "auto": the person network where it is sure, else GrabCut.
    """
    if min(picture.shape[:2]) < SMALLEST_SIDE:
        return Cutout(None, "background kept: the picture is too small to tell subject and background apart")
    mask, how = None, "GrabCut"
    if remover in ("auto", "person"):
        mask = person_mask(picture)
        if remover == "person" or _is_sure(mask):
            how = "the person network"
        else:
            mask = None
    if mask is None:
        mask = grabcut(picture)
    mask = _refined(picture, mask)
    if not LEAST < (mask > 0.5).mean() < MOST:
        return Cutout(None, f"background kept: {how} could not tell subject and background apart; connect a mask")
    return Cutout(mask, f"background removed by {how}")


def cut_out_region(picture: np.ndarray, region: np.ndarray) -> Cutout:
    """The thing inside a rough region (h, w), such as a garment on a person: GrabCut of the region's surroundings."""
    rows, columns = np.flatnonzero((region > 0.5).any(1)), np.flatnonzero((region > 0.5).any(0))
    if len(rows) == 0 or min(picture.shape[:2]) < SMALLEST_SIDE:
        return Cutout(None, "background kept: the region is empty")
    # A margin around the region shows GrabCut what is not the thing.
    margin_y, margin_x = (rows[-1] - rows[0]) // 4 + 2, (columns[-1] - columns[0]) // 4 + 2
    window = (
        slice(max(rows[0] - margin_y, 0), rows[-1] + margin_y + 1),
        slice(max(columns[0] - margin_x, 0), columns[-1] + margin_x + 1),
    )
    keep = np.zeros(picture.shape[:2], np.float32)
    keep[window] = _refined(picture[window], grabcut(picture[window], region[window]))
    keep *= (region > 0.5) | (cv2.dilate((region > 0.5).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0)
    if (keep > 0.5).sum() < 0.05 * (region > 0.5).sum():
        return Cutout(region.astype(np.float32), "the region itself was kept: nothing in it stands out")
    return Cutout(keep, "cut out of the region by GrabCut")
