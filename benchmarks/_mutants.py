"""Files that were damaged by a seed, and what the engine answers to each: a zoo, its mutations, a process that tries them.

`python -m benchmarks._mutants FOLDER ENTRY FIRST COUNT` tries mutations FIRST ... of one entry point in FOLDER, a line of JSON
before and after each; the same numbers make the same files, so a miss can be tried again alone. An answer is a value or an
InputError of one line; anything else is a miss, also a file that is left behind and an error of memory (MOST_BYTES more).
"""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from benchmarks._common import demo_portrait, speech_of
from tm_core.errors import InputError

MOST_BYTES = 2 * 2**30
SIDE, SECONDS, FPS = 64, 0.5, 25
WHOLE_SCORE_EVERY = 10  # of videos: the others are only read
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 2**62, 2**63 - 1, 2**64 - 1)
WORDS = (
    b"0", b"-1", b"1e999", b"nan", b"99999999999999999999", b"\0", b"\xff", b"../../x", b'"', b"\r\n", b"{", b"[" * 3000, b",,,",
    b"\xef\xbb\xbf", "\u202e".encode(), b"null", b"true", b"=1+1")


# -- the zoo ------------------------------------------------------------------------------------------------


def pictures(folder: Path) -> Iterator[Path]:
    """A face in every format that people have."""
    with Image.open(demo_portrait()) as opened:
        face = opened.convert("RGB").resize((2 * SIDE, 2 * SIDE))
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, picture, options in (
        ("a.jpg", face, {"quality": 80, "exif": turned.tobytes()}), ("b.jpg", face.convert("CMYK"), {}), ("c.png", face, {}),
        ("d.png", face.convert("RGBA"), {}), ("e.png", face.convert("P"), {}), ("f.png", face.convert("L").convert("I;16"), {}),
        ("g.webp", face, {"quality": 70}), ("h.gif", face.convert("P"), {"save_all": True, "append_images": [face.convert("P")]}),
        ("i.bmp", face, {}), ("j.tiff", face, {"compression": "tiff_lzw"}), ("k.tiff", face, {}), ("l.jp2", face, {}),
    ):
        yield _saved(picture, folder / name, options)


def masks(folder: Path) -> Iterator[Path]:
    """White squares."""
    square = Image.new("L", (SIDE, SIDE))
    square.paste(255, (16, 16, 48, 48))
    for name, picture in (("a.png", square), ("b.jpg", square), ("c.png", square.convert("1")), ("d.webp", square.convert("RGB"))):
        yield _saved(picture, folder / name, {})


def _saved(picture: Image.Image, path: Path, options: dict[str, Any]) -> Path:
    picture.save(path, **options)
    return path


def sounds(folder: Path) -> Iterator[Path]:
    """Speech in every container that people have."""
    for name, codec, rate in (
        ("a.wav", "pcm_s16le", 16000), ("b.wav", "pcm_f32le", 44100), ("c.flac", "flac", 48000), ("d.mp3", "mp3", 44100),
        ("e.ogg", "libopus", 48000), ("f.webm", "libopus", 24000), ("g.m4a", "aac", 44100), ("h.mkv", "aac", 44100),
        ("i.aiff", "pcm_s16be", 8000),
    ):
        yield _container(folder / name, None, (codec, rate))


def videos(folder: Path) -> Iterator[Path]:
    """The face, moving, with speech."""
    for name, picture, sound in (
        ("a.mp4", "h264", ("aac", 44100)), ("b.mkv", "h264", ("pcm_s16le", 16000)), ("c.webm", "libvpx", ("libopus", 48000)),
        ("d.avi", "mpeg4", ("mp3", 44100)), ("e.mov", "mjpeg", ("pcm_s16le", 48000)), ("f.ts", "mpeg2video", ("mp2", 48000)),
        ("g.mp4", "mpeg4", None),
    ):
        yield _container(folder / name, picture, sound)


def _container(path: Path, picture: str | None, sound: tuple[str, int] | None) -> Path:
    with av.open(str(path), "w") as out:
        seen: Any = None if picture is None else out.add_stream(picture, rate=FPS)
        heard: Any = None if sound is None else out.add_stream(sound[0], rate=sound[1], layout="mono")
        if seen is not None:
            seen.width = seen.height = SIDE
            seen.pix_fmt, seen.time_base = "yuvj420p" if picture == "mjpeg" else "yuv420p", Fraction(1, FPS)
        for stream, frames in ((seen, _frames), (heard, _samples)):
            if stream is not None:
                for frame in frames():
                    out.mux(stream.encode(frame))
                out.mux(stream.encode(None))
    return path


def _frames() -> Iterator[av.VideoFrame]:
    with Image.open(demo_portrait()) as opened:
        face = np.asarray(opened.convert("RGB").resize((SIDE, SIDE)))
    for number in range(round(SECONDS * FPS)):
        frame = av.VideoFrame.from_ndarray(np.roll(face, number % 3, 0), format="rgb24")
        frame.pts = number
        yield frame


def _samples() -> Iterator[av.AudioFrame]:
    voice = speech_of(SECONDS)
    frame = av.AudioFrame.from_ndarray((voice.samples * 32000).astype("<i2")[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts = voice.sample_rate, 0
    yield frame


def manifests(folder: Path) -> Iterator[Path]:
    """Three items in each format, beside files that are there."""
    for name in ("face.png", "voice.wav", "mask.png"):
        (folder / name).write_bytes(b"x")
    rows = [{"image": "face.png", "audio": "voice.wav", "out": f"{i}/a.mp4", "seed": i, "steps": 2, "speaking": "auto"} for i in range(3)]
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    for name, text in (("a.csv", "\n".join(lines)), ("b.jsonl", "\n".join(map(json.dumps, rows))), ("c.csv", "\r\n".join(lines) + "\r\n")):
        (folder / name).write_text(text, encoding="utf-8")
        yield folder / name


def timelines(folder: Path) -> Iterator[Path]:
    """Turns of two, in both formats."""
    rttm = "".join(f"SPEAKER talk 1 {i * 2:.2f} 1.50 <NA> <NA> {'AB'[i % 2]} <NA> <NA>\n" for i in range(6))
    for name, text in (("a.txt", "0-2.5 A, 2.5-4 B, 4-4.5 A"), ("b.rttm", rttm), ("c.txt", "0-1 Anna\n1-1.5 B\u00f6rn")):
        (folder / name).write_text(text, encoding="utf-8")
        yield folder / name


def weight_files(folder: Path) -> Iterator[Path]:
    """A small model of ours, a small Wan of others', an autoencoder's header."""
    import torch
    from safetensors.torch import save_file

    from tm_core.config import AudioProjectorConfig, DiTConfig, ModelConfig, VAEConfig
    from tm_core.model.audio_projector import AudioProjector
    from tm_core.model.dit import TalkingDiT
    from tm_core.model.talking import TalkingModel
    from tm_core.vae.taehv import TAEHV
    from tm_core.vae.tiny import TinyVAE
    from tm_core.weights.loading import save_model

    dit = DiTConfig(dim=48, ffn_dim=64, num_heads=1, num_layers=1, text_dim=32, text_len=1, image_dim=None, audio_dim=48, freq_dim=64)
    projector, vae = AudioProjectorConfig(width=32, dim=48), VAEConfig(width=8)
    config = ModelConfig(name="small", width=64, height=64, fps=25, dit=dit, projector=projector, vae=vae)
    save_model(
        TalkingModel(config=config, dit=TalkingDiT(dit), projector=AudioProjector(projector), vae=TinyVAE(vae)), folder / "a.safetensors")
    wan = TalkingDiT(DiTConfig(dim=128, ffn_dim=64, num_heads=1, num_layers=1, text_dim=32, text_len=4, freq_dim=64, audio_kind="none"))
    save_file({k: torch.zeros_like(v) for k, v in wan.state_dict().items() if "img_emb" not in k}, folder / "b.safetensors")
    save_file({k: torch.zeros(1) for k in TAEHV().state_dict()}, folder / "c.safetensors")
    return iter([folder / "a.safetensors", folder / "b.safetensors", folder / "c.safetensors"])


# -- what is tried ------------------------------------------------------------------------------------------


def try_picture(path: Path, number: int) -> object:
    """Opened, and its face looked for."""
    from tm_core.config import tiny
    from tm_core.media.image_io import open_image
    from tm_core.talk import prepare_portrait

    return prepare_portrait(open_image(path), tiny())


def try_mask(path: Path, number: int) -> object:
    """Read."""
    from tm_core.media.image_io import open_mask

    return open_mask(path)


def try_sound(path: Path, number: int) -> object:
    """Read whole."""
    from tm_core.media.audio_io import read_audio

    return read_audio(path)


def try_video(path: Path, number: int) -> object:
    """Its pictures and its sound read; every tenth scored."""
    from tm_core.cli.score_files import score_file
    from tm_core.media.audio_io import read_audio
    from tm_core.media.video_reader import VideoReader

    if number % WHOLE_SCORE_EVERY == 0:
        return score_file(path, seconds=1.0)
    with VideoReader(path) as reader:
        seen = sum(1 for _ in reader.pictures())
        return seen, read_audio(path, field="video") if reader.has_sound else None


def try_manifest(path: Path, number: int) -> object:
    """Read."""
    from tm_core.batch.manifest import read_manifest

    return read_manifest(path, path.parent / "out")


def try_timeline(path: Path, number: int) -> object:
    """Read as a file, and as what is typed."""
    from tm_core.audio.turns import parse_turns, read_schedule

    return read_schedule(path), parse_turns(path.read_bytes().decode("utf-8", "replace"))


def try_weights(path: Path, number: int) -> object:
    """By every loader and by the search; the first loader's refusal where none of them takes it."""
    from tm_core.metrics.syncnet import load_syncnet
    from tm_core.weights.autoencoders import load_autoencoder
    from tm_core.weights.inventory import examine_file
    from tm_core.weights.loading import load_model
    from tm_core.weights.open_models import load_open_model

    examine_file(path, "diffusion_models")
    loaders: list[Callable[[Path], object]] = [load_model, lambda p: load_open_model([p]), load_autoencoder, load_syncnet]
    refusals = []
    for load in loaders:
        try:
            load(path)
        except InputError as error:
            refusals.append(error)
    if len(refusals) == len(loaders):
        raise refusals[0]
    return len(refusals)


Try = Callable[[Path, int], object]
ENTRIES: dict[str, tuple[Callable[[Path], Iterable[Path]], Try]] = {
    "picture": (pictures, try_picture), "mask": (masks, try_mask), "sound": (sounds, try_sound), "video": (videos, try_video),
    "manifest": (manifests, try_manifest), "timeline": (timelines, try_timeline), "weights": (weight_files, try_weights)}
TEXTS = {"manifest", "timeline"}


# -- mutations ----------------------------------------------------------------------------------------------


def mutated(data: bytes, rng: random.Random, text: bool) -> bytes:
    """One to four damages of a kind that is drawn."""
    for _ in range(rng.choice((1, 1, 1, 1, 3))):
        kind = rng.choice(WORD_DAMAGES if text else DAMAGES)
        data = kind(data, rng)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    """Anywhere, rather often in the header."""
    return rng.randrange(max(1, min(len(data), 256))) if rng.random() < 0.3 else rng.randrange(max(1, len(data)))


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 30))):
        if changed:
            changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.randbytes(rng.choice((1, 7, 500))) + data[at:]


def _remove(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 8, 700)) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    span = data[at : at + rng.choice((4, 60, 2000))]
    return data[:at] + span * rng.choice((2, 3, 20)) + data[at + len(span) :]


def _zeros(data: bytes, rng: random.Random) -> bytes:
    at, count = _place(data, rng), rng.choice((1, 16, 1500))
    return data[:at] + bytes(min(count, len(data) - at)) + data[at + count :]


def _extreme(data: bytes, rng: random.Random) -> bytes:
    """A number of a header as large as it gets."""
    at, size = _place(data, rng), rng.choice((1, 2, 4, 8))
    value = rng.choice(EXTREMES) & (1 << 8 * size) - 1
    return data[:at] + struct.pack(rng.choice("<>") + {1: "B", 2: "H", 4: "I", 8: "Q"}[size], value) + data[at + size :]


def _word(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.choice(WORDS) + data[at + rng.choice((0, 1, 5)) :]


DAMAGES = (_cut, _flip, _insert, _remove, _repeat, _zeros, _extreme)
WORD_DAMAGES = (_word, _word, _word, *DAMAGES)


def made(entry: str, number: int, zoo: list[Path], folder: Path) -> Path:
    """Mutation `number` of an entry point as a file in a folder."""
    rng = random.Random(f"{entry} {number}")
    source = rng.choice(zoo)
    suffix = rng.choice(zoo).suffix if rng.random() < 0.1 else source.suffix
    path = folder / f"mutant{suffix}"
    path.write_bytes(mutated(source.read_bytes(), rng, entry in TEXTS))
    return path


# -- the process that tries them ----------------------------------------------------------------------------


def said(error: InputError) -> str | None:
    """What is wrong with an error's words, None for nothing: one line (of a manifest: for each problem) with all four parts."""
    text = str(error)
    if not all((error.field, str(error.value), error.rule)) or len(text) > 20000:
        return f"incomplete or endless: {text[:200]}"
    lines = text.split("\n") if type(error).__name__ == "ManifestError" else [text]
    return None if all(line.isprintable() for line in lines) else f"not one line: {text[:200]!r}"


def attempt(entry: str, number: int, zoo: list[Path], folder: Path) -> dict[str, Any]:
    """One mutation: its outcome, and for a miss why."""
    before = set(folder.iterdir())
    path, miss, outcome = made(entry, number, zoo, folder), None, "answer"
    started = time.monotonic()
    try:
        ENTRIES[entry][1](path, number)
    except InputError as error:
        outcome, miss = "refused", said(error)
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        miss = f"{type(error).__name__}: {str(error)[:200]} at {Path(last.filename).name}:{last.lineno}"
    path.unlink(missing_ok=True)
    if left := sorted(p.name for p in set(folder.iterdir()) - before):
        miss = miss or f"left behind: {', '.join(left)}"
    return {"number": number, "outcome": "miss" if miss else outcome, "why": miss, "file": path.name, "seconds": time.monotonic() - started}


def work(folder: Path, entry: str, first: int, count: int) -> None:
    """Mutations first ... first + count - 1, each told before and after."""
    zoo_folder, place = folder / "zoo", folder / "work"
    for made_here in (zoo_folder, place):
        made_here.mkdir(parents=True, exist_ok=True)
    zoo = list(ENTRIES[entry][0](zoo_folder))
    if entry == "manifest":  # the files that it names lie beside it
        _ = [(place / p.name).write_bytes(b"x") for p in zoo_folder.iterdir() if p not in zoo]
    tempfile.tempdir = str(place)
    for path in zoo:  # libraries are loaded before memory is bounded
        try:
            ENTRIES[entry][1](path, 0)
        except InputError:
            continue
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + MOST_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for number in range(first, first + count):
        _tell({"begin": number})
        _tell(attempt(entry, number, zoo, place))


def _tell(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    import logging

    logging.disable(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
