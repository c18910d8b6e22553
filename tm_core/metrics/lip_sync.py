"""Lip sync: how far the lips are apart, against how far the sound says they should be.

The picture's side is the gap of the inner lips over the face's height; the sound's side is an opening per
phone, smoothed. Both lose their slow part (a smile, a leaning head), then they are correlated at each lag.
Also: how still the lips are in pauses, and whether they close for p, b and m. Lags are in frames, positive
where the picture is late. Judge clips of 8 s or more: chance alone reaches about 1 / sqrt(seconds).
Non-goals: SyncNet's Sync-C and Sync-D (paper, table 1), tongue and teeth.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d, minimum_filter1d

from ..errors import InputError
from ..face.topology import CHIN, FOREHEAD, LOWER_LIP, UPPER_LIP
from .phones import RATE as SOUND_RATE
from .phones import Phone

CURVE_RATE = 200  # the opening is built at this rate, then read at the frame rate
SMOOTH_S, CLOSING_S, SLOW_S = 0.035, 0.022, 0.75
MAX_LAG_S = 0.6
LEAST_S = 1.0  # shorter clips correlate with anything
# how far apart the inner lips are, 1 the widest; closures are 0, what is not named here is 0 too
OPENING = {
    "AA": 1.0, "AE": 0.95, "AY": 0.95, "AW": 0.9, "AO": 0.8, "EH": 0.75, "AH": 0.7, "EY": 0.6, "OW": 0.6, "OY": 0.6,
    "HH": 0.45, "IH": 0.5, "IY": 0.45, "L": 0.45, "UH": 0.45, "ER": 0.4, "TH": 0.35, "DH": 0.35, "K": 0.35, "G": 0.35,
    "T": 0.3, "D": 0.3, "DX": 0.3, "N": 0.3, "NG": 0.3, "Y": 0.35, "UW": 0.35, "S": 0.25, "Z": 0.25, "R": 0.3, "W": 0.25,
    "SH": 0.3, "ZH": 0.3, "CH": 0.3, "JH": 0.3,
}
CLOSED = frozenset({"P", "B", "M"})
WIDE = frozenset(name for name, opening in OPENING.items() if opening >= 0.6)
NEARLY_CLOSED = frozenset({"F", "V"})
PAUSE_S, PAUSE_EDGE_S = 0.3, 0.12  # a pause is at least this long; lips are on their way near its ends
QUIET = 0.03  # of the loud parts: below this the sound is a pause
AUDIBLE = 0.06  # lips move above this


@dataclass(frozen=True, kw_only=True)
class SyncScore:
    """Correlation of lip gap and opening: its peak and where, at lag 0, and the peak above the median lag."""

    lag_frames: int
    peak_r: float
    r_at_zero: float
    peak_minus_median: float


@dataclass(frozen=True, kw_only=True)
class MarginScore:
    """The right sound against wrong ones: peak r of each, and the median and least difference."""

    right: float
    wrong: tuple[float, ...]
    median_margin: float
    least_margin: float


@dataclass(frozen=True, kw_only=True)
class SilenceScore:
    """Mean lip gap (of the face's height) in pauses and in speech.

    `ratio` is pause over speech as measured; `ratio_above_rest` after subtracting the portrait's own gap.
    """

    pause_gap: float
    speech_gap: float
    rest_gap: float
    ratio: float
    ratio_above_rest: float
    pause_s: float


@dataclass(frozen=True, kw_only=True)
class ClosureScore:
    """Share of p, b and m near which the lips close, and the same at random moments of speech."""

    closed: float
    chance: float
    count: int


@dataclass(frozen=True, kw_only=True)
class ClosureMatch:
    """Of the p, b and m where the truth's lips close (`count`), those where the video's close as well (`matched`).

    `at_vowels`: the share of wide vowels in whose middle the video's lips are closed; a mouth that never opens has 1.
    """

    matched: int
    count: int
    at_vowels: float

    @property
    def share(self) -> float:
        """Matched of all; NaN when the truth closes nowhere."""
        return self.matched / self.count if self.count else float("nan")


def lip_gap(landmarks_TPC: np.ndarray) -> np.ndarray:
    """(T,) gap of the inner lips over the face's height, of landmarks (T, 468, 2 or 3); NaN stays NaN."""
    flat = landmarks_TPC[..., :2].astype(np.float64)
    down = flat[:, CHIN] - flat[:, FOREHEAD]
    squared = np.maximum((down**2).sum(-1), 1e-9)
    return np.asarray(((flat[:, LOWER_LIP] - flat[:, UPPER_LIP]) * down).sum(-1) / squared)


def opening_curve(phones: Sequence[Phone], samples: np.ndarray | None, frames: int, fps: float) -> np.ndarray:
    """(T,) opening 0..1 at the middle of each frame; where the 16 kHz `samples` are quiet the lips rest."""
    n = int(frames / fps * CURVE_RATE) + CURVE_RATE
    opened, closed = np.zeros(n), np.zeros(n)
    for phone in phones:
        part = slice(round(phone.start * CURVE_RATE), round(phone.end * CURVE_RATE))
        opened[part] = OPENING.get(phone.name, 0.0)
        closed[part] = 1.0 if phone.name in CLOSED else 0.7 if phone.name in NEARLY_CLOSED else 0.0
    if samples is not None:
        voiced = np.clip(loudness(samples, n) / AUDIBLE - 0.3, 0, 1)
        opened, closed = opened * voiced, closed * voiced
    # closures are short and the smoothing of vowels would run over them
    shut = np.clip(1.6 * gaussian_filter1d(closed, CLOSING_S * CURVE_RATE), 0, 1)
    curve = gaussian_filter1d(opened, SMOOTH_S * CURVE_RATE) * (1 - shut)
    return np.asarray(np.interp((np.arange(frames) + 0.5) / fps * CURVE_RATE, np.arange(n) + 0.5, curve))


def loudness(samples: np.ndarray, n: int) -> np.ndarray:
    """(n,) loudness at CURVE_RATE, 60 ms wide, 1 where the sound is loud; zero for digital silence."""
    step = SOUND_RATE // CURVE_RATE
    whole = np.zeros(n * step)
    whole[: min(len(samples), n * step)] = samples[: n * step]
    level = gaussian_filter1d(np.sqrt((whole.reshape(n, step) ** 2).mean(1)), CURVE_RATE * 0.06)
    return np.asarray(level / max(float(np.percentile(level, 95)), 1e-4))


def without_slow(curve: np.ndarray, fps: float) -> np.ndarray:
    """A curve (T,) minus its 0.75 s Gaussian mean; gaps (NaN) are bridged first."""
    filled = bridged(curve)
    return np.asarray(filled - gaussian_filter1d(filled, SLOW_S * fps))


def bridged(curve: np.ndarray) -> np.ndarray:
    """NaN replaced by the line between its neighbours; all NaN becomes 0."""
    known = np.flatnonzero(~np.isnan(curve))
    return np.interp(np.arange(len(curve)), known, curve[known]) if len(known) else np.zeros(len(curve))


def lag_curve(gap: np.ndarray, opening: np.ndarray, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Lags in frames and the correlation at each, of two curves (T,) that keep their slow part."""
    n = min(len(gap), len(opening))
    if n < LEAST_S * fps:
        raise InputError("video", f"{n / fps:.2f} s", f"lip sync needs at least {LEAST_S:g} s", "measure a longer clip")
    a, b = without_slow(gap[:n], fps), without_slow(opening[:n], fps)
    reach = min(round(MAX_LAG_S * fps), n // 3)
    lags = range(-reach, reach + 1)
    return np.array(lags), np.array([_correlation(a[max(0, k) : n + min(0, k)], b[max(0, -k) : n - max(0, k)]) for k in lags])


def sync_score(gap: np.ndarray, opening: np.ndarray, fps: float) -> SyncScore:
    """Lip sync of a gap curve (T,) against an opening curve (T,)."""
    lags, r = lag_curve(gap, opening, fps)
    best = int(r.argmax())
    return SyncScore(
        lag_frames=int(lags[best]), peak_r=float(r[best]), r_at_zero=float(r[lags == 0][0]),
        peak_minus_median=float(r[best] - np.median(r)))


def margin_score(gap: np.ndarray, right: np.ndarray, wrong: Sequence[np.ndarray], fps: float) -> MarginScore:
    """The right opening curve against wrong ones, repeated where they are shorter than the video."""
    mine = sync_score(gap, right, fps).peak_r
    others = tuple(sync_score(gap, np.resize(w, len(gap)), fps).peak_r for w in wrong)
    if not others:
        raise ValueError("margin_score needs at least one wrong curve")
    differences = mine - np.array(others)
    return MarginScore(
        right=mine, wrong=others, median_margin=float(np.median(differences)), least_margin=float(differences.min()))


def shifted_curves(opening: np.ndarray, fps: float, count: int = 5) -> list[np.ndarray]:
    """The same sound at the wrong time, as wrong curves where no other sound is at hand; [] below 4 s."""
    if len(opening) < 4 * fps:
        return []
    return [np.roll(opening, round(len(opening) * (i + 1) / (count + 1))) for i in range(count)]


def pauses(samples: np.ndarray, frames: int, fps: float) -> np.ndarray:
    """(T,) bool: frames well inside pauses of the 16 kHz sound."""
    n = int(frames / fps * CURVE_RATE) + CURVE_RATE
    quiet = loudness(samples, n) < QUIET
    inside = np.zeros(n, bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(np.int8), [0]])))
    margin = round(PAUSE_EDGE_S * CURVE_RATE)
    for start, end in edges.reshape(-1, 2):
        if end - start >= PAUSE_S * CURVE_RATE:
            inside[start + margin * (start > 0) : end - margin] = True
    return np.asarray(inside[((np.arange(frames) + 0.5) / fps * CURVE_RATE).astype(int)])


def silence_score(gap: np.ndarray, samples: np.ndarray, fps: float, rest_gap: float | None = None) -> SilenceScore | None:
    """Lips in pauses against lips in speech; None when the sound has no pause or no speech.

    `rest_gap`: of the portrait, if known; otherwise the smallest twentieth of the video's own.
    """
    still, known = pauses(samples, len(gap), fps), ~np.isnan(gap)
    talking = ~still & known
    still &= known
    if still.sum() < 3 or talking.sum() < 3:
        return None
    rest = float(np.percentile(gap[known], 5)) if rest_gap is None else rest_gap
    pause, speech = float(gap[still].mean()), float(gap[talking].mean())
    return SilenceScore(
        pause_gap=pause, speech_gap=speech, rest_gap=rest, ratio=max(pause, 0.0) / max(speech, 1e-6),
        ratio_above_rest=max(pause - rest, 0.0) / max(speech - rest, 1e-6), pause_s=float(still.sum() / fps))


def closure_score(gap: np.ndarray, phones: Sequence[Phone], fps: float) -> ClosureScore | None:
    """Whether the lips close within 80 ms of each p, b and m; None when there is none of them."""
    reach = _closing_reach(fps)
    at, voiced = _middles(phones, CLOSED, len(gap), fps), _middles(phones, OPENING, len(gap), fps)
    if not len(at) or not len(voiced):
        return None
    shut = _shut(gap, reach)
    return ClosureScore(closed=float(shut[at].mean()), chance=float(shut[voiced].mean()), count=len(at))


def closures_matched(gap: np.ndarray, truth_gap: np.ndarray, phones: Sequence[Phone], fps: float) -> ClosureMatch:
    """Whether the lips close for the p, b and m for which they close in the true clip of the same sound.

    Each video is judged by its own range: closed is its lowest quarter. The truth closes within 80 ms of a phone;
    the video must be closed within a frame of the moment at which the truth is.
    """
    frames, reach = min(len(gap), len(truth_gap)), _closing_reach(fps)
    at, vowels = _middles(phones, CLOSED, frames, fps), _middles(phones, WIDE, frames, fps)
    near = np.arange(-reach, reach + 1)
    mine, true = _shut(gap[:frames], 1), _shut(truth_gap[:frames], reach)
    moments = [int(t + near[bridged(truth_gap)[t + near].argmin()]) for t in at[true[at]]]
    return ClosureMatch(
        matched=int(mine[moments].sum()), count=len(moments), at_vowels=float(mine[vowels].mean()) if len(vowels) else float("nan"))


def _closing_reach(fps: float) -> int:
    return max(1, round(0.08 * fps))


def _middles(phones: Sequence[Phone], names: Container[str], frames: int, fps: float) -> np.ndarray:
    """(N,) frames at the middle of these phones, closures of at least 20 ms, not at the video's ends."""
    reach = _closing_reach(fps)
    chosen = [p for p in phones if p.name in names and (p.name not in CLOSED or p.end - p.start > 0.02)]
    at = np.array([round((p.start + p.end) / 2 * fps - 0.5) for p in chosen], int)
    return at[(at >= reach) & (at < frames - reach)]


def _shut(gap: np.ndarray, reach: int) -> np.ndarray:
    """(T,) bool: within `reach` frames the lips are in the lowest quarter of their range."""
    filled = bridged(gap)
    rest, wide = np.percentile(filled, 5), np.percentile(filled, 90)
    nearest = minimum_filter1d(filled, 2 * reach + 1, mode="nearest")
    return np.asarray(nearest <= rest + 0.25 * (wide - rest))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    spread = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / spread) if spread > 1e-12 else 0.0
