"""Turn MediaPipe's face and person networks from tflite into safetensors that plain torch can run (developers only).

    python scripts/convert_face_models.py FOLDER_WITH_TFLITE [--out tm_core/assets/face]

Each network becomes one file: its fp16 weights as they are (in torch's layout) and, in the metadata, the
list of operations as JSON that `tm_core.face.tflite_graph` interprets. Padding is worked out here, where
shapes are known. Needs PyPI `tflite`. Non-goal: operations these three networks do not have.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from safetensors.numpy import save_file

MODELS = ("face_detection_short_range", "face_landmark", "selfie_segmentation")
ACTIVATIONS = {tflite.ActivationFunctionType.NONE: None, tflite.ActivationFunctionType.RELU: "relu"}
OPTIONS = {
    "CONV_2D": tflite.Conv2DOptions, "DEPTHWISE_CONV_2D": tflite.DepthwiseConv2DOptions, "MAX_POOL_2D": tflite.Pool2DOptions,
    "ADD": tflite.AddOptions, "CONCATENATION": tflite.ConcatenationOptions, "AVERAGE_POOL_2D": tflite.Pool2DOptions,
    "MUL": tflite.MulOptions, "RESIZE_BILINEAR": tflite.ResizeBilinearOptions,
}
TRANSPOSED = "Convolution2DTransposeBias"  # MediaPipe's own operation; its options are three integers: padding, stride across, stride down
NAMES = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
TO_CHANNELS_FIRST = (0, 3, 1, 2)


class Converter:
    """One tflite file read into operations and weights."""

    def __init__(self, data: bytes) -> None:
        self.model = tflite.Model.GetRootAsModel(data, 0)
        self.graph = self.model.Subgraphs(0)
        self.alias: dict[int, int] = {}  # output of a DEQUANTIZE -> the fp16 constant it reads
        self.weights: dict[str, np.ndarray] = {}
        self.ops: list[dict[str, Any]] = []

    def run(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The graph as JSON types, and its weights by name."""
        for i in range(self.graph.OperatorsLength()):
            self._operator(self.graph.Operators(i))
        outputs = {self.graph.Tensors(i).Name().decode(): int(i) for i in self.graph.OutputsAsNumpy()}
        (entry,) = self.graph.InputsAsNumpy()
        return {"input": int(entry), "input_nhwc": self._shape(entry), "outputs": outputs, "ops": self.ops}, self.weights

    def _shape(self, i: int) -> list[int]:
        return [int(n) for n in self.graph.Tensors(i).ShapeAsNumpy()]

    def _constant(self, i: int) -> np.ndarray:
        i = self.alias.get(int(i), int(i))
        tensor = self.graph.Tensors(i)
        kind = {tflite.TensorType.FLOAT16: np.float16, tflite.TensorType.INT32: np.int32}[tensor.Type()]
        data = self.model.Buffers(tensor.Buffer()).DataAsNumpy()
        return np.frombuffer(data.tobytes(), kind).reshape(self._shape(i))

    def _weight(self, i: int, axes: tuple[int, ...] | None = None) -> str:
        name = f"t{self.alias.get(int(i), int(i))}"
        value = self._constant(i)
        self.weights[name] = np.ascontiguousarray(value.reshape(-1) if axes is None else value.transpose(axes))
        return name

    def _name(self, op: tflite.Operator) -> str:
        code = self.model.OperatorCodes(op.OpcodeIndex())
        name = NAMES[code.BuiltinCode()]
        return str(code.CustomCode().decode()) if name == "CUSTOM" else name

    def _operator(self, op: tflite.Operator) -> None:
        name = self._name(op)
        sources, (target,) = [int(i) for i in op.InputsAsNumpy()], [int(i) for i in op.OutputsAsNumpy()]
        options = OPTIONS[name]() if name in OPTIONS else None
        if options is not None:
            table = op.BuiltinOptions()
            options.Init(table.Bytes, table.Pos)
        if name == "DEQUANTIZE":
            self.alias[target] = sources[0]
            return
        entry: dict[str, Any] = {"op": name.lower(), "out": target}
        entry |= self._transposed(sources, op) if name == TRANSPOSED else getattr(self, f"_{name.lower()}")(sources, target, options)
        if options is not None and hasattr(options, "FusedActivationFunction"):
            entry["act"] = ACTIVATIONS[options.FusedActivationFunction()]
        self.ops.append(entry)

    def _window(self, source: int, kernel: tuple[int, int], options: Any) -> dict[str, Any]:
        """Stride and padding (left, right, top, bottom) of a sliding window; SAME puts the odd pixel last."""
        pads: list[int] = []
        strides = (options.StrideH(), options.StrideW())
        for size, k, s in zip(self._shape(source)[1:3], kernel, strides, strict=True):
            total = max((-(-size // s) - 1) * s + k - size, 0) if options.Padding() == tflite.Padding.SAME else 0
            pads = [total // 2, total - total // 2, *pads]
        return {"stride": [int(s) for s in strides], "pad": pads}

    def _conv_2d(self, sources: list[int], target: int, options: Any) -> dict[str, Any]:
        x, w, b = sources
        _, kh, kw, _ = self._shape(w)
        return {
            "in": [x], "weight": self._weight(w, TO_CHANNELS_FIRST), "bias": self._weight(b), "groups": 1,
            **self._window(x, (kh, kw), options)}

    def _depthwise_conv_2d(self, sources: list[int], target: int, options: Any) -> dict[str, Any]:
        x, w, b = sources
        _, kh, kw, channels = self._shape(w)
        return {
            "op": "conv_2d", "in": [x], "weight": self._weight(w, (3, 0, 1, 2)), "bias": self._weight(b), "groups": channels,
            **self._window(x, (kh, kw), options)}

    def _max_pool_2d(self, sources: list[int], target: int, options: Any) -> dict[str, Any]:
        kernel = (options.FilterHeight(), options.FilterWidth())
        return {"in": sources, "kernel": [int(k) for k in kernel], **self._window(sources[0], kernel, options)}

    def _pad(self, sources: list[int], target: int, options: Any) -> dict[str, Any]:
        first = self._constant(sources[1])[list(TO_CHANNELS_FIRST)]  # torch counts from the last axis
        return {"in": sources[:1], "pad": [int(n) for pair in first[::-1] for n in pair]}

    def _prelu(self, sources: list[int], target: int, options: Any) -> dict[str, Any]:
        return {"in": sources[:1], "weight": self._weight(sources[1])}

    def _relu(self, sources: list[int], target: int, options: Any) -> dict[str, Any]:
        return {"in": sources}

    def _hard_swish(self, sources: list[int], target: int, options: Any) -> dict[str, Any]:
        return {"in": sources}

    def _logistic(self, sources: list[int], target: int, options: Any) -> dict[str, Any]:
        return {"in": sources}

    def _mul(self, sources: list[int], target: int, options: Any) -> dict[str, Any]:
        return {"in": sources}

    def _average_pool_2d(self, sources: list[int], target: int, options: Any) -> dict[str, Any]:
        if self._shape(sources[0])[1:3] != [options.FilterHeight(), options.FilterWidth()]:
            raise ValueError("only averages over the whole plane are known")
        return {"in": sources}

    def _resize_bilinear(self, sources: list[int], target: int, options: Any) -> dict[str, Any]:
        if options.AlignCorners() or not options.HalfPixelCenters():
            raise ValueError("only half pixel centres are known")
        return {"in": sources[:1], "size": self._shape(target)[1:3]}

    def _transposed(self, sources: list[int], op: tflite.Operator) -> dict[str, Any]:
        x, w, b = sources
        _, across, down = np.frombuffer(op.CustomOptionsAsNumpy().tobytes()[:12], "<i4")
        if self._shape(w)[1:3] != [down, across]:
            raise ValueError("only transposed convolutions without overlap are known")
        return {
            "op": "transpose_conv_2d", "in": [x], "weight": self._weight(w, (3, 0, 1, 2)), "bias": self._weight(b),
            "stride": [int(down), int(across)]}

    def _add(self, sources: list[int], target: int, options: Any) -> dict[str, Any]:
        return {"in": sources}

    def _reshape(self, sources: list[int], target: int, options: Any) -> dict[str, Any]:
        return {"in": sources[:1], "shape": self._shape(target)[1:]}

    def _concatenation(self, sources: list[int], target: int, options: Any) -> dict[str, Any]:
        return {"in": sources, "axis": int(options.Axis())}


def convert(source: Path, target: Path) -> None:
    """Write one network; the temporary name is gone when it is whole."""
    graph, weights = Converter(source.read_bytes()).run()
    part = target.with_suffix(".part")
    metadata = {"graph": json.dumps(graph, separators=(",", ":")), "source": source.name, "licence": "Apache-2.0, The MediaPipe Authors"}
    save_file(weights, str(part), metadata=metadata)
    os.chmod(part, 0o644)
    os.replace(part, target)


def main() -> None:
    """Convert all networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "tm_core" / "assets" / "face")
    args = parser.parse_args()
    for name in MODELS:
        convert(args.source / f"{name}.tflite", args.out / f"{name}.safetensors")


if __name__ == "__main__":
    main()
