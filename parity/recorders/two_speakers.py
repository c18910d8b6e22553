"""Records how the official code of MultiTalk and InfiniteTalk hears two speakers: parity/goldens/NAME_two.safetensors.

    python -m parity.recorders.two_speakers multitalk|infinitetalk FOLDER COMMIT

FOLDER is a checkout of MeiGen-AI/MultiTalk or MeiGen-AI/InfiniteTalk at that commit; needs einops, tqdm and Pillow. At
small size: the transformer with two voices and `ref_target_masks`, and two clips of the sampler in which that transformer
itself answers, with two boxes that become its masks and sounds that go through its own windows and projector. Weights and
inputs come from parity/seeded.py, pictures through the stand-in autoencoder of recorders/samplers.py; a file holds
answers and the noise that was drawn. What CLIP sees is the same in every clip here, which is not so in MultiTalk's.

Shapes: F latents, T frames, h x w latents and (the stand-in enlarges nothing) pictures.
"""

from __future__ import annotations

import importlib
import logging
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from parity.recorders.official import ACCELERATORS, absent, package, same, save, stand_in, stand_in_diffusers
from parity.recorders.open_models import AUDIO_DIM, LATENTS, SIGMA, SIZES, TOKENS, exact_attention, inputs
from parity.recorders.open_models import SIDE as INPUT_SIDE
from parity.recorders.samplers import REPOSITORIES, Case, multitalk_code, multitalk_place, watching
from parity.seeded import fill_module, numbers

HIDDEN = 16
SIDE, CLIP, LED = 8, 5, 2  # of the sampler's picture; latents of a clip, and of those the ones that lead it
FRAMES, NEW = 1 + 4 * (CLIP - 1), 4 * (CLIP - LED)
CASES = (Case(3, 7.0, 5.0, 4.0), Case(2, 2.0, 1.0, 2.0))
# rows, then columns, as pixels: that is how the official code reads its boxes. Those of the transformer share a column of tokens
BOXES = {"person1": (2, 0, 6, 4), "person2": (0, 4, 4, 8)}
CROSSING = {"person1": (2, 0, 6, 6), "person2": (0, 4, 4, 8)}
METHODS = {"multitalk": ("MultiTalkPipeline", "generate"), "infinitetalk": ("InfiniteTalkPipeline", "generate_infinitetalk")}


def masks(boxes: dict[str, tuple[int, int, int, int]], side: int) -> Tensor:
    """(3, side, side): each person's box, and what is in none of them."""
    own = torch.zeros(len(boxes), side, side)
    for mask, (top, left, bottom, right) in zip(own, boxes.values(), strict=True):
        mask[top:bottom, left:right] = 1
    return torch.cat([own, 1 - own.amax(0, keepdim=True)])


def picture() -> np.ndarray:
    """The portrait, uint8 (h, w, 3)."""
    return (127.5 + 60 * numbers("two people", (SIDE, SIDE, 3)).numpy()).clip(0, 255).astype(np.uint8)


def features(person: str) -> Tensor:
    """A sound's features (T, 12, 768) for two clips and what their windows reach beyond."""
    return numbers(f"sound of {person}", (FRAMES + NEW + 10, 12, 768))


def prompt(name: str) -> Tensor:
    """Text tokens (L, D) of a prompt."""
    return numbers(f"prompt {name}", (SIZES["text_len"], SIZES["text_dim"]))


def seen() -> Tensor:
    """CLIP tokens (1, 257, 1280)."""
    return numbers("seen", (1, 257, 1280))


def official_modules(folder: Path) -> tuple[Any, Any]:
    """The module of its transformer, and of its utilities, in exact attention."""
    stand_in_diffusers()
    stand_in("xformers.ops", memory_efficient_attention=lambda q, k, v, attn_bias=None, op=None: exact_attention(q, k, v))
    absent(*ACCELERATORS)
    torch.compile = same  # type: ignore[assignment]
    package(folder, "wan", "wan.modules", "wan.utils")
    transformer: Any = importlib.import_module("wan.modules.multitalk_model")
    utilities: Any = importlib.import_module("wan.utils.multitalk_utils")
    transformer.flash_attention, utilities.torch_gc = exact_attention, lambda: None
    return transformer, utilities


def official_model(transformer: Any) -> Any:
    """Its transformer with our weights."""
    model = transformer.WanModel(in_dim=36, **SIZES, intermediate_dim=HIDDEN, output_dim=AUDIO_DIM, context_tokens=TOKENS)
    fill_module(model)
    model.disable_teacache()
    return model


def answer(model: Any) -> dict[str, Tensor]:
    """The velocity with two voices, that with the masks of the two exchanged, and the tokens the voices became."""
    data, kept = inputs(), dict[str, Tensor]()
    heard = torch.cat([numbers(f"input.audio of {person}", (1, 4 * LATENTS - 3, 5, 12, 768)) for person in CROSSING])
    handle = model.audio_proj.register_forward_hook(lambda _, __, out: kept.update(tokens=out))
    whose = masks(CROSSING, INPUT_SIDE)
    velocity, exchanged = (
        model(
            list(data["x"]), torch.tensor([1000 * SIGMA]), list(data["text"]), LATENTS * INPUT_SIDE**2 // 4, data["image"],
            list(data["reference"]), heard, order)
        for order in (whose, whose[[1, 0, 2]]))
    handle.remove()
    return {"tokens": kept["tokens"], "velocity": velocity, "velocity, masks exchanged": exchanged}


def clips(place: Any, method: str, case: Case, where: Path) -> dict[str, Tensor]:
    """Latents (C, F, h, w) of two clips, and what was drawn for them."""
    said = {
        "prompt": "positive", "cond_video": str(where / "picture.png"), "cond_image": str(where / "picture.png"), "bbox": BOXES,
        "cond_audio": {person: str(where / f"{person}.pt") for person in BOXES}}
    noises: list[Tensor] = []
    motions: list[Tensor] = []
    with watching(noises), watching(motions, "randn_like"):
        getattr(place, method)(
            said, motion_frame=1 + 4 * (LED - 1), frame_num=FRAMES, shift=case.shift, sampling_steps=case.steps,
            text_guide_scale=case.text, audio_guide_scale=case.audio, seed=0, offload_model=False, max_frames_num=FRAMES + NEW,
            progress=False, extra_args=types.SimpleNamespace(use_teacache=False, use_apg=False))
    made = {"noises": torch.stack(noises), "motion noises": torch.stack(motions)}
    return {**made, **{f"clip {i}": latents for i, latents in enumerate(place.vae.decoded)}}


def record(name: str, folder: Path) -> dict[str, Tensor]:
    """The transformer's answer, and two clips of every case."""
    pipeline, method = METHODS[name]
    official = multitalk_code(folder)
    frames = types.SimpleNamespace(fromarray=Image.fromarray)
    official.extract_specific_frames = lambda *_: frames.fromarray(picture())
    # the sampler's recorder puts empty modules in place of these two: they are wanted here
    for module in ("wan.utils.multitalk_utils", "wan.modules.multitalk_model"):
        del sys.modules[module]
    transformer, utilities = official_modules(folder)
    utilities.ASPECT_RATIO_627 = {"1.00": ([SIDE, SIDE], 1)}
    model = official_model(transformer)
    found = answer(model)
    with tempfile.TemporaryDirectory() as where:
        Image.fromarray(picture()).save(Path(where) / "picture.png")
        for person in BOXES:
            torch.save(features(person), Path(where) / f"{person}.pt")
        for case in CASES:
            place = multitalk_place(getattr(official, pipeline))
            place.model, place.clip.visual = model, lambda _: seen()
            texts = place.text_encoder
            place.text_encoder = lambda names, device: [prompt(name) for name in names]
            place.text_encoder.model = texts.model
            found |= {f"{case.name}, {key}": value for key, value in clips(place, method, case, Path(where)).items()}
    return found


@torch.inference_mode()
def main(name: str, folder: str, commit: str) -> None:
    """Write one file."""
    tensors = {k: v.float() for k, v in record(name, Path(folder)).items()}
    save(f"{name}_two", tensors, repository=f"https://github.com/{REPOSITORIES[name]}", commit=commit, sizes=SIZES)
    logging.info({k: (tuple(v.shape), round(v.square().mean().sqrt().item(), 3)) for k, v in tensors.items()})


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(*sys.argv[1:4])
