"""A subject's picture as the encoders get it: as the released code does it, or as the paper says."""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from .projector import Features

RELEASED, PAPER = "released", "paper"
PICTURE_PATHS = (RELEASED, PAPER)

SIDE = 384
"""Of what an encoder sees."""

SIGLIP = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
DINOV2 = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the two encoders' normalisations."""


def squashed(picture: torch.Tensor, side: int = SIDE) -> torch.Tensor:
    """(b, h, w, 3) in [0, 1] to (b, 3, 2 side, 2 side): bilinear, neither antialiased nor cropped; aspect is lost."""
    size = (2 * side, 2 * side)
    return interpolate(picture[..., :3].movedim(-1, 1).float(), size=size, mode="bilinear", align_corners=False)


def whole(picture: torch.Tensor, side: int = SIDE) -> torch.Tensor:
    """The whole of a squashed picture: (b, 3, 2 side, 2 side) to (b, 3, side, side)."""
    return interpolate(picture, size=(side, side), mode="bilinear", align_corners=True)


def parts(picture: torch.Tensor, path: str = RELEASED) -> torch.Tensor:
    """Four parts of a squashed picture: (b, 3, 2 side, 2 side) to (4 b, 3, side, side), a picture's four together.

    The paper cuts four tiles. The released code, which the weights were made with, takes every second pixel, so each
    part shows the whole.
    """
    b, c, h, w = picture.shape
    if path == RELEASED:
        cut = picture.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
    else:
        cut = picture.view(b, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(4 * b, c, h // 2, w // 2)


def eight_bit(pixels: torch.Tensor) -> torch.Tensor:
    """Rounded down to the 256 levels that a picture in a file has."""
    return (pixels.clamp(0, 1) * 255).floor() / 255


def normalised(pixels: torch.Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> torch.Tensor:
    """(b, 3, h, w) minus mean, over standard deviation."""
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in statistics)
    return (pixels - mean) / std


def features(picture: torch.Tensor, siglip, dino, deep: tuple[int, int], shallow, path: str = RELEASED) -> Features:
    """Both encoders' features of a picture.

    Args:
        picture: (b, h, w, 3) in [0, 1].
        siglip, dino: `vit.ViT`s, or callables like them: normalised pixels (b, 3, side, side) and layers to features.
        deep: the layer of each that is read for `deep` and `local`.
        shallow: pairs of layers for `shallow`; may be empty.
        path: one of `PICTURE_PATHS`.
    """
    large = squashed(picture)
    count = len(large)
    pixels = eight_bit(torch.cat((whole(large), parts(large, path))))

    def seen(encoder, statistics, at: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        whole_pixels, part_pixels = normalised(pixels, statistics).split((count, 4 * count))
        # Parts are read at the deep layer alone.
        of_whole = encoder(whole_pixels, sorted({*(pair[at] for pair in shallow), deep[at]}))
        (of_parts,) = encoder(part_pixels, [deep[at]])
        return of_whole, of_parts.unflatten(0, (count, 4)).flatten(1, 2)

    (siglip_whole, siglip_parts), (dino_whole, dino_parts) = seen(siglip, SIGLIP, 0), seen(dino, DINOV2, 1)
    joined = [torch.cat(pair, dim=-1) for pair in zip(siglip_whole, dino_whole, strict=True)]
    return Features(joined[-1], torch.cat((siglip_parts, dino_parts), dim=-1), tuple(joined[:-1]))
