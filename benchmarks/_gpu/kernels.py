"""Single operations at the shapes of a chunk of the 14B and 18B models, each way there is: attention, RoPE, 3D convolution, fp8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks._gpu.blocks import CUDNN_FIRST, backend_of
from benchmarks._gpu.record import Recorder
from benchmarks._gpu.timing import difference, milliseconds
from tm_core.model.rope import rope_table, rotate

FP8 = torch.float8_e4m3fn
BACKENDS: dict[str, SDPBackend | list[SDPBackend] | None] = {
    "torch's choice": None, "flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH, "cuDNN before flash": CUDNN_FIRST}
NEAR, NEAR_FP8 = 0.02, 0.06  # of a result in bfloat16, in fp8, from that in float32
CL3D = torch.channels_last_3d


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the operations are."""

    heads: int = 40
    side: int = 32  # tokens of a latent along each axis
    dim: int = 5120
    ffn: int = 13824
    picture: int = 512

    @property
    def chunk(self) -> int:
        """Tokens of a chunk."""
        return 3 * self.side**2


FULL, SMALL = Sizes(), Sizes(heads=2, side=4, dim=128, ffn=192, picture=32)


def run(told: Recorder) -> None:
    """A way that this device or this torch does not have is a row with the reason; the others go on."""
    sizes = FULL if told.cuda else SMALL
    with torch.inference_mode():
        for kind in (_attention, _small_attention, _rope, _norms, _convolutions, _fp8):
            try:
                kind(told, sizes)
            except Exception as error:
                told.failed(kind.__name__.strip("_").replace("_", " "), error)
            if told.cuda:
                torch.cuda.empty_cache()


def _attend(told: Recorder, what: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], flops: float) -> None:
    """Each backend: its time, its rate, its distance from float32."""
    q = torch.randn(shapes[0], device=told.device, dtype=torch.bfloat16)
    k, v = (torch.randn(shapes[1], device=told.device, dtype=torch.bfloat16) for _ in range(2))
    few = min(4, q.shape[1])
    exact = F.scaled_dot_product_attention(*(t[:, :few].float() for t in (q, k, v)))
    for name, backends in BACKENDS.items():
        def attend(backends: SDPBackend | list[SDPBackend] | None = backends) -> Tensor:
            if backends is None:
                return F.scaled_dot_product_attention(q, k, v)
            with sdpa_kernel(backends, set_priority=isinstance(backends, list)):
                return F.scaled_dot_product_attention(q, k, v)

        try:
            apart, ms = difference(attend()[:, :few].float(), exact), milliseconds(attend, told.device)
        except (RuntimeError, NotImplementedError, TypeError) as error:  # TypeError: a torch without set_priority
            told.unable(f"{what}, {name}", error)
            continue
        told.row(f"{what}, {name}", ms, "ms")
        told.row(f"{what}, {name}: rate", flops / ms / 1e9, "TFLOP/s")
        told.at_most(f"{what}, {name}: from float32", apart, NEAR)


def _attention(told: Recorder, sizes: Sizes) -> None:
    queries, keys = sizes.chunk, 3 * sizes.chunk
    shapes = (1, sizes.heads, queries, 128), (1, sizes.heads, keys, 128)
    _attend(told, f"attention of a chunk to three, {queries} x {keys}", shapes, 4 * sizes.heads * queries * keys * 128)


def _small_attention(told: Recorder, sizes: Sizes) -> None:
    """To text and to sound: many queries, few keys."""
    for name, batch, queries, keys in (("text", 1, sizes.chunk, 512), ("sound", 3, sizes.side**2, 32)):
        shapes = (batch, sizes.heads, queries, 128), (batch, sizes.heads, keys, 128)
        _attend(told, f"attention to {name}, {batch} x {queries} x {keys}", shapes, 4 * batch * sizes.heads * queries * keys * 128)


def _rope(told: Recorder, sizes: Sizes) -> None:
    """Three chunks of keys turned and joined at each step, as it is; one chunk turned into a buffer that holds the rest."""
    grid, device = (sizes.side, sizes.side), torch.device(told.device)
    tables = [rope_table([float(i) for i in range(3 * n, 3 * n + 3)], grid, 128, device) for n in range(3)]
    keys = [torch.randn(1, sizes.chunk, sizes.heads, 128, device=device, dtype=torch.bfloat16) for _ in range(3)]
    buffer = torch.cat(keys, 1)
    own = buffer[:, 2 * sizes.chunk :]
    moved = 2 * keys[0].nbytes
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "a chunk": (lambda: rotate(keys[0], tables[0]), moved),
        "three chunks, joined": (lambda: torch.cat([rotate(k, t) for k, t in zip(keys, tables, strict=True)], 1), 4 * moved),
        "its own chunk into a buffer of three": (lambda: own.copy_(rotate(keys[2], tables[2])), moved)}
    for name, (way, size) in ways.items():
        _moved(told, f"RoPE of {name}", way, size)
    if not told.enough("RoPE of a chunk, compiled", 25):
        return
    turn = torch.compile(rotate, dynamic=False, backend=backend_of(told.device))
    try:
        told.at_most("RoPE compiled: from eager", difference(turn(keys[0], tables[0]), rotate(keys[0], tables[0])), NEAR)
        _moved(told, "RoPE of a chunk, compiled", lambda: turn(keys[0], tables[0]), moved)
    except Exception as error:  # a machine without a compiler
        told.unable("RoPE of a chunk, compiled", error)


def _moved(told: Recorder, what: str, run: Callable[[], object], size: int) -> None:
    ms = milliseconds(run, told.device)
    told.row(what, ms, "ms")
    told.row(f"{what}: bytes it must move, over its time", size / ms / 1e9, "TB/s")


def _norms(told: Recorder, sizes: Sizes) -> None:
    """A modulated norm between float32 residuals and bfloat16 layers, as every block has two."""
    x, shift, scale = (torch.randn(1, n, sizes.dim, device=told.device) for n in (sizes.chunk, 1, 1))

    def enter() -> Tensor:
        return (F.layer_norm(x, (sizes.dim,)) * (1 + scale) + shift).to(torch.bfloat16)

    _moved(told, "a modulated norm", enter, x.nbytes * 3 // 2)


def _convolutions(told: Recorder, sizes: Sizes) -> None:
    """Wan's decoder at its finest and at its second level: two frames before, four of the latent."""
    for channels, side in ((96, sizes.picture), (192, sizes.picture // 2)):
        wide = channels if told.cuda else channels // 12
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for layout in (torch.contiguous_format, CL3D):
                name = "channels last" if layout is CL3D else "contiguous"
                _convolve(told, f"3D convolution, {wide} channels, {side} x {side}, {str(dtype)[6:]}, {name}", wide, side, dtype, layout)


def _convolve(told: Recorder, what: str, wide: int, side: int, dtype: torch.dtype, layout: torch.memory_format) -> None:
    x = torch.randn(1, wide, 6, side, side, device=told.device, dtype=dtype).contiguous(memory_format=layout)
    weight = torch.randn(wide, wide, 3, 3, 3, device=told.device, dtype=dtype).mul_((27 * wide) ** -0.5).contiguous(memory_format=layout)
    try:
        ms = milliseconds(lambda: F.conv3d(x, weight, padding=(0, 1, 1)), told.device, 5, 2)
    except (RuntimeError, NotImplementedError) as error:
        told.unable(what, error)
        return
    told.row(what, ms, "ms")
    told.row(f"{what}: rate", 2 * 27 * wide * wide * 4 * side * side / ms / 1e9, "TFLOP/s")


def _fp8(told: Recorder, sizes: Sizes) -> None:
    """A chunk's products: bfloat16; fp8 with one scale each, or one a row and a column; each with and without fast accumulation."""
    for inner, outer in ((sizes.dim, sizes.dim), (sizes.dim, sizes.ffn)):
        x = torch.randn(sizes.chunk, inner, device=told.device, dtype=torch.bfloat16)
        w = (torch.randn(outer, inner, device=told.device) * inner**-0.5).to(torch.bfloat16)
        exact, name = x[:256].float() @ w.float().t(), f"product {sizes.chunk} x {inner} x {outer}"
        flops, ms = 2 * sizes.chunk * inner * outer, milliseconds(lambda x=x, w=w: F.linear(x, w), told.device)  # type: ignore[misc]
        told.row(f"{name}, bfloat16: rate", flops / ms / 1e9, "TFLOP/s")
        for by_rows in (False, True):
            _fp8_product(told, f"{name}, fp8 {'by rows' if by_rows else 'one scale'}", (x, w), exact, flops, by_rows)


def _fp8_product(told: Recorder, what: str, pair: tuple[Tensor, Tensor], exact: Tensor, flops: float, by_rows: bool) -> None:
    (a, scale_a), (b, scale_b) = (quantised(t, by_rows) for t in pair)
    for fast in (False, True):
        name = f"{what}{', fast accumulation' if fast else ''}"

        def multiply(fast: bool = fast) -> Tensor:
            return torch._scaled_mm(a, b.t(), scale_a=scale_a, scale_b=scale_b.t(), out_dtype=torch.bfloat16, use_fast_accum=fast)

        try:
            apart, ms = difference(multiply()[: len(exact)], exact), milliseconds(multiply, told.device)
        except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
            told.unable(name, error)
            continue
        told.row(f"{name}: rate", flops / ms / 1e9, "TFLOP/s")
        told.at_most(f"{name}: from float32", apart, NEAR_FP8)


def quantised(x: Tensor, by_rows: bool) -> tuple[Tensor, Tensor]:
    """x (M, K) as e4m3 and its scales, (M, 1) or ()."""
    top = x.abs().amax(1, keepdim=True) if by_rows else x.abs().amax()
    scale = (top.float() / torch.finfo(FP8).max).clamp(min=1e-12)
    return (x / scale).to(FP8), scale
