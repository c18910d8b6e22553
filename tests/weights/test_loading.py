"""Checkpoints: what is saved comes back; what is no checkpoint says so in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tm_core.config import ModelConfig, VAEConfig, tiny
from tm_core.errors import InputError
from tm_core.model.audio_projector import AudioProjector
from tm_core.model.dit import TalkingDiT
from tm_core.model.talking import TalkingModel
from tm_core.vae.tiny import TinyVAE
from tm_core.weights import loading
from tm_core.weights.loading import default_weights, load_model, new_mouth_head, save_model, save_mouth

SMALL = replace(tiny(), dit=replace(tiny().dit, num_layers=1))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    assert SMALL.projector and SMALL.vae
    model = TalkingModel(config=SMALL, dit=TalkingDiT(SMALL.dit), projector=AudioProjector(SMALL.projector), vae=TinyVAE(SMALL.vae))
    save_model(model, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def test_configuration_survives_json() -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(tiny().to_dict()))) == tiny()
    with pytest.raises(ValueError, match="unknown keys"):
        ModelConfig.from_dict({**tiny().to_dict(), "vae": {"flavour": 1}})


def test_weights_come_back(saved: Path) -> None:
    model = load_model(saved)
    assert model.config == SMALL
    with safe_open(str(saved), "pt") as f:
        for name, value in model.dit.state_dict().items():
            assert torch.equal(f.get_tensor(f"dit.{name}").float(), value)
    assert [p.name for p in saved.parent.iterdir()] == ["m.safetensors"]


def test_a_large_model_is_two_files_that_need_each_other(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, second = load_model(saved), saved.with_name("m.vae.safetensors")
    monkeypatch.setattr(loading, "MOST_BYTES", 10_000)
    save_model(model, saved)
    assert torch.equal(load_model(saved).vae.to_latent.weight, model.vae.to_latent.weight)
    with pytest.raises(InputError, match=r"without \.vae"):
        load_model(second)
    second.unlink()
    with pytest.raises(InputError, match=r"m\.vae\.safetensors: no such file"):
        load_model(saved)


def test_a_save_that_fails_leaves_the_old_file(saved: Path) -> None:
    before, model = saved.read_bytes(), load_model(saved)
    with pytest.raises(TypeError):
        save_model(model, saved, extra={"bad": 1})  # type: ignore[dict-item]
    assert saved.read_bytes() == before and len(list(saved.parent.iterdir())) == 1


def damage(path: Path, kind: str) -> Path:
    with safe_open(str(path), "pt") as f:
        metadata, tensors = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    if kind == "missing":
        return path.with_name("none.safetensors")
    if kind == "pickle":
        return path.rename(path.with_suffix(".ckpt"))
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "garbage":
        path.write_bytes(b"\x00" * 64)
    elif kind == "foreign":
        save_file(tensors, str(path))
    elif kind == "newer":
        config = json.loads(metadata["talking_machines"])
        save_file(tensors, str(path), {"talking_machines": json.dumps({**config, "dit": {**config["dit"], "warp": 9}})})
    elif kind == "tensor missing":
        del tensors["dit.head.head.weight"]
        save_file(tensors, str(path), metadata)
    elif kind == "wrong shape":
        tensors["dit.head.head.weight"] = torch.zeros(3, 3)
        save_file(tensors, str(path), metadata)
    return path


@pytest.mark.parametrize(
    ("key", "family"),
    [("proj_model.proj.weight", "FantasyTalking"), ("audio_proj.proj1_vf.weight", "InfiniteTalk"),
     ("img_emb.proj.0.bias", "Wan2.1 I2V"), ("something.weight", "no configuration")],
)
def test_a_foreign_checkpoint_is_named(tmp_path: Path, key: str, family: str) -> None:
    save_file({key: torch.zeros(1)}, str(tmp_path / "f.safetensors"))
    with pytest.raises(InputError, match=family):
        load_model(tmp_path / "f.safetensors")


def test_a_folder_that_cannot_be_written_says_so(saved: Path) -> None:
    model = load_model(saved)
    with pytest.raises(InputError, match="cannot be written"):
        save_model(model, saved.parent / "none" / "m.safetensors")
    (saved.parent / "taken.safetensors").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        save_model(model, saved.parent / "taken.safetensors")
    assert {p.name for p in saved.parent.iterdir()} == {"m.safetensors", "taken.safetensors"}


def test_a_checkpoint_without_its_audio_layers_says_so(saved: Path) -> None:
    with safe_open(str(saved), "pt") as f:
        config = json.loads(f.metadata()["talking_machines"])
        tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
    config["dit"]["audio_kind"] = "own_q_kv_proj"
    save_file(tensors, str(saved), {"talking_machines": json.dumps(config)})
    with pytest.raises(InputError, match="audio_cross_attn"):
        load_model(saved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_loaded_model_is_ready_to_use(saved: Path, dtype: torch.dtype) -> None:
    model = load_model(saved, dtype=dtype)
    assert model.projector is not None
    parameters = [*model.dit.parameters(), *model.projector.parameters(), *model.vae.parameters()]
    assert {p.dtype for p in parameters} == {dtype} and not any(p.requires_grad for p in parameters)
    assert not model.dit.training and not model.vae.training


@pytest.mark.parametrize("kind", ["missing", "pickle", "truncated", "garbage", "foreign", "newer", "tensor missing", "wrong shape"])
def test_what_is_no_checkpoint_says_so(saved: Path, kind: str) -> None:
    with pytest.raises(InputError, match=r"^weights: ") as caught:
        load_model(damage(saved, kind))
    assert "\n" not in str(caught.value) and "; " in str(caught.value)


def test_the_bundled_model_is_small_half_precision_and_loads() -> None:
    path = default_weights()
    assert all(f.stat().st_size <= 16 * 2**20 for f in path.parent.glob("*.safetensors"))
    with safe_open(str(path), "pt") as f:
        assert {f.get_tensor(k).dtype for k in f.keys()} == {torch.float16}  # noqa: SIM118
    assert load_model().config == tiny()


def test_a_mouth_head_is_saved_with_its_autoencoder_and_may_be_missing(saved: Path) -> None:
    model = load_model(saved)
    vae = model.vae
    assert isinstance(vae, TinyVAE) and vae.mouth is None, "a file without one loads as before"
    vae.mouth = new_mouth_head(vae)
    save_model(model, saved)
    again = load_model(saved).vae
    assert isinstance(again, TinyVAE) and again.mouth is not None
    for name, value in vae.mouth.state_dict().items():
        torch.testing.assert_close(again.mouth.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    assert not any(p.requires_grad for p in again.mouth.parameters())


def test_the_bundled_model_takes_its_mouth_from_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = new_mouth_head(TinyVAE(tiny().vae or VAEConfig()))
    monkeypatch.setattr(loading, "default_mouth", lambda: tmp_path / "mouth.safetensors")
    assert load_model().vae.mouth is None
    save_mouth(head, tmp_path / "mouth.safetensors")
    assert (tmp_path / "mouth.safetensors").stat().st_size < 2**20
    found = load_model().vae.mouth
    torch.testing.assert_close(found.state_dict()["teeth"], head.state_dict()["teeth"], atol=1e-3, rtol=1e-3)
