"""TalkingDiT: Wan2.1 I2V's transformer with audio cross-attention and a streaming path (paper sections 3, 4).

State-dict names are Wan's. Sigma is the noise level: x = (1 - sigma) x0 + sigma noise; the network's
timestep is 1000 sigma and its output the velocity noise - x0. A checkpoint of prediction "x0_residual"
outputs what to add to the reference latent instead, one of prediction "residual" also sees the noisy latents
without their share of it, so that noise covers what moves and not who it is; callers need not know.

Non-goals: scheduling and noise (streaming/sampler.py), audio tokens (audio_projector.py).
Shapes: B batch, C=16 latent channels, F latents, h w latent grid, S tokens of a latent, P speakers, N audio
tokens of a latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..config import DiTConfig
from ..errors import InputError
from .blocks import AudioKV, Block, ContextKV, Given, Head, ImageProjection, TokenShare
from .cache import HistoryCache, StepCache
from .rope import rope_table, stream_positions
from .voices import regions_of

TOGETHER = 2  # voices that one attention can tell apart (voices.py)
MIN_SIGMA = 0.02  # below it the velocity of an x0 prediction is not defined well


def timestep_embedding(timestep_B: Tensor, dim: int) -> Tensor:
    """Wan's sinusoids (B, dim): cosines, then sines; the angles in float64, as Wan has them, where the device can."""
    half, device = dim // 2, timestep_B.device
    exact = torch.float32 if device.type == "mps" else torch.float64
    rate = torch.exp(-math.log(10000) * torch.arange(half, dtype=exact, device=device) / half)
    angle = timestep_B.to(exact)[:, None] * rate
    return torch.cat([angle.cos(), angle.sin()], 1).float()


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What stays the same for every chunk and step of a stream: text and image keys, one entry a block."""

    context: tuple[ContextKV, ...]

    @property
    def dtype(self) -> torch.dtype:
        """What the layers compute in."""
        return self.context[0].text_value.dtype


class SequenceGroup(Protocol):
    """Ranks that share the tokens of every whole sequence (distributed/ulysses.py)."""

    def share(self, latents: int, tokens: int, heads: int) -> TokenShare:
        """This rank's share of a sequence of `latents` latents of `tokens` tokens."""


class TalkingDiT(nn.Module):
    """See the module's docstring; `operations` builds the layers (torch.nn, or comfy.ops in the host)."""

    def __init__(self, cfg: DiTConfig, *, operations: Any = nn, device: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        make: dict[str, Any] = {"device": device, "dtype": dtype}
        ops, dim = operations, cfg.dim
        self.patch_embedding = ops.Conv3d(cfg.in_dim, dim, kernel_size=cfg.patch_size, stride=cfg.patch_size, **make)
        self.text_embedding = nn.Sequential(
            ops.Linear(cfg.text_dim, dim, **make), nn.GELU(approximate="tanh"), ops.Linear(dim, dim, **make)
        )
        self.time_embedding = nn.Sequential(ops.Linear(cfg.freq_dim, dim, **make), nn.SiLU(), ops.Linear(dim, dim, **make))
        self.time_projection = nn.Sequential(nn.SiLU(), ops.Linear(dim, 6 * dim, **make))
        self.blocks = nn.ModuleList([Block(cfg, ops, make) for _ in range(cfg.num_layers)])
        self.head = Head(cfg, ops, make)
        self.img_emb = ImageProjection(cfg, ops, make) if cfg.image_dim is not None else None

    def init_weights(self) -> None:
        """Wan's initialisation, for training from scratch: the output starts at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for linear in (self.text_embedding[0], self.text_embedding[2], self.time_embedding[0], self.time_embedding[2]):
            nn.init.normal_(cast(Tensor, linear.weight), std=0.02)
        nn.init.zeros_(self.head.head.weight)

    # -- shared parts -----------------------------------------------------------------------------------

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the layers compute in; a host's subclass says so where it stores weights in another type."""
        dtype: torch.dtype = self.patch_embedding.weight.dtype
        return dtype

    @property
    def compute_device(self) -> torch.device:
        """Where the layers compute; a host's subclass says so where it stores weights elsewhere."""
        device: torch.device = self.patch_embedding.weight.device
        return device

    @property
    def _blocks(self) -> tuple[Block, ...]:
        return cast("tuple[Block, ...]", tuple(self.blocks))

    def conditions(self, text: Tensor, image: Tensor | None = None) -> Conditions:
        """Keys and values of text (B, L, text_dim) and CLIP image tokens (B, 257, image_dim), once per stream."""
        words, picture = self._read(text, image)
        return Conditions(context=tuple(b.cross_attn.context(words, picture) for b in self._blocks))

    def _read(self, text: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Text and image embedded, (B, L, D) and (B, 257, D)."""
        return self.text_embedding(text), self.img_emb(image) if self.img_emb is not None and image is not None else None

    def time(self, sigma_B: Tensor) -> tuple[Tensor, Tensor]:
        """Timestep embedding (B, D) and its projection (B, 6, D)."""
        e = self.time_embedding(timestep_embedding(sigma_B * 1000, self.cfg.freq_dim).to(self.compute_dtype))
        return e.float(), self.time_projection(e).unflatten(1, (6, self.cfg.dim)).float()

    def audio(self, tokens: Tensor | None, valid: Tensor | None = None) -> list[AudioKV | None]:
        """Keys and values of audio tokens (B, F, N, D) or (B, P, F, N, D), one entry a block; valid (B, [P,] F, N) bool."""
        heard = self._heard(tokens)
        valid = valid[:, None] if valid is not None and valid.dim() == 3 else valid
        return [None if heard is None else b.audio(heard, valid) for b in self._blocks]

    def _heard(self, tokens: Tensor | None) -> Tensor | None:
        """Audio tokens (B, P, F, N, D); None for a model that does not hear."""
        if tokens is None or self.cfg.audio_kind == "none":
            return None
        return tokens[:, None] if tokens.dim() == 4 else tokens

    def _regions(self, heard: Tensor | None, mask: Tensor | None, sequence: SequenceGroup | None) -> Tensor | None:
        """The regions (B, S, 3) of two voices heard together; None where every voice is weighed by its mask."""
        if self.cfg.voices == "apart" or heard is None or mask is None or heard.shape[1] != TOGETHER:
            return None
        if sequence is not None:
            raise InputError(
                "voices", self.cfg.voices, "needs all tokens of a sequence in one process", "use no sequence parallelism, or voices apart")
        return regions_of(mask[:, :, 0])

    def _embed(self, x: Tensor, sigma_B: Tensor, reference: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        if self.cfg.prediction == "residual":
            still = reference[:, -self.cfg.out_dim :]
            x = x - (1 - sigma_B.to(x)).view(-1, 1, 1, 1, 1) * still
            reference = torch.cat([reference[:, : -self.cfg.out_dim], still / self.cfg.reference_scale], 1)
        patches = self.patch_embedding(torch.cat([x, reference], 1).to(self.compute_dtype))
        return patches.flatten(2).transpose(1, 2), (patches.shape[2], patches.shape[3], patches.shape[4])

    def _unpatch(self, tokens: Tensor, grid: tuple[int, int, int]) -> Tensor:
        f, h, w = grid
        p, q, r = self.cfg.patch_size
        x = tokens.view(len(tokens), f, h, w, p, q, r, self.cfg.out_dim)
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(len(tokens), self.cfg.out_dim, f * p, h * q, w * r)

    def _x0(self, output: Tensor, x: Tensor, sigma_B: Tensor, reference: Tensor) -> Tensor:
        output = output.float()
        if self.cfg.prediction in ("x0_residual", "residual"):
            return reference[:, -self.cfg.out_dim :].float() + output
        return x.float() - sigma_B.float().view(-1, 1, 1, 1, 1) * output

    # -- whole sequences --------------------------------------------------------------------------------

    def network(
        self, x: Tensor, sigma: Tensor, *, reference: Tensor, text: Tensor, image: Tensor | None = None,
        audio: Tensor | None = None, audio_valid: Tensor | None = None, face_mask: Tensor | None = None,
        positions: Sequence[int | float] | Tensor | None = None, chunk_latents: int | None = None, sequence: SequenceGroup | None = None,
    ) -> Tensor:
        """The raw output (B, C, F, h, w), which `prediction` gives its meaning; arguments as for `forward`."""
        tokens, grid = self._embed(x, sigma, reference)
        times = range(grid[0]) if positions is None else positions
        table = rope_table([float(t) for t in times], grid[1:], self.cfg.head_dim, tokens.device)
        e, e6 = self.time(sigma)
        words, picture = self._read(text, image)
        valid = audio_valid[:, None] if audio_valid is not None and audio_valid.dim() == 3 else audio_valid
        heard, mask = self._heard(audio), spread_mask(face_mask, grid[0])
        given = Given(words, picture, heard, mask, valid, None if chunk_latents else self._regions(heard, mask, sequence))
        chunks = count_chunks(grid[0], chunk_latents) if chunk_latents else None
        share = None if sequence is None else sequence.share(grid[0], grid[1] * grid[2], self.cfg.num_heads)
        if share is not None:
            tokens, table, given = share.own(tokens), share.own(table), share.own_given(given)
        for block in self._blocks:
            tokens = block(tokens, e6, given, table, chunks, share)
        output = self.head(tokens, e, words.dtype)
        return self._unpatch(output if share is None else share.whole(output), grid)

    def forward_x0(self, x: Tensor, sigma: Tensor, *, reference: Tensor, **kwargs: Any) -> Tensor:
        """The clean latents (B, C, F, h, w) the network sees in x; arguments as for `forward`."""
        return self._x0(self.network(x, sigma, reference=reference, **kwargs), x, sigma, reference)

    def forward(self, x: Tensor, sigma: Tensor, *, reference: Tensor, **kwargs: Any) -> Tensor:
        """Velocity noise - x0 (B, C, F, h, w).

        x (B, C, F, h, w); sigma (B,) in 0..1; reference (B, 20, F, h, w): mask and latent channels; text (B, L,
        text_dim); image (B, 257, image_dim) or None; audio (B, [P,] F, N, audio_dim) or None; audio_valid (B, [P,] F, N)
        bool, False for padding; face_mask (B, S), (B, P, S) or (B, P, F, S); positions: temporal RoPE index of each
        latent; chunk_latents: None for full attention, else latents per chunk under the sparse causal mask. Two voices with
        masks are heard as `voices` of the configuration says, under full attention: latent 0 is the portrait then.
        sequence: the ranks that this one shares the sequence's tokens with; all of them have to call.
        """
        if self.cfg.prediction == "velocity":
            return self.network(x, sigma, reference=reference, **kwargs).float()
        x0 = self.forward_x0(x, sigma, reference=reference, **kwargs)
        return (x.float() - x0) / sigma.float().clamp(min=MIN_SIGMA).view(-1, 1, 1, 1, 1)

    # -- streams ----------------------------------------------------------------------------------------

    def allocate_cache(self, batch: int, chunk_latents: int, latent_hw: tuple[int, int]) -> StepCache:
        """A cache for one denoising step of a stream."""
        tokens = chunk_latents * (latent_hw[0] // self.cfg.patch_size[1]) * (latent_hw[1] // self.cfg.patch_size[2])
        return StepCache.allocate(
            len(self.blocks), batch, tokens, self.cfg.num_heads, self.cfg.head_dim,
            torch.empty(0, dtype=self.compute_dtype, device=self.compute_device))

    def chunk_x0(
        self, x: Tensor, sigma: Tensor, *, reference: Tensor, conditions: Conditions, audio: list[AudioKV | None],
        face_mask: Tensor | None, cache: StepCache, chunk: int, write: bool = True, past: int = 2,
    ) -> Tensor:
        """Clean latents of chunk number `chunk` (B, C, n, h, w) seen in x.

        Other arguments as for `forward`, text, image and audio already as keys and values. With `write` its keys stay
        in the cache, in place of those of the chunk before; `past` 1 shows it the anchor alone.
        """
        tokens, grid = self._embed(x, sigma, reference)
        anchor, previous, own = stream_positions(chunk, grid[0], self.cfg.max_latents)
        seen = [*[anchor, previous][: min(chunk, past)], own]
        tables = [rope_table(p, grid[1:], self.cfg.head_dim, tokens.device) for p in seen]
        e, e6 = self.time(sigma)
        mask, slot = spread_mask(face_mask, grid[0]), min(chunk, 1) if write else None
        for block, c, a, layer in zip(self._blocks, conditions.context, audio, cache.layers, strict=True):
            tokens = block.step(tokens, e6, c, a, mask, tables, layer, slot)
        return self._x0(self._unpatch(self.head(tokens, e, conditions.dtype), grid), x, sigma, reference)

    def allocate_history(self, batch: int, slots: int, latent_hw: tuple[int, int]) -> HistoryCache:
        """A cache of `slots` latents for one denoising step of a stream with a compressed history."""
        return HistoryCache.allocate(
            len(self.blocks), batch, slots, (latent_hw[0] // self.cfg.patch_size[1]) * (latent_hw[1] // self.cfg.patch_size[2]),
            self.cfg.num_heads, self.cfg.head_dim, torch.empty(0, dtype=self.compute_dtype, device=self.compute_device))

    def compress_history(self, cache: HistoryCache, slots: range) -> None:
        """Pools these slots of the cache by `memory_stride` and moves what stands behind them up."""
        pool = slice(slots.start * cache.latent_tokens, slots.stop * cache.latent_tokens)
        for block, layer in zip(self._blocks, cache.layers, strict=True):
            block.self_attn.compress_history(layer, pool)

    def history_x0(
        self, x: Tensor, sigma: Tensor, *, reference: Tensor, conditions: Conditions, audio: list[AudioKV | None],
        face_mask: Tensor | None, cache: HistoryCache, slot: int,
    ) -> Tensor:
        """Clean latents of a chunk (B, C, n, h, w) seen in x, its keys kept in the cache from latent `slot` on.

        Other arguments as for `chunk_x0`. It sees every slot before its own; slots are their own temporal positions.
        """
        tokens, grid = self._embed(x, sigma, reference)
        table = rope_table(list(range(slot + grid[0])), grid[1:], self.cfg.head_dim, tokens.device)
        e, e6 = self.time(sigma)
        mask = spread_mask(face_mask, grid[0])
        for block, c, a, layer in zip(self._blocks, conditions.context, audio, cache.layers, strict=True):
            tokens = block.step_with_history(tokens, e6, c, a, mask, table, layer, slot * cache.latent_tokens)
        return self._x0(self._unpatch(self.head(tokens, e, conditions.dtype), grid), x, sigma, reference)


def count_chunks(latents: int, chunk_latents: int) -> int:
    """Chunks in a sequence; ValueError for one that is not whole."""
    if latents % chunk_latents:
        raise ValueError(f"a sequence of {latents} latents is not whole chunks of {chunk_latents}")
    return latents // chunk_latents


def spread_mask(face_mask: Tensor | None, latents: int) -> Tensor | None:
    """(B, S), (B, P, S) or (B, P, F, S) -> (B, P, F, S)."""
    if face_mask is None:
        return None
    if face_mask.dim() == 2:
        face_mask = face_mask[:, None]
    if face_mask.dim() == 3:
        face_mask = face_mask[:, :, None].expand(-1, -1, latents, -1)
    return face_mask
