"""SyncNet over every face of a video as its frames pass: distances of each window to each sound, lag by lag.

What is kept of a window is one number a lag and sound, so memory is small beside the frames. The rest (who speaks, when,
which sound belongs to whom) is arithmetic on these rows, in speaker.py. Non-goals: finding faces (face_follower.py).

Shapes: N windows, A sounds, L = 2 REACH + 1 lags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .face_follower import FaceRun, box_of
from .lip_sync import lip_gap, without_slow
from .syncnet import BATCH, FPS, FRAMES, HOP, REACH, ROWS, SAMPLE_RATE, WINDOW, SyncNet, crops_of, mfcc

AHEAD = 64  # windows of sound embedded together
PER_WINDOW = SAMPLE_RATE // FPS


class SoundEmbeddings:
    """A sound (n,) at 16 kHz as the network hears it; only as far as somebody asks."""

    def __init__(self, net: SyncNet, samples: np.ndarray) -> None:
        self._net, self._samples = net, samples
        rows = 1 + max(0, -(-(len(samples) - WINDOW) // HOP))
        self.count = max(0, (rows - ROWS) // 4 + 1)
        self._known = torch.zeros(0, 1024)

    def __getitem__(self, windows: slice) -> Tensor:
        """(N, 1024) of windows first..stop, both within `count`."""
        while len(self._known) < windows.stop:
            first = len(self._known)
            self._known = torch.cat([self._known, self._embed(first, min(first + AHEAD, self.count))])
        return self._known[windows]

    @torch.inference_mode()
    def _embed(self, first: int, stop: int) -> Tensor:
        """Windows first..stop; a row more at the front, as the first one of all has no sample before it."""
        before = HOP if first else 0
        stretch = self._samples[first * PER_WINDOW - before : (stop - 1) * PER_WINDOW + (ROWS - 1) * HOP + WINDOW]
        rows = torch.from_numpy(mfcc(stretch)[before // HOP :])
        return self._net.embed_audio(torch.stack([rows[4 * i : 4 * i + ROWS].T for i in range(stop - first)])[:, None])


@dataclass(kw_only=True)
class FaceDistances:
    """What is known of one face: window numbers (N,), distances (N, A, L) (NaN where there is no sound), gap of the lips by frame."""

    number: int
    at: list[int] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    gap: dict[int, float] = field(default_factory=dict)
    boxes: np.ndarray = field(default_factory=lambda: np.zeros(4))
    _stacked: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 2 * REACH + 1), np.float32))
    _crops: Tensor | None = None
    _next: int = 0

    @property
    def box(self) -> list[float]:
        """Mean box x0, y0, x1, y1."""
        return [round(float(v), 1) for v in self.boxes / max(len(self.gap), 1)]

    @property
    def area(self) -> float:
        """Of the mean box."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)

    @property
    def distances(self) -> np.ndarray:
        """(N, A, L)."""
        if len(self._stacked) != len(self.rows):
            self._stacked = np.stack(self.rows)
        return self._stacked

    def lips(self, fps: float) -> np.ndarray:
        """(T,) gap of the lips at 25 a second without its slow part; NaN where the face is not seen."""
        source = source_of(np.arange(int((max(self.gap) + 1) / fps * FPS)), fps)
        gap = np.array([self.gap.get(int(i), np.nan) for i in source])
        return np.where(np.isnan(gap), np.nan, without_slow(gap, FPS))

    def pending(self, first: int, crops: Tensor) -> Tensor:
        """Crops with those kept of the frames just before tick `first`; the last ones are kept for the next call."""
        joined = crops if self._crops is None or self._next != first else torch.cat([self._crops, crops])
        self._crops, self._next = joined[-(FRAMES - 1) :], first + len(crops)
        return joined


class SyncDistanceMeter:
    """Distances of all faces to all sounds; `seconds` None: of the whole video, otherwise of its first part.

    Without a network faces are counted and their lips measured, no more.
    """

    def __init__(self, net: SyncNet | None, sounds: Sequence[np.ndarray], fps: float, seconds: float | None = None) -> None:
        self._net, self._fps = net, fps
        self._sounds = [] if net is None else [SoundEmbeddings(net, samples) for samples in sounds]
        self._most = None if seconds is None else round(seconds * fps)
        self.faces: list[FaceDistances] = []
        self._seen = 0

    def push(self, frames: np.ndarray, runs: Sequence[FaceRun]) -> None:
        """The next block (T, H, W, 3) uint8 and who is in it."""
        for run in runs:
            while len(self.faces) <= run.face:
                self.faces.append(FaceDistances(number=len(self.faces)))
            face = self.faces[run.face]
            for i, gap in enumerate(lip_gap(run.landmarks)):
                face.gap[self._seen + run.start + i] = float(gap)
                face.boxes = face.boxes + box_of(run.landmarks[i])
            self._judge(face, frames, run)
        self._seen += len(frames)

    def _judge(self, face: FaceDistances, frames: np.ndarray, run: FaceRun) -> None:
        start = self._seen + run.start
        stop = start + len(run.landmarks)
        if self._most is not None:
            stop = min(stop, self._most)
        ticks = ticks_of(start, stop, self._fps)
        if not len(ticks) or self._net is None:
            return
        crops = crops_of(frames[run.frames], run.landmarks)
        first = int(ticks[0])
        chosen = torch.from_numpy(source_of(ticks, self._fps) - start)
        self._windows(self._net, face, first, crops[chosen])

    @torch.inference_mode()
    def _windows(self, net: SyncNet, face: FaceDistances, first: int, crops: Tensor) -> None:
        """Windows that end in these crops (T, 3, 224, 224) of ticks first, first + 1, ..."""
        known = face.pending(first, crops)
        begin = first + len(crops) - len(known)
        for i in range(0, len(known) - FRAMES + 1, BATCH):
            part = known[i : min(i + BATCH, len(known) - FRAMES + 1) + FRAMES - 1]
            seen = net.embed_faces(part.float().unfold(0, FRAMES, 1).permute(0, 1, 4, 2, 3))
            rows = np.stack([_by_lag(seen, sound, begin + i) for sound in self._sounds], 1)
            face.at += range(begin + i, begin + i + len(seen))
            face.rows += list(rows)


def source_of(ticks: np.ndarray, fps: float) -> np.ndarray:
    """The video's frame nearest in time to each of SyncNet's, 25 a second."""
    return ticks if abs(fps - FPS) < 1e-6 else ((ticks + 0.5) / FPS * fps).astype(int)


def ticks_of(start: int, stop: int, fps: float) -> np.ndarray:
    """SyncNet's frames whose source lies in start..stop."""
    around = np.arange(max(0, int(start / fps * FPS) - 2), int(stop / fps * FPS) + 3)
    source = source_of(around, fps)
    return around[(source >= start) & (source < stop)]


def _by_lag(seen: Tensor, sound: SoundEmbeddings, first: int) -> np.ndarray:
    """(N, L) distances of windows first.. to the sound of window + lag; NaN beyond the sound."""
    low, high = max(0, first - REACH), min(sound.count, first + len(seen) + REACH)
    out = np.full((len(seen), 2 * REACH + 1), np.nan, np.float32)
    if low >= high:
        return out
    away = torch.cdist(seen, sound[low:high], compute_mode="donot_use_mm_for_euclid_dist").numpy()
    for i in range(len(seen)):
        lags = np.arange(-REACH, REACH + 1) + first + i
        inside = (lags >= low) & (lags < high)
        out[i, inside] = away[i, lags[inside] - low]
    return out
