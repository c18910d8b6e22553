"""All measures of one talking video, read frame by frame: memory does not grow with its length.

Non-goals: reading files (media), asking users (cli).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..face.mesh import FaceMesh
from .drift import DriftMeter
from .phones import Phone, Recogniser, hear_phones, installed
from .sync import LEAST_S, closure_score, lip_gap, margin_score, opening_curve, shifted_curves, silence_score, sync_score
from .syncnet import crops_of, distances, embeddings, load_syncnet, score_of

log = logging.getLogger(__name__)

SYNCNET_S = 10.0  # of the beginning are judged by SyncNet: it is slow
BLOCK = 32  # frames looked at together
RECOGNISERS: tuple[Recogniser, ...] = ("pocketsphinx", "hama")


def score_video(
    frames: Iterable[np.ndarray], fps: float, samples: np.ndarray | None = None, *, mesh: FaceMesh | None = None,
    phones: Sequence[Phone] | None = None, rest_gap: float | None = None,
) -> dict[str, Any]:
    """Lip sync, silence, closures, drift of a video as JSON types.

    Frames (H, W, 3) uint8; `samples` its 16 kHz sound or None; `phones` where they are known, otherwise they
    are heard; `rest_gap` of the portrait, if known. InputError for no frame or no face. What cannot be
    measured is None, and `notes` says why.
    """
    first = _FirstCrops(most=round(SYNCNET_S * fps))
    gap, meter, size = measure(frames, fps, mesh or FaceMesh(), first.push if samples is not None else None)
    drift = meter.score()
    notes: list[str] = []
    out: dict[str, Any] = {
        "frames": len(gap), "fps": fps, "video_s": len(gap) / fps, "width": size[0], "height": size[1],
        "face_found": float(np.mean(~np.isnan(gap))), "sync": None, "silence": None, "closure": None, "syncnet": None,
        "drift": drift.to_dict() if drift else None, "notes": notes,
    }
    if samples is None or not len(samples) or float(np.abs(samples).max()) < 1e-5:
        notes.append("sync: the video has no sound; give one with --audio")
        return out
    out["audio_s"] = len(samples) / 16000
    silence = silence_score(gap, samples, fps, rest_gap)
    out["silence"] = asdict(silence) if silence else None
    if silence is None:
        notes.append("silence: the sound has no pause of 0.3 s")
    if len(gap) < LEAST_S * fps:
        notes.append(f"sync: shorter than {LEAST_S:g} s")
        return out
    _add_sync(out, gap, samples, fps, phones)
    out["syncnet"] = _syncnet(first, samples, fps, notes)
    return out


@dataclass
class _FirstCrops:
    """Face crops of the first `most` frames, small enough to keep."""

    most: int
    _kept: list[Tensor] = field(default_factory=list)

    def push(self, frames: np.ndarray, landmarks: np.ndarray) -> None:
        """The next frames (T, H, W, 3) and landmarks (T, 468, 3); a block without a face ends the stretch."""
        self.most = 0 if np.isnan(landmarks).all() else self.most
        if (room := self.most - sum(map(len, self._kept))) > 0:
            self._kept.append(crops_of(frames[:room], landmarks[:room]))

    @property
    def crops(self) -> Tensor | None:
        """(T, 3, 224, 224) uint8, or None."""
        return torch.cat(self._kept) if self._kept else None


def _syncnet(first: _FirstCrops, samples: np.ndarray, fps: float, notes: list[str]) -> dict[str, Any] | None:
    """Sync-C, Sync-D and offset of the first seconds."""
    crops = first.crops
    if crops is None:
        notes.append("syncnet: no face at the beginning")
        return None
    try:
        score = score_of(distances(*embeddings(load_syncnet(), crops, samples, fps)))
    except InputError as error:
        notes.append(f"syncnet: {error}")
        return None
    return asdict(score) | {"seconds": len(crops) / fps}


def measure(
    frames: Iterable[np.ndarray], fps: float, mesh: FaceMesh, watch: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> tuple[np.ndarray, DriftMeter, tuple[int, int]]:
    """Lip gap (T,), drift meter and (width, height) of a video, in one pass; `watch` sees each block and its landmarks."""
    gaps: list[np.ndarray] = []
    meter, hint, size = DriftMeter(fps=fps), None, (0, 0)
    for block in blocks(frames):
        landmarks = mesh.landmarks_batch(block, hint)
        hint = landmarks[-1]
        gaps.append(lip_gap(landmarks))
        meter.push(block, landmarks)
        if watch is not None:
            watch(block, landmarks)
        size = block.shape[2], block.shape[1]
    if not gaps:
        raise InputError("video", "0 frames", "holds no picture", "give a video file with a picture track")
    gap = np.concatenate(gaps)
    if np.isnan(gap).all():
        raise InputError("video", f"{len(gap)} frames", "no face found in any of them", "give a video of a face that looks at the camera")
    return gap, meter, size


def blocks(frames: Iterable[np.ndarray], size: int = BLOCK) -> Iterator[np.ndarray]:
    """(T, H, W, 3) arrays of up to `size` frames."""
    kept: list[np.ndarray] = []
    for frame in frames:
        kept.append(frame)
        if len(kept) == size:
            yield np.stack(kept)
            kept = []
    if kept:
        yield np.stack(kept)


def sync_of(gap: np.ndarray, phones: Sequence[Phone], samples: np.ndarray, fps: float) -> dict[str, Any]:
    """Sync score and the margin over the same sound at wrong times, as JSON types."""
    curve = opening_curve(phones, samples, len(gap), fps)
    shifted = shifted_curves(curve, fps)
    margin = margin_score(gap, curve, shifted, fps) if shifted else None
    against = asdict(margin) | {"wrong": list(margin.wrong)} if margin else None
    return asdict(sync_score(gap, curve, fps)) | {"against_shifted": against}


def _add_sync(out: dict[str, Any], gap: np.ndarray, samples: np.ndarray, fps: float, phones: Sequence[Phone] | None) -> None:
    heard: dict[str, Sequence[Phone]] = {}
    if phones is not None:
        heard["known"] = phones
    else:
        heard = {r: hear_phones(samples, r) for r in RECOGNISERS if installed(r)}
    if "pocketsphinx" not in heard and phones is None:
        out["notes"].append("sync: pocketsphinx is not installed; pip install pocketsphinx")
    if not heard:
        return
    first = next(iter(heard))
    out["sync"] = {"recogniser": first} | sync_of(gap, heard[first], samples, fps)
    for name in list(heard)[1:]:
        out[f"sync_{name}"] = {"recogniser": name} | sync_of(gap, heard[name], samples, fps)
    closure = closure_score(gap, heard[first], fps)
    out["closure"] = asdict(closure) if closure else None
