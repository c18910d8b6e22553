"""Memory: of a 10-minute stream that is saved, of an hour of sound, of both ways of sampling, of a cache before it is there, of loading.

`--part` chooses among stream, sound, modes, cache and loading. `--seconds` shortens the streams; of less than two minutes the
first half is the first minute. `--gb` is the size of the checkpoint that is written to be loaded (TM_BENCH_GB, else 3).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import _loading, _modes
from benchmarks._common import ROOT, Reporter, Result, load, result, say, speech_of, stream_of, write_wav
from parity.golden import BAR
from parity.host import find_host
from tm_core.config import CacheMode, DiTConfig, Guidance, ModelConfig, SamplerConfig, tiny, wan_i2v_14b
from tm_core.errors import InputError
from tm_core.media.video_io import VideoWriter
from tm_core.model.dit import TalkingDiT
from tm_core.model.talking import TalkingModel
from tm_core.streaming.cache_size import GIB, cache_size, check_fits
from tm_core.streaming.metrics import current_rss_mb
from tm_core.streaming.sampler import ChunkedSampler, Scene
from tm_core.vae.tiny import TinyVAE

SECONDS, MODE_SECONDS, MAX_GROWTH_MB = 600.0, 120.0, 50.0
LOADED_GB, ROOM_GB = 3.0, 1.0  # what is written to be loaded; what loading may take beyond the file
GB = 1e9


def run(
    *, weights: Path | None = None, device: str = "auto", seconds: float | None = None, part: Sequence[str] | None = None,
    gb: float | None = None,
) -> list[Result]:
    """The figures of every part, or of those chosen; InputError for a part that is not one."""
    parts: dict[str, Callable[[], list[Result]]] = {
        "stream": lambda: stream_rows(load(weights, device), seconds or SECONDS),
        "sound": lambda: sound_rows(min(seconds or SOUND_SECONDS, SOUND_SECONDS)),
        "modes": lambda: mode_rows(load(weights, "cpu"), seconds or MODE_SECONDS),
        "cache": cache_rows,
        "loading": lambda: loading_rows(gb or float(os.environ.get("TM_BENCH_GB", LOADED_GB)))}
    if unknown := set(part or ()) - set(parts):
        raise InputError("--part", ", ".join(sorted(unknown)), f"bench memory has {', '.join(parts)}", "choose one of them")
    return [row for name in (part or parts) for row in parts[name]()]


# -- streams ------------------------------------------------------------------------------------------------


def stream_rows(model: TalkingModel, total: float) -> list[Result]:
    """Growth of resident memory while a long stream is written to an mp4."""
    say(f"a stream of {total:g} s, saved as mp4")
    frames = stream_of(model, speech_of(total))
    meta = frames.meta
    with tempfile.TemporaryDirectory(prefix="tm-bench-") as folder:
        sound = write_wav(Path(folder) / "long.wav", speech_of(total))
        with VideoWriter(Path(folder) / "long.mp4", meta.width, meta.height, meta.fps, audio=sound) as writer:

            def saved() -> Iterable[float]:
                for chunk in frames.chunks():
                    writer.write(chunk.frames)
                    yield float(chunk.pts * chunk.time_base)

            warm, first, peak = grown(saved(), total)
    return [
        result("stream", total, "s"),
        result(f"peak RSS in the first {warm:g} s", first, "MB"),
        result("peak RSS", peak, "MB"),
        _growth("growth after the first minute", peak - first),
    ]


SOUND_SECONDS, HOUR_S, MINUTE_S = 60.0, 3600.0, 60.0
MAX_MORE_MB, MAX_LATER_S = 100.0, 0.3
HEARD = """
import json, sys, time
from pathlib import Path
from benchmarks._common import demo_portrait, load
from benchmarks._loading import status
from tm_core import talk
model, video_s, first = load(None, "cpu"), float(sys.argv[2]), []
for attempt in range(3):
    started = time.monotonic()
    chunks = talk.animate(demo_portrait(), Path(sys.argv[1]), model=model).chunks()
    next(chunks)
    first.append(time.monotonic() - started)
    if attempt < 2:
        chunks.close()
for chunk in chunks:
    if chunk.pts * chunk.time_base >= video_s:
        break
chunks.close()
print(json.dumps([min(first), status("VmHWM") / 2**20]))
"""


def sound_rows(seconds: float) -> list[Result]:
    """An hour of sound against a minute of it, each in a process of its own that shows the first `seconds`: time, peak memory."""
    found: dict[float, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory(prefix="tm-bench-") as folder:
        for length in (MINUTE_S, HOUR_S):
            say(f"{length:g} s of sound, the first {seconds:g} s shown")
            path = write_wav(Path(folder) / f"{length:g}.wav", speech_of(length))
            ran = subprocess.run(
                [sys.executable, "-c", HEARD, str(path), str(seconds)], cwd=ROOT, capture_output=True, text=True, check=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)})
            found[length] = tuple(json.loads(ran.stdout.splitlines()[-1]))
            path.unlink()
    (soon, little), (late, much) = found[MINUTE_S], found[HOUR_S]
    return [
        result("a minute of sound: first frame, peak RSS", f"{soon:.2f} s, {little:.0f} MB", ""),
        result("an hour of sound: first frame later by", late - soon, "s", f"<= {MAX_LATER_S:g}", late - soon <= MAX_LATER_S),
        result("an hour of sound: more peak RSS", much - little, "MB", f"<= {MAX_MORE_MB:g}", much - little <= MAX_MORE_MB)]


def grown(shown: Iterable[float], total: float) -> tuple[float, float, float]:
    """Seconds that count as warm-up, peak RSS within them and in all; `shown`: seconds of video after each chunk."""
    warm, first, peak, tell = min(60.0, total / 2), 0.0, 0.0, Reporter(total_s=total)
    for now_s in shown:
        peak = max(peak, current_rss_mb())
        first = peak if now_s <= warm else first
        tell(now_s)
    return warm, first, peak


def _growth(what: str, growth: float) -> Result:
    return result(what, growth, "MB", f"< {MAX_GROWTH_MB:g}", growth < MAX_GROWTH_MB)


def mode_rows(model: TalkingModel, seconds: float) -> list[Result]:
    """Both ways of sampling: growth over a long stream, and the stream against the same sampled as a whole."""
    rows = []
    for mode in _modes.MODES:
        say(f"{mode}, {seconds:g} s")
        warm, first, peak = grown(_modes.frames_of(model, mode, seconds), seconds)
        rows.append(_growth(f"{mode}: growth from {warm:g} s to {seconds:g} s", peak - first))
    say("both against the whole")
    chunks, (clips, levels) = _modes.chunks_against_whole(model), _modes.clips_against_whole(model)
    unit, bar = "max abs difference", f"<= {BAR:g}"
    return [
        *rows, result(f"sparse causal chunks: {_modes.WHOLE} streamed, whole", f"{chunks:.2g}", unit, bar, chunks <= BAR),
        result(f"clips under full attention: {_modes.WHOLE} streamed, whole", f"{clips:.2g}", unit, bar, clips <= BAR),
        result("clips under full attention: frames shown, whole", levels, "levels of 255", "<= 1", levels <= 1)]


# -- the cache ----------------------------------------------------------------------------------------------

PLAIN, GUIDED = Guidance(), Guidance(text=5.0, audio=4.0)
CACHES: tuple[tuple[CacheMode, Guidance], ...] = (
    ("per_step", PLAIN), ("clean_rerun", PLAIN), ("recompute", PLAIN), ("per_step", GUIDED), ("clean_rerun", GUIDED))


def cache_rows() -> list[Result]:
    """Predicted against allocated at small size, the prediction at 14B, and what a run that cannot fit is told."""
    rows, dit = [], wan_i2v_14b().dit
    for mode, guidance in CACHES:
        sampler = SamplerConfig(sigmas=(1.0, 0.75), cache_mode=mode, guidance=guidance)
        name = f"cache {mode}{', guided' if guidance == GUIDED else ''}"
        predicted, allocated = small_cache(sampler)
        rows.append(result(
            f"{name}: allocated at reduced size", allocated, "bytes", f"exactly {predicted} as predicted", allocated == predicted))
        sizes = {
            f"{w} x {h}": cache_size(dit, sampler, sized(w, h).latent_hw, torch.bfloat16).total / GB for w, h in ((512, 512), (832, 480))}
        rows += [result(f"{name}: 14B at {size}, predicted", value, "GB") for size, value in sizes.items()]
    return [*rows, *(refusal(width, height, free) for width, height, free in ((512, 512, 8.0), (832, 480, 3.0)))]


def sized(width: int, height: int) -> ModelConfig:
    """Wan's 14B model at this size."""
    return replace(wan_i2v_14b(), width=width, height=height)


def small_cache(sampler: SamplerConfig) -> tuple[int, int]:
    """Bytes that are predicted and that a stream allocates: text and picture included, two blocks, 64 x 48 pixels."""
    cfg = DiTConfig(dim=96, ffn_dim=128, num_heads=2, num_layers=2, text_dim=8, text_len=6, image_dim=16, audio_kind="none")
    config = replace(tiny(), width=64, height=48, dit=cfg)
    model = TalkingModel(config=config, dit=TalkingDiT(cfg, dtype=torch.bfloat16), projector=None, vae=TinyVAE(tiny().vae))
    scene = Scene(reference=torch.zeros(16, 6, 8), speakers=(), frames=1, image=torch.zeros(1, 257, 16))
    state = ChunkedSampler(model, sampler).open(scene, 0)
    context = [t for c in state.conditions.values() for block in c.context for t in block if t is not None]
    return cache_size(cfg, sampler, config.latent_hw, torch.bfloat16).total, state.cache_bytes + sum(t.nbytes for t in context)


def refusal(width: int, height: int, free_gib: float) -> Result:
    """What a run of the 14B model is told that does not fit."""
    sampler, said = SamplerConfig(sigmas=(1.0, 0.75)), ""
    try:
        check_fits(sized(width, height), sampler, torch.bfloat16, round(free_gib * GIB))
    except InputError as error:
        said = str(error)
    return result(f"14B at {width} x {height} with {free_gib:g} GiB free", said, "", "refused, with what fits", "; use " in said)


# -- loading ------------------------------------------------------------------------------------------------


def loading_rows(gb: float) -> list[Result]:
    """Peak memory of each loader on a base and an adapter of about `gb` together."""
    say(f"a checkpoint of {gb:g} GB is written")
    base, adapter = _loading.shapes_of(gb)
    with _loading.folder_with_room(gb) as folder:
        files = [_loading.write(Path(folder) / f"{name}.safetensors", shapes, torch.bfloat16, seed)
                 for seed, (name, shapes) in enumerate((("base", base), ("adapter", adapter)))]
        sizes = [file.stat().st_size for file in files]
        rows = [result("loading: base and adapter", sum(sizes) / GB, "GB"),
                result("loading: width of its blocks", base["patch_embedding.weight"][0], "")]
        for name, dtype in (("load_open_model", "bfloat16"), ("load_open_model, cast to fp16", "float16")):
            say(name)
            rows += _loaded(name, _loading.child(ROOT / "benchmarks" / "_loading.py", dtype, *files), sum(sizes))
        return [*rows, *_host_rows(files, sizes)]


def _host_rows(files: list[Path], sizes: list[int]) -> list[Result]:
    host = find_host()
    if host is None:
        return [result("loading: in ComfyUI", "not measured: no ComfyUI, run `make host`", "")]
    script = ROOT / "benchmarks" / "_host_loading.py"
    say("nodes/host/wan.py load, and the host's own loader, in the host's Python")
    ours = _loading.child(script, host.path, ROOT, "pack", "bf16", *files, python=host.python)
    theirs = _loading.child(script, host.path, ROOT, "host", "bf16", files[0], python=host.python)
    return [
        *_loaded("in ComfyUI, nodes/host/wan.py load", ours, sum(sizes)),
        result(f"loading: ComfyUI's own loader, the base alone ({sizes[0] / GB:.2f} GB): peak", theirs["peak"] / GB, "GB")]


def _loaded(name: str, found: dict[str, float], size: int) -> list[Result]:
    most = size + ROOM_GB * GB
    return [
        result(f"loading: {name}: peak RSS over that before", found["peak"] / GB, "GB", f"<= {most / GB:.2f} (files + {ROOM_GB:g})",
               found["peak"] <= most),
        result(f"loading: {name}: kept, own and mapped", f"{found['own'] / GB:.2f} and {found['mapped'] / GB:.2f}", "GB"),
        result(f"loading: {name}", found["seconds"], "s")]
