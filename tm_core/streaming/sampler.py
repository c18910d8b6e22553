"""Causal chunked sampling: a chunk is denoised against {c0, c(t-1), c(t)} and becomes the next one's past.

The state is a value the caller holds, so many streams share one set of weights; its caches are static
buffers, so memory does not grow with the stream. Every chunk runs the same noise levels (paper section
4.2); each step predicts the clean latents and noises them again to the next level. Noise depends on
(seed, chunk, step) alone.

Cache modes: `per_step` keeps the keys each step left at its own noise level (the paper: no extra
evaluation); `clean_rerun` evaluates the finished chunk once more and lets every step read those keys;
`recompute` also evaluates the anchor and the last chunk anew before each chunk.

Shapes: B=1, C latent channels, F latents, S tokens, W x M one audio window, P speakers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config import SamplerConfig
from ..errors import InputError
from ..model.blocks import AudioKV
from ..model.cache import StepCache
from ..model.conditioning import make_reference
from ..model.dit import Conditions
from ..model.talking import TalkingModel
from .cancel import CancelToken

SEED_STRIDE = 1_000_003  # chunks and steps draw from seeds that do not meet


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """One voice and where in the picture it speaks; latents are absolute indices."""

    windows: Callable[[range], Tensor]  # -> (F, W, M) log-mel
    mask: Tensor  # (S,) 0..1
    speaking: Callable[[range], Tensor]  # -> (F,) bool; False is the zero embedding


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a stream shows: the portrait's latent (C, h, w), who speaks, how many frames in all."""

    reference: Tensor
    speakers: tuple[Speaker, ...]
    frames: int
    image: Tensor | None = None  # (1, 257, image_dim) CLIP tokens
    text: Tensor | None = None  # (1, L, text_dim); None: an empty prompt of zeros


@dataclass(frozen=True, kw_only=True)
class LatentChunk:
    """Latents (1, C, F, h, w) of chunk `index`."""

    index: int
    latents: Tensor


@dataclass(frozen=True, kw_only=True)
class SamplerState:
    """Between two chunks of one stream. Its buffers are overwritten by the step that is given it."""

    scene: Scene
    seed: int
    conditions: Conditions
    mask: Tensor | None  # (1, P, S)
    caches: tuple[StepCache, ...]  # one per denoising step, or one for clean keys
    chunk: int = 0
    anchor: Tensor | None = None  # clean latents of c0 and of the last chunk, for `recompute`
    last: Tensor | None = None


def chunk_noise(seed: int, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise on the CPU, the same on every machine and in any order of chunks."""
    generator = torch.Generator().manual_seed((seed * SEED_STRIDE + chunk * 128 + step) % 2**63)
    return torch.randn(shape, generator=generator)


class ChunkedSampler:
    """`open` a stream, then `step` through its chunks."""

    def __init__(self, model: TalkingModel, cfg: SamplerConfig) -> None:
        if not cfg.sigmas or cfg.sigmas[0] != 1.0 or any(a <= b for a, b in zip(cfg.sigmas, cfg.sigmas[1:], strict=False)):
            raise InputError("sigmas", cfg.sigmas, "noise levels start at 1 and fall", "use for example 1.0, 0.75")
        self._model, self._cfg = model, cfg

    def open(self, scene: Scene, seed: int) -> SamplerState:
        """State before chunk 0."""
        dit, cfg = self._model.dit, self._model.config
        weight = dit.patch_embedding.weight
        text = scene.text if scene.text is not None else torch.zeros(1, cfg.dit.text_len, cfg.dit.text_dim)
        with torch.inference_mode():
            conditions = dit.conditions(text.to(weight), None if scene.image is None else scene.image.to(weight))
        latent_hw = (scene.reference.shape[-2], scene.reference.shape[-1])
        count = self._cfg.num_steps if self._cfg.cache_mode == "per_step" else 1
        caches = tuple(dit.allocate_cache(1, self._cfg.chunk_latents, latent_hw) for _ in range(count))
        mask = torch.stack([s.mask for s in scene.speakers])[None].to(weight.device) if scene.speakers else None
        return SamplerState(scene=scene, seed=seed, conditions=conditions, mask=mask, caches=caches)

    def step(self, state: SamplerState, cancel: CancelToken | None = None) -> tuple[LatentChunk, SamplerState]:
        """The next chunk and the state after it; raises Cancelled between denoising steps."""
        token = cancel or CancelToken()
        with torch.inference_mode():
            return self._step(state, token)

    def _step(self, state: SamplerState, token: CancelToken) -> tuple[LatentChunk, SamplerState]:
        index, n = state.chunk, self._cfg.chunk_latents
        latents = list(range(index * n, (index + 1) * n))
        device = self._model.dit.patch_embedding.weight.device
        reference = make_reference(state.scene.reference[None].to(device), latents)
        audio = self._model.dit.audio(self._listen(state.scene, range(latents[0], latents[-1] + 1)))
        shape = (1, self._model.config.dit.out_dim, *reference.shape[2:])
        evaluate = _Evaluation(self._model, state, reference, audio)
        if self._cfg.cache_mode == "recompute" and index > 0:
            self._recompute(state, token)
        x = chunk_noise(state.seed, index, 0, shape).to(device)
        x0 = x
        for i, sigma in enumerate(self._cfg.sigmas):
            token.check()
            if i:
                x = (1 - sigma) * x0 + sigma * chunk_noise(state.seed, index, i, shape).to(device)
            x0 = evaluate(x, sigma, state.caches[i if len(state.caches) > 1 else 0], write=self._cfg.cache_mode == "per_step")
        if self._cfg.cache_mode != "per_step":
            token.check()
            evaluate(x0, 0.0, state.caches[0], write=True)
        after = replace(state, chunk=index + 1, anchor=x0 if index == 0 else state.anchor, last=x0)
        return LatentChunk(index=index, latents=x0), after

    def _listen(self, scene: Scene, latents: range) -> Tensor | None:
        """Audio tokens (1, P, F, N, D), zero where a speaker is silent."""
        if not scene.speakers or self._model.projector is None:
            return None
        weight = self._model.projector.place
        tokens = []
        for speaker in scene.speakers:
            heard = self._model.projector(speaker.windows(latents)[None].to(weight))
            tokens.append(heard * speaker.speaking(latents).to(weight)[None, :, None, None])
        return torch.stack(tokens, 1)

    def _recompute(self, state: SamplerState, token: CancelToken) -> None:
        """Fill the cache from the clean latents of the anchor and of the last chunk."""
        n = self._cfg.chunk_latents
        for slot, latents in ((0, state.anchor), (state.chunk - 1, state.last)):
            if latents is None or (slot == 0 and latents is state.last and state.chunk > 1):
                continue
            token.check()
            indices = list(range(slot * n, (slot + 1) * n))
            reference = make_reference(state.scene.reference[None].to(latents.device), indices)
            audio = self._model.dit.audio(self._listen(state.scene, range(indices[0], indices[-1] + 1)))
            _Evaluation(self._model, replace(state, chunk=slot), reference, audio)(latents, 0.0, state.caches[0], write=True)


@dataclass(frozen=True)
class _Evaluation:
    """One evaluation of the transformer on the current chunk."""

    model: TalkingModel
    state: SamplerState
    reference: Tensor
    audio: list[AudioKV | None]

    def __call__(self, x: Tensor, sigma: float, cache: StepCache, *, write: bool) -> Tensor:
        level = torch.full((len(x),), sigma, device=x.device)
        return self.model.dit.chunk_x0(
            x, level, reference=self.reference, conditions=self.state.conditions, audio=self.audio,
            face_mask=self.state.mask, cache=cache, chunk=self.state.chunk, write=write,
        )
