"""Every stage trains, saves, and goes on from where it was; small, on generated inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tm_core.config import DiTConfig, ModelConfig, VAEConfig, tiny
from tm_core.errors import InputError
from tm_core.face.mesh import FaceMesh
from tm_core.face.portrait import prepare_portrait
from tm_core.media import open_image, read_audio
from tm_core.model.rope import stream_positions
from tm_core.streaming.sampler import ChunkedSampler, Scene, Speaker
from tm_core.train.autoencoder import train_autoencoder
from tm_core.train.checkpoint import Average, load_checkpoint, save_checkpoint
from tm_core.train.data import PAD, TEXTURE, Inputs, Speech, _padded, load_inputs, mouth_shapes, normalised
from tm_core.train.flow import Denoiser, assemble, make_clip, noise_levels, train_flow
from tm_core.train.generator import Faces
from tm_core.train.listen import Listener, augment, train_listener
from tm_core.train.run import main
from tm_core.train.visemes import mouth_weights
from tm_core.vae.tiny import TinyVAE
from tm_core.weights.loading import TalkingModel, load_model

CONFIG: ModelConfig = replace(
    tiny(), width=64, height=64, vae=VAEConfig(width=16),
    dit=DiTConfig(dim=48, ffn_dim=64, num_heads=1, num_layers=1, text_dim=8, text_len=1, image_dim=None, audio_dim=192,
                  prediction="x0_residual"))
ASSETS = Path(__file__).parents[2] / "tm_core" / "assets"


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    from tm_core.audio.features import SILENCE, log_mel
    from tm_core.train.data import FLOOR, STEP

    portrait = prepare_portrait(open_image(ASSETS / "portraits" / "demo.jpg"), TEXTURE, FaceMesh())
    faces = Faces(images=torch.from_numpy(portrait.image.copy()).permute(2, 0, 1)[None].float() / 255,
                  points=torch.from_numpy(normalised(portrait.landmarks, TEXTURE))[None], shapes=torch.from_numpy(mouth_shapes()))
    sound = read_audio(next((ASSETS / "speech").glob("*.wav"))).samples
    frames = len(sound) // 640
    rows = _padded(log_mel(sound, CONFIG.audio)[: frames * 4], 4 * PAD, SILENCE)
    weights = _padded(mouth_weights([("AA", t, t + 0.1) for t in np.arange(0.2, 6.5, 0.3)], sound, frames, 25), PAD, 0)
    speech = Speech(
        rows=torch.from_numpy(np.clip(np.round((rows - FLOOR) / STEP), 0, 255).astype(np.uint8)),
        weights=torch.from_numpy(weights).half(), labels=torch.zeros(len(weights), dtype=torch.uint8),
        starts=torch.tensor([0, len(weights)]), voices=("librivox",), trusted=torch.ones(1, dtype=torch.bool))
    return Inputs(faces=faces, speech=speech, identities=("demo",))


@pytest.fixture(scope="module")
def vae() -> TinyVAE:
    torch.manual_seed(0)
    assert CONFIG.vae
    net = TinyVAE(CONFIG.vae).eval()
    net.scale.fill_(200.0)  # an untrained latent hardly moves
    return net


def test_the_autoencoder_trains_and_goes_on(tmp_path: Path, inputs: Inputs) -> None:
    path, points = tmp_path / "a.safetensors", []
    for _ in range(2):
        train_autoencoder(CONFIG, inputs, path, minutes=9, device="cpu", batch=4, fresh=1, people=2, bank_size=8, first_clips=4,
                          most_steps=15, report_every=5, report=points.append)
    steps = [p["step"] for p in points]
    assert len(steps) >= 2 and steps == sorted(set(steps))
    assert points[-1]["loss"] < points[0]["loss"]


def test_the_trunk_trains_and_goes_on(tmp_path: Path, inputs: Inputs) -> None:
    points: list[dict[str, float]] = []
    for _ in range(2):
        train_listener(CONFIG, inputs.speech, inputs.speech, tmp_path / "l.safetensors", minutes=9, device="cpu", batch=4,
                       most_steps=20, report_every=10, report=points.append)
    assert len(points) >= 2 and [p["step"] for p in points] == sorted({p["step"] for p in points})
    assert points[-1]["held_loss"] < points[0]["held_loss"]


def test_flow_matching_learns_one_clip_and_goes_on(tmp_path: Path, inputs: Inputs, vae: TinyVAE) -> None:
    points: list[dict[str, float]] = []
    for _ in range(2):
        train_flow(CONFIG, inputs, inputs, vae, Listener(CONFIG).projector, tmp_path / "f.safetensors", minutes=9, device="cpu", batch=2,
                   first_clips=2, bank_size=3, exam_clips=1, renew_every=10**6, most_steps=20, report_every=10, report=points.append)
    assert len(points) >= 2 and [p["step"] for p in points] == sorted({p["step"] for p in points})
    assert points[-1]["loss"] < points[0]["loss"]


@torch.no_grad()
def test_training_sees_what_the_sampler_sees(inputs: Inputs, vae: TinyVAE) -> None:
    """The first chunk of a training batch, denoised in one step, equals what the sampler makes of the same noise."""
    torch.manual_seed(0)
    model = Denoiser(CONFIG, Listener(CONFIG).projector).eval()
    torch.nn.init.normal_(model.dit.head.head.weight, std=0.1)
    clip = make_clip(vae, inputs, CONFIG, 3, motion=0.0)
    clip = replace(clip, listens=False, speaking=torch.ones_like(clip.speaking))
    batch = assemble([clip], inputs.speech, CONFIG, 2, torch.Generator().manual_seed(0), clean=True)
    assert batch.positions == list(range(9)) == [i for part in stream_positions(2, 3, 21) for i in part]
    speaker = Speaker(windows=lambda latents: batch.windows[0, latents.start : latents.stop], mask=clip.face_mask,
                      speaking=lambda latents: torch.ones(len(latents), dtype=torch.bool))
    sampler = ChunkedSampler(TalkingModel(config=CONFIG, dit=model.dit, projector=model.projector, vae=vae),
                             replace(CONFIG.sampler, sigmas=(1.0,), articulation=1.0))
    state, noise, parts = sampler.open(Scene(reference=clip.reference, speakers=(speaker,), frames=99), 5), [], []
    from tm_core.streaming.sampler import chunk_noise

    for t in range(3):
        chunk, state = sampler.step(state)
        parts.append(chunk.latents)
        noise.append(chunk_noise(5, t, 0, tuple(chunk.latents.shape)))
    made = model(batch, torch.ones(1), torch.cat(noise, 2))
    assert (made - torch.cat(parts, 2)).abs().max() <= 1e-4


def test_checkpoints_hold_everything(tmp_path: Path) -> None:
    def make() -> tuple[torch.nn.Linear, Average, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 2)
        return module, Average(module), torch.optim.AdamW(module.parameters(), lr=0.1)

    def step(module: torch.nn.Linear, average: Average, optimiser: torch.optim.Optimizer) -> None:
        module(torch.ones(1, 3)).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        average.update(module)

    straight, resumed = make(), make()
    for _ in range(4):
        step(*straight)
    step(*resumed)
    step(*resumed)
    save_checkpoint(tmp_path / "c.safetensors", *resumed, {"step": 2})
    resumed = make()
    assert load_checkpoint(tmp_path / "c.safetensors", *resumed)["step"] == 2
    step(*resumed)
    step(*resumed)
    assert torch.equal(straight[0].weight, resumed[0].weight)
    assert torch.equal(straight[1].weights["weight"], resumed[1].weights["weight"])


def test_noise_leans_high_and_augmentation_keeps_the_floor() -> None:
    rng = torch.Generator().manual_seed(0)
    sigma = noise_levels(4000, rng)
    assert 0.3 < (sigma == 1).float().mean() < 0.4 and sigma.median() > 0.8 and sigma.min() >= 0.02
    rows = torch.full((4, 80, 80), -11.6)
    assert torch.isfinite(augment(rows, rng)).all() and augment(rows, rng).min() >= -11.6


def test_bad_calls_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TM_BUILD", str(tmp_path))
    with pytest.raises(InputError, match=r"^recipe: "):
        main("huge")
    with pytest.raises(InputError, match=r"^stage: "):
        main("tiny", stage="dream")
    with pytest.raises(InputError, match=r"^inputs: "):
        load_inputs(tmp_path / "none.safetensors", "train")


def test_the_bundled_weights_come_with_their_learning_curve() -> None:
    import json

    curve = json.loads((ASSETS / "weights" / "tiny.curve.json").read_text())
    assert set(curve) == {"autoencoder", "listen", "flow"} and curve["flow"]["curve"][-1]["step"] <= curve["flow"]["steps"]
    assert load_model().projector is not None
