"""TinyVAE: the streaming autoencoder of the embedded default, in Wan's latent geometry.

Causal in time: a latent looks at its own four frames and the one before; a decoded group looks at its own
latent and the one before. The first frame counts as four equal frames after an equal one, so a still
picture has the same latent at every index.

The decoder sees the portrait: it warps it by a flow it predicts and paints what the warp cannot show (the
mouth's inside, lids). Skin and background stay as sharp as the portrait for as long as a stream runs; the
latents carry what moves. Not part of the paper, which uses Wan's autoencoder (section 3).

Shapes: B clips, F latents, T frames = 4F with the first group's copies, C latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import VAEConfig
from ..errors import InputError

Features = tuple[Tensor, Tensor, Tensor]  # of the portrait at 1/2, 1/4 and 1/8 of its side


class Decoded(NamedTuple):
    """Frames and how they were made; leading axes are groups or clips, then frames."""

    frames: Tensor  # (..., 3, H, W) 0..1
    flow: Tensor  # (..., 2, H, W) offset into the portrait, in halves of its side (grid_sample's unit)
    share: Tensor  # (..., 1, H, W) of paint over the warped portrait


class Motion(NamedTuple):
    """What moves in T frames, before any picture is drawn: for renderers of any size."""

    flow: Tensor  # (T, 2, H/2, W/2) offset into the portrait, in halves of its side (grid_sample's unit)
    paint: Tensor  # (T, 16, H/2, W/2) logits of colour and share, two by two pixels; no channels where it was not asked for
    features: Tensor  # (T, a, H/2, W/2) that both were made of
    latents: Tensor  # (T, 2C, h, w) raw latents of the frame's group and of the one before, less the portrait's


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A 3x3 convolution of which part of the output is known: the bias and, of channels of the portrait, their share.

    `doubles`: the other channels are doubled in size first; both together are one transposed convolution.
    """

    weight: Tensor  # both in channels_last, in which a processor convolves a fifth faster
    share: Tensor  # (1, D, h, w)
    doubles: bool = False

    def __call__(self, moving: Tensor) -> Tensor:
        if self.doubles:
            return F.conv_transpose2d(moving, self.weight, stride=2, padding=1) + self.share
        return F.conv2d(moving, self.weight, padding=1) + self.share


@dataclass(frozen=True, kw_only=True)
class TinyDecoderState:
    """The portrait, the layers that read its features, prepared for it, and the latent decoded last (none before the first)."""

    reference: Tensor  # (1, 3, H, W)
    still: Tensor  # (1, C, h, w) raw latent of the portrait
    from_latent: _Prepared
    up2: _Prepared
    up1: _Prepared
    heads: _Prepared  # flow and paint
    flow: _Prepared  # alone
    last: Tensor | None = None  # (1, C, h, w)


@dataclass(frozen=True, kw_only=True)
class TinyEncoderState:
    """Coarsest features of the frame encoded last (none before the first)."""

    last: Tensor | None = None  # (1, D, h, w)


class _Residual(nn.Module):
    def __init__(self, width: int, operations: Any) -> None:
        super().__init__()
        self.conv1 = operations.Conv2d(width, width, 3, padding=1)
        self.conv2 = operations.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        level = torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-4)  # over channels only: a crop is as good as the whole
        out: Tensor = x + self.conv2(F.silu(self.conv1(F.silu(x * level))))
        return out


class _FrameEncoder(nn.Module):
    """A frame (B, 3, H, W) to features at 1/2, 1/4 and 1/8."""

    def __init__(self, widths: tuple[int, int, int], operations: Any) -> None:
        super().__init__()
        a, b, c = widths
        self.down1 = operations.Conv2d(3, a, 4, stride=2, padding=1)
        self.down2 = operations.Conv2d(a, b, 4, stride=2, padding=1)
        self.down3 = operations.Conv2d(b, c, 4, stride=2, padding=1)
        self.mix = _Residual(c, operations)

    def forward(self, x: Tensor) -> Features:
        half = self.down1(x * 2 - 1)
        quarter = self.down2(F.silu(half))
        return half, quarter, self.mix(self.down3(F.silu(quarter)))


class TinyVAE(nn.Module):
    """See the module's docstring; `operations` builds the layers (torch.nn, or comfy.ops in the host).

    `mouth`: a MouthHead that draws the mouth at any size, where there is one; encoding and `decode` do without.
    """

    shift: Tensor
    scale: Tensor
    mouth: nn.Module | None

    def __init__(self, cfg: VAEConfig, *, operations: Any = nn) -> None:
        super().__init__()
        self.cfg = cfg
        a, b, c = cfg.width * 3 // 4, cfg.width * 3 // 2, cfg.width * 3
        z, ops = cfg.latent_channels, operations
        self.frame = _FrameEncoder((a, b, c), ops)
        self.gather = ops.Conv2d(5 * c, 2 * c, 3, padding=1)
        self.gather_mix = _Residual(2 * c, ops)
        self.to_latent = ops.Conv2d(2 * c, z, 3, padding=1)
        self.from_latent = ops.Conv2d(2 * z + c, 2 * c, 3, padding=1)
        self.spread_mix = nn.ModuleList([_Residual(2 * c, ops), _Residual(2 * c, ops)])
        self.spread = ops.Conv2d(2 * c, 4 * c, 1)
        self.up2 = ops.Conv2d(c + b, b, 3, padding=1)
        self.mix2 = _Residual(b, ops)
        self.up1 = ops.Conv2d(b + a, a, 3, padding=1)
        self.mix1 = _Residual(a, ops)
        self.to_flow = ops.Conv2d(a, 2, 3, padding=1)
        self.to_paint = ops.Conv2d(a, 4 * 4, 3, padding=1)  # colour and share, two by two pixels
        self.mouth = None
        self.register_buffer("shift", torch.zeros(z))
        self.register_buffer("scale", torch.ones(z))

    def init_output(self) -> None:
        """Start from the portrait itself: no flow, little paint."""
        for layer in (self.to_flow, self.to_paint):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.to_paint.bias.view(4, 4)[3] = -3.0

    # -- whole clips: training, and the truth the streaming path is tested against -----------------------

    def encode_groups(self, features: Tensor, before: Tensor) -> Tensor:
        """Raw latents (N, C, h, w) of N groups: features (N, 4, D, h, w) and those of the frame before (N, D, h, w)."""
        x = self.gather(torch.cat([before, features.flatten(1, 2)], 1))
        out: Tensor = self.to_latent(self.gather_mix(x))
        return out

    def encode_clip(self, frames: Tensor) -> Tensor:
        """Raw latents (B, C, F, h, w) of clips (B, 1 + 4k, 3, H, W)."""
        batch, count = frames.shape[:2]
        coarse = self.frame(frames.flatten(0, 1))[2].unflatten(0, (batch, count))
        coarse = torch.cat([coarse[:, :1].expand(-1, 3, -1, -1, -1), coarse], 1)
        groups = coarse.unflatten(1, (-1, 4))
        before = torch.cat([coarse[:, :1], groups[:, :-1, -1]], 1)
        raw = self.encode_groups(groups.flatten(0, 1), before.flatten(0, 1))
        latents: Tensor = raw.unflatten(0, (batch, -1)).transpose(1, 2)
        return latents

    def still(self, features: Features) -> Tensor:
        """Raw latent (N, C, h, w) of still pictures, from their features."""
        coarse = features[2]
        return self.encode_groups(coarse[:, None].expand(-1, 4, -1, -1, -1), coarse)

    def decode_groups(self, raw: Tensor, before: Tensor, still: Tensor, features: Features, reference: Tensor) -> Decoded:
        """N groups of four frames: raw latents, those before and the portrait's (N, C, h, w), portrait (N, 3, H, W)."""
        half, quarter, eighth = features
        x = self._spread(self.from_latent(torch.cat([raw - still, before - still, eighth], 1)))
        x = self.mix2(self.up2(torch.cat([_double(x), _each(quarter)], 1)))
        x = self.mix1(self.up1(torch.cat([_double(x), _each(half)], 1)))
        x = F.silu(x)
        return Decoded(*(t.unflatten(0, (-1, 4)) for t in _drawn(self.to_flow(x) / 8, self.to_paint(x), _each(reference))))

    def _spread(self, x: Tensor) -> Tensor:
        """Features (4N, D, h, w) of each frame, from those of N groups."""
        for block in self.spread_mix:
            x = block(x)
        spread: Tensor = self.spread(F.silu(x)).unflatten(1, (4, -1)).flatten(0, 1)
        return spread

    def decode_clip(self, raw: Tensor, reference: Tensor) -> Decoded:
        """1 + 4k frames of raw latents (B, C, F, h, w) and portraits (B, 3, H, W)."""
        count = raw.shape[2]
        before = torch.cat([raw[:, :, :1], raw[:, :, :-1]], 2)
        features = self.frame(reference)
        half, quarter, eighth, still = (f.repeat_interleave(count, 0) for f in (*features, self.still(features)))
        groups = self.decode_groups(
            raw.transpose(1, 2).flatten(0, 1), before.transpose(1, 2).flatten(0, 1), still,
            (half, quarter, eighth), reference.repeat_interleave(count, 0),
        )
        return Decoded(*(t.unflatten(0, (-1, count)).flatten(1, 2)[:, 3:] for t in groups))

    # -- normalised latents -----------------------------------------------------------------------------

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw latents (.., C, F, h, w) to unit scale."""
        return (raw - self.shift.view(-1, 1, 1, 1)) * self.scale.view(-1, 1, 1, 1)

    def denormalise(self, latents: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return latents / self.scale.view(-1, 1, 1, 1) + self.shift.view(-1, 1, 1, 1)

    # -- StreamingVAE -----------------------------------------------------------------------------------

    def encode_image(self, rgb: Tensor) -> Tensor:
        """Latent (C, h, w) of a still picture (3, H, W) in 0..1."""
        return self.encode(rgb[None], self.open_encoder())[0][0, :, 0]

    def open_encoder(self) -> TinyEncoderState:
        """State before the first frame."""
        return TinyEncoderState()

    def encode(self, frames: Tensor, state: TinyEncoderState) -> tuple[Tensor, TinyEncoderState]:
        """Latents (1, C, F, h, w) of 1 + 4k frames (T, 3, H, W) first, 4k later; ValueError otherwise."""
        coarse = self.frame(frames.to(self.shift.dtype))[2]
        before = state.last
        if before is None:
            before, coarse = coarse[:1], torch.cat([coarse[:1].expand(3, -1, -1, -1), coarse])
        if not len(coarse) or len(coarse) % 4:
            raise ValueError(f"frames: got {len(frames)}; give 1 + 4k frames first, then multiples of 4")
        groups = coarse.unflatten(0, (-1, 4))
        raw = self.encode_groups(groups, torch.cat([before, groups[:-1, -1]]))
        return self.normalise(raw.transpose(0, 1)[None]), TinyEncoderState(last=coarse[-1:])

    def open_decoder(self, reference: Tensor | None) -> TinyDecoderState:
        """State before the first latent; `reference` (3, H, W) in 0..1 is the portrait the stream shows."""
        if reference is None:
            raise InputError("reference", "none", "the tiny autoencoder redraws the portrait it is given", "connect the portrait")
        picture = reference[None].to(self.shift)
        features = self.frame(picture)
        half, quarter, eighth = features
        return TinyDecoderState(
            reference=picture, still=self.still(features), from_latent=_prepared(self.from_latent, eighth),
            up2=_prepared(self.up2, quarter, doubles=True), up1=_prepared(self.up1, half, doubles=True),
            heads=_side_by_side(self.to_flow, self.to_paint, like=picture), flow=_side_by_side(self.to_flow, like=picture))

    def decode(self, latents: Tensor, state: TinyDecoderState) -> tuple[Tensor, TinyDecoderState]:
        """Frames (T, 3, H, W) in 0..1 of the next latents (1, C, F, h, w), and the state after them."""
        moved, after = self.motion(latents, state)
        return _drawn(moved.flow, moved.paint, state.reference.expand(len(moved.flow), -1, -1, -1)).frames, after

    def motion(
        self, latents: Tensor, state: TinyDecoderState, every: int = 1, *, paint: bool = True,
    ) -> tuple[Motion, TinyDecoderState]:
        """What moves in the next latents (1, C, F, h, w), and the state after them; of every second frame alone with `every` 2.

        The last frame of a latent is always among them. `paint` is what a renderer without a MouthHead needs.
        """
        raw = self.denormalise(latents.to(self.shift))[0].transpose(0, 1)
        first = raw[:1] if state.last is None else state.last
        moved = torch.cat([raw, torch.cat([first, raw[:-1]])], 1) - state.still.repeat(1, 2, 1, 1)
        x = self._spread(state.from_latent(moved.contiguous(memory_format=torch.channels_last)))[every - 1 :: every]
        features = F.silu(self.mix1(state.up1(self.mix2(state.up2(x)))))
        drawn = (state.heads if paint else state.flow)(features)
        found = (drawn[:, :2] / 8, drawn[:, 2:], features, moved.repeat_interleave(4 // every, 0))
        first_shown = 4 // every - 1 if state.last is None else 0  # the first latent is one frame
        return Motion(*(t[first_shown:] for t in found)), replace(state, last=raw[-1:])


def _drawn(flow: Tensor, paint: Tensor, reference: Tensor) -> Decoded:
    """N frames of flow (N, 2, H/2, W/2) and paint (N, 16, H/2, W/2) over the portrait (N, 3, H, W)."""
    flow = F.interpolate(flow.float(), scale_factor=2, mode="bilinear", align_corners=False)
    paint = F.pixel_shuffle(paint.float(), 2)
    share = torch.sigmoid(paint[:, 3:])
    frames = torch.lerp(_warp(reference.float(), flow), torch.sigmoid(paint[:, :3]), share)
    return Decoded(frames, flow, share)


def _side_by_side(*layers: Any, like: Tensor) -> _Prepared:
    """3x3 convolutions of the same input as one, their outputs one after the other."""
    weight, bias = (torch.cat([getattr(layer, name).to(like) for layer in layers]) for name in ("weight", "bias"))
    return _Prepared(weight=weight.contiguous(memory_format=torch.channels_last), share=bias.view(1, -1, 1, 1))


def _prepared(layer: Any, features: Tensor, *, doubles: bool = False) -> _Prepared:
    """A layer whose last input channels are the portrait's features (1, D, h, w)."""
    weight, bias = layer.weight.to(features), layer.bias.to(features)  # a host may keep them elsewhere
    moving, own = weight.split([weight.shape[1] - features.shape[1], features.shape[1]], 1)
    weight, share = _doubling(moving) if doubles else moving, F.conv2d(features, own, bias, padding=1)
    last = {"memory_format": torch.channels_last}
    return _Prepared(weight=weight.contiguous(**last), share=share.contiguous(**last), doubles=doubles)


def _doubling(weight: Tensor) -> Tensor:
    """Weights (I, O, 4, 4) of a transposed convolution that doubles the size, then does as those (O, I, 3, 3)."""
    taps = weight.float().flip(-1, -2).flatten(0, 1)[:, None]
    sums = F.conv_transpose2d(taps, taps.new_ones(1, 1, 2, 2))[:, 0]
    folded: Tensor = sums.unflatten(0, weight.shape[:2]).transpose(0, 1).contiguous().to(weight.dtype)
    return folded


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _each(x: Tensor) -> Tensor:
    """One group's portrait features for each of its four frames."""
    return x.repeat_interleave(4, 0)


def _warp(picture: Tensor, flow: Tensor) -> Tensor:
    """The picture (N, 3, H, W) sampled where the flow (N, 2, H, W) points."""
    height, width = picture.shape[-2:]
    xs = (torch.arange(width, device=flow.device) * 2 + 1) / width - 1
    ys = (torch.arange(height, device=flow.device) * 2 + 1) / height - 1
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1)
    return F.grid_sample(picture, grid + flow.permute(0, 2, 3, 1), mode="bilinear", padding_mode="border", align_corners=False)
