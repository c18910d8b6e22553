"""Transformers and samplers of open checkpoints against numbers recorded from their official code (parity/goldens)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from parity import liveact
from parity.golden import recorded
from parity.recorders.open_models import AUDIO_DIM, FANTASY_LENGTHS, LATENTS, SIGMA, TOKENS, inputs
from parity.recorders.samplers import (
    COLOUR_STRENGTH,
    COLOUR_STRENGTHS,
    FANTASY_CASES,
    FRAMES,
    LED,
    MULTITALK_CASES,
    NEW,
    Case,
    colour_frames,
    decode,
    encode,
    features,
    picture,
    prompt,
    velocity,
)
from parity.seeded import fill_module, numbers
from tm_core.audio.speech_windows import FrameWindows
from tm_core.config import AudioKind, DiTConfig, Guidance, SamplerConfig, tiny
from tm_core.families.registry import FAMILIES
from tm_core.model.dit import TalkingDiT
from tm_core.model.talking import AudioTokens, TalkingModel
from tm_core.streaming.clip_sampler import ClipSampler, clip_of
from tm_core.streaming.colour_correction import ColourCorrection
from tm_core.streaming.guidance import noise_levels, shifted
from tm_core.streaming.sampler import Scene, SpeakerInput

FLASHTALK = {4: (1000, 750, 500, 250), 2: (1000, 500)}  # timesteps by number of steps


@torch.inference_mode()
def differences() -> dict[str, float]:
    """Largest difference of everything recorded."""
    return {**transformers(), **samplers(), **liveact.differences()}


# -- transformers -------------------------------------------------------------------------------------------------


def small_dit(kind: AudioKind, sizes: dict[str, Any], rename: dict[str, str] | None = None) -> TalkingDiT:
    """The transformer as the recorder built the official one."""
    dit = TalkingDiT(DiTConfig(**sizes, image_dim=1280, audio_kind=kind, audio_dim=AUDIO_DIM)).eval()
    fill_module(dit, rename)
    return dit


def transformers() -> dict[str, float]:
    """Whole block stacks with sound, without it, and with tokens that do not count."""
    level, data = torch.tensor([SIGMA]), inputs()
    said, source = recorded("infinitetalk_dit")
    infinite = small_dit("own_q_kv_proj", source["sizes"])
    found = {"InfiniteTalk's transformer": _gap(infinite(sigma=level, audio=said["tokens"], **data), said["velocity"])}
    said, source = recorded("fantasytalking_dit")
    official = {f"cross_attn.{part}": f"cross_attn.processor.{part}" for part in ("k_proj", "v_proj")}
    fantasy = small_dit("shared_q_kv", source["sizes"], official)
    valid = torch.arange(TOKENS) < torch.tensor(FANTASY_LENGTHS)[:, None]
    heard = fantasy(sigma=level, audio=numbers("input.audio", (1, LATENTS, TOKENS, AUDIO_DIM)), audio_valid=valid[None], **data)
    found["FantasyTalking's transformer"] = _gap(heard, said["velocity"])
    found["FantasyTalking's transformer, no sound"] = _gap(fantasy(sigma=level, **data), said["velocity_silent"])
    return found


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


# -- samplers -----------------------------------------------------------------------------------------------------


class StandInNetwork:
    """What ClipSampler asks of a transformer, round the stand-in that the official pipelines were recorded with."""

    cfg = DiTConfig(dim=96, ffn_dim=96, num_heads=2, num_layers=1, text_dim=4, text_len=1)
    compute_device, compute_dtype = torch.device("cpu"), torch.float32

    def __init__(self, *, prompted: bool) -> None:
        self.prompted = prompted

    def forward_x0(self, x: Tensor, level: Tensor, *, audio: Tensor, text: Tensor, reference: Tensor, **_: Any) -> Tensor:
        seen = (text, reference) if self.prompted else ()
        return x - level.view(-1, 1, 1, 1, 1) * velocity(x, 1000 * level, audio.flatten(), *seen)


class StandInAutoencoder(torch.nn.Module):
    """The recorder's, as ours is asked: pixels in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1))

    def open_decoder(self, reference: Tensor | None) -> None: ...

    def open_encoder(self) -> None: ...

    def decode(self, latents: Tensor, state: None) -> tuple[Tensor, None]:
        return (decode(latents[0])[0].transpose(0, 1) + 1) / 2, None

    def encode(self, frames: Tensor, state: None) -> tuple[Tensor, None]:
        return encode(frames.transpose(0, 1)[None] * 2 - 1)[None], None


class StandInProjection:
    """Sound (F,) passes as it is, or not at all."""

    def project(self, windows: Tensor, speaking: Tensor, like: Tensor) -> AudioTokens:
        return AudioTokens((windows * speaking)[:, None, None])


def stand_in_sampler(cfg: SamplerConfig, *, prompted: bool) -> ClipSampler:
    """Ours round the recorder's stand-ins."""
    network: Any = StandInNetwork(prompted=prompted)
    vae: Any = StandInAutoencoder()
    return ClipSampler(TalkingModel(config=replace(tiny(), dit=network.cfg), dit=network, projector=StandInProjection(), vae=vae), cfg)


def portrait() -> Tensor:
    """The recorder's picture (3, h, w) in 0..1."""
    return torch.from_numpy(picture()).permute(2, 0, 1) / 255


def stand_in_scene(hear: Callable[[range], Tensor], reference: Tensor | None = None) -> Scene:
    """One voice, heard (F,) by latents; without `reference`, that of the picture before frames without content."""
    if reference is None:
        reference = encode((portrait()[None, :, None] * 2 - 1) * (torch.arange(5) < 1)[:, None, None])
    speaker = SpeakerInput(windows=hear, mask=torch.ones(4), speaking=lambda latents: torch.ones(len(latents), dtype=torch.bool))
    return Scene(
        reference=reference, speakers=(speaker,), frames=FRAMES + NEW, picture=portrait(), text=prompt("positive")[None],
        negative=prompt("negative")[None])


def sampled(sampler: ClipSampler, scene: Scene, clips: int, noise: Callable[[int, int], Tensor]) -> list[Tensor]:
    """Latents (C, F, h, w) of the first clips, by noise (C, F, h, w) of clip and step."""
    state, found = sampler.open(scene, 0), []
    with patch("tm_core.streaming.sampler.chunk_noise", lambda seed, clip, step, shape: noise(clip, step)[None]):
        for _ in range(clips):
            chunk, state = sampler.step(state)
            found.append(chunk.latents[0])
    return found


def flashtalk_gap(said: dict[str, Tensor], times: tuple[int, ...], prefix: str = "", strength: float = 0.0) -> float:
    """Two clips with the noise that was drawn; the official pipeline discards the first frames of its first clip as well."""
    levels, noises = tuple(shifted(t / 1000, 5.0) for t in times), said[f"{prefix}noises"]
    sampler = stand_in_sampler(SamplerConfig(sigmas=levels, clip=clip_of(33, 5), colour_correction=strength), prompted=False)
    scene = stand_in_scene(lambda latents: numbers(f"sound {latents[0] // 7}", (9,)), numbers("portrait", (16, 1, 4, 4))[:, 0])
    made = [decode(latents)[0] for latents in sampled(sampler, scene, 2, lambda clip, step: noises[clip * (len(times) + 1) + step])]
    if strength:
        corrected = ColourCorrection(portrait(), strength)
        made = [corrected((frames.transpose(0, 1) + 1) / 2).transpose(0, 1) * 2 - 1 for frames in made]
    return max(_gap(frames[:, 5:], said[f"{prefix}clip {i}"]) for i, frames in enumerate(made))


def flashtalk_sampler(steps: int) -> float:
    """Frames of two clips, in -1..1: motion latents, renoising, shifted timesteps."""
    return flashtalk_gap(recorded("flashtalk_sampler")[0], FLASHTALK[steps], f"{steps} steps, ")


def flashtalk_colours() -> dict[str, float]:
    """Corrected pictures by strength, in 0..1, and frames of two clips that were corrected on their way, in -1..1."""
    said, _ = recorded("flashtalk_colour")
    found = {
        f"FlashTalk's colour correction, strength {s:g}": _gap(
            ColourCorrection(colour_frames("reference", 1)[0], s)(colour_frames()), said[f"frames, strength {s:g}"])
        for s in COLOUR_STRENGTHS}
    return {**found, "FlashTalk's sampler, two clips with colours corrected": flashtalk_gap(said, FLASHTALK[4], strength=COLOUR_STRENGTH)}


def multitalk_sampler(name: str, case: Case) -> float:
    """Latents of two clips and all their frames, in 0..1: guidance, Euler steps, how the one leads the other."""
    said = {key.removeprefix(f"{case.name}, "): value for key, value in recorded(f"{name}_sampler")[0].items() if key.startswith(case.name)}
    levels = noise_levels(case.steps, case.shift, last=1e-3)
    clip = clip_of(FRAMES, 1 + 4 * (LED - 1), FAMILIES[name].lead)
    cfg = SamplerConfig(sigmas=levels, guidance=Guidance(text=case.text, audio=case.audio), renoise=False, clip=clip)

    def hear(latents: range) -> Tensor:
        made = FrameWindows().windows(features(), latents, clip_start=latents[0])
        return torch.cat([made.first.mean((1, 2, 3)), made.later.mean((1, 2, 3))])

    def noise(clip: int, step: int) -> Tensor:
        out = said["noises"][clip].clone()
        if clip and step:
            out[:, :LED] = said["motion noises"][step]
        return out

    made = sampled(stand_in_sampler(cfg, prompted=True), stand_in_scene(hear), 2, noise)
    frames = torch.cat([decode(made[0])[0], decode(made[1])[0][:, 1 + 4 * (LED - 1) :]], 1)
    return max(_gap(frames, said["frames"]), *(_gap(latents, said[f"clip {i}"]) for i, latents in enumerate(made)))


def fantasytalking_sampler(case: Case) -> float:
    """Latents of its one clip."""
    said, _ = recorded("fantasytalking_sampler")
    guidance = Guidance(text=case.text, audio=case.audio, rule="fantasytalking")
    cfg = SamplerConfig(sigmas=noise_levels(case.steps, case.shift), guidance=guidance, renoise=False, clip=clip_of(FRAMES, 0))
    scene = stand_in_scene(lambda latents: numbers("sound 0", (len(latents),)))
    made = sampled(stand_in_sampler(cfg, prompted=True), scene, 1, lambda *_: said[f"{case.name}, noises"][0])
    return _gap(made[0], said[f"{case.name}, clip 0"])


def samplers() -> dict[str, float]:
    """Every sampler recorded."""
    return {
        **{f"FlashTalk's sampler, two clips of {n} steps": flashtalk_sampler(n) for n in FLASHTALK}, **flashtalk_colours(),
        **{f"{FAMILIES[name].title}'s sampler, two clips of {case.name}": multitalk_sampler(name, case)
           for name in ("infinitetalk", "multitalk") for case in MULTITALK_CASES},
        **{f"FantasyTalking's sampler, a clip of {case.name}": fantasytalking_sampler(case) for case in FANTASY_CASES}}
