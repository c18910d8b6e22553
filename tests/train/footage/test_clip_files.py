"""What a kept clip holds, and that training can take it for one of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tm_core.audio.features import log_mel
from tm_core.audio.windows import windows
from tm_core.config import tiny
from tm_core.errors import InputError
from tm_core.media import read_frames
from tm_core.media.audio_io import read_audio
from tm_core.metrics.lip_sync import lip_gap
from tm_core.train.dataset import STEP
from tm_core.train.footage import FootageClip, as_training_clip, load_footage
from tm_core.train.footage.clip_files import load_clip
from tm_core.train.footage.encode import latents_of, sound_range, timeline_of, weights_hash
from tm_core.train.sequences import assemble, chosen_latents
from tm_core.weights.loading import load_model


@pytest.fixture(scope="module")
def clips(prepared: Any) -> list[FootageClip]:
    return load_footage(prepared.out)


@pytest.fixture(scope="module")
def whole(clips: list[FootageClip]) -> FootageClip:
    return next(c for c in clips if c.source == "talk.mp4")


def test_shapes(clips: list[FootageClip]) -> None:
    cfg = tiny()
    for clip in clips:
        count = clip.latents.shape[1]
        assert count % cfg.sampler.chunk_latents == 0
        assert clip.latents.shape == (16, count, *cfg.latent_hw) and clip.latents.dtype == torch.float16
        assert clip.reference.shape == (16, *cfg.latent_hw) and clip.weight.shape == cfg.latent_hw
        assert clip.face_mask.shape == (cfg.token_hw[0] * cfg.token_hw[1],) and 0 < clip.face_mask.mean() < 1
        assert clip.rows.shape == (16 * count + 64, 80) and clip.rows.dtype == torch.uint8
        assert clip.speaking.shape == (count,) and clip.speaking.float().mean() > 0.5 and not clip.listens
        assert clip.portrait.shape == (3, 128, 128)
        assert clip.landmarks.shape == (4 * count - 3, 468, 3)
        assert clip.duration_s == pytest.approx((4 * count - 3) / 25) and clip.duration_s >= 4


def test_latents_are_those_of_the_crop(whole: FootageClip) -> None:
    model = load_model()
    assert whole.vae == weights_hash(model.vae)  # type: ignore[arg-type]
    assert whole.video is not None
    frames = np.stack(list(read_frames(whole.video)[1]))
    again = latents_of(frames, model.vae)  # type: ignore[arg-type]
    error = (again.float() - whole.latents.float()).pow(2).mean() / whole.latents.float().var()
    assert error < 0.02  # the video is compressed


def test_rows_are_what_the_model_hears(whole: FootageClip, footage: Path) -> None:
    """The windows that inference cuts from the whole file's sound."""
    cfg = tiny()
    start = round(whole.start_s * 25)
    features = log_mel(read_audio(footage / "talk.mp4").samples[start * 640 :], cfg.audio)
    count = whole.latents.shape[1]
    rows = as_training_clip(whole).rows
    for i in (3, count // 2):  # windows inside the sound
        mine = rows[16 * i : 16 * i + 80].numpy()
        true = windows(features, range(i, i + 1), timeline_of(cfg), cfg.audio)[0]
        inside = slice(4 * 11, None) if i < 3 else slice(None)
        assert np.abs(mine[inside] - true[inside]).max() < STEP


def test_the_portrait_is_calm(whole: FootageClip) -> None:
    gap = lip_gap(whole.landmarks.float().numpy())
    at = whole.measures["reference_frame"]
    assert gap[at] < np.percentile(gap, 30)


def test_a_clip_can_be_trained_on(whole: FootageClip) -> None:
    """Sequences of it come out as sequences of a generated clip do."""
    clip = as_training_clip(whole, 24)
    assert clip.latents.shape[1] == len(clip.speaking) == 24 and clip.rows.shape == (16 * 24 + 64, 80)
    batch = assemble([clip, clip], chosen_latents(7, 3), tiny(), torch.Generator().manual_seed(0))
    assert batch.x0.shape == (2, 16, 21, 16, 16) and batch.windows.shape == (2, 21, 80, 80)
    assert torch.equal(batch.x0[0, :, :3], clip.latents[:, :3].float())


def test_more_latents_than_there_are_is_an_error(whole: FootageClip) -> None:
    with pytest.raises(InputError, match="latents, not 999"):
        as_training_clip(whole, 999)


def test_phones_are_kept(whole: FootageClip) -> None:
    pytest.importorskip("pocketsphinx")
    assert whole.phones is not None and len(whole.phones) > 20
    assert all(0 <= p.start <= p.end <= whole.duration_s + 0.1 for p in whole.phones)


def test_sound_range_covers_the_windows() -> None:
    cfg = tiny()
    low, high = sound_range(0, 105, cfg)
    assert low == -12 * 640 and high == (105 + 9) * 640


def test_no_clips_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data prepare"):
        load_footage(tmp_path)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no clip of"):
        load_clip(tmp_path / "clips" / "x.safetensors")
