"""`bench live`: what its measures say of known sounds, pictures and packets, and small runs of its parts."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soxr

from benchmarks import live
from benchmarks._live import answer, bad_input, bad_network, bargein, connects, latency, look_ahead, mouths, two_sessions
from benchmarks._live.browser_probe import Probed, clap_offsets, parsed
from benchmarks._live.callers import Arrivals, Received, joined
from benchmarks._live.claps import tone_begins
from benchmarks._live.serving import Served
from benchmarks._live.voices import RATE, loud_steps, other_voice, phrase
from benchmarks._live.watched_server import CLAP_EVERY, tone
from benchmarks._live.wire import ADDRESSES, Wire, WireConfig, missing
from tm_core.errors import InputError


def test_a_phrase_is_loud_from_its_first_step_and_never_pauses_for_long() -> None:
    said = phrase(3.0)
    assert len(said) == 3 * RATE and loud_steps(said, RATE, 0.05)[0]
    quiet, longest = 0, 0
    for loud in loud_steps(said, RATE, 0.05):
        quiet = 0 if loud else quiet + 1
        longest = max(longest, quiet)
    assert longest <= 11  # a turn ends after fifty


def test_a_mouth_moves_when_it_changes_more_than_while_idle_and_is_shut_when_it_stays_so() -> None:
    rng = np.random.default_rng(0)
    seen = 100 + rng.normal(0, 1, (40, 8, 12)).astype(np.float32)
    assert mouths.first_move(seen, 20) is None
    seen[27:, 3:5] += 40
    assert mouths.first_move(seen, 20) == 27
    gaps = np.r_[np.full(20, 0.01), 0.05 + 0.03 * np.sin(np.arange(20)), np.linspace(0.06, 0.01, 6), np.full(20, 0.01)]
    shut = mouths.shut_from(gaps, 40)
    assert shut is not None and 43 <= shut <= 46
    assert mouths.shut_from(np.r_[gaps[:40], gaps[20:38]], 40) is None  # it speaks on


@pytest.mark.parametrize("cut_s", [1.0, 1.43, 2.2])
def test_the_position_that_was_heard_is_found_in_what_was_said(cut_s: float) -> None:
    said = np.r_[np.zeros(RATE // 4, np.float32), phrase(3.0)]
    heard = said[: round(cut_s * RATE)] + np.random.default_rng(0).normal(0, 0.002, round(cut_s * RATE)).astype(np.float32)
    held = np.r_[heard[:8000], np.zeros(1920, np.float32), heard[8000:]]  # a frame that was not ready moves nothing
    for sound in (heard, held):
        assert bargein.position_error(cut_s, said, sound) <= 0.02
        assert bargein.position_error(cut_s + 0.3, said, sound) > 0.1 < bargein.position_error(cut_s - 0.3, said, sound)


def test_a_tone_is_found_where_it_begins_and_speech_is_none() -> None:
    speech = soxr.resample(phrase(3.0), RATE, 48000) * 2
    assert tone_begins(speech) is None
    sound = 0.01 * np.random.default_rng(0).normal(size=6000).astype(np.float32)
    sound[2500:4420] += tone(1920, 0, 48000)
    found = tone_begins(sound)
    assert found is not None and abs(found - 2500) < 48  # a millisecond
    assert np.allclose(np.r_[tone(1920, 0, 48000), tone(1920, 1, 48000)], tone(3840, 0, 48000), atol=1e-5)


def test_stamps_become_the_senders_time_across_their_wrap_and_despite_a_bad_report() -> None:
    arrivals, clock = Arrivals(), 90000
    assert arrivals.sender_s(0, clock) is None
    for i in range(9):
        stamp = (2**32 - 3 * clock + i * clock) % 2**32
        arrivals.reports.append((1000.0 + i + (0.2 if i == 4 else 0.0), stamp))
    assert arrivals.sender_s((2**32 - 3 * clock) % 2**32, clock) == pytest.approx(1000.0, abs=1e-6)
    assert arrivals.sender_s(4 * clock, clock) == pytest.approx(1007.0, abs=1e-6)


def test_sounds_are_joined_by_their_stamps() -> None:
    pieces = [Received(stamp=(2**32 - 960 + at) % 2**32, arrived=0.0, data=np.full(960, v, np.float32)) for at, v in ((0, 1), (1920, 2))]
    whole = joined(pieces)
    assert len(whole) == 2880 and (whole[:960] == 1).all() and not whole[960:1920].any() and (whole[1920:] == 2).all()


def levels(spans: list[tuple[float, float]], seconds: float, tone_share: float = 1.0) -> np.ndarray:
    at = np.arange(0, seconds, 128 / 48000)
    loud = np.any([(at >= a) & (at < b) for a, b in spans], axis=0)
    return np.stack([at, 0.4 * loud, 0.4 * np.sqrt(2) * tone_share * loud], 1)


@pytest.mark.parametrize("late_s", [-0.03, 0.0, 0.045])
def test_claps_in_a_browser_are_as_far_apart_as_they_are(late_s: float) -> None:
    every = CLAP_EVERY / 25
    shown = np.arange(0, 20, 0.04)
    grey = np.where((shown > 1) & (shown % every < 0.119), 255.0, 70.0)
    far = levels([(k * every + late_s, k * every + late_s + 0.12) for k in range(1, 10)], 20)
    offsets = clap_offsets(shown, grey, far)
    assert len(offsets) >= 9 and np.abs(np.array(offsets) - late_s).max() < 0.004
    assert clap_offsets(shown, grey, levels([(0, 20)], 20, tone_share=0.2)) == []


def test_an_answer_is_timed_from_the_end_of_the_turn() -> None:
    shown = np.arange(0, 20, 0.04)
    pixels = np.full((len(shown), 384), 80.0) + np.random.default_rng(0).normal(0, 1, (len(shown), 384))
    pixels[(shown > 4.9) & (shown < 6) | (shown > 12.0) & (shown < 13)] += 30
    seen = Probed(
        shown_s=shown, pixels=pixels, microphone=levels([(3, 3.6), (3.8, 4.0), (9, 11)], 20), far=levels([(4.8, 5.8), (12.1, 13)], 20))
    first, second = answer.answered(seen)
    assert first.sound_s == pytest.approx(0.8, abs=0.01) and first.lip_s == pytest.approx(0.92, abs=0.05)
    assert second.sound_s == pytest.approx(1.1, abs=0.01) and second.lip_s == pytest.approx(1.04, abs=0.05)
    text = json.dumps({"frames": [[1500, [9] * 384]], "mic": [[1, 0, 0]], "far": [], "clock": {"contextTime": 2, "performanceTime": 2600}})
    assert parsed(text).shown_s[0] == 1.5 and parsed(text).microphone[0, 0] == pytest.approx(1.6)


def test_what_a_bad_network_must_not_do_is_seen() -> None:
    came = [*np.arange(0, 10, 0.04), *np.arange(11.3, 20, 0.04)]
    found = {"pictures": came, "sounds": came, "by_reports": [0.01, -0.01], "by_arrival": [0.02, 0.02], "arrived": [1.0, 3.0]}
    rows = {r["what"]: r for r in bad_network.network_figures(found, 10.0, 11.0, True)}
    assert rows["pictures after 1 s of silence on the wire, again after"]["value"] == pytest.approx(0.3)
    assert all(r["ok"] is not False for r in rows.values())
    found |= {"pictures": [*np.arange(0, 7, 0.04), *np.arange(9.8, 10, 0.04), *np.arange(13.5, 20, 0.04)], "by_reports": [0.1, 0.09]}
    missed = [r["what"] for r in bad_network.network_figures(found, 10.0, 11.0, False) if r["ok"] is False]
    assert len(missed) == 5, missed


def test_a_voice_is_found_where_it_is_and_not_where_it_is_not() -> None:
    mine, other = phrase(1.6), other_voice(phrase(1.6, 3.5))
    sound = np.r_[np.zeros(9000, np.float32), mine, np.zeros(9000, np.float32)]
    sound += np.random.default_rng(0).normal(0, 0.005, len(sound)).astype(np.float32)
    assert two_sessions.best_match(mine, sound) > 0.9
    assert two_sessions.best_match(other, sound) - two_sessions.best_match(mine[::-1].copy(), sound) < two_sessions.MAX_OTHER
    both = sound + np.r_[np.zeros(20000, np.float32), other, np.zeros(len(sound), np.float32)][: len(sound)]
    assert two_sessions.best_match(other, both) > 0.4


def test_lips_that_jerk_are_told_from_smooth_ones() -> None:
    at = np.arange(200) / 25
    smooth = np.sin(2 * np.pi * 2 * at)
    assert look_ahead.jerkiness(np.round(smooth * 2) / 2) > 1.3 * look_ahead.jerkiness(smooth)


def test_parts_are_checked() -> None:
    with pytest.raises(InputError, match="bench live has latency, bargein"):
        live.run(part=["latency", "speed"])


@pytest.mark.skipif(bool(missing()), reason=f"a wire between namespaces {missing()}")
def test_a_wire_delays_loses_and_is_silent() -> None:
    code = "import socket,sys\ns=socket.socket(2,2)\ns.bind((sys.argv[1],5151))\nprint('up',flush=True)\n" \
        "while 1:\n d,a=s.recvfrom(99)\n s.sendto(d,a)"
    ask = "import socket,sys,time\ns=socket.socket(2,2)\ns.settimeout(0.4)\nfor i in range(int(sys.argv[2])):\n t=time.monotonic()\n" \
        " s.sendto(b'x',(sys.argv[1],5151))\n try:\n  s.recv(9)\n  print(time.monotonic()-t)\n except TimeoutError: print(-1)"
    with Wire(WireConfig(delay_s=0.05, jitter_s=0.01, loss=0.0)) as wire:
        echo = subprocess.Popen([*wire.prefixes[0], sys.executable, "-c", code, ADDRESSES[0]], stdout=subprocess.PIPE)
        try:
            assert echo.stdout is not None and echo.stdout.readline() == b"up\n"

            def asked(count: int) -> list[float]:
                command = [*wire.prefixes[1], sys.executable, "-c", ask, ADDRESSES[0], str(count)]
                return [float(x) for x in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]

            assert all(0.08 <= t <= 0.3 for t in asked(4))
            wire.silent = True
            assert asked(1) == [-1]
            wire.silent = False
            assert asked(1)[0] > 0
        finally:
            echo.kill()
            echo.wait()
            echo.stdout.close()  # type: ignore[union-attr]


def test_one_answer_in_a_burst_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "IDLE", 15)
    rows = {r["what"]: r["value"] for r in latency.latency_rows(None, "cpu", trials=1, size=96)}
    for way in latency.BARS:
        assert 0.0 < rows[f"{way}: first sound pushed to first lip of it handed out, p50"] < 20
    assert rows["in a burst: trials in which the mouth moved"] == 1


def test_a_watched_server_says_what_it_holds_and_what_happens() -> None:
    with Served("--size", "96", "--device", "cpu") as server:
        held = server.held()
        assert held.threads >= 1 and held.sockets >= 1 and held.rss_mb > 50 and server.events() == []
        with socket.create_connection(("127.0.0.1", int(server.address.rsplit(":", 1)[1]))):
            until = time.monotonic() + 10
            while server.held().sockets == held.sockets and time.monotonic() < until:
                time.sleep(0.02)
            assert server.held().sockets == held.sockets + 1
    assert not server.alive()


@pytest.mark.slow
def test_small_runs_with_real_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {r["what"]: r for r in bad_input.badinput_rows(None, "cpu", share=0.05)}
    assert all(r["ok"] is not False for r in rows.values()), rows
    monkeypatch.setattr(connects, "WARM_UP", 2)
    rows = {r["what"]: r for r in connects.connect_rows(None, "cpu", share=0.01)}
    for what in ("sockets after them, more than before", "files after them, more than before", "a lost peer is freed, worst"):
        assert rows[what]["ok"], rows[what]
    monkeypatch.setattr(bargein, "SIZE", 96)
    assert {r["what"]: r["value"] for r in bargein.bargein_rows(None, "cpu", trials=1)}["barge-in: trials that could be measured"] == 1


@pytest.mark.slow
def test_a_small_table_of_look_ahead(held_corpus: Path, tmp_path: Path) -> None:
    rows = look_ahead.look_ahead_rows(None, "cpu", pairs=1, seconds=4.0, out=tmp_path, points=[(1, 0)])
    assert {r["what"] for r in rows} >= {"chunk 1, look-ahead 0: p, b, m closed"}
    assert "| 1, 0 | 0.16 s |" in (tmp_path / "look_ahead.md").read_text()
