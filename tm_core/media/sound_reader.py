"""The sound of a file, forwards and piece by piece: one reader for everything that hears.

Mono is the mean of left and right (ffmpeg's own downmix adds 3 dB to what both hold, so the same voice would sound louder from
a stereo file); where the two cancel each other, the louder one. Of several tracks the first that is not silent is taken. What is
damaged, and holes between time stamps, are silence of their length, so that what follows keeps its time; a container's word for
the length cuts the padding of an encoder's last frame and nothing else. Non-goals: levels are kept as recorded. No seeking: many
containers seek wrongly.

Shapes: n samples, C channels (1 or 2).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .container import BARE, Damage, decoded, open_media

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
RATE = 16000
REMEDY = "give a sound file such as wav, mp3, flac or m4a, or a video with sound"
GAP_S, MOST_GAP_S = 0.05, 600.0  # a jump of the stamps that is neither rounding nor nonsense
LOST_S = 0.005  # the same where something was lost there: a frame of any codec is longer
MILLISECOND = Fraction(1, 1000)
KNOWING = frozenset({"wav", "w64", "aiff", "caf", "flac", "ogg", "mov,mp4,m4a,3gp,3g2,mj2"})  # they say how long a sound is
EXACT = "mov,mp4"  # containers that say to the sample how long a sound is
AUDIBLE = 1e-3  # of full scale: below it a track is silent
DECIDE_S, CANCEL = 2.0, 0.1  # of sound by which cancelling channels are known; power of the mean over that of the channels


@dataclass(frozen=True, kw_only=True)
class SoundTrack:
    """One track of a file, counted from 0 among its sound tracks."""

    path: Path
    track: int


SoundSource = Path | SoundTrack


class SoundReader:
    """A context manager: `blocks` once, or `read` ascending ranges of a mono sound.

    `rate` may be what makes one of the file's own; `channels` None: the file's own, at most two. `origin`: seconds on the
    container's clock at which sample 0 stands; None: where the sound begins. `warn` False: what is odd about the file was said before.
    InputError for what cannot be read, or holds numbers that are none.
    """

    def __init__(
        self, source: SoundSource, *, rate: int | Callable[[int], int] = RATE, channels: int | None = 1, origin: float | None = None,
        field: str = "audio", warn: bool = True,
    ) -> None:
        self.path, wanted = (source.path, source.track) if isinstance(source, SoundTrack) else (Path(source), None)
        self._field, self._origin, self._log = field, origin, log.warning if warn else log.debug
        self._container = open_media(self.path, field, "sound", REMEDY)
        try:
            self.track = self._chosen(wanted)
            self._stream = self._container.streams.audio[self.track]
            if self._stream.codec_context is None:
                raise InputError(field, self.path, f"its sound track {self.track} is of no kind that can be read", REMEDY)
            self._own_rate = int(self._stream.rate or RATE)
            self.rate = rate(self._own_rate) if callable(rate) else rate
            self.channels = channels or min(2, max(1, int(self._stream.codec_context.channels)))
        except BaseException:
            self._container.close()
            raise
        self._decode_stereo = int(self._stream.codec_context.channels) != 1
        self._damage, self.missing_s = Damage(), 0.0
        self._more = self._shaped()
        self._start: int | None = None  # where on the clock what is held begins
        self._held = np.zeros(0, np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    # -- the track

    def _chosen(self, wanted: int | None) -> int:
        count = len(self._container.streams.audio)
        if not count:
            raise InputError(self._field, self.path, "has no sound track", REMEDY)
        if wanted is not None:
            if not 0 <= wanted < count:
                raise InputError("track", wanted, f"{self.path.name} has {self._tracks()}", f"choose 0 to {count - 1}, or leave it out")
            return wanted
        if count == 1:
            return 0
        found = next((i for i in range(count) if _audible(self.path, i)), 0)
        if found:
            self._log("%s: what comes before track %d is silent, so that one is taken; it has %s", self.path, found, self._tracks())
        return found

    def _tracks(self) -> str:
        """What there is to choose from, in one line."""
        streams = self._container.streams.audio
        kinds = [s.codec_context.name if s.codec_context else "unknown" for s in streams]
        titles = [s.metadata.get("title") or s.metadata.get("language") or "no name" for s in streams]
        named = [f"{i} ({kind}, {title})" for i, (kind, title) in enumerate(zip(kinds, titles, strict=True))]
        return f"{len(named)} sound track{'s' * (len(named) > 1)}: {', '.join(named)}"

    # -- all of it

    def blocks(self) -> Generator[Any, None, None]:
        """Pieces (n,) of a mono sound, else (C, n), from sample 0 on: silence where it begins late, nothing of what was before."""
        early: int | None = None  # samples before the clock's first that are still to come
        for piece in self._shaped():
            if early is None:
                early = max(0, -self._ahead())
                yield np.zeros((*piece.shape[:-1], max(0, self._ahead())), np.float32)
            cut = min(early, piece.shape[-1])
            early -= cut
            yield piece[..., cut:]

    def _shaped(self) -> Iterator[Any]:
        pieces = self._resampled()
        if self.channels == 1:
            return _mixed_down(pieces, self.rate, self._cancelling)
        return pieces if self._decode_stereo else (np.repeat(piece, 2, 0) for piece in pieces)

    def _cancelling(self, channel: int) -> None:
        self._log("%s: its channels cancel each other (one is turned over); the %s one is heard", self.path, ("left", "right")[channel])

    def _ahead(self) -> int:
        """The clock's sample with which the sound begins; 0 where the stamps are nonsense."""
        if self._origin is None or abs(self._begins_s - self._origin) >= MOST_GAP_S:
            return 0
        return round(self._unrounded(self._begins_s - self._origin) * self.rate)

    def _unrounded(self, seconds: float) -> float:
        """Matroska's stamps are whole milliseconds: what they put off by a whole codec frame or two, they put off by exactly that."""
        frame_s = (self._stream.codec_context.frame_size or 0) / self._own_rate
        if not frame_s or self._stream.time_base != MILLISECOND:
            return seconds
        whole = round(seconds / frame_s) * frame_s
        return whole if abs(whole - seconds) < float(MILLISECOND) * 0.6 and abs(whole) < 2.5 * frame_s else seconds

    def _resampled(self) -> Iterator[Floats]:
        """Pieces (C, n) in the file's own mono or stereo, holes filled, padding cut."""
        left, spare = self._told()
        resampler = _Resampler(self.rate, "stereo" if self._decode_stereo else "mono")
        held: list[Floats] = []  # behind the told end: padding, unless more of it comes than an encoder adds
        for piece in self._filled(resampler):
            self._check(piece)
            if left is None:
                yield piece
                continue
            whole, rest = np.split(piece, [min(left, piece.shape[1])], axis=1)
            left -= whole.shape[1]
            yield whole
            held.append(rest)
            if sum(part.shape[1] for part in held) > spare:
                yield from held
                held, left = [], None
        self._say()

    @property
    def tracks(self) -> int:
        """Sound tracks in the file."""
        return len(self._container.streams.audio)

    def told_s(self) -> float | None:
        """Seconds of sound, without decoding any: by a container that knows, else by its packets; None where neither says.

        Reads the file's packets where it must: use another reader for the sound.
        """
        stream, container = self._stream, self._container
        if container.format.name in KNOWING and stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        total, end = 0, 0
        for packet in container.demux(stream):
            total += packet.duration or 0
            end = max(end, (packet.pts or 0) + (packet.duration or 0))
        ticks = total if container.format.name in BARE else max(total, end - (stream.start_time or 0))
        if not ticks or not stream.time_base:
            return None
        counted, told = float(ticks * stream.time_base), float((stream.duration or 0) * stream.time_base)
        padding = 3 * (stream.codec_context.frame_size or 0) / self._own_rate  # of an encoder, which a header may know
        return told if 0 <= counted - told <= padding else counted

    def _told(self) -> tuple[int | None, int]:
        """Samples the container says there are, None where its word is not exact; samples of padding that may follow."""
        stream = self._stream
        if not (self._container.format.name.startswith(EXACT) and stream.duration and stream.time_base):
            return None, 0
        frame_s = (stream.codec_context.frame_size or 1024) / self._own_rate
        return round(stream.duration * stream.time_base * self.rate), round(2 * frame_s * self.rate) + 1

    def _filled(self, resampler: _Resampler) -> Iterator[Floats]:
        end: float | None = None  # where the sound so far ends, on the container's clock
        heard_s, hole = 0.0, 0.0
        counted = self._container.format.name in BARE
        for lost, frame in decoded(self._container, self._stream, self._damage):
            if end is None:
                self._begins_s = end = float(frame.time) if frame.time is not None else self._origin or 0.0
            elif counted:
                hole = lost * heard_s / max(1, self._damage.good_bytes)
            else:
                hole = 0.0 if frame.time is None else float(frame.time) - end
            if (LOST_S if lost else GAP_S) < hole < MOST_GAP_S:
                yield np.zeros((resampler.channels, round(hole * self.rate)), np.float32)
                end, self.missing_s = end + hole, self.missing_s + hole
            length = frame.samples / frame.sample_rate
            end, heard_s = end + length, heard_s + length
            yield from resampler.push(frame)
        if end is None:
            why = f" ({self._damage.reason})" if self._damage.reason else ""
            rule = f"cannot be read as sound{why}" if self._damage.packets else "holds no sound"
            raise InputError(self._field, self.path, rule, REMEDY)
        yield from resampler.finish()

    def _check(self, piece: Floats) -> None:
        if not np.isfinite(piece).all():
            raise InputError(
                self._field, self.path, "its samples are not all finite numbers (NaN or infinity)",
                "export the sound again, as 16 bit wav or flac")

    def _say(self) -> None:
        if self._damage.packets:
            self._log(
                "%s: its sound is damaged (%s): %d places left out, %.2f s of silence instead", self.path, self._damage.reason,
                self._damage.packets, self.missing_s)

    # -- a range of it

    def read(self, start: int, stop: int) -> Floats:
        """Samples start..stop of a mono sound, silence outside it; `start` must not be below that of an earlier call."""
        while (self._start is None or self._start + len(self._held) < stop) and (piece := next(self._more, None)) is not None:
            if self._start is None:
                self._start = self._ahead()
            self._held = np.concatenate([self._held, piece])
            self._drop(start)
        self._drop(start)
        first = self._start or 0
        out = np.zeros(stop - start, np.float32)
        low, high = max(start, first), min(stop, first + len(self._held))
        if low < high:
            out[low - start : high - start] = self._held[low - first : high - first]
        return out

    def _drop(self, start: int) -> None:
        if self._start is not None:
            spare = min(max(0, start - self._start), len(self._held))
            self._held, self._start = self._held[spare:], self._start + spare


class _Resampler:
    """Frames of any kind, changing ones as well, as (C, n) float32."""

    def __init__(self, rate: int, layout: str) -> None:
        self._rate, self._layout, self.channels = rate, layout, 1 if layout == "mono" else 2
        self._kind: tuple[Any, ...] = ()
        self._resampler: Any = None

    def push(self, frame: Any) -> Iterator[Floats]:
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        if kind != self._kind:
            yield from self.finish()
            self._kind, self._resampler = kind, av.AudioResampler("fltp", self._layout, self._rate)
        frame.pts = None
        yield from self._arrays(frame)

    def finish(self) -> Iterator[Floats]:
        if self._resampler is not None:
            yield from self._arrays(None)
        self._resampler = None

    def _arrays(self, frame: Any) -> Iterator[Floats]:
        return (np.asarray(out.to_ndarray(), np.float32) for out in self._resampler.resample(frame))


def _audible(path: Path, track: int) -> bool:
    with SoundReader(SoundTrack(path=path, track=track), channels=None, warn=False) as sound:
        try:
            return any(float(np.abs(piece).max(initial=0.0)) >= AUDIBLE for piece in sound.blocks())
        except InputError:
            return False


def _mixed_down(pieces: Iterator[Floats], rate: int, tell: Callable[[int], None]) -> Iterator[Floats]:
    """Mono (n,) of pieces (C, n): the mean, or the louder channel where the mean of what is heard first is nearly nothing."""
    held: list[Floats] = []
    for piece in pieces:
        if len(piece) == 1:
            yield piece[0]
        elif held or float(np.abs(piece).max(initial=0.0)) >= AUDIBLE:
            held.append(piece)
            if sum(part.shape[1] for part in held) >= DECIDE_S * rate:
                break
        else:
            yield piece.mean(0)
    channel = louder_of_cancelling(np.concatenate(held, 1)) if held else None
    if channel is not None:
        tell(channel)
    for piece in held:
        yield piece.mean(0) if channel is None else piece[channel]
    for piece in pieces:
        yield piece.mean(0) if channel is None else piece[channel]


def louder_of_cancelling(channels: Floats) -> int | None:
    """The louder of two channels (2, n) whose mean is nearly nothing; None where it is not."""
    power = (channels.astype(np.float64) ** 2).mean(1)
    return int(np.argmax(power)) if float((channels.mean(0, dtype=np.float64) ** 2).mean()) < CANCEL * float(power.mean()) else None
