"""Transformer blocks of Wan2.1 with audio cross-attention; module names are Wan's state-dict names.

Every layer is built from injected `operations`, which may bring `attend` as well. Audio cross-attention is of one of two
kinds. `shared_q_kv`: new
keys and values per block, the text query reused, summed before the output layer (paper section 3; the key names are
FantasyTalking's). `own_q_kv_proj`: a layer of its own after text and image, with its own norm, query, keys, values
and output (MultiTalk's names; InfiniteTalk, SoulX-FlashTalk and SoulX-LiveAct share them). Several voices are attended
apart and weighed by masks (`attend_audio`), or two of them together and told apart by place (`attend_audio_together`, voices.py).

Shapes: B batch, F latents, S tokens of a latent, L = F S, D width, H heads, E head width, N audio tokens,
P speakers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..config import DiTConfig
from ..constants import constant
from .attention import Attend, attention, attention_of
from .cache import HistoryLayer, LayerCache
from .masks import visible_chunks
from .rope import rotate
from .voices import STANDS, places, turned


class ContextKV(NamedTuple):
    """Keys and values of text and image for one block, computed once per stream (B, *, H, E)."""

    text_key: Tensor
    text_value: Tensor
    image_key: Tensor | None
    image_value: Tensor | None


class AudioKV(NamedTuple):
    """Keys and values of the sound for one block (B, P, F, N, H, E)."""

    key: Tensor
    value: Tensor
    valid: Tensor | None = None  # (B, P, F, N) bool: False is padding, attended by nobody


class Given(NamedTuple):
    """What every block of a whole sequence is told besides its tokens."""

    text: Tensor  # embedded (B, T, D)
    image: Tensor | None  # embedded (B, 257, D)
    audio: Tensor | None  # (B, P, F, N, audio_dim)
    mask: Tensor | None  # (B, P, F, S)
    valid: Tensor | None = None  # of the audio tokens (B, P, F, N)
    regions: Tensor | None = None  # (B, S, 3) of two speakers who are heard together (voices.py), None: each by the mask


class Modulation(NamedTuple):
    """What a timestep does to a block, in Wan's order, each (B, 1, D)."""

    attention_shift: Tensor
    attention_scale: Tensor
    attention_gate: Tensor
    ffn_shift: Tensor
    ffn_scale: Tensor
    ffn_gate: Tensor


class TokenShare(Protocol):
    """One rank's l of a sequence's L tokens, under sequence parallelism (distributed/ulysses.py)."""

    def own(self, x: Tensor) -> Tensor:
        """(A, L, ...) -> this rank's (A, l, ...)."""

    def whole(self, x: Tensor) -> Tensor:
        """The inverse: (A, l, ...) of all ranks -> (A, L, ...)."""

    def own_given(self, given: Given) -> Given:
        """Sound and mask of this rank's tokens."""

    def to_heads(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Each (B, l, H, E), all heads of own tokens -> (B, L, H / n, E), own heads of all tokens."""

    def to_tokens(self, x: Tensor) -> Tensor:
        """(B, L, D / n) of own heads -> (B, l, D) of own tokens."""


def masked_attention(q: Tensor, k: Tensor, v: Tensor, num_chunks: int | None, attend: Attend = attention) -> Tensor:
    """Full attention, or the sparse causal mask over `num_chunks` equal chunks; (B, L, H, E) -> (B, L, H E)."""
    if num_chunks is None:
        return attend(q, k, v)
    qs, ks, vs = (t.chunk(num_chunks, 1) for t in (q, k, v))
    rows = []
    for t in range(num_chunks):
        seen = visible_chunks(t)
        rows.append(attend(qs[t], torch.cat([ks[i] for i in seen], 1), torch.cat([vs[i] for i in seen], 1)))
    return torch.cat(rows, 1)


def normalised(norm: Any, x: Tensor) -> Tensor:
    """x through an affine norm in the type of the norm's weights: mixed types would leave the fused kernel.

    Weights stored in fp8 are cast by their own layer (the host's).
    """
    out: Tensor = norm(x.to(norm.weight.dtype) if norm.weight.itemsize > 1 else x)
    return out


def modulation(rows: int, cfg: DiTConfig, factory: dict[str, Any]) -> nn.Parameter:
    """Wan's learned shifts, scales and gates (1, rows, D) at their initial values; no type as small as fp8 can draw them."""
    drawn = torch.randn(1, rows, cfg.dim, device=factory.get("device")) / cfg.dim**0.5
    return nn.Parameter(drawn.to(factory.get("dtype") or torch.get_default_dtype()))


class SelfAttention(nn.Module):
    """Wan's self-attention; keys leave it without RoPE, so that they can be cached."""

    def __init__(self, cfg: DiTConfig, operations: Any, factory: dict[str, Any]) -> None:
        super().__init__()
        self.heads, self.attend = cfg.num_heads, attention_of(operations)
        self.q, self.k, self.v, self.o = (operations.Linear(cfg.dim, cfg.dim, **factory) for _ in range(4))
        self.norm_q, self.norm_k = (operations.RMSNorm(cfg.dim, eps=cfg.eps, **factory) for _ in range(2))
        self.memory_proj_k: Any = None
        self.memory_proj_v: Any = None
        if n := cfg.memory_stride:
            pool = {"kernel_size": n, "stride": n, "groups": cfg.dim, "bias": False, **factory}
            self.memory_proj_k, self.memory_proj_v = (operations.Conv1d(cfg.dim, cfg.dim, **pool) for _ in range(2))

    def qkv(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised q, k and v (B, L, H, E), none rotated."""
        parts = normalised(self.norm_q, self.q(x_BLD)), normalised(self.norm_k, self.k(x_BLD)), self.v(x_BLD)
        q, k, v = (t.unflatten(2, (self.heads, -1)) for t in parts)
        return q, k.to(v.dtype), v

    def forward(
        self, x_BLD: Tensor, table: Tensor, num_chunks: int | None, share: TokenShare | None = None, regions_BSR: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """A whole sequence; table (2, L, 1, E / 2). With a `share` x and table are of its tokens, chunks still of all.

        The second answer is where tokens stand between two speakers (B, L), None without their regions.
        """
        q, k, v = self.qkv(x_BLD)
        q, k = rotate(q, table).to(v.dtype), rotate(k, table)
        between = None if regions_BSR is None else places(q, k, regions_BSR)
        if share is not None:
            q, k, v = share.to_heads(q, k, v)
        mixed = masked_attention(q, k, v, num_chunks, self.attend)
        out: Tensor = self.o(mixed if share is None else share.to_tokens(mixed))
        return out, between

    def step(self, x_BLD: Tensor, tables: list[Tensor], cache: LayerCache, slot: int | None) -> Tensor:
        """One chunk against the cache; tables: RoPE of each visible chunk, its own last; its keys go to `slot`."""
        q, k, v = self.qkv(x_BLD)
        past = cache.read(len(tables) - 1)
        keys = torch.cat([rotate(key, table) for (key, _), table in zip([*past, (k, v)], tables, strict=True)], 1)
        values = torch.cat([value for _, value in past] + [v], 1)
        out: Tensor = self.o(self.attend(rotate(q, tables[-1]).to(v.dtype), keys, values))
        if slot is not None:
            cache.write(slot, k, v)
        return out

    def step_with_history(self, x_BLD: Tensor, table: Tensor, cache: HistoryLayer, start: int) -> Tensor:
        """One chunk against the history before it; its keys go to tokens `start` and on; table: RoPE of all tokens up to its end."""
        q, k, v = self.qkv(x_BLD)
        stop = start + x_BLD.shape[1]
        cache.keys[:, start:stop], cache.values[:, start:stop] = k, v
        keys = rotate(cache.keys[:, :stop], table)
        out: Tensor = self.o(self.attend(rotate(q, table[:, start:]).to(v.dtype), keys, cache.values[:, :stop]))
        return out

    def compress_history(self, cache: HistoryLayer, pool: slice) -> None:
        """Makes room: the tokens `pool` become one where there were `memory_stride`, and what stands behind them moves up."""
        for kept in (cache.keys, cache.values):
            # values are pooled by the projection of keys too, and what is pooled are tokens in a row, not latents: so does
            # the official code (WanSelfAttention.v_compress and k_compress of Soul-AILab/SoulX-LiveAct ac8579b)
            pooled = self.memory_proj_k(kept[:, pool].flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (self.heads, -1))
            moved = torch.cat([pooled, kept[:, pool.stop :]], 1)
            kept[:, pool.start : pool.start + moved.shape[1]] = moved


class CrossAttention(nn.Module):
    """Text, image and sound: one query, outputs summed before `o`."""

    def __init__(self, cfg: DiTConfig, operations: Any, factory: dict[str, Any]) -> None:
        super().__init__()
        self.heads, self.attend = cfg.num_heads, attention_of(operations)
        self.q, self.k, self.v, self.o = (operations.Linear(cfg.dim, cfg.dim, **factory) for _ in range(4))
        self.norm_q, self.norm_k = (operations.RMSNorm(cfg.dim, eps=cfg.eps, **factory) for _ in range(2))
        self.k_img: Any = None
        self.v_img: Any = None
        self.norm_k_img: Any = None
        self.k_proj: Any = None
        self.v_proj: Any = None
        if cfg.image_dim is not None:
            self.k_img, self.v_img = (operations.Linear(cfg.dim, cfg.dim, **factory) for _ in range(2))
            self.norm_k_img = operations.RMSNorm(cfg.dim, eps=cfg.eps, **factory)
        if cfg.audio_kind == "shared_q_kv":
            self.k_proj, self.v_proj = (operations.Linear(cfg.audio_dim, cfg.dim, bias=False, **factory) for _ in range(2))

    def _heads(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (self.heads, -1))
        return split

    def context(self, text: Tensor, image: Tensor | None) -> ContextKV:
        """Keys and values of embedded text (B, L, D) and image (B, 257, D)."""
        value = self._heads(self.v(text))
        key = self._heads(normalised(self.norm_k, self.k(text))).to(value.dtype)
        if image is None or self.k_img is None:
            return ContextKV(key, value, None, None)
        image_value = self._heads(self.v_img(image))
        return ContextKV(key, value, self._heads(normalised(self.norm_k_img, self.k_img(image))).to(image_value.dtype), image_value)

    def audio(self, tokens_BPFND: Tensor) -> AudioKV:
        """Keys and values of audio tokens; zero tokens have zero values, so they add nothing."""
        return AudioKV(self._heads(self.k_proj(tokens_BPFND)), self._heads(self.v_proj(tokens_BPFND)))

    def forward(self, x_BLD: Tensor, ctx: ContextKV, audio: AudioKV | None, mask_BPFS: Tensor | None) -> Tensor:
        """The summed outputs (B, L, D); mask weighs each speaker's sound per token."""
        q = self._heads(normalised(self.norm_q, self.q(x_BLD))).to(ctx.text_value.dtype)
        out = self.attend(q, ctx.text_key, ctx.text_value)
        if ctx.image_key is not None and ctx.image_value is not None:
            out = out + self.attend(q, ctx.image_key, ctx.image_value)
        if audio is not None:
            out = out + attend_audio(q, audio, mask_BPFS)
        summed: Tensor = self.o(out)
        return summed


def attend_audio(q_BLHE: Tensor, audio: AudioKV, mask_BPFS: Tensor | None, leave: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Each latent's tokens attend that latent's sound, all speakers summed; (B, L, D).

    `leave`: a layer each speaker's output passes before the mask weighs it (one with a bias would speak outside).
    """
    speakers, latents = audio.key.shape[1:3]
    q = q_BLHE.unflatten(1, (latents, -1)).flatten(0, 1)
    total: Tensor | None = None
    for p in range(speakers):
        valid = None if audio.valid is None else audio.valid[:, p].flatten(0, 1)
        heard = attention(q, audio.key[:, p].flatten(0, 1), audio.value[:, p].flatten(0, 1), valid)
        heard = (heard if leave is None else leave(heard)).unflatten(0, (-1, latents))
        if mask_BPFS is not None:
            heard = heard * mask_BPFS[:, p, :, :, None].to(heard.dtype)
        total = heard if total is None else total + heard
    assert total is not None
    return total.flatten(1, 2)


def attend_audio_together(q_BLHE: Tensor, audio: AudioKV, places_BL: Tensor) -> Tensor:
    """Each latent's tokens attend both voices of that latent at once, turned by where they and the voices stand; (B, L, D)."""
    speakers, latents = audio.key.shape[1:3]
    stands = constant(STANDS[:speakers], q_BLHE.device).view(-1, 1, 1)
    keys, values = (t.movedim(1, 2).flatten(2, 3).flatten(0, 1) for t in (turned(audio.key, stands), audio.value))
    valid = None if audio.valid is None else audio.valid.movedim(1, 2).flatten(2).flatten(0, 1)
    q = turned(q_BLHE, places_BL).unflatten(1, (latents, -1)).flatten(0, 1)
    heard: Tensor = attention(q, keys, values, valid).unflatten(0, (-1, latents))
    return heard.flatten(1, 2)


class AudioCrossAttention(nn.Module):
    """Sound with a query and an output of its own (MultiTalk's `audio_cross_attn`); neither is normalised.

    Zero tokens are not silent here, the biases speak: a face is kept still by its mask or by silence that was heard.
    """

    def __init__(self, cfg: DiTConfig, operations: Any, factory: dict[str, Any]) -> None:
        super().__init__()
        self.heads = cfg.num_heads
        self.q_linear = operations.Linear(cfg.dim, cfg.dim, **factory)
        self.kv_linear = operations.Linear(cfg.audio_dim, 2 * cfg.dim, **factory)
        self.proj = operations.Linear(cfg.dim, cfg.dim, **factory)

    def audio(self, tokens_BPFND: Tensor) -> AudioKV:
        """Keys and values of audio tokens."""
        key, value = self.kv_linear(tokens_BPFND).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        return AudioKV(key, value)

    def forward(self, x_BLD: Tensor, audio: AudioKV, mask_BPFS: Tensor | None, places_BL: Tensor | None = None) -> Tensor:
        """What the sound adds (B, L, D): each voice where its mask is, or with `places` two voices everywhere."""
        q = self.q_linear(x_BLD).unflatten(-1, (self.heads, -1))
        if places_BL is None:
            return attend_audio(q, audio, mask_BPFS, self.proj)
        heard: Tensor = self.proj(attend_audio_together(q, audio, places_BL))
        return heard


class Block(nn.Module):
    """One Wan block: self-attention, cross-attention, feed-forward, modulated by the timestep."""

    def __init__(self, cfg: DiTConfig, operations: Any, factory: dict[str, Any]) -> None:
        super().__init__()
        self.norm1 = operations.LayerNorm(cfg.dim, eps=cfg.eps, elementwise_affine=False, **factory)
        self.self_attn = SelfAttention(cfg, operations, factory)
        self.norm3 = operations.LayerNorm(cfg.dim, eps=cfg.eps, elementwise_affine=True, **factory)
        self.cross_attn = CrossAttention(cfg, operations, factory)
        self.norm2 = operations.LayerNorm(cfg.dim, eps=cfg.eps, elementwise_affine=False, **factory)
        self.ffn = nn.Sequential(
            operations.Linear(cfg.dim, cfg.ffn_dim, **factory), nn.GELU(approximate="tanh"),
            operations.Linear(cfg.ffn_dim, cfg.dim, **factory),
        )
        self.modulation = modulation(6, cfg, factory)
        self.norm_x: Any = None
        self.audio_cross_attn: AudioCrossAttention | None = None
        if cfg.audio_kind == "own_q_kv_proj":
            self.norm_x = operations.LayerNorm(cfg.dim, eps=cfg.eps, elementwise_affine=True, **factory)
            self.audio_cross_attn = AudioCrossAttention(cfg, operations, factory)

    def audio(self, tokens_BPFND: Tensor, valid_BPFN: Tensor | None = None) -> AudioKV:
        """Keys and values of audio tokens, of whichever kind."""
        made = (self.audio_cross_attn or self.cross_attn).audio(tokens_BPFND)
        return AudioKV(made.key, made.value, valid_BPFN)  # not _replace: torch 2.11 cannot compile it where the graph breaks after it

    def forward(
        self, x_BLD: Tensor, time_B6D: Tensor, given: Given, table: Tensor, num_chunks: int | None, share: TokenShare | None = None,
    ) -> Tensor:
        """A whole sequence, or a rank's share of it.

        All of the block's weights are read in here: sharding gathers them, and checkpointing forgets the rest, around
        this call.
        """
        ctx = self.cross_attn.context(given.text, given.image)
        audio = None if given.audio is None else self.audio(given.audio, given.valid)
        by = self._modulated(time_B6D)
        y, between = self.self_attn(self._enter(x_BLD, by, ctx), table, num_chunks, share, given.regions)
        return self._leave(x_BLD, y, by, ctx, audio, given.mask, between)

    def step(
        self, x_BLD: Tensor, time_B6D: Tensor, ctx: ContextKV, audio: AudioKV | None, mask_BPFS: Tensor | None, tables: list[Tensor],
        cache: LayerCache, slot: int | None,
    ) -> Tensor:
        """One chunk of a stream; tables: RoPE of each visible chunk, its own last; its keys go to `slot`."""
        by = self._modulated(time_B6D)
        y = self.self_attn.step(self._enter(x_BLD, by, ctx), tables, cache, slot)
        return self._leave(x_BLD, y, by, ctx, audio, mask_BPFS)

    def step_with_history(
        self, x_BLD: Tensor, time_B6D: Tensor, ctx: ContextKV, audio: AudioKV | None, mask_BPFS: Tensor | None, table: Tensor,
        cache: HistoryLayer, start: int,
    ) -> Tensor:
        """One chunk of a stream with a compressed history; the last three as for `SelfAttention.step_with_history`."""
        by = self._modulated(time_B6D)
        y = self.self_attn.step_with_history(self._enter(x_BLD, by, ctx), table, cache, start)
        return self._leave(x_BLD, y, by, ctx, audio, mask_BPFS)

    # Modulation and the residual sum are float32 (time_B6D is), layers compute in the type of their weights.

    def _modulated(self, time_B6D: Tensor) -> Modulation:
        return Modulation(*(self.modulation.to(time_B6D) + time_B6D).unsqueeze(2).unbind(1))

    def _enter(self, x_BLD: Tensor, by: Modulation, ctx: ContextKV) -> Tensor:
        """What self-attention sees."""
        seen: Tensor = self.norm1(x_BLD) * (1 + by.attention_scale) + by.attention_shift
        return seen.to(ctx.text_value.dtype)

    def _leave(
        self, x_BLD: Tensor, y: Tensor, by: Modulation, ctx: ContextKV, audio: AudioKV | None, mask: Tensor | None,
        places: Tensor | None = None,
    ) -> Tensor:
        """All after self-attention, whose output is y."""
        dtype = ctx.text_value.dtype
        x_BLD = x_BLD + y * by.attention_gate
        y = normalised(self.norm3, x_BLD).to(dtype)
        own = self.audio_cross_attn
        x_BLD = x_BLD + self.cross_attn(y, ctx, None if own is not None else audio, mask)
        if own is not None and audio is not None:
            x_BLD = x_BLD + own(normalised(self.norm_x, x_BLD).to(dtype), audio, mask, places)
        y = self.ffn((self.norm2(x_BLD) * (1 + by.ffn_scale) + by.ffn_shift).to(dtype))
        out: Tensor = x_BLD + y * by.ffn_gate
        return out


class Head(nn.Module):
    """Wan's output layer."""

    def __init__(self, cfg: DiTConfig, operations: Any, factory: dict[str, Any]) -> None:
        super().__init__()
        patch = cfg.patch_size[0] * cfg.patch_size[1] * cfg.patch_size[2]
        self.norm = operations.LayerNorm(cfg.dim, eps=cfg.eps, elementwise_affine=False, **factory)
        self.head = operations.Linear(cfg.dim, patch * cfg.out_dim, **factory)
        self.modulation = modulation(2, cfg, factory)

    def forward(self, x_BLD: Tensor, time_BD: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, L, patch out_dim); the output layer computes in `dtype`."""
        shift, scale = (self.modulation.to(time_BD) + time_BD.unsqueeze(1)).chunk(2, 1)
        out: Tensor = self.head((self.norm(x_BLD) * (1 + scale) + shift).to(dtype))
        return out


class ImageProjection(nn.Module):
    """Wan's `img_emb`: CLIP tokens (B, 257, image_dim) -> (B, 257, D)."""

    def __init__(self, cfg: DiTConfig, operations: Any, factory: dict[str, Any]) -> None:
        super().__init__()
        width = cfg.image_dim
        self.proj = nn.Sequential(
            operations.LayerNorm(width, **factory), operations.Linear(width, width, **factory), nn.GELU(),
            operations.Linear(width, cfg.dim, **factory), operations.LayerNorm(cfg.dim, **factory),
        )

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.proj(image)
        return out
