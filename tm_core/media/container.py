"""A media file opened and decoded as players do: what is damaged is left out and counted, and reading goes on behind it.

Non-goals: what frames become (sound_reader, video_reader). Memory does not grow with the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from ..errors import InputError
from ..inputs import check_file

MOST_STUMBLES = 200  # of the demuxer; a file that is damaged more often has ended
BARE = frozenset({"mp3", "aac", "ac3", "eac3", "dts", "loas", "truehd"})  # frames and nothing else: stamps do not know of lost ones
BROKEN = (av.FFmpegError, OSError, ValueError)


def open_media(path: Path, field: str, kind: str, remedy: str) -> Any:
    """An open container; InputError, in the words of `field` and as no `kind`, for what is not a media file."""
    check_file(field, path, remedy)
    try:
        return av.open(str(path), metadata_errors="replace")
    except BROKEN as error:
        raise InputError(field, path, f"cannot be read as {kind} ({reason(error)})", remedy) from error


def reason(error: Exception) -> str:
    """What went wrong, without the file's name."""
    return str(getattr(error, "strerror", None) or error)


@dataclass
class Damage:
    """What of a track could not be decoded: packets and the last reason; bytes that could."""

    packets: int = 0
    reason: str = ""
    good_bytes: int = 0


def decoded(container: Any, stream: Any, damage: Damage) -> Iterator[tuple[int, Any]]:
    """(bytes lost just before it, frame) of a track, to the file's end whatever is damaged between."""
    bare = container.format.name in BARE
    lost, end = 0, None  # where the last good packet ended in the file
    for packet in _packets(container, stream, damage):
        try:
            frames = packet.decode()
        except BROKEN as error:
            if packet.size:  # else the decoder was only asked for the frames it still held
                damage.packets, damage.reason = damage.packets + 1, reason(error)
                lost += packet.size
            continue
        damage.good_bytes += packet.size
        if bare and packet.pos is not None:
            lost = 0 if end is None else packet.pos - end  # more than failed: what is no packet at all is skipped without a word
            end = packet.pos + packet.size
        for frame in frames:
            yield lost, frame
            lost = 0


def _packets(container: Any, stream: Any, damage: Damage) -> Iterator[Any]:
    for _ in range(MOST_STUMBLES):
        try:
            yield from container.demux(stream)
            return
        except BROKEN as error:
            damage.packets, damage.reason = damage.packets + 1, reason(error)
