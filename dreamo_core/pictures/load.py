"""Picture files in any form people have them, as sRGB pixels: orientation, colour profile, 16 bit, CMYK, palettes."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps

LONGEST_EDGE = 4096
"""Larger pictures are shrunk by whole pixel boxes while they are read: a reference needs a tenth of that."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jfif")

_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def load_picture(path: Path) -> torch.Tensor:
    """A picture file as (1, h, w, 3), or (1, h, w, 4) where it has an alpha channel, sRGB in [0, 1].

    The first frame of an animation; turned as its EXIF says; its ICC profile applied; no side above `LONGEST_EDGE`.

    Raises:
        ValueError: not a picture, damaged, or so large that reading it would be unsafe.
    """
    try:
        with warnings.catch_warnings(), Image.open(path) as file:
            # Large is fine here; what Pillow calls an error (twice as large) stays one.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if file.format in ("JPEG", "MPO"):
                file.draft(None, (LONGEST_EDGE, LONGEST_EDGE))
            profile = file.info.get("icc_profile")
            picture = ImageOps.exif_transpose(_shrunk(file))
    except Image.DecompressionBombError as error:
        # Pillow calls it an attack; the picture of a user who scans or stitches is none.
        raise ValueError(
            f"{path.name} has more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels, which is not safe to "
            f"read; save it smaller. {LONGEST_EDGE} pixels on the longer side are more than a reference needs."
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path.name} cannot be read as a picture: {error}") from error
    values = _deep_values(picture) if picture.mode in _DEEP + ("F",) else _values(picture, profile)
    return torch.from_numpy(values).unsqueeze(0)


def _shrunk(picture: Image.Image) -> Image.Image:
    factor = -(-max(picture.size) // LONGEST_EDGE)
    picture.load()
    if factor == 1:
        return picture.copy()
    if picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    if picture.mode in _DEEP:
        picture = picture.convert("I")
    return picture.reduce(factor)


def _deep_values(picture: Image.Image) -> np.ndarray:
    """One channel of 16 bit integers or floats, as grey RGB in [0, 1]."""
    values = np.asarray(picture).astype(np.float32)
    if picture.mode != "F":
        values /= 65535
    return np.repeat(values.clip(0, 1)[:, :, None], 3, axis=2)


def _values(picture: Image.Image, profile: bytes | None) -> np.ndarray:
    """RGB or RGBA in [0, 1]."""
    alpha = None
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        picture = picture.convert("RGBA")
        alpha, picture = picture.getchannel("A"), picture.convert("RGB")
    colours = np.asarray(_to_srgb(picture, profile)).astype(np.float32) / 255
    if alpha is None or alpha.getextrema() == (255, 255):
        return colours
    return np.concatenate([colours, np.asarray(alpha).astype(np.float32)[:, :, None] / 255], axis=2)


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        if picture.mode not in ("RGB", "CMYK", "L", "LAB"):
            picture = picture.convert("RGB")
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError) as error:
            # A broken profile, or one for other channels than the picture has: the plain values are the best there is.
            warnings.warn(f"colour profile not applied: {error}", stacklevel=2)
    return picture.convert("RGB")


def pictures_in(folder: Path) -> list[Path]:
    """Picture files directly in a folder, in the order people expect: 2 before 10."""

    def natural(path: Path) -> list:
        digits = "".join(c if c.isdigit() else " " for c in path.stem).split()
        words = "".join(" " if c.isdigit() else c for c in path.stem.lower()).split()
        return [words, [int(d) for d in digits], path.name]

    return sorted((p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES), key=natural)
