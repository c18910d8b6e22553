"""What every command checks before it loads anything heavy: files that are there, numbers in range, outputs of their own.

A wrong name is told in a fraction of a second. Non-goals: what is in the files; the part that reads one says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..batch.manifest import BatchItem, read_manifest
from ..batch.places import check_folder as check_batch_folder
from ..errors import InputError
from ..inputs import check_file, check_folder, check_options
from ..options import AnimateOptions
from ..outputs import FORMATS, Named, check_apart, check_output, check_place

MODEL = "give a .safetensors model, or leave it out for the bundled one"
PICTURE = "give a picture such as jpg, png or webp"
SOUND = "give a sound file such as wav, mp3, flac or m4a, or a video with sound"
ENGINES = ("local", "ray")
VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})


def check_animate(
    *, image: Path, audio: Path, mask: Path | None, weights: Path | None, out: Path, report: Path | None, options: AnimateOptions,
    queue_depth: int,
) -> None:
    """InputError for what `animate` cannot use."""
    options.check()
    check_options(queue_depth=queue_depth)
    reads: list[Named] = [("--image", image), ("--audio", audio)]
    check_file("--image", image, PICTURE)
    check_file("--audio", audio, SOUND)
    if mask is not None:
        check_file("--mask", mask, PICTURE)
        reads.append(("--mask", mask))
    reads += check_weights(weights)
    writes = [("--out", out), *([] if report is None else [("--report", report)])]
    check_apart(reads, writes)
    check_output(out, "--out", tuple(FORMATS))
    if report is not None:
        check_output(report, "--report")


def batch_items(manifest: Path, out: Path, *, weights: Path | None, workers: int | None, engine: str) -> list[BatchItem]:
    """The items of a manifest; InputError for what `batch` cannot use."""
    if engine not in ENGINES:
        raise InputError("--engine", engine, "no such engine", f"choose one of {', '.join(ENGINES)}")
    check_at_least_one("--workers", workers, "leave it out for as many as make sense here")
    check_batch_folder(out, "--out")
    return read_manifest(manifest, out, check_weights(weights, "--model"))


def check_weights(weights: Path | None, field: str = "--weights") -> list[Named]:
    """InputError for a model's file that is not there; what is read."""
    if weights is None:
        return []
    check_file(field, weights, MODEL)
    return [(field, weights)]


def check_score(video: Path, audio: Sequence[Path], out: Path | None, seconds: float | None) -> None:
    """InputError for what `score` cannot use."""
    if out is not None and audio:
        raise InputError("--audio", audio[0], "a table is made with the videos' own sounds", "leave out --audio or --csv")
    if out is None and video.is_dir():
        raise InputError("video", video, "is a folder", "add --csv FILE to score all videos in it")
    if seconds is not None:
        check_seconds(seconds)
    for path in audio:
        check_file("--audio", path, SOUND)
    if out is None:
        check_file("video", video, "give a video")
    else:
        check_apart([("video", path) for path in videos_of(video)], [("--csv", out)])
        check_output(out, "--csv")


def check_seconds(seconds: float) -> float | None:
    """Seconds to judge, None for all (0); InputError below."""
    if not seconds >= 0:
        raise InputError("--seconds", seconds, "must be 0 (all of the video) or more", "use 30")
    return seconds or None


def videos_of(folder: Path) -> list[Path]:
    """The videos below a folder in the order of their names, or the one that is given; InputError where there is none."""
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise InputError("video", folder, "no such file or folder", "check the path")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEOS and p.is_file())
    if not found:
        raise InputError("video", folder, "holds no video", f"give a folder with files that end in {', '.join(sorted(VIDEOS))}")
    return found


def check_bench(
    weights: Path | None, seconds: float | None, out: Path | None, gb: float | None, minutes: float | None,
) -> None:
    """InputError for what no benchmark can use."""
    check_weights(weights)
    check_more_than_nothing("--seconds", seconds)
    check_more_than_nothing("--gb", gb)
    check_more_than_nothing("--minutes", minutes)
    if out is not None:
        check_place(out, "--out")


def check_train(minutes: float | None, footage: Path | None) -> None:
    """InputError for what `train` cannot use."""
    check_more_than_nothing("--minutes", minutes)
    if footage is not None:
        check_folder("--footage", footage, "name the folder that `data prepare` wrote")


def check_prepare(folder: Path, out: Path, weights: Path | None, workers: int, limit: int | None) -> None:
    """InputError for what `data prepare` cannot use."""
    check_folder("folder", folder, "give the folder your videos are in")
    check_place(out, "--out")
    check_weights(weights)
    check_at_least_one("--workers", workers, "use 1")
    check_at_least_one("--limit", limit, "leave it out for all of them")


def check_more_than_nothing(field: str, value: float | None) -> None:
    """InputError for a length or a size that is none; None passes."""
    if value is not None and not 0 < value < float("inf"):
        raise InputError(field, value, "must be more than 0", "leave it out")


def check_at_least_one(field: str, value: int | None, remedy: str) -> None:
    """InputError for a number below one; None passes."""
    if value is not None and value < 1:
        raise InputError(field, value, "must be 1 or more", remedy)


def parse_face(value: str | None) -> int | Literal["all"] | None:
    """What `--face` says; InputError for what is neither a number nor all."""
    try:
        return value if value is None else "all" if value == "all" else int(value)
    except ValueError:
        raise InputError("--face", value, "is no number of a face", "give a number from 0, or all") from None
