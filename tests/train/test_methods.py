"""Methods, trainer and sequences: each method learns, a stopped run goes on as if it had not been stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tm_core.config import ModelConfig, SamplerConfig
from tm_core.model.rope import stream_positions
from tm_core.model.talking import TalkingModel
from tm_core.streaming.sampler import ChunkedSampler, Scene, SpeakerInput, chunk_noise
from tm_core.train.callbacks import Curve, ValidationVideo, examine
from tm_core.train.dataset import Inputs
from tm_core.train.denoiser import Denoiser, guided, noised, sample
from tm_core.train.methods.distribution_matching import DistillationConfig, DistributionMatching
from tm_core.train.methods.flow_matching import FlowMatching, Phase, noise_levels
from tm_core.train.methods.method import Draw, Method
from tm_core.train.methods.regression import Regression, TeacherSampling
from tm_core.train.parallel import ParallelConfig, World
from tm_core.train.run_checkpoint import load_run, save_run
from tm_core.train.sequences import CHUNKS, SEQUENCE, Batch, ClipCache, ClipData, assemble, chosen_latents, exam_batch
from tm_core.train.trainer import OptimConfig, TrainConfig, Trainer
from tm_core.train.training_run import new_projector
from tm_core.vae.tiny import TinyVAE

SIGMAS = (1.0, 0.75)
TRAIN = TrainConfig(steps=1000, batch=2, optim=OptimConfig(rate=3e-3, warmup=2), autocast=False)


@pytest.fixture(scope="module")
def bank(vae: TinyVAE, inputs: Inputs, small: ModelConfig) -> ClipCache:
    return ClipCache(vae, inputs, small, motion=0.3, seed=3, folder=None)


@pytest.fixture
def data(bank: ClipCache, small: ModelConfig) -> ClipData:
    return ClipData(bank=bank, cfg=small, first_clips=2, renew_every=10**6)


def network(small: ModelConfig, seed: int) -> Denoiser:
    torch.manual_seed(seed)
    model = Denoiser(small, new_projector(small))
    model.dit.init_weights()
    torch.nn.init.normal_(model.dit.head.head.weight, std=0.02)
    return model


def flow_matching(small: ModelConfig, folder: Path) -> Method:
    return FlowMatching(network(small, 0), chunk=3, causal_share=0.5)


def regression(small: ModelConfig, folder: Path) -> Method:
    how = TeacherSampling(steps=3, guidance=1.2)
    student, teacher = network(small, 0), network(small, 1).requires_grad_(False)
    return Regression(student, teacher, chunk=3, sigmas=SIGMAS, sampling=how, uses=2, folder=folder)


def distribution_matching(small: ModelConfig, folder: Path) -> Method:
    cfg = DistillationConfig(own_from=1, own_share=0.5, critic_updates=1)
    teacher = network(small, 1).requires_grad_(False)
    return DistributionMatching(network(small, 0), teacher, network(small, 1), chunk=3, sigmas=SIGMAS, cfg=cfg)


METHODS = [flow_matching, regression, distribution_matching]


def trainer_of(method: Method, data: ClipData, cfg: TrainConfig = TRAIN) -> Trainer:
    return Trainer(method, data, cfg, world=World.open(ParallelConfig(), "cpu"))


@pytest.mark.parametrize("make", METHODS, ids=lambda m: m.__name__)
def test_a_stopped_run_goes_on_exactly(
    make: Callable[[ModelConfig, Path], Method], small: ModelConfig, data: ClipData, tmp_path: Path,
) -> None:
    straight = trainer_of(make(small, tmp_path / "a"), data)
    straight.run(most_steps=4)
    first = trainer_of(make(small, tmp_path / "b"), data)
    first.run(most_steps=2)
    save_run(tmp_path / "run.safetensors", first, {"curve": [1]})
    second = trainer_of(make(small, tmp_path / "b"), data)
    assert load_run(tmp_path / "run.safetensors", second)["curve"] == [1]
    second.run(most_steps=2)
    assert second.step == straight.step == 4
    for role in straight.method.trained:
        other = second.method.roles[role].state_dict()
        for name, value in straight.method.roles[role].state_dict().items():
            assert torch.equal(value, other[name]), f"{role}.{name}"
    assert all(torch.equal(v, second.average.weights[k]) for k, v in straight.average.weights.items())


def test_flow_matching_learns_a_clip(small: ModelConfig, data: ClipData, bank: ClipCache) -> None:
    curve = Curve(every=10, exam=lambda m: examine(m, exam_batch(bank, small, 2), chunk=3))
    trainer = trainer_of(flow_matching(small, Path()), data)
    trainer.callbacks = (curve,)
    trainer.run(most_steps=40)
    assert [p["step"] for p in curve.points] == [10, 20, 30, 40]
    assert curve.points[-1]["loss"] < 0.9 * curve.points[0]["loss"] and curve.points[-1]["held_right"] < curve.points[1]["held_right"]


@pytest.mark.slow
def test_regression_brings_the_student_to_the_teachers_end(small: ModelConfig, data: ClipData) -> None:
    trainer = trainer_of(regression(small, Path("/nonexistent")), data)
    trainer.method.folder = None  # type: ignore[attr-defined]
    losses = [float(trainer.one_step()["loss"]) for _ in range(15)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.slow
def test_matching_moves_the_student_towards_the_teachers_distribution(small: ModelConfig, data: ClipData) -> None:
    """A student and a critic that begin elsewhere; the teacher's sample mean is where the student should go."""
    student, teacher = network(small, 0), network(small, 1)
    with torch.no_grad():
        teacher.dit.head.head.bias.fill_(0.5)
    cfg = DistillationConfig(own_from=0, own_share=1.0, regression=0.0, guidance=1.0, critic_updates=2)
    method = DistributionMatching(student, teacher.requires_grad_(False), network(small, 0), chunk=3, sigmas=SIGMAS, cfg=cfg)
    batch = data.batch(0, 2, torch.Generator().manual_seed(0))

    def distance() -> float:
        noises = [torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(i)) for i in range(2)]
        own = sample(student, batch, noises, SIGMAS, chunk=3)
        theirs = sample(teacher, batch, noises[:1], TeacherSampling(steps=4).sigmas, chunk=None, again=False)
        return float((own.mean() - theirs.mean()).abs())

    before = distance()
    trainer_of(method, data).run(most_steps=10)
    assert distance() < 0.6 * before


def test_phases_choose_what_learns(small: ModelConfig, data: ClipData) -> None:
    student = network(small, 0)
    phases = (Phase(steps=1, sound=False), Phase(steps=1, trainable="audio"))
    trainer = trainer_of(FlowMatching(student, chunk=3, phases=phases), data)

    def changed() -> set[str]:
        before = {k: v.clone() for k, v in student.state_dict().items()}
        trainer.one_step()
        return {k for k, v in student.state_dict().items() if not torch.equal(v, before[k])}

    first, second, third = changed(), changed(), changed()
    assert "dit.blocks.0.ffn.0.weight" in first and not any("trunk" in k for k in first | second | third)
    assert second and all("_proj." in k or k.startswith("projector.") for k in second)
    assert "dit.blocks.0.ffn.0.weight" in third and "dit.blocks.0.cross_attn.v_proj.weight" in third


def test_sequences_are_the_anchor_and_six_neighbours() -> None:
    for t in range(SEQUENCE - 1, CHUNKS):
        latents = chosen_latents(t, 3)
        assert len(latents) == 21 and latents[:3] == [0, 1, 2] and latents[-1] == 3 * t + 2
        assert latents[3:] == list(range(3 * (t - 5), 3 * t + 3))


def test_a_batch_depends_on_step_and_seed_alone(data: ClipData, vae: TinyVAE, inputs: Inputs, small: ModelConfig, tmp_path: Path) -> None:
    def draw(source: ClipData) -> Batch:
        return source.batch(7, 2, torch.Generator().manual_seed(1))

    def on_disk() -> ClipData:
        return replace(data, bank=ClipCache(vae, inputs, small, motion=0.3, seed=3, folder=tmp_path))

    once, again, kept = draw(data), draw(on_disk()), draw(on_disk())
    assert list(tmp_path.rglob("*.safetensors"))
    for name in ("x0", "windows", "heard", "reference"):
        assert torch.equal(getattr(once, name), getattr(again, name)) and torch.equal(getattr(again, name), getattr(kept, name))


def test_footage_takes_its_share_of_a_batch(data: ClipData, bank: ClipCache) -> None:
    real = replace(bank[0], latents=bank[0].latents[:, :21] * 0 + 7, rows=bank[0].rows[: 16 * 21 + 64])
    mixed = replace(data, footage=(real,), footage_share=0.5)
    batches = [mixed.batch(s, 4, torch.Generator().manual_seed(s)).x0 for s in range(6)]
    share = torch.cat([(b == 7).flatten(1).all(1) for b in batches]).float().mean()
    assert 0.2 < share < 0.8 and all(b.shape[2] == 21 for b in batches)


@torch.no_grad()
def test_training_sees_what_the_sampler_sees(bank: ClipCache, small: ModelConfig, vae: TinyVAE) -> None:
    """Whole sequences sampled as in training equal the stream's chunks, from the same noises, two steps."""
    model = network(small, 0).eval()
    clip = replace(bank[0], listens=torch.tensor(False), speaking=torch.ones_like(bank[0].speaking))
    batch = assemble([clip], list(range(21)), small, torch.Generator().manual_seed(0), clean=True)
    assert [i for part in stream_positions(6, 3, 21) for i in part] == [0, 1, 2, *range(15, 21)]
    speaker = SpeakerInput(windows=lambda latents: batch.windows[0, latents.start : latents.stop], mask=clip.face_mask,
                      speaking=lambda latents: torch.ones(len(latents), dtype=torch.bool))
    sampler = ChunkedSampler(TalkingModel(config=small, dit=model.dit, projector=model.projector, vae=vae), SamplerConfig(sigmas=SIGMAS))
    state, parts = sampler.open(Scene(reference=clip.reference, speakers=(speaker,), frames=99), 5), []
    noises: list[list[torch.Tensor]] = [[], []]
    for t in range(7):
        chunk, state = sampler.step(state)
        parts.append(chunk.latents)
        for i in range(2):
            noises[i].append(chunk_noise(5, t, i, tuple(chunk.latents.shape)))
    made = sample(model, batch, [torch.cat(n, 2) for n in noises], SIGMAS, chunk=3)
    assert (made - torch.cat(parts, 2)).abs().max() <= 1e-4


@torch.no_grad()
def test_guidance_steps_away_from_silence(small: ModelConfig, data: ClipData) -> None:
    model, batch = network(small, 0), data.batch(0, 1, torch.Generator().manual_seed(0))
    x, sigma = torch.randn_like(batch.x0), torch.ones(1)
    heard, quiet = model(batch, x, sigma, chunk=None), model(batch, x, sigma, chunk=None, silent=True)
    assert not torch.equal(heard, quiet)
    assert torch.allclose(guided(model, batch, x, sigma, 1.5), quiet + 1.5 * (heard - quiet), atol=1e-6)


def test_noise_leans_high() -> None:
    draw = Draw(rng=torch.Generator().manual_seed(0), total=4000, mine=slice(0, 4000), device="cpu")
    sigma = noise_levels(draw)
    assert 0.3 < (sigma == 1).float().mean() < 0.4 and sigma.median() > 0.8 and sigma.min() >= 0.02
    x0 = torch.zeros(4000, 2)
    assert torch.equal(noised(x0, sigma, torch.ones_like(x0))[:, 0], sigma)


def test_a_share_of_the_draw_is_a_part_of_the_whole() -> None:
    def draw(mine: slice) -> torch.Tensor:
        return Draw(rng=torch.Generator().manual_seed(2), total=4, mine=mine, device="cpu").normal(torch.zeros(mine.stop - mine.start, 3))

    assert torch.equal(torch.cat([draw(slice(0, 2)), draw(slice(2, 4))]), draw(slice(0, 4)))


def test_a_validation_video_is_written(small: ModelConfig, data: ClipData, bank: ClipCache, vae: TinyVAE, tmp_path: Path) -> None:
    batch: Batch = exam_batch(bank, small, 1)
    video = ValidationVideo(tmp_path / "new", vae, batch, torch.rand(3, 64, 64), sigmas=SIGMAS, chunk=3, fps=25, every=1)
    trainer = trainer_of(flow_matching(small, tmp_path), data)
    trainer.callbacks = (video,)
    trainer.run(most_steps=1)
    from tm_core.media import read_frames

    fps, frames = read_frames(tmp_path / "new" / "step000001.mp4")
    assert fps == 25 and sum(1 for _ in frames) == 81
