"""A small model file, a portrait, sounds, and two ways to run the command line: in this process, and in one of its own."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from PIL import Image

from tm_core.cli import main
from tm_core.config import tiny
from tm_core.model.audio_projector import AudioProjector
from tm_core.model.dit import TalkingDiT
from tm_core.vae.tiny import TinyVAE
from tm_core.weights.loading import TalkingModel, save_model

RATE = 16000
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def cli_environment(repo_root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the console script's function with ARGS, from a folder that is not the repository: seconds less than a process takes.

    What the process writes to its two outputs is caught, libraries in C included. Not as in a process: time counts from the start
    of the tests, and what was loaded stays.
    """
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        words = list(map(str, args))
        with ExitStack() as stack:
            outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
            with _as_a_process(["talking-machines", *words], elsewhere, outputs):
                code = _ended()
            said = []
            for file in outputs:
                file.seek(0)
                said.append(file.read().decode("utf-8"))
        return subprocess.CompletedProcess(words, code, *said)

    return run


def _ended() -> int:
    """The exit code of the command that sys.argv holds."""
    try:
        main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextmanager
def _as_a_process(argv: list[str], folder: Path, outputs: list[IO[bytes]]) -> Iterator[None]:
    """Arguments, folder, outputs, log and signals as a new process has them, put back afterwards."""
    log, here = logging.getLogger(), Path.cwd()
    before = sys.argv, sys.stdout, sys.stderr, log.handlers, log.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    kept = [os.dup(number) for number in (1, 2)]
    try:
        sys.argv, log.handlers = argv, []
        os.chdir(folder)
        for number, file in zip((1, 2), outputs, strict=True):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(os.dup(n), "wb"), encoding="utf-8", write_through=True) for n in (1, 2))
        yield
        sys.stdout.close()
        sys.stderr.close()
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.chdir(here)
        sys.argv, sys.stdout, sys.stderr, log.handlers = before[:4]
        log.setLevel(before[4])
        for each, handler in signals.items():
            signal.signal(each, handler)


@pytest.fixture(scope="session")
def cli_process(cli_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs `python -m tm_core.cli ARGS` from a folder that is not the repository."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tm_core.cli", *map(str, args)]
        return subprocess.run(
            command, cwd=elsewhere, env=cli_environment, capture_output=True, text=True, timeout=240, check=False, **options)  # type: ignore[call-overload,no-any-return]

    return run


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the embedded default's shape."""
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    torch.manual_seed(0)
    cfg = tiny()
    assert cfg.projector is not None and cfg.vae is not None
    save_model(TalkingModel(config=cfg, dit=TalkingDiT(cfg.dit), projector=AudioProjector(cfg.projector), vae=TinyVAE(cfg.vae)), path)
    return path


@pytest.fixture(scope="session")
def portrait(assets: Path) -> Path:
    """The bundled portrait."""
    return next(p for p in sorted((assets / "portraits").iterdir()) if p.suffix in (".png", ".jpg", ".webp"))


@pytest.fixture(scope="session")
def speech(assets: Path) -> Path:
    """The bundled recording."""
    return next(p for p in sorted((assets / "speech").iterdir()) if p.suffix == ".wav")


@pytest.fixture(scope="session")
def make_wav() -> Callable[..., Path]:
    """Writes a 16-bit wav of a wobbling tone, or of silence."""

    def make(path: Path, seconds: float, *, rate: int = RATE, channels: int = 1, silent: bool = False) -> Path:
        t = np.arange(round(seconds * rate)) / rate
        tone = 0.3 * np.sin(2 * np.pi * 180 * t) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * t)) * (not silent)
        with wave.open(str(path), "wb") as out:
            out.setnchannels(channels)
            out.setsampwidth(2)
            out.setframerate(rate)
            out.writeframes(np.repeat((tone * 32767).astype("<i2")[:, None], channels, 1).tobytes())
        return path

    return make


@pytest.fixture(scope="session")
def second(make_wav: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of sound."""
    return make_wav(tmp_path_factory.mktemp("sound") / "one.wav", 1.0)


@pytest.fixture(scope="session")
def pictures(portrait: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of pictures: grey, alpha, huge, two faces, none, corrupt."""
    folder = tmp_path_factory.mktemp("pictures")
    face = Image.open(portrait).convert("RGB")
    face.convert("L").save(folder / "grey.png")
    alpha = face.copy()
    alpha.putalpha(200)
    alpha.save(folder / "alpha.png")
    side = 10_000
    face.resize((side, round(face.height * side / face.width))).save(folder / "huge.jpg", quality=70)
    both = Image.new("RGB", (face.width * 2, face.height))
    both.paste(face, (0, 0))
    both.paste(face.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (face.width, 0))
    both.save(folder / "two.jpg")
    Image.linear_gradient("L").resize((300, 300)).convert("RGB").save(folder / "none.png")
    data = portrait.read_bytes()
    (folder / f"corrupt{portrait.suffix}").write_bytes(data[:40] + b"\0" * 400)
    (folder / "empty.png").touch()
    mask = np.zeros((face.height, face.width), np.uint8)
    mask[face.height // 2 :] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(np.zeros_like(mask)).save(folder / "black.png")
    return folder
