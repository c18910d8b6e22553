"""`bench gpu`: the path of the large shapes at reduced size on the CPU, its arithmetic against torch's own counter, honest rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu
from benchmarks._gpu import large
from benchmarks._gpu.blocks import compiled_blocks
from benchmarks._gpu.correctness import CHUNKS, GOLDEN, RECORDED
from benchmarks._gpu.kernels import _attend, quantised
from benchmarks._gpu.pack import META, load_pack, unpack, write
from benchmarks._gpu.record import Recorder, Row, read_rows
from benchmarks._gpu.sample import frames_of, latents_of, load_sample, open_stream
from benchmarks._gpu.timing import difference
from tm_core.config import AudioKind, SamplerConfig, paper_18b
from tm_core.errors import InputError
from tm_core.model.talking import TalkingModel
from tm_core.streaming.cache_size import cache_size
from tm_core.streaming.sampler import ChunkedSampler
from tm_core.train.dataset import load_inputs

KINDS: list[AudioKind] = ["own_q_kv_proj", "shared_q_kv"]


@pytest.fixture
def told(tmp_path: Path) -> Recorder:
    """Writes rows that the test reads."""
    return Recorder(path=tmp_path / "rows.jsonl", part="p", device="cpu", started=time.monotonic(), ends=time.monotonic() + 600)


def values(told: Recorder) -> dict[str, Row]:
    return {str(row["what"]): row for row in read_rows(told.path)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_path_runs_at_reduced_size(kind: AudioKind, told: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "WARM", 2)
    monkeypatch.setattr(large, "WAYS", [(p, ways[:1]) for p, ways in large.WAYS])  # compiling has its own test
    case = large.small_case(kind)
    large.measure(told, case, chunks=1, vaes=large.SMALL_VAES)
    found, name = values(told), case.config.name
    for precision in large.PRECISIONS:
        row = found[f"{name}, {precision}: denoising 3 latents, 2 steps, 32 x 32"]
        assert float(row["value"]) > 0 and found[f"{name}, {precision}: every latent is a number"]["ok"]  # type: ignore[arg-type]
    for vae in large.VAES:
        between = found[f"{name}, bf16, {vae}: time between chunks, both at once, p50"]
        assert between["bar"] == ("<= 480 (25 fps)" if kind == "own_q_kv_proj" else "<= 750 (16 fps)") and float(between["value"]) > 0  # type: ignore[arg-type]
    assert not [row for row in found.values() if row["ok"] is False]


def test_one_precision_that_fails_leaves_the_others(told: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a chip cannot do is said as that; any other error is a failure, with its own first line, and hides nothing."""
    class Wrong(large.Fp8Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[-1] == 64 and len(x) == 16:  # the small layer that `why_not` asks
                return x
            raise RuntimeError("mat1 and mat2 do not fit\nmore")

    class Lacking(large.Fp8Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError("no kernel for this chip")

    plain = {"bf16": torch.nn, "fp8 by rows": large.operations(Lacking), "fp8 cast to bf16": large.operations(Wrong)}
    monkeypatch.setattr(large, "PRECISIONS", plain)
    monkeypatch.setattr(large, "WAYS", [(precision, (large.Way(name=precision),)) for precision in plain])
    large.measure(told, large.small_case("own_q_kv_proj"), chunks=1, vaes={})
    found, name = values(told), "14B + InfiniteTalk"
    assert found[f"{name}, bf16: every latent is a number"]["ok"] is True
    lacking, wrong = found[f"{name}, fp8 by rows"], found[f"{name}, fp8 cast to bf16"]
    assert (lacking["value"], lacking["ok"]) == ("not measured: NotImplementedError: no kernel for this chip", None)
    assert (wrong["value"], wrong["ok"]) == ("failed: RuntimeError: mat1 and mat2 do not fit", False)


def test_one_backend_that_fails_leaves_the_others(told: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU cuDNN's attention is such a one."""
    _attend(told, "attention", ((1, 2, 8, 128), (1, 2, 24, 128)), 1e6)
    found = values(told)
    assert str(found["attention, cuDNN"]["value"]).startswith("not measured: RuntimeError: ") and found["attention, cuDNN"]["ok"] is None
    for name in ("torch's choice", "flash", "math"):
        assert found[f"attention, {name}: from float32"]["ok"] is True


@pytest.mark.slow
def test_compiled_blocks_make_the_same_chunks() -> None:
    """Through a graph of each block, whole: a break would raise."""
    case = large.small_case("own_q_kv_proj")
    model, scene = large.build(case, "cpu", "bf16"), large.scene_of(case, "cpu")
    plain = large.denoise_ms(model, scene, "cpu", 1)[2]
    with compiled_blocks(model.dit, "cpu") as backend:
        compiled = large.denoise_ms(model, scene, "cpu", 1)[2]
    assert backend == "aot_eager" and difference(compiled, plain) <= 0.01
    assert "step" not in vars(model.dit.blocks[0]), "the blocks are as they were"


@pytest.mark.parametrize("kind", KINDS)
def test_arithmetic_is_what_torch_counts(kind: AudioKind) -> None:
    case = large.small_case(kind)
    model, scene = large.build(case, "cpu", "bf16"), large.scene_of(case, "cpu")
    sampler = ChunkedSampler(model, SamplerConfig(sigmas=large.SIGMAS))
    state = sampler.open(scene, 0)
    for _ in range(3):
        _, state = sampler.step(state)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as whole:  # the counter does not know the CPU's fused attention
        sampler.step(state)
    with FlopCounterMode(display=False) as projecting:
        like = torch.empty(0, dtype=torch.bfloat16)
        model.projector.project(scene.speakers[0].windows(range(9, 12)), torch.ones(3), like)  # type: ignore[union-attr]
    counted, cfg = whole.get_total_flops() - projecting.get_total_flops(), case.config.dit
    assert counted == 2 * large.chunk_flops(cfg, 4, case.audio_tokens) + large.sound_flops(cfg, case.audio_tokens)


def test_fp8_layers_are_near_the_ones_they_stand_for() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 64, dtype=torch.bfloat16)
    cast = large.Fp8Linear(64, 32, dtype=torch.bfloat16)
    assert cast.weight.element_size() == 1 and difference(cast(x).float(), x.float() @ cast.weight.float().t()) < 0.01
    rows = large.ScaledLinear(64, 32, dtype=torch.bfloat16)
    exact = x.float() @ (rows.weight.float() * rows.scale.t()).t()
    assert rows.weight.element_size() == 1 and difference(rows(x).float(), exact) < 0.05


def test_each_row_has_its_own_scale() -> None:
    """One large row must not cost the others their digits, which one scale for all does."""
    x = torch.randn(4, 64)
    x[0] *= 10**5
    (own, own_scale), (shared, shared_scale) = quantised(x, by_rows=True), quantised(x, by_rows=False)
    assert difference(own[1:].float() * own_scale[1:], x[1:]) < 0.05 < difference(shared[1:].float() * shared_scale, x[1:])


def test_the_pack_is_training_input_and_holds_what_the_cpu_makes_of_it(model: TalkingModel, tmp_path: Path) -> None:
    inputs = load_inputs(unpack(tmp_path), "train")
    assert inputs.identities == ("demo", "demo", "second", "second", "third", "third") and len(inputs.speech.voices) == 1
    sample = load_sample(model.config)
    stream = open_stream(model, sample, 2)
    frames_of(stream, "cpu", "cpu")
    recorded = load_pack()[0][GOLDEN]
    assert len(RECORDED) < CHUNKS and difference(latents_of(stream), recorded[:, :, :6]) < 0.01


def test_a_large_corpus_becomes_a_small_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WebP stills and whole utterances, in the shapes that training reads."""
    from safetensors.torch import save_file

    from benchmarks._gpu import pack as packing

    small, metadata = load_pack()
    many = small | {"images": small["images"].repeat(12, 1, 1, 1)}
    many |= {name: small[name].repeat(12, *(1,) * (small[name].dim() - 1)) for name in ("points", "mirrored")}
    many["pictures"] = torch.arange(48).repeat_interleave(2)
    meta = json.loads(metadata[META])
    meta |= {name: meta[name] * 12 for name in ("faces", "face_splits")}
    inputs_file = tmp_path / "inputs.safetensors"
    save_file({k: v.contiguous() for k, v in many.items() if k != GOLDEN}, inputs_file, {META: json.dumps(meta)})
    packed = write(tmp_path / "pack.safetensors", inputs_file)
    assert packed.stat().st_size < many["images"].nbytes / 4
    monkeypatch.setattr(packing, "pack_path", lambda: packed)
    inputs = load_inputs(packing.unpack(tmp_path / "work"), "train")
    assert len(inputs.identities) == 72 and (inputs.faces.images[0] - small["images"][0] / 255).abs().mean() < 0.02


def test_parts_run_where_only_torch_numpy_and_safetensors_are() -> None:
    """Every module of a part, imported by an interpreter that refuses all else that this project uses."""
    code = """
import importlib, sys
blocked = {"librosa", "av", "typer", "scipy", "PIL", "einops", "psutil", "rich", "cv2", "sklearn", "pocketsphinx", "soundfile"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is blocked by the test", name=name)
sys.meta_path.insert(0, Refuse())
from benchmarks._gpu.parts import PARTS
for part in PARTS:
    module, function = part.target.split(":")
    getattr(importlib.import_module(module), function)
import benchmarks.gpu, importlib.util
spec = importlib.util.spec_from_file_location("test_cuda", "tests/streaming/test_cuda.py")
spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_needed_is_more_than_what_is_kept() -> None:
    for case in large.cases():
        kept = cache_size(case.config.dit, SamplerConfig(sigmas=large.SIGMAS), (64, 64), torch.bfloat16).total
        fp8, bf16 = (large.needed_bytes(case, p) for p in ("fp8 cast to bf16", "bf16"))
        assert 16e9 < bf16 - fp8 < 19e9 and fp8 > kept + 16e9


def test_arithmetic_of_the_large_shapes() -> None:
    """Twice the 14B's parameters that see every token, times tokens and steps, is a floor; attention adds less than as much again."""
    case: Any = next(c for c in large.cases() if c.config.name == paper_18b().name)
    floor = 2 * 40 * (12 * 5120**2 / 2 + 2 * 5120 * 13824) * 3 * 1024
    assert floor < large.chunk_flops(case.config.dit, 1024, 16) < 2 * floor


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(InputError, match="machine, correctness"):
        gpu.run(device="cpu", part=["weather"])


def test_no_device_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(InputError, match="DEVICE=cpu"):
        gpu.run(device="cuda")
