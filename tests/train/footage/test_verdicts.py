"""What is kept, and for which reason the rest is dropped."""

from __future__ import annotations

import json
from typing import Any

import pytest

VERDICTS = {
    "talk.mp4": [None], "films/cut.mp4": [None, None, "short"], "subtitles.mp4": ["text"], "mute.mp4": ["silent"],
    "late.mp4": ["off_sync"], "dubbed.mp4": ["not_speaking"], "still.mp4": ["still"], "nobody.mp4": ["no_face"],
    "two.mp4": ["several_faces"], "far.mp4": ["small_face"],
}


@pytest.mark.parametrize("source", VERDICTS)
def test_each_piece_has_its_verdict(prepared: Any, source: str) -> None:
    clips, own = prepared.of(source)
    assert [c["reason"] for c in clips] == VERDICTS[source], [c["measures"] for c in clips]
    assert own["state"] == "done" and own["detail"] == ""


@pytest.mark.parametrize("source", ["corrupt.mp4", "noise.mkv", "empty.mov"])
def test_a_broken_file_is_listed_and_stops_nothing(prepared: Any, source: str) -> None:
    clips, own = prepared.of(source)
    assert clips == [] and own["state"] == "broken"
    assert prepared.report.unusable[source] == own["detail"] != ""


def test_a_video_of_few_frames_a_second_is_not_looked_at(prepared: Any) -> None:
    clips, own = prepared.of("slow.mp4")
    assert clips == [] and own["reason"] == "slow" and own["detail"] == "12.00 fps"


def test_other_files_are_no_sources(prepared: Any) -> None:
    assert not [r for r in prepared.records if r["source"] == "notes.txt"]


def test_a_late_picture_is_told_in_frames(prepared: Any) -> None:
    (clip,), _ = prepared.of("late.mp4")
    assert clip["measures"]["sync_offset"] == -10  # the sound comes ten frames after the lips


def test_a_cut_is_found_where_it_is(prepared: Any) -> None:
    (first, second, rest), _ = prepared.of("films/cut.mp4")
    assert first["end_s"] <= 110 / 25 <= second["start_s"] <= 112 / 25
    assert second["end_s"] <= 220 / 25 <= rest["start_s"]


def test_the_report_adds_up(prepared: Any) -> None:
    report = prepared.report
    assert report.sources == report.done_now == 14 and report.waiting == 0
    assert report.kept == 3 == len(list((prepared.out / "clips").glob("*.safetensors")))
    assert set(report.dropped) == {r for v in VERDICTS.values() for r in v if r} | {"broken", "slow"}
    assert report.dropped["broken"]["clips"] == 3
    total = report.kept_s + report.left_s + sum(v["seconds"] for v in report.dropped.values())
    assert total == pytest.approx(report.seconds, abs=0.01)
    told = json.loads((prepared.out / "report.json").read_text())  # other tests may have run again since
    assert told | {"done_now": 14} == report.to_dict()
    assert all(reason in report.table() for reason in report.dropped)


def test_nothing_half_written_is_left(prepared: Any) -> None:
    assert not list(prepared.out.rglob("*.part"))
    kept = {r["name"] for r in prepared.records if r["kind"] == "clip" and r["state"] == "kept"}
    assert {p.name for p in (prepared.out / "clips").iterdir()} == {f"{n}{e}" for n in kept for e in (".safetensors", ".mp4")}
