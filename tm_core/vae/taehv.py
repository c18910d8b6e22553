"""TAEHV: the tiny autoencoder of Wan2.1's latents (taew2_1), streaming, its state held by the caller.

Fast and small where WanVAE is exact: 2D convolutions only, each block also sees the frame before; at 512 x 512 in
bfloat16 a decoder's state is 44 MB, a thirtieth of WanVAE's. State-dict names are the official file's. Latents are
those of the diffusion model, so nothing is normalised. Latents are processed one at a time, as in wan.py.

A latent always becomes four frames; of the stream's first only the last is shown (the official decoder drops the
other three). Encoding mirrors that: the first frame counts as four equal ones. The official encoder fills up at the
clip's end instead, where a stream cannot wait; on clips of 4k frames both do the same.

Source: https://github.com/madebyollin/taehv (MIT). Its siblings for other latents (taew2_2, taehv1_5, the wider
"super" files) are not built here.

Shapes: x (T, C, H, W) with the T frames of one latent (1, 2 or 4); F latents; h = H / 8, w = W / 8.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .geometry import FRAMES, LATENT_CHANNELS, STRIDE, check_latents, frame_groups
from .past import Past, StreamState

# a stage's first place in the official sequence, its widths before and after, frames that become one or that one becomes
ENCODER_STAGES = ((2, 64, 64, 2), (7, 64, 64, 2), (12, 64, 64, 1))
DECODER_STAGES = ((3, 256, 128, 1), (9, 128, 64, 2), (15, 64, 64, 2))
TIME = 0  # axis


class TaehvDecoderState(StreamState):
    """What the decoder's blocks saw last."""


class TaehvEncoderState(StreamState):
    """What the encoder's blocks saw last."""


class _Memory(nn.Module):
    """Three convolutions over a frame and the one before it, added to the frame."""

    def __init__(self, width: int, ops: Any, make: dict[str, Any]) -> None:
        super().__init__()
        self.conv = nn.ModuleDict({
            name: ops.Conv2d(inner, width, 3, padding=1, **make) for name, inner in (("0", 2 * width), ("2", width), ("4", width))
        })

    def forward(self, x: Tensor, past: Past) -> Tensor:
        out = torch.cat([x, past.join(x, 1)[:-1]], 1)
        out = self.conv["4"](F.relu(self.conv["2"](F.relu(self.conv["0"](out)))))
        return F.relu(out + x)


class _Gather(nn.Module):
    """Every `frames` frames become one."""

    def __init__(self, width: int, frames: int, ops: Any, make: dict[str, Any]) -> None:
        super().__init__()
        self.frames = frames
        self.conv = ops.Conv2d(frames * width, width, 1, bias=False, **make)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        out: Tensor = self.conv(x.unflatten(0, (-1, self.frames)).flatten(1, 2))
        return out


class _Spread(nn.Module):
    """Twice the height and width; every frame becomes `frames`."""

    def __init__(self, width: int, frames: int, ops: Any, make: dict[str, Any]) -> None:
        super().__init__()
        self.frames = frames
        self.conv = ops.Conv2d(width, frames * width, 1, bias=False, **make)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        # the official order is enlarge, then convolve: 1 x 1 on repeated pixels gives the same for four times the work
        out: Tensor = self.conv(x).unflatten(1, (self.frames, -1)).flatten(0, 1)
        return F.interpolate(out, scale_factor=2, mode="nearest")


class TAEHV(nn.Module):
    """See the module's docstring; `operations` builds the layers (torch.nn, or comfy.ops in the host)."""

    def __init__(self, *, operations: Any = nn, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        make: dict[str, Any] = {"device": device, "dtype": dtype}
        self.encoder = _encoder(operations, make)
        self.decoder = _decoder(operations, make)

    def open_decoder(self, reference: Tensor | None) -> TaehvDecoderState:
        """State before the first latent; the picture is not needed, latents hold all of it."""
        return TaehvDecoderState()

    def decode(self, latents: Tensor, state: TaehvDecoderState) -> tuple[Tensor, TaehvDecoderState]:
        """Frames (T, 3, H, W) in 0..1, float32, of the next latents (1, 16, F, h, w), and the state after them.

        The stream's first latent is one frame, every other four. InputError for latents of another shape.
        """
        check_latents(latents)
        past, parts = Past(state, time=TIME), list[Tensor]()
        for latent in latents.split(1, 2):
            hidden = FRAMES - 1 if past.first else 0
            parts.append(self._frames(latent[0].transpose(0, 1).to(self._dtype), past)[hidden:].float().clamp(0, 1))
            past.step()
        return torch.cat(parts), TaehvDecoderState(kept=past.kept)

    def open_encoder(self) -> TaehvEncoderState:
        """State before the first frame."""
        return TaehvEncoderState()

    def encode(self, frames: Tensor, state: TaehvEncoderState) -> tuple[Tensor, TaehvEncoderState]:
        """Latents (1, 16, F, h, w) of 1 + 4k frames (T, 3, H, W) in 0..1 first, 4k later; InputError otherwise."""
        past, parts = Past(state, time=TIME), list[Tensor]()
        for group in frame_groups(frames, first=past.first):
            four = group.to(self._dtype).expand(FRAMES, -1, -1, -1)
            parts.append(self._latent(four, past))
            past.step()
        return torch.cat(parts).transpose(0, 1)[None], TaehvEncoderState(kept=past.kept)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """Latent (16, h, w) of a still picture (3, H, W) in 0..1."""
        return self.encode(rgb[None], self.open_encoder())[0][0, :, 0]

    def decoder_state_nbytes(self, height: int, width: int) -> int:
        """Bytes of a decoder's state at this picture size in pixels, from the second latent on; nothing is computed."""
        sizes = TAEHV(device="meta", dtype=self._dtype)
        latent = torch.empty(1, LATENT_CHANNELS, 1, height // STRIDE, width // STRIDE, device="meta")
        return sizes.decode(latent, sizes.open_decoder(None))[1].nbytes

    def _frames(self, latent: Tensor, past: Past) -> Tensor:
        """Four frames (4, 3, H, W), about 0..1, of a latent (1, 16, h, w)."""
        first, *middle, last = self.decoder.values()
        x = F.relu(first(3 * torch.tanh(latent / 3)))
        for layer in middle:
            x = _apply(layer, x, past)
        out: Tensor = last(F.relu(x))
        return out

    def _latent(self, frames: Tensor, past: Past) -> Tensor:
        """One latent (1, 16, h, w) of four frames (4, 3, H, W)."""
        first, *middle, last = self.encoder.values()
        x = F.relu(first(frames))
        for layer in middle:
            x = _apply(layer, x, past)
        out: Tensor = last(x)
        return out

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.decoder["1"].weight.dtype  # type: ignore[assignment]
        return dtype


def _apply(layer: nn.Module, x: Tensor, past: Past) -> Tensor:
    """A block gets the past, a plain convolution does not."""
    out: Tensor = layer(x, past) if isinstance(layer, (_Memory, _Gather, _Spread)) else layer(x)
    return out


def _encoder(ops: Any, make: dict[str, Any]) -> nn.ModuleDict:
    """The official encoder, keyed by place; its activations stand between and have no weights."""
    layers: dict[str, nn.Module] = {"0": ops.Conv2d(3, 64, 3, padding=1, **make)}
    for place, width, after, frames in ENCODER_STAGES:
        layers[f"{place}"] = _Gather(width, frames, ops, make)
        layers[f"{place + 1}"] = ops.Conv2d(width, after, 3, stride=2, padding=1, bias=False, **make)
        layers |= {f"{place + 2 + i}": _Memory(after, ops, make) for i in range(3)}
    return nn.ModuleDict({**layers, "17": ops.Conv2d(64, LATENT_CHANNELS, 3, padding=1, **make)})


def _decoder(ops: Any, make: dict[str, Any]) -> nn.ModuleDict:
    """The official decoder, keyed by place; its activations and upsampling have no weights."""
    layers: dict[str, nn.Module] = {"1": ops.Conv2d(LATENT_CHANNELS, 256, 3, padding=1, **make)}
    for place, width, after, frames in DECODER_STAGES:
        layers |= {f"{place + i}": _Memory(width, ops, make) for i in range(3)}
        layers[f"{place + 4}"] = _Spread(width, frames, ops, make)
        layers[f"{place + 5}"] = ops.Conv2d(width, after, 3, padding=1, bias=False, **make)
    return nn.ModuleDict({**layers, "22": ops.Conv2d(64, 3, 3, padding=1, **make)})
