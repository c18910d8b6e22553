"""Open checkpoints are known by their keys: true names and shapes of all families, recorded by parity/recorders/layouts.py."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from parity.golden import GOLDENS
from tm_core.config import HistoryConfig, SamplerConfig
from tm_core.errors import InputError
from tm_core.families.registry import FAMILIES, expected, identify
from tm_core.streaming.compressed_sampler import checked

LAYOUTS: dict[str, Any] = json.loads((GOLDENS / "layouts.json").read_text())
Shapes = dict[str, tuple[int, ...]]


def published(name: str) -> Shapes:
    """The family's tensors by official name, blocks written out."""
    layout = LAYOUTS[name]
    found: Shapes = {}
    for key, shape in layout["tensors"].items():
        names = [key.replace("*", str(i)) for i in range(layout["blocks"])] if "*" in key else [key]
        found |= {n: tuple(shape) for n in names}
    return found


def adapter_of(name: str) -> Shapes:
    base = published("wan_i2v")
    return {k: v for k, v in published(name).items() if k not in base}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_published_tensor_is_accounted_for(name: str) -> None:
    found = identify([published(name)])
    assert found.family.name == name and set(found.names.values()) == set(published(name))
    ours = expected(found.dit, found.family.layout)
    assert set(ours) == set(found.names) and all(ours[k] == published(name)[v] for k, v in found.names.items())
    assert sum(math.prod(s) for s in ours.values()) == LAYOUTS[name]["parameters"]


def test_sizes_are_those_of_the_papers() -> None:
    counts = {name: layout["parameters"] / 1e9 for name, layout in LAYOUTS.items()}
    assert counts["wan_i2v"] == pytest.approx(16.4, abs=0.05)
    assert counts["fantasytalking"] - counts["wan_i2v"] == pytest.approx(0.84, abs=0.01)
    assert counts["infinitetalk"] - counts["wan_i2v"] == pytest.approx(2.49, abs=0.01)


@pytest.mark.parametrize("name", ["fantasytalking", "infinitetalk"])
def test_a_base_and_its_adapter_are_one_model_in_any_order(name: str) -> None:
    base, adapter = published("wan_i2v"), adapter_of(name)
    assert identify([base, adapter]) == identify([adapter, base])
    assert identify([base, adapter]).family.name == name


def test_the_two_spellings_of_fantasytalking_are_one() -> None:
    official = {f"audio_processor.{k}" if "processor" in k else k: v for k, v in adapter_of("fantasytalking").items()}
    wrapped = {k.replace(".processor.", "."): v for k, v in adapter_of("fantasytalking").items()}
    base = {f"model.diffusion_model.{k}": v for k, v in published("wan_i2v").items()}
    first, second = identify([published("wan_i2v"), official]), identify([base, wrapped])
    assert first.dit == second.dit and set(first.names) == set(second.names)


def test_a_wrapped_whole_checkpoint_is_the_same_model() -> None:
    plain = identify([published("infinitetalk")])
    wrapped = identify([{f"model.diffusion_model.{k}": v for k, v in published("infinitetalk").items()}])
    assert (wrapped.dit, wrapped.projector, set(wrapped.names)) == (plain.dit, plain.projector, set(plain.names))
    assert set(plain.projector) == {f"{n}.{p}" for n in ("proj1", "proj1_vf", "proj2", "proj3", "norm") for p in ("weight", "bias")}


def test_scales_of_fp8_files_are_no_surplus() -> None:
    base = published("wan_i2v")
    scales = {k.replace(".weight", ".scale_weight"): (1,) for k in base if k.endswith(".q.weight")}
    assert identify([base | scales | {"scaled_fp8": (2,)}]).family.name == "wan_i2v"


def test_a_preset_chooses_among_families_of_one_layout() -> None:
    files = [published("infinitetalk")]
    assert [identify(files, preset=p).family.clip_frames for p in ("multitalk", "infinitetalk", "flashtalk")] == [81, 81, 33]
    voices = {p: identify(files, preset=p).dit.voices for p in ("multitalk", "infinitetalk", "infinitetalk_multi", "flashtalk")}
    assert voices == {"multitalk": "together", "infinitetalk": "apart", "infinitetalk_multi": "together", "flashtalk": "apart"}
    with pytest.raises(InputError, match="choose multitalk, infinitetalk, infinitetalk_multi, flashtalk"):
        identify(files, preset="fantasytalking")
    with pytest.raises(InputError, match="choose one of wan_i2v"):
        identify(files, preset="other")


@pytest.mark.parametrize(("dim", "layers", "image"), [(1536, 30, True), (5120, 40, False)], ids=["1.3B I2V", "Wan2.2 I2V, no CLIP"])
def test_other_wan_sizes_that_take_a_picture(dim: int, layers: int, image: bool) -> None:
    def scaled(shape: tuple[int, ...]) -> tuple[int, ...]:
        factor = {5120: dim, 30720: 6 * dim, 13824: 8960 if dim == 1536 else 13824}
        return tuple(factor.get(n, n) for n in shape)

    files = {
        k: scaled(v) for k, v in published("wan_i2v").items()
        if not ((m := re.match(r"blocks\.(\d+)", k)) and int(m[1]) >= layers) and (image or "img" not in k)}
    found = identify([files]).dit
    assert (found.dim, found.num_layers, found.num_heads, found.image_dim) == (dim, layers, dim // 128, 1280 if image else None)


def changed(name: str, **edits: Any) -> Shapes:
    files = published(name)
    files["patch_embedding.weight"] = edits.get("patch", files["patch_embedding.weight"])
    for key in edits.get("without", ()):
        del files[key]
    return files | edits.get("extra", {})


@pytest.mark.parametrize(("files", "message"), [
    ([changed("wan_i2v", without=["blocks.7.ffn.2.bias"])], "Wan2.1 I2V.*1 of 1[0-9]* tensors are missing, first blocks.7.ffn.2.bias"),
    ([changed("wan_i2v", extra={"blocks.0.odd.weight": (3,)})], "1 tensors are of no use to it, first blocks.0.odd.weight"),
    ([changed("wan_i2v", patch=(5120, 16, 1, 2, 2))], "choose an image-to-video"),
    ([changed("infinitetalk", without=["audio_proj.proj1_vf.bias"])], "InfiniteTalk.*1 of .*first audio_proj.proj1_vf.bias"),
    ([changed("infinitetalk", without=["blocks.3.norm_x.bias"])], "InfiniteTalk.*first blocks.3.norm_x.bias"),
    ([adapter_of("fantasytalking")], "FantasyTalking adapter.*no model by itself"),
    ([adapter_of("infinitetalk")], "InfiniteTalk adapter.*no model by itself"),
    ([changed("wan_i2v", extra={"casual_audio_encoder.weights": (1, 25, 1, 1)})], "S2V.*injectors"),
    ([changed("wan_i2v", extra={"vace_blocks.0.x": (1,)})], "VACE"),
    ([{"transformer_blocks.0.x": (1,)}], "Diffusers"),
    ([{"something": (1,)}], "none is of a Wan model"),
    ([changed("wan_i2v", without=["text_embedding.0.weight"])], "has no text_embedding.0.weight"),
], ids=["partial", "surplus", "text to video", "partial projector", "partial adapter", "fantasy alone", "infinite alone", "s2v", "vace",
        "diffusers", "foreign", "no text"])
def test_what_cannot_run_says_what_it_is(files: list[Shapes], message: str) -> None:
    with pytest.raises(InputError, match=message):
        identify(files)


def test_an_adapter_of_another_size_says_which_tensor() -> None:
    base = published("wan_i2v")
    small = {k: tuple(1536 if n == 5120 else n for n in v) for k, v in adapter_of("fantasytalking").items()}
    with pytest.raises(InputError, match=r"k_proj.weight is \(1536, 2048\), not \(5120, 2048\)"):
        identify([base, small])


def test_liveacts_history_is_part_of_its_transformer_and_of_no_other() -> None:
    found = {name: identify([published(name)]) for name in LAYOUTS}
    assert {name for name, f in found.items() if f.dit.memory_stride} == {"liveact"} and found["liveact"].dit.memory_stride == 5
    named = {name: {k for k in expected(f.dit, f.family.layout) if ".memory_proj_" in k} for name, f in found.items()}
    assert len(named["liveact"]) == 80 and not any(keys for name, keys in named.items() if name != "liveact")


def test_liveacts_sampler_is_its_own() -> None:
    """Blocks of 6 and 8 latents, 3 steps of which the first skips the sound (generate.py of SoulX-LiveAct ac8579b)."""
    family = FAMILIES["liveact"]
    assert family.history is not None and family.timesteps is not None
    sampler = SamplerConfig(sigmas=tuple(t / 1000 for t in family.timesteps), history=family.history)
    assert checked(identify([published("liveact")]).dit, sampler) == (family.history, range(2, 12))
    assert family.history == HistoryConfig(first_latents=6, chunk_latents=8, anchor_latents=2, uses_audio=(False, True, True))
    assert family.clip_frames == 4 * family.history.chunk_latents and family.timesteps == (1000.0, 937.5, pytest.approx(833.33333333))


def test_families_say_what_a_sampler_needs() -> None:
    for family in FAMILIES.values():
        assert (family.clip_frames - 1) % 4 == 0 or family.mode == "sparse_causal"
        assert (family.history is not None) == (family.mode == "sparse_causal")
        assert family.timesteps is None or (len(family.timesteps) == family.steps and family.timesteps[0] == 1000)
        assert family.motion_frames == 0 or (family.motion_frames - 1) % 4 == 0
