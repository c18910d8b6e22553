"""Chunked bidirectional sampling: clips under full attention, each led by the last frames of the one before.

What MultiTalk, InfiniteTalk and SoulX-FlashTalk were trained for. The frames that lead a clip are encoded again and
stand clean in its latents at every step. Pixels of a clip feed the next, so a clip is decoded here, and once more by
whoever shows it; nothing else grows with the stream. Sources: `generate_infinitetalk` of MeiGen-AI/InfiniteTalk
0107cd9, `FlashTalkPipeline.generate` of Soul-AILab/SoulX-FlashTalk 688982e. Noise depends on (seed, clip, step) alone.

Shapes: B=1, C latent channels, F latents of a clip, M of them motion latents, S tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..config import ClipConfig, SamplerConfig
from ..errors import InputError
from ..model.conditioning import make_reference
from ..model.talking import TalkingModel
from ..timeline import Timeline
from ..vae.base import device_of, dtype_of
from .cancel import CancelToken
from .guidance import Pass, join, passes
from .sampler import LatentChunk, Scene, chunk_noise, listen, stack_masks

STRIDE = Timeline.stride  # video frames of a latent


@dataclass(frozen=True, kw_only=True)
class ClipState:
    """Between two clips of one stream; it may be stepped as often as one likes."""

    scene: Scene
    seed: int
    mask: Tensor | None  # (1, P, S)
    motion: Tensor  # (1, C, M, h, w) clean latents that lead the next clip
    clip: int = 0


class ClipSampler:
    """`open` a stream, then `step` through its clips; a chunk holds all latents of its clip, motion latents included."""

    def __init__(self, model: TalkingModel, cfg: SamplerConfig) -> None:
        if cfg.clip is None or not 0 < cfg.clip.motion_latents < cfg.clip.latents:
            raise InputError("clip", cfg.clip, "its motion latents must be fewer than its latents", "use the family's own figures")
        self._model, self._cfg, self._clip, self._passes = model, cfg, cfg.clip, passes(cfg.guidance)

    @property
    def motion_frames(self) -> int:
        """Frames a clip repeats of the one before."""
        return 1 + STRIDE * (self._clip.motion_latents - 1)

    def open(self, scene: Scene, seed: int) -> ClipState:
        """State before clip 0, which is led by the portrait alone."""
        tokens = scene.reference.shape[-2] * scene.reference.shape[-1]
        patch = self._model.dit.cfg.patch_size
        mask = stack_masks(scene, tokens // (patch[1] * patch[2]), self._model.dit.compute_device)
        motion = (scene.reference[:, None] if scene.reference.dim() == 3 else scene.reference[:, :1])[None]
        return ClipState(scene=scene, seed=seed, mask=mask, motion=motion.to(self._model.dit.compute_device))

    def step(self, state: ClipState, cancel: CancelToken | None = None) -> tuple[LatentChunk, ClipState]:
        """The next clip and the state after it; raises Cancelled between denoising steps."""
        token = cancel or CancelToken()
        with torch.inference_mode():
            latents = self._denoise(state, token)
            token.check()
            motion = self._lead(latents, state.scene)
        return LatentChunk(index=state.clip, latents=latents), replace(state, motion=motion, clip=state.clip + 1)

    def latents_of(self, clip: int) -> range:
        """Absolute latents of a clip; its first ones are the last of the clip before."""
        start = clip * (self._clip.latents - self._clip.motion_latents)
        return range(start, start + self._clip.latents)

    def _denoise(self, state: ClipState, token: CancelToken) -> Tensor:
        evaluate = self._evaluation(state)
        shape = (1, self._model.dit.cfg.out_dim, self._clip.latents, *state.motion.shape[3:])

        def noise(step: int) -> Tensor:
            return chunk_noise(state.seed, state.clip, step, shape).to(state.motion.device)

        def led(x: Tensor) -> Tensor:
            return torch.cat([state.motion.to(x), x[:, :, state.motion.shape[2] :]], 2)

        x = led(noise(0))
        levels = (*self._cfg.sigmas, 0.0)
        for i, sigma in enumerate(self._cfg.sigmas):
            token.check()
            x0, after = evaluate(x, sigma), levels[i + 1]
            again = self._cfg.renoise and after > 0
            x = led((1 - after) * x0 + after * noise(i + 1) if again else x0 + (x - x0) * (after / sigma))
        return x

    def _evaluation(self, state: ClipState) -> Any:
        """Clean latents seen in x at a level, guided."""
        dit, scene, device = self._model.dit, state.scene, state.motion.device
        kept = range(self._clip.latents)
        reference = make_reference(scene.reference[None].to(device), list(kept))
        latents = self.latents_of(state.clip)
        heard = {on: listen(self._model, scene, latents, silent=not on) for on in {p.audio for p in self._passes}}
        texts = {on: scene.prompt(on, self._model.config.dit).to(device, dit.compute_dtype) for on in {p.text for p in self._passes}}
        image = None if scene.image is None else scene.image.to(device, dit.compute_dtype)

        def one(x: Tensor, level: Tensor, which: Pass) -> Tensor:
            audio, valid = heard[which.audio]
            return dit.forward_x0(
                x, level, reference=reference, text=texts[which.text], image=image, audio=audio, audio_valid=valid, face_mask=state.mask)

        def evaluate(x: Tensor, sigma: float) -> Tensor:
            level = torch.full((1,), sigma, device=device)
            return join(self._cfg.guidance, {p: one(x, level, p) for p in self._passes})

        return evaluate

    def _lead(self, latents: Tensor, scene: Scene) -> Tensor:
        """Motion latents of the next clip: the last frames of this one, decoded and encoded again."""
        vae: Any = self._model.vae
        place, kind = device_of(vae), dtype_of(vae)
        picture = None if scene.picture is None else scene.picture.to(place, kind)
        frames, _ = vae.decode(latents.to(place, kind), vae.open_decoder(picture))
        motion: Tensor = vae.encode(frames[-self.motion_frames :].to(place, kind), vae.open_encoder())[0]
        return motion.to(latents)


def clip_of(frames: int, motion_frames: int) -> ClipConfig:
    """A family's clip in latents; InputError for lengths that are not 1 + 4 k."""
    for name, count in (("clip_frames", frames), ("motion_frames", motion_frames)):
        if count < 1 or (count - 1) % STRIDE:
            raise InputError(name, count, f"must be 1 + {STRIDE} k frames", f"use {1 + STRIDE * max(0, (count - 1) // STRIDE)}")
    return ClipConfig(latents=1 + (frames - 1) // STRIDE, motion_latents=1 + (motion_frames - 1) // STRIDE)
