"""Real video files, made by the bundled model: a talking face, and everything that can be wrong with one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

pytest.importorskip("scenedetect", reason="scenedetect: not installed; pip install 'talking-machines[data]'")
pytest.importorskip("rapidocr", reason="rapidocr: not installed; pip install 'talking-machines[data]'")

from tm_core.media.audio_io import Waveform, read_audio
from tm_core.media.video_io import VideoWriter
from tm_core.talk import animate
from tm_core.train.footage import FootageConfig, FootageReport, prepare
from tm_core.train.footage.footage_ledger import FootageLedger, FootageRecord
from tm_core.weights.loading import load_model

SIDE, FRAMES, SAMPLES = 256, 125, 640  # of a picture; of a video; a frame
Write = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at the whole folder, prepared, is slow."""
    for item in items:
        if "prepared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class Talk:
    """Frames (T, 256, 256, 3) of the bundled portrait talking and the sound (640 T,) it says."""

    frames: np.ndarray
    samples: np.ndarray


@pytest.fixture(scope="session")
def talk(assets: Path) -> Talk:
    """Five seconds of the bundled model."""
    sound = assets / "speech" / "librivox_sense_and_sensibility_0870.wav"
    stream = animate(assets / "portraits" / "demo.jpg", sound, model=load_model())
    frames: list[np.ndarray] = []
    for chunk in stream.chunks():
        frames += [np.asarray(Image.fromarray(f).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for f in chunk.frames]
        if len(frames) >= FRAMES:
            break
    return Talk(frames=np.stack(frames[:FRAMES]), samples=read_audio(sound).samples[: FRAMES * SAMPLES])


@pytest.fixture(scope="session")
def write() -> Write:
    """Writes a video of frames and samples (None: no sound track)."""

    def to_file(path: Path, frames: np.ndarray, samples: np.ndarray | None, fps: int = 25) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        sound = None if samples is None else Waveform(samples=np.ascontiguousarray(samples, np.float32))
        with VideoWriter(path, frames.shape[2], frames.shape[1], fps, sound) as video:
            video.write(frames)
        return path

    return to_file


@pytest.fixture(scope="session")
def footage(talk: Talk, write: Write, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one file of every kind."""
    folder = tmp_path_factory.mktemp("footage")
    frames, samples = talk.frames, talk.samples
    whole = write(folder / "talk.mp4", frames, samples)
    mirrored = np.ascontiguousarray(frames[:, :, ::-1])
    write(folder / "films" / "cut.mp4", np.concatenate([frames[:110], mirrored[:110], frames[:40]]),
          np.concatenate([samples[: 110 * SAMPLES], samples[: 110 * SAMPLES], samples[: 40 * SAMPLES]]))
    write(folder / "subtitles.mp4", np.stack([subtitled(f) for f in frames]), samples)
    write(folder / "mute.mp4", frames, None)
    write(folder / "late.mp4", frames, np.roll(samples, 10 * SAMPLES))
    write(folder / "dubbed.mp4", frames, samples[::-1])
    write(folder / "still.mp4", np.repeat(frames[:1], FRAMES, 0), samples)
    write(folder / "nobody.mp4", landscape(), samples)
    write(folder / "two.mp4", np.concatenate([frames, mirrored], 2), samples)
    write(folder / "far.mp4", far_away(frames), samples)
    write(folder / "slow.mp4", frames[::2], samples, fps=12)
    (folder / "corrupt.mp4").write_bytes(whole.read_bytes()[:6000])
    (folder / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(4000))
    (folder / "empty.mov").touch()
    (folder / "notes.txt").write_text("not a video")
    return folder


def subtitled(frame: np.ndarray) -> np.ndarray:
    """A line of white text with a black edge, as players burn it in."""
    picture = Image.fromarray(frame)
    ImageDraw.Draw(picture).text(
        (40, 228), "no sooner was his father", fill="white", stroke_width=1, stroke_fill="black", font=ImageFont.load_default(15))
    return np.asarray(picture)


def landscape() -> np.ndarray:
    """A gradient that moves."""
    picture = np.asarray(Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB"))
    return np.stack([np.roll(picture, i, 0) for i in range(FRAMES)])


def far_away(frames: np.ndarray) -> np.ndarray:
    """The same face, 45 pixels high."""
    small = np.stack([np.asarray(Image.fromarray(f).resize((72, 72))) for f in frames])
    return np.pad(small, [(0, 0), (40, 48), (44, 44), (0, 0)], constant_values=90)


@dataclass(frozen=True)
class Prepared:
    """A finished run."""

    out: Path
    report: FootageReport
    records: list[FootageRecord]

    def of(self, source: str) -> tuple[list[FootageRecord], FootageRecord]:
        """Clip records and the source's own."""
        mine = [r for r in self.records if r["source"] == source]
        return mine[:-1], mine[-1]


@pytest.fixture(scope="session")
def lips() -> FootageConfig:
    """Sync judged by lips and phones, whether there is a SyncNet or not."""
    return FootageConfig(sync="lips")


@pytest.fixture(scope="session")
def prepared(
    footage: Path, lips: FootageConfig, tmp_path_factory: pytest.TempPathFactory, once_per_run: Callable[[str], None],
) -> Prepared:
    """The whole folder, prepared in this process."""
    once_per_run("footage")
    out = tmp_path_factory.mktemp("out") / "footage"
    report = prepare(footage, out, lips)
    return Prepared(out=out, report=report, records=list(FootageLedger(out / "ledger.jsonl")))
