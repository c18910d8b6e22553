"""Records what official samplers do with a stand-in network and autoencoder: tests/data/flashtalk_sampler.safetensors.

Usage: python tools/record_samplers.py FLASHTALK COMMIT, a checkout of Soul-AILab/SoulX-FlashTalk. Two clips of its
`FlashTalkPipeline.generate`, four steps and two: motion latents, renoising, shifted timesteps. The noise it drew is
recorded too, since its generator is not ours. tests/streaming/test_clips.py runs ours on the same stand-ins.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks._seeded import numbers
from tools.record_open_models import package, stand_in

LATENTS, MOTION, SIDE = 9, 2, 4
DATA = Path(__file__).parents[1] / "tests" / "data"


def velocity(x: Tensor, timestep: Tensor, heard: Tensor) -> Tensor:
    """A stand-in network: depends on every latent, on the noise level and on the sound (F,); x (..., C, F, h, w)."""
    mixed = 0.5 * x + 0.3 * x.mean(-3, keepdim=True) + heard[:, None, None]
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


@contextmanager
def watching(drawn: list[Tensor]) -> Iterator[None]:
    """Keeps what torch.randn draws meanwhile."""
    draw = torch.randn

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        drawn.append(draw(*args, **kwargs))
        return drawn[-1]

    torch.randn = watched
    try:
        yield
    finally:
        torch.randn = draw


def flashtalk(folder: Path) -> dict[str, Tensor]:
    """Clips, and the noises in the order in which they were drawn."""
    stand_in("loguru", logger=logging)
    stand_in("transformers", Wav2Vec2FeatureExtractor=None)
    for name in ("flash_talk", "flash_talk.src", "flash_talk.src.pipeline"):
        package(name, folder / name.replace(".", "/"))
    for name, content in {
        "flash_talk.wan.modules": ("CLIPModel", "T5EncoderModel", "WanVAE"),
        "flash_talk.infinite_talk.modules.multitalk_model": ("WanModel",),
        "flash_talk.infinite_talk.audio_analysis.wav2vec2": ("Wav2Vec2Model",),
        "flash_talk.infinite_talk.utils.multitalk_utils": ("match_and_blend_colors_torch", "resize_and_centercrop")}.items():
        stand_in(name, **dict.fromkeys(content))
    torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]
    official: Any = importlib.import_module("flash_talk.src.pipeline.flash_talk_pipeline")
    found: dict[str, Tensor] = {}
    for count, times in {4: [1000.0, 750.0, 500.0, 250.0], 2: [1000.0, 500.0]}.items():
        noises: list[Tensor] = []
        levels = [official.timestep_transform(torch.tensor([t]), shift=5.0) for t in [*times, 0.0]]

        place = types.SimpleNamespace(
            cpu_offload=False, arg_c={}, frame_num=1 + 4 * (LATENTS - 1), lat_h=SIDE, lat_w=SIDE, param_dtype=torch.float32, device="cpu",
            generator=torch.Generator().manual_seed(0), latent_motion_frames=numbers("portrait", (16, 1, SIDE, SIDE)),
            timesteps=levels, num_timesteps=1000, rank=1, model=lambda x, t, audio: [velocity(x[0], t, audio)],
            color_correction_strength=0.0, motion_frames_num=1 + 4 * (MOTION - 1),
            vae=types.SimpleNamespace(decode=decode, encode=encode))
        with watching(noises):
            for clip in range(2):
                found[f"{count} steps, clip {clip}"] = official.FlashTalkPipeline.generate(place, numbers(f"sound {clip}", (LATENTS,)))
        found[f"{count} steps, noises"] = torch.stack(noises)
    return found


def main(folder: str, commit: str) -> None:
    """Write the file."""
    source = {"repository": "https://github.com/Soul-AILab/SoulX-FlashTalk", "commit": commit}
    recorded = flashtalk(Path(folder))
    tensors = {k: v.float().contiguous() for k, v in recorded.items()}
    save_file(tensors, str(DATA / "flashtalk_sampler.safetensors"), {"source": json.dumps(source)})
    for name, value in recorded.items():
        logging.info("%s %s", name, tuple(value.shape))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(*sys.argv[1:3])
