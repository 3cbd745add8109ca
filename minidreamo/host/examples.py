"""The pictures that come with the pack, for graphs that run right after it is installed."""

from __future__ import annotations

from pathlib import Path

import torch

from ...dreamo_core.pictures.load import load_picture, pictures_in

REPO = Path(__file__).resolve().parents[2]
FOLDERS = {"mini world: ": REPO / "minidreamo" / "references", "": REPO / "pictures"}
"""Where they lie, by what stands before their names in a graph."""


def pictures() -> dict[str, Path]:
    """Files by the names that graphs have for them."""
    return {f"{prefix}{path.stem}": path for prefix, folder in FOLDERS.items() for path in pictures_in(folder)}


def load(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The picture (1, h, w, 3) and what is transparent in it (1, h, w), as the host's Load Image gives them.

    Raises:
        ValueError: there is no such picture.
    """
    path = pictures().get(name)
    if path is None:
        raise ValueError(f"There is no example picture {name!r}; choose one of {', '.join(pictures())}.")
    picture = load_picture(path)
    opaque = picture[..., 3] if picture.shape[3] == 4 else picture.new_ones(picture.shape[:3])
    return picture[..., :3], 1 - opaque
