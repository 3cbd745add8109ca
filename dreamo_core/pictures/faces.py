"""Faces in a photograph: found, measured by landmarks, and aligned to the template that DreamO's identities have.

Detection and landmarks are MediaPipe's networks (Google, Apache-2.0: "BlazeFace", arXiv 1907.05047; "Real-time Facial
Surface Geometry", arXiv 1907.06724), run by `graph_net` from the weights beside this file. The template and the warp
are those of the reference implementation (facexlib): FFHQ at 512 × 512.

Pictures here are numpy arrays (h, w, 3) in [0, 255], uint8, RGB; points are (x, y) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .opencv import cv2
from .tflite import GraphNet, load_graph_net

WEIGHTS = Path(__file__).parent / "weights"

FACE_SIZE = 512
FFHQ_TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
"""Eyes, nose tip, mouth corners, left of the picture first, in a 512 × 512 crop (FFHQ, as facexlib)."""

ARCFACE_SIDE = 112
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""The same points in the 112 × 112 crop that face recognition networks are trained on (Deng et al. 2019, "ArcFace")."""

MIN_DETECTION = 0.5
"""Detections surer than this are looked at by the landmark network, which has the last word."""
MIN_PRESENCE = 0.5
SAME_FACE_IOU = 0.3

# Points of the 468-point mesh.
EYES = ((33, 133, 159, 145), (362, 263, 386, 374))
NOSE_TIP = 1
MOUTH_CORNERS = (61, 291)
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""The outline of the face, forehead first, clockwise."""


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture.

    Attributes:
        points: (5, 2) eyes, nose tip, mouth corners, as `FFHQ_TEMPLATE`.
        mesh: (468, 2) all landmarks of the mesh, or None where the detector gives five points only.
        size: side of a square of the same area, in pixels.
        score: how sure the detector is, 0 to 1.
        middle: (2,) of the box around it.
    """

    points: np.ndarray
    mesh: np.ndarray | None
    size: float
    score: float
    middle: np.ndarray


def _to_input(picture: np.ndarray, low: float) -> torch.Tensor:
    """uint8 (h, w, 3) as (1, h, w, 3) in [low, 1]."""
    return torch.from_numpy(picture).float().div(255).mul(1 - low).add(low).unsqueeze(0)


def _detect_in(picture: np.ndarray, net: GraphNet) -> np.ndarray:
    """Detections (n, 6) of one look at the whole picture: x0, y0, x1, y1, the angle of the eyes in radians, score."""
    height, width = picture.shape[:2]
    side = net.input_shape[1]
    scale = side / max(height, width)
    shift = np.array([(side - width * scale) / 2, (side - height * scale) / 2])
    square = cv2.warpAffine(_shrink(picture, scale), _fit(picture, scale, shift), (side, side))
    boxes, scores = (output[0].numpy() for output in net(_to_input(square, -1.0)))
    scores = 1 / (1 + np.exp(-scores[:, 0].clip(-80, 80)))
    keep = scores > MIN_DETECTION
    # One anchor in the middle of each cell of the grid; everything is an offset from it in pixels of the input.
    cells = int(len(scores) ** 0.5)
    ys, xs = np.divmod(np.arange(len(scores)), cells)
    anchors = (np.stack([xs, ys], 1) + 0.5) * (side / cells)
    boxes, anchors = boxes[keep], anchors[keep]
    centres, half = boxes[:, :2] + anchors, boxes[:, 2:4] / 2
    corners = np.concatenate([(centres - half - shift) / scale, (centres + half - shift) / scale], 1)
    eyes = boxes[:, 6:8] - boxes[:, 4:6]
    return np.concatenate([corners, np.arctan2(eyes[:, 1], eyes[:, 0])[:, None], scores[keep][:, None]], 1)


def _shrink(picture: np.ndarray, scale: float) -> np.ndarray:
    """The picture by area at `scale`, so that a following warp samples it without aliasing."""
    if scale >= 1:
        return picture
    size = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _fit(picture: np.ndarray, scale: float, shift: np.ndarray) -> np.ndarray:
    """The affine map from what `_shrink` gives to the letterboxed input."""
    scale = scale if scale >= 1 else 1.0
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


def _tiles(height: int, width: int, side: int) -> list[tuple[int, int]]:
    """Top left corners of overlapping squares of `side` that cover the picture; none where one look sees as much."""
    if max(height, width) < 2 * side:
        return []

    def starts(length: int) -> np.ndarray:
        count = max(-(-(length - side) // (side * 2 // 3)), 0) + 1
        return np.linspace(0, max(length - side, 0), count).astype(int)

    return [(int(y), int(x)) for y in starts(height) for x in starts(width)]


def _merge(boxes: np.ndarray) -> np.ndarray:
    """Non-maximum suppression, surest first."""
    kept: list[np.ndarray] = []
    for box in sorted(boxes, key=lambda b: -b[5]):
        if all(_overlap(box, other) < SAME_FACE_IOU for other in kept):
            kept.append(box)
    return np.array(kept).reshape(-1, 6)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Area shared by two boxes over the area of the smaller, so that a part of a face in a tile counts as the face."""
    sides = np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2])
    shared = sides.clip(min=0).prod()
    smaller = min((a[2:4] - a[:2]).prod(), (b[2:4] - b[:2]).prod())
    return shared / max(smaller, 1e-9)


def _look_closer(picture: np.ndarray, centre: np.ndarray, side: float, angle: float, net: GraphNet):
    """Mesh (468, 2) and presence of the face in a turned square of the picture."""
    size = net.input_shape[1]
    zoom = size / side
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    forward = np.array([[cos, sin], [-sin, cos]])
    shift = size / 2 - forward @ centre
    # Shrunk by area first: the warp alone samples too few pixels of a large face.
    shrink = min(zoom, 1.0)
    small = _shrink(picture, shrink)
    to_small = np.array([small.shape[1] / picture.shape[1], small.shape[0] / picture.shape[0]])
    crop = cv2.warpAffine(small, np.column_stack([forward / to_small, shift]), (size, size))
    mesh, presence = net(_to_input(crop, 0.0))
    mesh = mesh.reshape(468, 3)[:, :2].numpy().astype(float)
    return np.linalg.solve(forward, (mesh - shift).T).T, float(presence.sigmoid())


def _measure(picture: np.ndarray, box: np.ndarray, net: GraphNet) -> Face | None:
    """Landmarks of a detection, looked at twice, the second time centred by the first; None where no face is."""
    centre, side, angle = (box[:2] + box[2:4]) / 2, 1.5 * (box[2:4] - box[:2]).max(), box[4]
    for _ in range(2):
        mesh, presence = _look_closer(picture, centre, side, angle, net)
        if presence < MIN_PRESENCE:
            return None
        low, high = mesh.min(0), mesh.max(0)
        centre, side = (low + high) / 2, 1.5 * (high - low).max()
        across = mesh[list(EYES[1])].mean(0) - mesh[list(EYES[0])].mean(0)
        angle = np.arctan2(across[1], across[0])
    points = np.stack(
        [mesh[list(EYES[0])].mean(0), mesh[list(EYES[1])].mean(0), mesh[NOSE_TIP], *mesh[list(MOUTH_CORNERS)]]
    )
    area = cv2.contourArea(mesh[list(OVAL)].astype(np.float32))
    return Face(points, mesh, float(area) ** 0.5, presence, centre)


def find_faces(picture: np.ndarray) -> list[Face]:
    """Every face in the picture (h, w, 3) uint8 RGB, the largest first.

    Looks at the whole picture and, for small faces, at overlapping tiles of it.
    """
    detector = load_graph_net(WEIGHTS / "face_detection.safetensors")
    landmarker = load_graph_net(WEIGHTS / "face_landmarks.safetensors")
    height, width = picture.shape[:2]
    boxes = [_detect_in(picture, detector)]
    side = detector.input_shape[1] * 2
    for y, x in _tiles(height, width, side):
        found = _detect_in(picture[y : y + side, x : x + side], detector)
        found[:, :4] += (x, y, x, y)
        boxes.append(found)
    faces = [_measure(picture, box, landmarker) for box in _merge(np.concatenate(boxes))]
    return sorted((face for face in faces if face is not None), key=lambda face: -face.size)


WHITE = (255, 255, 255)
GREY = (132, 133, 135)
"""What lies outside the picture in facexlib's crops."""


def align(
    picture: np.ndarray,
    points: np.ndarray,
    template: np.ndarray = FFHQ_TEMPLATE,
    side: int = FACE_SIZE,
    border: tuple[int, int, int] = WHITE,
) -> tuple[np.ndarray, np.ndarray]:
    """The face upright in a square crop (uint8), as facexlib warps it, and the affine map (2, 3) that does it.

    Args:
        picture: (h, w, 3) uint8.
        points: (5, 2) as `FFHQ_TEMPLATE`.
        template: where the points go in the crop (5, 2).
        side: of the crop.
        border: colour of what lies outside the picture.
    """
    affine = cv2.estimateAffinePartial2D(points, template, method=cv2.LMEDS)[0]
    crop = cv2.warpAffine(picture, affine, (side, side), borderMode=cv2.BORDER_CONSTANT, borderValue=border)
    return crop, affine


def transform(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Points (n, 2) moved by an affine map (2, 3)."""
    return points @ affine[:, :2].T + affine[:, 2]
