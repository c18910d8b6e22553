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
from ...face.portrait import into_crop
from ...media.sound_reader import SoundReader
from ...media.video_reader import VideoReader
from ...metrics.phones import Phone, hear_phones, installed
from ...vae.tiny import TinyVAE
from ...weights.loading import load_model
from . import encode
from .clips import FOLDER, FootageClip, save_clip
from .config import FootageConfig
from .faces import FaceTrack, bridged, clip_box, crop, follow, judge_faces
from .ledger import Record, Stamp, clip_record, source_record
from .motion import judge_motion, lips_rest
from .scenes import Span, detector, pieces, scenes
from .sync import Evidence, Judge, make_judge
from .text import TextFinder, judge_text

log = logging.getLogger(__name__)

VERSION = 1  # of what a clip's file holds: another one makes everything anew
ROWS_A_FRAME = 4
HOLE_S = 1.0  # a frame is on the screen for longer: its recorder stopped


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be made: where it goes, by which thresholds and which model; can be sent to another process."""

    folder: Path
    out: Path
    cfg: FootageConfig
    weights: Path | None = None
    device: str = "cpu"
    threads: int | None = None


class Workshop:
    """The networks of one process, loaded when they are first needed."""

    def __init__(self, order: Order) -> None:
        if order.threads is not None:
            torch.set_num_threads(order.threads)
        self.order, self.cfg = order, order.cfg
        loaded = load_model(order.weights, device=order.device)
        if not isinstance(loaded.vae, TinyVAE) or loaded.config.audio.feature_rate != ROWS_A_FRAME * loaded.config.fps:
            raise InputError("weights", order.weights, "footage is prepared for models of the tiny family, four rows a frame",
                             "leave --weights out")
        self.model: ModelConfig = loaded.config
        self.vae: TinyVAE = loaded.vae
        self.hears = installed("pocketsphinx")

    @cached_property
    def mesh(self) -> FaceMesh:
        """Face detector and landmarks."""
        return FaceMesh(self.order.device)

    @cached_property
    def finder(self) -> TextFinder | None:
        """The text detector, if text is looked for."""
        return None if self.cfg.text_where == "off" else TextFinder(self.order.threads or torch.get_num_threads())

    def check(self) -> None:
        """InputError now, not after an hour, where a package is missing."""
        detector(float(self.model.fps), self.cfg)
        _ = self.finder, self.judge

    @cached_property
    def judge(self) -> Judge | None:
        """Who judges sync."""
        return make_judge(self.cfg)

    @cached_property
    def vae_hash(self) -> str:
        """Which autoencoder the latents are of."""
        return encode.weights_hash(self.vae)

    @cached_property
    def settings(self) -> str:
        """Changes with everything that changes results."""
        judge = self.judge.name if self.judge else "off"
        text = json.dumps([VERSION, self.cfg.to_dict(), self.model.to_dict(), self.vae_hash, judge, self.hears], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece that passed the face, motion and text checks."""

    span: Span
    track: FaceTrack
    measures: Record


def clip_stem(source: str) -> str:
    """The name of a source's clips without their number; sources of one name in several folders differ."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", Path(source).stem).strip("-").lower()[:40] or "clip"
    return f"{slug}-{hashlib.sha256(source.encode()).hexdigest()[:6]}"


def remove_clips(source: str, out: Path) -> None:
    """Take away what an earlier or interrupted run made of a source."""
    for path in (out / FOLDER).glob(f"{clip_stem(source)}-[0-9][0-9][0-9]*"):
        path.unlink()


def process(shop: Workshop, source: str) -> list[Record]:
    """Clips of one source, written, and its records; a source that cannot be used is a record as well."""
    path, out = shop.order.folder / source, shop.order.out
    remove_clips(source, out)
    stamp = Stamp(size=-1, mtime_ns=-1, settings=shop.settings)  # of a file that is gone by now
    try:
        stamp = Stamp.of(path, shop.settings)
        return _process(shop, source, path, stamp)
    except InputError as error:
        if error.field in ("out", "data", "sync"):  # not this source's fault: every other one would fail as well
            raise
        return [source_record(source, stamp, "broken", reason="broken", detail=error.rule)]
    except Exception as error:  # one strange file must not end a night's work
        log.warning("%s: failed", source, exc_info=True)
        remove_clips(source, out)
        return [source_record(source, stamp, "failed", reason="broken", detail=f"{type(error).__name__}: {error}")]


def _process(shop: Workshop, source: str, path: Path, stamp: Stamp) -> list[Record]:
    fps, cfg = shop.model.frame_rate, shop.cfg
    with _pictures(path, fps) as pictures:
        rate = float(pictures.rate)
        if rate < cfg.least_fps:
            return [source_record(source, stamp, "done", reason="slow", detail=f"{rate:.2f} fps", fps=rate)]
        found = scenes(pictures, float(fps), cfg)
        origin, damage = pictures.start_s, pictures.damage
    records = _clips(shop, source, path, origin, found)
    seconds = sum(map(len, found)) / float(fps)
    clips = sum(r["end_s"] - r["start_s"] for r in records)
    return [*records, source_record(
        source, stamp, "done", detail=damage or "", seconds=seconds, left_s=max(0.0, seconds - clips), fps=round(rate, 3))]


def _pictures(path: Path, fps: Fraction) -> VideoReader:
    """Ticks of a source; a frame that stays for longer than HOLE_S leaves a hole, at which a piece ends."""
    return VideoReader(path, fps, hole_s=HOLE_S)


def _clips(shop: Workshop, source: str, path: Path, origin: float, found: list[Span]) -> list[Record]:
    """Records of all pieces of a source, those that are kept written."""
    fps, records, stem = shop.model.frame_rate, [], clip_stem(source)
    with _pictures(path, fps) as seen, _pictures(path, fps) as cropped, ExitStack() as stack:
        sound = stack.enter_context(SoundReader(path, origin=origin)) if seen.has_sound else None
        number = 0
        for scene in found:
            parts = pieces(scene, float(fps), shop.model.sampler.chunk_latents, shop.cfg)
            for span in parts:
                name, number = f"{stem}-{number:03d}", number + 1
                reason, measures = _piece(shop, source, name, span, seen, cropped, sound)
                log.info("%s: %s %s", source, name, reason or "kept")
                records.append(clip_record(
                    source, name, float(span.start / fps), float(span.stop / fps), reason=reason, measures=measures))
            if not parts:
                records.append(clip_record(source, "", float(scene.start / fps), float(scene.stop / fps), reason="short", measures={}))
    return records


def _piece(
    shop: Workshop, source: str, name: str, span: Span, seen: VideoReader, cropped: VideoReader,
    sound: SoundReader | None,
) -> tuple[str | None, Record]:
    """Why one piece is dropped, or None after it was written; and its measures."""
    cfg, fps = shop.cfg, float(shop.model.fps)
    track = follow(seen.frames(span.start, span.stop), len(span), fps, shop.mesh, cfg)
    reason, measures = _look(shop, track, fps)
    if reason is not None:
        return reason, measures
    box, size = clip_box(track), shop.model.height
    frames = crop(cropped.frames(span.start, span.stop), box, size)
    landmarks = np.stack([into_crop(p, box, size) for p in bridged(track.landmarks)])
    start, stop = encode.sound_range(span.start, len(span), shop.model)
    heard = np.zeros(stop - start, np.float32) if sound is None else sound.read(start, stop)
    reason, listens, phones, said = _listen(shop, frames, landmarks, encode.clip_samples(heard, shop.model), measures, fps)
    measures |= {**said, "listens": listens}
    if reason is None:
        clip = _encoded(shop, frames, landmarks, heard, listens, {
            "name": name, "source": source, "start_s": span.start / fps, "end_s": span.stop / fps, "phones": phones, "measures": measures})
        save_clip(clip, shop.order.out / FOLDER, frames, encode.clip_samples(heard, shop.model))
    return reason, measures


def _look(shop: Workshop, track: FaceTrack, fps: float) -> tuple[str | None, Record]:
    """The checks of the picture: face, motion, text; the costly ones last."""
    reason, measures = judge_faces(track, shop.cfg)
    if reason is None:
        reason, more = judge_motion(bridged(track.landmarks), fps, shop.cfg)
        measures |= more
    if reason is None:
        reason, more = judge_text(track, clip_box(track), shop.finder, shop.cfg)
        measures |= more
    return reason, measures


def _listen(
    shop: Workshop, frames: np.ndarray, landmarks: np.ndarray, samples: np.ndarray, measures: Record, fps: float,
) -> tuple[str | None, bool, tuple[Phone, ...] | None, Record]:
    """The check of the sound: reason to drop, whether the face listens, phones if heard, measures."""
    timeline = encode.timeline_of(shop.model)
    flags = speaking_latents(samples, timeline.num_latents(len(frames)), timeline, sample_rate=shop.model.audio.sample_rate)
    said: Record = {"speech": float(flags.mean())}
    if lips_rest(measures, shop.cfg):
        return (None if shop.cfg.listeners else "listener"), True, None, said
    if said["speech"] < shop.cfg.least_speech:
        return "silent", False, None, said
    phones = tuple(hear_phones(samples)) if shop.hears else None
    if shop.judge is None:
        return None, False, phones, said
    verdict = shop.judge(Evidence(frames=frames, landmarks=landmarks, samples=samples, phones=phones, fps=fps))
    said |= {"sync": verdict.judge, "sync_confidence": verdict.confidence, "sync_offset": verdict.offset_frames}
    return verdict.reason, False, phones, said


def _encoded(
    shop: Workshop, frames: np.ndarray, landmarks: np.ndarray, heard: np.ndarray, listens: bool, info: dict[str, Any],
) -> FootageClip:
    """The tensors of a kept clip."""
    at = encode.reference_frame(landmarks)
    portrait, points = frames[at], landmarks[at]
    latents = encode.latents_of(frames, shop.vae)
    samples = encode.clip_samples(heard, shop.model)
    flags = encode.speaking_flags(landmarks, samples, shop.model) & (not listens)
    info["measures"] = info["measures"] | {"reference_frame": at}
    return FootageClip(
        latents=latents, reference=encode.still_latent(portrait, shop.vae), weight=torch.from_numpy(encode.loss_weight(points, shop.model)),
        face_mask=torch.from_numpy(encode.face_tokens(points, shop.model)), rows=torch.from_numpy(encode.rows_of(heard, shop.model)),
        speaking=torch.from_numpy(flags), portrait=torch.from_numpy(portrait.transpose(2, 0, 1).copy()),
        landmarks=torch.from_numpy(landmarks).half(), fps=shop.model.frame_rate, vae=shop.vae_hash, listens=listens, **info)

