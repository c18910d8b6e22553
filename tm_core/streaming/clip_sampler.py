"""Chunked bidirectional sampling: clips under full attention, each led by the last frames of the one before.

What MultiTalk, InfiniteTalk and SoulX-FlashTalk were trained for, and what users of Wan and FantasyTalking do by hand.
The frames that lead a clip are encoded again. They stand clean in its latents at every step, or take the portrait's place
as what is given (ClipConfig). Pixels of a clip feed the next, so a clip is decoded for both this and whoever shows it (shared_decode.py);
nothing grows with the stream. Noise depends on (seed, clip, step) alone.

Sources: `generate_infinitetalk` of MeiGen-AI/InfiniteTalk 0107cd9, `FlashTalkPipeline.generate` of
Soul-AILab/SoulX-FlashTalk 688982e, `generate` of MeiGen-AI/MultiTalk c1ad840, `WanVideoPipeline.__call__` of
Fantasy-AMAP/fantasy-talking 8c2d0c9. Unlike MultiTalk's, CLIP tokens stay the portrait's: a model here has no CLIP.

Shapes: B=1, C latent channels, F latents of a clip, M of them motion latents, N latents of a reference, S tokens, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..config import ClipConfig, ClipLead, SamplerConfig, VAEConfig
from ..errors import InputError
from ..model.conditioning import make_reference
from ..model.talking import TalkingModel
from .cancel import CancelToken
from .colour_correction import ColourCorrection
from .guidance import Pass, join, passes
from .sampler import LatentChunk, Scene, audio_tokens, noise_of_steps, note_voices_apart, stack_masks, voices_together
from .shared_decode import SharedDecode

STRIDE = VAEConfig().temporal_stride  # video frames of a latent in Wan's autoencoder, which all these families share
EMPTY = 0.5  # value of frames without content, which follow a given picture: Wan's zero in -1..1


@dataclass(frozen=True, kw_only=True)
class ClipState:
    """Between two clips of one stream; it may be stepped as often as one likes."""

    scene: Scene
    seed: int
    mask: Tensor | None  # (1, P, S)
    before: Tensor | None = None  # (1, C, F, h, w) the clip before, whose last frames lead the next one
    clip: int = 0


@dataclass(frozen=True, kw_only=True)
class Lead:
    """What a clip begins with."""

    motion: Tensor  # (1, C, M, h, w) clean latents; M may be 0
    reference: Tensor  # what it is given as its picture, in the scene's form
    given: int = 1  # latents of it that the conditioning marks as given


class ClipSampler:
    """`open` a stream, then `step` through its clips; a chunk holds all latents of its clip, motion latents included."""

    def __init__(self, model: TalkingModel, cfg: SamplerConfig) -> None:
        if cfg.clip is None or not 0 <= cfg.clip.motion_latents <= cfg.clip.repeated_latents < cfg.clip.latents:
            raise InputError("clip", cfg.clip, "its motion latents must be fewer than its latents", "use the family's own figures")
        self._model, self._cfg, self._clip, self._passes = model, cfg, cfg.clip, passes(cfg.guidance)
        vae: Any = model.vae
        self.decoded = SharedDecode(vae, self.motion_frames)

    @property
    def motion_frames(self) -> int:
        """Frames a clip repeats of the one before."""
        return 1 + self._model.config.temporal_stride * (self._clip.repeated_latents - 1)

    def open(self, scene: Scene, seed: int) -> ClipState:
        """State before clip 0, which is led by the portrait alone; InputError where correcting colours lacks its picture."""
        if self._cfg.colour_correction and scene.picture is None:
            raise InputError("colour_correction", self._cfg.colour_correction, "needs the portrait", "give the scene its picture, or use 0")
        tokens = scene.reference.shape[-2] * scene.reference.shape[-1]
        patch = self._model.dit.cfg.patch_size
        mask = stack_masks(scene, tokens // (patch[1] * patch[2]), self._model.dit.compute_device)
        if voices_together(self._model.dit.cfg, scene):
            check_places(scene)
        else:
            note_voices_apart(self._model.dit.cfg, scene, f"{len(scene.speakers)}")
        return ClipState(scene=scene, seed=seed, mask=mask)

    def step(self, state: ClipState, cancel: CancelToken | None = None) -> tuple[LatentChunk, ClipState]:
        """The next clip and the state after it; raises Cancelled between denoising steps."""
        token = cancel or CancelToken()
        with torch.inference_mode():
            lead = self.lead(state)
            token.check()
            latents = self._denoise(state, lead, token)
        self.decoded.sampled(latents)
        return LatentChunk(index=state.clip, latents=latents), replace(state, before=latents, clip=state.clip + 1)

    def latents_of(self, clip: int) -> range:
        """Absolute latents of a clip; its first ones are the last of the clip before."""
        start = clip * (self._clip.latents - self._clip.repeated_latents)
        return range(start, start + self._clip.latents)

    def _denoise(self, state: ClipState, lead: Lead, token: CancelToken) -> Tensor:
        evaluate = self._evaluation(state, lead)
        shape = (1, self._model.dit.cfg.out_dim, self._clip.latents, *lead.motion.shape[3:])

        noise = noise_of_steps(state.seed, state.clip, self._cfg.num_steps + 1, shape, lead.motion.device)

        def led(x: Tensor, level: float, fresh: Tensor) -> Tensor:
            motion, count = lead.motion.to(x), lead.motion.shape[2]
            if self._clip.lead == "given":
                motion = (1 - level) * motion + level * fresh[:, :, :count]
            return torch.cat([motion, x[:, :, count:]], 2)

        x = noise[0]
        x = led(x, 1.0, x)
        levels = (*self._cfg.sigmas, 0.0)
        for i, sigma in enumerate(self._cfg.sigmas):
            token.check()
            x0, after, fresh = evaluate(x, sigma), levels[i + 1], noise[i + 1]
            x = (1 - after) * x0 + after * fresh if self._cfg.renoise else x0 + (x - x0) * (after / sigma)
            x = led(x, after, fresh)
        return x

    def _evaluation(self, state: ClipState, lead: Lead) -> Any:
        """Clean latents seen in x at a level, guided."""
        dit, scene, device = self._model.dit, state.scene, lead.motion.device
        kept = range(self._clip.latents)
        reference = make_reference(lead.reference[None].to(device), list(kept))
        reference[:, :4, : lead.given] = 1  # Wan's mask
        latents = self.latents_of(state.clip)
        heard = {on: self._heard(state, latents, silent=not on) for on in {p.audio for p in self._passes}}
        texts = {on: scene.prompt(on, self._model.config.dit).to(device, dit.compute_dtype) for on in {p.text for p in self._passes}}
        image = None if scene.image is None else scene.image.to(device, dit.compute_dtype)

        def one(x: Tensor, level: Tensor, which: Pass) -> Tensor:
            audio, valid, mask = heard[which.audio]
            return dit.forward_x0(
                x, level, reference=reference, text=texts[which.text], image=image, audio=audio, audio_valid=valid, face_mask=mask)

        def evaluate(x: Tensor, sigma: float) -> Tensor:
            level = torch.full((1,), sigma, device=device)
            return join(self._cfg.guidance, {p: one(x, level, p) for p in self._passes})

        return evaluate

    def _heard(self, state: ClipState, latents: range, *, silent: bool) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Audio tokens, which are no padding (`audio_tokens`), and the masks (1, P, S) they are heard by."""
        scene, mask = state.scene, state.mask
        if silent and voices_together(self._model.dit.cfg, scene):
            # silence of two is one silent voice in the whole picture: what `generate` of MultiTalk steps away from
            scene, mask = replace(scene, speakers=scene.speakers[:1]), None
        return *audio_tokens(self._model, scene, latents, silent=silent), mask

    def lead(self, state: ClipState) -> Lead:
        """The last frames of the clip before, encoded when the next one begins: a stream's last clip leads nothing."""
        moves, count, picture = self._clip.moves_picture, self._clip.motion_latents, state.scene.reference
        if state.before is None:
            motion = (picture[:, None] if picture.dim() == 3 else picture[:, :1])[None].to(self._model.dit.compute_device)
            return Lead(motion=motion[:, :, :0] if moves else motion, reference=picture)
        frames = self._last_frames(state.before, state.scene)
        if moves and picture.dim() == 4:
            rest = 1 + self._model.config.temporal_stride * (self._clip.latents - 1) - len(frames)
            frames = torch.cat([frames, torch.full_like(frames[:1], EMPTY).expand(rest, -1, -1, -1)])
        vae: Any = self._model.vae
        encoded: Tensor = vae.encode(frames, vae.open_encoder())[0].to(state.before)
        given = (encoded[0], self._clip.repeated_latents) if moves else (picture, 1)
        return Lead(motion=encoded[:, :, :count], reference=given[0], given=given[1])

    def _last_frames(self, latents: Tensor, scene: Scene) -> Tensor:
        """Frames (T, 3, H, W) of a clip that the next one repeats, in the autoencoder's type."""
        frames = self.decoded.leading(latents, scene.picture)
        if not self._cfg.colour_correction or scene.picture is None:
            return frames
        return ColourCorrection(scene.picture.to(frames), self._cfg.colour_correction)(frames).to(frames)


def check_places(scene: Scene) -> None:
    """InputError where two voices cannot be told apart by place: an empty mask, or twice the same."""
    remedy = "give each speaker a mask of their own"
    for i, speaker in enumerate(scene.speakers):
        if speaker.mask.max() <= 0:
            raise InputError(f"speakers[{i}].mask", "empty", "the model finds a voice's speaker by it", remedy)
    first, second = (speaker.mask for speaker in scene.speakers)
    if torch.equal(first, second):
        raise InputError("speakers[1].mask", "that of speakers[0]", "the model tells two voices apart by place", remedy)


def clip_of(frames: int, motion_frames: int, lead: ClipLead = "clean") -> ClipConfig:
    """A family's clip in latents; InputError for lengths that are not 1 + 4 k. Motion of 0 frames: see ClipConfig."""
    for name, count in (("clip_frames", frames), ("motion_frames", motion_frames or 1)):
        if count < 1 or (count - 1) % STRIDE:
            raise InputError(name, count, f"must be 1 + {STRIDE} k frames", f"use {1 + STRIDE * max(0, (count - 1) // STRIDE)}")
    return ClipConfig(latents=1 + (frames - 1) // STRIDE, motion_latents=(motion_frames + STRIDE - 1) // STRIDE, lead=lead)
