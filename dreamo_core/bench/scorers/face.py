"""Face similarity: cosine of CurricularFace's features (Huang et al. 2020, arXiv 2004.00288) of aligned faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from ...pictures.faces import ARCFACE_SIDE, ARCFACE_TEMPLATE, align, find_faces
from .embedding import Likeness, state_of, version_of
from .protocol import Shot


class Block(nn.Module):
    """A residual block of the improved ResNet (Deng et al. 2019, "ArcFace", section 3.1)."""

    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.shortcut_layer = (
            nn.MaxPool2d(1, stride)
            if width_in == width
            else nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(width_in), nn.Conv2d(width_in, width, 3, 1, 1, bias=False), nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class FaceNet(nn.Module):
    """(b, 3, 112, 112) in −1 to 1 to (b, 512) features of length 1.

    Args:
        blocks: in each of the four stages; 3, 13, 30, 3 is the released IR-101.
        width: of the first stage; each next one is twice as wide.
    """

    def __init__(self, blocks: Sequence[int] = (3, 13, 30, 3), width: int = 64):
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        body, last = [], width
        for stage, count in enumerate(blocks):
            for n in range(count):
                body.append(Block(last, width << stage, 1 if n else 2))
                last = width << stage
        self.body = nn.Sequential(*body)
        side = ARCFACE_SIDE // 2 ** len(blocks)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(last), nn.Dropout(0.4), nn.Flatten(), nn.Linear(last * side**2, 512),
            nn.BatchNorm1d(512, affine=False),
        )  # fmt: skip

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self.output_layer(self.body(self.input_layer(faces))), dim=-1)


def _blocks_in(state: Mapping[str, torch.Tensor]) -> tuple[list[int], int]:
    """How many blocks each stage has, and the first one's width, by the shapes."""
    widths: list[int] = []
    while (weight := state.get(f"body.{len(widths)}.res_layer.1.weight")) is not None:
        widths.append(len(weight))
    return [widths.count(width) for width in sorted(set(widths))], min(widths, default=64)


def face_net(state: Mapping[str, torch.Tensor]) -> FaceNet:
    """The network of a released backbone.

    Raises:
        ValueError: tensors of another network.
    """
    model = FaceNet(*_blocks_in(state)).eval()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"These are not the weights of a CurricularFace backbone: {error}") from error
    return model


def aligned(picture: Image.Image) -> torch.Tensor | None:
    """The largest face upright, (3, 112, 112) in −1 to 1; None if there is none."""
    pixels = np.asarray(picture.convert("RGB"))
    faces = find_faces(pixels)
    if not faces:
        return None
    crop, _ = align(pixels, faces[0].points, ARCFACE_TEMPLATE, ARCFACE_SIDE)
    return torch.from_numpy(crop).movedim(-1, 0).float() / 127.5 - 1


class FaceScorer(Likeness):
    """Face similarity of whole pictures, and whether a face was found; 0 where the picture has none.

    So no method gains by drawing no face where one is wanted.
    """

    def __init__(self, path: Path):
        self.model = face_net(state_of(path))
        super().__init__("face", "face similarity", version_of(path), self._embed, tasks=("identity",))

    def _embed(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        faces = [aligned(picture) for picture in pictures]
        features = torch.zeros(len(pictures), 512)
        found = [n for n, face in enumerate(faces) if face is not None]
        if found:
            features[found] = self.model(torch.stack([faces[n] for n in found]))
        return features

    @torch.no_grad()
    def score(self, shots: Sequence[Shot]) -> list[dict[str, float]]:
        numbers = []
        for shot in shots:
            references = self._counted(shot)
            if not references:
                numbers.append({})
                continue
            (drawn,) = self._embed([shot.whole])
            cosines = self.features_of(references) @ drawn
            numbers.append({self.metric: float(cosines.mean()), "face found": float(drawn.norm() > 0)})
        return numbers


def face(path: str) -> FaceScorer:
    """From `CurricularFace_Backbone.pth` (weights-only reader) or its tensors as safetensors."""
    return FaceScorer(Path(path))
