"""The sampler: streaming equals the masked whole, memory stays, states are values, noise goes by index."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest
import torch

from tm_core.audio.features import log_mel
from tm_core.audio.windows import rows_needed, windows
from tm_core.config import CacheMode, DiTConfig, Guidance, ModelConfig, SamplerConfig, tiny
from tm_core.errors import Cancelled, InputError
from tm_core.model.audio_projector import AudioProjector
from tm_core.model.conditioning import make_reference
from tm_core.model.dit import TalkingDiT
from tm_core.model.talking import TalkingModel
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.sampler import ChunkedSampler, SamplerState, Scene, SpeakerInput, chunk_noise
from tm_core.timeline import Timeline
from tm_core.vae.tiny import TinyVAE

CONFIG = replace(
    tiny(), width=64, height=64, sampler=SamplerConfig(sigmas=(1.0, 0.8, 0.4)),
    dit=DiTConfig(dim=96, ffn_dim=128, num_heads=2, num_layers=2, text_dim=8, text_len=1, image_dim=None, audio_dim=192,
                  prediction="x0_residual"))
TIMELINE = Timeline(fps=Fraction(25))
MODES: tuple[CacheMode, ...] = get_args(CacheMode)


@pytest.fixture(scope="module")
def model() -> TalkingModel:
    torch.manual_seed(1)
    return random_model(CONFIG)


def random_model(config: ModelConfig) -> TalkingModel:
    dit = TalkingDiT(config.dit)
    dit.init_weights()
    torch.nn.init.normal_(dit.head.head.weight, std=0.05)
    assert config.projector and config.vae
    return TalkingModel(config=config, dit=dit.eval(), projector=AudioProjector(config.projector).eval(), vae=TinyVAE(config.vae).eval())


def features(seed: int = 0, seconds: float = 8) -> np.ndarray:
    return log_mel((np.random.default_rng(seed).normal(size=round(16000 * seconds)) * 0.1).astype(np.float32), CONFIG.audio)


def scene(rows: np.ndarray, speaking: bool = True) -> Scene:
    speaker = SpeakerInput(
        windows=lambda latents: torch.from_numpy(windows(rows, latents, TIMELINE, CONFIG.audio)),
        mask=torch.linspace(0, 1, 16), speaking=lambda latents: torch.full((len(latents),), speaking))
    return Scene(reference=torch.linspace(-1, 1, 16 * 64).view(16, 8, 8), speakers=(speaker,), frames=10**6)


def stream(sampler: ChunkedSampler, state: SamplerState, chunks: int) -> tuple[torch.Tensor, SamplerState]:
    parts = []
    for _ in range(chunks):
        chunk, state = sampler.step(state)
        parts.append(chunk.latents)
    return torch.cat(parts, 2), state


@torch.no_grad()
def whole(model: TalkingModel, scene: Scene, seed: int, chunks: int) -> torch.Tensor:
    """Every denoising step over the whole sequence under the mask, with the stream's own noise."""
    latents, n = list(range(3 * chunks)), 3
    reference = make_reference(scene.reference[None], latents)
    assert model.projector
    audio = model.projector(scene.speakers[0].windows(range(len(latents)))[None])
    shape, x0 = (1, 16, n, 8, 8), torch.zeros(0)
    for i, sigma in enumerate(CONFIG.sampler.sigmas):
        noise = torch.cat([chunk_noise(seed, t, i, shape) for t in range(chunks)], 2)
        x = noise if i == 0 else (1 - sigma) * x0 + sigma * noise
        x0 = model.dit.forward_x0(x, torch.tensor([sigma]), reference=reference, text=torch.zeros(1, 1, 8), audio=audio,
                                  face_mask=scene.speakers[0].mask[None], chunk_latents=n)
    return x0


def test_streaming_equals_the_masked_whole(model: TalkingModel) -> None:
    sampler, subject = ChunkedSampler(model, CONFIG.sampler), scene(features())
    streamed, _ = stream(sampler, sampler.open(subject, 7), 6)
    assert (streamed - whole(model, subject, 7, 6)).abs().max() <= 1e-4


def test_sound_beyond_the_look_ahead_changes_nothing(model: TalkingModel) -> None:
    sampler, rows = ChunkedSampler(model, CONFIG.sampler), features()
    known = rows_needed(range(6, 9), TIMELINE, CONFIG.audio)
    other = rows.copy()
    other[known:] = features(1)[known:]
    a, _ = stream(sampler, sampler.open(scene(rows), 0), 4)
    b, _ = stream(sampler, sampler.open(scene(other), 0), 4)
    assert torch.equal(a[:, :, :9], b[:, :, :9]) and not torch.equal(a[:, :, 9:], b[:, :, 9:])


def places(state: SamplerState) -> list[tuple[int, int]]:
    """Where each buffer lies and how large it is."""
    tensors = [t for step in state.buffers.caches for c in step.values() for layer in c.layers for t in (layer.keys, layer.values)]
    return [(t.data_ptr(), t.numel()) for t in tensors]


@pytest.mark.parametrize("mode", MODES)
def test_memory_does_not_grow(model: TalkingModel, mode: CacheMode) -> None:
    sampler = ChunkedSampler(model, replace(CONFIG.sampler, cache_mode=mode))
    _, state = stream(sampler, sampler.open(scene(features()), 0), 3)
    before, size = places(state), state.cache_bytes
    latents, later = stream(sampler, state, 20)
    assert places(later) == before
    slots, tokens = 2, 3 * 16
    caches = len(CONFIG.sampler.sigmas) if mode == "per_step" else 1
    assert later.cache_bytes == size == caches * CONFIG.dit.num_layers * slots * 2 * tokens * CONFIG.dit.dim * 4
    assert torch.isfinite(latents).all()


@pytest.mark.parametrize("mode", MODES)
def test_evaluations_per_chunk(model: TalkingModel, mode: CacheMode) -> None:
    sampler, calls = ChunkedSampler(model, replace(CONFIG.sampler, cache_mode=mode)), []
    counter = model.dit.patch_embedding.register_forward_hook(lambda *_: calls.append(1))
    try:
        stream(sampler, sampler.open(scene(features()), 0), 4)
    finally:
        counter.remove()
    assert len(calls) == 4 * (CONFIG.sampler.num_steps + (mode != "per_step"))


def test_recompute_forgets_all_but_the_anchor_and_the_chunk_before(model: TalkingModel) -> None:
    """A cache filled from c0 and from the clean c3 alone is as good as having streamed all five chunks."""
    sampler = ChunkedSampler(model, replace(CONFIG.sampler, cache_mode="recompute"))
    streamed, _ = stream(sampler, sampler.open(scene(features()), 7), 5)
    _, state = stream(sampler, sampler.open(scene(features()), 7), 1)
    with torch.inference_mode():
        sampler._evaluation(replace(state, chunk=3))(streamed[:, :, 9:12], 0.0, state.buffers.caches[0], write=True, past=1)
    state.buffers.chunk = 4
    chunk, _ = sampler.step(replace(state, chunk=4))
    assert (chunk.latents - streamed[:, :, 12:]).abs().max() <= 1e-5


def test_a_spent_state_is_refused(model: TalkingModel) -> None:
    """Its buffers hold a later chunk, or half of one: going on would be silently wrong."""
    sampler, token = ChunkedSampler(model, CONFIG.sampler), CancelToken()
    old = sampler.open(scene(features()), 0)
    _, new = sampler.step(old)
    with pytest.raises(RuntimeError, match="spent"):
        sampler.step(old)
    token.cancel()
    with pytest.raises(Cancelled):
        sampler.step(new, token)
    with pytest.raises(RuntimeError, match="spent"):
        sampler.step(new)


def test_a_mask_of_another_size_is_refused(model: TalkingModel) -> None:
    wrong = replace(scene(features()).speakers[0], mask=torch.ones(9))
    with pytest.raises(InputError, match=r"speakers\[0\].mask"):
        ChunkedSampler(model, CONFIG.sampler).open(replace(scene(features()), speakers=(wrong,)), 0)


def test_two_speakers_move_only_what_is_theirs(model: TalkingModel) -> None:
    """One block, so that nothing mixes over space after the sound is heard: each half follows its own voice."""
    one = random_model(replace(CONFIG, dit=replace(CONFIG.dit, num_layers=1)))
    sampler = ChunkedSampler(one, SamplerConfig(sigmas=(1.0,)))
    left, right = torch.zeros(16), torch.zeros(16)
    left[:8], right[8:] = 1, 1

    def render(voices: tuple[int, int]) -> torch.Tensor:
        subject = scene(features())
        speakers = tuple(replace(scene(features(v)).speakers[0], mask=m) for v, m in zip(voices, (left, right), strict=True))
        return stream(sampler, sampler.open(replace(subject, speakers=speakers), 0), 1)[0]

    a, b = render((0, 1)), render((0, 2))
    assert torch.equal(a[..., :4, :], b[..., :4, :]) and not torch.allclose(a[..., 4:, :], b[..., 4:, :], atol=1e-3)


def test_half_precision_streams_like_single(model: TalkingModel) -> None:
    low = random_model(CONFIG)
    for ours, theirs in ((low.dit, model.dit), (low.projector, model.projector)):
        assert ours is not None and theirs is not None
        ours.load_state_dict(theirs.state_dict())
        ours.to(torch.bfloat16)
    (a, _), (b, _) = (stream(s, s.open(scene(features()), 1), 3) for s in (ChunkedSampler(m, CONFIG.sampler) for m in (model, low)))
    assert a.dtype == b.dtype == torch.float32
    assert 0 < (a - b).abs().mean() < 0.03 * a.abs().mean()


def test_states_do_not_disturb_one_another(model: TalkingModel) -> None:
    sampler = ChunkedSampler(model, CONFIG.sampler)
    alone = [stream(sampler, sampler.open(scene(features(s)), s), 4)[0] for s in (0, 1)]
    states, parts = [sampler.open(scene(features(s)), s) for s in (0, 1)], [[], []]
    for _ in range(4):
        for i in (1, 0):
            chunk, states[i] = sampler.step(states[i])
            parts[i].append(chunk.latents)
    for i in (0, 1):
        assert torch.equal(torch.cat(parts[i], 2), alone[i])


def test_seed_decides_and_index_addresses_the_noise(model: TalkingModel) -> None:
    sampler, rows = ChunkedSampler(model, CONFIG.sampler), features()
    a, b, c = (stream(sampler, sampler.open(scene(rows), seed), 2)[0] for seed in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)
    drawn = {tuple(chunk_noise(s, t, i, (4,)).tolist()) for s in (0, 1) for t in range(3) for i in range(3)}
    assert len(drawn) == 2 * 3 * 3


def test_a_silent_speaker_is_no_sound(model: TalkingModel) -> None:
    sampler = ChunkedSampler(model, CONFIG.sampler)
    silent, _ = stream(sampler, sampler.open(scene(features(), speaking=False), 0), 2)
    other, _ = stream(sampler, sampler.open(scene(features(9), speaking=False), 0), 2)
    nobody, _ = stream(sampler, sampler.open(replace(scene(features()), speakers=()), 0), 2)
    assert torch.allclose(silent, other, atol=1e-6) and torch.allclose(silent, nobody, atol=1e-5)


def test_cancel_is_seen_before_the_next_evaluation(model: TalkingModel) -> None:
    sampler, token, calls = ChunkedSampler(model, CONFIG.sampler), CancelToken(), []

    def cancel_during(*_: object) -> None:
        calls.append(1)
        token.cancel()

    counter = model.dit.patch_embedding.register_forward_hook(cancel_during)
    try:
        with pytest.raises(Cancelled):
            sampler.step(sampler.open(scene(features()), 0), token)
    finally:
        counter.remove()
    assert len(calls) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_boundary_can_be_kept_and_gone_back_to(model: TalkingModel, mode: CacheMode) -> None:
    """After an interruption: the chunks since are forgotten, and another sound follows the same past in the same buffers."""
    sampler = ChunkedSampler(model, replace(CONFIG.sampler, cache_mode=mode))
    said, instead = scene(features(0)), scene(features(1))
    first, state = stream(sampler, sampler.open(said, 1), 2)
    kept = state.copy()
    assert kept.cache_bytes == state.cache_bytes  # what keeping costs
    places = [buffer.data_ptr() for step in state.buffers.caches for cache in step.values() for buffer in cache.buffers]
    forgotten, later = stream(sampler, state, 3)
    again, later = stream(sampler, later.gone_back(kept), 3)
    assert torch.equal(again, forgotten)
    changed, end = stream(sampler, replace(later.gone_back(kept), scene=instead), 3)
    assert [b.data_ptr() for step in end.buffers.caches for cache in step.values() for b in cache.buffers] == places

    def turning(latents: range) -> torch.Tensor:
        return (said if latents[0] < 6 else instead).speakers[0].windows(latents)

    turned = replace(said, speakers=(replace(said.speakers[0], windows=turning),))
    whole, _ = stream(sampler, sampler.open(turned, 1), 5)
    assert torch.equal(torch.cat([first, changed], 2), whole) and not torch.equal(changed, forgotten)
    with pytest.raises(RuntimeError, match="spent"):
        state.copy()


@pytest.mark.parametrize("sigmas", [(), (0.9, 0.5), (1.0, 1.0), (1.0, 0.5, 0.7)], ids=str)
def test_noise_levels_must_fall_from_one(model: TalkingModel, sigmas: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="sigmas"):
        ChunkedSampler(model, SamplerConfig(sigmas=sigmas))


def test_articulation_scales_what_departs_from_the_portrait(model: TalkingModel) -> None:
    plain, wide = (ChunkedSampler(model, replace(CONFIG.sampler, articulation=a)) for a in (1.0, 2.0))
    subject = scene(features())
    a, b = (stream(s, s.open(subject, 0), 3)[0] for s in (plain, wide))
    still = subject.reference[None, :, None]
    assert torch.allclose(b - still, 2 * (a - still), atol=1e-5)


def test_guidance_of_the_sound_steps_away_from_silence(model: TalkingModel) -> None:
    """From pure noise: silent + 2 (heard - silent), over chunks whose keys each pass keeps for itself."""
    one = replace(CONFIG.sampler, sigmas=(1.0,))
    runs = {
        "heard": (one, scene(features())), "silent": (one, scene(features(), speaking=False)),
        "guided": (replace(one, guidance=Guidance(audio=2.0)), scene(features()))}
    made = {}
    for name, (cfg, shown) in runs.items():
        sampler = ChunkedSampler(model, cfg)
        made[name], _ = stream(sampler, sampler.open(shown, 5), 3)
    assert (made["guided"] - (made["silent"] + 2 * (made["heard"] - made["silent"]))).abs().max() <= 1e-4
    assert (made["heard"] - made["silent"]).abs().max() > 1e-3


def test_guidance_of_both_evaluates_three_times(model: TalkingModel) -> None:
    sampler, calls = ChunkedSampler(model, replace(CONFIG.sampler, guidance=Guidance(text=5.0, audio=4.0))), []
    counter = model.dit.patch_embedding.register_forward_hook(lambda *_: calls.append(1))
    try:
        state = sampler.open(scene(features()), 0)
        stream(sampler, state, 2)
    finally:
        counter.remove()
    assert len(calls) == 2 * 3 * CONFIG.sampler.num_steps
    assert state.cache_bytes == 3 * ChunkedSampler(model, CONFIG.sampler).open(scene(features()), 0).cache_bytes


def test_without_renoising_the_steps_follow_the_flow(model: TalkingModel) -> None:
    """The second step looks at the first noise, scaled down: what an Euler step of rectified flow leaves."""
    seen: list[torch.Tensor] = []
    sampler = ChunkedSampler(model, replace(CONFIG.sampler, sigmas=(1.0, 0.5), renoise=False))
    keep = model.dit.chunk_x0

    def watched(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(x)
        seen.append(keep(x, *args, **kwargs))
        return seen[-1]

    model.dit.chunk_x0 = watched  # type: ignore[method-assign]
    try:
        sampler.step(sampler.open(scene(features()), 5))
    finally:
        del model.dit.chunk_x0
    first, x0, second, _ = seen
    assert torch.allclose(second, 0.5 * x0 + 0.5 * first, atol=1e-6)
