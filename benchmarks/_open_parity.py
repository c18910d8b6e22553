"""Transformers and samplers of open checkpoints against numbers recorded from their official code (tests/data)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import _liveact_parity
from benchmarks._seeded import fill_module, numbers, recorded
from tm_core.config import AudioKind, DiTConfig, SamplerConfig, tiny
from tm_core.model.dit import TalkingDiT
from tm_core.model.talking import Heard, TalkingModel
from tm_core.streaming.clips import ClipSampler, clip_of
from tm_core.streaming.guidance import shifted
from tm_core.streaming.sampler import Scene, Speaker
from tools.record_open_models import AUDIO_DIM, FANTASY_LENGTHS, LATENTS, SIGMA, TOKENS, inputs
from tools.record_samplers import decode, encode, velocity

FLASHTALK = {4: (1000, 750, 500, 250), 2: (1000, 500)}  # timesteps by number of steps


@torch.inference_mode()
def differences() -> dict[str, float]:
    """Largest difference of everything recorded."""
    flashtalk = {f"FlashTalk's sampler, two clips of {n} steps": flashtalk_sampler(n) for n in FLASHTALK}
    return {**transformers(), **flashtalk, **_liveact_parity.differences()}


# -- transformers -------------------------------------------------------------------------------------------------


def small_dit(kind: AudioKind, sizes: dict[str, Any], rename: dict[str, str] | None = None) -> TalkingDiT:
    """The transformer as the recorder built the official one."""
    dit = TalkingDiT(DiTConfig(**sizes, image_dim=1280, audio_kind=kind, audio_dim=AUDIO_DIM)).eval()
    fill_module(dit, rename)
    return dit


def transformers() -> dict[str, float]:
    """Whole block stacks with sound, without it, and with tokens that do not count."""
    level, data = torch.tensor([SIGMA]), inputs()
    said, source = recorded("infinitetalk_dit")
    infinite = small_dit("own_q_kv_proj", source["sizes"])
    found = {"InfiniteTalk's transformer": _gap(infinite(sigma=level, audio=said["tokens"], **data), said["velocity"])}
    said, source = recorded("fantasytalking_dit")
    official = {f"cross_attn.{part}": f"cross_attn.processor.{part}" for part in ("k_proj", "v_proj")}
    fantasy = small_dit("shared_q_kv", source["sizes"], official)
    valid = torch.arange(TOKENS) < torch.tensor(FANTASY_LENGTHS)[:, None]
    heard = fantasy(sigma=level, audio=numbers("input.audio", (1, LATENTS, TOKENS, AUDIO_DIM)), audio_valid=valid[None], **data)
    found["FantasyTalking's transformer"] = _gap(heard, said["velocity"])
    found["FantasyTalking's transformer, no sound"] = _gap(fantasy(sigma=level, **data), said["velocity_silent"])
    return found


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


# -- FlashTalk's sampler ------------------------------------------------------------------------------------------


class StandInNetwork:
    """What ClipSampler asks of a transformer, round the stand-in that the official pipeline was recorded with."""

    cfg = DiTConfig(dim=96, ffn_dim=96, num_heads=2, num_layers=1, text_dim=4, text_len=1)
    compute_device, compute_dtype = torch.device("cpu"), torch.float32

    def forward_x0(self, x: Tensor, level: Tensor, *, audio: Tensor, **_: Any) -> Tensor:
        return x - level.view(-1, 1, 1, 1, 1) * velocity(x, 1000 * level, audio.flatten())


class StandInAutoencoder(torch.nn.Module):
    """The recorder's, as ours is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1))

    def open_decoder(self, reference: Tensor | None) -> None: ...

    def open_encoder(self) -> None: ...

    def decode(self, latents: Tensor, state: None) -> tuple[Tensor, None]:
        return decode(latents[0])[0].transpose(0, 1), None

    def encode(self, frames: Tensor, state: None) -> tuple[Tensor, None]:
        return encode(frames.transpose(0, 1)[None])[None], None


class StandInListener:
    """Sound passes as it is."""

    def listen(self, windows: Tensor, speaking: Tensor, like: Tensor) -> Heard:
        return Heard(windows[:, None, None])


def flashtalk_sampler(steps: int) -> float:
    """Two clips with the noise that was drawn; the official pipeline discards the first frames of its first clip as well."""
    said, _ = recorded("flashtalk_sampler")
    network: Any = StandInNetwork()
    vae: Any = StandInAutoencoder()
    model = TalkingModel(config=replace(tiny(), dit=network.cfg), dit=network, projector=StandInListener(), vae=vae)
    speaker = Speaker(
        windows=lambda latents: numbers(f"sound {latents[0] // 7}", (9,)), mask=torch.ones(4),
        speaking=lambda latents: torch.ones(9, dtype=torch.bool))
    scene = Scene(reference=numbers("portrait", (16, 1, 4, 4))[:, 0], speakers=(speaker,), frames=61)
    sampler = ClipSampler(model, SamplerConfig(sigmas=tuple(shifted(t / 1000, 5.0) for t in FLASHTALK[steps]), clip=clip_of(33, 5)))
    state, worst, noises = sampler.open(scene, 0), 0.0, said[f"{steps} steps, noises"]
    with patch("tm_core.streaming.clips.chunk_noise", lambda seed, clip, step, shape: noises[clip * (steps + 1) + step][None]):
        for clip in range(2):
            chunk, state = sampler.step(state)
            worst = max(worst, _gap(decode(chunk.latents[0])[0][:, 5:], said[f"{steps} steps, clip {clip}"]))
    return worst
