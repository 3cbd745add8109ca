"""The converted networks say what LiteRT said of the files they come from."""

import pytest
import torch
import torch.nn.functional as F
from dreamo_routed.dreamo_core.pictures.tflite import load_graph_net
from safetensors.torch import load_file
from support import REPO

ORACLE = load_file(REPO / "tests" / "data" / "litert_outputs.safetensors")


@pytest.mark.parametrize("name", ["face_detection", "face_landmarks", "person"])
def test_equals_litert(name):
    net = load_graph_net(REPO / "dreamo_core" / "pictures" / "weights" / f"{name}.safetensors")
    picture = F.interpolate(ORACLE[f"{name}.noise"], scale_factor=8, mode="bilinear").permute(0, 2, 3, 1)
    for i, output in enumerate(net(picture)):
        theirs = ORACLE[f"{name}.{i}"].float()  # kept in half precision
        assert output.shape == theirs.shape
        assert torch.allclose(output, theirs, rtol=1e-3, atol=1e-3)


def test_wrong_input_size_is_named():
    net = load_graph_net(REPO / "dreamo_core" / "pictures" / "weights" / "person.safetensors")
    with pytest.raises(ValueError, match=r"\(1, 256, 256, 3\), got \(1, 64, 64, 3\)"):
        net(torch.zeros(1, 64, 64, 3))
