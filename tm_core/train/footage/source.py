"""One source file to clips: three passes at bounded memory (cuts; faces and text; crops), a record for every piece.

The passes read forwards in step, so the third one decodes no further than the last kept piece. In memory at a time: a
block of frames, one small picture a second of a piece, and the crops of one piece.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...audio.silence import speaking_latents
from ...config import ModelConfig
from ...errors import InputError
from ...face.mesh import FaceMesh
from ...face.portrait_crop import into_crop
from ...media.sound_reader import SoundReader
from ...media.video_reader import VideoReader
from ...metrics.phones import Phone, installed, recognise_phones
from ...vae.tiny import TinyVAE
from ...weights.loading import load_model
from . import encode
from .clip_files import FOLDER, FootageClip, save_clip
from .face_track import FaceTrack, bridged, check_faces, clip_box, crop, follow
from .footage_ledger import FootageRecord, Stamp, clip_record, source_record
from .motion import check_motion, lips_rest
from .scene_cuts import TickRange, detector, pieces, scenes
from .sync_check import ClipToCheck, SyncCheck, make_sync_check
from .text import TextFinder, check_text
from .thresholds import FootageConfig

log = logging.getLogger(__name__)

VERSION = 1  # of what a clip's file holds: another one makes everything anew
ROWS_A_FRAME = 4
HOLE_S = 1.0  # a frame is on the screen for longer: its recorder stopped


@dataclass(frozen=True, kw_only=True)
class FootageJob:
    """What is to be made: where it goes, by which thresholds and which model; can be sent to another process."""

    folder: Path
    out: Path
    cfg: FootageConfig
    weights: Path | None = None
    device: str = "cpu"
    threads: int | None = None


class FootageWorker:
    """The networks of one process, loaded when they are first needed."""

    def __init__(self, job: FootageJob) -> None:
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        self.job, self.cfg = job, job.cfg
        loaded = load_model(job.weights, device=job.device)
        if not isinstance(loaded.vae, TinyVAE) or loaded.config.audio.feature_rate != ROWS_A_FRAME * loaded.config.fps:
            raise InputError("weights", job.weights, "footage is prepared for models of the tiny family, four rows a frame",
                             "leave --weights out")
        self.model: ModelConfig = loaded.config
        self.vae: TinyVAE = loaded.vae
        self.has_recogniser = installed("pocketsphinx")

    @cached_property
    def mesh(self) -> FaceMesh:
        """Face detector and landmarks."""
        return FaceMesh(self.job.device)

    @cached_property
    def finder(self) -> TextFinder | None:
        """The text detector, if text is looked for."""
        return None if self.cfg.text_where == "off" else TextFinder(self.job.threads or torch.get_num_threads())

    def check(self) -> None:
        """InputError now, not after an hour, where a package is missing."""
        detector(float(self.model.fps), self.cfg)
        _ = self.finder, self.sync_check

    @cached_property
    def sync_check(self) -> SyncCheck | None:
        """How sync is checked; None: not at all."""
        return make_sync_check(self.cfg)

    @cached_property
    def vae_hash(self) -> str:
        """Which autoencoder the latents are of."""
        return encode.weights_hash(self.vae)

    @cached_property
    def settings(self) -> str:
        """Changes with everything that changes results."""
        method = self.sync_check.name if self.sync_check else "off"
        text = json.dumps([VERSION, self.cfg.to_dict(), self.model.to_dict(), self.vae_hash, method, self.has_recogniser], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def clip_stem(source: str) -> str:
    """The name of a source's clips without their number; sources of one name in several folders differ."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", Path(source).stem).strip("-").lower()[:40] or "clip"
    return f"{slug}-{hashlib.sha256(source.encode()).hexdigest()[:6]}"


def remove_clips(source: str, out: Path) -> None:
    """Take away what an earlier or interrupted run made of a source."""
    for path in (out / FOLDER).glob(f"{clip_stem(source)}-[0-9][0-9][0-9]*"):
        path.unlink()


def process(worker: FootageWorker, source: str) -> list[FootageRecord]:
    """Clips of one source, written, and its records; a source that cannot be used is a record as well."""
    path, out = worker.job.folder / source, worker.job.out
    remove_clips(source, out)
    stamp = Stamp(size=-1, mtime_ns=-1, settings=worker.settings)  # of a file that is gone by now
    try:
        stamp = Stamp.of(path, worker.settings)
        return _process(worker, source, path, stamp)
    except InputError as error:
        if error.field in ("out", "data", "sync"):  # not this source's fault: every other one would fail as well
            raise
        return [source_record(source, stamp, "broken", reason="broken", detail=error.rule)]
    except Exception as error:  # one strange file must not end a night's work
        log.warning("%s: failed", source, exc_info=True)
        remove_clips(source, out)
        return [source_record(source, stamp, "failed", reason="broken", detail=f"{type(error).__name__}: {error}")]


def _process(worker: FootageWorker, source: str, path: Path, stamp: Stamp) -> list[FootageRecord]:
    fps, cfg = worker.model.frame_rate, worker.cfg
    with _pictures(path, fps) as pictures:
        rate = float(pictures.rate)
        if rate < cfg.least_fps:
            return [source_record(source, stamp, "done", reason="slow", detail=f"{rate:.2f} fps", fps=rate)]
        found = scenes(pictures, float(fps), cfg)
        origin, damage = pictures.start_s, pictures.damage
    records = _clips(worker, source, path, origin, found)
    seconds = sum(map(len, found)) / float(fps)
    clips = sum(r["end_s"] - r["start_s"] for r in records)
    return [*records, source_record(
        source, stamp, "done", detail=damage or "", seconds=seconds, left_s=max(0.0, seconds - clips), fps=round(rate, 3))]


def _pictures(path: Path, fps: Fraction) -> VideoReader:
    """Ticks of a source; a frame that stays for longer than HOLE_S leaves a hole, at which a piece ends."""
    return VideoReader(path, fps, hole_s=HOLE_S)


def _clips(worker: FootageWorker, source: str, path: Path, origin: float, found: list[TickRange]) -> list[FootageRecord]:
    """Records of all pieces of a source, those that are kept written."""
    fps, records, stem = worker.model.frame_rate, [], clip_stem(source)
    with _pictures(path, fps) as seen, _pictures(path, fps) as cropped, ExitStack() as stack:
        sound = stack.enter_context(SoundReader(path, origin=origin)) if seen.has_sound else None
        number = 0
        for scene in found:
            parts = pieces(scene, float(fps), worker.model.sampler.chunk_latents, worker.cfg)
            for span in parts:
                name, number = f"{stem}-{number:03d}", number + 1
                reason, measures = _piece(worker, source, name, span, seen, cropped, sound)
                log.info("%s: %s %s", source, name, reason or "kept")
                records.append(clip_record(
                    source, name, float(span.start / fps), float(span.stop / fps), reason=reason, measures=measures))
            if not parts:
                records.append(clip_record(source, "", float(scene.start / fps), float(scene.stop / fps), reason="short", measures={}))
    return records


def _piece(
    worker: FootageWorker, source: str, name: str, span: TickRange, seen: VideoReader, cropped: VideoReader,
    sound: SoundReader | None,
) -> tuple[str | None, FootageRecord]:
    """Why one piece is dropped, or None after it was written; and its measures."""
    cfg, fps = worker.cfg, float(worker.model.fps)
    track = follow(seen.frames(span.start, span.stop), len(span), fps, worker.mesh, cfg)
    reason, measures = _look(worker, track, fps)
    if reason is not None:
        return reason, measures
    box, size = clip_box(track), worker.model.height
    frames = crop(cropped.frames(span.start, span.stop), box, size)
    landmarks = np.stack([into_crop(p, box, size) for p in bridged(track.landmarks)])
    start, stop = encode.sound_range(span.start, len(span), worker.model)
    heard = np.zeros(stop - start, np.float32) if sound is None else sound.read(start, stop)
    reason, listens, phones, said = _listen(worker, frames, landmarks, encode.clip_samples(heard, worker.model), measures, fps)
    measures |= {**said, "listens": listens}
    if reason is None:
        clip = _encoded(worker, frames, landmarks, heard, listens, {
            "name": name, "source": source, "start_s": span.start / fps, "end_s": span.stop / fps, "phones": phones, "measures": measures})
        save_clip(clip, worker.job.out / FOLDER, frames, encode.clip_samples(heard, worker.model))
    return reason, measures


def _look(worker: FootageWorker, track: FaceTrack, fps: float) -> tuple[str | None, FootageRecord]:
    """The checks of the picture: face, motion, text; the costly ones last."""
    reason, measures = check_faces(track, worker.cfg)
    if reason is None:
        reason, more = check_motion(bridged(track.landmarks), fps, worker.cfg)
        measures |= more
    if reason is None:
        reason, more = check_text(track, clip_box(track), worker.finder, worker.cfg)
        measures |= more
    return reason, measures


def _listen(
    worker: FootageWorker, frames: np.ndarray, landmarks: np.ndarray, samples: np.ndarray, measures: FootageRecord, fps: float,
) -> tuple[str | None, bool, tuple[Phone, ...] | None, FootageRecord]:
    """The check of the sound: reason to drop, whether the face listens, phones if heard, measures."""
    timeline = encode.timeline_of(worker.model)
    flags = speaking_latents(samples, timeline.num_latents(len(frames)), timeline, sample_rate=worker.model.audio.sample_rate)
    said: FootageRecord = {"speech": float(flags.mean())}
    if lips_rest(measures, worker.cfg):
        return (None if worker.cfg.listeners else "listener"), True, None, said
    if said["speech"] < worker.cfg.least_speech:
        return "silent", False, None, said
    phones = tuple(recognise_phones(samples)) if worker.has_recogniser else None
    if worker.sync_check is None:
        return None, False, phones, said
    verdict = worker.sync_check(ClipToCheck(frames=frames, landmarks=landmarks, samples=samples, phones=phones, fps=fps))
    said |= {"sync": verdict.method, "sync_confidence": verdict.confidence, "sync_offset": verdict.offset_frames}
    return verdict.reason, False, phones, said


def _encoded(
    worker: FootageWorker, frames: np.ndarray, landmarks: np.ndarray, heard: np.ndarray, listens: bool, info: dict[str, Any],
) -> FootageClip:
    """The tensors of a kept clip."""
    at = encode.reference_frame(landmarks)
    portrait, points = frames[at], landmarks[at]
    latents = encode.latents_of(frames, worker.vae)
    samples = encode.clip_samples(heard, worker.model)
    flags = encode.speaking_flags(landmarks, samples, worker.model) & (not listens)
    info["measures"] = info["measures"] | {"reference_frame": at}
    return FootageClip(
        latents=latents, reference=encode.still_latent(portrait, worker.vae),
        weight=torch.from_numpy(encode.loss_weight(points, worker.model)),
        face_mask=torch.from_numpy(encode.face_tokens(points, worker.model)), rows=torch.from_numpy(encode.rows_of(heard, worker.model)),
        speaking=torch.from_numpy(flags), portrait=torch.from_numpy(portrait.transpose(2, 0, 1).copy()),
        landmarks=torch.from_numpy(landmarks).half(), fps=worker.model.frame_rate, vae=worker.vae_hash, listens=listens, **info)

