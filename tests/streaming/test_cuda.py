"""What only a CUDA device can show. Nothing here needs more than torch and numpy: a bare machine must be able to collect it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tm_core.config import DiTConfig, ModelConfig, SamplerConfig, tiny
from tm_core.model.audio_projector import AudioProjector
from tm_core.model.dit import TalkingDiT
from tm_core.model.talking import TalkingModel
from tm_core.streaming.sampler import ChunkedSampler, Scene, SpeakerInput
from tm_core.vae.tiny import TinyVAE

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
CONFIG = replace(
    tiny(), width=64, height=64, sampler=SamplerConfig(sigmas=(1.0, 0.8, 0.4)),
    dit=DiTConfig(dim=96, ffn_dim=128, num_heads=2, num_layers=2, text_dim=8, text_len=1, image_dim=None, audio_dim=192,
                  prediction="x0_residual"))


def random_model(config: ModelConfig) -> TalkingModel:
    dit = TalkingDiT(config.dit)
    dit.init_weights()
    torch.nn.init.normal_(dit.head.head.weight, std=0.05)
    assert config.projector and config.vae
    return TalkingModel(config=config, dit=dit.eval(), projector=AudioProjector(config.projector).eval(), vae=TinyVAE(config.vae).eval())


def scene() -> Scene:
    """Noise for a sound of log-mel's size."""
    sound = torch.randn(64, 80, 80, generator=torch.Generator().manual_seed(3)) - 5
    speaker = SpeakerInput(
        windows=lambda latents: sound[list(latents)], mask=torch.linspace(0, 1, 16),
        speaking=lambda latents: torch.ones(len(latents), dtype=torch.bool))
    return Scene(reference=torch.linspace(-1, 1, 16 * 64).view(16, 8, 8), speakers=(speaker,), frames=10**6)


def three_chunks(model: TalkingModel) -> torch.Tensor:
    sampler, parts = ChunkedSampler(model, CONFIG.sampler), list[torch.Tensor]()
    state = sampler.open(scene(), 1)
    for _ in range(3):
        chunk, state = sampler.step(state)
        parts.append(chunk.latents)
    return torch.cat(parts, 2)


def test_the_same_stream_on_a_gpu() -> None:
    """Noise is drawn on the CPU, so a stream does not depend on where it is computed."""
    here, there = random_model(CONFIG), random_model(CONFIG)
    for ours, theirs in ((there.dit, here.dit), (there.projector, here.projector)):
        assert isinstance(ours, torch.nn.Module) and isinstance(theirs, torch.nn.Module)
        ours.load_state_dict(theirs.state_dict())
        ours.to("cuda")
    a, b = three_chunks(here), three_chunks(there)
    assert b.is_cuda and (a - b.cpu()).abs().mean() < 0.01 * a.abs().mean()
