"""A compressed history: the official LiveAct's numbers, constant memory, states, noise by index, the past left alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from parity import liveact
from parity.golden import BAR, recorded
from parity.seeded import fill_module, numbers
from tm_core.audio.speech_windows import FrameWindows
from tm_core.config import DiTConfig, Guidance, HistoryConfig, SamplerConfig, tiny
from tm_core.errors import Cancelled, InputError
from tm_core.model.dit import TalkingDiT
from tm_core.model.open_projectors import GroupedProjector, GroupedProjectorConfig
from tm_core.model.talking import TalkingModel
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.compressed_sampler import CompressedSampler, CompressedState
from tm_core.streaming.sampler import Scene, SpeakerInput, chunk_noise
from tm_core.timeline import Timeline

# reduced: a history of three slots, one of them pooled of five; chunks of four
HISTORY = HistoryConfig(first_latents=3, chunk_latents=4, anchor_latents=1, uses_audio=(False, True))
SAMPLER = SamplerConfig(sigmas=(1.0, 0.6), history=HISTORY)
CFG = DiTConfig(
    dim=96, ffn_dim=128, num_heads=2, num_layers=2, text_dim=8, text_len=1, freq_dim=64, image_dim=None, audio_kind="own_q_kv_proj",
    audio_dim=24, memory_stride=5)
TIMELINE = Timeline(fps=tiny().frame_rate, chunk_latents=4, first_latents=3)
FRAMES = 400


def small(cfg: DiTConfig = CFG) -> TalkingModel:
    dit, projector = TalkingDiT(cfg).eval(), GroupedProjector(GroupedProjectorConfig(layers=2, audio_dim=4, hidden=8, dim=24, tokens=3))
    fill_module(dit)
    fill_module(projector)
    vae: Any = torch.nn.Module()
    return TalkingModel(config=replace(tiny(), dit=cfg), dit=dit, projector=projector.eval(), vae=vae)


@pytest.fixture(scope="module")
def model() -> TalkingModel:
    return small()


def scene(features: Tensor | None = None) -> Scene:
    heard = numbers("features", (FRAMES, 2, 4)) if features is None else features
    speaker = SpeakerInput(
        windows=lambda latents: FrameWindows().windows(heard, latents), mask=torch.linspace(0.2, 1, 6),
        speaking=lambda latents: torch.ones(len(latents), dtype=torch.bool))
    return Scene(reference=numbers("picture", (16, 7, 4, 6)), speakers=(speaker,), frames=FRAMES)


def chunks(sampler: CompressedSampler, count: int, seed: int = 3, shown: Scene | None = None) -> Iterator[tuple[Tensor, CompressedState]]:
    state = sampler.open(shown or scene(), seed)
    for _ in range(count):
        chunk, state = sampler.step(state)
        yield chunk.latents, state


def latents(sampler: CompressedSampler, count: int, seed: int = 3, shown: Scene | None = None) -> list[Tensor]:
    return [made for made, _ in chunks(sampler, count, seed, shown)]


# -- the official code --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> dict[str, float]:
    return liveact.differences()


@pytest.mark.parametrize("name", ["transformer, 3 steps of 4 blocks", "sampler, 5 blocks", "sampler, 5 blocks, sound guided"])
def test_blocks_are_the_official_ones(found: dict[str, float], name: str) -> None:
    assert found[f"LiveAct's {name}"] <= BAR


def test_what_was_recorded_is_no_trivial_case() -> None:
    """Blocks differ, guidance shows from the first one on, and the code it came from is named."""
    said, source = recorded("liveact")
    gap = (said["plain, latents"] - said["guided, latents"]).abs().amax((0, 2, 3))
    assert gap[1:].min() > 0.1 and len(source["commit"]) == 40
    # the first latent hears nothing itself, it moves because it sees those that do
    assert said["velocity, block 3, step 1"].std() > 0.5 and gap[0] < gap[1:].mean()


def test_older_latents_are_pooled_by_the_projection_of_keys() -> None:
    """The official quirk: the values' own projection has no say, the keys' has one from the third chunk on."""
    made = {}
    for changed in ("", "memory_proj_k", "memory_proj_v"):
        other = small()
        for block in other.dit._blocks:
            if changed:
                getattr(block.self_attn, changed).weight.data *= -1
        made[changed] = latents(CompressedSampler(other, SAMPLER), 3)
    plain = made[""]
    assert all(torch.equal(a, b) for a, b in zip(plain, made["memory_proj_v"], strict=True))
    same = [torch.equal(a, b) for a, b in zip(plain, made["memory_proj_k"], strict=True)]
    assert same == [True, True, False]


@torch.inference_mode()
def test_the_history_is_pooled_by_tokens_in_a_row(model: TalkingModel) -> None:
    cache = model.dit.allocate_history(1, HISTORY.slots, (4, 6))
    layer, attn = cache.layers[0], model.dit._blocks[0].self_attn
    layer.keys.copy_(numbers("keys", tuple(layer.keys.shape)))
    before, s = layer.keys.clone(), cache.latent_tokens
    model.dit.compress_history(cache, range(1, 6))
    weight = attn.memory_proj_k.weight[:, 0].unflatten(0, (CFG.num_heads, -1)).permute(2, 0, 1)  # (5, H, E)
    pooled = torch.stack([(before[:, s + 5 * i : s + 5 * i + 5] * weight).sum(1) for i in range(s)], 1)
    assert s == 6 and torch.equal(layer.keys[:, :s], before[:, :s])
    assert torch.allclose(layer.keys[:, s : 2 * s], pooled, atol=1e-5)
    assert torch.equal(layer.keys[:, 2 * s : 3 * s], before[:, 6 * s :])


# -- a stream -----------------------------------------------------------------------------------------------------


def test_chunks_have_the_lengths_of_the_timeline(model: TalkingModel) -> None:
    made = latents(CompressedSampler(model, SAMPLER), 3)
    assert [m.shape[2] for m in made] == [len(TIMELINE.latents_of_chunk(t)) for t in range(3)] == [3, 4, 4]


def places(state: CompressedState) -> list[tuple[int, int]]:
    """Where each buffer lies and how large it is."""
    layers = [layer for step in state.buffers.caches for cache in step.values() for layer in cache.layers]
    return [(t.data_ptr(), t.nbytes) for layer in layers for t in (layer.keys, layer.values)]


def test_memory_does_not_grow(model: TalkingModel) -> None:
    seen = [(places(state), state.cache_bytes, made) for made, state in chunks(CompressedSampler(model, SAMPLER), 11)]
    first = seen[0]
    assert all(place == first[0] and size == first[1] for place, size, _ in seen)
    tokens, steps = HISTORY.slots * 6, len(SAMPLER.sigmas)
    assert first[1] == sum(n for _, n in first[0]) == steps * CFG.num_layers * 2 * tokens * CFG.dim * 4
    assert all(torch.isfinite(made).all() for *_, made in seen)


def test_half_precision_streams_like_single(model: TalkingModel) -> None:
    low = small()
    low.dit.to(torch.bfloat16)
    assert isinstance(low.projector, torch.nn.Module)
    low.projector.to(torch.bfloat16)
    a, b = (torch.cat(latents(CompressedSampler(m, SAMPLER), 4), 2) for m in (model, low))
    assert b.dtype == torch.float32 and 0 < (a - b).abs().mean() < 0.03 * a.abs().mean()


def test_future_sound_leaves_the_past_alone(model: TalkingModel) -> None:
    sampler, features = CompressedSampler(model, SAMPLER), numbers("features", (FRAMES, 2, 4))
    known = FrameWindows().needed(TIMELINE.latents_of_chunk(2))
    other = features.clone()
    other[known:] = numbers("another voice", (FRAMES, 2, 4))[known:]
    a, b = (latents(sampler, 4, shown=scene(f)) for f in (features, other))
    assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True)) and not torch.equal(a[3], b[3])


def test_noise_goes_by_seed_and_chunk(model: TalkingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream opened again is the same whatever ran in between; every draw is asked for by (seed, chunk, step)."""
    asked: list[tuple[int, int, int]] = []

    def watched(seed: int, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
        asked.append((seed, chunk, step))
        return chunk_noise(seed, chunk, step, shape)

    monkeypatch.setattr("tm_core.streaming.sampler.chunk_noise", watched)
    sampler = CompressedSampler(model, SAMPLER)
    a = latents(sampler, 4)
    assert asked == [(3, t, i) for t in range(4) for i in range(2)]
    one, two = chunks(sampler, 4), chunks(sampler, 4, seed=4)
    interleaved = [(next(one)[0], next(two)[0]) for _ in range(4)]
    assert all(torch.equal(x, y) and not torch.equal(x, z) for x, (y, z) in zip(a, interleaved, strict=True))


def test_a_spent_state_is_refused(model: TalkingModel) -> None:
    sampler, token = CompressedSampler(model, SAMPLER), CancelToken()
    old = sampler.open(scene(), 0)
    _, new = sampler.step(old)
    with pytest.raises(RuntimeError, match="spent"):
        sampler.step(old)
    token.cancel()
    with pytest.raises(Cancelled):
        sampler.step(new, token)
    with pytest.raises(RuntimeError, match="spent"):
        sampler.step(new)


def test_a_boundary_can_be_kept_and_gone_back_to(model: TalkingModel) -> None:
    """With its history, in the same buffers; `kept` may be used again and again."""
    sampler = CompressedSampler(model, SAMPLER)
    state = sampler.open(scene(), 3)
    for _ in range(3):
        _, state = sampler.step(state)
    kept, buffers = state.copy(), state.buffers
    assert kept.cache_bytes == state.cache_bytes and kept.buffers is not buffers
    wanted = latents(sampler, 5)[3:]
    for _ in range(2):
        made = []
        for _ in wanted:
            chunk, state = sampler.step(state)
            made.append(chunk.latents)
        assert all(map(torch.equal, made, wanted)) and state.buffers is buffers
        state = state.gone_back(kept)


def test_cancel_is_seen_between_denoising_steps(model: TalkingModel) -> None:
    sampler, token, calls = CompressedSampler(model, SAMPLER), CancelToken(), []

    def cancel_during(*_: object) -> None:
        calls.append(1)
        token.cancel()

    counter = model.dit.patch_embedding.register_forward_hook(cancel_during)
    try:
        with pytest.raises(Cancelled):
            sampler.step(sampler.open(scene(), 0), token)
    finally:
        counter.remove()
    assert len(calls) == 1


# -- sound --------------------------------------------------------------------------------------------------------


def test_a_step_that_does_not_hear_is_deaf_and_not_guided(model: TalkingModel) -> None:
    """One step alone: without hearing the sound changes nothing, and guidance of it costs neither evaluation nor cache."""
    guided = Guidance(audio=3.0)
    one = replace(SAMPLER, sigmas=(1.0,), guidance=guided)
    for uses_audio in (False, True):
        sampler = CompressedSampler(model, replace(one, history=replace(HISTORY, uses_audio=(uses_audio,))))
        a, b = (latents(sampler, 2, shown=scene(numbers(f"voice {i}", (FRAMES, 2, 4)))) for i in range(2))
        assert torch.equal(a[1], b[1]) is not uses_audio
        assert len(sampler.open(scene(), 0).buffers.caches[0]) == 1 + uses_audio


def test_guidance_of_the_sound_steps_away_from_silence(model: TalkingModel) -> None:
    """One step: silent + 2 (heard - silent), over chunks whose keys each pass keeps for itself."""
    one = replace(SAMPLER, sigmas=(1.0,), history=replace(HISTORY, uses_audio=(True,)))
    silent = replace(scene().speakers[0], speaking=lambda latents: torch.zeros(len(latents), dtype=torch.bool))
    sampler = CompressedSampler(model, one)
    heard, nothing = latents(sampler, 2), latents(sampler, 2, shown=replace(scene(), speakers=(silent,)))
    made = latents(CompressedSampler(model, replace(one, guidance=Guidance(audio=2.0))), 2)
    for h, n, m in zip(heard, nothing, made, strict=True):
        assert (m - (n + 2 * (h - n))).abs().max() <= 1e-4 and (h - n).abs().max() > 1e-3


def test_the_streams_first_latent_hears_nothing_itself() -> None:
    """As in the official blocks; with one of them, so that it cannot see what the others heard."""
    one = small(replace(CFG, num_layers=1))
    sampler = CompressedSampler(one, replace(SAMPLER, sigmas=(1.0,), history=replace(HISTORY, uses_audio=(True,))))
    a, b = (latents(sampler, 1, shown=scene(numbers(f"voice {i}", (FRAMES, 2, 4))))[0] for i in range(2))
    assert torch.equal(a[:, :, 0], b[:, :, 0]) and all(not torch.equal(a[:, :, i], b[:, :, i]) for i in (1, 2))


def test_text_is_guided_at_every_step(model: TalkingModel) -> None:
    """Also where nothing is heard: there the negative prompt needs one evaluation more, elsewhere two."""
    both = replace(SAMPLER, guidance=Guidance(text=2.0, audio=3.0))
    state = CompressedSampler(model, both).open(scene(), 0)
    assert [len(caches) for caches in state.buffers.caches] == [2, 3]
    shown = replace(scene(), text=numbers("words", (1, 1, 8)))
    one = replace(both, sigmas=(1.0,), history=replace(HISTORY, uses_audio=(False,)))
    words, none = (latents(CompressedSampler(model, replace(one, guidance=Guidance())), 2, shown=s) for s in (shown, scene()))
    made = latents(CompressedSampler(model, one), 2, shown=shown)
    assert all((m - (n + 2 * (w - n))).abs().max() <= 1e-4 for w, n, m in zip(words, none, made, strict=True))


# -- settings -----------------------------------------------------------------------------------------------------


def test_settings_survive_being_written_down() -> None:
    assert SamplerConfig.from_dict(SAMPLER.to_dict()) == SAMPLER
    assert DiTConfig.from_dict(CFG.to_dict()) == CFG


@pytest.mark.parametrize(("changes", "stride", "field"), [
    ({"history": None}, 5, "history"), ({}, 0, "history"), ({}, 4, "history"),
    ({"history": replace(HISTORY, anchor_latents=3)}, 5, "history"),
    ({"history": replace(HISTORY, anchor_latents=0)}, 5, "history"), ({"history": replace(HISTORY, uses_audio=(True,))}, 5, "uses_audio"),
    ({"sigmas": (0.9, 0.5)}, 5, "sigmas"), ({"cache_mode": "clean_rerun"}, 5, "cache_mode"),
], ids=["none", "no weights", "another stride", "no room to pool", "no anchor", "other steps", "levels", "mode"])
def test_sizes_that_do_not_fit_say_so(changes: dict[str, Any], stride: int, field: str) -> None:
    with torch.device("meta"):
        dit = TalkingDiT(replace(CFG, memory_stride=stride))
    with pytest.raises(InputError, match=field):
        CompressedSampler(replace(small_meta(), dit=dit), replace(SAMPLER, **changes))


def small_meta() -> TalkingModel:
    vae: Any = torch.nn.Module()
    with torch.device("meta"):
        return TalkingModel(config=replace(tiny(), dit=CFG), dit=TalkingDiT(CFG), projector=None, vae=vae)
