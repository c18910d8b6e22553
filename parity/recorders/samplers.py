"""Records what official samplers do with a stand-in network and autoencoder: parity/goldens/NAME_sampler.safetensors.

    python -m parity.recorders.samplers flashtalk|flashtalk_colour|infinitetalk|multitalk|fantasytalking FOLDER COMMIT

FOLDER is a checkout of Soul-AILab/SoulX-FlashTalk, MeiGen-AI/InfiniteTalk, MeiGen-AI/MultiTalk or
Fantasy-AMAP/fantasy-talking at that commit; needs einops, tqdm and Pillow. Whole sampling loops run, two clips where a
family has them: motion latents, guidance, timesteps. The noise they drew is recorded too, since their generator is not
ours. parity/open_models.py runs ours on the same stand-ins. flashtalk_colour is FlashTalk's colour correction, alone
and within its sampler. What the stand-ins cannot see: CLIP tokens.

Shapes: C latent channels, F latents, M motion latents, T frames, h x w latents and (the stand-in enlarges nothing) pictures.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from parity.recorders.official import ACCELERATORS, absent, import_from, package, save, stand_in, stand_in_diffusers
from parity.seeded import numbers

LATENTS, MOTION, SIDE = 9, 2, 4
LED = 3  # motion latents of InfiniteTalk and, fewer than its own seven, of MultiTalk
FRAMES, NEW = 1 + 4 * (LATENTS - 1), 4 * (LATENTS - LED)  # of a clip; that a later one adds
REPOSITORIES = {
    "flashtalk": "Soul-AILab/SoulX-FlashTalk", "infinitetalk": "MeiGen-AI/InfiniteTalk", "multitalk": "MeiGen-AI/MultiTalk",
    "fantasytalking": "Fantasy-AMAP/fantasy-talking"}


@dataclass(frozen=True)
class Case:
    """One way to sample: steps, shift of the levels, scales of guidance."""

    steps: int
    shift: float
    text: float
    audio: float

    @property
    def name(self) -> str:
        """Prefix of what is recorded."""
        return f"{self.steps} steps, text {self.text:g}, sound {self.audio:g}"


MULTITALK_CASES = (Case(4, 7.0, 5.0, 4.0), Case(3, 11.0, 5.0, 4.0), Case(3, 2.0, 1.0, 2.0))
FANTASY_CASES = (Case(4, 5.0, 5.0, 5.0), Case(3, 5.0, 1.0, 4.0))
MULTITALK_LEVELS, FANTASY_LEVELS = Case(40, 7.0, 1.0, 1.0), Case(30, 5.0, 1.0, 1.0)
COLOUR_STRENGTHS = (0.3, 1.0)
COLOUR_STRENGTH = 0.7  # within the sampler


# -- stand-ins, ours and theirs ---------------------------------------------------------------------------------------


def velocity(x: Tensor, timestep: Tensor, heard: Tensor, said: Tensor | None = None, given: Tensor | None = None) -> Tensor:
    """A stand-in network: depends on every latent, on the noise level and on the sound (F,); x (..., C, F, h, w).

    And where they are given on the prompt, and on all latents of Wan's conditioning (..., 4 + C, F, h, w).
    """
    mixed = 0.5 * x + 0.3 * x.mean(-3, keepdim=True) + heard[:, None, None]
    if said is not None and given is not None:
        mixed = mixed + said.mean() + given.mean(-4, keepdim=True) + given.mean((-4, -3), keepdim=True)
    return torch.tanh(mixed) * (0.5 + timestep.reshape(-1)[0] / 1000)


def decode(latents: Tensor) -> Tensor:
    """A stand-in autoencoder: (16, F, h, w) -> (1, 3, 1 + 4 (F - 1), h, w)."""
    first, rest = latents[:3, :1], latents[:3, 1:].repeat_interleave(4, 1)
    ramp = 0.1 * torch.arange(rest.shape[1])[None, :, None, None]
    return torch.cat([first, rest + ramp], 1)[None].tanh()


def encode(frames: Tensor) -> Tensor:
    """(1, 3, 1 + 4 k, h, w) -> (16, 1 + k, h, w)."""
    kept = torch.cat([frames[0, :, :1], frames[0, :, 4::4]], 1)
    return kept.repeat(6, 1, 1, 1)[:16]


def picture() -> np.ndarray:
    """The portrait, uint8 (h, w, 3)."""
    return (127.5 + 60 * numbers("picture", (SIDE, SIDE, 3)).numpy()).clip(0, 255).astype(np.uint8)


def prompt(name: str) -> Tensor:
    """Text tokens (1, D) of a prompt."""
    return numbers(f"prompt {name}", (1, 4))


def features() -> Tensor:
    """A sound's features (T, 1, 1) for two clips and what their windows reach beyond."""
    return numbers("sound", (FRAMES + NEW + 10, 1, 1))


def heard_in(windows: Tensor) -> Tensor:
    """What the stand-in network hears of windows (1, T, 5, 1, 1): the mean of those that MultiTalk's model groups, (F,)."""
    frames = windows[0, :, :, 0, 0]
    later = frames[1:].unflatten(0, (-1, 4))
    grouped = torch.cat([later[:, 0, :3], later[:, 1:3, 2], later[:, 3, 2:]], 1)
    return torch.cat([frames[:1].mean(1), grouped.mean(1)])


def colour_frames(name: str = "frames", count: int = 4) -> Tensor:
    """Pictures (T, 3, H, W) in 0..1, each with its tint, some values at the ends of the range."""
    tint = 0.15 * numbers(f"{name} tint", (count, 3, 1, 1))
    return (0.45 + tint + 0.25 * numbers(name, (count, 3, 12, 10))).clamp(0, 1)


@contextmanager
def watching(drawn: list[Tensor], draw_name: str = "randn") -> Iterator[None]:
    """Keeps what torch.randn, or another drawing function, draws meanwhile."""
    draw = getattr(torch, draw_name)

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        drawn.append(draw(*args, **kwargs))
        return drawn[-1]

    setattr(torch, draw_name, watched)
    try:
        yield
    finally:
        setattr(torch, draw_name, draw)


class Network(nn.Module):
    """The stand-in as MultiTalk's relatives and FantasyTalking ask it; keeps the levels at which it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[float] = []

    def disable_teacache(self) -> None: ...

    def forward(
        self, x: Any, t: Tensor | None = None, context: Any = None, y: Any = None, audio: Tensor | None = None, *,
        timestep: Tensor | None = None, audio_proj: Tensor | None = None, audio_scale: float = 1.0, **_: Any,
    ) -> Any:
        time = t if timestep is None else timestep
        assert time is not None
        if not self.levels or self.levels[-1] != float(time) / 1000:
            self.levels.append(float(time) / 1000)
        if audio is not None:
            return [velocity(x[0], time, heard_in(audio), context[0], y[0])]
        assert audio_proj is not None
        return velocity(x, time, audio_proj.flatten() * audio_scale, context, y[0])


class Autoencoder:
    """The stand-in as both ask it; keeps what was decoded. `stride`: every which pixel is looked at."""

    def __init__(self, stride: int = 1) -> None:
        self.decoded: list[Tensor] = []
        self.stride = stride

    def encode(self, frames: Any, **_: Any) -> list[Tensor]:
        whole = frames if isinstance(frames, Tensor) else torch.stack(frames)
        return [encode(whole[..., :: self.stride, :: self.stride])]

    def decode(self, latents: Any, **_: Any) -> list[Tensor]:
        self.decoded.append(latents[0])
        return [decode(latents[0])[0]]


# -- SoulX-FlashTalk --------------------------------------------------------------------------------------------------


def flashtalk_code(folder: Path) -> tuple[Any, Any]:
    """Its pipeline's module, and the one with its colour correction."""
    stand_in("loguru", logger=logging)
    stand_in("transformers", Wav2Vec2FeatureExtractor=None)
    inner = "flash_talk.infinite_talk"
    package(folder, "flash_talk", "flash_talk.src", "flash_talk.src.pipeline", inner, f"{inner}.utils")
    absent(*ACCELERATORS, "pyloudnorm", "flash_talk.wan.modules", f"{inner}.modules.multitalk_model", f"{inner}.audio_analysis.wav2vec2")
    torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]
    pipeline = importlib.import_module("flash_talk.src.pipeline.flash_talk_pipeline")
    return pipeline, importlib.import_module(f"{inner}.utils.multitalk_utils")


def flashtalk_clips(official: Any, times: list[float], strength: float = 0.0) -> dict[str, Tensor]:
    """Two clips, and the noises in the order in which they were drawn."""
    noises: list[Tensor] = []
    levels = [official.timestep_transform(torch.tensor([t]), shift=5.0) for t in [*times, 0.0]]
    place = types.SimpleNamespace(
        cpu_offload=False, arg_c={}, frame_num=FRAMES, lat_h=SIDE, lat_w=SIDE, param_dtype=torch.float32, device="cpu",
        generator=torch.Generator().manual_seed(0), latent_motion_frames=numbers("portrait", (16, 1, SIDE, SIDE)),
        timesteps=levels, num_timesteps=1000, rank=1, model=lambda x, t, audio: [velocity(x[0], t, audio)],
        color_correction_strength=strength, motion_frames_num=1 + 4 * (MOTION - 1),
        original_color_reference=torch.from_numpy(picture()).permute(2, 0, 1)[None, :, None] / 127.5 - 1,
        vae=types.SimpleNamespace(decode=decode, encode=encode))
    with watching(noises):
        found = {f"clip {i}": official.FlashTalkPipeline.generate(place, numbers(f"sound {i}", (LATENTS,))) for i in range(2)}
    return {**found, "noises": torch.stack(noises)}


def flashtalk(folder: Path) -> dict[str, Tensor]:
    """Four steps and two: motion latents, renoising, shifted timesteps."""
    official, _ = flashtalk_code(folder)
    found = {}
    for count, times in {4: [1000.0, 750.0, 500.0, 250.0], 2: [1000.0, 500.0]}.items():
        found |= {f"{count} steps, {name}": value for name, value in flashtalk_clips(official, times).items()}
    return found


def flashtalk_colour(folder: Path) -> dict[str, Tensor]:
    """Corrected pictures (T, 3, H, W) in 0..1 by strength, and two clips of the sampler with the correction."""
    official, utilities = flashtalk_code(folder)
    frames, reference = colour_frames(), colour_frames("reference", 1)
    chunk, still = frames.transpose(0, 1)[None] * 2 - 1, reference.transpose(0, 1)[None] * 2 - 1
    found = {
        f"frames, strength {s:g}": (utilities.match_and_blend_colors_torch(chunk, still, s)[0].transpose(0, 1) + 1) / 2
        for s in COLOUR_STRENGTHS}
    return {**found, **flashtalk_clips(official, [1000.0, 750.0, 500.0, 250.0], COLOUR_STRENGTH)}


# -- MultiTalk and InfiniteTalk ---------------------------------------------------------------------------------------


def multitalk_code(folder: Path) -> Any:
    """The module wan.multitalk of either, with a bucket of our picture's size."""
    inspect.ArgSpec = None  # type: ignore[attr-defined]  # imported, not used; gone since Python 3.11
    stand_in_diffusers()
    package(folder, "wan", "wan.modules", "wan.distributed", "wan.utils")
    stand_in("wan.utils.multitalk_utils", ASPECT_RATIO_627={"1.00": ([SIDE, SIDE], 1)})
    stand_in("wan.utils.utils", extract_specific_frames=lambda *_: Image.fromarray(picture()), get_video_codec=lambda _: "none")
    modules = ("clip", "multitalk_model", "t5", "vae")
    absent(
        *ACCELERATORS, *(f"wan.modules.{m}" for m in modules), "wan.distributed.fsdp", "wan.wan_lora", "accelerate",
        "diffusers.models.modeling_utils", "optimum.quanto.nn.qlinear", "src.vram_management")
    official: Any = importlib.import_module("wan.multitalk")
    official.torch_gc = lambda: None
    cropping = types.SimpleNamespace(center_crop=lambda image, size: image)  # the picture has its bucket's size
    official.transforms = types.SimpleNamespace(functional=cropping)
    return official


def multitalk_place(pipeline: Any) -> Any:
    """Its pipeline with our stand-ins, without its __init__."""
    def texts(names: list[str], device: torch.device) -> list[Tensor]:
        return [prompt(name) for name in names]

    texts.model = still = types.SimpleNamespace(to=lambda device: None)  # type: ignore[attr-defined]
    place = pipeline.__new__(pipeline)
    vars(place).update(
        device=torch.device("cpu"), param_dtype=torch.float32, vae_stride=(4, 1, 1), patch_size=(1, 2, 2), sp_size=1, rank=0,
        num_timesteps=1000, use_timestep_transform=True, sample_neg_prompt="negative", t5_cpu=False, vram_management=False,
        text_encoder=texts, clip=types.SimpleNamespace(model=still, visual=lambda x: x[:, 0, 0]),
        model=Network(), vae=Autoencoder())
    return place


def multitalk_run(pipeline: Any, method: str, case: Case, frames: int, seen: Path) -> tuple[Any, Tensor, dict[str, list[Tensor]]]:
    """The pipeline after its run, all its frames (3, T, h, w), what it drew."""
    place, drawn = multitalk_place(pipeline), {"randn": [], "randn_like": []}
    said = {
        "prompt": "positive", "cond_video": str(seen / "picture.png"), "cond_image": str(seen / "picture.png"),
        "cond_audio": {"person1": str(seen / "sound.pt")}}
    with watching(drawn["randn"]), watching(drawn["randn_like"], "randn_like"):
        made = getattr(place, method)(
            said, motion_frame=1 + 4 * (LED - 1), frame_num=FRAMES, shift=case.shift, sampling_steps=case.steps,
            text_guide_scale=case.text, audio_guide_scale=case.audio, seed=0, offload_model=False, max_frames_num=frames,
            progress=False, extra_args=types.SimpleNamespace(use_teacache=False, use_apg=False))
    return place, made, drawn


def multitalk_like(folder: Path, pipeline: str, method: str) -> dict[str, Tensor]:
    """Latents (C, F, h, w) of two clips, frames (3, T, h, w), what was drawn, and the levels of the family's own steps."""
    official, found = getattr(multitalk_code(folder), pipeline), {}
    with tempfile.TemporaryDirectory() as seen:
        Image.fromarray(picture()).save(Path(seen) / "picture.png")
        torch.save(features(), Path(seen) / "sound.pt")
        for case in MULTITALK_CASES:
            place, frames, drawn = multitalk_run(official, method, case, FRAMES + NEW, Path(seen))
            made = {"frames": frames, "noises": torch.stack(drawn["randn"]), "motion noises": torch.stack(drawn["randn_like"])}
            made |= {f"clip {i}": latents for i, latents in enumerate(place.vae.decoded)}
            found |= {f"{case.name}, {name}": value for name, value in made.items()}
        place, *_ = multitalk_run(official, method, MULTITALK_LEVELS, FRAMES, Path(seen))
    return {**found, f"levels of {MULTITALK_LEVELS.steps} steps": torch.tensor(place.model.levels)}


def infinitetalk(folder: Path) -> dict[str, Tensor]:
    """Motion latents stand clean."""
    return multitalk_like(folder, "InfiniteTalkPipeline", "generate_infinitetalk")


def multitalk(folder: Path) -> dict[str, Tensor]:
    """Motion frames are the picture that is given, their latents as noisy as the rest."""
    return multitalk_like(folder, "MultiTalkPipeline", "generate")


# -- FantasyTalking ---------------------------------------------------------------------------------------------------


def fantasy_pipeline(folder: Path) -> Any:
    """Its pipeline with our stand-ins."""
    package(folder, "diffsynth", "diffsynth.pipelines", "diffsynth.schedulers")
    models = ("wan_video_dit", "wan_video_image_encoder", "wan_video_text_encoder", "wan_video_vae")
    absent(
        "torchvision.transforms", "diffsynth.models", "diffsynth.prompters", "diffsynth.vram_management",
        *(f"diffsynth.models.{m}" for m in models))
    pipe = import_from(folder, "diffsynth.pipelines.wan_video").WanVideoPipeline(device="cpu", torch_dtype=torch.float32)
    pipe.prompter = types.SimpleNamespace(encode_prompt=lambda name, positive: prompt(name))
    pipe.image_encoder = types.SimpleNamespace(encode_image=lambda images: images[0])
    pipe.dit, pipe.vae = Network(), Autoencoder(stride=8)
    return pipe


def fantasytalking(folder: Path) -> dict[str, Tensor]:
    """Latents (C, F, h, w) of one clip, the noise, and the levels of the family's own steps."""
    found = {}
    still = Image.fromarray(picture()).resize((8 * SIDE, 8 * SIDE), Image.Resampling.NEAREST)
    for case in (*FANTASY_CASES, FANTASY_LEVELS):
        pipe, drawn = fantasy_pipeline(folder), []
        with watching(drawn):
            pipe(
                "positive", "negative", input_image=still, seed=0, height=8 * SIDE, width=8 * SIDE, num_frames=FRAMES,
                cfg_scale=case.text, audio_cfg_scale=case.audio, num_inference_steps=case.steps, sigma_shift=case.shift,
                progress_bar_cmd=list, audio_scale=1.0, audio_proj=numbers("sound 0", (1, LATENTS, 1, 1)))
        if case is FANTASY_LEVELS:
            found[f"levels of {case.steps} steps"] = torch.tensor(pipe.dit.levels)
        else:
            found |= {f"{case.name}, clip 0": pipe.vae.decoded[0], f"{case.name}, noises": drawn[0]}
    return found


@torch.inference_mode()
def main(name: str, folder: str, commit: str) -> None:
    """Write one file."""
    recorded: dict[str, Tensor] = globals()[name](Path(folder))
    repository = REPOSITORIES[name.removesuffix("_colour")]
    file = name if name.endswith("_colour") else f"{name}_sampler"
    save(file, {k: v.float() for k, v in recorded.items()}, repository=f"https://github.com/{repository}", commit=commit)
    for key, value in recorded.items():
        logging.info("%s %s", key, tuple(value.shape))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(*sys.argv[1:4])
