"""The face models whose crops DreamO was trained on, where the user has them: facexlib's RetinaFace and BiSeNet.

facexlib downloads what it misses and unpickles what it finds; here its networks are built bare and filled from files
that the user put there, tensors only.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from .face_crop import FaceModels
from .faces import Face
from .opencv import cv2

DETECTOR = "detection_Resnet50_Final"
PARSER = "parsing_bisenet"
SUFFIXES = (".safetensors", ".pth")

MIN_DETECTION = 0.97
"""As the reference implementation."""
SMALLEST_SIDE = 512
"""To which the smaller side is enlarged where that is asked for."""
DROPPED = (0, 16, 18, 7, 8, 9, 14, 15)
"""BiSeNet's background, clothes, hat, ears, earrings, neck and necklace."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def weight_files(folders: list[Path]) -> tuple[Path, Path] | None:
    """The two weight files in the first folder that has them; None where a file or facexlib itself is missing."""
    if importlib.util.find_spec("facexlib") is None:
        return None
    for folder in folders:
        found = [next((p for s in SUFFIXES if (p := folder / (n + s)).is_file()), None) for n in (DETECTOR, PARSER)]
        if all(found):
            return found[0], found[1]
    return None


def _fill(net: torch.nn.Module, path: Path) -> torch.nn.Module:
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    net.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return net.eval()


def facexlib_models(detector_file: Path, parser_file: Path, enlarge: bool = False) -> FaceModels:
    """The reference implementation's face models, from the user's files. Raises what torch does for a wrong file.

    Args:
        enlarge: show the detector small pictures enlarged to `SMALLEST_SIDE`. The reference implementation shows them
            as they are.
    """
    from facexlib.detection.retinaface import RetinaFace
    from facexlib.parsing.bisenet import BiSeNet

    # Read when first needed, and once: a picture may be looked at in four orientations.
    detector = functools.cache(lambda: _fill(RetinaFace(network_name="resnet50", device="cpu"), detector_file))
    parser = functools.cache(lambda: _fill(BiSeNet(num_class=19), parser_file))

    def find(picture: np.ndarray) -> list[Face]:
        zoom = max(SMALLEST_SIDE / min(picture.shape[:2]), 1.0) if enlarge else 1.0
        seen = picture if zoom == 1 else cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
        # facexlib's detector is trained on BGR.
        found = detector().detect_faces(np.ascontiguousarray(seen[:, :, ::-1]), MIN_DETECTION)
        faces = []
        for row in found.astype(float):
            size, middle = np.prod(row[2:4] - row[:2]) ** 0.5 / zoom, (row[:2] + row[2:4]) / 2 / zoom
            faces.append(Face(row[5:15].reshape(5, 2) / zoom, None, float(size), float(row[4]), middle))
        return sorted(faces, key=lambda face: -face.size)

    def keep(crop: np.ndarray, face: Face, affine: np.ndarray) -> np.ndarray:
        values = (torch.from_numpy(crop).float() / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
        labels = parser()(values.permute(2, 0, 1).unsqueeze(0))[0][0].argmax(dim=0)
        return (~torch.isin(labels, torch.tensor(DROPPED))).float().numpy()

    return FaceModels(find, keep, "facexlib")
