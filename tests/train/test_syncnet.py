"""SyncNet's training: windows and sounds that belong together, splits kept apart, files that can be shipped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.train.conftest import ASSETS
from tm_core.media import read_audio
from tm_core.metrics import syncnet as metric
from tm_core.metrics.lip_sync import lip_gap
from tm_core.metrics.syncnet import BUNDLED, FRAMES, SyncNet, load_syncnet
from tm_core.train.checkpoint import read_info
from tm_core.train.dataset import Inputs
from tm_core.train.syncnet import (
    LENGTH,
    PATCH,
    WINDOWS,
    AudioPretraining,
    JointTraining,
    LipPretraining,
    SpeechClips,
    TalkClip,
    export,
    maps_of,
    patch_batch,
    patches_of,
    speech_batch,
    take_over,
    train_audio_stream,
    train_joint,
    train_lip_stream,
)
from tm_core.train.visemes import PHONES

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
def source(inputs: Inputs, corpus: Path) -> SpeechClips:
    return SpeechClips(inputs, corpus, "train", None)


@pytest.fixture(scope="module")
def clip(source: SpeechClips) -> TalkClip:
    with torch.no_grad():
        return source.clip(3)


def test_a_split_has_its_own_voices_only(inputs: Inputs, corpus: Path, source: SpeechClips) -> None:
    assert {u.voice for u in source.speech} == {"taught"}
    assert {u.voice for u in SpeechClips(inputs, corpus, "held", None).speech} == {"kept"}


def test_a_clips_mouth_follows_its_own_stretch_of_sound(clip: TalkClip, source: SpeechClips) -> None:
    whole = source.speech[0].samples
    first = float(np.correlate(whole, clip.samples[:16000], "valid").argmax()) / 640
    when = (first + np.arange(LENGTH) + 0.5) / 25
    said_wide = np.any([(when > a + 0.1) & (when < b - 0.1) for a, b in WIDE], 0)
    said_shut = ~np.any([(when > a - 0.1) & (when < b + 0.1) for a, b in WIDE], 0)
    gap = lip_gap(clip.landmarks)
    assert said_wide.sum() > 5 and said_shut.sum() > 5
    assert np.median(gap[said_wide]) > np.median(gap[said_shut]) + 0.02
    assert clip.frames.shape == (LENGTH, 128, 128, 3) and len(clip.rows) >= 4 * LENGTH


@pytest.mark.parametrize("pace", [0.8, 1.0, 1.25])
def test_a_voice_played_slower_or_faster_keeps_its_times(source: SpeechClips, pace: float) -> None:
    said, cut, when = source.stretch(np.random.default_rng(2), 40, pace=pace)
    assert np.allclose(np.diff(when), 0.04 * pace)
    middle = 640 * np.arange(40) + 320  # sample in the middle of each frame
    at = when * 16000
    assert np.allclose(cut[middle], np.interp(at, np.arange(len(said.samples)), said.samples), atol=1e-3)


def test_the_windows_of_a_stretch_overlap_frame_by_frame(source: SpeechClips) -> None:
    rows, mouths, phones = speech_batch(source, 3, 20, np.random.default_rng(0))
    assert rows.shape == (3, 4 * 20 + 16, 13) and phones.shape == (3, 20)
    frames = mouths.unflatten(-1, (FRAMES, 6))
    assert torch.equal(frames[:, 1:, :-1], frames[:, :-1, 1:])
    wide = frames[..., 2, 0] > 0.9  # AA in the middle frame, away from its ends
    assert wide.any() and (phones[wide] == PHONES.index("AA")).all()


def test_hearing_in_one_go_is_hearing_window_by_window() -> None:
    """Where kernels do not reach sideways, zero padding makes no difference, and both must agree."""
    torch.manual_seed(0)
    net = SyncNet()
    for layer in net.netcnnaud[:18]:
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.data[..., [0, 2]] = 0
    model = AudioPretraining(net).eval()
    rows = torch.randn(2, 4 * 7 + 16, 13)
    with torch.no_grad():
        assert torch.allclose(model(rows, cut=True), model(rows, cut=False), atol=1e-4)


def test_patches_show_the_mouth_of_their_window() -> None:
    """The picture turns white at frame TURN, the mouths count frames: both must tell the same start."""
    turn = LENGTH // 2
    frames = torch.zeros(LENGTH, 32, 32, 3, dtype=torch.uint8)
    frames[turn:] = 255
    made = TalkClip(frames=frames, boxes=np.tile([15.5, 15.5, 12.0], (LENGTH, 1)), rows=torch.zeros(300, 13),
                    mouth=torch.arange(LENGTH).float()[:, None].expand(-1, 6), landmarks=np.full((LENGTH, 468, 3), 16.0),
                    samples=np.zeros(LENGTH * 640, np.float32))
    rng, turned = np.random.default_rng(0), 0
    bank = [(patches_of(made, rng), made.mouth) for _ in range(4)]
    for _ in range(20):
        faces, mouths = patch_batch(bank, 4, rng)
        starts = mouths[:, 0].int()
        assert faces.shape == (4, 15, PATCH, PATCH) and torch.equal(mouths[:, -1].int(), starts + FRAMES - 1)
        bright = faces.unflatten(1, (3, 5))[:, 0, :, 48, 48]
        for start, line in zip(starts.tolist(), bright, strict=True):
            jump = line.diff().abs() > 100
            assert jump.sum() == (start < turn < start + FRAMES)
            turned += int(jump.any())
            assert not jump.any() or int(jump.int().argmax()) + 1 == turn - start
    assert turned > 3  # the picture was looked at


def test_steps_on_the_same_patches_learn_them(clip: TalkClip) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model, (faces, mouths) = LipPretraining(SyncNet()), patch_batch([(patches_of(clip, rng), clip.mouth)] * 6, 6, rng)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4)
    losses = []
    for _ in range(8):
        loss = ((model(faces) - mouths) ** 2).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.slow
def test_joining_learns_and_leaves_the_fixed_layers_alone(clip: TalkClip) -> None:
    torch.manual_seed(0)
    net = SyncNet()
    model, before = JointTraining(net).train(), {k: v.clone() for k, v in net.state_dict().items()}
    maps = [torch.stack([m[:24].float()] * 2) for m in maps_of(net, clip, np.random.default_rng(0))]  # a second: all take long
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-4)
    losses = []
    for _ in range(16):
        loss, right = model.loss(*maps, torch.ones(30))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0] and 0 <= right <= 1
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    heads = ("netcnnlip.18", "netcnnlip.19", "netcnnaud.18", "netcnnaud.19", "netfc")
    assert changed and all(k.startswith(heads) for k in changed)


@pytest.mark.slow
def test_maps_are_what_the_whole_network_sees(clip: TalkClip) -> None:
    """Fixed layers, then the rest: the same embeddings as the published network's on the same windows."""
    torch.manual_seed(0)
    net = SyncNet().eval()
    seen, heard, mouths = maps_of(net, clip, np.random.default_rng(3))
    assert len(seen) == len(heard) == len(mouths) == WINDOWS
    with torch.no_grad():
        s, h = JointTraining(net).eval()(seen[None, :12].float(), heard[None, :12].float())
        rows = clip.rows[40 : 40 + 20].T[None, None]
        assert torch.allclose(h[0, 10], net.embed_audio(rows)[0], atol=3e-2)
    assert torch.equal(mouths[10], clip.mouth[10:15].flatten()) and s.shape == (1, 12, 1024)


def test_every_stage_goes_on_and_hands_over_its_average(source: SpeechClips, tmp_path: Path) -> None:
    torch.manual_seed(0)
    listening, looking, joining = (tmp_path / f"{n}.safetensors" for n in ("listen", "look", "join"))
    for wanted in (1, 2):
        net = SyncNet()
        train_audio_stream(net, source, source, listening, minutes=5, size=2, exam=2, most_steps=1)
        train_lip_stream(net, source, source, looking, minutes=5, size=2, clips=2, exam=1, most_steps=1)
        train_joint(net, source, source, joining, minutes=5, size=2, clips=1, exam=1, most_steps=1)
        assert [read_info(p)["step"] for p in (listening, looking, joining)] == [wanted] * 3
    other = SyncNet()
    take_over(other, listening, AudioPretraining)
    take_over(other, looking, LipPretraining)
    with safe_open(str(looking), "pt") as f:
        assert torch.equal(other.netcnnlip[4].weight, f.get_tensor("average.netcnnlip.4.weight"))
    with safe_open(str(listening), "pt") as f:
        assert torch.equal(other.netfcaud[3].weight, f.get_tensor("average.net.netfcaud.3.weight"))


def test_shipped_files_are_small_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    net = SyncNet().eval()
    export(net, tmp_path, {"step": 7})
    assert all((tmp_path / name).stat().st_size <= LIMIT for name in BUNDLED)
    assert json.loads((tmp_path / "syncnet.json").read_text())["step"] == 7
    monkeypatch.setattr(metric, "ASSETS", tmp_path)
    sound = torch.randn(2, 1, 13, 20)
    with torch.no_grad():
        assert torch.allclose(load_syncnet().embed_audio(sound), net.embed_audio(sound), atol=1e-2)
    (tmp_path / BUNDLED[1]).unlink()
    with pytest.raises(ValueError, match="syncnet"):
        load_syncnet()
