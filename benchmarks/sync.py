"""Lip sync of ten held-out identity x voice pairs, against wrong sounds, the generator's own clip and silence.

The measure is `tm_core.metrics.sync`: lip gap of the face mesh against the opening that the phones call for.
The truth is the clip that the training data's generator draws of the same portrait and sound. `--seconds`
sets the length of a pair, `--out` keeps the ten videos. The corpora lie in build/corpus, or where TM_CORPUS says.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks._common import ROOT, Result, load, result, say, stream_of
from benchmarks._corpus import Face, Sound, held_faces, held_sounds
from tm_core import app
from tm_core.face.portrait import prepare_portrait
from tm_core.media.audio_io import Waveform
from tm_core.media.image_io import open_image
from tm_core.media.video_io import VideoWriter
from tm_core.metrics.sync import SilenceScore, SyncScore, lip_gap, opening_curve, silence_score, sync_score
from tm_core.train.data import TEXTURE, draw_clip, mouth_shapes, normalised
from tm_core.train.generator import fit_head
from tm_core.train.visemes import blinks, head_pose, mouth_weights
from tm_core.weights.loading import TalkingModel

PAIRS, SECONDS = 10, 10.0
MIN_SHARE, MAX_LAG, MIN_MARGIN, MIN_WINS, MAX_SILENCE = 0.6, 1, 0.2, 8, 0.35
MOTION = 0.3  # of the head in the truth; a still head would flatter it


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What was measured of one pair."""

    right: SyncScore
    truth: SyncScore
    wrong: tuple[float, ...]
    silence: SilenceScore | None
    truth_silence: SilenceScore | None

    @property
    def margin(self) -> float:
        """The right sound's peak above the best of the wrong ones."""
        return self.right.peak_r - max(self.wrong)


def run(
    *, weights: Path | None = None, device: str = "auto", seconds: float | None = None, out: Path | None = None,
) -> list[Result]:
    """Ten pairs, one after the other; InputError without the corpora."""
    corpus = Path(os.environ.get("TM_CORPUS", ROOT / "build" / "corpus"))
    faces, sounds = held_faces(corpus), held_sounds(corpus, PAIRS, seconds or SECONDS)
    model = load(weights, device)
    fps = float(model.config.fps)
    frames = [app.encode_audio(_waveform(s), model.config).num_frames for s in sounds]
    curves = [opening_curve(s.phones, s.samples, n, fps) for s, n in zip(sounds, frames, strict=True)]
    pairs = []
    for i, sound in enumerate(sounds):
        face = faces[i % len(faces)]
        pairs.append(_pair(model, face, sound, curves, i, out))
        p = pairs[-1]
        say(
            f"{face.name} x {sound.name}: r {p.right.peak_r:.2f} at lag {p.right.lag_frames}, truth {p.truth.peak_r:.2f}, "
            f"best wrong {max(p.wrong):.2f}, silence {_ratio(p.silence)} (truth {_ratio(p.truth_silence)})")
    return _summary(pairs, sum(s.real for s in sounds))


def _ratio(score: SilenceScore | None) -> str:
    return "-" if score is None else f"{score.ratio:.2f}, above rest {score.ratio_above_rest:.2f}"


def _waveform(sound: Sound) -> Waveform:
    return Waveform(samples=sound.samples)


def _pair(model: TalkingModel, face: Face, sound: Sound, curves: list[np.ndarray], index: int, out: Path | None) -> Pair:
    fps, own = float(model.config.fps), curves[index]
    stream = stream_of(model, _waveform(sound), face.path, seed=index)
    video = np.concatenate([chunk.frames for chunk in stream])
    if out is not None:
        _keep(out / f"{index}-{face.name}-{sound.name}.mp4", video, sound, fps)
    gap, truth = _gap(video), _gap(_truth(face, sound, len(video), fps, model.config.width))
    wrong = [np.resize(c, len(own)) for i, c in enumerate(curves) if i != index]
    rest = _rest(face, model.config.width)
    return Pair(
        right=sync_score(gap, own, fps), truth=sync_score(truth, own, fps),
        wrong=tuple(sync_score(gap, w, fps).peak_r for w in wrong),
        silence=silence_score(gap, sound.samples, fps, rest), truth_silence=silence_score(truth, sound.samples, fps, rest))


def _gap(video: np.ndarray) -> np.ndarray:
    return lip_gap(app.face_mesh().landmarks_batch(video))


def _rest(face: Face, side: int) -> float:
    """Lip gap of the portrait itself, as the mesh sees it at this size: lips have a thickness."""
    crop = prepare_portrait(open_image(face.path), side, app.face_mesh()).image
    return float(_gap(np.stack([crop, crop]))[0])


def _truth(face: Face, sound: Sound, frames: int, fps: float, side: int) -> np.ndarray:
    """The generator's clip (T, H, W, 3) uint8 of the same portrait and sound."""
    portrait = prepare_portrait(open_image(face.path), TEXTURE, app.face_mesh())
    texture = torch.from_numpy(portrait.image.copy()).permute(2, 0, 1).float() / 255
    head = fit_head(texture, torch.from_numpy(normalised(portrait.landmarks, TEXTURE)), torch.from_numpy(mouth_shapes()))
    rng = np.random.default_rng(0)
    mouth = mouth_weights([tuple(p) for p in sound.phones], sound.samples, frames, fps)
    tracks = np.concatenate([mouth, blinks(frames, fps, rng)[:, None], head_pose(frames, fps, rng, MOTION)], 1)
    with torch.inference_mode():
        drawn = draw_clip(head, torch.from_numpy(tracks), side)
    return drawn.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _keep(path: Path, video: np.ndarray, sound: Sound, fps: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, video.shape[2], video.shape[1], round(fps), audio=_waveform(sound)) as writer:
        writer.write(video)


def _summary(pairs: list[Pair], real: int) -> list[Result]:
    right, truth = median(p.right.peak_r for p in pairs), median(p.truth.peak_r for p in pairs)
    share = right / truth if truth > 0 else 0.0
    lag = median(abs(p.right.lag_frames) for p in pairs)
    margin, wins = median(p.margin for p in pairs), sum(p.margin > 0 for p in pairs)
    still = _median([p.silence.ratio for p in pairs if p.silence])
    silence = [
        result("the same above the portrait's own gap", _median([p.silence.ratio_above_rest for p in pairs if p.silence]), ""),
        result("the same of the generator's clip", _median([p.truth_silence.ratio for p in pairs if p.truth_silence]), ""),
        result(
            "the same of the generator's clip above the portrait's own gap",
            _median([p.truth_silence.ratio_above_rest for p in pairs if p.truth_silence]), ""),
    ]
    return [
        result("pairs (of real voices)", f"{len(pairs)} ({real})", ""),
        result("peak r, median", right, ""),
        result("peak r of the generator's clip, median", truth, ""),
        result("share of the generator's clip", share, "", f">= {MIN_SHARE}", share >= MIN_SHARE),
        result("distance of the peak from lag 0, median", float(lag), "frames", f"<= {MAX_LAG}", lag <= MAX_LAG),
        result("right above the best wrong sound, median", margin, "", f">= {MIN_MARGIN}", margin >= MIN_MARGIN),
        result("pairs where right beats every wrong sound", wins, f"of {len(pairs)}", f">= {MIN_WINS}", wins >= MIN_WINS),
        result("lip gap in pauses over speech, median", still, "", f"<= {MAX_SILENCE}", still <= MAX_SILENCE),
        *silence,
    ]


def _median(values: list[float]) -> float:
    return median(values) if values else math.nan
