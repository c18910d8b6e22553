"""SyncNet: the published layers and inputs, and our weights on held-out synthetic clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.metrics.conftest import Clip
from tm_core.errors import InputError
from tm_core.face.mesh import FaceMesh
from tm_core.metrics.syncnet import (
    ASSETS,
    BUNDLED,
    SyncNet,
    distances,
    embeddings,
    face_boxes,
    face_crops,
    load_syncnet,
    mfcc,
    score_of,
    sync_confidence,
)

OFFICIAL = {  # names and shapes of the published checkpoint's convolutions and layers
    "netcnnaud.0.weight": (64, 1, 3, 3), "netcnnaud.4.weight": (192, 64, 3, 3), "netcnnaud.8.weight": (384, 192, 3, 3),
    "netcnnaud.11.weight": (256, 384, 3, 3), "netcnnaud.14.weight": (256, 256, 3, 3), "netcnnaud.18.weight": (512, 256, 5, 4),
    "netfcaud.0.weight": (512, 512), "netfcaud.3.weight": (1024, 512),
    "netcnnlip.0.weight": (96, 3, 5, 7, 7), "netcnnlip.4.weight": (256, 96, 1, 5, 5), "netcnnlip.8.weight": (256, 256, 1, 3, 3),
    "netcnnlip.11.weight": (256, 256, 1, 3, 3), "netcnnlip.14.weight": (256, 256, 1, 3, 3), "netcnnlip.18.weight": (512, 256, 1, 6, 6),
    "netfclip.0.weight": (512, 512), "netfclip.3.weight": (1024, 512),
}


def test_layers_are_the_published_ones() -> None:
    state = SyncNet().state_dict()
    assert {k: tuple(v.shape) for k, v in state.items() if k in OFFICIAL} == OFFICIAL
    assert sum(v.numel() for k, v in state.items() if k.endswith((".weight", ".bias"))) == 13_631_616


def test_no_tensor_is_missing_or_extra() -> None:
    """Every name of the published checkpoint: which layers have weights, and which of those are norms."""
    layers = {"netcnnaud": (0, 4, 8, 11, 14, 18), "netcnnlip": (0, 4, 8, 11, 14, 18), "netfcaud": (0, 3), "netfclip": (0, 3)}
    norms = {"netcnnaud": (1, 5, 9, 12, 15, 19), "netcnnlip": (1, 5, 9, 12, 15, 19), "netfcaud": (1,), "netfclip": (1,)}
    names = {f"{part}.{i}.{kind}" for part, at in layers.items() for i in at for kind in ("weight", "bias")}
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names |= {f"{part}.{i}.{kind}" for part, at in norms.items() for i in at for kind in kinds}
    assert set(SyncNet().state_dict()) == names


def test_the_end_of_a_long_sound_is_not_looked_at() -> None:
    """Nor computed: an hour of sound against seconds of picture costs what the seconds cost."""
    crops = torch.randint(0, 255, (8, 3, 224, 224), dtype=torch.uint8)
    sound = (np.random.default_rng(0).standard_normal(3 * 16000) * 0.1).astype(np.float32)
    asked: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tm_core.metrics.syncnet.mfcc", lambda samples: asked.append(len(samples)) or mfcc(samples))
        seen, heard = embeddings(SyncNet().eval(), crops, sound, 25.0)
    assert len(seen) == len(heard) == 4 and asked[0] <= 8 * 640 + 400


def test_shapes_of_both_streams() -> None:
    net = SyncNet().eval()
    with torch.no_grad():
        assert net.embed_audio(torch.zeros(2, 1, 13, 20)).shape == (2, 1024)
        assert net.embed_faces(torch.zeros(1, 3, 5, 224, 224)).shape == (1, 1024)


def test_mfcc_is_the_published_definition() -> None:
    """One frame computed step by step as python_speech_features documents it, with scipy's cosine transform."""
    from scipy.fft import dct

    rng = np.random.default_rng(0)
    samples = (rng.standard_normal(1600) * 0.1).astype(np.float32)
    rows = mfcc(samples)
    assert rows.shape == (1 + int(np.ceil((1600 - 400) / 160)), 13)
    signal = samples.astype(float) * 32768
    emphasised = np.concatenate([signal[:1], signal[1:] - 0.97 * signal[:-1]])
    power = np.abs(np.fft.rfft(emphasised[320:720], 512)) ** 2 / 512
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
    bins = np.floor(513 * 700 * (10 ** (mel / 2595) - 1) / 16000).astype(int)
    bank = np.zeros((26, 257))
    for j in range(26):
        for i in range(bins[j], bins[j + 1]):
            bank[j, i] = (i - bins[j]) / (bins[j + 1] - bins[j])
        for i in range(bins[j + 1], bins[j + 2]):
            bank[j, i] = (bins[j + 2] - i) / (bins[j + 2] - bins[j + 1])
    wanted = dct(np.log(bank @ power), type=2, norm="ortho")[:13] * (1 + 11 * np.sin(np.pi * np.arange(13) / 22))
    wanted[0] = np.log(power.sum())
    assert np.allclose(rows[2], wanted, rtol=1e-4, atol=1e-3)


def test_a_crop_holds_the_face_and_colours_are_reversed(clip: Clip, mesh: FaceMesh) -> None:
    frames = clip.frames[:20].copy()
    landmarks = mesh.landmarks_batch(frames)
    boxes = face_boxes(landmarks)
    chin = (landmarks[5, 152, :2] - boxes[5, :2]) / boxes[5, 2]
    assert np.abs(chin).max() < 1 and boxes.shape == (20, 3)
    frames[..., 0], frames[..., 1:] = 200, 10
    crop = face_crops(torch.from_numpy(frames), boxes)
    assert crop.shape == (20, 3, 224, 224)
    assert crop[0, 2, 112, 112] == pytest.approx(200, abs=1) and crop[0, 0, 112, 112] == pytest.approx(10, abs=1)


@pytest.mark.parametrize("late", [-4, 0, 6])
def test_offsets_are_found_and_signed(late: int) -> None:
    """Embeddings that agree at a known lag; a late picture has a positive offset."""
    rng = np.random.default_rng(1)
    line = torch.from_numpy(rng.standard_normal((80, 8)))
    seen, heard = line[20 - late : 60 - late], line[20:60]  # frame n shows what was heard at n - late
    score = score_of(distances(seen, heard))
    assert score.offset_frames == late and score.sync_c > 1 and score.sync_d < 0.1


@pytest.mark.slow
@pytest.mark.skipif(not all((ASSETS / n).is_file() for n in BUNDLED), reason="no SyncNet weights are bundled yet (docs/model_card.md)")
def test_the_bundled_weights_hear_whether_a_held_out_clip_is_late(clip: Clip, mesh: FaceMesh) -> None:
    net, frames, samples = load_syncnet(), clip.frames[:100], clip.samples[: 100 * 640]
    landmarks = mesh.landmarks_batch(frames)
    right = sync_confidence(net, frames, landmarks, samples, 25.0)
    late = sync_confidence(net, frames[:-6], landmarks[:-6], samples[6 * 640 :], 25.0)
    wrong = sync_confidence(net, frames, landmarks, samples[::-1].copy(), 25.0)
    assert abs(right.offset_frames) <= 1 and abs(late.offset_frames - right.offset_frames - 6) <= 1
    assert right.sync_c > wrong.sync_c and right.sync_d < wrong.sync_d


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, str(tmp_path / "a.safetensors"))
    with pytest.raises(InputError, match=r"^syncnet: .*tensors missing"):
        load_syncnet(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"^syncnet: .*only .safetensors"):
        load_syncnet(tmp_path / "a.pth")
    state = dict(SyncNet().state_dict())
    save_file(state, str(tmp_path / "official.safetensors"))
    assert torch.equal(load_syncnet(tmp_path / "official.safetensors").netfclip[3].weight, state["netfclip.3.weight"])
