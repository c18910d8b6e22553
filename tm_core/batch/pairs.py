"""A folder of portraits, and one sound for all or a folder of sounds that are paired with them by name, as items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..options import AnimateOptions
from .manifest import BatchItem, ManifestError, Problem
from .places import misplaced

# usual ones first: they are what an error suggests. A heic is no less a portrait where it cannot be read: its own error says so
PICTURES = (
    ".png", ".jpg", ".webp", ".bmp", ".tif", ".gif", ".jpeg", ".jpe", ".jfif", ".tiff", ".avif", ".apng", ".jp2", ".tga", ".heic", ".heif",
    ".jxl")
SOUNDS = (
    ".wav", ".mp3", ".flac", ".m4a", ".ogg", ".mp4", ".aac", ".aif", ".aiff", ".mka", ".mkv", ".mov", ".oga", ".opus", ".webm")


def pictures_in(folder: Path) -> list[Path]:
    """Every picture of a folder, by name; InputError where there is none, or two would become one video."""
    return list(_by_stem(folder, PICTURES, "portraits", "pictures").values())


def pair_up(portraits: Sequence[Path], sounds: Path, options: Mapping[str, Any], out: Path) -> list[BatchItem]:
    """An item for each portrait, named after it; `sounds` is one file for all, or a folder with one of the same name for each.

    ManifestError names every portrait without a sound, every sound without a portrait, and every file that a video in `out` would
    be written over; its lines count the portraits.
    """
    voices = _by_stem(sounds, SOUNDS, "sounds", "sounds") if sounds.is_dir() else {p.stem.casefold(): sounds for p in portraits}
    stems = {p.stem.casefold() for p in portraits}
    problems = [
        Problem(line=n, text=f"{p.name}: no sound of that name; put {p.stem}.wav into the folder of sounds")
        for n, p in enumerate(portraits, 1) if p.stem.casefold() not in voices]
    problems += [
        Problem(line=len(portraits) + 1, text=f"{v.name}: no portrait of that name; remove it, or add its portrait")
        for stem, v in voices.items() if stem not in stems]
    if problems:
        raise ManifestError("portraits", problems)
    chosen = AnimateOptions(**options)
    items = [
        BatchItem(line=n, image=p, audio=voices[p.stem.casefold()], out=f"{p.stem}.mp4", options=chosen)
        for n, p in enumerate(portraits, 1)]
    reads = [(item.line, path) for item in items for path in item.files.values()]
    problems = [Problem(line=line, text=text) for line, text in misplaced(reads, [(i.line, i.out) for i in items], out)]
    if problems:
        raise ManifestError("portraits", problems)
    return items


def _by_stem(folder: Path, suffixes: Sequence[str], field: str, what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(field, folder, "is no folder", "name a folder that is there")
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.is_file() and not p.name.startswith(".")):
        first = found.setdefault(path.stem.casefold(), path)
        if first != path:
            raise InputError(field, path.name, f"has the name of {first.name}, and both would become one video", "rename one of them")
    if not found:
        raise InputError(field, folder, f"no {what} in it", f"give a folder with files such as {', '.join(suffixes[:6])}")
    return found
