"""Lip sync of ten held-out identity x voice pairs, against wrong sounds, the generator's own clip and silence.

The measure is `tm_core.metrics.lip_sync`: lip gap of the face mesh against the opening that the phones call for;
SyncNet's Sync-C and Sync-D stand beside it. The truth is the clip that the training data's generator draws of the
same portrait and sound. `--seconds` sets the length of a pair, `--out` keeps the ten videos. The corpora lie in
build/corpus, or where TM_CORPUS says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks._common import Result, load, result, say, stream_of
from benchmarks._corpus import Face, Sound, held_faces, held_sounds
from benchmarks._judges import mean_sync, sync_of
from benchmarks._truth import Seen, corpus_folder, look_at, rest_gap, true_clip, waveform
from tm_core import talk
from tm_core.media.video_io import VideoWriter
from tm_core.metrics.lip_sync import ClosureMatch, SilenceScore, SyncScore, closures_matched, opening_curve, silence_score, sync_score
from tm_core.metrics.syncnet import SyncNetScore
from tm_core.weights.loading import TalkingModel

PAIRS, SECONDS = 10, 10.0
MIN_SHARE, MAX_LAG, MIN_MARGIN, MIN_WINS, MAX_SILENCE, MIN_CLOSURES = 0.85, 0, 0.3, 8, 0.35, 0.8


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What was measured of one pair."""

    right: SyncScore
    truth: SyncScore
    wrong: tuple[float, ...]
    silence: SilenceScore | None
    truth_silence: SilenceScore | None
    closures: ClosureMatch
    net: SyncNetScore | None
    truth_net: SyncNetScore | None

    @property
    def margin(self) -> float:
        """The right sound's peak above the best of the wrong ones."""
        return self.right.peak_r - max(self.wrong)

    def line(self) -> str:
        """For whoever waits."""
        return (
            f"r {self.right.peak_r:.2f} at lag {self.right.lag_frames}, truth {self.truth.peak_r:.2f}, best wrong {max(self.wrong):.2f}, "
            f"closed {self.closures.matched} of {self.closures.count}, silence {_ratio(self.silence)} (truth {_ratio(self.truth_silence)})")


def run(
    *, weights: Path | None = None, device: str = "auto", seconds: float | None = None, out: Path | None = None,
) -> list[Result]:
    """Ten pairs, one after the other; InputError without the corpora."""
    faces, sounds = held_faces(corpus_folder()), held_sounds(corpus_folder(), PAIRS, seconds or SECONDS)
    model = load(weights, device)
    fps = float(model.config.fps)
    frames = [talk.encode_audio(waveform(s), model.config).num_frames for s in sounds]
    curves = [opening_curve(s.phones, s.samples, n, fps) for s, n in zip(sounds, frames, strict=True)]
    pairs = []
    for i, sound in enumerate(sounds):
        face = faces[i % len(faces)]
        pairs.append(_pair(model, face, sound, curves, i, out))
        say(f"{face.name} x {sound.name}: {pairs[-1].line()}")
    return summary(pairs, sum(s.real for s in sounds))


def _ratio(score: SilenceScore | None) -> str:
    return "-" if score is None else f"{score.ratio:.2f}, above rest {score.ratio_above_rest:.2f}"


def _pair(model: TalkingModel, face: Face, sound: Sound, curves: list[np.ndarray], index: int, out: Path | None) -> Pair:
    fps, side = float(model.config.fps), model.config.width
    video = np.concatenate([chunk.frames for chunk in stream_of(model, waveform(sound), face.path, seed=index)])
    if out is not None:
        _keep(out / f"{index}-{face.name}-{sound.name}.mp4", video, sound, fps)
    true = look_at(true_clip(face, sound, len(video), fps, side))
    return _measured(look_at(video), true, sound, curves, index, fps, rest_gap(face, side))


def _measured(made: Seen, true: Seen, sound: Sound, curves: list[np.ndarray], index: int, fps: float, rest: float) -> Pair:
    own, gap, truth = curves[index], made.gap, true.gap
    wrong = [np.resize(c, len(own)) for i, c in enumerate(curves) if i != index]
    return Pair(
        right=sync_score(gap, own, fps), truth=sync_score(truth, own, fps),
        wrong=tuple(sync_score(gap, w, fps).peak_r for w in wrong),
        silence=silence_score(gap, sound.samples, fps, rest), truth_silence=silence_score(truth, sound.samples, fps, rest),
        closures=closures_matched(gap, truth, sound.phones, fps),
        net=sync_of(made, sound.samples, fps), truth_net=sync_of(true, sound.samples, fps))


def _keep(path: Path, video: np.ndarray, sound: Sound, fps: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, video.shape[2], video.shape[1], round(fps), audio=waveform(sound)) as writer:
        writer.write(video)


def summary(pairs: list[Pair], real: int) -> list[Result]:
    """The figures of all pairs, `real` of them of real voices."""
    count = result("pairs (of real voices)", f"{len(pairs)} ({real})", "")
    return [count, *_lips(pairs), *_closures(pairs), *_pauses(pairs), *_nets(pairs)]


def _lips(pairs: list[Pair]) -> list[Result]:
    right, truth = median(p.right.peak_r for p in pairs), median(p.truth.peak_r for p in pairs)
    share = right / truth if truth > 0 else 0.0
    lag = median(abs(p.right.lag_frames) for p in pairs)
    margin, wins = median(p.margin for p in pairs), sum(p.margin > 0 for p in pairs)
    return [
        result("peak r, median", right, ""),
        result("peak r of the generator's clip, median", truth, ""),
        result("share of the generator's clip", share, "", f">= {MIN_SHARE}", share >= MIN_SHARE),
        result("distance of the peak from lag 0, median", float(lag), "frames", f"<= {MAX_LAG}", lag <= MAX_LAG),
        result("right above the best wrong sound, median", margin, "", f">= {MIN_MARGIN}", margin >= MIN_MARGIN),
        result("pairs where right beats every wrong sound", wins, f"of {len(pairs)}", f">= {MIN_WINS}", wins >= MIN_WINS),
    ]


def _closures(pairs: list[Pair]) -> list[Result]:
    matched, count = sum(p.closures.matched for p in pairs), sum(p.closures.count for p in pairs)
    share = matched / count if count else math.nan
    return [
        result("p, b, m where the generator's lips close", count, ""),
        result("of these the model's close", share, "share", f">= {MIN_CLOSURES}", share >= MIN_CLOSURES),
        result("closed in the middle of wide vowels", _median([p.closures.at_vowels for p in pairs if p.closures.at_vowels >= 0]), "share"),
    ]


def _pauses(pairs: list[Pair]) -> list[Result]:
    still = _median([p.silence.ratio for p in pairs if p.silence])
    return [
        result("lip gap in pauses over speech, median", still, "", f"<= {MAX_SILENCE}", still <= MAX_SILENCE),
        result("the same above the portrait's own gap", _median([p.silence.ratio_above_rest for p in pairs if p.silence]), ""),
        result("the same of the generator's clip", _median([p.truth_silence.ratio for p in pairs if p.truth_silence]), ""),
        result(
            "the same of the generator's clip above the portrait's own gap",
            _median([p.truth_silence.ratio_above_rest for p in pairs if p.truth_silence]), ""),
    ]


def _nets(pairs: list[Pair]) -> list[Result]:
    made, true = mean_sync([p.net for p in pairs]), mean_sync([p.truth_net for p in pairs])
    names = ("Sync-C", "Sync-D")
    return [
        result(f"{name}{whose}, mean", value, "")
        for whose, values in (("", made), (" of the generator's clip", true)) for name, value in zip(names, values, strict=True)]


def _median(values: list[float]) -> float:
    return median(values) if values else math.nan
