"""Runs inside a ComfyUI's own Python: open checkpoints at small size as the host's MODEL, used by the host's own nodes.

Usage: python host_models.py COMFYUI_FOLDER REPOSITORY; the last line is JSON. Started by host.py, for `bench parity` and tests/host.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

LATENTS, SIDE, STEPS = 3, 8, 2
HOST_SHIFT = 8.0  # the host's default for Wan


def load_pack(folder: str, repository: str) -> Any:
    """The pack as the host imports it, on the CPU whatever the machine has."""
    sys.path[:0] = [folder, repository]
    importlib.import_module("comfy.cli_args").args.cpu = True
    spec = importlib.util.spec_from_file_location("tm_pack", f"{repository}/__init__.py", submodule_search_locations=[repository])
    assert spec and spec.loader
    pack = importlib.util.module_from_spec(spec)
    sys.modules["tm_pack"] = pack
    spec.loader.exec_module(pack)
    return importlib.import_module("tm_pack.nodes.host.wan")


def condition() -> list[Any]:
    """Text, picture and CLIP tokens as the host's nodes hand them on."""
    numbers = importlib.import_module("parity.seeded").numbers

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


def with_sound(model: Any, hosted: Any, region: Any = None) -> Any:
    """A clone that hears."""
    numbers, heard = importlib.import_module("parity.seeded").numbers, model.clone()
    options = heard.model_options["transformer_options"] = dict(heard.model_options.get("transformer_options", {}))
    speech, flags = model.model.diffusion_model.found.family.speech, torch.ones(LATENTS, dtype=torch.bool)
    features = numbers("heard", (13, 12, 2) if speech.per_frame else (28, 16))
    rule = speech.windows(num_tokens=28, num_frames=13)
    options[hosted.SOUND] = hosted.Sound(windows=lambda latents: rule.windows(features, latents), speaking=lambda _: flags, region=region)
    return heard


@torch.inference_mode()
def main(folder: str, repository: str) -> dict[str, Any]:
    """Every check's number."""
    hosted = load_pack(folder, repository)
    sd, management = (importlib.import_module(f"comfy.{m}") for m in ("sd", "model_management"))
    advanced = importlib.import_module("comfy_extras.nodes_model_advanced")
    def loaded(paths: list[Path], **options: Any) -> Any:
        return advanced.ModelSamplingSD3().patch(hosted.load(paths, **options), HOST_SHIFT)[0]

    found: dict[str, Any] = {"version": importlib.import_module("comfyui_version").__version__}
    with tempfile.TemporaryDirectory() as kept:
        files = importlib.import_module("parity.open_files").write_models(Path(kept))
        theirs = ksampler(sd.load_diffusion_model(str(files["base"])))
        own = hosted.load([files["base"]])
        model = advanced.ModelSamplingSD3().patch(own, HOST_SHIFT)[0]  # families have shifts of their own
        plain = ksampler(model)
        found["native KSampler, host's own Wan"] = difference(theirs, plain)
        lora = importlib.import_module("comfy.utils").load_torch_file(str(files["lora"]), safe_load=True)
        changed = ksampler(sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0])
        found["LoRA changes"], found["LoRA removed"] = difference(plain, changed), difference(plain, ksampler(model))
        native_lora = ksampler(sd.load_lora_for_models(sd.load_diffusion_model(str(files["base"])), None, lora, 1.0, 0.0)[0])
        found["LoRA, host's own Wan"] = difference(native_lora, changed)
        found["shift changes"] = difference(plain, ksampler(own))
        found["family's shift"] = difference(ksampler(own), ksampler(advanced.ModelSamplingSD3().patch(model, 3.0)[0]))
        found["fp8 weights"] = difference(plain, ksampler(loaded([files["base"]], weight_type="fp8_e4m3fn")))
        found["scaled fp8 file"] = difference(plain, ksampler(loaded([files["fp8"]])))
        found["scaled fp8 file, host's own Wan"] = difference(
            ksampler(sd.load_diffusion_model(str(files["fp8"]))), ksampler(loaded([files["fp8"]])))
        for name in ("fantasytalking", "infinitetalk", "liveact"):
            talking = loaded([files["base"], files[name]])
            found[f"{name}: silent"] = difference(plain, ksampler(talking))
            found[f"{name}: sound changes"] = difference(plain, ksampler(with_sound(talking, hosted)))
            found[f"{name}: zero mask"] = difference(plain, ksampler(with_sound(talking, hosted, np.zeros((64, 64), np.float32))))
        compiled = importlib.import_module("comfy_extras.nodes_torch_compile").TorchCompileModel.execute(talking, "eager")[0]
        found["TorchCompileModel, not compiled"] = difference(ksampler(with_sound(talking, hosted)), ksampler(with_sound(compiled, hosted)))
        found["TorchCompileModel, a kernel by name, not compiled"] = compiled_with_a_kernel(
            lambda: loaded([files["base"], files["infinitetalk"]]), lambda m: ksampler(with_sound(m, hosted)))
        found["two models, first again"] = difference(plain, ksampler(model))
        found["interrupted"] = interrupted(model, management)
        found["freed"] = freed(hosted, files, management)
        found["states"] = states_held(Path(repository), management)
        found["kernels"] = [kernel_calls(lambda: loaded([files["base"]]), plain, chosen) for chosen in (False, True)]
    return found


def compiled_with_a_kernel(load: Callable[[], Any], sample: Callable[[Any], torch.Tensor]) -> float:
    """Of a model that attends by the host's kernel, in which graphs break: compiled (traced only) against not compiled."""
    args = importlib.import_module("comfy.cli_args").args
    compile_node = importlib.import_module("comfy_extras.nodes_torch_compile").TorchCompileModel
    args.use_split_cross_attention = True
    try:
        model = load()
        return difference(sample(model), sample(compile_node.execute(model, "eager")[0]))
    finally:
        args.use_split_cross_attention = False


def kernel_calls(load: Callable[[], Any], plain: torch.Tensor, chosen: bool) -> list[float]:
    """How often the host's attention ran in a job, with a kernel chosen by name or not, and how far the result is from the plain one."""
    args, kernels = importlib.import_module("comfy.cli_args").args, importlib.import_module("comfy.ldm.modules.attention")
    split, calls = kernels.attention_split, 0

    def counted(*given: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return split(*given, **options)

    before = kernels.optimized_attention
    kernels.optimized_attention, args.use_split_cross_attention = counted, chosen
    try:
        made = ksampler(load())
    finally:
        kernels.optimized_attention, args.use_split_cross_attention = before, False
    return [calls, difference(plain, made)]


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
    """MB that stay after ten models were loaded, used and dropped."""
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
    for _ in range(7):
        once()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def states_held(repository: Path, management: Any) -> list[bool]:
    """Whether a stream that was pulled once holds its sampler's state: before and after all models are unloaded, and pulled again."""
    names = ("tm_core.talk", "tm_core.weights.loading", "tm_core.model.talking", "nodes.host.states", "nodes.host.models")
    talk, loading, talking, states, models = (importlib.import_module(f"tm_pack.{name}") for name in names)
    assets = repository / "tm_core" / "assets"
    model = replace(loading.load_model(device=torch.device("cpu"), dtype=torch.float32), loader=models.HostWeights())
    stream = talk.animate(assets / "portraits" / "demo.jpg", next((assets / "speech").glob("*.wav")), model=model).latents
    states.watch([stream])
    found = []
    for _ in range(2):
        talking.load_weights(stream.needs(model.vae))
        next(chunks := stream.chunks())
        found.append(stream.holds_state)
        chunks.close()
        management.unload_all_models()
        found.append(stream.holds_state)
        stream.release()
    return found


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:3])))
