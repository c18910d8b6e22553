"""Colour correction: the official function's numbers, drifting streams brought back, no trace of chunks."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.golden import recorded
from parity.open_models import flashtalk_colours
from tests.streaming.test_clip_sampler import PICTURE, SAMPLER, clips, shown
from tests.streaming.test_sampler import CONFIG, random_model
from tm_core.config import SamplerConfig
from tm_core.errors import InputError
from tm_core.media.image_io import open_image
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.clip_sampler import ClipSampler
from tm_core.streaming.colour_correction import ColourCorrection, to_lab, to_rgb
from tm_core.streaming.handles import DecodedStream, DecoderInput, LatentStream, StreamMeta
from tm_core.streaming.sampler import LatentChunk
from tm_core.streaming.workers import WorkerConfig
from tm_core.timeline import Timeline

DEMO = Path(__file__).parents[2] / "tm_core" / "assets" / "portraits" / "demo.jpg"
PORTRAIT = torch.tensor(open_image(DEMO)).permute(2, 0, 1)[:, ::4, ::4].float() / 255
FRAMES = 33


def drifted(number: Tensor) -> Tensor:
    """The portrait (T, 3, H, W) as a stream that reddens and darkens shows it in frame `number` (T,)."""
    share = (number / FRAMES)[:, None, None, None]
    return (PORTRAIT * (1 + share * torch.tensor([0.3, -0.1, -0.4])[:, None, None])).clamp(0, 1)


class Drifting:
    """A source and an autoencoder in one: latent i is the number of its last frame, frames are the drifting portrait."""

    def open(self) -> int:
        return 0

    def step(self, state: int, cancel: CancelToken) -> tuple[LatentChunk, int]:
        latents = 4.0 * torch.arange(3 * state, 3 * state + 3)[None, None, :, None, None]
        return LatentChunk(index=state, latents=latents), state + 1

    def open_decoder(self, reference: Tensor | None) -> bool:
        return True

    def decode(self, latents: Tensor, first: bool) -> tuple[Tensor, bool]:
        numbers = (latents.flatten()[:, None] + torch.arange(-3, 1)).flatten()
        return drifted(numbers[3:] if first else numbers), False


def frames_of(strength: float) -> np.ndarray:
    """All frames of a drifting stream (T, H, W, 3), decoded chunk by chunk."""
    timeline, source = Timeline(fps=Fraction(25)), Drifting()
    meta = StreamMeta(width=PORTRAIT.shape[2], height=PORTRAIT.shape[1], num_frames=FRAMES, timeline=timeline, audio_s=FRAMES / 25)
    decoder = DecoderInput(vae=source, reference=PORTRAIT, colour_correction=strength)  # type: ignore[arg-type]
    cpu = WorkerConfig(device=torch.device("cpu"), threads=1)
    return np.concatenate([c.frames for c in DecodedStream(LatentStream(source, meta, decoder), decoder, denoise_on=cpu, decode_on=cpu)])


def test_colours_are_the_official_functions() -> None:
    gaps = flashtalk_colours()
    assert max(gaps.values()) <= 1e-3, gaps
    assert (recorded("flashtalk_colour")[0]["frames, strength 1"].mean((2, 3)).std(0) < 0.02).all()  # tints are gone


def test_lab_is_cies() -> None:
    """White, black, and red and blue as colour tables have them, pictures and single colours; there and back again."""
    assert to_lab(torch.ones(3, 1, 1)).flatten().tolist() == pytest.approx([100, 0, 0], abs=1e-3)
    assert to_lab(torch.zeros(3)).tolist() == pytest.approx([0, 0, 0], abs=1e-3)
    assert to_lab(torch.tensor([1.0, 0, 0]).view(3, 1, 1)).flatten().tolist() == pytest.approx([53.24, 80.09, 67.20], abs=0.01)
    assert to_lab(torch.tensor([0, 0, 1.0])).tolist() == pytest.approx([32.30, 79.19, -107.86], abs=0.01)
    rgb = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert (to_rgb(to_lab(rgb)) - rgb).abs().max() <= 1e-5


def test_a_drifting_streams_colours_come_back() -> None:
    plain, half, full = (frames_of(s) for s in (0.0, 0.5, 1.0))
    numbers = torch.arange(float(FRAMES))
    assert np.array_equal(plain, (drifted(numbers) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())  # 0 computes nothing
    goal = PORTRAIT.mean((1, 2)).numpy() * 255
    away = [np.abs(made[-1].mean((0, 1)) - goal).max() for made in (plain, half, full)]
    assert away[0] > 25 and away[1] < 0.6 * away[0] and away[2] < 2, away


def test_chunks_leave_no_trace() -> None:
    """Steps of the mean colour from frame to frame are no larger where chunks meet; any split gives the same bits."""
    means = frames_of(1.0).mean((1, 2))
    steps = np.abs(np.diff(means, axis=0)).max(1)
    meets = np.array([8, 20])  # the last frame of chunks 0 and 1
    assert steps[meets].max() <= np.delete(steps, meets).max(), steps
    correct, frames = ColourCorrection(PORTRAIT, 1.0), drifted(torch.arange(9.0))
    assert torch.equal(correct(frames), torch.cat([correct(frames[:1]), correct(frames[1:4]), correct(frames[4:])]))


def test_an_opening_mouth_lightens_the_rest_little() -> None:
    """The price of statistics by frame: 2 % of the picture turns dark, and the rest moves by two levels of 255."""
    height, width = PORTRAIT.shape[1:]
    opened = PORTRAIT.clone()
    rows, columns = slice(int(0.6 * height), int(0.7 * height)), slice(int(0.4 * width), int(0.6 * width))
    opened[:, rows, columns] = 0.05
    made = ColourCorrection(PORTRAIT, 1.0)(torch.stack([PORTRAIT, opened]))
    moved = (made[1] - made[0]).abs()
    moved[:, rows, columns] = 0
    assert 0 < 255 * moved.mean() < 2 and 255 * moved.max() < 6
    assert (made[0] - PORTRAIT).abs().max() <= 1e-5  # the portrait's own colours stay


def test_a_flat_frame_stays_flat() -> None:
    """No spread to scale: rounding is not blown up into colour."""
    flat = ColourCorrection(PORTRAIT, 1.0)(torch.tensor([0.2, 0.5, 0.3]).view(1, 3, 1, 1).expand(-1, -1, 16, 16))
    assert flat.std((2, 3)).max() <= 1e-3 and (flat.mean((0, 2, 3)) - PORTRAIT.mean((1, 2))).abs().max() < 0.1


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_a_strength_is_a_share(strength: float) -> None:
    with pytest.raises(InputError, match="colour_correction"):
        SamplerConfig(colour_correction=strength)
    with pytest.raises(InputError, match="colour_correction"):
        ColourCorrection(PORTRAIT, strength)


@torch.no_grad()
def test_the_frames_that_lead_a_clip_are_corrected() -> None:
    torch.manual_seed(1)
    model = random_model(CONFIG)
    sampler = ClipSampler(model, replace(SAMPLER, colour_correction=0.8))
    first, after = next(clips(sampler, 1))
    frames, _ = model.vae.decode(first.latents, model.vae.open_decoder(PICTURE))
    plain, _ = model.vae.encode(frames[-5:], model.vae.open_encoder())
    corrected, _ = model.vae.encode(ColourCorrection(PICTURE, 0.8)(frames[-5:]), model.vae.open_encoder())
    assert torch.equal(sampler.lead(after).motion, corrected) and (corrected - plain).abs().max() > 1e-3
    with pytest.raises(InputError, match="picture"):
        sampler.open(replace(shown(), picture=None), 0)
