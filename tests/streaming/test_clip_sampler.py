"""Clips under full attention: each leads the next, noise is by index, and the stream has no seam and no growth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from parity.golden import BAR, recorded
from parity.open_models import FLASHTALK, fantasytalking_sampler, flashtalk_sampler, multitalk_sampler
from parity.recorders.samplers import FANTASY_CASES, MULTITALK_CASES, Case
from tests.streaming.test_sampler import CONFIG, features, random_model, scene
from tm_core.config import ClipConfig, Guidance, SamplerConfig
from tm_core.errors import Cancelled, InputError
from tm_core.families.registry import FAMILIES
from tm_core.model.conditioning import make_reference
from tm_core.model.talking import TalkingModel
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.clip_sampler import ClipSampler, ClipState, clip_of
from tm_core.streaming.handles import DecodedStream, DecoderInput, LatentStream, StreamMeta
from tm_core.streaming.sampler import LatentChunk, Scene, chunk_noise
from tm_core.streaming.workers import WorkerConfig
from tm_core.timeline import Timeline

CLIP = ClipConfig(latents=4, motion_latents=2)  # 13 frames, 5 of them the clip before's
SAMPLER = replace(CONFIG.sampler, clip=CLIP, sigmas=(1.0, 0.6))
PICTURE = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> TalkingModel:
    torch.manual_seed(1)
    return random_model(CONFIG)


def shown() -> Scene:
    return replace(scene(features()), picture=PICTURE)


def clips(sampler: ClipSampler, count: int, seed: int = 3) -> Iterator[tuple[LatentChunk, ClipState]]:
    state = sampler.open(shown(), seed)
    for _ in range(count):
        chunk, state = sampler.step(state)
        yield chunk, state


def test_a_clip_repeats_the_end_of_the_one_before() -> None:
    assert clip_of(33, 5) == ClipConfig(latents=9, motion_latents=2) and clip_of(81, 9) == ClipConfig(latents=21, motion_latents=3)
    assert clip_of(81, 0) == ClipConfig(latents=21, motion_latents=0) and clip_of(81, 0).repeated_latents == 1
    with pytest.raises(InputError, match=r"motion_frames.*use 5"):
        clip_of(33, 8)


def test_families_know_their_clips() -> None:
    assert FAMILIES["multitalk"].clip == ClipConfig(latents=21, motion_latents=7, lead="given")
    assert FAMILIES["infinitetalk"].clip == ClipConfig(latents=21, motion_latents=3)
    assert FAMILIES["fantasytalking"].clip == ClipConfig(latents=21, motion_latents=0) and FAMILIES["liveact"].clip is None
    assert {f.name for f in FAMILIES.values() if f.colour_correction == 1} == {
        "multitalk", "infinitetalk", "infinitetalk_multi", "flashtalk"}


@torch.no_grad()
def test_motion_latents_are_the_last_frames_encoded_again_and_stand_clean(model: TalkingModel) -> None:
    sampler = ClipSampler(model, SAMPLER)
    (first, after), (second, _) = list(clips(sampler, 2))
    vae = model.vae
    frames, _ = vae.decode(first.latents, vae.open_decoder(PICTURE))
    encoded, _ = vae.encode(frames[-5:], vae.open_encoder())
    assert sampler.motion_frames == 5
    assert torch.equal(sampler.lead(after).motion, encoded) and torch.equal(second.latents[:, :, :2], encoded)
    assert torch.equal(first.latents[:, :, 0], shown().reference[None])


@torch.no_grad()
def test_a_clip_is_the_samplers_loop_written_out(model: TalkingModel) -> None:
    """Clip 1 from the state after clip 0, by hand: full attention, renoised, motion latents put back after every step."""
    sampler = ClipSampler(model, SAMPLER)
    (_, state), (second, _) = list(clips(sampler, 2))
    latents, place, motion = range(2, 6), shown(), sampler.lead(state).motion
    assert sampler.latents_of(1) == latents and model.projector is not None
    like = torch.empty(0)
    audio = model.projector.project(place.speakers[0].windows(latents), torch.ones(4), like).tokens[None]
    given = {"reference": make_reference(place.reference[None], [0, 1, 2, 3]), "text": place.prompt(True, CONFIG.dit), "audio": audio,
             "face_mask": place.speakers[0].mask[None]}
    noises = [chunk_noise(3, 1, i, (1, 16, 4, 8, 8)) for i in range(2)]
    x = torch.cat([motion, noises[0][:, :, 2:]], 2)
    x0 = model.dit.forward_x0(x, torch.tensor([1.0]), **given)
    x = torch.cat([motion, (0.4 * x0 + 0.6 * noises[1])[:, :, 2:]], 2)
    x0 = model.dit.forward_x0(x, torch.tensor([0.6]), **given)
    assert (second.latents[:, :, 2:] - x0[:, :, 2:]).abs().max() <= 1e-5


@torch.no_grad()
def test_guidance_and_the_flow_change_what_is_made(model: TalkingModel) -> None:
    plain = next(clips(ClipSampler(model, SAMPLER), 1))[0].latents
    for changed in (replace(SAMPLER, guidance=Guidance(audio=3.0)), replace(SAMPLER, renoise=False)):
        other = next(clips(ClipSampler(model, changed), 1))[0].latents
        assert (plain - other).abs().max() > 1e-3


def test_a_state_may_be_stepped_again_and_a_cancel_stops(model: TalkingModel) -> None:
    sampler = ClipSampler(model, SAMPLER)
    state = sampler.open(shown(), 1)
    again = [sampler.step(state)[0].latents for _ in range(2)]
    assert torch.equal(*again)
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        sampler.step(state, token)


def test_a_clip_must_be_longer_than_what_it_repeats(model: TalkingModel) -> None:
    for wrong in (None, *(ClipConfig(latents=n, motion_latents=m) for n, m in ((3, 3), (3, -1), (1, 0)))):
        with pytest.raises(InputError, match="clip"):
            ClipSampler(model, replace(SAMPLER, clip=wrong))


class Source:
    def __init__(self, sampler: ClipSampler) -> None:
        self.sampler = sampler

    def open(self) -> ClipState:
        return self.sampler.open(shown(), 3)

    def step(self, state: ClipState, cancel: CancelToken) -> tuple[LatentChunk, ClipState]:
        return self.sampler.step(state, cancel)


def test_a_stream_of_clips_has_every_frame_once(model: TalkingModel) -> None:
    sampler = ClipSampler(model, SAMPLER)
    timeline = Timeline(fps=Fraction(25), chunk_latents=2, first_latents=4)
    meta = StreamMeta(width=64, height=64, num_frames=30, timeline=timeline, audio_s=1.2)
    decoder = DecoderInput(vae=model.vae, reference=PICTURE, motion_frames=sampler.motion_frames)
    cpu = WorkerConfig(device=torch.device("cpu"), threads=1)
    stream = DecodedStream(LatentStream(Source(sampler), meta, decoder), decoder, denoise_on=cpu, decode_on=cpu)
    chunks = list(stream)
    assert [(c.pts, len(c.frames)) for c in chunks] == [(0, 13), (13, 8), (21, 8), (29, 1)]
    assert stream.latents.sampled == 4 and [len(c.frames) for c in stream] == [13, 8, 8, 1] and stream.latents.sampled == 4


def test_sampler_settings_survive_being_written_down() -> None:
    cfg = replace(SAMPLER, guidance=Guidance(text=5.0, audio=4.0))
    assert SamplerConfig.from_dict(cfg.to_dict()) == cfg


@pytest.mark.parametrize("steps", FLASHTALK)
def test_two_clips_are_the_official_flashtalk_pipelines(steps: int) -> None:
    """Motion latents, shifted levels and renoising."""
    assert flashtalk_sampler(steps) <= BAR
    assert recorded("flashtalk_sampler")[0][f"{steps} steps, clip 1"].std() > 0.1


@pytest.mark.parametrize("case", MULTITALK_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", ["infinitetalk", "multitalk"])
def test_two_clips_are_the_official_multitalk_pipelines(name: str, case: Case) -> None:
    """Guidance in two and three passes, Euler steps, and how the first clip leads the second, which is not the same in both."""
    assert multitalk_sampler(name, case) <= BAR
    clean, given = (recorded(f"{family}_sampler")[0][f"{case.name}, clip 1"] for family in ("infinitetalk", "multitalk"))
    assert (clean - given).abs().max() > 0.1


@pytest.mark.parametrize("case", FANTASY_CASES, ids=lambda case: case.name)
def test_a_clip_is_the_official_fantasytalking_pipelines(case: Case) -> None:
    assert fantasytalking_sampler(case) <= BAR
    assert recorded("fantasytalking_sampler")[0][f"{case.name}, clip 0"].std() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("followed", [False, True], ids=["one latent", "followed by frames without content"])
def test_models_made_for_one_clip_go_on_from_their_last_frame(model: TalkingModel, followed: bool) -> None:
    """Clip 1 is what a new stream makes of the last frame as its portrait."""
    vae = model.vae

    def given(frame: torch.Tensor) -> torch.Tensor:
        frames = torch.cat([frame[None], torch.full((12, 3, 64, 64), 0.5)]) if followed else frame[None]
        latents = vae.encode(frames, vae.open_encoder())[0][0]
        return latents if followed else latents[:, 0]

    place = replace(shown(), reference=given(PICTURE))
    sampler = ClipSampler(model, replace(SAMPLER, clip=clip_of(13, 0)))
    first, after = sampler.step(sampler.open(place, 3))
    second, _ = sampler.step(after)
    last = vae.decode(first.latents, vae.open_decoder(PICTURE))[0][-1]
    by_hand = replace(sampler.open(replace(place, reference=given(last)), 3), clip=1)  # its noise and sound are those of clip 1
    assert torch.equal(sampler.step(by_hand)[0].latents, second.latents)
    unmoved = replace(sampler.open(place, 3), clip=1)
    assert (sampler.step(unmoved)[0].latents - second.latents).abs().max() > 1e-3
    assert sampler.motion_frames == 1 and sampler.latents_of(1) == range(3, 7)


@torch.no_grad()
def test_given_frames_are_marked_and_as_noisy_as_the_rest(model: TalkingModel) -> None:
    """Clip 1 by hand, MultiTalk's way: two latents given in the conditioning, and noised to each step's level."""
    sampler = ClipSampler(model, replace(SAMPLER, clip=replace(CLIP, lead="given"), renoise=False))
    (_, state), (second, _) = list(clips(sampler, 2))
    place, latents, lead = shown(), range(2, 6), sampler.lead(state)
    motion = lead.motion
    assert model.projector is not None
    audio = model.projector.project(place.speakers[0].windows(latents), torch.ones(4), torch.empty(0)).tokens[None]
    reference = make_reference(lead.reference[None], [0, 1, 2, 3])
    reference[:, :4, 1] = 1
    given = {"reference": reference, "text": place.prompt(True, CONFIG.dit), "audio": audio, "face_mask": place.speakers[0].mask[None]}
    noises = [chunk_noise(3, 1, i, (1, 16, 4, 8, 8)) for i in range(2)]
    x0 = model.dit.forward_x0(noises[0], torch.tensor([1.0]), **given)
    x = x0 + (noises[0] - x0) * 0.6
    x = torch.cat([0.4 * motion + 0.6 * noises[1][:, :, :2], x[:, :, 2:]], 2)
    x0 = model.dit.forward_x0(x, torch.tensor([0.6]), **given)
    assert torch.equal(second.latents[:, :, :2], motion) and (second.latents[:, :, 2:] - x0[:, :, 2:]).abs().max() <= 1e-5
