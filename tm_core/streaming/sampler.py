"""Causal chunked sampling: a chunk is denoised against {c0, c(t-1), c(t)} and becomes the next one's past.

The state is a value the caller holds, so many streams share one set of weights; its caches are static
buffers, so memory does not grow with the stream. Every chunk runs the same noise levels (paper section
4.2); each step predicts the clean latents and noises them again to the next level. Noise depends on
(seed, chunk, step) alone.

Cache modes: `per_step` keeps the keys each step left at its own noise level (the paper: no extra
evaluation); `clean_rerun` evaluates the finished chunk once more and lets every step read those keys;
`recompute` does so with the anchor alone in sight, as the chunk before stands in a training sequence, so that
nothing older can reach the next chunk.

Shapes: B=1, C latent channels, F latents, S tokens, W x M one audio window, P speakers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from ..config import DiTConfig, Guidance, SamplerConfig
from ..errors import InputError
from ..model.blocks import AudioKV
from ..model.cache import StepCache
from ..model.conditioning import make_reference
from ..model.dit import TOGETHER, Conditions, TalkingDiT
from ..model.talking import TalkingModel
from .cancel import CancelToken
from .guidance import BOTH, Pass, join, passes

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

SEED_STRIDE = 1_000_003  # chunks and steps draw from seeds that do not meet


@dataclass(frozen=True, kw_only=True)
class SpeakerInput:
    """One voice and where in the picture it speaks; latents are absolute indices."""

    windows: Callable[[range], Any]  # -> what the model's projector hears: (F, W, M) log-mel for ours
    mask: Tensor  # (S,) 0..1
    speaking: Callable[[range], Tensor]  # -> (F,) bool; False is the zero embedding


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a stream shows: the portrait's latent (C, h, w), or latents (C, N, h, w) as make_reference takes them; who speaks."""

    reference: Tensor
    speakers: tuple[SpeakerInput, ...]
    frames: int | None = None  # of the whole stream, None while its sound is arriving
    image: Tensor | None = None  # (1, 257, image_dim) CLIP tokens
    text: Tensor | None = None  # (1, L, text_dim); None: an empty prompt of zeros
    negative: Tensor | None = None  # the same for guidance of the text
    picture: Tensor | None = None  # (3, H, W) in 0..1, for autoencoders that redraw it

    def prompt(self, positive: bool, cfg: DiTConfig) -> Tensor:
        """The prompt (1, L, text_dim), or the negative one."""
        text = self.text if positive else self.negative
        return torch.zeros(1, cfg.text_len, cfg.text_dim) if text is None else text


@dataclass(frozen=True, kw_only=True)
class LatentChunk:
    """Latents (1, C, F, h, w) of chunk `index`.

    `made`: after which CUDA event they may be read on another stream (workers.mark_made). `epoch`: see pipeline.run_pipeline.
    """

    index: int
    latents: Tensor
    made: Any = None
    epoch: int | None = None


class KeyValueCache(Protocol):
    """A cache of keys and values."""

    @property
    def nbytes(self) -> int:
        """Its memory."""

    @property
    def buffers(self) -> list[Tensor]:
        """All of it, in one order."""

    def copy(self) -> Self:
        """The same contents in buffers of its own."""


CacheT = TypeVar("CacheT", bound=KeyValueCache)


@dataclass(kw_only=True)
class Buffers(Generic[CacheT]):
    """What the states of one stream share, and which of them may still use it."""

    caches: tuple[dict[Pass, CacheT], ...]  # per denoising step, or one for clean keys; in it, per pass of guidance
    chunk: int | None = 0  # the next one; None once a step was cut short

    @property
    def nbytes(self) -> int:
        """Memory of the keys and values."""
        return sum(cache.nbytes for caches in self.caches for cache in caches.values())


@dataclass(frozen=True, kw_only=True)
class SamplerState(Generic[CacheT]):
    """Between two chunks of one stream. The step that is given it overwrites its buffers: step each state once."""

    scene: Scene
    seed: int
    conditions: dict[bool, Conditions]  # of the prompt, and of the negative one if guidance asks for it
    mask: Tensor | None  # (1, P, S)
    buffers: Buffers[CacheT]
    chunk: int = 0

    @property
    def cache_bytes(self) -> int:
        """Memory of the keys and values, constant in stream length."""
        return self.buffers.nbytes

    def copy(self) -> SamplerState[CacheT]:
        """This boundary between two chunks, to go back to; costs `cache_bytes`. RuntimeError for a state that is spent."""
        check_unspent(self)
        caches = tuple({which: cache.copy() for which, cache in step.items()} for step in self.buffers.caches)
        return replace(self, buffers=Buffers(caches=caches, chunk=self.chunk))

    def gone_back(self, kept: SamplerState[CacheT]) -> SamplerState[CacheT]:
        """The state at the boundary that `kept` is a copy of, in this stream's own buffers, which stay where they are.

        Whatever this stream has sampled since is forgotten; `kept` may be used again. RuntimeError where it is spent.
        """
        check_unspent(kept)
        for mine, theirs in zip(self.buffers.caches, kept.buffers.caches, strict=True):
            for which, cache in mine.items():
                for here, there in zip(cache.buffers, theirs[which].buffers, strict=True):
                    here.copy_(there)
        self.buffers.chunk = kept.chunk
        return replace(kept, buffers=self.buffers)


def chunk_noise(seed: int, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise on the CPU, the same on every machine and in any order of chunks."""
    generator = torch.Generator().manual_seed((seed * SEED_STRIDE + chunk * 128 + step) % 2**63)
    return torch.randn(shape, generator=generator)


def noise_of_steps(seed: int, chunk: int, steps: int, shape: tuple[int, ...], device: torch.device) -> list[Tensor]:
    """What is added before each step, on the device: drawn before the first, because a copy in the middle of a chunk waits for the GPU."""
    drawn = [chunk_noise(seed, chunk, step, shape) for step in range(steps)]
    if device.type != "cuda":
        return [noise.to(device) for noise in drawn]
    return [noise.pin_memory().to(device, non_blocking=True) for noise in drawn]


def check_unspent(state: SamplerState[Any]) -> None:
    """RuntimeError for a state whose buffers hold something later."""
    if state.buffers.chunk != state.chunk:
        raise RuntimeError(f"the state before chunk {state.chunk} is spent; open the stream again")


@contextmanager
def spending(state: SamplerState[Any]) -> Iterator[None]:
    """One step of a state: RuntimeError for one that is spent, because its buffers hold something later by then."""
    check_unspent(state)
    state.buffers.chunk = None
    with torch.inference_mode():
        yield
    state.buffers.chunk = state.chunk + 1


class ChunkedSampler:
    """`open` a stream, then `step` through its chunks."""

    def __init__(self, model: TalkingModel, cfg: SamplerConfig) -> None:
        if not cfg.sigmas or cfg.sigmas[0] != 1.0 or any(a <= b for a, b in zip(cfg.sigmas, cfg.sigmas[1:], strict=False)):
            raise InputError("sigmas", cfg.sigmas, "noise levels start at 1 and fall", "use for example 1.0, 0.75")
        self._model, self._cfg, self._passes = model, cfg, passes(cfg.guidance)

    def open(self, scene: Scene, seed: int) -> SamplerState[StepCache]:
        """State before chunk 0; InputError for a mask that does not fit the picture."""
        dit = self._model.dit
        weight = torch.empty(0, dtype=dit.compute_dtype, device=dit.compute_device)
        image = None if scene.image is None else scene.image.to(weight)
        with torch.inference_mode():
            conditions = {
                prompted: dit.conditions(scene.prompt(prompted, dit.cfg).to(weight), image)
                for prompted in {p.text for p in self._passes}}
        latent_hw = (scene.reference.shape[-2], scene.reference.shape[-1])
        count = self._cfg.num_steps if self._cfg.cache_mode == "per_step" else 1
        caches = tuple(
            {p: dit.allocate_cache(1, self._cfg.chunk_latents, latent_hw) for p in self._passes} for _ in range(count))
        mask = stack_masks(scene, caches[0][BOTH].tokens // self._cfg.chunk_latents, dit.compute_device)
        note_voices_apart(dit.cfg, scene, "in chunks that see the portrait only in a cache")
        return SamplerState(scene=scene, seed=seed, conditions=conditions, mask=mask, buffers=Buffers(caches=caches))

    def step(self, state: SamplerState[StepCache], cancel: CancelToken | None = None) -> tuple[LatentChunk, SamplerState[StepCache]]:
        """The next chunk and the state after it.

        Raises Cancelled between denoising steps. A state is spent by its step, finished or cut short: RuntimeError
        for one stepped twice.
        """
        with spending(state):
            chunk = self._denoise(state, cancel or CancelToken())
        return chunk, replace(state, chunk=state.chunk + 1)

    def _denoise(self, state: SamplerState[StepCache], token: CancelToken) -> LatentChunk:
        evaluate, caches = self._evaluation(state), state.buffers.caches
        per_step = self._cfg.cache_mode == "per_step"
        noise = evaluate.noise(self._cfg.num_steps if self._cfg.renoise else 1)
        x = x0 = noise[0]
        before = 1.0
        for i, sigma in enumerate(self._cfg.sigmas):
            token.check()
            if i and self._cfg.renoise:
                x = (1 - sigma) * x0 + sigma * noise[i]
            elif i:
                x = x0 + (x - x0) * (sigma / before)
            x0 = evaluate(x, sigma, caches[i if per_step else 0], write=per_step)
            before = sigma
        if not per_step:
            token.check()
            evaluate(x0, 0.0, caches[0], write=True, past=1 if self._cfg.cache_mode == "recompute" else 2)
        still = evaluate.reference[:, -x0.shape[1] :]
        return LatentChunk(index=state.chunk, latents=still + self._cfg.articulation * (x0 - still))

    def _evaluation(self, state: SamplerState[StepCache]) -> _Evaluation:
        """The current chunk with all that does not change between its steps."""
        n = self._cfg.chunk_latents
        latents = range(state.chunk * n, (state.chunk + 1) * n)
        device = self._model.dit.compute_device
        reference = make_reference(state.scene.reference[None].to(device), list(latents))
        dit = self._model.dit
        audio = {on: dit.audio(*audio_tokens(self._model, state.scene, latents, silent=not on)) for on in {p.audio for p in self._passes}}
        return _Evaluation(dit, state, reference, audio, self._cfg.guidance)


def stack_masks(scene: Scene, tokens: int, device: torch.device) -> Tensor | None:
    """(1, P, S) of all speakers; InputError for one that does not fit the picture."""
    for i, speaker in enumerate(scene.speakers):
        if speaker.mask.shape != (tokens,):
            rule = f"the picture has {tokens} tokens a latent"
            raise InputError(f"speakers[{i}].mask", tuple(speaker.mask.shape), rule, "make the mask with the model that animates")
    if not scene.speakers:
        return None
    return torch.stack([s.mask for s in scene.speakers])[None].to(device)


def voices_together(cfg: DiTConfig, scene: Scene) -> bool:
    """Whether a clip of this scene has two voices that one attention tells apart by place (model/voices.py)."""
    return cfg.voices == "together" and len(scene.speakers) == TOGETHER


def note_voices_apart(cfg: DiTConfig, scene: Scene, why: str) -> None:
    """A line of log where a model that was trained to hear two voices together hears several by their masks."""
    if cfg.voices == "together" and len(scene.speakers) > 1:
        log.info("%d voices are heard apart, each by its mask: together they were trained two in a clip, not %s", len(scene.speakers), why)


def audio_tokens(model: TalkingModel, scene: Scene, latents: range, *, silent: bool) -> tuple[Tensor | None, Tensor | None]:
    """Audio tokens (1, P, F, N, D), silence where a speaker is silent, and which are no padding (1, P, F, N) or None.

    `silent`: everybody is, which guidance of the sound steps away from.
    """
    if not scene.speakers or model.projector is None:
        return None, None
    like = torch.empty(0, dtype=model.dit.compute_dtype, device=model.dit.compute_device)
    heard = [model.projector.project(s.windows(latents), s.speaking(latents) & (not silent), like) for s in scene.speakers]
    valid = [h.valid for h in heard if h.valid is not None]
    return torch.stack([h.tokens for h in heard])[None], torch.stack(valid)[None] if valid else None


@dataclass(frozen=True)
class _Evaluation:
    """The transformer on the current chunk: clean latents (1, C, F, h, w) seen in x."""

    dit: TalkingDiT
    state: SamplerState[StepCache]
    reference: Tensor
    audio: dict[bool, list[AudioKV | None]]  # heard, and silent if guidance asks for it
    guidance: Guidance

    def noise(self, steps: int) -> list[Tensor]:
        """What is added before each of so many denoising steps."""
        shape = (1, self.dit.cfg.out_dim, *self.reference.shape[2:])
        return noise_of_steps(self.state.seed, self.state.chunk, steps, shape, self.reference.device)

    def __call__(self, x: Tensor, sigma: float, caches: dict[Pass, StepCache], *, write: bool, past: int = 2) -> Tensor:
        level = torch.full((len(x),), sigma, device=x.device)
        made = {
            p: self.dit.chunk_x0(
                x, level, reference=self.reference, conditions=self.state.conditions[p.text], audio=self.audio[p.audio],
                face_mask=self.state.mask, cache=cache, chunk=self.state.chunk, write=write, past=past)
            for p, cache in caches.items()}
        return join(self.guidance, made)
