"""What distillation keeps: student (2 evaluations), its teacher (24) and the undistilled model, on held-out windows.

A window is 81 frames (21 latents): a held-out portrait and 3.24 s of a held-out voice; everybody gets the same
noise. Checkpoints come from build/train (TM_BUILD): tiny_teacher, tiny_student, and where they are there tiny_init,
the ablations tiny_student.no_regression, .no_own and .no_anchor, and tiny_student.brief, which is whole and as short
as they are. `--seconds` sets how much speech in all; the table is written to docs/distillation.md, or
distillation.md in the folder of `--out`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks._common import ROOT, Result, result, say
from benchmarks._corpus import Face, Sound, held_faces, held_sounds
from benchmarks._judges import FRECHET_NAME, clip_features, distance, mean_sync, sync_of
from benchmarks._sheet import markdown_table, number
from benchmarks._truth import Seen, corpus_folder, look_at, true_clip, waveform
from tm_core import talk
from tm_core.cli.bench import commit, machine
from tm_core.config import CacheMode, ModelConfig
from tm_core.errors import InputError
from tm_core.face.topology import CHIN, FOREHEAD
from tm_core.media.image_io import open_image
from tm_core.metrics.drift import RIGID
from tm_core.metrics.lip_sync import opening_curve, without_slow
from tm_core.model.conditioning import make_reference
from tm_core.model.talking import TalkingModel
from tm_core.streaming.sampler import ChunkedSampler, Scene
from tm_core.streaming.workers import to_uint8
from tm_core.train.denoiser import Denoiser, sample
from tm_core.train.methods.regression import TeacherSampling, teacher_sample
from tm_core.train.recipes import ABLATION_STEPS, RECIPES
from tm_core.train.sequences import Batch
from tm_core.train.training_run import TrainingRun, work_folder
from tm_core.vae.base import StreamingVAE, device_of

LATENTS, FRAMES, WINDOWS = 21, 81, 20
ABLATIONS = {  # recipe after the dot: what it is called; as short as one another
    "brief": "whole method", "no_regression": "no regression", "no_own": "no samples of its own", "no_anchor": "no anchor c0"}
MIN_SHARE = 0.9  # of the teacher's lip r and Sync-C
MAX_FRECHET = 0.75  # of the undistilled model's: "far ahead"
MAX_LAG = 6  # frames
HEADER = ("who", "evaluations", "lip r", "lag", "Sync-C", "Sync-D", "Frechet", "mouth amplitude", "head motion")
Make = Callable[["Window"], Tensor]


@dataclass(frozen=True, kw_only=True)
class Window:
    """One portrait and sound as the networks take them, and the truth."""

    batch: Batch  # of one sequence; x0 gives the shape alone
    scene: Scene
    image: Tensor  # (3, H, W) 0..1
    noises: list[Tensor]
    seed: int
    sound: Sound
    opening: np.ndarray
    truth: Seen


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Who makes latents (1, C, F, h, w) of a window, with how many evaluations of the network a latent."""

    name: str
    evaluations: int
    make: Make


@dataclass(frozen=True, kw_only=True)
class Score:
    """One line of the table; amplitude and head motion are shares of the truth's."""

    name: str
    evaluations: int | None
    lip_r: float
    lag: int
    sync_c: float
    sync_d: float
    frechet: float
    amplitude: float
    head: float


def run(
    *, device: str = "auto", seconds: float | None = None, out: Path | None = None,
) -> list[Result]:
    """All contenders; InputError without corpora or checkpoints."""
    training = TrainingRun(folder=work_folder(), device=str(talk.parse_device("--device", device)))
    cfg = RECIPES["tiny_student"]().model
    found = checkpoints(training, cfg)
    model = whole(found["tiny_student"], training.vae(cfg).eval(), cfg)
    count = WINDOWS if seconds is None else max(2, round(seconds * cfg.fps / FRAMES))
    say(f"{count} windows of {FRAMES} frames")
    scores = compare(windows(model, count), model.vae, contenders(found, model))
    path = (out or ROOT / "docs") / "distillation.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document(scores, count, f"{machine()}; commit {commit()}"), encoding="utf-8")
    say(f"table: {path}")
    return results(scores)


def checkpoints(training: TrainingRun, cfg: ModelConfig) -> dict[str, Denoiser]:
    """Averaged weights by recipe; InputError without teacher or student."""
    names = ("tiny_teacher", "tiny_init", "tiny_student", *(f"tiny_student.{a}" for a in ABLATIONS))
    found = {name: model for name in names if (model := training.product(name, cfg)) is not None}
    for name in ("tiny_teacher", "tiny_student"):
        if name not in found:
            remedy = f"train it with `talking-machines train {name}`, or set TM_BUILD to where it is"
            raise InputError("checkpoint", training.checkpoint(name), "is not there", remedy)
    for name in names:
        if name not in found:
            say(f"no checkpoint of {name}: left out")
    return found


def whole(model: Denoiser, vae: StreamingVAE, cfg: ModelConfig) -> TalkingModel:
    """A trained network as the streaming sampler takes it."""
    return TalkingModel(config=cfg, dit=model.dit, projector=model.projector, vae=vae)


def contenders(found: dict[str, Denoiser], model: TalkingModel) -> list[Contender]:
    """Who is compared, the teacher first; `model` is the student's."""
    teacher, sampling, cfg = found["tiny_teacher"], RECIPES["tiny_init"]().sampling, model.config
    steps = len(cfg.sampler.sigmas)
    made = [
        Contender(name="teacher", evaluations=2 * sampling.steps, make=lambda w: teacher_sample(teacher, w.batch, w.noises[0], sampling)),
        Contender(name="undistilled, both directions", evaluations=steps, make=lambda w: _two_steps(teacher, w, sampling, steps)),
        Contender(name="undistilled, causal", evaluations=steps, make=_few(teacher, cfg)),
    ]
    if "tiny_init" in found:
        made.append(Contender(name="student after regression on the teacher", evaluations=steps, make=_few(found["tiny_init"], cfg)))
    student = found["tiny_student"]
    made.append(Contender(name="student", evaluations=steps, make=_few(student, cfg)))
    made.append(Contender(name="student, clean_rerun cache", evaluations=steps + 1, make=_streamed(model, "clean_rerun")))
    made += [
        Contender(name=f"student, {ABLATION_STEPS} steps, {ABLATIONS[a]}", evaluations=steps, make=_few(found[f"tiny_student.{a}"], cfg))
        for a in ABLATIONS if f"tiny_student.{a}" in found]
    return made


def _two_steps(teacher: Denoiser, window: Window, sampling: TeacherSampling, steps: int) -> Tensor:
    """The teacher's own sampler with few steps and no guidance."""
    return teacher_sample(teacher, window.batch, window.noises[0], replace(sampling, steps=steps, guidance=1.0))


def _few(model: Denoiser, cfg: ModelConfig) -> Make:
    """The student's sampler on a whole sequence."""
    return lambda w: sample(model, w.batch, w.noises, cfg.sampler.sigmas, chunk=cfg.sampler.chunk_latents)


def _streamed(model: TalkingModel, mode: CacheMode) -> Make:
    """The streaming sampler, chunk by chunk, with this cache."""
    cfg = model.config.sampler
    sampler = ChunkedSampler(model, replace(cfg, cache_mode=mode))

    def make(window: Window) -> Tensor:
        state, parts = sampler.open(window.scene, window.seed), []
        for _ in range(LATENTS // cfg.chunk_latents):
            chunk, state = sampler.step(state)
            parts.append(chunk.latents)
        return torch.cat(parts, 2)

    return make


# -- windows -------------------------------------------------------------------------------------------


def windows(model: TalkingModel, count: int) -> list[Window]:
    """Held-out portraits and voices in turn."""
    corpus = corpus_folder()
    faces, sounds = held_faces(corpus), held_sounds(corpus, count, FRAMES / model.config.fps)
    return [window(model, faces[i % len(faces)], sound, i) for i, sound in enumerate(sounds)]


@torch.inference_mode()
def window(model: TalkingModel, face: Face, sound: Sound, seed: int) -> Window:
    """One portrait and 81 frames of sound."""
    cfg, device = model.config, device_of(model.vae)
    subject = talk.prepare_portrait(open_image(face.path), cfg)
    built = talk.build_scene(model, subject, talk.select_speaking(talk.encode_audio(waveform(sound), cfg)))
    speaker, reference = built.scene.speakers[0], built.scene.reference[None]
    shape, rng = (1, reference.shape[1], LATENTS, *reference.shape[2:]), torch.Generator().manual_seed(seed)
    batch = Batch(
        x0=torch.zeros(shape), reference=make_reference(reference, list(range(LATENTS))), windows=speaker.windows(range(LATENTS))[None],
        heard=speaker.speaking(range(LATENTS)).float()[None], face_mask=speaker.mask[None], weight=torch.ones(1, 1, 1, *shape[3:]))
    return Window(
        batch=batch.map(lambda t: t.to(device)), scene=built.scene, image=built.image.to(device), seed=seed, sound=sound,
        noises=[torch.randn(shape, generator=rng).to(device) for _ in cfg.sampler.sigmas],
        opening=opening_curve(sound.phones, sound.samples, FRAMES, cfg.fps),
        truth=look_at(true_clip(face, sound, FRAMES, cfg.fps, cfg.width)))


@torch.inference_mode()
def draw(vae: StreamingVAE, latents: Tensor, image: Tensor) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 of latents (1, C, F, h, w), a few at a time: that stays in the CPU's cache."""
    state, parts = vae.open_decoder(image), []
    for part in latents.split(3, 2):
        frames, state = vae.decode(part, state)
        parts.append(to_uint8(frames))
    return np.concatenate(parts)


# -- figures -------------------------------------------------------------------------------------------


def compare(cases: list[Window], vae: StreamingVAE, entries: Sequence[Contender]) -> list[Score]:
    """Scores of the truth and of every contender."""
    truth = [w.truth for w in cases]
    features = [clip_features(seen) for seen in truth]
    scores = [_score("truth", None, cases, truth, features)]
    for entry in entries:
        with torch.inference_mode():
            seen = [look_at(draw(vae, entry.make(w), w.image)) for w in cases]
        scores.append(_score(entry.name, entry.evaluations, cases, seen, features))
        say(f"{entry.name}: lip r {scores[-1].lip_r:.3f}, Sync-C {scores[-1].sync_c:.2f}, mouth amplitude {scores[-1].amplitude:.2f}")
    return scores


def _score(name: str, evaluations: int | None, cases: list[Window], seen: list[Seen], true: list[np.ndarray]) -> Score:
    fps = FRAMES / (len(cases[0].sound.samples) / 16000)
    lip_r, lag = pooled_sync([s.gap for s in seen], [w.opening for w in cases], fps)
    sync_c, sync_d = mean_sync([sync_of(s, w.sound.samples, fps) for s, w in zip(seen, cases, strict=True)])
    truth = [w.truth for w in cases]
    return Score(
        name=name, evaluations=evaluations, lip_r=lip_r, lag=lag, sync_c=sync_c, sync_d=sync_d,
        frechet=distance([clip_features(s) for s in seen], true), amplitude=_spread([without_slow(s.gap, fps) for s in seen]) / max(
            _spread([without_slow(s.gap, fps) for s in truth]), 1e-9),
        head=_spread([head_path(s.landmarks) for s in seen]) / max(_spread([head_path(s.landmarks) for s in truth]), 1e-9))


def pooled_sync(gaps: Sequence[np.ndarray], openings: Sequence[np.ndarray], fps: float) -> tuple[float, int]:
    """Peak correlation of lip gap and opening over all windows together, and its lag in frames (positive: picture late).

    Each window loses its slow part first, and no lag reaches across two windows.
    """
    a, b = ([without_slow(c, fps) for c in curves] for curves in (gaps, openings))
    lags = range(-MAX_LAG, MAX_LAG + 1)
    r = [_lagged(a, b, k) for k in lags]
    best = int(np.argmax(r))
    return r[best], lags[best]


def _lagged(a: list[np.ndarray], b: list[np.ndarray], k: int) -> float:
    n = [len(x) for x in a]
    x = np.concatenate([v[max(0, k) : m + min(0, k)] for v, m in zip(a, n, strict=True)])
    y = np.concatenate([v[max(0, -k) : m - max(0, k)] for v, m in zip(b, n, strict=True)])
    x, y = x - x.mean(), y - y.mean()
    spread = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / spread if spread > 1e-12 else 0.0


def head_path(landmarks: np.ndarray) -> np.ndarray:
    """(T, 2) where the eyes and the nose are, in heights of the face."""
    flat = landmarks[..., :2].astype(np.float64)
    height = np.nanmedian(np.linalg.norm(flat[:, CHIN] - flat[:, FOREHEAD], axis=-1))
    return np.asarray(flat[:, list(RIGID)].mean(1) / max(float(height), 1e-6))


def _spread(curves: Sequence[np.ndarray]) -> float:
    """Root of the mean variance within a window."""
    return float(np.sqrt(np.mean([np.nanvar(c, axis=0).sum() for c in curves])))


def results(scores: Sequence[Score]) -> list[Result]:
    """All figures, and the bars: the student against teacher and undistilled model."""
    found = [r for s in scores for r in _of(s)]
    by = {s.name: s for s in scores}
    student, teacher, plain = by["student"], by["teacher"], by["undistilled, causal"]
    for what, mine, theirs in (("lip r", student.lip_r, teacher.lip_r), ("Sync-C", student.sync_c, teacher.sync_c)):
        share = mine / theirs if theirs > 0 else 0.0
        found.append(result(f"student over teacher: {what}", share, "", f">= {MIN_SHARE}", share >= MIN_SHARE))
    for what, mine, theirs in (("lip r", student.lip_r, plain.lip_r), ("Sync-C", student.sync_c, plain.sync_c)):
        found.append(result(f"student minus undistilled at as many steps: {what}", mine - theirs, "", "> 0", mine > theirs))
    ratio = student.frechet / max(plain.frechet, 1e-9)
    found.append(result("student over undistilled: Frechet distance", ratio, "", f"<= {MAX_FRECHET}", ratio <= MAX_FRECHET))
    return found


def _of(score: Score) -> list[Result]:
    values = {
        "evaluations": score.evaluations, "lip r": score.lip_r, "lag": score.lag, "Sync-C": score.sync_c, "Sync-D": score.sync_d,
        "Frechet distance": score.frechet, "mouth amplitude over the truth's": score.amplitude,
        "head motion over the truth's": score.head}
    return [result(f"{score.name}: {what}", value, "") for what, value in values.items() if value is not None]


def document(scores: Sequence[Score], count: int, where: str) -> str:
    """The table with what it shows."""
    rows = [
        [s.name, number(s.evaluations, 0), number(s.lip_r, 3), str(s.lag), number(s.sync_c, 2), number(s.sync_d, 2), number(s.frechet, 2),
         number(s.amplitude, 2), number(s.head, 2)] for s in scores]
    return "\n".join([
        "# Distillation", "",
        f"{count} windows of {FRAMES} frames, held-out identities and voices, the same noise for everybody. Written by",
        "`talking-machines bench distillation` from the checkpoints of training. Evaluations: of the network, for every latent.",
        "Lip r: lip gap against phones, all windows pooled. Mouth amplitude and head motion: of the truth's, the clip that the",
        f"training data's generator draws. Frechet distance: {FRECHET_NAME}.", "",
        *markdown_table(HEADER, rows), "", where, ""])
