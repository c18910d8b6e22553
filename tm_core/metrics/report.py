"""The score of a video in words: a line for each face, then who speaks when. Non-goals: measuring (video_score.py)."""

from __future__ import annotations

from typing import Any


def report_of(score: dict[str, Any]) -> str:
    """Lines for people of what `score_video` returns."""
    faces, speaker = score["faces"], score["speaker"]
    count = "1 face" if len(faces) == 1 else f"{len(faces)} faces"
    lines = [f"{count}, {score['video_s']:.1f} s, {score['width']}x{score['height']} at {score['fps']:g} frames/s"]
    lines += [_face(face) for face in faces]
    if score["faces"] and any(face["sync_c"] is not None for face in faces):
        lines.append("speaker: none, no lips follow the sound" if speaker is None else f"speaker: face {speaker}")
    if len(faces) > 1:
        lines += [_segment(segment) for segment in score["segments"]]
    return "\n".join(lines + [f"note: {note}" for note in score["notes"]])


def _face(face: dict[str, Any]) -> str:
    x = (face["box"][0] + face["box"][2]) / 2
    y = (face["box"][1] + face["box"][3]) / 2
    where = f"face {face['face']} at ({x:.0f}, {y:.0f})"
    if face["sync_c"] is None:
        return f"{where}: not judged"
    lips = "" if face["lip_r"] is None else f", lips r {face['lip_r']:.2f}"
    offset = face["offset_frames"]
    late = "in time" if offset == 0 else f"picture {abs(offset)} frames {'late' if offset > 0 else 'early'}"
    return f"{where}: Sync-C {face['sync_c']:.2f}, Sync-D {face['sync_d']:.2f}, {late}{lips}"


def _segment(segment: dict[str, Any]) -> str:
    who = "nobody seen" if segment["face"] is None else f"face {segment['face']}"
    return f"{segment['start_s']:.1f}-{segment['end_s']:.1f} s: {who}"
