"""Videos: as long as they should be, sound and picture together, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tm_core.errors import InputError
from tm_core.media import VideoWriter, Waveform, probe, read_audio, read_frames
from tm_core.outputs import check_output


def noise(seconds: float) -> Waveform:
    return Waveform(samples=(np.random.default_rng(0).normal(size=round(16000 * seconds)) * 0.1).astype(np.float32))


@pytest.mark.parametrize("seconds", [0.3, 1.0, 7.77])
def test_picture_and_sound_are_equally_long(tmp_path: Path, seconds: float) -> None:
    path, frames = tmp_path / "out \u00fc.mp4", max(1, round(seconds * 25))
    with VideoWriter(path, 64, 48, 25, noise(seconds)) as out:
        for start in range(0, frames, 12):
            out.write(np.zeros((min(12, frames - start), 48, 64, 3), np.uint8))
    found = probe(path)
    assert (found.frames, found.width, found.height, found.fps) == (frames, 64, 48, 25)
    assert found.video_s == pytest.approx(frames / 25, abs=1e-3)
    assert found.audio_s == pytest.approx(seconds, abs=0.005)


def test_flash_and_click_come_together(tmp_path: Path) -> None:
    path, sound = tmp_path / "av.mp4", np.zeros(16000 * 4, np.float32)
    sound[32000:32160] = 0.9
    frames = np.zeros((100, 64, 64, 3), np.uint8)
    frames[50] = 255
    with VideoWriter(path, 64, 64, 25, Waveform(samples=sound)) as out:
        out.write(frames)
    _, shown = read_frames(path)
    flash = int(np.argmax([f.mean() for f in shown])) / 25
    click = float(np.argmax(np.abs(read_audio(path).samples))) / 16000
    assert abs(flash - click) <= 0.02  # half a frame


def test_the_sound_is_the_files_own(tmp_path: Path, assets: Path) -> None:
    source, path = assets / "speech" / "librivox_sense_and_sensibility_0870.wav", tmp_path / "a.mp4"
    with VideoWriter(path, 64, 64, 25, source) as out:
        out.write(np.zeros((round(read_audio(source).duration_s * 25), 64, 64, 3), np.uint8))
    a, b = read_audio(source).samples, read_audio(path).samples
    size = 1 << (len(a) + len(b)).bit_length()
    match = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)))
    assert match.max() / np.sqrt((a**2).sum() * (b**2).sum()) > 0.95


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with VideoWriter(tmp_path / "x.mp4", 64, 64, 25, noise(1)) as out:
            out.write(np.zeros((12, 64, 64, 3), np.uint8))
            raise error

    with pytest.raises(error):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["missing", "text", "picture only"])
def test_a_source_without_sound_says_so_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    source, folder = tmp_path / "source.mp4", tmp_path / "out"
    folder.mkdir()
    if kind == "text":
        source.write_text("this is not sound " * 100)
    elif kind == "picture only":
        with VideoWriter(source, 64, 64, 25) as out:
            out.write(np.zeros((5, 64, 64, 3), np.uint8))
    with pytest.raises(InputError, match=r"^audio: "), VideoWriter(folder / "x.mp4", 64, 64, 25, source):
        raise AssertionError("opened a writer without sound to write")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("kind", ["missing", "text"])
def test_probe_of_what_is_no_video_says_so(tmp_path: Path, kind: str) -> None:
    if kind == "text":
        (tmp_path / "x.mp4").write_text("no video " * 100)
    with pytest.raises(InputError, match=r"^video: "):
        probe(tmp_path / "x.mp4")


def test_an_old_file_outlives_a_failed_new_one(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"precious")
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "x.mp4", 64, 64, 25):
        raise RuntimeError
    assert (tmp_path / "x.mp4").read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["folder", "no such folder", "read only"])
def test_output_that_cannot_be_written(tmp_path: Path, kind: str) -> None:
    path = {"folder": tmp_path, "no such folder": tmp_path / "a" / "b.mp4", "read only": Path("/proc/b.mp4")}[kind]
    with pytest.raises(InputError, match=r"^out: ") as caught:
        check_output(path)
    assert "; " in str(caught.value) and not list(tmp_path.iterdir())


FULL_DISK = """
import resource, signal, sys, numpy as np
from pathlib import Path
from tm_core.errors import InputError
from tm_core.media import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
frames = np.random.default_rng(0).integers(0, 255, (50, 128, 128, 3), dtype=np.uint8)
try:
    with VideoWriter(Path(sys.argv[1]), 128, 128, 25) as out:
        for _ in range(10):
            out.write(frames)
except InputError as error:
    sys.stdout.write(str(error))
"""


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, repo_root: Path) -> None:
    """The kernel refuses to let the file grow (EFBIG), as it does on a full disk (ENOSPC), in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "x.mp4")], cwd=repo_root, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(repo_root)})
    assert ran.stdout.startswith("out: ") and "free some space" in ran.stdout, ran.stdout + ran.stderr
    assert not list(tmp_path.iterdir())
