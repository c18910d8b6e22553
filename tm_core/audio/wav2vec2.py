"""wav2vec2-base: 16 kHz sound to one vector every 20 ms, all layers' hidden states, in plain torch.

The base layout (arXiv 2006.11477): seven convolutions, a group norm after the first, a transformer that
normalises after each branch. Module names are those of the published files (facebook/wav2vec2-base-960h,
TencentGameMate/chinese-wav2vec2-base); the weight norm of the positional convolution is folded when weights
are read, so injected `operations` see an ordinary convolution. What is done to the samples before, and which
layers are used after, differs between checkpoints: families.py.

The group norm and the attention look at the whole clip, so no vector of a clip is final before its end. Long
sounds pass the convolutions in blocks with the group norm's statistics taken beforehand: same numbers, bounded
memory. Non-goals: the large layout (layer norm after every convolution), training, masking, padding within a batch.

Shapes: B clips, n samples, T vectors, D width, C convolution channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError

SAMPLE_RATE = 16000
KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)
HOP = 320  # samples from one vector to the next: the product of the strides
RECEPTIVE = 400  # samples one vector hears before the transformer
BLOCK_VECTORS = 1500  # 30 s: what passes the convolutions at a time
EPS = 1e-5
# heads for pretraining and for transcription, and the vector that stands for masked sound: no part of the encoder
NOT_ENCODER = re.compile(r"(lm_head|quantizer|project_hid|project_q)\.|masked_spec_embed$")


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2Config:
    """Sizes; the defaults are the published base model's."""

    width: int = 768
    heads: int = 12
    layers: int = 12
    feed_forward: int = 3072
    conv_channels: int = 512
    position_kernel: int = 128
    position_groups: int = 16


def vectors_of(samples: int) -> int:
    """Vectors T that the convolutions make of n samples; 0 where the sound is too short for one."""
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        samples = max(0, (samples - kernel) // stride + 1)
    return samples


class _ConvLayer(nn.Module):
    def __init__(self, inner: int, outer: int, kernel: int, stride: int, norm: bool, operations: Any, kw: dict[str, Any]) -> None:
        super().__init__()
        self.conv: Any = operations.Conv1d(inner, outer, kernel, stride=stride, bias=False, **kw)
        # one group per channel: every channel is normalised over the clip's whole time
        self.layer_norm: Any = operations.GroupNorm(outer, outer, eps=EPS, **kw) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.gelu(x if self.layer_norm is None else self.layer_norm(x))


class _FeatureExtractor(nn.Module):
    def __init__(self, channels: int, operations: Any, kw: dict[str, Any]) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList([
            _ConvLayer(1 if i == 0 else channels, channels, kernel, stride, i == 0, operations, kw)
            for i, (kernel, stride) in enumerate(zip(KERNELS, STRIDES, strict=True))
        ])

    def forward(self, samples: Tensor) -> Tensor:
        """(B, n) -> (B, T, C)."""
        count = vectors_of(samples.shape[-1])
        if count <= BLOCK_VECTORS:
            return self._later_layers(self._first(samples[:, None]))
        mean, scale = self._statistics(samples)
        starts = range(0, count, BLOCK_VECTORS)
        return torch.cat([self._block(samples, start, min(start + BLOCK_VECTORS, count), mean, scale) for start in starts], 1)

    @property
    def _first(self) -> _ConvLayer:
        return cast(_ConvLayer, self.conv_layers[0])

    def _later_layers(self, x: Tensor) -> Tensor:
        for layer in self.conv_layers[1:]:
            x = layer(x)
        return x.transpose(1, 2)

    def _statistics(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and 1 / deviation (B, C, 1) of the first convolution over the whole time, in float64."""
        rows, step = (samples.shape[-1] - KERNELS[0]) // STRIDES[0] + 1, BLOCK_VECTORS * HOP // STRIDES[0]
        total = square = torch.zeros((), dtype=torch.float64, device=samples.device)
        for row in range(0, rows, step):
            piece = samples[:, None, row * STRIDES[0] : (min(row + step, rows) - 1) * STRIDES[0] + KERNELS[0]]
            made = self._first.conv(piece).double()
            total, square = total + made.sum(-1, keepdim=True), square + made.square().sum(-1, keepdim=True)
        mean = total / rows
        return mean, (square / rows - mean.square() + EPS).rsqrt()

    def _block(self, samples: Tensor, start: int, stop: int, mean: Tensor, scale: Tensor) -> Tensor:
        """Vectors start ... stop - 1 (B, stop - start, C)."""
        first = self._first
        made = first.conv(samples[:, None, start * HOP : (stop - 1) * HOP + RECEPTIVE])
        weight, bias = (p.to(made)[:, None] for p in (first.layer_norm.weight, first.layer_norm.bias))
        return self._later_layers(F.gelu((made - mean.to(made)) * scale.to(made) * weight + bias))


class _FeatureProjection(nn.Module):
    def __init__(self, cfg: Wav2Vec2Config, operations: Any, kw: dict[str, Any]) -> None:
        super().__init__()
        self.layer_norm = operations.LayerNorm(cfg.conv_channels, eps=EPS, **kw)
        self.projection = operations.Linear(cfg.conv_channels, cfg.width, **kw)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.projection(self.layer_norm(x))
        return out


class _Positions(nn.Module):
    def __init__(self, cfg: Wav2Vec2Config, operations: Any, kw: dict[str, Any]) -> None:
        super().__init__()
        self.conv = operations.Conv1d(
            cfg.width, cfg.width, cfg.position_kernel, padding=cfg.position_kernel // 2, groups=cfg.position_groups, **kw)
        self.extra = 1 - cfg.position_kernel % 2  # an even kernel with that padding makes one vector too many

    def forward(self, x: Tensor) -> Tensor:
        made = self.conv(x.transpose(1, 2))
        return F.gelu(made[..., : made.shape[-1] - self.extra]).transpose(1, 2)


class _Attention(nn.Module):
    def __init__(self, cfg: Wav2Vec2Config, operations: Any, kw: dict[str, Any]) -> None:
        super().__init__()
        self.heads = cfg.heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (operations.Linear(cfg.width, cfg.width, **kw) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        out: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class _FeedForward(nn.Module):
    def __init__(self, cfg: Wav2Vec2Config, operations: Any, kw: dict[str, Any]) -> None:
        super().__init__()
        self.intermediate_dense = operations.Linear(cfg.width, cfg.feed_forward, **kw)
        self.output_dense = operations.Linear(cfg.feed_forward, cfg.width, **kw)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output_dense(F.gelu(self.intermediate_dense(x)))
        return out


class _Layer(nn.Module):
    def __init__(self, cfg: Wav2Vec2Config, operations: Any, kw: dict[str, Any]) -> None:
        super().__init__()
        self.attention = _Attention(cfg, operations, kw)
        self.layer_norm = operations.LayerNorm(cfg.width, eps=EPS, **kw)
        self.feed_forward = _FeedForward(cfg, operations, kw)
        self.final_layer_norm = operations.LayerNorm(cfg.width, eps=EPS, **kw)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_norm(x + self.attention(x))
        out: Tensor = self.final_layer_norm(x + self.feed_forward(x))
        return out


class _Encoder(nn.Module):
    def __init__(self, cfg: Wav2Vec2Config, operations: Any, kw: dict[str, Any]) -> None:
        super().__init__()
        self.pos_conv_embed = _Positions(cfg, operations, kw)
        self.layer_norm = operations.LayerNorm(cfg.width, eps=EPS, **kw)
        self.layers = nn.ModuleList([_Layer(cfg, operations, kw) for _ in range(cfg.layers)])

    def forward(self, x: Tensor) -> list[Tensor]:
        """What enters the first layer, then what leaves each one."""
        states = [self.layer_norm(x + self.pos_conv_embed(x))]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states


def resample_vectors(x: Tensor, count: int) -> Tensor:
    """(B, T, D) -> (B, count, D), linear in time, the first and the last vector kept in place."""
    return F.interpolate(x.transpose(1, 2), size=count, mode="linear", align_corners=True).transpose(1, 2)


class Wav2Vec2(nn.Module):
    """Samples (B, n) at 16 kHz to layers + 1 hidden states (B, T, D): the transformer's input, then every layer's output.

    Samples must have the type in which the layers compute. Errors: InputError for a sound shorter than one
    vector (400 samples).
    """

    def __init__(
        self, cfg: Wav2Vec2Config | None = None, *, operations: Any = nn, device: Any = None, dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.cfg = cfg = cfg or Wav2Vec2Config()
        kw = {"device": device, "dtype": dtype}
        self.feature_extractor = _FeatureExtractor(cfg.conv_channels, operations, kw)
        self.feature_projection = _FeatureProjection(cfg, operations, kw)
        self.encoder = _Encoder(cfg, operations, kw)

    def forward(self, samples: Tensor, *, frames: int | None = None) -> list[Tensor]:
        """See the class; `frames` stretches the convolutions' vectors to that many before the transformer (MultiTalk)."""
        if vectors_of(samples.shape[-1]) < 1:
            raise InputError("audio", f"{samples.shape[-1]} samples", "wav2vec2 needs at least 400 (25 ms)", "give it a longer sound")
        x = self.feature_extractor(samples)
        if frames is not None:
            x = resample_vectors(x, frames)
        states: list[Tensor] = self.encoder(self.feature_projection(x))
        return states


# -- published weights ----------------------------------------------------------------------------------------

POSITIONS = "encoder.pos_conv_embed.conv."
WEIGHT_NORM_NAMES = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))


def _fold_weight_norm(state: dict[str, Tensor]) -> None:
    """Replace magnitude and direction of the positional convolution by their product (norms over all but the kernel axis)."""
    for g_name, v_name in WEIGHT_NORM_NAMES:
        if POSITIONS + g_name in state and POSITIONS + v_name in state:
            g, v = (state.pop(POSITIONS + name).float() for name in (g_name, v_name))
            state[POSITIONS + "weight"] = g * v / v.square().sum((0, 1), keepdim=True).sqrt()


def encoder_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under our module's names.

    Takes Hugging Face's names with or without the prefix `wav2vec2.` (or the host's, which are the same) and both
    spellings of weight norm; leaves out what is no part of the encoder.
    """
    found = {name.removeprefix("wav2vec2."): value for name, value in state.items()}
    kept = {name: value for name, value in found.items() if not NOT_ENCODER.match(name)}
    _fold_weight_norm(kept)
    return kept


def config_of(weights: Mapping[str, Tensor]) -> Wav2Vec2Config:
    """Sizes of `encoder_weights`' result; InputError where this is not the base layout."""
    remedy = "use facebook/wav2vec2-base-960h or TencentGameMate/chinese-wav2vec2-base as .safetensors"
    if "feature_extractor.conv_layers.1.layer_norm.weight" in weights:
        raise InputError("audio encoder", "a wav2vec2 of the large layout", "this model was trained with wav2vec2-base", remedy)
    needed = ("feature_projection.projection.weight", "encoder.layers.0.feed_forward.intermediate_dense.weight", POSITIONS + "weight")
    if missing := [name for name in needed if name not in weights]:
        raise InputError("audio encoder", f"no {missing[0]}", "the file must hold a wav2vec2-base encoder", remedy)
    width, channels = weights[needed[0]].shape
    _, group, kernel = weights[needed[2]].shape
    numbers = {m[1] for name in weights if (m := re.match(r"encoder\.layers\.(\d+)\.", name))}
    layers = len(numbers)  # a name that counts higher is one that is not understood
    return Wav2Vec2Config(
        width=width, heads=width // 64, layers=layers, feed_forward=weights[needed[1]].shape[0], conv_channels=channels,
        position_kernel=kernel, position_groups=width // group)


def build_wav2vec2(
    state: Mapping[str, Tensor], *, operations: Any = nn, device: Any = None, dtype: torch.dtype = torch.float32,
) -> Wav2Vec2:
    """The encoder of a published state dict, for inference; InputError names keys that are missing or not understood."""
    weights = encoder_weights(state)
    model = Wav2Vec2(config_of(weights), operations=operations, device=device, dtype=dtype)
    missing, surplus = model.load_state_dict(weights, strict=False)
    if missing or surplus:
        said = ", ".join([*(f"missing {k}" for k in missing[:3]), *(f"unknown {k}" for k in surplus[:3])])
        raise InputError("audio encoder", said, "every tensor of wav2vec2-base must be there and no other", "download the file again")
    return model.eval().requires_grad_(False)
