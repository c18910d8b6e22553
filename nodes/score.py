"""TM_ScoreVideo: how well lips and sound of a video go together, and who of several faces speaks.

A stream is pulled chunk by chunk and a file is read frame by frame: no more than a second of video is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..tm_core import talk
from ..tm_core.compose.canvas import ComposedStream, FrameStream
from ..tm_core.errors import InputError
from ..tm_core.media.audio_io import Waveform, read_audio, resample
from ..tm_core.media.video_reader import VideoReader, probe
from ..tm_core.metrics.report import report_of
from ..tm_core.metrics.video_score import score_video
from ..tm_core.streaming.handles import DecodedStream
from . import sinks, wires
from .host import pictures, results, running, sound
from .host.schemas import field, io, schema

NO_SPEAKER = -1


@dataclass(frozen=True, kw_only=True)
class Footage:
    """Frames (H, W, 3) uint8 one by one, how many about, their rate and their own sound (n,) at 16 kHz or None."""

    frames: Iterator[np.ndarray]
    count: int
    fps: float
    samples: np.ndarray | None


class ScoreVideo(io.ComfyNode):
    """Scores the lip sync of every face."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_ScoreVideo."""
        return schema(
            node_id="TM_ScoreVideo",
            display_name="Score Lip Sync",
            description="Measures how well lips follow the sound, for every face of a video, and says who speaks. "
            "Works on any video, whatever made it.",
            is_output_node=True,
            inputs=[
                io.MultiType.Input(
                    "video", types=[io.Image, io.Video, wires.FrameStream],
                    tooltip="What to judge: images, a video or a frame stream."),
                field(
                    io.Audio, "audio", optional=True,
                    tooltip="The sound to compare with. Unconnected: the one of the video or of the stream. Images have none."),
                field(
                    io.Float, "fps", default=25.0, min=1.0, max=240.0, step=0.01, optional=True,
                    tooltip="Images only: how many are shown in a second. Videos and streams know theirs."),
                field(
                    io.Float, "seconds", default=30.0, min=0.0, max=86400.0, step=1.0, optional=True, advanced=True,
                    tooltip="How much of the video is judged by SyncNet, which is slow on a CPU. 0: all of it."),
            ],
            outputs=[
                io.String.Output("report", display_name="report", tooltip="All of it in words, a line for each face."),
                io.Float.Output("sync_c", display_name="Sync-C", tooltip="Confidence of the speaking face; higher is better."),
                io.Float.Output("sync_d", display_name="Sync-D", tooltip="Distance between its lips and the sound; lower is better."),
                io.Int.Output("offset", display_name="offset", tooltip="Frames by which the picture is late; negative: early."),
                io.Int.Output("speaker", display_name="speaker", tooltip="Number of the face that speaks, as in the report; -1: none."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, video: Any, audio: Any = None, fps: float = 25.0, seconds: float = 30.0) -> Any:
        """Measure; InputError for a video without a face, or without a sound to compare with."""
        samples = None if audio is None else heard(audio)
        with ExitStack() as stack:
            footage = footage_of(video, fps, stack)
            own = samples if samples is not None else footage.samples
            if own is None:
                raise InputError("audio", "nothing", "there is no sound to compare the lips with", "connect the sound of this video")
            score = score_video(watched(footage), footage.fps, own, mesh=talk.face_mesh(), seconds=seconds or None)
        text, face = report_of(score), shown_face(score)
        running.tell(cls.hidden.unique_id, text)
        return io.NodeOutput(text, *numbers(face), NO_SPEAKER if score["speaker"] is None else score["speaker"], ui={"text": [text]})


def heard(audio: Any) -> np.ndarray:
    """An AUDIO at 16 kHz."""
    channels, rate = sound.waveform_of(audio)
    return resample(channels.numpy(), rate).samples


def footage_of(video: Any, fps: float, stack: ExitStack) -> Footage:
    """What is connected, as frames; `stack` closes what it opens. InputError for anything else."""
    if isinstance(video, DecodedStream | ComposedStream):
        return _stream(video, stack)
    if isinstance(video, Tensor):
        return _images(video, fps)
    path = results.file_of(video)
    return _parts(video) if path is None else _file(path, stack)


def _stream(stream: FrameStream, stack: ExitStack) -> Footage:
    kept = sound.present(stream.meta.audio)
    waveform = resample(kept.samples, kept.sample_rate) if isinstance(kept, Waveform) else read_audio(kept)
    chunks = stack.enter_context(sinks.pulled(stream))
    frames = (frame for chunk in chunks for frame in chunk.frames)
    return Footage(frames=frames, count=stream.meta.total_frames, fps=float(stream.meta.fps), samples=waveform.samples)


def _images(images: Tensor, fps: float, samples: np.ndarray | None = None) -> Footage:
    frames = (pictures.picture_of(images[i : i + 1], "video") for i in range(len(images)))
    return Footage(frames=frames, count=len(images), fps=fps, samples=samples)


def _file(path: Path, stack: ExitStack) -> Footage:
    count = probe(path).frames
    reader = stack.enter_context(VideoReader(path))
    samples = read_audio(path, origin=reader.start_s, field="video").samples if reader.has_sound else None
    return Footage(frames=reader.pictures(), count=count, fps=float(reader.fps), samples=samples)


def _parts(video: Any) -> Footage:
    """A VIDEO that is no file, or a part of one: the host holds its frames."""
    if not hasattr(video, "get_components"):
        raise InputError("video", type(video).__name__, "is no video", "connect images, a video or a frame stream")
    parts = video.get_components()
    return _images(parts.images, float(parts.frame_rate), None if parts.audio is None else heard(parts.audio))


def watched(footage: Footage) -> Iterator[np.ndarray]:
    """The frames, with progress and the host's interrupt."""
    progress = running.Progress(max(footage.count, 1))
    for frame in footage.frames:
        progress.advance(1)
        yield frame


def shown_face(score: dict[str, Any]) -> dict[str, Any]:
    """The face that speaks, or the one that comes nearest to it."""
    faces: list[dict[str, Any]] = score["faces"]
    return faces[score["speaker"]] if score["speaker"] is not None else max(faces, key=lambda face: face["confidence"] or 0.0)


def numbers(face: dict[str, Any]) -> tuple[float, float, int]:
    """Sync-C, Sync-D and offset; InputError where the video is too short to have them."""
    if face["sync_c"] is None:
        seen = f"{face['judged_s']:.2f} s of a face"
        raise InputError("video", seen, "too short to judge", "give at least 1.2 s of a face with its sound")
    return float(face["sync_c"]), float(face["sync_d"]), int(face["offset_frames"])
