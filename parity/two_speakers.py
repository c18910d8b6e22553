"""Two speakers at once against numbers recorded from the official code of MultiTalk and InfiniteTalk (parity/goldens/NAME_two)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from parity.golden import recorded
from parity.open_models import StandInAutoencoder, sampled
from parity.recorders.open_models import AUDIO_DIM, SIGMA, TOKENS, inputs
from parity.recorders.open_models import SIDE as INPUT_SIDE
from parity.recorders.samplers import Case, encode
from parity.recorders.two_speakers import (
    BOXES,
    CASES,
    CLIP,
    CROSSING,
    FRAMES,
    HIDDEN,
    LED,
    NEW,
    SIDE,
    features,
    masks,
    picture,
    prompt,
    seen,
)
from parity.seeded import fill_module
from tm_core.audio.speech_windows import FrameWindows, GroupedWindows
from tm_core.config import DiTConfig, Guidance, SamplerConfig, Voices, tiny
from tm_core.face.mask import token_mask
from tm_core.families.registry import FAMILIES
from tm_core.model.dit import TalkingDiT
from tm_core.model.open_projectors import GroupedProjector, GroupedProjectorConfig
from tm_core.model.talking import TalkingModel
from tm_core.streaming.clip_sampler import ClipSampler, clip_of
from tm_core.streaming.guidance import noise_levels
from tm_core.streaming.sampler import Scene, SpeakerInput

PRESETS = {"multitalk": "multitalk", "infinitetalk": "infinitetalk_multi"}  # what was recorded -> ours


def transformer(name: str, voices: Voices) -> TalkingDiT:
    """Ours as the recorder built the official one."""
    cfg = DiTConfig(
        **recorded(f"{name}_two")[1]["sizes"], image_dim=1280, audio_kind="own_q_kv_proj", audio_dim=AUDIO_DIM, voices=voices)
    dit = TalkingDiT(cfg).eval()
    fill_module(dit)
    return dit


def projector() -> GroupedProjector:
    """Ours under its published name, from which its weights follow."""
    holder = nn.Module()
    made = GroupedProjector(GroupedProjectorConfig(hidden=HIDDEN, dim=AUDIO_DIM, tokens=TOKENS)).eval()
    holder.audio_proj = made
    fill_module(holder)
    return made


def tokens_of(boxes: dict[str, tuple[int, int, int, int]], side: int) -> Tensor:
    """Masks of the speakers (P, S), by the way a picture's masks go here."""
    return torch.stack([torch.from_numpy(token_mask(mask.numpy(), (side // 2, side // 2))) for mask in masks(boxes, side)[:-1]])


@torch.inference_mode()
def velocity(name: str, voices: Voices = "together", *, exchanged: bool = False) -> Tensor:
    """Our transformer's answer to what was recorded; `exchanged`: the masks change hands."""
    own = tokens_of(CROSSING, INPUT_SIDE)
    said, _ = recorded(f"{name}_two")
    return transformer(name, voices)(
        sigma=torch.tensor([SIGMA]), audio=said["tokens"][None], face_mask=(own.flip(0) if exchanged else own)[None], **inputs())


def scene(reference: Tensor) -> Scene:
    """Two people and their voices, in the recorder's picture."""
    def voice(person: str, mask: Tensor) -> SpeakerInput:
        def hear(latents: range) -> GroupedWindows:
            return FrameWindows().windows(features(person), latents, clip_start=latents[0])

        return SpeakerInput(windows=hear, mask=mask, speaking=lambda latents: torch.ones(len(latents), dtype=torch.bool))

    speakers = tuple(voice(person, mask) for person, mask in zip(BOXES, tokens_of(BOXES, SIDE), strict=True))
    return Scene(
        reference=reference, speakers=speakers, frames=FRAMES + NEW, picture=portrait(), image=seen(), text=prompt("positive")[None],
        negative=prompt("negative")[None])


def portrait() -> Tensor:
    """The recorder's picture (3, h, w) in 0..1."""
    return torch.from_numpy(picture()).permute(2, 0, 1) / 255


def clips(name: str, case: Case, voices: Voices = "together") -> list[Tensor]:
    """Latents (C, F, h, w) of two clips, with the noise that was drawn for the official ones."""
    said = of_case(name, case)
    family, dit = FAMILIES[PRESETS[name]], transformer(name, voices)
    cfg = SamplerConfig(
        sigmas=noise_levels(case.steps, case.shift, last=family.last_level), guidance=Guidance(text=case.text, audio=case.audio),
        renoise=False, clip=clip_of(FRAMES, 1 + 4 * (LED - 1), family.lead))
    autoencoder: Any = StandInAutoencoder()
    model = TalkingModel(config=replace(tiny(), dit=dit.cfg), dit=dit, projector=projector(), vae=autoencoder)
    whole = (portrait()[None, :, None] * 2 - 1) * (torch.arange(CLIP) < 1)[:, None, None]  # and frames without content after it

    def noise(clip: int, step: int) -> Tensor:
        out = said["noises"][clip].clone()
        if clip and step:
            out[:, :LED] = said["motion noises"][step]
        return out

    return sampled(ClipSampler(model, cfg), scene(encode(whole)), 2, noise)


def of_case(name: str, case: Case) -> dict[str, Tensor]:
    """What was recorded of one case."""
    return {key.removeprefix(f"{case.name}, "): value for key, value in recorded(f"{name}_two")[0].items() if key.startswith(case.name)}


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference."""
    return float((a - b).abs().max())


@torch.inference_mode()
def transformer_gap(name: str, *, exchanged: bool = False) -> float:
    """Between our velocity and the recorded one."""
    said, _ = recorded(f"{name}_two")
    return gap(velocity(name, exchanged=exchanged), said["velocity, masks exchanged" if exchanged else "velocity"])


@torch.inference_mode()
def sampler_gap(name: str, case: Case, voices: Voices = "together") -> float:
    """Between our latents of two clips and the recorded ones."""
    said = of_case(name, case)
    return max(gap(latents, said[f"clip {i}"]) for i, latents in enumerate(clips(name, case, voices)))


def differences() -> dict[str, float]:
    """Largest difference of everything recorded."""
    titles = {name: FAMILIES[name].title for name in PRESETS}
    return {
        **{f"{title}'s transformer, two speakers{', masks exchanged' * exchanged}": transformer_gap(name, exchanged=exchanged)
           for name, title in titles.items() for exchanged in (False, True)},
        **{f"{title}'s sampler, two speakers, two clips of {case.name}": sampler_gap(name, case)
           for name, title in titles.items() for case in CASES}}
