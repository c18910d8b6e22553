"""Writes the tables of docs/adapters.md that follow from code: defaults, hearing, refusals, bytes.

    python scripts/adapters_table.py
A table stands between `<!-- table: NAME -->` and `<!-- end -->`; what is around it is written by hand. A test compares;
run this after changing a family, a shape or what a stream keeps. Bytes are counted from shapes, nothing is measured.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tm_core.audio.wav2vec2 import Wav2Vec2  # noqa: E402 - after the path
from tm_core.config import CacheMode, Guidance, ModelConfig, SamplerConfig, paper_18b, tiny, wan_i2v_14b  # noqa: E402
from tm_core.families.registry import AUDIO_KINDS, FAMILIES, OTHERS, Family, expected  # noqa: E402
from tm_core.model.audio_projector import AudioProjector  # noqa: E402
from tm_core.model.dit import TalkingDiT  # noqa: E402
from tm_core.streaming.cache_size import cache_size  # noqa: E402
from tm_core.streaming.guidance import passes  # noqa: E402
from tm_core.vae.taehv import TAEHV  # noqa: E402
from tm_core.vae.wan import WanVAE  # noqa: E402

TARGET = ROOT / "docs" / "adapters.md"
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
PICTURES = ((512, 512), (832, 480))
GB = 1e9
AUDIO_DIMS = {"wan": 0, "fantasytalking": 2048, "multitalk": 768, "liveact": 768}  # width of the published projections


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def gb(count: float) -> str:
    """Bytes as GB of 10^9, two figures behind the point."""
    return f"{count / GB:.2f} GB"


def guided(guidance: Guidance) -> str:
    """Scales and what they cost."""
    count = len(passes(guidance))
    return "none" if count == 1 else f"text {guidance.text:g}, sound {guidance.audio:g}; {count} evaluations a step"


def frames(family: Family) -> str:
    """Frames a second, whole where they are."""
    return str(family.fps) if family.fps != Fraction(int(family.fps)) else str(int(family.fps))


def defaults() -> str:
    """How each family is sampled."""
    def row(f: Family) -> list[object]:
        steps = f"{f.steps} at {', '.join(f'{t:g}' for t in f.timesteps)}" if f.timesteps else f.steps
        causal = "sparse causal chunks" if f.history is None else "causal chunks, compressed history"
        mode = "clips, full attention" if f.mode == "bidirectional" else causal
        return [f.title, f"`{f.name}`", mode, frames(f), steps, f"{f.shift:g}", guided(f.guidance), f.clip_frames,
                f.motion_frames or "none", f.licence, f.source]

    def ours(c: ModelConfig) -> list[object]:
        return ["our own student", f"`{c.name}`", "sparse causal chunks", c.fps, f"{c.sampler.num_steps} at "
                + ", ".join(f"{1000 * s:g}" for s in c.sampler.sigmas), "1", guided(c.sampler.guidance),
                4 * c.sampler.chunk_latents, "none", "MIT", "this repository"]

    head = ["family", "name", "sampled as", "fps", "steps", "shift", "guidance", "frames of a clip or chunk", "motion frames", "licence",
            "source"]
    student = replace(paper_18b(), sampler=SamplerConfig())  # the recipe's own steps are the teacher's
    return table(head, [*(row(f) for f in FAMILIES.values()), ours(tiny()), ours(student)])


def hearing() -> str:
    """What each family's sound goes through."""
    rows = []
    for f in FAMILIES.values():
        if (s := f.speech) is None:
            rows.append([f.title, "does not hear", *[""] * 5])
            continue
        loud = "as it is" if s.loudness_lufs is None else f"to {s.loudness_lufs:g} LUFS"
        kept = f"all {s.layers} layers, one vector a video frame" if s.per_frame else "the last layer, 50 vectors a second"
        rows.append([f.title, f"`{s.encoder}`", "yes" if s.normalise else "no", loud, f"{s.gain:g}", kept, type(s.windows()).__name__])
    return table(["family", "encoder", "normalised to mean 0, variance 1", "loudness", "gain", "kept", "window rule"], rows)


def refused() -> str:
    """Models that are known by a part of their names and not run."""
    return table(["model", "why not", "known by"], [[title, why, f"`{part}`"] for part, title, why in OTHERS])


def parameters(family: Family) -> int:
    """Numbers in a family's base and adapter at the published sizes."""
    dit = replace(
        wan_i2v_14b().dit, audio_kind=AUDIO_KINDS[family.layout], audio_dim=AUDIO_DIMS[family.layout],
        memory_stride=5 if family.history is not None else 0)
    return sum(math.prod(shape) for shape in expected(dit, family.layout).values())


def student_parameters(config: ModelConfig) -> int:
    """Numbers in one of our own models, without its autoencoder."""
    assert config.projector is not None
    with torch.device("meta"):
        parts = [TalkingDiT(config.dit), AudioProjector(config.projector)]
    return sum(p.numel() for part in parts for p in part.parameters())


def weights() -> str:
    """Bytes of the weights."""
    counts = {f.title: parameters(f) for f in FAMILIES.values()} | {"our own student (`paper_18b`)": student_parameters(paper_18b())}
    rows = [[title, f"{n / 1e9:.2f} G", gb(2 * n), gb(n)] for title, n in counts.items()]
    return table(["model, base and adapter together", "parameters", "bf16 or fp16", "fp8, every tensor"], rows)


def latents(width: int, height: int) -> tuple[int, int]:
    """Height and width of the latents of a picture."""
    return replace(wan_i2v_14b(), width=width, height=height).latent_hw


def cache() -> str:
    """Bytes of the keys and values that a stream of a 14B model keeps between chunks."""
    def stream(mode: CacheMode, guidance: Guidance) -> SamplerConfig:
        return replace(paper_18b().sampler, sigmas=(1.0, 0.75), cache_mode=mode, guidance=guidance)

    wanted = {
        "chunks of 3 latents, 2 steps, `per_step` (the paper)": stream("per_step", Guidance()),
        "the same, `clean_rerun` or `recompute`": stream("clean_rerun", Guidance()),
        "the same, `per_step`, guided by text and sound": stream("per_step", Guidance(text=5.0, audio=4.0))}
    wanted |= {f"{f.title}'s chunks and history": f.sampler() for f in FAMILIES.values() if f.mode == "sparse_causal"}
    clips = [f for f in FAMILIES.values() if f.mode == "bidirectional"]
    wanted[f"clips: {', '.join(f.title for f in clips)}"] = max(
        (f.sampler() for f in clips), key=lambda s: cache_size(wan_i2v_14b().dit, s, latents(*PICTURES[0]), torch.bfloat16).total)
    dit, rows = wan_i2v_14b().dit, []
    for name, sampler in wanted.items():
        sizes = [cache_size(dit, sampler, latents(w, h), torch.bfloat16) for w, h in PICTURES]
        rows.append([name, *(gb(s.chunks) for s in sizes), gb(sizes[0].context)])
    return table(["stream", *(f"chunks, {w} x {h}" for w, h in PICTURES), "text and picture"], rows)


def decoders() -> str:
    """Bytes of the autoencoders and of what their decoders keep between latents."""
    rows = []
    for name, vae in (("Wan's own (WanVAE)", WanVAE(device="meta", dtype=torch.bfloat16)),
                      ("TAEHV (taew2_1)", TAEHV(device="meta", dtype=torch.bfloat16))):
        count = sum(p.numel() for p in vae.parameters())
        rows.append([name, f"{count / 1e6:.1f} M", gb(2 * count), *(gb(vae.decoder_state_nbytes(h, w)) for w, h in PICTURES)])
    count = sum(p.numel() for p in Wav2Vec2(device="meta").parameters())
    rows.append(["wav2vec2-base", f"{count / 1e6:.1f} M", gb(2 * count), "none", "none"])
    return table(["network", "parameters", "weights, bf16", *(f"state, {w} x {h}" for w, h in PICTURES)], rows)


TABLES: dict[str, Callable[[], str]] = {
    "defaults": defaults, "hearing": hearing, "refused": refused, "weights": weights, "cache": cache, "decoders": decoders}


def rewritten(text: str) -> str:
    """The document with every marked table made anew; KeyError for a table that nobody makes."""
    return MARKED.sub(lambda m: m[1] + TABLES[m[2]]() + m[3], text)


def main() -> None:
    """Rewrite the document in place."""
    TARGET.write_text(rewritten(TARGET.read_text(encoding="ascii")), encoding="ascii")


if __name__ == "__main__":
    main()
