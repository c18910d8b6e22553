"""Who speaks: arithmetic on made distances, and the judge's distances against the whole-clip ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.metrics.conftest import FPS, Clip
from tm_core.face.mesh import FaceMesh
from tm_core.metrics.active_speaker import as_json, assigned, speakers
from tm_core.metrics.face_distances import FaceDistances, SoundEmbeddings, SyncDistanceMeter, source_of, ticks_of
from tm_core.metrics.face_follower import FaceFollower, FaceRun
from tm_core.metrics.report import report_of
from tm_core.metrics.syncnet import REACH, SyncNet, crops_of, distances, embeddings, mfcc
from tm_core.metrics.video_score import score_video

LAGS = 2 * REACH + 1
TONE = (0.3 * np.sin(np.arange(16000 * 10) / 20)).astype(np.float32)


def made(number: int, depths: list[np.ndarray], lag: int = 0, seed: int = 0) -> FaceDistances:
    """A face whose distances (N, L) to each sound dip by `depths` (N,) at a lag."""
    rng = np.random.default_rng(seed + number)
    rows = np.stack([10 + 0.3 * rng.standard_normal((len(d), LAGS)) for d in depths], 1)
    for a, depth in enumerate(depths):
        rows[:, a, REACH + lag] -= depth
    face = FaceDistances(number=number, at=list(range(len(depths[0]))), rows=list(rows.astype(np.float32)))
    face.gap = dict.fromkeys(range(len(depths[0]) + 4), 0.05)
    return face


def test_the_face_that_follows_the_sound_speaks() -> None:
    found = speakers([made(0, [np.zeros(240)]), made(1, [np.full(240, 1.5)], lag=-4)], [TONE], 25.0)
    assert found.speaker == 1
    score = found.scores[1][0]
    assert score is not None and score.offset_frames == 4 and 1.2 < score.sync_c < 1.8
    assert {s.face for s in found.segments} == {1} and found.segments[-1].end_s > 8


def test_lips_that_follow_nothing_are_nobody_speaking() -> None:
    found = speakers([made(0, [np.zeros(240)]), made(1, [np.zeros(240)])], [TONE], 25.0)
    assert found.speaker is None and found.segments == []


def test_turns_in_a_conversation() -> None:
    first = np.arange(240) < 120
    found = speakers([made(0, [2.0 * first]), made(1, [2.0 * ~first])], [TONE], 25.0)
    assert [s.face for s in found.segments] == [0, 1]
    assert abs(found.segments[0].end_s - 4.8) <= 1.2 and found.segments[1].end_s > 8


def test_no_one_speaks_in_a_pause() -> None:
    sound = TONE * np.repeat([1.0, 0.0], 80000).astype(np.float32)
    found = speakers([made(0, [np.full(240, 2.0)])], [sound], 25.0)
    assert found.segments[-1].end_s <= 5.6


def test_each_of_several_sounds_goes_to_one_face() -> None:
    zero, deep = np.zeros(240), np.full(240, 1.5)
    found = speakers([made(0, [zero, deep]), made(1, [deep, zero]), made(2, [zero, zero])], [TONE, TONE], 25.0)
    assert found.sound_of == [1, 0, None]
    faces = as_json([made(0, [zero, deep])], speakers([made(0, [zero, deep])], [TONE, TONE], 25.0), 25.0)
    assert faces[0]["audio"] == 1 and len(faces[0]["audios"]) == 2 and json.loads(json.dumps(faces)) == faces


def test_lips_decide_where_syncnet_cannot() -> None:
    rng = np.random.default_rng(1)
    opening = np.abs(np.convolve(rng.standard_normal(260), np.ones(5) / 5, "same"))
    faces = [made(0, [np.zeros(240)]), made(1, [np.zeros(240)])]
    faces[0].gap = {i: 0.05 + 0.01 * float(v) for i, v in enumerate(rng.random(244))}
    faces[1].gap = {i + 3: 0.05 + 0.1 * float(v) for i, v in enumerate(opening[:241])}  # three frames late
    found = speakers(faces, [TONE], 25.0, [opening])
    score = found.scores[1][0]
    assert score is not None and score.offset_frames == 3 and score.lip_r is not None and score.lip_r > 0.8
    other = found.scores[0][0]
    assert other is not None and other.confidence < score.confidence


def test_a_second_of_a_face_is_the_least() -> None:
    assert speakers([made(0, [np.full(20, 2.0)])], [TONE], 25.0).scores == [[None]]
    assert assigned([[None]]) == [None] and assigned([]) == []


def test_sounds_are_heard_in_pieces_as_in_one() -> None:
    torch.manual_seed(0)
    net, sound = SyncNet().eval(), np.random.default_rng(0).standard_normal(16000 * 4).astype(np.float32) * 0.1
    heard = SoundEmbeddings(net, sound)
    rows = torch.from_numpy(mfcc(sound))
    with torch.no_grad():
        whole = net.embed_audio(torch.stack([rows[4 * i : 4 * i + 20].T for i in range(heard.count)])[:, None])
    assert heard.count > 64  # more than one piece
    assert torch.allclose(heard[0 : heard.count], whole, atol=1e-4)


@pytest.mark.parametrize("fps", [24.0, 25.0, 29.97, 60.0])
def test_every_tick_belongs_to_one_block(fps: float) -> None:
    parts = [ticks_of(start, start + 32, fps) for start in range(0, 320, 32)]
    ticks = np.concatenate(parts)
    assert np.array_equal(ticks, np.arange(len(ticks))) and abs(len(ticks) - 320 / fps * 25) <= 1
    assert all((source_of(part, fps) // 32 == i).all() for i, part in enumerate(parts))


def test_distances_of_a_followed_face_are_those_of_the_clip(clip: Clip, mesh: FaceMesh) -> None:
    """Two blocks, one face: the mean over windows is what `distances` makes of the whole clip."""
    torch.manual_seed(0)
    net, frames, sound = SyncNet().eval(), clip.frames[:40], clip.samples[: 40 * 640 + 400]
    follower, meter, hint, crops = FaceFollower(mesh, FPS), SyncDistanceMeter(net, [sound], FPS), None, []
    for part in (frames[:20], frames[20:]):
        main = mesh.landmarks_batch(part, hint)
        hint = main[-1]
        crops.append(crops_of(part, main))
        meter.push(part, follower.push(part, main))
    assert len(meter.faces) == 1 and meter.faces[0].at == list(range(36))
    mine = np.nanmean(meter.faces[0].distances[:, 0], 0)
    assert mine == pytest.approx(distances(*embeddings(net, torch.cat(crops), sound, FPS)), rel=1e-4)


def test_a_gap_in_a_face_joins_no_windows(clip: Clip, mesh: FaceMesh) -> None:
    torch.manual_seed(0)
    meter = SyncDistanceMeter(SyncNet().eval(), [clip.samples], FPS)
    landmarks = mesh.landmarks_batch(clip.frames[:16])
    meter.push(clip.frames[:16], [FaceRun(face=0, start=0, landmarks=landmarks[:6]), FaceRun(face=0, start=10, landmarks=landmarks[10:])])
    assert meter.faces[0].at == [0, 1, 10, 11]


@pytest.mark.slow
def test_two_faces_in_one_picture(clip: Clip, mesh: FaceMesh) -> None:
    """The clip beside its first frame, which never moves: the moving one speaks."""
    still = np.repeat(clip.frames[:1], 75, 0)
    report = score_video(iter(np.concatenate([still, clip.frames[:75]], 2)), FPS, clip.samples[: 3 * 16000], mesh=mesh)
    assert [round(sum(f["box"][::2]) / 2 / 128 - 0.5) for f in report["faces"]] == [0, 1]
    assert report["speaker"] == 1 and abs(report["faces"][1]["offset_frames"]) <= 1
    assert "speaker: face 1" in report_of(report) and json.loads(json.dumps(report)) == report
