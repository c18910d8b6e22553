"""Chunked sampling with a compressed history: what SoulX-LiveAct was trained for.

Chunk 0 fills the history. Every later chunk sees history and itself at once; when the next begins, the stream's first
latents stay, the older ones are pooled by the network's memory projection, the newest stay as they are, and all of them
stand where they now are for RoPE. Each denoising step keeps its own keys, at its own noise level, in buffers of constant
size. Source: `generate` and `WanModel` of Soul-AILab/SoulX-LiveAct ac8579b. Noise depends on (seed, chunk, step) alone.

Non-goals: the official decoder, which decodes three latents of the chunk before again; fp8 and offloaded caches.
Shapes: B=1, C latent channels, F latents of a chunk, S tokens of a latent, P speakers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor

from ..config import DiTConfig, HistoryConfig, SamplerConfig
from ..errors import InputError
from ..model.blocks import AudioKV
from ..model.cache import HistoryCache
from ..model.conditioning import make_reference
from ..model.dit import spread_mask
from ..model.talking import TalkingModel
from ..timeline import Timeline
from .cancel import CancelToken
from .guidance import BOTH, Pass, join, of_steps, passes
from .sampler import Buffers, LatentChunk, SamplerState, Scene, audio_tokens, noise_of_steps, note_voices_apart, spending, stack_masks

Evaluate = Callable[[Tensor, int], Tensor]


CompressedState = SamplerState[HistoryCache]  # its buffers are the same tensors for as long as the stream goes


class CompressedSampler:
    """`open` a stream, then `step` through its chunks; chunk 0 has another length than the rest."""

    def __init__(self, model: TalkingModel, cfg: SamplerConfig) -> None:
        self._history, self._pooled = checked(model.dit.cfg, cfg)
        self._model, self._cfg, self._guidance = model, cfg, of_steps(cfg)
        self._timeline = Timeline(
            fps=Fraction(model.config.fps), chunk_latents=self._history.chunk_latents, first_latents=self._history.first_latents)

    def open(self, scene: Scene, seed: int) -> CompressedState:
        """State before chunk 0; InputError for a mask that does not fit the picture."""
        dit = self._model.dit
        weight = torch.empty(0, dtype=dit.compute_dtype, device=dit.compute_device)
        image = None if scene.image is None else scene.image.to(weight)
        with torch.inference_mode():
            conditions = {
                prompted: dit.conditions(scene.prompt(prompted, dit.cfg).to(weight), image)
                for prompted in {p.text for p in passes(self._cfg.guidance)}}
        latent_hw = (scene.reference.shape[-2], scene.reference.shape[-1])
        caches = tuple({p: dit.allocate_history(1, self._history.slots, latent_hw) for p in passes(g)} for g in self._guidance)
        mask = stack_masks(scene, caches[0][BOTH].latent_tokens, dit.compute_device)
        note_voices_apart(dit.cfg, scene, "in chunks with a history")
        return SamplerState(scene=scene, seed=seed, conditions=conditions, mask=mask, buffers=Buffers(caches=caches))

    def step(self, state: CompressedState, cancel: CancelToken | None = None) -> tuple[LatentChunk, CompressedState]:
        """The next chunk and the state after it.

        Raises Cancelled between denoising steps, and RuntimeError for a state stepped twice.
        """
        with spending(state):
            latents = self._denoise(state, cancel or CancelToken())
        return LatentChunk(index=state.chunk, latents=latents), replace(state, chunk=state.chunk + 1)

    def _denoise(self, state: CompressedState, token: CancelToken) -> Tensor:
        evaluate = self._evaluation(state)
        latents, device = self._timeline.latents_of_chunk(state.chunk), self._model.dit.compute_device
        shape = (1, self._model.dit.cfg.out_dim, len(latents), *state.scene.reference.shape[-2:])

        noise = noise_of_steps(state.seed, state.chunk, self._cfg.num_steps if self._cfg.renoise else 1, shape, device)
        x = noise[0]
        levels = (*self._cfg.sigmas, 0.0)
        for i, sigma in enumerate(self._cfg.sigmas):
            token.check()
            x0, after = evaluate(x, i), levels[i + 1]
            again = self._cfg.renoise and after > 0
            x = (1 - after) * x0 + after * noise[i + 1] if again else x0 + (x - x0) * (after / sigma)
        return x

    def _evaluation(self, state: CompressedState) -> Evaluate:
        """Clean latents of the current chunk seen in x at a denoising step, guided; the step's cache goes on meanwhile."""
        dit, history, device = self._model.dit, self._history, self._model.dit.compute_device
        slot = history.first_latents if state.chunk else 0
        count = len(self._timeline.latents_of_chunk(state.chunk))
        # of every later chunk the official code shows the latents of its slots, not those of its place in the video
        reference = make_reference(state.scene.reference[None].to(device), list(range(slot, slot + count)))
        sound, mask = self._sound(state), self._mask(state)
        without_audio = dit.audio(None)

        def one(x: Tensor, level: Tensor, step: int, which: Pass) -> Tensor:
            cache = state.buffers.caches[step][which]
            if state.chunk > 1:
                dit.compress_history(cache, self._pooled)
            return dit.history_x0(
                x, level, reference=reference, conditions=state.conditions[which.text], face_mask=mask, cache=cache, slot=slot,
                audio=sound[which.audio] if history.uses_audio[step] else without_audio)

        def evaluate(x: Tensor, step: int) -> Tensor:
            level = torch.full((1,), self._cfg.sigmas[step], device=device)
            return join(self._guidance[step], {p: one(x, level, step, p) for p in passes(self._guidance[step])})

        return evaluate

    def _sound(self, state: CompressedState) -> dict[bool, list[AudioKV | None]]:
        """What the chunk hears, and silence if guidance steps away from it."""
        latents, dit = self._timeline.latents_of_chunk(state.chunk), self._model.dit
        heard = {p.audio for p in passes(self._cfg.guidance)}
        return {on: dit.audio(*audio_tokens(self._model, state.scene, latents, silent=not on)) for on in heard}

    def _mask(self, state: CompressedState) -> Tensor | None:
        """(1, P, F, S) of the chunk."""
        mask = spread_mask(state.mask, len(self._timeline.latents_of_chunk(state.chunk)))
        if mask is None or state.chunk:
            return mask
        # the official blocks discard what the stream's first latent heard (WanAttentionBlock.forward, start_f == 0)
        return torch.cat([torch.zeros_like(mask[:, :, :1]), mask[:, :, 1:]], 2)


def checked(dit: DiTConfig, cfg: SamplerConfig) -> tuple[HistoryConfig, range]:
    """The history's sizes, and the slots that are pooled before each chunk from the third on; InputError for sizes that do not fit."""
    history, stride = cfg.history, dit.memory_stride
    if history is None or stride < 2:
        raise InputError("history", history, f"the network pools by {stride}", "use a SoulX-LiveAct model with its family's own figures")
    pooled = history.chunk_latents // (stride - 1)  # slots that are left; all others must make room for a chunk
    if history.chunk_latents != pooled * (stride - 1) or not 0 < history.anchor_latents <= history.first_latents - pooled:
        rule = f"pooled by {stride}, {pooled} latents and the anchor must fit into the history, and a chunk be a multiple of {stride - 1}"
        raise InputError("history", history, rule, "use the family's own figures")
    if cfg.sigmas[:1] != (1.0,) or any(a <= b for a, b in zip(cfg.sigmas, cfg.sigmas[1:], strict=False)):
        raise InputError("sigmas", cfg.sigmas, "noise levels start at 1 and fall", "use for example 1.0, 0.9375, 0.8333")
    if len(history.uses_audio) != cfg.num_steps:
        remedy = "say of each step whether it uses the sound"
        raise InputError("history.uses_audio", history.uses_audio, f"there are {cfg.num_steps} steps", remedy)
    if cfg.cache_mode != "per_step":
        raise InputError("cache_mode", cfg.cache_mode, "a compressed history holds the keys of every step", "use per_step")
    return history, range(history.anchor_latents, history.anchor_latents + stride * pooled)
