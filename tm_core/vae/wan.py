"""WanVAE: Wan2.1's video autoencoder, streaming, its state held by the caller.

State-dict names are Wan's, so wan_2.1_vae.safetensors loads as it is. Every 3D convolution looks at its frame and the
two before; the first video frame is one latent of its own, every later latent is four frames. The decoder's doubling
in time lets the first latent through and doubles all later ones, looking back no further than the second; the
encoder's halving likewise. Latents are processed one at a time, so any split into calls gives the same numbers and
a call's working memory does not grow with its length.

The state is large: `decoder_state_nbytes` is 1.2 GB at 512 x 512 in bfloat16, and twice that while a latent is
decoded, because the old state stays valid (past.py). Layers compute on the device of what they are given, in the
type of the weights. Source of the architecture: Wan2.1, https://github.com/Wan-Video/Wan2.1 (Apache-2.0).

Shapes: x (1, C, T, H, W) with T frames of one latent (1, 2 or 4); F latents; h = H / 8, w = W / 8.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..constants import constant
from .geometry import LATENT_CHANNELS, STRIDE, check_latents, frame_groups
from .past import Past, StreamState

MULTIPLES = (1, 2, 4, 4)  # widths of the four resolutions, finest first, in units of `dim`
HALVES_TIME = (False, True, True)  # of the steps between them, finest first
# per channel, of Wan2.1's latents, as Wan publishes them
MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
       3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)
TIME = 2  # axis


class WanDecoderState(StreamState):
    """What the decoder's layers saw last."""


class WanEncoderState(StreamState):
    """What the encoder's layers saw last."""


class _Norm(nn.Module):
    """Unit length over channels times a learned width; `ones` axes follow the channels in Wan's file."""

    def __init__(self, width: int, ones: int, make: dict[str, Any]) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, *(1,) * ones, **make))

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.gamma.to(x) * self.gamma.shape[0] ** 0.5
        return F.normalize(x, dim=1) * scale


def _causal(ops: Any, inner: int, outer: int, make: dict[str, Any]) -> Any:
    """3 x 3 x 3, padded in space; the two frames in front come from `Past`."""
    return ops.Conv3d(inner, outer, 3, padding=(0, 1, 1), **make)


class _Residual(nn.Module):
    """Two causal convolutions, each behind a norm and SiLU."""

    def __init__(self, inner: int, outer: int, ops: Any, make: dict[str, Any]) -> None:
        super().__init__()
        self.residual = nn.ModuleDict({  # names as in Wan's sequence, which has the activations between
            "0": _Norm(inner, 3, make), "2": _causal(ops, inner, outer, make),
            "3": _Norm(outer, 3, make), "6": _causal(ops, outer, outer, make),
        })
        self.shortcut = ops.Conv3d(inner, outer, 1, **make) if inner != outer else None

    def forward(self, x: Tensor, past: Past) -> Tensor:
        out = x
        for norm, conv in (("0", "2"), ("3", "6")):
            out = self.residual[conv](past.join(F.silu(self.residual[norm](out)), 2))
        return out + (x if self.shortcut is None else self.shortcut(x))


class _Attention(nn.Module):
    """One head over the places of each frame; no frame sees another."""

    def __init__(self, width: int, ops: Any, make: dict[str, Any]) -> None:
        super().__init__()
        self.norm = _Norm(width, 2, make)
        self.to_qkv = ops.Conv2d(width, 3 * width, 1, **make)
        self.proj = ops.Conv2d(width, width, 1, **make)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        frames = _frames(x)
        qkv = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2)[:, None]  # (T, one head, places, 3 widths)
        seen = F.scaled_dot_product_attention(*(t.contiguous() for t in qkv.chunk(3, -1)))
        return x + _clip(self.proj(seen[:, 0].transpose(1, 2).unflatten(2, frames.shape[-2:])))


class _Double(nn.Module):
    """Twice the height and width, half the channels; in time too where `time`."""

    def __init__(self, width: int, time: bool, ops: Any, make: dict[str, Any]) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": ops.Conv2d(width, width // 2, 3, padding=1, **make)})
        self.time_conv = ops.Conv3d(width, 2 * width, (3, 1, 1), **make) if time else None

    def forward(self, x: Tensor, past: Past) -> Tensor:
        if self.time_conv is not None:
            x = self._double_time(x, past)
        return _clip(self.resample["1"](F.interpolate(_frames(x), scale_factor=2, mode="nearest-exact")))

    def _double_time(self, x: Tensor, past: Past) -> Tensor:
        """Two frames of each, none of the stream's first: that one stays alone and is not looked back at."""
        if past.first:
            past.begin(x[:, :, :0], 2)
            return x
        assert self.time_conv is not None
        pairs: Tensor = self.time_conv(past.join(x, 2)).unflatten(1, (2, -1))  # (1, earlier or later, C, T, h, w)
        return pairs.movedim(1, 3).flatten(2, 3)


class _Halve(nn.Module):
    """Half the height and width; in time too where `time`."""

    def __init__(self, width: int, time: bool, ops: Any, make: dict[str, Any]) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": ops.Conv2d(width, width, 3, stride=2, **make)})
        self.time_conv = ops.Conv3d(width, width, (3, 1, 1), stride=(2, 1, 1), **make) if time else None

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = _clip(self.resample["1"](F.pad(_frames(x), (0, 1, 0, 1))))  # one row below, one column on the right
        return x if self.time_conv is None else self._halve_time(x, past)

    def _halve_time(self, x: Tensor, past: Past) -> Tensor:
        """One frame of each two and the one before them; the stream's first is alone in its latent, nothing to halve."""
        if past.first:
            past.begin(x, 1)
            return x
        assert self.time_conv is not None
        out: Tensor = self.time_conv(past.join(x, 1))
        return out


class _Encoder(nn.Module):
    """Frames (1, 3, 1 or 4, H, W) in -1..1 to features of one latent (1, 32, 1, h, w)."""

    def __init__(self, dim: int, ops: Any, make: dict[str, Any]) -> None:
        super().__init__()
        self.conv1 = _causal(ops, 3, dim, make)
        layers, width = list[nn.Module](), dim
        for level, multiple in enumerate(MULTIPLES):
            for _ in range(2):
                layers.append(_Residual(width, multiple * dim, ops, make))
                width = multiple * dim
            if level < len(HALVES_TIME):
                layers.append(_Halve(width, HALVES_TIME[level], ops, make))
        self.downsamples = nn.ModuleList(layers)
        self.middle = _middle(width, ops, make)
        self.head = _head(width, 2 * LATENT_CHANNELS, ops, make)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = self.conv1(past.join(x, 2))
        for layer in (*self.downsamples, *self.middle):
            x = layer(x, past)
        return _run_head(self.head, x, past)


class _Decoder(nn.Module):
    """A latent (1, 16, 1, h, w) to its frames (1, 3, 1 or 4, H, W), about -1..1."""

    def __init__(self, dim: int, ops: Any, make: dict[str, Any]) -> None:
        super().__init__()
        width = MULTIPLES[-1] * dim
        self.conv1 = _causal(ops, LATENT_CHANNELS, width, make)
        self.middle = _middle(width, ops, make)
        layers = list[nn.Module]()
        for level in reversed(range(len(MULTIPLES))):
            for _ in range(3):
                layers.append(_Residual(width, MULTIPLES[level] * dim, ops, make))
                width = MULTIPLES[level] * dim
            if level:
                layers.append(_Double(width, HALVES_TIME[level - 1], ops, make))
                width //= 2
        self.upsamples = nn.ModuleList(layers)
        self.head = _head(width, 3, ops, make)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = self.conv1(past.join(x, 2))
        for layer in (*self.middle, *self.upsamples):
            x = layer(x, past)
        return _run_head(self.head, x, past)


class WanVAE(nn.Module):
    """See the module's docstring; `operations` builds the layers (torch.nn, or comfy.ops in the host).

    `dim` is 96 in Wan's own file; pruned copies have less.
    """

    def __init__(
        self, dim: int = 96, *, operations: Any = nn, device: torch.device | str | None = None, dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        make: dict[str, Any] = {"device": device, "dtype": dtype}
        self.dim = dim
        self.encoder = _Encoder(dim, operations, make)
        self.conv1 = operations.Conv3d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1, **make)
        self.conv2 = operations.Conv3d(LATENT_CHANNELS, LATENT_CHANNELS, 1, **make)
        self.decoder = _Decoder(dim, operations, make)

    def open_decoder(self, reference: Tensor | None) -> WanDecoderState:
        """State before the first latent; the picture is not needed, latents hold all of it."""
        return WanDecoderState()

    def decode(self, latents: Tensor, state: WanDecoderState) -> tuple[Tensor, WanDecoderState]:
        """Frames (T, 3, H, W) in 0..1, float32, of the next normalised latents (1, 16, F, h, w), and the state after them.

        The stream's first latent is one frame, every other four. InputError for latents of another shape.
        """
        check_latents(latents)
        past, parts = Past(state, time=TIME), list[Tensor]()
        for latent in latents.split(1, TIME):
            pixels = self.decoder(self.conv2(denormalise(latent).to(self._dtype)), past)
            past.step()
            parts.append(_frames(pixels).float().mul(0.5).add(0.5).clamp(0, 1))
        return torch.cat(parts), WanDecoderState(kept=past.kept)

    def open_encoder(self) -> WanEncoderState:
        """State before the first frame."""
        return WanEncoderState()

    def encode(self, frames: Tensor, state: WanEncoderState) -> tuple[Tensor, WanEncoderState]:
        """Normalised latents (1, 16, F, h, w) of 1 + 4k frames (T, 3, H, W) in 0..1 first, 4k later; InputError otherwise.

        The mean of the distribution Wan's encoder gives, not a sample of it; in the type of the weights.
        """
        past, parts = Past(state, time=TIME), list[Tensor]()
        for group in frame_groups(frames, first=past.first):
            pixels = _clip(group.to(self._dtype) * 2 - 1)
            moments = self.conv1(self.encoder(pixels, past))
            past.step()
            parts.append(normalise(moments[:, :LATENT_CHANNELS]))
        return torch.cat(parts, TIME), WanEncoderState(kept=past.kept)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """Latent (16, h, w) of a still picture (3, H, W) in 0..1."""
        return self.encode(rgb[None], self.open_encoder())[0][0, :, 0]

    def decoder_state_nbytes(self, height: int, width: int) -> int:
        """Bytes of a decoder's state at this picture size in pixels, from the second latent on; nothing is computed."""
        sizes = WanVAE(self.dim, device="meta", dtype=self._dtype)
        latent = torch.empty(1, LATENT_CHANNELS, 1, height // STRIDE, width // STRIDE, device="meta")
        return sizes.decode(latent, sizes.open_decoder(None))[1].nbytes

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.conv2.weight.dtype
        return dtype


def normalise(raw: Tensor) -> Tensor:
    """What Wan's encoder gives (1, 16, F, h, w) to unit scale."""
    mean, std = _statistics(raw)
    return ((raw.float() - mean) / std).to(raw.dtype)


def denormalise(latents: Tensor) -> Tensor:
    """The inverse of `normalise`, in float32."""
    mean, std = _statistics(latents)
    return latents.float() * std + mean


def _middle(width: int, ops: Any, make: dict[str, Any]) -> nn.ModuleList:
    return nn.ModuleList([_Residual(width, width, ops, make), _Attention(width, ops, make), _Residual(width, width, ops, make)])


def _head(width: int, out: int, ops: Any, make: dict[str, Any]) -> nn.ModuleDict:
    return nn.ModuleDict({"0": _Norm(width, 3, make), "2": _causal(ops, width, out, make)})


def _run_head(head: nn.ModuleDict, x: Tensor, past: Past) -> Tensor:
    out: Tensor = head["2"](past.join(F.silu(head["0"](x)), 2))
    return out


def _frames(x: Tensor) -> Tensor:
    """A clip (1, C, T, h, w) as frames (T, C, h, w)."""
    return x[0].transpose(0, 1)


def _clip(frames: Tensor) -> Tensor:
    """Frames (T, C, h, w) as a clip (1, C, T, h, w)."""
    return frames.transpose(0, 1)[None]


def _statistics(like: Tensor) -> tuple[Tensor, Tensor]:
    """Wan's mean and deviation of each channel, (1, 16, 1, 1, 1) float32; constants, so no tensors of the module."""
    mean, std = (constant(v, like.device).view(1, -1, 1, 1, 1) for v in (MEAN, STD))
    return mean, std
