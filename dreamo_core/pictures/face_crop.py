"""What of an aligned face DreamO sees: the face and its hair, on white.

The reference implementation parses the crop with BiSeNet and whitens background, clothes, hat, ears, earrings, neck and
necklace (labels 0, 16, 18, 7, 8, 9, 14, 15). Without its weights the face's outline comes from the mesh, the person
from the person network, and hair is told from ears, neck and clothes by colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .background import person_mask
from .faces import GREY, OVAL, WHITE, Face, align, find_faces, transform
from .opencv import cv2
from .pixels import area_resize, limited_size, to_uint8

COLOURS = 4
"""Clusters that describe the colours of a region."""
LIKELIER, LIKELIER_BELOW_CHIN = 0.8, 0.4
"""A pixel is hair where its distance to the hair's colours is below this part of that to everything else's."""
TOO_FEW = 64
FACE_IS_PERSON = 0.8
"""The person network is asked about the face where it sees at least this part of it."""


def _colours(pixels: np.ndarray) -> np.ndarray:
    """Centres (k, 3) of the colours of `pixels` (n, 3), Lab."""
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    count = min(COLOURS, len(pixels))
    return cv2.kmeans(pixels.astype(np.float32), count, None, stop, 2, cv2.KMEANS_PP_CENTERS)[2]


def _distance(lab: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Distance of each pixel (h, w) to the nearest of the colours."""
    return np.min([np.linalg.norm(lab - colour, axis=2) for colour in colours], axis=0)


def _disc(width: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))


def face_and_hair(crop: np.ndarray, mesh: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Mask (512, 512) in [0, 1] of the face and the hair in an aligned crop.

    Args:
        crop: (512, 512, 3) uint8, from `faces.align`.
        mesh: (468, 2) in the picture that the crop was made of.
        affine: (2, 3) from that picture to the crop.
    """
    size = crop.shape[0]
    outline = transform(mesh[list(OVAL)], affine)
    oval = np.zeros((size, size), np.uint8)
    cv2.fillPoly(oval, [outline.round().astype(np.int32)], 1)
    oval = oval.astype(bool)
    person = person_mask(crop)
    around = (person > 0.5) & ~oval
    if (person[oval] > 0.5).mean() > FACE_IS_PERSON:
        # The mesh runs ahead of a turned face's far cheek.
        oval &= person > 0.3
    rows, columns = np.mgrid[:size, :size]
    # The outline runs clockwise from the forehead: a quarter round is an ear, half round the chin.
    right, chin, left = outline[len(OVAL) // 4], outline[len(OVAL) // 2], outline[3 * len(OVAL) // 4]
    # Above the ears a person is all hair (or hat, which cannot be told from it here).
    ears = (right[1] + left[1]) / 2
    crown = around & (rows < ears - 0.5 * (chin[1] - ears))

    lab = cv2.cvtColor(cv2.GaussianBlur(crop, (5, 5), 0).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    neck = around & (rows > chin[1]) & (np.abs(columns - chin[0]) < (right[0] - left[0]) / 3)
    if crown.sum() >= TOO_FEW:
        # Cheeks alone stand for skin: a fringe hangs into the outline.
        others = [_colours(lab[region]) for region in (oval & (rows > ears), neck) if region.sum() >= TOO_FEW]
        likelier = np.where(rows < chin[1], LIKELIER, LIKELIER_BELOW_CHIN)
        hair = _distance(lab, _colours(lab[crown])) < likelier * _distance(lab, np.concatenate(others))
    else:
        hair = np.zeros_like(oval)
    # Rims of ears and shadows on the neck have hair's colours too, but hair comes in larger pieces.
    hair = cv2.morphologyEx((crown | (around & hair) | oval).astype(np.uint8), cv2.MORPH_OPEN, _disc(17)) > 0
    keep = cv2.morphologyEx((oval | hair).astype(np.uint8), cv2.MORPH_CLOSE, _disc(11))
    # What does not hang together with the face is not its hair.
    count, labels = cv2.connectedComponents(keep)
    middle = labels[min(int(chin[1] + outline[0, 1]) // 2, size - 1), min(int(chin[0]), size - 1)] if count > 1 else 0
    keep = (labels == middle) if middle else keep > 0
    return cv2.GaussianBlur(keep.astype(np.float32), (5, 5), 0)


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


CENTRE, SIZE = "centre", "size"
FACE_ORDERS = (CENTRE, SIZE)
"""What makes a face the first: how near it is to the middle of the picture, as in the reference, or how large it is."""


def _in_order(faces: list[Face], order: str | None, shape: tuple[int, ...]) -> list[Face]:
    """The faces of a picture of that shape (h, w, 3), which come the largest first."""
    if order != CENTRE:
        return faces
    middle = np.array([shape[1] / 2, shape[0] / 2])
    return sorted(faces, key=lambda face: float(np.linalg.norm(face.middle - middle)))


def aligned_face(
    rgb: torch.Tensor,
    models: FaceModels,
    number: int = 1,
    mask: torch.Tensor | None = None,
    order: str | None = None,
) -> AlignedFace | None:
    """The chosen face of a picture, upright; None where there is no face.

    A picture without an upright face is tried lying on either side and upside down: phone photos that lost their EXIF.

    Args:
        rgb: (1, h, w, 3) in [0, 1].
        number: which face, from 1.
        mask: (1, h, w); only faces whose middle lies in it count.
        order: one of `FACE_ORDERS`: which face is the first. What lies outside the picture is then grey when its face
            is cut out, as in the reference. None, as before there was a choice: by size, and white.

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
            f"choose a smaller number (1 is {'nearest the middle' if order == CENTRE else 'the largest face'})."
        )
    face = _in_order(faces, order, turned.shape)[number - 1]
    crop, affine = align(turned, face.points, border=WHITE if order is None else GREY)
    keep = models.keep(crop, face, affine)
    note = f"face {number} of {len(faces)}, found by {models.name}"
    if turns:
        note += f", in the picture turned by {90 * turns}° to the left"
    as_tensor = torch.from_numpy(crop).to(rgb.device).float().div(255).unsqueeze(0)
    return AlignedFace(as_tensor, torch.from_numpy(keep).to(as_tensor).unsqueeze(0), note)


def _middle_is_in(face: Face, mask: np.ndarray) -> bool:
    x, y = face.points.mean(0).round().astype(int)
    return bool(mask[np.clip(y, 0, mask.shape[0] - 1), np.clip(x, 0, mask.shape[1] - 1)] > 0.5)
