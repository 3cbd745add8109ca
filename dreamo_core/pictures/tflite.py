"""A small convolutional network that is data: a list of operators in a safetensors header, run in torch.

The face and person networks of MediaPipe (Google, Apache-2.0) come in TFLite files; `scripts/convert_tflite.py` writes
them in this form, so that they run wherever torch runs, without a further runtime and without a download.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open

Tensor = torch.Tensor

ACTIVATIONS = {"NONE": lambda x: x, "RELU": F.relu, "RELU6": F.relu6}


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: output size is ceil(size / stride), the odd pixel of padding comes last."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _pad(x: Tensor, kernel: tuple[int, int], node: dict, value: float = 0.0) -> Tensor:
    if node["padding"] == "VALID":
        return x
    vertical = _same_padding(x.shape[2], kernel[0], node["strideH"])
    horizontal = _same_padding(x.shape[3], kernel[1], node["strideW"])
    return F.pad(x, (*horizontal, *vertical), value=value)


def _convolve(node: dict, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """CONV_2D: x (b, h, w, c), weight (out, kh, kw, c)."""
    x = _pad(x.permute(0, 3, 1, 2), weight.shape[1:3], node)
    y = F.conv2d(x, weight.permute(0, 3, 1, 2), bias, (node["strideH"], node["strideW"]))
    return y.permute(0, 2, 3, 1)


def _convolve_depthwise(node: dict, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """DEPTHWISE_CONV_2D with multiplier 1: x (b, h, w, c), weight (1, kh, kw, c)."""
    x = _pad(x.permute(0, 3, 1, 2), weight.shape[1:3], node)
    y = F.conv2d(x, weight.permute(3, 0, 1, 2), bias, (node["strideH"], node["strideW"]), groups=x.shape[1])
    return y.permute(0, 2, 3, 1)


def _convolve_transposed(node: dict, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """MediaPipe's Convolution2DTransposeBias: weight (out, kh, kw, c); SAME makes the output stride times as large."""
    stride = (node["strideH"], node["strideW"])
    y = F.conv_transpose2d(x.permute(0, 3, 1, 2), weight.permute(3, 0, 1, 2), bias, stride)
    if node["padding"] == "SAME":
        height, width = x.shape[1] * stride[0], x.shape[2] * stride[1]
        top, left = (y.shape[2] - height) // 2, (y.shape[3] - width) // 2
        y = y[:, :, top : top + height, left : left + width]
    return y.permute(0, 2, 3, 1)


def _max_pool(node: dict, x: Tensor) -> Tensor:
    kernel = (node["filterHeight"], node["filterWidth"])
    x = _pad(x.permute(0, 3, 1, 2), kernel, node, value=float("-inf"))
    return F.max_pool2d(x, kernel, (node["strideH"], node["strideW"])).permute(0, 2, 3, 1)


def _average_pool(node: dict, x: Tensor) -> Tensor:
    kernel = (node["filterHeight"], node["filterWidth"])
    return F.avg_pool2d(x.permute(0, 3, 1, 2), kernel, (node["strideH"], node["strideW"])).permute(0, 2, 3, 1)


def _resize_bilinear(node: dict, x: Tensor, size: Tensor) -> Tensor:
    height, width = (int(s) for s in size)
    x = x.permute(0, 3, 1, 2)
    if node["halfPixelCenters"]:
        y = F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    elif node["alignCorners"]:
        y = F.interpolate(x, (height, width), mode="bilinear", align_corners=True)
    else:
        # TensorFlow's oldest rule: source = target × ratio, without the half pixel.
        y = _resize_axis(_resize_axis(x, 2, height), 3, width)
    return y.permute(0, 2, 3, 1)


def _resize_axis(x: Tensor, axis: int, size: int) -> Tensor:
    source = torch.arange(size, dtype=torch.float32, device=x.device) * (x.shape[axis] / size)
    low = source.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    weight = (source - low).view([-1 if i == axis else 1 for i in range(x.ndim)])
    return x.index_select(axis, low) * (1 - weight) + x.index_select(axis, high) * weight


def _depth_to_space(node: dict, x: Tensor) -> Tensor:
    b, h, w, c = x.shape
    k = node["blockSize"]
    return x.reshape(b, h, w, k, k, c // (k * k)).permute(0, 1, 3, 2, 4, 5).reshape(b, h * k, w * k, c // (k * k))


def _pad_constant(node: dict, x: Tensor, paddings: Tensor) -> Tensor:
    # Torch counts dimensions from the last one.
    return F.pad(x, [int(p) for pair in paddings.flip(0) for p in pair])


OPERATORS = {
    "ADD": lambda node, a, b: a + b,
    "AVERAGE_POOL_2D": _average_pool,
    "CONV_2D": _convolve,
    "Convolution2DTransposeBias": _convolve_transposed,
    "DEPTHWISE_CONV_2D": _convolve_depthwise,
    "DEPTH_TO_SPACE": _depth_to_space,
    "HARD_SWISH": lambda node, x: F.hardswish(x),
    "LOGISTIC": lambda node, x: x.sigmoid(),
    "MAX_POOL_2D": _max_pool,
    "MUL": lambda node, a, b: a * b,
    "PAD": _pad_constant,
    "PRELU": lambda node, x, slope: torch.where(x >= 0, x, x * slope),
    "RELU": lambda node, x: F.relu(x),
    "RESHAPE": lambda node, x: x.reshape(node["shape"]),
    "RESIZE_BILINEAR": _resize_bilinear,
}
"""What each operator does with its node and its inputs; pictures are (b, h, w, c) throughout, as in TFLite."""


@dataclass(frozen=True, eq=False)
class GraphNet:
    """A network read by `load_graph_net`; call it with a picture of `input_shape`, get the list of its outputs."""

    nodes: list[dict]
    constants: dict[int, Tensor]
    input: int
    input_shape: tuple[int, ...]
    outputs: list[int]

    def __call__(self, picture: Tensor) -> list[Tensor]:
        if tuple(picture.shape) != self.input_shape:
            raise ValueError(f"This network takes a picture of shape {self.input_shape}, got {tuple(picture.shape)}.")
        values = {**self.constants, self.input: picture.float()}
        for node in self.nodes:
            arguments = [values[i] for i in node["inputs"]]
            result = OPERATORS[node["op"]](node, *arguments)
            values[node["outputs"][0]] = ACTIVATIONS[node.get("fusedActivationFunction", "NONE")](result)
        return [values[i] for i in self.outputs]


def load_graph_net(path: Path) -> GraphNet:
    """Read a network written by `scripts/convert_tflite.py`."""
    with safe_open(path, framework="pt") as file:
        graph = json.loads(file.metadata()["graph"])
        constants = {int(key): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    constants = {key: value.float() if value.is_floating_point() else value for key, value in constants.items()}
    return GraphNet(graph["nodes"], constants, graph["input"], tuple(graph["input_shape"]), graph["outputs"])
