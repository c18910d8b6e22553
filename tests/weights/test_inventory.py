"""What lies in a models folder: real small files under true names, headers of the true sizes, and whatever else people have."""

from __future__ import annotations

import json
import logging
import math
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from parity.seeded import fill_module
from tests.families.test_registry import adapter_of, published
from tm_core.audio.wav2vec2 import Wav2Vec2
from tm_core.config import AudioKind, DiTConfig
from tm_core.errors import InputError
from tm_core.families.registry import FAMILIES, advise, families_of
from tm_core.model.dit import TalkingDiT
from tm_core.model.open_projectors import FantasyProjector, FantasyProjectorConfig, GroupedProjector, GroupedProjectorConfig
from tm_core.vae.taehv import TAEHV
from tm_core.vae.wan import WanVAE
from tm_core.weights.inventory import BELONGS, FOLDERS, HOME, Readiness, default_folders, examine_file, readiness, search

Shapes = dict[str, tuple[int, ...]]
BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1}
SMALL = DiTConfig(dim=256, ffn_dim=128, num_heads=2, num_layers=2, text_dim=32, text_len=4, freq_dim=64, audio_kind="none", audio_dim=24)


def header_file(path: Path, shapes: Shapes, dtype: str = "BF16") -> Path:
    """A safetensors file with these tensors and their full length, its data a hole that takes no disk."""
    at, header = 0, {}
    for key, shape in shapes.items():
        size = math.prod(shape) * BYTES[dtype]
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + at)
    return path


def small(kind: AudioKind) -> dict[str, torch.Tensor]:
    """A small transformer's tensors; of an adapter's kind, the adapter's alone."""
    def tensors(of: AudioKind) -> dict[str, torch.Tensor]:
        dit = TalkingDiT(replace(SMALL, audio_kind=of))
        fill_module(dit)
        return dict(dit.state_dict())

    if kind == "none":
        return tensors(kind)
    base = tensors("none")
    own = {k: v for k, v in tensors(kind).items() if k not in base}
    if kind == "shared_q_kv":
        return own | {f"proj_model.{k}": v for k, v in FantasyProjector(FantasyProjectorConfig(audio_dim=16, dim=24)).state_dict().items()}
    projector = GroupedProjector(GroupedProjectorConfig(audio_dim=2, hidden=8, dim=24, tokens=3))
    return own | {f"audio_proj.{k}": v for k, v in projector.state_dict().items()}


def save(models: Path, name: str, tensors: dict[str, torch.Tensor]) -> Path:
    path = models / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(path))
    return path


def speech(head: str | None = None) -> Shapes:
    found = {f"wav2vec2.{k}": tuple(v.shape) for k, v in Wav2Vec2(device="meta").state_dict().items()}
    return found | ({head: (32, 768)} if head else {})


VAE = {k: tuple(v.shape) for k, v in WanVAE(device="meta").state_dict().items()}
TEXT: Shapes = {"shared.weight": (256384, 4096), "encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096)}
VISION: Shapes = {"vision_model.embeddings.position_embedding.weight": (257, 1280)}


def whole_kit(models: Path) -> None:
    """Everything InfiniteTalk needs, as headers of the true sizes."""
    header_file(models / "diffusion_models/wan2.1_i2v_480p_14B_fp16.safetensors", published("wan_i2v"), "F16")
    header_file(models / "model_patches/wan2.1_infiniteTalk_single_fp16.safetensors", adapter_of("infinitetalk"), "F16")
    header_file(models / "vae/wan_2.1_vae.safetensors", VAE)
    header_file(models / "text_encoders/umt5_xxl_fp16.safetensors", TEXT, "F16")
    header_file(models / "clip_vision/clip_vision_h.safetensors", VISION)
    header_file(models / "audio_encoders/wav2vec2-chinese-base_fp16.safetensors", speech(), "F16")


def by_family(models: Path) -> dict[str, Readiness]:
    return {r.family.name: r for r in readiness(search(models))}


def test_headers_of_the_true_sizes_are_read_at_once(tmp_path: Path) -> None:
    whole_kit(tmp_path)
    found = {f.path.name: f for f in search(tmp_path)}
    base = found["wan2.1_i2v_480p_14B_fp16.safetensors"]
    assert base.kind == "base" and base.parameters == 16394878784 and base.nbytes > 32e9 and base.dtypes == ("F16",)
    assert base.line() == f"Wan2.1 I2V, 40 blocks 5120 wide, 16.39 G parameters, {base.nbytes / 1e9:.2f} GB, F16"
    adapter = found["wan2.1_infiniteTalk_single_fp16.safetensors"]
    assert adapter.kind == "adapter" and adapter.what == "adapter of InfiniteTalk" and adapter.parameters == pytest.approx(2.49e9, rel=0.01)
    assert {f.kind for f in found.values()} == {"base", "adapter", "vae", "text encoder", "clip vision", "audio encoder"}


def test_a_family_is_complete_or_says_what_is_missing(tmp_path: Path) -> None:
    whole_kit(tmp_path)
    first = by_family(tmp_path)
    assert first["infinitetalk"].ok and first["wan_i2v"].ok and first["infinitetalk"].notes == ()
    assert first["infinitetalk"].have[:2] == ("base wan2.1_i2v_480p_14B_fp16.safetensors",
                                              "adapter wan2.1_infiniteTalk_single_fp16.safetensors")
    assert not first["multitalk"].ok, "the adapter's name says InfiniteTalk"
    fantasy = first["fantasytalking"].missing
    assert len(fantasy) == 2 and "adapter into models/model_patches" in fantasy[0]
    assert fantasy[1] == "audio encoder wav2vec2-base-960h into models/audio_encoders"


@pytest.mark.parametrize(("gone", "says"), [
    ("vae/wan_2.1_vae.safetensors", "wan_2.1_vae.safetensors.*models/vae"),
    ("text_encoders/umt5_xxl_fp16.safetensors", "text encoder umT5-XXL into models/text_encoders"),
    ("audio_encoders/wav2vec2-chinese-base_fp16.safetensors", "chinese-wav2vec2-base into models/audio_encoders"),
    ("diffusion_models/wan2.1_i2v_480p_14B_fp16.safetensors", "base Wan2.1 I2V 14B into models/diffusion_models"),
    ("model_patches/wan2.1_infiniteTalk_single_fp16.safetensors", "InfiniteTalk's adapter into models/model_patches"),
])
def test_each_part_that_is_gone_is_named(tmp_path: Path, gone: str, says: str) -> None:
    whole_kit(tmp_path)
    (tmp_path / gone).unlink()
    answer = by_family(tmp_path)["infinitetalk"]
    assert not answer.ok and len(answer.missing) == 1
    assert re.search(says, answer.missing[0])


@pytest.mark.parametrize(("kind", "family"), [("shared_q_kv", "fantasytalking"), ("own_q_kv_proj", "infinitetalk")])
def test_real_small_files_are_known_and_tried_together(tmp_path: Path, kind: AudioKind, family: str) -> None:
    save(tmp_path, "diffusion_models/a.safetensors", small("none"))
    save(tmp_path, "model_patches/b.safetensors", small(kind))
    answer = by_family(tmp_path)[family]
    assert answer.have == ("base a.safetensors", "adapter b.safetensors")
    if family == "infinitetalk":
        named = "MultiTalk or InfiniteTalk or InfiniteTalk multi or SoulX-FlashTalk"
        assert answer.notes[0] == f"b.safetensors may be {named}: only you can tell"


@pytest.mark.parametrize(("path", "names"), [
    ("wan2.1_infiniteTalk_single_fp16", ["infinitetalk"]), ("wan2.1_infiniteTalk_multi_fp16", ["infinitetalk_multi"]),
    ("multi/infinitetalk", ["infinitetalk_multi"]), ("single/infinitetalk", ["infinitetalk"]), ("multitalk", ["multitalk"]),
    ("SoulX-FlashTalk-14B", ["flashtalk"]), ("x", ["multitalk", "infinitetalk", "infinitetalk_multi", "flashtalk"])])
def test_names_tell_what_keys_cannot(path: str, names: list[str]) -> None:
    assert [f.name for f in families_of("multitalk", Path(f"{path}.safetensors"))] == names


@pytest.mark.parametrize(("file", "family", "says"), [
    ("wan2.1_infiniteTalk_multi_fp16", "infinitetalk", "speaks of InfiniteTalk multi: name the family infinitetalk_multi"),
    ("multitalk", "infinitetalk", "name the family multitalk"), ("wan2.1_infiniteTalk_single_fp16", "infinitetalk", ""),
    ("x", "infinitetalk", ""), ("wan2.1_infiniteTalk_multi_fp16", "flashtalk", ""), ("multi", "liveact", "")])
def test_a_name_that_speaks_of_another_family_is_told(caplog: pytest.LogCaptureFixture, file: str, family: str, says: str) -> None:
    """Only where nobody chose otherwise."""
    with caplog.at_level(logging.INFO, logger="tm_core"):
        advise(FAMILIES[family], [Path("wan2.1_i2v_480p_14B_fp16.safetensors"), Path(f"{file}.safetensors")])
    assert [says in r.message for r in caplog.records] == [True] * bool(says)


def test_an_adapter_of_another_size_does_not_make_a_pair(tmp_path: Path) -> None:
    save(tmp_path, "diffusion_models/small.safetensors", small("none"))
    header_file(tmp_path / "model_patches/x.safetensors", adapter_of("fantasytalking"))
    answer = by_family(tmp_path)["fantasytalking"]
    assert "an adapter that fits: x.safetensors with small.safetensors" in answer.missing[0]


@pytest.mark.parametrize("name", ["infinitetalk", "liveact"])
def test_whole_models_need_no_base(tmp_path: Path, name: str) -> None:
    found = examine_file(header_file(tmp_path / "diffusion_models/m.safetensors", published(name)), "diffusion_models")
    assert found.kind == "model" and FAMILIES[name].title in found.what and not found.misplaced
    answer = next(r for r in readiness([found]) if r.family.name == name)
    assert answer.have == ("model m.safetensors",)


@pytest.mark.parametrize(("shapes", "name", "encoders"), [
    (speech("lm_head.weight"), "x", ("wav2vec2-base-960h",)),
    (speech("quantizer.codevectors"), "x", ("chinese-wav2vec2-base",)),
    (speech(), "wav2vec2-chinese-base_fp16", ("chinese-wav2vec2-base",)),
    (speech(), "wav2vec2-base-960h", ("wav2vec2-base-960h",)),
    (speech(), "model", ("chinese-wav2vec2-base", "wav2vec2-base-960h")),
], ids=["transcribes", "pretrained", "named chinese", "named 960h", "nameless"])
def test_speech_encoders_are_told_apart_where_that_can_be_done(tmp_path: Path, shapes: Shapes, name: str, encoders: tuple[str]) -> None:
    found = examine_file(header_file(tmp_path / f"{name}.safetensors", shapes), "audio_encoders")
    assert found.kind == "audio encoder" and found.encoders == encoders
    assert ("does not say which" in found.what) == (len(encoders) == 2)


def test_a_doubtful_encoder_is_doubted(tmp_path: Path) -> None:
    header_file(tmp_path / "audio_encoders/model.safetensors", speech())
    assert "make sure that model.safetensors is wav2vec2-base-960h" in by_family(tmp_path)["fantasytalking"].notes


def test_the_small_files_of_our_own_kinds(tmp_path: Path, assets: Path) -> None:
    save(tmp_path, "vae_approx/taew2_1.safetensors", dict(TAEHV().state_dict()))
    save(tmp_path, "loras/l.safetensors", {f"diffusion_model.blocks.0.self_attn.q.lora_{x}.weight": torch.zeros(s)
                                           for x, s in (("A", (4, 256)), ("B", (256, 4)))})
    (tmp_path / "talking_machines").mkdir()
    bundled = assets / "weights" / "tiny.safetensors"
    (tmp_path / "talking_machines" / "t.safetensors").write_bytes(bundled.read_bytes())
    found = {f.kind: f for f in search(tmp_path)}
    assert found["vae"].what == "TAEHV, the fast VAE" and found["lora"].what == "LoRA of a Wan, rank 4"
    assert found["student"].what == "Talking Machines student"


USELESS: dict[str, tuple[Shapes, str]] = {
    "s2v": ({**published("wan_i2v"), "casual_audio_encoder.weights": (1, 25, 1, 1)}, "S2V.*12 injectors"),
    "vace": ({"vace_blocks.0.x": (1,)}, "VACE.*steered by video"),
    "diffusers": ({"transformer_blocks.0.x": (1,)}, "Diffusers"),
    "text to video": ({k: ((5120, 16, 1, 2, 2) if k == "patch_embedding.weight" else v) for k, v in published("wan_i2v").items()},
                      "takes 16 channels"),
    "partial": ({k: v for k, v in published("wan_i2v").items() if not k.startswith("blocks.7.")}, "tensors are missing"),
    "t5": ({"shared.weight": (32128, 4096)}, "32128 words.*umT5"),
    "small clip": ({"vision_model.embeddings.position_embedding.weight": (577, 1024)}, "577"),
    "large wav2vec2": ({**speech(), "wav2vec2.feature_extractor.conv_layers.1.layer_norm.weight": (512,)}, "large layout"),
    "wan22 vae": ({"decoder.middle.0.residual.0.gamma": (1,), "decoder.upsamples.0.upsamples.0.residual.2.weight": (1,)}, "48 latent"),
    "other lora": ({"lora_unet_down_blocks_0.lora_up.weight": (4, 4)}, "not of Wan"),
    "unknown": ({"something": (1,)}, "unknown.*something"),
    "empty": ({}, "none at all"),
    "absurd": ({"blocks.999999999.self_attn.q.weight": (1,), "patch_embedding.weight": (1,)}, "damaged"),
    "flat": ({"patch_embedding.weight": (1,), "blocks.0.self_attn.q.weight": (1,)}, "damaged: patch_embedding.weight"),
}


@pytest.mark.parametrize("name", USELESS)
def test_what_is_of_no_use_gets_one_line(tmp_path: Path, name: str) -> None:
    shapes, says = USELESS[name]
    found = examine_file(header_file(tmp_path / "x.safetensors", shapes), "diffusion_models")
    assert found.kind is None and re.search(says, found.line()), found.line()
    assert "\n" not in found.line()


def test_damaged_files_and_pickles_do_not_stop_the_search(tmp_path: Path) -> None:
    folder = tmp_path / "diffusion_models"
    save(tmp_path, "diffusion_models/z_good.safetensors", small("none"))
    (folder / "a_cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (folder / "b_huge_header.safetensors").write_bytes(b"\xff" * 64)
    (folder / "c.ckpt").write_bytes(b"\x80\x04K\x01.")
    (folder / "d.gguf").write_bytes(b"GGUF")
    (folder / "f_short.safetensors").write_bytes((folder / "z_good.safetensors").read_bytes()[:-1])
    (folder / "e_dangling.safetensors").symlink_to(tmp_path / "nowhere")
    (folder / "put_diffusion_model_files_here").write_text("")
    found = list(search(tmp_path))
    assert [f.kind for f in found] == [None] * 6 + ["base"]
    said = [f.line() for f in found]
    assert "damaged" in said[0] and "damaged" in said[1] and "only .safetensors" in said[2] and "only .safetensors" in said[3]
    assert "no such file" in said[4] and re.search(r"damaged \(it has \d+ bytes of \d+\)", said[5])


def test_a_file_in_the_wrong_folder_is_told_where_to_go_and_does_not_count(tmp_path: Path) -> None:
    header_file(tmp_path / "loras/umt5.safetensors", TEXT)
    found = list(search(tmp_path))
    assert found[0].kind == "text encoder" and found[0].line().endswith("belongs into models/text_encoders")
    assert all(any("text encoder" in m for m in r.missing) for r in readiness(found))


def test_both_names_of_a_folder_are_searched(tmp_path: Path) -> None:
    header_file(tmp_path / "unet/sub/w.safetensors", published("wan_i2v"))
    header_file(tmp_path / "clip/t.safetensors", TEXT)
    assert {f.kind for f in search(tmp_path)} == {"base", "text encoder"} and not any(f.misplaced for f in search(tmp_path))


def test_which_folder_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HOME, raising=False)
    monkeypatch.delenv("TM_HOST", raising=False)
    assert default_folders(tmp_path) == []
    (tmp_path / ".host/ComfyUI/models").mkdir(parents=True)
    assert default_folders(tmp_path) == [tmp_path / ".host/ComfyUI/models"]
    monkeypatch.setenv(HOME, str(tmp_path / "mine"))
    assert default_folders(tmp_path) == [tmp_path / "mine" / "models"]
    with pytest.raises(InputError, match="no such folder"):
        list(search(tmp_path / "mine" / "models"))


def test_every_kind_of_file_has_its_folder_and_the_documentation_names_them(repo_root: Path) -> None:
    assert {folder for folders in BELONGS.values() for folder in folders} == set(FOLDERS)
    text = (repo_root / "docs" / "adapters.md").read_text(encoding="ascii")
    assert all(f"`{folder}`" in text for folder in FOLDERS)

