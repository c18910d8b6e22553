"""Speed of the 14B and 18B shapes with random weights: denoising, decoding, both at once, against real time and the chip's arithmetic.

Weights are made where they are used, never on the host. Ways to run a chunk: bf16, its blocks compiled, cuDNN's attention first;
fp8 (e4m3) multiplied as such with a scale for each row (torch._scaled_mm), compiled too; fp8 cast to bf16 layer by layer, as a host does
with an fp8 file. Random weights cost what trained ones do; pictures are noise. Denoising and decoding at once go through
LatentStream and FrameStream, as in the product. Reduced shapes run on a CPU, so that a rehearsal walks the same path.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from benchmarks._gpu.blocks import CUDNN_FIRST, attention_order, compiled_blocks
from benchmarks._gpu.kernels import FP8, quantised
from benchmarks._gpu.record import Recorder, first_line
from benchmarks._gpu.sample import Source, meta_of
from benchmarks._gpu.timing import difference, wait
from tm_core.audio.speech_windows import FrameWindows
from tm_core.config import AudioConfig, AudioKind, AudioProjectorConfig, DiTConfig, ModelConfig, SamplerConfig, paper_18b, wan_i2v_14b
from tm_core.model.audio_projector import AudioProjector
from tm_core.model.dit import TalkingDiT
from tm_core.model.open_projectors import GroupedProjector, GroupedProjectorConfig
from tm_core.model.talking import TalkingModel
from tm_core.streaming.cache_size import IMAGE_TOKENS, cache_size
from tm_core.streaming.handles import DecodedStream, DecoderInput, LatentStream
from tm_core.streaming.sampler import ChunkedSampler, Scene, SpeakerInput
from tm_core.streaming.workers import WorkerConfig, to_uint8
from tm_core.vae.taehv import TAEHV
from tm_core.vae.wan import WanVAE

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0}  # dense bf16, as the maker states it; other chips: no share is given
BUDGETS_FPS = (16, 25)  # the paper's frame rate and the open families'
CHUNK, SIGMAS, SEEN = 3, (1.0, 0.75), 3  # latents, noise levels, chunks that a later one sees
SAMPLING = SamplerConfig(chunk_latents=CHUNK, sigmas=SIGMAS)
WARM, CHUNKS, SHOWN = 4, 8, 6  # chunks measured, and those that leave the pipeline
SLACK_GB = 8.0  # activations of transformer and decoder
GB = 1e9
NEAR = 0.05  # latents of a compiled or an fp8 chunk 0 from those of bf16: other roundings, no other arithmetic
VAES: dict[str, Callable[..., Any]] = {"Wan VAE": WanVAE, "TAEHV": TAEHV}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A shape to measure."""

    config: ModelConfig
    audio_tokens: int  # of a latent
    hidden: int = GroupedProjectorConfig.hidden  # of InfiniteTalk's projection

    @property
    def budget_ms(self) -> float:
        """Time that a chunk's frames are shown."""
        return frame_ms(self.config.fps)


def frame_ms(fps: int) -> float:
    """Milliseconds of video in a chunk."""
    return 4 * CHUNK * 1000 / fps


def cases() -> list[Case]:
    """The 14B base with InfiniteTalk's adapter, and the paper's 18B, at 512 x 512."""
    base = wan_i2v_14b()
    talking = replace(base, name="14B + InfiniteTalk", fps=25, dit=replace(base.dit, audio_kind="own_q_kv_proj", audio_dim=768))
    paper = paper_18b()
    assert paper.projector is not None
    return [Case(config=talking, audio_tokens=GroupedProjectorConfig().tokens), Case(config=paper, audio_tokens=paper.projector.tokens)]


def small_case(kind: AudioKind) -> Case:
    """A shape with everything narrow, for a CPU."""
    full = next(c for c in cases() if c.config.dit.audio_kind == kind)
    dit = replace(full.config.dit, dim=128, ffn_dim=192, num_heads=2, num_layers=2, text_len=48, text_dim=64, image_dim=64, audio_dim=64)
    projector = AudioProjectorConfig(n_mels=8, width=16, dim=64, tokens=16) if kind == "shared_q_kv" else None
    config = replace(full.config, width=32, height=32, dit=dit, projector=projector, audio=AudioConfig(n_mels=8))
    return Case(config=config, audio_tokens=full.audio_tokens, hidden=16)


SMALL_VAES: dict[str, Callable[..., Any]] = {"Wan VAE": partial(WanVAE, 8), "TAEHV": TAEHV}


# -- weights ------------------------------------------------------------------------------------------------


class Fp8Linear(nn.Module):
    """Weights of e4m3, cast to the input's type for each use."""

    def __init__(self, inner: int, outer: int, bias: bool = True, device: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        drawn = torch.randn(outer, inner, device=device, dtype=dtype) * inner**-0.5
        self.weight = nn.Parameter(drawn.to(FP8), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(outer, device=device, dtype=dtype), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias)


class ScaledLinear(nn.Module):
    """Weights of e4m3 with a scale for each row; the input likewise for each of its rows; both multiplied as they are."""

    def __init__(self, inner: int, outer: int, bias: bool = True, device: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        weight, scale = quantised(torch.randn(outer, inner, device=device, dtype=dtype) * inner**-0.5, by_rows=True)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(outer, device=device, dtype=dtype), requires_grad=False) if bias else None
        self.register_buffer("scale", scale.t().contiguous())  # (1, outer)

    def forward(self, x: Tensor) -> Tensor:
        rows, scale = quantised(x.reshape(-1, x.shape[-1]), by_rows=True)
        out = torch._scaled_mm(
            rows, self.weight.t(), scale_a=scale, scale_b=self.scale, bias=self.bias, out_dtype=torch.bfloat16, use_fast_accum=True)
        return out.unflatten(0, x.shape[:-1]).to(x.dtype)


def operations(linear: type[nn.Module]) -> Any:
    """torch.nn with another linear layer."""
    return type("Operations", (), {"Linear": linear, "Conv3d": nn.Conv3d, "RMSNorm": nn.RMSNorm, "LayerNorm": nn.LayerNorm})


PRECISIONS: dict[str, Any] = {"bf16": nn, "fp8 by rows": operations(ScaledLinear), "fp8 cast to bf16": operations(Fp8Linear)}


def why_not(precision: str, device: str) -> str | None:
    """What this chip or this torch says against a precision, asked of one small layer; None: nothing."""
    try:
        PRECISIONS[precision].Linear(64, 32, device=device, dtype=torch.bfloat16)(torch.ones(16, 64, device=device, dtype=torch.bfloat16))
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        return first_line(error)
    return None


def build(case: Case, device: str, precision: str) -> TalkingModel:
    """The model with random weights on the device; its autoencoder is put in later."""
    config, make = case.config, {"device": device, "dtype": torch.bfloat16}
    dit = TalkingDiT(config.dit, operations=PRECISIONS[precision], **make).eval().requires_grad_(False)
    projector: Any
    if config.dit.audio_kind == "own_q_kv_proj":
        projector = GroupedProjector(GroupedProjectorConfig(hidden=case.hidden, dim=config.dit.audio_dim, tokens=case.audio_tokens), **make)
    else:
        assert config.projector is not None
        with torch.device(device):
            projector = AudioProjector(config.projector).to(torch.bfloat16)
    vae: Any = None
    return TalkingModel(config=config, dit=dit, projector=projector.eval().requires_grad_(False), vae=vae)


def scene_of(case: Case, device: str) -> Scene:
    """Noise for a portrait, a text, a picture and a sound without end."""
    config = case.config
    h, w = config.token_hw
    features = torch.randn(64, 12, 768, device=device)  # 64 frames; later ones repeat the last
    rows = None if config.projector is None else torch.randn(CHUNK, 4 * config.projector.tokens, config.projector.n_mels, device=device)

    def windows(latents: range) -> Any:
        return FrameWindows().windows(features, latents) if rows is None else rows[: len(latents)]

    speaker = SpeakerInput(
        windows=windows, mask=torch.ones(h * w, device=device), speaking=lambda latents: torch.ones(len(latents), dtype=torch.bool))
    image = None if config.dit.image_dim is None else torch.randn(1, IMAGE_TOKENS, config.dit.image_dim, device=device)
    return Scene(
        reference=torch.randn(config.dit.out_dim, *config.latent_hw, device=device), speakers=(speaker,), frames=10**6, image=image,
        text=torch.randn(1, config.dit.text_len, config.dit.text_dim, device=device))


# -- arithmetic ---------------------------------------------------------------------------------------------


def chunk_flops(cfg: DiTConfig, tokens: int, audio_tokens: int) -> int:
    """Multiplications and additions of the transformer for a chunk that sees SEEN chunks, one evaluation; `tokens` of a latent.

    Matrix products and attention, as torch's own counter counts them; text and picture keys are made once per stream.
    """
    n, d, patch = CHUNK * tokens, cfg.dim, math.prod(cfg.patch_size)
    per_block = 12 * n * d * d + 4 * n * d * cfg.ffn_dim  # q k v o of self-attention, q o of cross-attention, feed-forward
    per_block += 4 * n * d * (SEEN * n + cfg.text_len + (IMAGE_TOKENS if cfg.image_dim is not None else 0))
    if cfg.audio_kind != "none":
        per_block += 4 * n * d * audio_tokens
    if cfg.audio_kind == "own_q_kv_proj":
        per_block += 4 * n * d * d
    ends = 2 * n * patch * d * (cfg.in_dim + cfg.out_dim)
    return cfg.num_layers * per_block + ends + 2 * d * (cfg.freq_dim + 7 * d)


def sound_flops(cfg: DiTConfig, audio_tokens: int) -> int:
    """Keys and values of a chunk's sound in every block, once a chunk."""
    return 0 if cfg.audio_kind == "none" else cfg.num_layers * 4 * CHUNK * audio_tokens * cfg.audio_dim * cfg.dim


# -- time ---------------------------------------------------------------------------------------------------


def chunk_times(step: Callable[[], object], device: str, chunks: int, warm: int = WARM) -> float:
    """Median milliseconds of a step, the first `warm` left out."""
    times = []
    for i in range(warm + chunks):
        wait(device)
        began = time.perf_counter()
        step()
        wait(device)
        if i >= warm:
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


@torch.inference_mode()
def denoise_ms(model: TalkingModel, scene: Scene, device: str, chunks: int) -> tuple[float, float, Tensor]:
    """A chunk's steps, the projection of its sound included; the longest of the first chunks (compilation); the third chunk's latents."""
    sampler = ChunkedSampler(model, SAMPLING)
    state, first, found = sampler.open(scene, 0), 0.0, list[Tensor]()

    def step() -> None:
        nonlocal state, first
        began = time.perf_counter()
        made, state = sampler.step(state)
        if made.index == SEEN - 1:
            found.append(made.latents.float().cpu())
        first = max(first, time.perf_counter() - began) if made.index < WARM else first

    typical = chunk_times(step, device, chunks)
    return typical, first, found[0]


@torch.inference_mode()
def decode_ms(vae: Any, case: Case, device: str, chunks: int) -> float:
    """A chunk's pictures, as uint8 on the host."""
    latents, state = torch.randn(1, 16, CHUNK, *case.config.latent_hw, device=device), vae.open_decoder(None)

    def step() -> None:
        nonlocal state
        frames, state = vae.decode(latents, state)
        to_uint8(frames)

    return chunk_times(step, device, chunks, warm_decodes(device))


def warm_decodes(device: str) -> int:
    """Chunks until a decoder's time is steady; a CPU has nothing to choose or load."""
    return WARM if device.startswith("cuda") else 1


def decoder_type(device: str) -> torch.dtype:
    """What decoders compute in; a CPU without instructions for bfloat16 takes seconds for a small picture."""
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def frame_stream(model: TalkingModel, vae: Any, scene: Scene, device: str, chunks: int) -> DecodedStream:
    """A new stream of so many chunks, denoised and decoded on the device, each by its own worker."""
    config, home = model.config, torch.device(device)
    portrait = torch.zeros(3, config.height, config.width, device=device, dtype=decoder_type(device))
    source = Source(sampler=ChunkedSampler(model, SAMPLING), scene=scene)
    decoder = DecoderInput(vae=vae, reference=portrait)
    latents = LatentStream(source, meta_of(config, SAMPLING, chunks), decoder, device=home)
    return DecodedStream(latents, decoder, denoise_on=WorkerConfig(device=home), decode_on=WorkerConfig(device=home))


def overlapped_ms(model: TalkingModel, vae: Any, scene: Scene, device: str, chunks: int) -> list[float]:
    """Milliseconds between chunks that leave the real pipeline: denoising and decoding each in their thread, on their stream."""
    shown = [time.perf_counter() for _ in frame_stream(model, vae, scene, device, WARM + chunks)]
    return [(b - a) * 1000 for a, b in zip(shown[WARM - 1 :], shown[WARM:], strict=False)]


# -- rows ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to run the blocks of a model that is there."""

    name: str
    compiled: bool = False
    attention: tuple[SDPBackend, ...] | None = None
    decoders: bool = False  # decoded alone and at once as well
    needs_s: float = 10.0  # on a GPU


WAYS: tuple[tuple[str, tuple[Way, ...]], ...] = (  # a precision and its ways, what is worth most first
    ("bf16", (Way(name="bf16", decoders=True), Way(name="bf16, compiled", compiled=True, decoders=True, needs_s=45))),
    ("fp8 by rows", (Way(name="fp8 by rows"), Way(name="fp8 by rows, compiled", compiled=True, needs_s=35))),
    ("bf16", (
        Way(name="bf16, cuDNN attention first", attention=tuple(CUDNN_FIRST)),
        Way(name="bf16, compiled, cuDNN attention first", compiled=True, attention=tuple(CUDNN_FIRST), needs_s=30))),
    ("fp8 cast to bf16", (Way(name="fp8 cast to bf16"),)))


def needed_bytes(case: Case, precision: str) -> int:
    """Weights, cache and the larger decoder's two states, and SLACK_GB for activations."""
    with torch.device("meta"):
        count = sum(p.numel() for p in TalkingDiT(case.config.dit).parameters())
        count_own = sum(p.numel() for p in AudioProjector(case.config.projector).parameters()) if case.config.projector else 75_000_000
    vae = WanVAE(device="meta", dtype=torch.bfloat16)
    cfg = case.config
    cache = cache_size(cfg.dit, SAMPLING, cfg.latent_hw, torch.bfloat16).total
    kept = count * (2 if precision == "bf16" else 1) + 4 * count_own + cache + 2 * vae.decoder_state_nbytes(cfg.height, cfg.width)
    return int(kept + SLACK_GB * GB)


def infinitetalk(told: Recorder) -> None:
    """The 14B with InfiniteTalk's adapter."""
    _part(told, "own_q_kv_proj")


def paper(told: Recorder) -> None:
    """The paper's 18B."""
    _part(told, "shared_q_kv")


def _part(told: Recorder, kind: AudioKind) -> None:
    if told.cuda:
        measure(told, next(c for c in cases() if c.config.dit.audio_kind == kind))
    else:
        measure(told, small_case(kind), chunks=2, vaes=SMALL_VAES)


def measure(told: Recorder, case: Case, *, chunks: int = CHUNKS, vaes: dict[str, Callable[..., Any]] | None = None) -> None:
    """A case in every precision and way; what fails or does not fit is a row, and the next one follows."""
    for precision, ways in WAYS:
        name = f"{case.config.name}, {ways[0].name}"
        if not told.enough(name, ways[0].needs_s if told.cuda else 1):
            continue
        if reason := _lacks_memory(told, case, precision) or why_not(precision, told.device):
            told.unable(name, reason)
            continue
        try:
            _measure_precision(told, case, precision, ways, chunks, vaes or VAES)
        except torch.OutOfMemoryError as error:
            told.unable(name, error)
        except Exception as error:
            told.failed(name, error)
        gc.collect()
        if told.cuda:
            torch.cuda.empty_cache()


def _lacks_memory(told: Recorder, case: Case, precision: str) -> str | None:
    """By how much a model does not fit; None where it does."""
    if not told.cuda:
        return None
    free, needed = torch.cuda.mem_get_info()[0], needed_bytes(case, precision)
    return None if free >= needed else f"needs {needed / GB:.0f} GB, {free / GB:.0f} GB are free"


def _measure_precision(
    told: Recorder, case: Case, precision: str, ways: tuple[Way, ...], chunks: int, vaes: dict[str, Callable[..., Any]],
) -> None:
    """One model, in each of its ways."""
    if told.cuda:
        torch.cuda.reset_peak_memory_stats()
    model, scene = build(case, told.device, precision), scene_of(case, told.device)
    plain: Tensor | None = None
    for way in ways:
        name = f"{case.config.name}, {way.name}"
        if not told.enough(name, way.needs_s if told.cuda else 1):
            continue
        try:
            plain = _measure_way(told, name, way, (model, case, scene), chunks, vaes, plain)
        except Exception as error:
            told.failed(name, error)
    if told.cuda:
        told.row(f"{case.config.name}, {ways[-1].name}: peak memory", torch.cuda.max_memory_allocated() / GB, "GB")


def _measure_way(
    told: Recorder, name: str, way: Way, made: tuple[TalkingModel, Case, Scene], chunks: int, vaes: dict[str, Callable[..., Any]],
    plain: Tensor | None,
) -> Tensor:
    """Denoising, and where the way asks for it decoding; returns the third chunk's latents of the plain way."""
    (model, case, scene), device, cfg = made, told.device, made[1].config
    with ExitStack() as stack:
        stack.enter_context(attention_order(list(way.attention) if way.attention else None))
        if way.compiled:
            name = f"{name} ({stack.enter_context(compiled_blocks(model.dit, device))})"
        typical, first, latents = denoise_ms(model, scene, device, chunks)
        told.row(f"{name}: denoising {CHUNK} latents, {len(SIGMAS)} steps, {cfg.width} x {cfg.height}", typical, "ms")
        told.row(f"{name}: the same, over {cfg.fps} fps of real time", typical / case.budget_ms)
        told.row(f"{name}: slowest of the first {WARM} chunks", first, "s")
        told.true(f"{name}: every latent is a number", bool(latents.isfinite().all()))
        if plain is not None:
            told.at_most(f"{name}: latents from those of the plain way", difference(latents, plain), NEAR)
        _arithmetic(told, name, case, typical)
        if way.decoders:
            for decoder, make in vaes.items():
                _decoder(told, f"{name}, {decoder}", make, made, chunks)
    return latents if plain is None else plain


def _arithmetic(told: Recorder, name: str, case: Case, ms: float) -> None:
    """What the chunk computes, against what the chip's maker states for dense bf16, also for fp8."""
    dit = case.config.dit
    flops = len(SIGMAS) * chunk_flops(dit, math.prod(case.config.token_hw), case.audio_tokens) + sound_flops(dit, case.audio_tokens)
    told.row(f"{name}: arithmetic of it", flops / 1e12, "TFLOP")
    chip = torch.cuda.get_device_name() if told.cuda else ""
    peak = next((tflops for part, tflops in PEAK_TFLOPS.items() if part in chip), None)
    if peak is not None:
        told.row(f"{name}: share of {peak:g} TFLOP/s (dense bf16)", flops / ms * 1000 / 1e12 / peak)


def _decoder(told: Recorder, name: str, make: Callable[..., Any], made: tuple[TalkingModel, Case, Scene], chunks: int) -> None:
    """Decoding alone, and the time between chunks with both at once against real time."""
    model, case, scene = made
    if not told.enough(name, 12 if told.cuda else 1):
        return
    vae = make(device=told.device, dtype=decoder_type(told.device)).eval().requires_grad_(False)
    with torch.inference_mode():
        told.row(f"{name}: decoding alone", decode_ms(vae, case, told.device, chunks), "ms")
    between = overlapped_ms(model, vae, scene, told.device, min(chunks, SHOWN))
    typical, budget = statistics.median(between), case.budget_ms
    met = typical <= budget if told.cuda else None  # a reduced shape's time says nothing of the bar
    told.row(f"{name}: time between chunks, both at once, p50", typical, "ms", f"<= {budget:g} ({case.config.fps} fps)", met)
    told.row(f"{name}: the same, slowest of {len(between)}", max(between), "ms")
    for fps in BUDGETS_FPS:
        told.row(f"{name}: time between chunks over real time at {fps} fps", typical / frame_ms(fps))
