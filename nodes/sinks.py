"""TM_PreviewStream, TM_SaveStream and TM_CollectFrames: the nodes that pull, one chunk in memory at a time.

A second sink on a stream decodes it again but samples nothing twice. Interrupts are looked for on the
executing thread while it waits; raising there stops both workers, which are gone when the node returns.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from typing import Any

import torch

from ..tm_core.compose.canvas import ComposedStream, FrameStream
from ..tm_core.errors import InputError
from ..tm_core.media.video_io import VideoWriter
from ..tm_core.streaming.handles import DecodedStream, LatentStream
from ..tm_core.streaming.pipeline import FrameChunk
from . import wires
from .host import devices, folders, pictures, results, running, sound, states
from .host.schemas import field, io, schema

NAP_S = 0.02
MEMORY_SHARE = 0.8  # of what is free; the rest is for the nodes that follow


def pulled(frames: FrameStream) -> AbstractContextManager[Iterator[FrameChunk]]:
    """Every chunk of a stream; both workers have ended when the context is left, however it is left."""
    states.watch(latents_of(frames))
    return closing(frames.chunks(poll=running.check_interrupt))


def latents_of(frames: FrameStream) -> Iterator[LatentStream]:
    """What a stream is sampled from, of all layers where it is composed."""
    if isinstance(frames, DecodedStream):
        yield frames.latents
    elif isinstance(frames, ComposedStream):
        for layer in frames.layers:
            yield from latents_of(layer.frames)


class PreviewStream(io.ComfyNode):
    """Shows a stream while it is made."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_PreviewStream."""
        return schema(
            node_id="TM_PreviewStream",
            display_name="Preview Stream",
            description="Shows frames on the node while the rest is still being generated. Keeps none.",
            is_output_node=True,
            inputs=[
                field(wires.FrameStream, "frames", tooltip="The stream to watch."),
                field(
                    io.Int, "preview_fps", default=8, min=1, max=25,
                    tooltip="Pictures sent to the browser for each second of video."),
                field(
                    io.Boolean, "real_time", default=True, label_on="speed of the video", label_off="as fast as possible",
                    tooltip="Show frames no faster than the video plays. Off: as soon as they are there."),
            ],
            outputs=[
                wires.FrameStream.Output(
                    "stream", display_name="frame stream", tooltip="The same stream: what is connected here runs after the preview."),
            ],
        )

    @classmethod
    def execute(cls, frames: DecodedStream, preview_fps: int, real_time: bool) -> Any:
        """Pull everything, show some."""
        fps, progress = float(frames.meta.fps), running.Progress(frames.meta.total_frames)
        stride, clock, last = max(1, round(fps / preview_fps)), _Clock(fps), None
        with pulled(frames) as chunks:
            for chunk in chunks:
                last, behind = chunk.frames[-1], 0
                for number, frame in enumerate(chunk.frames, chunk.pts):
                    behind += 1
                    if number % stride:
                        continue
                    if real_time:
                        clock.wait_for(number)
                    progress.advance(behind, frame)
                    behind = 0
                progress.advance(behind)
        return io.NodeOutput(frames, ui=None if last is None else results.shown_picture(last))


class _Clock:
    """Holds frames back until their time; a stream that is late does not hurry afterwards."""

    def __init__(self, fps: float) -> None:
        self._fps, self._start = fps, time.monotonic()

    def wait_for(self, frame: int) -> None:
        """Sleep until `frame` is due, looking for interrupts."""
        late = time.monotonic() - (self._start + frame / self._fps)
        if late > 0:
            self._start += late
        while (left := self._start + frame / self._fps - time.monotonic()) > 0:
            running.check_interrupt()
            time.sleep(min(left, NAP_S))


class SaveStream(io.ComfyNode):
    """Writes a stream to an mp4 while it is made."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_SaveStream."""
        return schema(
            node_id="TM_SaveStream",
            display_name="Save Stream",
            description="Writes frames and sound to an mp4 (H.264, AAC) in the output folder while they are generated. "
            "Memory does not grow with the length of the video. A job that is stopped leaves no file.",
            is_output_node=True,
            inputs=[
                field(wires.FrameStream, "frames", tooltip="The stream to save."),
                field(
                    io.String, "filename_prefix", default="video/talking",
                    tooltip="Name of the file in the output folder; a number is added. %year%, %month%, %day% and the like are filled in."),
            ],
            outputs=[io.Video.Output("video", display_name="video", tooltip="The saved file, for nodes that take a video.")],
        )

    @classmethod
    def execute(cls, frames: DecodedStream, filename_prefix: str) -> Any:
        """Pull everything into a file; InputError where it cannot be written."""
        meta, progress = frames.meta, running.Progress(frames.meta.total_frames)
        path, subfolder = folders.output_file(filename_prefix, ".mp4", meta.width, meta.height)
        writing = VideoWriter(
            path, meta.width, meta.height, meta.fps, audio=sound.present(meta.audio), metadata=results.graph_metadata(cls.hidden))
        with writing as writer, pulled(frames) as chunks:
            for chunk in chunks:
                writer.write(chunk.frames)
                progress.advance(len(chunk.frames), chunk.frames[-1])
        return io.NodeOutput(results.video_of(path), ui=results.saved_video(path, subfolder))


class CollectFrames(io.ComfyNode):
    """All frames of a stream as one IMAGE batch."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_CollectFrames."""
        return schema(
            node_id="TM_CollectFrames",
            display_name="Collect Frames",
            description="Gathers every frame in memory for nodes that take images. Says beforehand how much memory that needs "
            "and refuses when it is not there; to keep long videos use Save Stream.",
            inputs=[field(wires.FrameStream, "frames", tooltip="The stream to gather.")],
            outputs=[
                io.Image.Output("images", display_name="images", tooltip="Every frame."),
                io.Audio.Output("audio", display_name="audio", tooltip="The sound the frames belong to, as it came in."),
                io.Float.Output("fps", display_name="fps", tooltip="Frames per second."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, frames: DecodedStream) -> Any:
        """Pull everything into one tensor; InputError when it would not fit."""
        meta, progress = frames.meta, running.Progress(frames.meta.total_frames)
        require_memory(meta.collected_bytes, meta.total_frames, devices.free_memory(), cls.hidden.unique_id)
        images = torch.empty(meta.total_frames, meta.height, meta.width, 3)
        with pulled(frames) as chunks:
            for chunk in chunks:
                images[chunk.pts : chunk.pts + len(chunk.frames)] = pictures.image_of(chunk.frames)
                progress.advance(len(chunk.frames), chunk.frames[-1])
        return io.NodeOutput(images, sound.audio_of(meta.audio), float(meta.fps))


def require_memory(needed: int, num_frames: int, free: int, node_id: str | None) -> None:
    """Say what collecting takes; InputError when that is more than may be used."""
    running.tell(node_id, f"{num_frames} frames need {needed / 2**30:.2f} GiB of memory, {free / 2**30:.1f} GiB are free")
    if needed > MEMORY_SHARE * free:
        raise InputError(
            "frames", f"{num_frames} frames need {needed / 2**30:.2f} GiB", f"only {free / 2**30:.1f} GiB of memory are free",
            "use Save Stream, which needs none, or a shorter sound")
