"""A photograph of a person becomes the face that DreamO was trained to see: aligned, 512 × 512, on white."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .face_mask import face_and_hair
from .faces import Face, align, find_faces
from .pixels import area_resize, limited_size, to_uint8

LONG_EDGE = 1024
"""Pictures are searched for faces with no side longer than this, as in the reference implementation."""


@dataclass(frozen=True)
class FaceModels:
    """Who finds faces and cuts them out.

    Attributes:
        find: from a picture (h, w, 3) uint8 to its faces, the largest first.
        keep: from an aligned crop (512, 512, 3) uint8, the face, and the map that aligned it, to a mask (512, 512).
        name: for messages.
    """

    find: Callable[[np.ndarray], list[Face]]
    keep: Callable[[np.ndarray, Face, np.ndarray], np.ndarray]
    name: str


BUILT_IN = FaceModels(find_faces, lambda crop, face, affine: face_and_hair(crop, face.mesh, affine), "MediaPipe")


@dataclass(frozen=True, eq=False)
class AlignedFace:
    """An aligned face before its surroundings are dropped: pixels (1, 512, 512, 3), keep (1, 512, 512), and a note."""

    pixels: torch.Tensor
    keep: torch.Tensor
    note: str


def aligned_face(
    rgb: torch.Tensor, models: FaceModels, number: int = 1, mask: torch.Tensor | None = None
) -> AlignedFace | None:
    """The chosen face of a picture, upright; None where there is no face.

    A picture without an upright face is tried lying on either side and upside down: phone photos that lost their EXIF.

    Args:
        rgb: (1, h, w, 3) in [0, 1].
        number: which face, the largest first, from 1.
        mask: (1, h, w); only faces whose middle lies in it count.

    Raises:
        ValueError: fewer faces than `number`.
    """
    size = limited_size(*rgb.shape[1:3], LONG_EDGE)
    picture = to_uint8(area_resize(rgb, *size))
    inside = None if mask is None else area_resize(mask.unsqueeze(-1).float(), *size)[0, :, :, 0].cpu().numpy()
    for turns in range(4):
        turned = np.ascontiguousarray(np.rot90(picture, turns))
        faces = models.find(turned)
        if inside is not None:
            faces = [face for face in faces if _middle_is_in(face, np.rot90(inside, turns))]
        if faces:
            break
    else:
        return None
    if number > len(faces):
        raise ValueError(
            f"Face {number} was asked for, but {len(faces)} {'was' if len(faces) == 1 else 'were'} found here; "
            "choose a smaller number (1 is the largest face)."
        )
    face = faces[number - 1]
    crop, affine = align(turned, face.points)
    keep = models.keep(crop, face, affine)
    note = f"face {number} of {len(faces)}, found by {models.name}"
    if turns:
        note += f", in the picture turned by {90 * turns}° to the left"
    as_tensor = torch.from_numpy(crop).to(rgb.device).float().div(255).unsqueeze(0)
    return AlignedFace(as_tensor, torch.from_numpy(keep).to(as_tensor).unsqueeze(0), note)


def _middle_is_in(face: Face, mask: np.ndarray) -> bool:
    x, y = face.points.mean(0).round().astype(int)
    return bool(mask[np.clip(y, 0, mask.shape[0] - 1), np.clip(x, 0, mask.shape[1] - 1)] > 0.5)
