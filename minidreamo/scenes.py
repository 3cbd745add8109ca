"""Pictures, prompts and masks of the mini world, drawn from a seed.

A picture is 96 × 96: 36 tokens of 16 × 16 pixels. A reference is 48 × 48 on white: 9 tokens. A subject covers about
3 × 3 tokens, so up to four fit, and a person can still tell what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from .art import VENDORS, Art

SIDE = 96
REFERENCE_SIDE = 48
SUBJECT_SIDE = 46
STYLES = tuple(VENDORS)

COMMON = 32
"""Subjects that the base sees most: too small to learn every name, it must know some."""

COLOURS = {
    "white": (245, 245, 245), "grey": (150, 150, 150), "black": (35, 35, 35), "red": (205, 60, 55),
    "orange": (240, 150, 50), "yellow": (245, 220, 90), "green": (90, 170, 90), "teal": (60, 165, 165),
    "blue": (75, 120, 210), "purple": (140, 90, 180), "pink": (240, 165, 195), "brown": (135, 95, 65),
}  # fmt: skip
GROUNDS = ("plain", "gradient", "striped", "dotted")

# Centres of the places in pixels, (x, y). A subject's 48 × 48 box is three tokens wide and always begins at a token's
# edge, as a reference does; MIDDLE stands for either of the two middles that this leaves.
MIDDLE = (40, 56)
SINGLE_PLACES = {
    "": (MIDDLE, MIDDLE), "on the left": (24, MIDDLE), "on the right": (72, MIDDLE), "at the top": (MIDDLE, 24),
    "at the bottom": (MIDDLE, 72),
}  # fmt: skip
PAIR_PLACES = {"left of": ((24, MIDDLE), (72, MIDDLE)), "above": ((MIDDLE, 24), (MIDDLE, 72))}
TRIPLE_PLACES = ((MIDDLE, 24), (24, 72), (72, 72))
"""First above, then left and right below."""


@dataclass(frozen=True)
class Subject:
    """One drawing: row and column of the art, where it stands, and how it is varied."""

    name: int
    vendor: int
    centre: tuple[int, int] = (40, 40)
    mirrored: bool = False
    channels: tuple[int, int, int] = (0, 1, 2)
    """Order of the colour channels: the same drawing in other colours."""


@dataclass(frozen=True)
class Scene:
    """A picture as a description; `draw` makes the pixels.

    Attributes:
        subjects: in the order in which the prompt names them.
        numbers: of each subject's reference, from 0. Not the order of the prompt, or nobody would need placeholders.
        colour, ground: of the background, words of `COLOURS` and `GROUNDS`.
        prompt: without placeholders. `{0}`, `{1}` … stand right after a subject's name.
    """

    subjects: tuple[Subject, ...]
    colour: str
    ground: str
    prompt: str
    seed: int
    numbers: tuple[int, ...]

    @property
    def references(self) -> tuple[Subject, ...]:
        """The subjects in the order of their references."""
        return tuple(self.subjects[self.numbers.index(n)] for n in range(len(self.subjects)))

    def text(self, placeholders: bool = False) -> str:
        """The prompt, with ` from [ref#1]` and so on after the names if asked for."""
        marks = [f" from [ref#{n + 1}]" if placeholders else "" for n in self.numbers]
        return self.prompt.format(*marks)


def background(colour: str, ground: str, rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE, 3) floats, 0 to 255."""
    base = np.array(COLOURS[colour], float) + rng.normal(0, 6, 3)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
    if ground == "plain":
        shade = np.zeros_like(x)
    elif ground == "gradient":
        shade = 90 * ramp
    elif ground == "striped":
        shade = 18 * np.sign(np.sin(2 * np.pi * ramp * 5))
    else:
        shade = 36.0 * (((x * 8 % 1 - 0.5) ** 2 + (y * 8 % 1 - 0.5) ** 2) < 0.06)
    return np.clip(base + shade[..., None], 0, 255)


def cutout(art: Art, subject: Subject, side: int) -> np.ndarray:
    """(side, side, 4) floats, colours premultiplied, 0 to 255 and alpha 0 to 1."""
    picture = Image.fromarray(art.cutouts[subject.name, subject.vendor])
    if subject.mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # "RGBa" is premultiplied: resizing does not bleed the hidden colours of transparent pixels.
    picture = np.asarray(picture.convert("RGBa").resize((side, side), Image.Resampling.LANCZOS), float)
    return np.concatenate([picture[..., list(subject.channels)], picture[..., 3:] / 255], -1)


def paste(canvas: np.ndarray, picture: np.ndarray, left: int, top: int) -> np.ndarray:
    """Draw on `canvas` in place; returns the (h, w) alpha of what was drawn, cut at the borders."""
    height, width = canvas.shape[:2]
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + picture.shape[0], height), min(left + picture.shape[1], width)
    part = picture[y0 - top : y1 - top, x0 - left : x1 - left]
    alpha = np.zeros((height, width))
    alpha[y0:y1, x0:x1] = part[..., 3]
    canvas[y0:y1, x0:x1] = canvas[y0:y1, x0:x1] * (1 - part[..., 3:]) + part[..., :3]
    return alpha


def draw(art: Art, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The picture (SIDE, SIDE, 3) and the subjects' masks (n, SIDE, SIDE), both bytes."""
    rng = np.random.default_rng(scene.seed)
    canvas = background(scene.colour, scene.ground, rng)
    masks = np.zeros((len(scene.subjects), SIDE, SIDE))
    for n, subject in enumerate(scene.subjects):
        x, y = (c - SUBJECT_SIDE // 2 for c in subject.centre)
        masks[n] = paste(canvas, cutout(art, subject, SUBJECT_SIDE), x, y)
    return canvas.clip(0, 255).astype(np.uint8), (masks * 255).astype(np.uint8)


def window(picture: np.ndarray, subject: Subject, side: int) -> np.ndarray:
    """(side, side, …), no copy: a subject's place in a picture or mask."""
    x, y = (c - side // 2 for c in subject.centre)
    return picture[y : y + side, x : x + side]


def draw_reference(art: Art, subject: Subject) -> np.ndarray:
    """The subject alone on white: (REFERENCE_SIDE, REFERENCE_SIDE, 3) bytes."""
    canvas = np.full((REFERENCE_SIDE, REFERENCE_SIDE, 3), 255.0)
    margin = (REFERENCE_SIDE - SUBJECT_SIDE) // 2
    paste(canvas, cutout(art, subject, SUBJECT_SIDE), margin, margin)
    return canvas.clip(0, 255).astype(np.uint8)


def common_pool(art: Art) -> np.ndarray:
    """Rows and columns of the drawings of the common subjects that training may see, always the same."""
    everything = np.argwhere(art.trained)
    common = np.random.default_rng(0).permutation(np.unique(everything[:, 0]))[:COMMON]
    return everything[np.isin(everything[:, 0], common)]


def unseen_pool(art: Art) -> np.ndarray:
    """Rows and columns of all drawings of the subjects that training never sees."""
    return np.argwhere(~art.trained & ~art.trained.any(1, keepdims=True))


def article(name: str) -> str:
    return ("an " if name[0] in "aeiou" else "a ") + name


def vary(rng: np.random.Generator, mirrored: float, recoloured: float) -> tuple[bool, tuple[int, int, int]]:
    """Whether a drawing is mirrored, and the order of its colour channels."""
    flip, recolour = rng.random(2) < (mirrored, recoloured)
    return bool(flip), tuple(map(int, rng.permutation(3))) if recolour else (0, 1, 2)


def random_scene(
    art: Art, rng: np.random.Generator, pool: np.ndarray, count: int, styled: float = 0.5, twins: bool = False,
    mirrored: float = 0.0, recoloured: float = 0.0,
) -> Scene:  # fmt: skip
    """A scene with `count` (1 to 3) different subjects.

    Args:
        pool: (n, 2) rows and columns of the art that may appear.
        styled: share of names that are followed by their style, in the words in which a placeholder would follow.
        twins: show one drawing twice; for two subjects.
        mirrored, recoloured: share of drawings varied so.
    """
    picks: list[tuple[int, int]] = []
    while len(picks) < count:
        name, vendor = map(int, pool[rng.integers(len(pool))])
        if name not in [p[0] for p in picks]:
            picks.append((name, vendor))
    looks = [vary(rng, mirrored, recoloured) for _ in picks]
    if twins:
        picks[1], looks[1] = picks[0], looks[0]
    colour, ground = rng.choice(list(COLOURS)), rng.choice(GROUNDS, p=[0.4, 0.2, 0.2, 0.2])
    words = [article(art.names[name]) for name, _ in picks]
    if twins:
        words[1] = f"the same {art.names[picks[0][0]]}"
    for n, (_, vendor) in enumerate(picks):
        words[n] += (f" from {STYLES[vendor]}" if rng.random() < styled else "") + f"{{{n}}}"
    if count == 1:
        place = rng.choice(list(SINGLE_PLACES), p=[0.6, 0.1, 0.1, 0.1, 0.1])
        centres = [SINGLE_PLACES[place]]
        prompt = words[0] + (f" {place}" if place else "")
    elif count == 2:
        place = rng.choice(list(PAIR_PLACES))
        centres = PAIR_PLACES[place]
        prompt = f"{words[0]} {place} {words[1]}"
    else:
        centres = TRIPLE_PLACES
        prompt = f"{words[0]} above {words[1]} and {words[2]}"
    prompt += f", on {ground} {colour}"
    middle = int(rng.choice(MIDDLE)), int(rng.choice(MIDDLE))
    placed = [tuple(m if c is MIDDLE else c for c, m in zip(centre, middle, strict=True)) for centre in centres]
    subjects = tuple(Subject(n, v, c, *look) for (n, v), c, look in zip(picks, placed, looks, strict=True))
    numbers = tuple(map(int, rng.permutation(count)))
    return Scene(subjects, str(colour), str(ground), prompt, int(rng.integers(2**31)), numbers)


def to_pixels(pictures: np.ndarray) -> torch.Tensor:
    """(n, h, w, 3) bytes to (n, 3, h, w) floats in −1 to 1."""
    return torch.from_numpy(pictures).movedim(-1, 1).float() / 127.5 - 1


def to_bytes(pixels: torch.Tensor) -> np.ndarray:
    """(…, 3, h, w) in −1 to 1 to (…, h, w, 3) bytes."""
    return ((pixels + 1) * 127.5).round().byte().movedim(-3, -1).numpy()
