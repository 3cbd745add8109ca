"""Pictures of what routing does: one colour a reference, over the picture, with a legend, and step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .record import RoutingMaps

COLOURS = (
    (230, 85, 13), (0, 114, 178), (0, 158, 115), (204, 121, 167), (240, 200, 30),
    (86, 180, 233), (140, 90, 200), (180, 40, 60), (150, 150, 150),
)  # fmt: skip
"""Told apart by most eyes, also by many colour-blind ones (after Okabe and Ito)."""

_DARK = 0.25
"""How bright the picture stays under a map."""


def colour(n: int) -> torch.Tensor:
    """RGB in [0, 1] of the n-th reference, from 0: (3,)."""
    return torch.tensor(COLOURS[n % len(COLOURS)], dtype=torch.float32) / 255


def enlarge(planes: torch.Tensor, size: tuple[int, int], smooth: bool = True) -> torch.Tensor:
    """(b, h, w) to (b, *size); smoothly, or with the tokens as blocks."""
    mode = {"mode": "bilinear", "align_corners": False} if smooth else {"mode": "nearest-exact"}
    return torch.nn.functional.interpolate(planes.unsqueeze(1), size=size, **mode).squeeze(1)


def overlay(picture: torch.Tensor, planes: torch.Tensor, opacity: float = 0.8) -> torch.Tensor:
    """The picture, darkened, with every reference's map on it in its colour.

    Args:
        picture: (h, w, 3) in [0, 1].
        planes: (r, h', w') in [0, 1], any size.
        opacity: of the colours where a map is 1; 0 gives the picture back.

    Returns:
        (h, w, 3) in [0, 1]
    """
    large = enlarge(planes, picture.shape[:2]).clamp(0, 1)
    result = picture * (1 - opacity * (1 - _DARK))
    for n, plane in enumerate(large):
        weight = (opacity * plane).unsqueeze(-1)
        # Half of the picture's light stays, so that what is under a colour can be seen.
        lit = colour(n) * (0.5 + 0.5 * picture.mean(-1, keepdim=True))
        result = torch.lerp(result, lit, weight)
    return result.clamp(0, 1)


def heat(plane: torch.Tensor, n: int, size: tuple[int, int]) -> torch.Tensor:
    """One map as a picture: black at 0, the reference's colour at two thirds, white at 1: (*size, 3)."""
    value = enlarge(plane.unsqueeze(0), size)[0].clamp(0, 1).unsqueeze(-1)
    low, high = (value * 1.5).clamp(max=1), (value * 3 - 2).clamp(min=0)
    return torch.lerp(colour(n) * low, torch.ones(3), high)


def _font(height: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=height)


def with_legend(picture: torch.Tensor, labels: Sequence[str]) -> torch.Tensor:
    """The picture with a strip under it that says which colour is which: (h + strip, w, 3)."""
    height, width = picture.shape[:2]
    text = max(10, min(height, width) // 28)
    row, font = text + text // 2, _font(text)
    lengths = [row + int(font.getlength(label)) + text for label in labels]
    places, x, y = [], text // 2, 0
    for length in lengths:
        if x > text // 2 and x + length > width:
            x, y = text // 2, y + row
        places.append((x, y))
        x += length
    strip = Image.new("RGB", (width, y + row + text // 2), (24, 24, 24))
    draw = ImageDraw.Draw(strip)
    for n, (label, (x, y)) in enumerate(zip(labels, places, strict=True)):
        draw.rectangle((x, y + text // 2, x + text, y + text // 2 + text - 2), fill=COLOURS[n % len(COLOURS)])
        draw.text((x + row, y + text // 4), label, fill="white", font=font)
    return torch.cat((picture, torch.from_numpy(np.asarray(strip, dtype=np.float32) / 255)))


def map_picture(maps: RoutingMaps, sample: int = 0, picture: torch.Tensor | None = None, opacity: float = 0.8):
    """The regions at the end of the run over a picture (h, w, 3), or on black without one; with a legend."""
    if picture is None:
        picture = torch.zeros(*maps.size, 3)
    _, regions = maps.last()
    return with_legend(overlay(picture, regions[:, sample % regions.shape[1]], opacity), maps.labels())


def heat_pictures(maps: RoutingMaps) -> torch.Tensor:
    """The averaged maps, reference by reference, each with its samples: (r·b, h, w, 3)."""
    averages, _ = maps.last()
    return torch.stack([heat(plane, n, maps.size) for n, planes in enumerate(averages) for plane in planes])


def region_masks(maps: RoutingMaps) -> torch.Tensor:
    """The regions at the end of the run as a MASK, reference by reference, each with its samples: (r·b, h, w)."""
    _, regions = maps.last()
    return enlarge(regions.flatten(0, 1), maps.size)


def step_strip(maps: RoutingMaps, sample: int = 0, columns: int = 12, cell: int = 96) -> torch.Tensor:
    """Maps and regions step by step: two rows a reference (map, then region), a column a step: (h, w, 3).

    Of longer runs `columns` steps are shown, evenly spread, the first and the last included.
    """
    ratio = maps.size[1] / maps.size[0]
    size = (cell, max(1, round(cell * ratio))) if ratio <= 1 else (max(1, round(cell / ratio)), cell)
    rows, notes, number = [], [], 0
    labels = maps.labels()
    for steps in maps.prompts:
        chosen = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, min(columns, len(steps))).astype(int))]
        for at, reference in enumerate(steps[-1].references):
            for kind, of in (("map", lambda step: step.maps), ("region", lambda step: step.regions)):
                cells = []
                for step in chosen:
                    # A reference may have come later, or gone.
                    here = step.references.index(reference) if reference in step.references else None
                    plane = torch.zeros(1, 1) if here is None else of(step)[here, sample % of(step).shape[1]]
                    cells.append(torch.nn.functional.pad(heat(plane, number + at, size), (0, 0, 1, 1, 1, 1), value=0.3))
                rows.append(torch.cat(cells, dim=1))
                notes.append(f"{labels[number + at]}: {kind}")
        number += len(steps[-1].references)
    width = max(row.shape[1] for row in rows)
    rows = [torch.nn.functional.pad(row, (0, 0, 0, width - row.shape[1])) for row in rows]
    text = max(10, cell // 7)
    margin = int(max(_font(text).getlength(note) for note in notes)) + text
    strip = Image.new("RGB", (margin, len(rows) * rows[0].shape[0]), (24, 24, 24))
    draw = ImageDraw.Draw(strip)
    for n, note in enumerate(notes):
        y = n * rows[0].shape[0] + (rows[0].shape[0] - text) // 2
        draw.text((text // 2, y), note, fill="white", font=_font(text))
    return torch.cat((torch.from_numpy(np.asarray(strip, dtype=np.float32) / 255), torch.cat(rows)), dim=1)
