"""The checks on their own: settings, sync judges, motion, crops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tm_core.errors import InputError
from tm_core.metrics.syncnet import SyncNet, SyncNetScore
from tm_core.train.footage import FootageConfig, as_training_clip, load_footage, prepare
from tm_core.train.footage.face_track import bridged
from tm_core.train.footage.motion import check_motion
from tm_core.train.footage.sync_check import ClipToCheck, LipSyncCheck, SyncNetCheck, make_sync_check
from tm_core.train.footage.thresholds import described, with_settings


def test_settings_keep_their_kinds() -> None:
    cfg = with_settings(FootageConfig(), ["max_seconds=8", "most_offset=1", "listeners=no", "sync=off"])
    assert (cfg.max_seconds, cfg.most_offset, cfg.listeners, cfg.sync) == (8.0, 1, False, "off")
    assert len(described()) == len(cfg.to_dict())


@pytest.mark.parametrize(
    "setting", ["nothing=1", "max_seconds=long", "max_seconds=2", "max_seconds=600", "sync=ears", "text_where=sky", "listeners=2"])
def test_bad_settings(setting: str) -> None:
    with pytest.raises(InputError):
        with_settings(FootageConfig(), [setting])


def evidence(clip: Any, *, phones: bool = True) -> ClipToCheck:
    count = len(clip.landmarks)
    from tm_core.media.audio_io import read_audio

    samples = read_audio(clip.video).samples[: count * 640]
    return ClipToCheck(
        frames=np.zeros((count, 1, 1, 3), np.uint8), landmarks=clip.landmarks.float().numpy(), samples=samples,
        phones=clip.phones if phones else None, fps=25.0)


def test_lips_without_phones_are_judged_by_loudness(prepared: Any) -> None:
    clip = next(c for c in load_footage(prepared.out) if c.source == "talk.mp4")
    verdict = LipSyncCheck(cfg=FootageConfig())(evidence(clip, phones=False))
    assert verdict.method == "loudness" and abs(verdict.offset_frames) <= 2


@pytest.mark.slow
def test_a_syncnet_judges_where_it_is_asked_for(prepared: Any) -> None:
    """Its verdict follows from its own score and the thresholds."""
    clip = evidence(load_footage(prepared.out)[0])
    verdict = make_sync_check(FootageConfig(sync="syncnet", least_sync_c=0.0, most_offset=15))(clip)  # type: ignore[misc]
    assert verdict.method == "syncnet" and verdict.reason is None and verdict.confidence > 0
    strict = make_sync_check(FootageConfig(sync="syncnet", least_sync_c=verdict.confidence + 0.1))(clip)  # type: ignore[misc]
    assert strict.reason == "not_speaking" and strict.confidence == verdict.confidence


def test_an_offset_of_the_syncnet_drops_a_clip(prepared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    late = SyncNetScore(sync_c=6.0, sync_d=8.0, offset_frames=-5)
    monkeypatch.setattr("tm_core.train.footage.sync_check.sync_confidence", lambda *_: late)
    check = SyncNetCheck(cfg=FootageConfig(), net=SyncNet())
    assert check(evidence(load_footage(prepared.out)[0])).reason == "off_sync"


def test_lips_judge_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isinstance(make_sync_check(FootageConfig()), LipSyncCheck)
    assert make_sync_check(FootageConfig(sync="off")) is None
    monkeypatch.setattr("tm_core.metrics.syncnet.ASSETS", tmp_path)
    with pytest.raises(InputError, match=r"^syncnet: "):
        make_sync_check(FootageConfig(sync="syncnet"))


def test_a_photograph_under_a_moving_camera_is_still(prepared: Any) -> None:
    face = load_footage(prepared.out)[0].landmarks[:1].float().numpy()
    t = np.linspace(0, 1, 100)[:, None, None]
    noise = np.random.default_rng(0).normal(0, 0.02, (100, 468, 3))
    assert check_motion(face * (1 + 0.2 * t) + 8 * t + noise, 25.0, FootageConfig())[0] == "still"
    shake = np.where(np.arange(100) % 2, 10.0, 0.0)[:, None, None]
    assert check_motion(face + shake + 20 * noise, 25.0, FootageConfig())[0] == "shaky"


def test_lost_frames_are_bridged() -> None:
    points = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((1, 468, 3), np.float32)
    points[[0, 2, 3, 5]] = np.nan
    assert np.allclose(bridged(points)[:, 0, 0], [1, 1, 2, 3, 4, 4])


def test_resting_lips_make_a_listener(prepared: Any, talk: Any, write: Any, tmp_path: Any) -> None:
    """A head that nods while somebody else speaks: a Silence clip (paper section 3)."""
    picture = np.pad(talk.frames[0], [(32, 32), (32, 32), (0, 0)], mode="edge")
    frames = [turned(picture, 0.055 * np.sin(i / 6)) for i in range(125)]
    write(tmp_path / "in" / "nod.mp4", np.stack(frames), talk.samples)
    report = prepare(tmp_path / "in", tmp_path / "out", FootageConfig(sync="lips"))
    assert report.kept == 1 and report.listening_s == report.kept_s > 4, report.table()
    clip = as_training_clip(load_footage(tmp_path / "out")[0])
    assert bool(clip.listens) and not clip.speaking.any()
    unwanted = prepare(tmp_path / "in", tmp_path / "out", FootageConfig(sync="lips", listeners=False))
    assert unwanted.kept == 0 and set(unwanted.dropped) == {"listener"}


def turned(picture: np.ndarray, yaw: float) -> np.ndarray:
    """The picture's middle columns shifted: a head that turns a little."""
    size = picture.shape[0]
    x = np.arange(size)
    near = np.exp(-(((x - size / 2) / 45.0) ** 2))
    return picture[:, np.clip(np.round(x - yaw * size * near), 0, size - 1).astype(int)]
