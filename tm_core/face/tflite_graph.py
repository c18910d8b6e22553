"""A small interpreter of converted tflite networks in plain torch (fp16 weights, fp32 arithmetic, as in the originals).

`scripts/convert_face_models.py` writes the files: fp16 weights in torch's layout and the operations as JSON
in the metadata. Non-goals: training, operations that the face and person networks do not have, tflite itself.
No section of the paper: the networks are MediaPipe's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

Op = dict[str, Any]


class TfliteGraph:
    """One network: call it with (B, C, H, W) float32, get its outputs by name, (B, ...) each in tflite's layout."""

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        with safe_open(str(path), "pt") as f:
            graph = json.loads(f.metadata()["graph"])
            self.weights: dict[str, Tensor] = {k: _channels_last(f.get_tensor(k).float().to(device)) for k in f.keys()}  # noqa: SIM118
        self.input: int = graph["input"]
        self.input_hw: tuple[int, int] = tuple(graph["input_nhwc"][1:3])
        self.outputs: dict[str, int] = graph["outputs"]
        self.ops: list[Op] = graph["ops"]
        self.device = torch.device(device)
        last = {i: n for n, op in enumerate(self.ops) for i in op["in"]}
        kept = set(self.outputs.values())
        self._dead = [[i for i in set(op["in"]) if last[i] == n and i not in kept] for n, op in enumerate(self.ops)]

    def sizes(self, x_BCHW: Tensor) -> dict[int, tuple[int, ...]]:
        """Shape of every intermediate result, by its number."""
        return {op["out"]: tuple(self.inner(x_BCHW, op["out"]).shape) for op in self.ops}

    @torch.inference_mode()
    def inner(self, x_BCHW: Tensor, number: int) -> Tensor:
        """An intermediate result, by its number."""
        values = {self.input: _channels_last(x_BCHW.to(self.device, torch.float32))}
        for op in self.ops:
            values[op["out"]] = _activate(_RUN[op["op"]](op, [values[i] for i in op["in"]], self.weights), op.get("act"))
            if op["out"] == number:
                return values[number]
        raise ValueError(f"the network has no result {number}")

    @torch.inference_mode()
    def __call__(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Run the network."""
        values = {self.input: _channels_last(x_BCHW.to(self.device, torch.float32))}
        for op, dead in zip(self.ops, self._dead, strict=True):
            values[op["out"]] = _activate(_RUN[op["op"]](op, [values[i] for i in op["in"]], self.weights), op.get("act"))
            for i in dead:
                del values[i]
        return {name: values[i] for name, i in self.outputs.items()}


def _channels_last(x: Tensor) -> Tensor:
    """Twice as fast as channels first on a CPU; a matter of memory layout, not of shape."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _activate(x: Tensor, kind: str | None) -> Tensor:
    return x if kind is None else x.relu_()


def _padded(x: Tensor, pad: list[int], value: float = 0.0) -> Tensor:
    return F.pad(x, pad, value=value) if any(pad) else x


def _conv(op: Op, x: list[Tensor], w: dict[str, Tensor]) -> Tensor:
    left, right, top, bottom = op["pad"]
    even = left == right and top == bottom
    source = x[0] if even else _padded(x[0], op["pad"])
    return F.conv2d(source, w[op["weight"]], w[op["bias"]], op["stride"], (top, left) if even else 0, 1, op["groups"])


def _max_pool(op: Op, x: list[Tensor], w: dict[str, Tensor]) -> Tensor:
    return F.max_pool2d(_padded(x[0], op["pad"], float("-inf")), op["kernel"], op["stride"])


def _reshape(op: Op, x: list[Tensor], w: dict[str, Tensor]) -> Tensor:
    # tflite counts channels last; the first number is left open, so a network of convolutions takes larger pictures too
    return x[0].permute(0, 2, 3, 1).reshape(len(x[0]), -1, *op["shape"][1:])


def _transposed(op: Op, x: list[Tensor], w: dict[str, Tensor]) -> Tensor:
    return F.conv_transpose2d(x[0], w[op["weight"]], w[op["bias"]], op["stride"])


_RUN: dict[str, Callable[[Op, list[Tensor], dict[str, Tensor]], Tensor]] = {
    "conv_2d": _conv,
    "max_pool_2d": _max_pool,
    "reshape": _reshape,
    "pad": lambda op, x, w: _padded(x[0], op["pad"]),
    "prelu": lambda op, x, w: F.prelu(x[0], w[op["weight"]]),
    "relu": lambda op, x, w: x[0].relu(),
    "hard_swish": lambda op, x, w: F.hardswish(x[0]),
    "logistic": lambda op, x, w: x[0].sigmoid(),
    "mul": lambda op, x, w: x[0] * x[1],
    "average_pool_2d": lambda op, x, w: x[0].mean((2, 3), keepdim=True),
    "resize_bilinear": lambda op, x, w: F.interpolate(x[0], op["size"], mode="bilinear", align_corners=False),
    "transpose_conv_2d": _transposed,
    "add": lambda op, x, w: x[0] + x[1],
    "concatenation": lambda op, x, w: torch.cat(x, op["axis"]),
}
