"""TM_LoadModel: weights into memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..tm_core.errors import InputError
from ..tm_core.weights.loading import default_weights, load_model
from . import wires
from .host import devices, folders, models
from .host.schemas import chosen, field, io, schema

BUNDLED = "bundled"
DTYPES = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class LoadModel(io.ComfyNode):
    """One checkpoint: generator, audio projector and autoencoder."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_LoadModel."""
        return schema(
            node_id="TM_LoadModel",
            display_name="Load Talking Model",
            description="Loads a talking-portrait model: the bundled one, which runs in real time on a CPU, or your own.",
            search_aliases=["talking head", "lip sync", "talking portrait"],
            inputs=[
                field(
                    io.Combo, "weights", options=[BUNDLED, *folders.model_files()], default=BUNDLED,
                    tooltip="The model that comes with the pack, or a .safetensors file of models/talking_machines."),
                field(
                    io.Combo, "device", options=devices.offered(), default=devices.AUTO,
                    tooltip="Where frames are denoised. auto: where ComfyUI computes (the CPU when it was started with --cpu)."),
                field(
                    io.Combo, "dtype", options=list(DTYPES), default="auto", advanced=True,
                    tooltip="Precision of the weights. auto: fp32, which the bundled model was tested with; the others save memory."),
            ],
            outputs=[wires.Model.Output("model", display_name="model", tooltip="The model, for every node that asks for one.")],
        )

    @classmethod
    def execute(cls, weights: str, device: str, dtype: str) -> Any:
        """Load; InputError for missing or damaged weights, and for what would only crawl."""
        path = None if weights == BUNDLED else folders.weights_named(weights)
        precision, target = DTYPES[chosen("dtype", dtype, DTYPES)], devices.named(device)
        if precision is torch.float16 and target.type == "cpu":
            raise InputError("dtype", dtype, "a CPU takes a minute for a second of video in it", "use fp32 or bf16")
        model = load_model(path, device=target, dtype=precision, operations=devices.operations())
        return io.NodeOutput(replace(model, loader=models.HostWeights()))

    @classmethod
    def fingerprint_inputs(cls, weights: str, **_: Any) -> Any:
        """A file that was replaced is loaded again."""
        path = default_weights() if weights == BUNDLED else folders.weights_named(weights)
        return f"{path.stat().st_mtime_ns} {path.stat().st_size}" if path.is_file() else "missing"
