"""`bench table1`: the document and one small run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import table1
from benchmarks._common import variant
from tm_core.model.talking import TalkingModel
from tm_core.streaming.metrics import StreamMetrics


def test_the_clock_joins_streams() -> None:
    now = iter([0.0, 1.0, 1.5, 1.5, 5.0, 7.0])
    clock = table1.Clock()
    for _ in range(2):
        metrics = StreamMetrics(chunk_s=0.48, fps=25, clock=lambda: next(now))
        metrics.frames_out(9)
        metrics.frames_out(12)
        clock.add(metrics)
    times = clock.times()
    assert clock.chunks == 4 and times["chunk_s"] == 0.48
    assert times["ttbc_s"] == 0.5  # of 0.5 and 2.0, nearest rank
    assert times["rtf"] == pytest.approx((1.5 + 5.5) / (42 / 25))


def test_the_table_has_a_line_for_every_row() -> None:
    rows = [
        table1.Row(name="still portrait", frechet=3.0, sync_c=math.nan, sync_d=math.nan, lip_r=0.3),
        table1.Row(
            name="chunk 3, 2 steps", frechet=1.25, sync_c=4.5, sync_d=8.0, lip_r=0.72, chunk_s=0.48, ttbc_s=0.2, work_s=0.3, rtf=0.41)]
    text = table1.table(rows, 0.9, 10, 8.0, "here; commit x")
    assert "| still portrait | 3.00 | - | - | 0.300 | 0.33 |  |  |  |" in text
    assert "| chunk 3, 2 steps | 1.25 | 4.50 | 8.00 | 0.720 | 0.80 | 0.480 | 0.200 | 0.410 |" in text
    assert text.endswith("here; commit x\n") and text.isascii()


def test_a_variant_shares_the_weights(model: TalkingModel) -> None:
    other = variant(model, chunk_latents=7)
    assert other.dit is model.dit
    assert other.config.sampler.chunk_latents == 7 and model.config.sampler.chunk_latents == 3


@pytest.mark.slow
def test_a_small_run(held_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table1, "CLIPS", 2)
    monkeypatch.setattr(table1, "CELLS", ((7, 4), (3, 2)))
    results = table1.run(seconds=1.6, out=tmp_path)
    assert {r["what"].rpartition(":")[0] for r in results} == {
        "generator's clip, other head motion", "generator's clip, redrawn by the autoencoder", "still portrait", "chunk 7, 4 steps",
        "chunk 3, 2 steps"}
    by = {r["what"]: r["value"] for r in results}
    assert by["chunk 7, 4 steps: time between chunks, p50"] > 0
    assert by["generator's clip, other head motion: Frechet distance"] < by["still portrait: Frechet distance"]
    assert (tmp_path / "table1.md").read_text().count("\n| ") == 7
    assert by["generator's clip, redrawn by the autoencoder: lip r"] > by["still portrait: lip r"]
