"""Speed of the 14B and 18B shapes with random weights: denoising, decoding, both at once, against real time and the chip's arithmetic.

Weights are made where they are used, never on the host. Three ways to hold them: bf16; fp8 (e4m3) cast to bf16 layer by
layer, as a host does with an fp8 file; fp8 multiplied as such (torch._scaled_mm). Random weights cost what trained ones do;
pictures are noise. Reduced shapes run on a CPU, so that a test walks the same path.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tm_core.audio.speech_windows import FrameWindows
from tm_core.config import DiTConfig, ModelConfig, SamplerConfig, paper_18b, wan_i2v_14b
from tm_core.model.audio_projector import AudioProjector
from tm_core.model.dit import TalkingDiT
from tm_core.model.open_projectors import GroupedProjector, GroupedProjectorConfig
from tm_core.model.talking import TalkingModel
from tm_core.streaming.cancel import CancelToken
from tm_core.streaming.memory import IMAGE_TOKENS, cache_size
from tm_core.streaming.pipeline import FrameChunk, WorkerConfig, run_pipeline, to_uint8, to_worker
from tm_core.streaming.sampler import ChunkedSampler, LatentChunk, Scene, Speaker
from tm_core.vae.taehv import TAEHV
from tm_core.vae.wan import WanVAE

Result = dict[str, object]
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0}  # dense bf16, as the maker states it; other chips: no share is given
BUDGETS_FPS = (16, 25)  # the paper's frame rate and the open families'
CHUNK, SIGMAS, SEEN = 3, (1.0, 0.75), 3  # latents, noise levels, chunks that a later one sees
WARM, CHUNKS = 4, 12
SLACK_GB = 8.0  # activations of transformer and decoder
GB = 1e9
FP8 = torch.float8_e4m3fn
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


class ScaledLinear(Fp8Linear):
    """The same, the input scaled to e4m3 as well and both multiplied as they are."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        scale = (flat.abs().amax().float() / torch.finfo(FP8).max).clamp(min=1e-12)
        one = torch.ones((), device=x.device)
        out = torch._scaled_mm(
            (flat / scale).to(FP8), self.weight.t(), scale_a=scale, scale_b=one, bias=self.bias, out_dtype=torch.bfloat16)
        return out.unflatten(0, x.shape[:-1]).to(x.dtype)


def operations(linear: type[nn.Module]) -> Any:
    """torch.nn with another linear layer."""
    return type("Operations", (), {"Linear": linear, "Conv3d": nn.Conv3d, "RMSNorm": nn.RMSNorm, "LayerNorm": nn.LayerNorm})


PRECISIONS: dict[str, Any] = {"bf16": nn, "fp8 cast to bf16": operations(Fp8Linear), "fp8 _scaled_mm": operations(ScaledLinear)}

NO_MEMORY: tuple[type[Exception], ...] = (torch.OutOfMemoryError,)
UNABLE = {  # what is said instead of a figure; chips and builds without fp8 products raise any of these
    name: (RuntimeError, NotImplementedError, AttributeError) if layers is PRECISIONS["fp8 _scaled_mm"] else NO_MEMORY
    for name, layers in PRECISIONS.items()}


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

    def windows(latents: range) -> Any:
        if config.dit.audio_kind == "own_q_kv_proj":
            return FrameWindows().windows(features, latents)
        assert config.projector is not None
        return torch.randn(len(latents), 4 * config.projector.tokens, config.projector.n_mels, device=device)

    speaker = Speaker(
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


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def chunk_times(step: Callable[[], object], device: str, chunks: int) -> float:
    """Median milliseconds of a step, the first WARM left out."""
    times = []
    for i in range(WARM + chunks):
        wait(device)
        began = time.perf_counter()
        step()
        wait(device)
        if i >= WARM:
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


@torch.inference_mode()
def denoise_ms(model: TalkingModel, scene: Scene, device: str, chunks: int) -> float:
    """A chunk's steps, the projection of its sound included."""
    sampler = ChunkedSampler(model, SamplerConfig(chunk_latents=CHUNK, sigmas=SIGMAS))
    state = sampler.open(scene, 0)

    def step() -> None:
        nonlocal state
        _, state = sampler.step(state)

    return chunk_times(step, device, chunks)


@torch.inference_mode()
def decode_ms(vae: Any, case: Case, device: str, chunks: int) -> float:
    """A chunk's pictures, as uint8 on the host."""
    latents, state = torch.randn(1, 16, CHUNK, *case.config.latent_hw, device=device), vae.open_decoder(None)

    def step() -> None:
        nonlocal state
        frames, state = vae.decode(latents, state)
        to_uint8(frames)

    return chunk_times(step, device, chunks)


def overlapped_ms(model: TalkingModel, vae: Any, scene: Scene, device: str, chunks: int) -> list[float]:
    """Milliseconds between chunks that leave the real pipeline: denoising and decoding each in their thread, on their stream."""
    sampler = ChunkedSampler(model, SamplerConfig(chunk_latents=CHUNK, sigmas=SIGMAS))
    decoder, home = vae.open_decoder(None), torch.device(device)

    def produce(token: CancelToken) -> Iterator[LatentChunk]:
        state = sampler.open(scene, 0)
        for _ in range(WARM + chunks):
            chunk, state = sampler.step(state, token)
            yield chunk

    def decode(chunk: LatentChunk) -> FrameChunk:
        nonlocal decoder
        frames, decoder = vae.decode(to_worker(chunk.latents, home, torch.bfloat16), decoder)
        return FrameChunk(index=chunk.index, frames=to_uint8(frames), pts=4 * CHUNK * chunk.index, time_base=Fraction(1, 25))

    worker = WorkerConfig(device=home)
    shown = [time.perf_counter() for _ in run_pipeline(produce, decode, denoise_on=worker, decode_on=worker)]
    return [(b - a) * 1000 for a, b in zip(shown[WARM - 1 :], shown[WARM:], strict=False)]


# -- rows ---------------------------------------------------------------------------------------------------


def row(what: str, value: object, unit: str, bar: str | None = None, ok: bool | None = None) -> Result:
    """One figure."""
    return {"what": what, "value": round(value, 2) if isinstance(value, float) else value, "unit": unit, "bar": bar, "ok": ok}


def needed_bytes(case: Case, precision: str) -> int:
    """Weights, cache and the larger decoder's two states, and SLACK_GB for activations."""
    with torch.device("meta"):
        count = sum(p.numel() for p in TalkingDiT(case.config.dit).parameters())
        count_own = sum(p.numel() for p in AudioProjector(case.config.projector).parameters()) if case.config.projector else 75_000_000
    vae = WanVAE(device="meta", dtype=torch.bfloat16)
    cfg = case.config
    cache = cache_size(cfg.dit, SamplerConfig(chunk_latents=CHUNK, sigmas=SIGMAS), cfg.width, cfg.height, torch.bfloat16).total
    kept = count * (2 if precision == "bf16" else 1) + 4 * count_own + cache + 2 * vae.decoder_state_nbytes(cfg.height, cfg.width)
    return int(kept + SLACK_GB * GB)


def rows(device: str, chosen: list[Case] | None = None, *, chunks: int = CHUNKS, vaes: dict[str, Callable[..., Any]] | None = None,
         ) -> list[Result]:
    """Every case in every precision; without a GPU or its memory a row that says so. `chosen`: reduced ones run anywhere."""
    if chosen is None and not device.startswith("cuda"):
        return [row("14B and 18B shapes", f"not measured: no CUDA device ({device})", "")]
    found: list[Result] = []
    for case in chosen or cases():
        for precision in PRECISIONS:
            try:
                found += case_rows(case, device, precision, chunks, vaes or VAES)
            except UNABLE[precision] as error:
                found.append(row(f"{case.config.name}, {precision}", f"not measured: {str(error).splitlines()[0]}", ""))
            gc.collect()
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
    return found


def case_rows(case: Case, device: str, precision: str, chunks: int, vaes: dict[str, Callable[..., Any]]) -> list[Result]:
    """One shape in one precision."""
    cfg, name = case.config, f"{case.config.name}, {precision}"
    if device.startswith("cuda"):
        free, needed = torch.cuda.mem_get_info()[0], needed_bytes(case, precision)
        if free < needed:
            return [row(name, f"not measured: needs {needed / GB:.0f} GB, {free / GB:.0f} GB are free", "")]
        torch.cuda.reset_peak_memory_stats()
    model, scene = build(case, device, precision), scene_of(case, device)
    denoising = denoise_ms(model, scene, device, chunks)
    flops = len(SIGMAS) * chunk_flops(cfg.dit, math.prod(cfg.token_hw), case.audio_tokens) + sound_flops(cfg.dit, case.audio_tokens)
    found = [
        row(f"{name}: denoising {CHUNK} latents, {len(SIGMAS)} steps, {cfg.width} x {cfg.height}", denoising, "ms"),
        row(f"{name}: arithmetic of it", flops / 1e12, "TFLOP"), *peak_rows(name, flops, denoising, device)]
    for decoder, make in vaes.items():
        vae = make(device=device, dtype=torch.bfloat16).eval().requires_grad_(False)
        found += decoder_rows(f"{name}, {decoder}", model, vae, case, scene, device, chunks)
        del vae
    if device.startswith("cuda"):
        found.append(row(f"{name}: peak memory", torch.cuda.max_memory_allocated() / GB, "GB"))
    return found


def peak_rows(name: str, flops: int, ms: float, device: str) -> list[Result]:
    """Share of what the chip's maker states for dense bf16, also for fp8."""
    chip = torch.cuda.get_device_name() if device.startswith("cuda") else ""
    peak = next((tflops for part, tflops in PEAK_TFLOPS.items() if part in chip), None)
    return [] if peak is None else [row(f"{name}: share of {peak:g} TFLOP/s (dense bf16)", flops / ms * 1000 / 1e12 / peak, "")]


def decoder_rows(
    name: str, model: TalkingModel, vae: Any, case: Case, scene: Scene, device: str, chunks: int,
) -> list[Result]:
    """Decoding alone, and the time between chunks with both at once against real time."""
    alone, between = decode_ms(vae, case, device, chunks), overlapped_ms(model, vae, scene, device, chunks)
    typical, budget = statistics.median(between), case.budget_ms
    return [
        row(f"{name}: decoding alone", alone, "ms"),
        row(f"{name}: time between chunks, both at once, p50", typical, "ms", f"<= {budget:g} ({case.config.fps} fps)", typical <= budget),
        row(f"{name}: the same, slowest of {len(between)}", max(between), "ms"),
        *(row(f"{name}: time between chunks over real time at {fps} fps", typical / frame_ms(fps), "") for fps in BUDGETS_FPS)]
