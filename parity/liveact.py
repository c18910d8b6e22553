"""SoulX-LiveAct's sampler and transformer against what its own `generate` made (parity/goldens/liveact.safetensors)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from parity.golden import recorded
from parity.recorders.liveact import BLOCKS, DRAWS, GUIDED, HEIGHT, HIDDEN, WATCHED, WIDTH, drawn, reference, sound
from parity.recorders.open_models import AUDIO_DIM, TOKENS, inputs
from parity.seeded import fill_module
from tm_core.audio.speech_windows import FrameWindows
from tm_core.config import DiTConfig, Guidance, SamplerConfig, tiny
from tm_core.families.registry import FAMILIES
from tm_core.model.dit import TalkingDiT
from tm_core.model.open_projectors import GroupedProjector, GroupedProjectorConfig
from tm_core.model.talking import TalkingModel
from tm_core.streaming.compressed_sampler import CompressedSampler
from tm_core.streaming.sampler import Scene, SpeakerInput

FAMILY = FAMILIES["liveact"]
TIMES = FAMILY.timesteps or ()
SAMPLER = SamplerConfig(sigmas=tuple(t / 1000 for t in TIMES), history=FAMILY.history)


class Watched(TalkingDiT):
    """Keeps its velocities."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[Tensor] = []

    def history_x0(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        x0 = super().history_x0(x, sigma, **kwargs)
        self.seen.append((x - x0) / sigma)
        return x0


def small_model(sizes: dict[str, Any]) -> TalkingModel:
    """Transformer and projector as the recorder built the official ones; no autoencoder is asked."""
    cfg = DiTConfig(**sizes, image_dim=1280, audio_kind="own_q_kv_proj", audio_dim=AUDIO_DIM, memory_stride=5)
    whole = Watched(cfg).eval()
    whole.add_module("audio_proj", GroupedProjector(GroupedProjectorConfig(hidden=HIDDEN, dim=AUDIO_DIM, tokens=TOKENS)))
    fill_module(whole)
    projector: Any = whole.audio_proj
    del whole.audio_proj
    vae: Any = nn.Module()
    return TalkingModel(config=replace(tiny(), dit=cfg, fps=24), dit=whole, projector=projector, vae=vae)


def scene() -> Scene:
    """What the official code was shown."""
    features, rule = sound(), FrameWindows()
    speaker = SpeakerInput(
        windows=lambda latents: rule.windows(features, latents), mask=torch.ones(HEIGHT // 16 * (WIDTH // 16)),
        speaking=lambda latents: torch.ones(len(latents), dtype=torch.bool))
    data = inputs()
    return Scene(reference=reference(), speakers=(speaker,), frames=len(features), image=data["image"], text=data["text"])


def streamed(model: TalkingModel, cfg: SamplerConfig, shown: Scene, blocks: int = BLOCKS) -> Tensor:
    """Latents (16, F, h, w) with the noise that was drawn."""
    sampler = CompressedSampler(model, cfg)
    state, parts = sampler.open(shown, 0), []

    def noise(seed: int, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
        return drawn(DRAWS * chunk + step, shape[1:])[None]

    with patch("tm_core.streaming.sampler.chunk_noise", noise):
        for _ in range(blocks):
            chunk, state = sampler.step(state)
            parts.append(chunk.latents[0])
    return torch.cat(parts, 1)


@torch.inference_mode()
def differences() -> dict[str, float]:
    """Largest difference of every step's velocities, and of the latents with and without guidance of the sound."""
    said, source = recorded("liveact")
    model = small_model(source["sizes"])
    guided = streamed(model, replace(SAMPLER, guidance=Guidance(audio=GUIDED)), scene())
    dit: Any = model.dit
    dit.seen.clear()
    plain = streamed(model, SAMPLER, scene())
    steps = len(SAMPLER.sigmas)
    velocities = [
        float((dit.seen[steps * block + step][0] - said[f"velocity, block {block}, step {step}"]).abs().max())
        for block in range(WATCHED) for step in range(steps)]
    return {
        f"LiveAct's transformer, {steps} steps of {WATCHED} blocks": max(velocities),
        f"LiveAct's sampler, {BLOCKS} blocks": float((plain - said["plain, latents"]).abs().max()),
        f"LiveAct's sampler, {BLOCKS} blocks, sound guided": float((guided - said["guided, latents"]).abs().max())}
