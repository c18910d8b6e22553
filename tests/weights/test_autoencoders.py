"""Autoencoder files: recognised by their keys, strict, read tensor by tensor; what is none says what it looks like."""

from __future__ import annotations

import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tm_core.errors import InputError
from tm_core.vae.taehv import TAEHV
from tm_core.vae.wan import WanVAE
from tm_core.weights import files
from tm_core.weights.autoencoders import load_autoencoder


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    save_file(WanVAE(8).state_dict(), tmp_path / "wan.safetensors")
    return tmp_path / "wan.safetensors"


def write(path: Path, *keys: str, shape: tuple[int, ...] = (1,)) -> Path:
    save_file({key: torch.zeros(shape) for key in keys}, path)
    return path


@pytest.mark.parametrize(("kind", "net"), [(WanVAE, lambda: WanVAE(8)), (TAEHV, TAEHV)], ids=["Wan", "TAEHV"])
def test_a_file_is_recognised_and_loaded(tmp_path: Path, kind: type, net: Any) -> None:
    saved = net().eval()
    save_file(saved.state_dict(), tmp_path / "a.safetensors")
    vae: Any = load_autoencoder(tmp_path / "a.safetensors")
    assert type(vae) is kind and not vae.training
    assert all(torch.equal(value, saved.state_dict()[key]) for key, value in vae.state_dict().items())
    assert not any(p.requires_grad for p in vae.parameters())
    latents = torch.randn(1, 16, 2, 1, 2)
    with torch.no_grad():
        assert torch.equal(vae.decode(latents, vae.open_decoder(None))[0], saved.decode(latents, saved.open_decoder(None))[0])


def test_the_type_is_the_callers(wan: Path) -> None:
    vae: Any = load_autoencoder(wan, dtype=torch.bfloat16)
    assert {p.dtype for p in vae.parameters()} == {torch.bfloat16}
    assert {p.device.type for p in vae.parameters()} == {"cpu"}


def test_layers_are_built_from_the_callers_operations(wan: Path) -> None:
    class Conv3d(torch.nn.Conv3d):
        pass

    class Operations:
        Conv2d = torch.nn.Conv2d

    Operations.Conv3d = Conv3d  # type: ignore[attr-defined]
    vae: Any = load_autoencoder(wan, operations=Operations)
    assert isinstance(vae.conv1, Conv3d)


def test_tensors_are_read_one_at_a_time(wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's copy of a tensor in another type is gone when the next is read."""
    alive: list[Any] = []
    most = 0
    read = files.TensorFile.get_tensor

    def watched(file: files.TensorFile, key: str) -> torch.Tensor:
        nonlocal most
        tensor = read(file, key)
        alive.append(weakref.ref(tensor))
        most = max(most, sum(r() is not None for r in alive))
        return tensor

    monkeypatch.setattr(files.TensorFile, "get_tensor", watched)
    load_autoencoder(wan, dtype=torch.bfloat16)
    assert len(alive) == 194 and most == 1


@pytest.mark.parametrize(("keys", "says"), [
    (["decoder.mid.block_1.norm1.weight"], "image autoencoder"),
    (["decoder.mid_block.attentions.0.to_qkv.weight"], "Wan's autoencoder under the names of diffusers"),
    (["blocks.0.self_attn.q.weight"], "a Wan diffusion model"),
    (["something.else"], "none of its keys (first: something.else)"),
], ids=lambda v: v[0] if isinstance(v, list) else "")
def test_a_stranger_is_named(tmp_path: Path, keys: list[str], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        load_autoencoder(write(tmp_path / "x.safetensors", *keys))


def test_the_wan22_autoencoder_has_its_own_message(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", "decoder.middle.0.residual.0.gamma", "decoder.head.0.gamma",
                 "decoder.upsamples.0.upsamples.0.residual.2.weight")
    with pytest.raises(InputError, match=r"Wan2\.2 autoencoder \(48 latent channels\).*wan_2\.1_vae"):
        load_autoencoder(path)


@pytest.mark.parametrize(("channels", "says"), [(48, "taew2_2"), (32, "taehv1_5")])
def test_a_tiny_autoencoder_of_other_latents_is_refused(tmp_path: Path, channels: int, says: str) -> None:
    save_file({"decoder.22.bias": torch.zeros(12), "decoder.1.weight": torch.zeros(256, channels, 3, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=f"{says}.*{channels} latent channels"):
        load_autoencoder(tmp_path / "x.safetensors")


def test_a_tiny_autoencoder_named_after_another_model_is_doubted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """HunyuanVideo's file has the same keys and shapes: only its name tells."""
    save_file(TAEHV().state_dict(), tmp_path / "taehv.safetensors")
    load_autoencoder(tmp_path / "taehv.safetensors")
    assert "another model's latents" in caplog.text


def test_names_must_match_exactly(wan: Path) -> None:
    whole = WanVAE(8).state_dict()
    for change, says in (
        ({"conv1.bias": None}, "without 1 of its tensors, first conv1.bias"),
        ({"decoder.extra": torch.zeros(1)}, "1 tensors too many, first decoder.extra"),
        ({"conv1.bias": torch.zeros(5)}, "conv1.bias is (5,), in WanVAE (32,)"),
    ):
        save_file({key: value for key, value in {**whole, **change}.items() if value is not None}, wan)
        with pytest.raises(InputError, match=re.escape(says)):
            load_autoencoder(wan)


def test_no_file_and_other_kinds_of_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_autoencoder(tmp_path / "none.safetensors")
    (tmp_path / "Wan2.1_VAE.pth").write_bytes(b"x")
    with pytest.raises(InputError, match=r"only \.safetensors"):
        load_autoencoder(tmp_path / "Wan2.1_VAE.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(InputError, match="damaged"):
        load_autoencoder(tmp_path / "cut.safetensors")
