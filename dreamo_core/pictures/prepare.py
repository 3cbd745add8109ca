"""From any photo to the picture that the model was trained to see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .background import REMOVERS, cut_out, cut_out_region
from .face_crop import BUILT_IN, LONG_EDGE, FaceModels, aligned_face
from .picture import Picture
from .pixels import (
    area_resize,
    centre_crop,
    check_picture,
    fit_mask,
    lanczos_resize,
    limited_size,
    long_side_size,
    on_white,
    reference_size,
    split_alpha,
    to_uint8,
)

MASK_USES = ("subject", "region")
"""A mask is the subject itself, or a rough region in which the subject is to be found."""
BACKGROUNDS = (*REMOVERS, "keep")
DREAMO, UXO = "DreamO", "UNO, USO"
PROFILES = (DREAMO, UXO)
"""Whose way of preparing pictures: DreamO's, or that of UNO (arXiv 2504.02160) and USO (arXiv 2508.18966)."""


@dataclass(frozen=True)
class Preparation:
    """How a picture is prepared where there is a choice.

    Attributes:
        background: one of `BACKGROUNDS`: who finds the subject where neither mask nor alpha channel says it.
        mask_use: one of `MASK_USES`.
        face: which face of an identity, from 1.
        face_models: who finds and cuts out faces.
        profile: one of `PROFILES`.
        face_order: one of `face_crop.FACE_ORDERS`, or None for how it was before there was a choice.
    """

    background: str = "auto"
    mask_use: str = "subject"
    face: int = 1
    face_models: FaceModels = BUILT_IN
    profile: str = DREAMO
    face_order: str | None = None


def prepare_picture(
    image: torch.Tensor,
    task: str,
    resolution: int,
    mask: torch.Tensor | None = None,
    preparation: Preparation | None = None,
) -> Picture:
    """Make the picture that DreamO was trained to see: area-resized, and on white unless it is a style.

    An identity becomes its aligned face, 512 × 512 whatever the resolution; without a face it is prepared as a subject.
    The profile of UNO and USO: see `_prepare_for_uxo`.

    Args:
        image: (1, h, w, c) in [0, 1], c is 1, 3 or 4.
        task: one of `TASKS`.
        resolution: the result has about resolution² pixels; for UNO and USO, the length of its longer side.
        mask: (1, h, w) of any size, 1 where the subject is. Without it an alpha channel serves.
        preparation: without it nothing is searched for: no background is removed and no face aligned.

    Raises:
        ValueError: not one finite picture, not one finite mask, or fewer faces than asked for.
    """
    check_picture(image)
    rgb, alpha = split_alpha(image)
    notes = []
    if mask is not None:
        mask = fit_mask(mask, *image.shape[1:3])
        if preparation is not None and mask.max() <= 0:
            # What Load Image gives for a picture without an alpha channel.
            mask = None
            notes.append("the mask is empty and was not used")
    if preparation is not None and preparation.profile == UXO:
        return _prepare_for_uxo(rgb, alpha, mask, task, resolution, preparation, notes)
    if task == "style":
        notes.append("kept whole")
        return _resized(rgb, alpha, resolution, notes, keep_on_picture=False)
    if task == "identity" and preparation is not None:
        whole = rgb if alpha is None else on_white(rgb, alpha)
        aligned = aligned_face(whole, preparation.face_models, preparation.face, mask, preparation.face_order)
        if aligned is not None:
            keep = None if preparation.background == "keep" else aligned.keep
            pixels = aligned.pixels if keep is None else on_white(aligned.pixels, keep)
            return Picture(pixels, keep, "; ".join([*notes, aligned.note]))
        notes.append("no face was found, prepared as a subject")
    if preparation is not None and preparation.background == "keep":
        notes.append("background kept")
        return _resized(rgb, alpha, resolution, notes, keep_on_picture=False)
    keep = _subject(rgb, alpha, mask, preparation, notes)
    return _resized(rgb, keep, resolution, notes)


def _prepare_for_uxo(
    rgb: torch.Tensor,
    alpha: torch.Tensor | None,
    mask: torch.Tensor | None,
    task: str,
    resolution: int,
    preparation: Preparation,
    notes: list[str],
) -> Picture:
    """As UNO and USO were trained: the longer side at `resolution`, by Lanczos, the middle cut to multiples of 16.

    Nothing is searched for and no face aligned; the picture is whole, unless the user gives a mask or an alpha channel
    or names a remover. What is cut out then is put on white, and its background can be pruned.
    """
    keep = None
    if task != "style" and preparation.background != "keep":
        named = preparation.background != "auto" or mask is not None
        keep = _subject(rgb, alpha, mask, preparation if named else None, notes)
        keep = None if keep is None or keep.min() >= 1 else keep
    whole = alpha if keep is None else keep
    if keep is None:
        notes.append("kept whole")
    height, width = long_side_size(*rgb.shape[1:3], resolution)
    pixels = centre_crop(lanczos_resize(rgb if whole is None else on_white(rgb, whole), height, width))
    return Picture(pixels, None if keep is None else centre_crop(fit_mask(keep, height, width)), "; ".join(notes))


def _subject(
    rgb: torch.Tensor,
    alpha: torch.Tensor | None,
    mask: torch.Tensor | None,
    preparation: Preparation | None,
    notes: list[str],
) -> torch.Tensor | None:
    """The subject's mask (1, h, w) from the first source that has one: mask, alpha channel, remover."""
    if mask is not None and (preparation is None or preparation.mask_use == "subject"):
        notes.append("cut out by the mask")
        return mask
    if mask is None and alpha is not None and alpha.min() < 1:
        notes.append("cut out by the alpha channel")
        return alpha
    if preparation is None:
        return alpha
    small = area_resize(rgb, *limited_size(*rgb.shape[1:3], LONG_EDGE))
    picture = to_uint8(small)
    if mask is not None:
        cutout = cut_out_region(picture, fit_mask(mask, *small.shape[1:3])[0].cpu().numpy())
    else:
        cutout = cut_out(picture, preparation.background)
    notes.append(cutout.note)
    if cutout.keep is None:
        return None
    found = torch.from_numpy(cutout.keep)[None, None].to(rgb)
    return F.interpolate(found, size=rgb.shape[1:3], mode="bilinear")[0]


def _resized(
    rgb: torch.Tensor, keep: torch.Tensor | None, resolution: int, notes: list[str], keep_on_picture: bool = True
) -> Picture:
    size = reference_size(*rgb.shape[1:3], resolution)
    pixels = area_resize(rgb, *size, keep=keep).clamp(0, 1)
    return Picture(pixels, fit_mask(keep, *size) if keep is not None and keep_on_picture else None, "; ".join(notes))
