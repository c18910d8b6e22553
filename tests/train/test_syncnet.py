"""SyncNet's training: windows and sounds that belong together, splits kept apart, files that can be shipped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.conftest import ASSETS
from tm_core.media import read_audio
from tm_core.metrics import syncnet as metric
from tm_core.metrics.sync import lip_gap
from tm_core.metrics.syncnet import BUNDLED, FRAMES, SyncNet, load_syncnet
from tm_core.train.checkpoint import read_info
from tm_core.train.data import Inputs
from tm_core.train.syncnet import LENGTH, Source, TalkClip, _Trained, draw_batch, export, train_syncnet

LIMIT = 16 * 1024 * 1024  # of a file we ship
WIDE = (1.0, 2.0), (3.0, 4.0), (5.0, 6.0)  # seconds in which the mouth is open


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled recording as a voice of each split, its phones AA in WIDE and M elsewhere."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "speech").mkdir()
    sound = read_audio(next((ASSETS / "speech").glob("*.wav"))).samples
    phones = [("M", 0.0, 1.0), ("M", 2.0, 3.0), ("M", 4.0, 5.0), *(("AA", a, b) for a, b in WIDE)]
    for voice, split in (("taught", "train"), ("kept", "held")):
        np.savez(folder / "speech" / f"{voice}.npz", samples=(sound * 32767).astype(np.int16), starts=np.array([0]))
        entry = {"phones": phones, "split": split, "language": "en"}
        (folder / "speech" / f"{voice}.json").write_text(json.dumps([entry]))
    return folder


@pytest.fixture(scope="module")
def source(inputs: Inputs, corpus: Path) -> Source:
    return Source(inputs, corpus, "train", None)


@pytest.fixture(scope="module")
def clip(source: Source) -> TalkClip:
    with torch.no_grad():
        return source.clip(3)


def test_a_split_has_its_own_voices_only(inputs: Inputs, corpus: Path, source: Source) -> None:
    assert {u[0] for u in source.speech} == {"taught"}
    assert {u[0] for u in Source(inputs, corpus, "held", None).speech} == {"kept"}


def test_a_clips_mouth_follows_its_own_stretch_of_sound(clip: TalkClip, source: Source) -> None:
    whole = source.speech[0][2]
    first = next(f for f in range(len(whole) // 640) if np.array_equal(whole[f * 640 : f * 640 + 640], clip.samples[:640]))
    when = (first + np.arange(LENGTH) + 0.5) / 25
    said_wide = np.any([(when > a + 0.1) & (when < b - 0.1) for a, b in WIDE], 0)
    said_shut = ~np.any([(when > a - 0.1) & (when < b + 0.1) for a, b in WIDE], 0)
    gap = lip_gap(clip.landmarks)
    assert said_wide.sum() > 5 and said_shut.sum() > 5
    assert np.median(gap[said_wide]) > np.median(gap[said_shut]) + 0.02
    assert clip.frames.shape == (LENGTH, 128, 128, 3) and len(clip.rows) >= 4 * LENGTH - 1


def test_the_first_sound_of_a_window_is_its_own() -> None:
    """Rows and mouths count the time, the picture turns white at frame TURN: all three must tell the same start."""
    turn = LENGTH // 2
    frames = torch.zeros(LENGTH, 32, 32, 3, dtype=torch.uint8)
    frames[turn:] = 255
    rows = torch.arange(4 * LENGTH + 40).float()[:, None].expand(-1, 13)
    mouth = torch.arange(LENGTH).float()[:, None].expand(-1, 6)
    made = TalkClip(frames=frames, boxes=np.tile([15.5, 15.5, 12.0], (LENGTH, 1)), rows=rows, mouth=mouth,
                    landmarks=np.zeros((LENGTH, 468, 3)), samples=np.zeros(LENGTH * 640, np.float32))
    rng, turned = np.random.default_rng(0), 0
    for _ in range(12):
        faces, sounds, mouths = draw_batch([made] * 4, 4, rng)
        starts = mouths[:, 0, 0].int()
        assert torch.equal(sounds[:, 0, 0, 0, 0], 4.0 * starts) and torch.equal(mouths[:, 0, -1].int(), starts + FRAMES - 1)
        assert torch.equal(sounds[..., 0, 0, 0], 4 * mouths[..., 0]) and (mouths[:, 1:, 0] != mouths[:, :1, 0]).all()
        bright = faces[:, 0, :, 112, 112]  # (N, 5)
        for start, line in zip(starts.tolist(), bright, strict=True):
            jump = line.diff().abs() > 100
            assert jump.sum() == (start < turn < start + FRAMES)
            turned += int(jump.any())
            assert not jump.any() or int(jump.int().argmax()) + 1 == turn - start
    assert turned > 3  # the picture was looked at


def test_steps_on_one_batch_learn_it(clip: TalkClip) -> None:
    torch.manual_seed(0)
    model, batch = _Trained(), draw_batch([clip] * 3, 3, np.random.default_rng(0))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4)
    losses = []
    for _ in range(6):
        loss, _ = model.loss(*batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_stopped_run_goes_on(source: Source, tmp_path: Path) -> None:
    out = tmp_path / "syncnet.safetensors"
    for wanted in (1, 2):
        train_syncnet(source, source, out, minutes=5, batch=2, clips=2, exam=1, most_steps=1)
        assert read_info(out)["step"] == wanted


def test_shipped_files_are_small_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    net = SyncNet().eval()
    export(net, tmp_path, {"step": 7})
    assert all((tmp_path / name).stat().st_size <= LIMIT for name in BUNDLED)
    assert json.loads((tmp_path / "syncnet.json").read_text())["step"] == 7
    monkeypatch.setattr(metric, "ASSETS", tmp_path)
    sound = torch.randn(2, 1, 13, 20)
    with torch.no_grad():
        assert torch.allclose(load_syncnet().hear(sound), net.hear(sound), atol=1e-2)
    (tmp_path / BUNDLED[1]).unlink()
    with pytest.raises(ValueError, match="syncnet"):
        load_syncnet()
