"""Preparing pictures inside the host: the user's face models, and the session's cache."""

from __future__ import annotations

import torch

from ..pictures.cache import cached_picture, content_key
from ..pictures.face_crop import BUILT_IN, FaceModels
from ..pictures.facexlib import facexlib_models, weight_files
from ..pictures.picture import Picture
from ..pictures.prepare import DREAMO, Preparation, prepare_picture
from .folders import facexlib_folders, picture_cache_folder

ALGORITHM = 1
"""Part of every cache key; count up when the same input gives another picture."""


def face_models(enlarge: bool = False) -> FaceModels:
    """facexlib where it is installed and its weights are in models/facexlib, else what this pack carries.

    Args:
        enlarge: see `facexlib_models`.
    """
    files = weight_files(facexlib_folders())
    return BUILT_IN if files is None else facexlib_models(*files, enlarge)


def prepare(
    image: torch.Tensor,
    task: str,
    resolution: int,
    mask: torch.Tensor | None = None,
    background: str = "auto",
    mask_use: str = "subject",
    face: int = 1,
    profile: str = DREAMO,
    face_order: str | None = None,
) -> Picture:
    """`prepare_picture`, once per session for the same input."""
    # As before there was a choice: small photographs were enlarged for facexlib.
    models = face_models(enlarge=face_order is None)
    preparation = Preparation(background, mask_use, face, models, profile, face_order)
    names = (models.name, profile, face_order)
    key = content_key(image, mask, ALGORITHM, task, resolution, background, mask_use, face, *names)
    return cached_picture(
        picture_cache_folder(), key, lambda: prepare_picture(image, task, resolution, mask, preparation)
    )
