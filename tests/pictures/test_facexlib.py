"""facexlib's face models, from the user's files: with random weights, against facexlib called as the reference does."""

import sys
import types

import numpy as np
import pytest
import torch
from dreamo_routed.dreamo_core.host.pictures import face_models
from dreamo_routed.dreamo_core.pictures import facexlib as facexlib_models
from dreamo_routed.dreamo_core.pictures.face_crop import BUILT_IN, aligned_face
from safetensors.torch import save_file
from skimage import data


def test_without_its_files_the_built_in_models_are_used(tmp_path):
    assert facexlib_models.weight_files([tmp_path]) is None
    assert face_models() is BUILT_IN


def test_its_files_are_read_and_used_as_the_reference_does(tmp_path, monkeypatch):
    reason = "facexlib is not installed (pip install facexlib; it brings opencv-python, numba and filterpy)"
    retinaface = pytest.importorskip("facexlib.detection.retinaface", reason=reason)
    bisenet = pytest.importorskip("facexlib.parsing.bisenet", reason=reason)
    detector = retinaface.RetinaFace(network_name="resnet50", device="cpu").eval()
    parser = bisenet.BiSeNet(num_class=19).eval()
    # As released: a pickled state with a prefix; and as a user may have converted it.
    state = {"module." + key: value for key, value in detector.state_dict().items()}
    torch.save(state, tmp_path / "detection_Resnet50_Final.pth")
    assert facexlib_models.weight_files([tmp_path]) is None  # one of the two is missing
    save_file(
        {key: value.clone() for key, value in parser.state_dict().items()}, tmp_path / "parsing_bisenet.safetensors"
    )

    models = facexlib_models.facexlib_models(*facexlib_models.weight_files([tmp_path]))
    picture = data.astronaut()
    monkeypatch.setattr(facexlib_models, "MIN_DETECTION", 0.0)  # random weights are never sure
    theirs = detector.detect_faces(np.ascontiguousarray(picture[:, :, ::-1]), 0.0)
    assert sorted(face.score for face in models.find(picture)) == pytest.approx(sorted(theirs[:, 4].tolist()))

    mean, deviation = (torch.tensor(v)[:, None, None] for v in (facexlib_models.MEAN, facexlib_models.DEVIATION))
    values = (torch.from_numpy(picture).permute(2, 0, 1) / 255 - mean) / deviation
    labels = parser(values.unsqueeze(0))[0].argmax(dim=1)[0]
    white = sum(labels == label for label in (0, 16, 18, 7, 8, 9, 14, 15)).bool()
    assert torch.equal(torch.from_numpy(models.keep(picture, None, None)), (~white).float())


def test_the_detector_is_read_once_a_picture(tmp_path, monkeypatch):
    """A picture without an upright face is looked at in four orientations."""
    read = []
    nothing = type("Net", (), {"__init__": lambda self, **_: None, "detect_faces": lambda *_: np.zeros((0, 15))})
    for module, name in (("detection.retinaface", "RetinaFace"), ("parsing.bisenet", "BiSeNet")):
        stand_in = types.ModuleType(f"facexlib.{module}")
        setattr(stand_in, name, nothing)
        monkeypatch.setitem(sys.modules, f"facexlib.{module}", stand_in)
    monkeypatch.setattr(facexlib_models, "_fill", lambda net, path: read.append(path) or net)
    models = facexlib_models.facexlib_models(tmp_path / "detector", tmp_path / "parser")
    assert aligned_face(torch.rand(1, 64, 48, 3), models) is None
    assert read == [tmp_path / "detector"]


@pytest.mark.parametrize("side", [64, 300, 700])
def test_small_photographs_reach_the_detector_as_they_are(tmp_path, monkeypatch, side):
    """As `FaceRestoreHelper.get_face_landmarks_5` without `resize`; enlarged only as it was before."""
    seen = []

    class Detector:
        def __init__(self, **_):
            pass

        def detect_faces(self, picture, threshold):
            seen.append(picture.shape)
            box = [0, 0, *picture.shape[1::-1]]
            return np.array([[*box, 0.99, *np.repeat(picture.shape[1] / 2, 10)]])

    for module, name, stand_in in (("detection.retinaface", "RetinaFace", Detector),
                                   ("parsing.bisenet", "BiSeNet", Detector)):  # fmt: skip
        made = types.ModuleType(f"facexlib.{module}")
        setattr(made, name, stand_in)
        monkeypatch.setitem(sys.modules, f"facexlib.{module}", made)
    monkeypatch.setattr(facexlib_models, "_fill", lambda net, path: net)
    picture = np.zeros((side, 2 * side, 3), np.uint8)
    for enlarge, expected in ((False, side), (True, max(side, 512))):
        (face,) = facexlib_models.facexlib_models(tmp_path, tmp_path, enlarge).find(picture)
        assert seen.pop() == (expected, 2 * expected, 3)
        assert face.middle.tolist() == [side, side / 2] and face.size == pytest.approx(2**0.5 * side)
