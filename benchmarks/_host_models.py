"""Runs inside a ComfyUI's own Python: open checkpoints at small size as the host's MODEL, used by the host's own nodes.

Usage: python _host_models.py COMFYUI_FOLDER REPOSITORY; the last line is JSON. Started by parity.py and tests/host.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

SIZES = {"dim": 256, "ffn_dim": 512, "num_heads": 2, "num_layers": 2, "text_dim": 4096, "text_len": 8, "freq_dim": 256, "audio_dim": 24}
LATENTS, SIDE, STEPS = 3, 8, 2


def load_pack(folder: str, repository: str) -> Any:
    """The pack as the host imports it, on the CPU whatever the machine has."""
    sys.path[:0] = [folder, repository]
    importlib.import_module("comfy.cli_args").args.cpu = True
    spec = importlib.util.spec_from_file_location("tm_pack", f"{repository}/__init__.py", submodule_search_locations=[repository])
    assert spec and spec.loader
    pack = importlib.util.module_from_spec(spec)
    sys.modules["tm_pack"] = pack
    spec.loader.exec_module(pack)
    return importlib.import_module("tm_pack.nodes.hosted")


def write_files(folder: Path) -> dict[str, Path]:
    """A base, an adapter of each kind and a LoRA, random weights under true names."""
    config, dit = (importlib.import_module(f"tm_pack.tm_core.{m}") for m in ("config", "model.dit"))
    projectors = importlib.import_module("tm_pack.tm_core.model.open_projectors")
    golden, save = importlib.import_module("benchmarks._seeded"), importlib.import_module("safetensors.torch").save_file

    def tensors(kind: str, memory_stride: int = 0) -> dict[str, torch.Tensor]:
        model = dit.TalkingDiT(config.DiTConfig(**SIZES, audio_kind=kind, memory_stride=memory_stride))
        golden.fill_module(model)
        return dict(model.state_dict())

    base = tensors("none")
    files = {"base": base}
    sound = {
        "fantasytalking": ("shared_q_kv", "proj_model.", projectors.FantasyProjector(
            projectors.FantasyProjectorConfig(audio_dim=16, dim=24))),
        "infinitetalk": ("own_q_kv_proj", "audio_proj.", projectors.GroupedProjector(projectors.GroupedProjectorConfig(
            audio_dim=2, hidden=8, dim=24, tokens=3)))}
    for name, (kind, prefix, projector) in sound.items():
        golden.fill_module(projector)
        files[name] = {k: v for k, v in tensors(kind).items() if k not in base}
        files[name] |= {prefix + k: v for k, v in projector.state_dict().items()}
    memory = {k: v for k, v in tensors("own_q_kv_proj", 5).items() if ".memory_proj_" in k}
    files["liveact"] = files["infinitetalk"] | memory
    target = "diffusion_model.blocks.0.self_attn.q"
    files["lora"] = {f"{target}.lora_A.weight": golden.numbers("a", (4, 256)), f"{target}.lora_B.weight": golden.numbers("b", (256, 4))}
    files["fp8"] = scaled(base)
    for name, content in files.items():
        save(content, str(folder / f"{name}.safetensors"))
    return {name: folder / f"{name}.safetensors" for name in files}


def scaled(base: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The base as a scaled fp8 file of the host's kind."""
    found: dict[str, torch.Tensor] = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for key, value in base.items():
        if key.startswith("blocks.") and key.endswith("weight") and value.dim() == 2:
            scale = value.abs().max() / 448
            found[key] = (value / scale).to(torch.float8_e4m3fn)
            found[key.removesuffix("weight") + "scale_weight"] = scale.float()
        else:
            found[key] = value
    return found


def condition() -> list[Any]:
    """Text, picture and CLIP tokens as the host's nodes hand them on."""
    numbers = importlib.import_module("benchmarks._seeded").numbers

    class ClipVision:
        penultimate_hidden_states = numbers("clip", (1, 257, 1280))

    mask = torch.ones(1, 4, LATENTS, SIDE, SIDE)
    mask[:, :, :1] = 0
    picture = numbers("picture", (1, 16, LATENTS, SIDE, SIDE))
    extra = {"concat_latent_image": picture, "concat_mask": mask, "clip_vision_output": ClipVision()}
    return [[numbers("text", (1, 8, 4096)), extra]]


def ksampler(model: Any, seed: int = 3) -> torch.Tensor:
    """The host's KSampler; latents (1, 16, F, h, w)."""
    empty = {"samples": torch.zeros(1, 16, LATENTS, SIDE, SIDE)}
    made = importlib.import_module("nodes").common_ksampler(model, seed, STEPS, 1.0, "euler", "simple", condition(), condition(), empty)
    latents: torch.Tensor = made[0]["samples"]
    return latents


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest, as a share of the first one's spread."""
    return ((a - b).abs().max() / a.std()).item()


def with_sound(model: Any, hosted: Any, mask: torch.Tensor | None = None) -> Any:
    """A clone that hears."""
    numbers, heard = importlib.import_module("benchmarks._seeded").numbers, model.clone()
    options = heard.model_options["transformer_options"] = dict(heard.model_options.get("transformer_options", {}))
    options[hosted.SOUND] = hosted.Sound(tokens=numbers("heard", (LATENTS, 3, 24)), mask=mask)
    return heard


@torch.inference_mode()
def main(folder: str, repository: str) -> dict[str, Any]:
    """Every check's number."""
    hosted = load_pack(folder, repository)
    sd, management = (importlib.import_module(f"comfy.{m}") for m in ("sd", "model_management"))
    advanced = importlib.import_module("comfy_extras.nodes_model_advanced")
    found: dict[str, Any] = {"version": importlib.import_module("comfyui_version").__version__}
    with tempfile.TemporaryDirectory() as kept:
        files = write_files(Path(kept))
        theirs = ksampler(sd.load_diffusion_model(str(files["base"])))
        model = hosted.load([files["base"]])
        plain = ksampler(model)
        found["native KSampler, host's own Wan"] = difference(theirs, plain)
        lora = importlib.import_module("comfy.utils").load_torch_file(str(files["lora"]), safe_load=True)
        changed = ksampler(sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0])
        found["LoRA changes"], found["LoRA removed"] = difference(plain, changed), difference(plain, ksampler(model))
        native_lora = ksampler(sd.load_lora_for_models(sd.load_diffusion_model(str(files["base"])), None, lora, 1.0, 0.0)[0])
        found["LoRA, host's own Wan"] = difference(native_lora, changed)
        shifted = advanced.ModelSamplingSD3().patch(model, 3.0)[0]
        found["shift changes"] = difference(plain, ksampler(shifted))
        found["fp8 weights"] = difference(plain, ksampler(hosted.load([files["base"]], weight_type="fp8_e4m3fn")))
        found["scaled fp8 file"] = difference(plain, ksampler(hosted.load([files["fp8"]])))
        found["scaled fp8 file, host's own Wan"] = difference(
            ksampler(sd.load_diffusion_model(str(files["fp8"]))), ksampler(hosted.load([files["fp8"]])))
        for name in ("fantasytalking", "infinitetalk", "liveact"):
            talking = hosted.load([files["base"], files[name]])
            found[f"{name}: silent"] = difference(plain, ksampler(talking))
            found[f"{name}: sound changes"] = difference(plain, ksampler(with_sound(talking, hosted)))
            found[f"{name}: zero mask"] = difference(plain, ksampler(with_sound(talking, hosted, torch.zeros(SIDE * SIDE // 4))))
        found["two models, first again"] = difference(plain, ksampler(model))
        found["interrupted"] = interrupted(model, management)
        found["freed"] = freed(hosted, files, management)
    return found


def interrupted(model: Any, management: Any) -> bool:
    """Whether a job stops when the user asks."""
    management.interrupt_current_processing()
    try:
        ksampler(model)
    except management.InterruptProcessingException:
        return True
    finally:
        management.interrupt_current_processing(False)
    return False


def freed(hosted: Any, files: dict[str, Path], management: Any) -> float:
    """MB that stay after twenty models were loaded, used and dropped."""
    def once() -> None:
        model = hosted.load([files["base"], files["infinitetalk"]])
        ksampler(model)
        del model
        management.unload_all_models()
        management.cleanup_models_gc()
        gc.collect()

    for _ in range(3):
        once()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(17):
        once()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:3])))
