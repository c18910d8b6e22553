"""The checks on their own: settings, sync judges, motion, crops."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tm_core.errors import InputError
from tm_core.train.footage import FootageConfig, as_training_clip, load_footage, prepare
from tm_core.train.footage.config import described, with_settings
from tm_core.train.footage.faces import bridged
from tm_core.train.footage.motion import judge_motion
from tm_core.train.footage.sync import Evidence, LipJudge, SyncNetJudge, make_judge

SYNCNET = "tm_core.metrics.syncnet"


def test_settings_keep_their_kinds() -> None:
    cfg = with_settings(FootageConfig(), ["max_seconds=8", "most_offset=1", "listeners=no", "sync=off"])
    assert (cfg.max_seconds, cfg.most_offset, cfg.listeners, cfg.sync) == (8.0, 1, False, "off")
    assert len(described()) == len(cfg.to_dict())


@pytest.mark.parametrize(
    "setting", ["nothing=1", "max_seconds=long", "max_seconds=2", "max_seconds=600", "sync=ears", "text_where=sky", "listeners=2"])
def test_bad_settings(setting: str) -> None:
    with pytest.raises(InputError):
        with_settings(FootageConfig(), [setting])


def evidence(clip: Any, *, phones: bool = True) -> Evidence:
    count = len(clip.landmarks)
    from tm_core.media.audio_io import read_audio

    samples = read_audio(clip.video).samples[: count * 640]
    return Evidence(frames=np.zeros((count, 1, 1, 3), np.uint8), landmarks=clip.landmarks.float().numpy(), samples=samples,
                    phones=clip.phones if phones else None, fps=25.0)


def test_lips_without_phones_are_judged_by_loudness(prepared: Any) -> None:
    clip = next(c for c in load_footage(prepared.out) if c.source == "talk.mp4")
    verdict = LipJudge(cfg=FootageConfig())(evidence(clip, phones=False))
    assert verdict.judge == "loudness" and abs(verdict.offset_frames) <= 2


def fake_syncnet(sync_c: float, offset: int) -> ModuleType:
    module = ModuleType(SYNCNET)
    module.load_syncnet = lambda: "net"  # type: ignore[attr-defined]
    module.sync_confidence = lambda net, frames, landmarks, samples, fps: SimpleNamespace(  # type: ignore[attr-defined]
        sync_c=sync_c, sync_d=8.0, offset_frames=offset)
    return module


@pytest.mark.parametrize(("sync_c", "offset", "reason"), [(6.0, 0, None), (6.0, -5, "off_sync"), (0.3, 0, "not_speaking")])
def test_a_syncnet_is_used_where_there_is_one(
    prepared: Any, monkeypatch: pytest.MonkeyPatch, sync_c: float, offset: int, reason: str | None,
) -> None:
    monkeypatch.setitem(sys.modules, SYNCNET, fake_syncnet(sync_c, offset))
    judge = make_judge(FootageConfig())
    assert isinstance(judge, SyncNetJudge)
    verdict = judge(evidence(load_footage(prepared.out)[0]))
    assert (verdict.judge, verdict.confidence, verdict.offset_frames, verdict.reason) == ("syncnet", sync_c, offset, reason)


def test_without_weights_lips_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake_syncnet(1, 0)

    def missing() -> None:
        raise InputError("syncnet", "weights", "not there", "train them")

    module.load_syncnet = missing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, SYNCNET, module)
    assert isinstance(make_judge(FootageConfig()), LipJudge)
    with pytest.raises(InputError, match="cannot be loaded"):
        make_judge(FootageConfig(sync="syncnet"))
    assert make_judge(FootageConfig(sync="off")) is None


def test_a_photograph_under_a_moving_camera_is_still(prepared: Any) -> None:
    face = load_footage(prepared.out)[0].landmarks[:1].float().numpy()
    t = np.linspace(0, 1, 100)[:, None, None]
    noise = np.random.default_rng(0).normal(0, 0.02, (100, 468, 3))
    assert judge_motion(face * (1 + 0.2 * t) + 8 * t + noise, 25.0, FootageConfig())[0] == "still"
    shake = np.where(np.arange(100) % 2, 10.0, 0.0)[:, None, None]
    assert judge_motion(face + shake + 20 * noise, 25.0, FootageConfig())[0] == "shaky"


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
