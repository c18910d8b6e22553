"""ComfyUI's AUDIO against the engine's sound.

An AUDIO ({"waveform": (B, C, n) float, "sample_rate": int}) is written, all channels and the full rate, to a
wave file in the host's temporary folder, and the engine reads that file: so a node hears exactly what the
command line hears, a saved video carries the sound as it came, and hours of it need no second copy in memory.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkstemp
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from ...tm_core.errors import InputError

BLOCK = 1 << 16  # samples written at a time
GONE_REMEDY = "free the node cache (or change the audio node) and queue the graph again"
LAYOUTS = {1: "mono", 2: "stereo"}


def waveform_of(audio: Any) -> tuple[Tensor, int]:
    """(C, n) float32 in host memory and the sample rate; InputError for what holds no usable sound."""
    if audio is None:  # what the host's nodes hand over for a video without sound
        raise InputError("audio", "nothing", "there is no sound", "connect a sound, or a video that has one")
    waveform, rate = audio["waveform"], int(audio["sample_rate"])
    if waveform.ndim == 3 and waveform.shape[0] > 1:
        raise InputError("audio", f"batch of {waveform.shape[0]}", "one sound drives one video", "connect a single sound")
    if waveform.numel() == 0:
        raise InputError("audio", "0 samples", "holds no sound", "give at least one video frame of sound (0.04 s)")
    channels = waveform.detach().reshape(-1, waveform.shape[-1]).to("cpu", torch.float32)
    if rate < 1000:
        raise InputError("audio", f"{rate} Hz", "is no sample rate of a sound", "load the sound again with Load Audio")
    if not bool(torch.isfinite(channels).all()):
        raise InputError("audio", "samples", "are not all finite numbers", "load the sound again with Load Audio")
    return (channels if channels.shape[0] in LAYOUTS else channels.mean(dim=0, keepdim=True)), rate


def write_wave(channels: Tensor, rate: int, folder: Path) -> Path:
    """A new wave file of (C, n) float32 in 32-bit float, past 4 GB as well; nothing stays behind when it fails."""
    path = folder
    try:
        handle, name = mkstemp(prefix="tm_sound_", suffix=".wav", dir=folder)
        os.close(handle)
        path = Path(name)
        with av.open(name, "w", format="wav", options={"rf64": "auto"}) as container:
            stream = container.add_stream("pcm_f32le", rate=rate, layout=LAYOUTS[channels.shape[0]])
            for frame in _frames(channels, rate):
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except BaseException as error:
        if path != folder:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):  # av's errors are OSErrors too
            rule = f"the sound cannot be kept there ({error.strerror or error})"
            raise InputError("audio", folder, rule, "free some disk space") from error
        raise
    return path


def _frames(channels: Tensor, rate: int) -> Iterator[av.AudioFrame]:
    for start in range(0, channels.shape[1], BLOCK):
        block = channels[:, start : start + BLOCK].t().contiguous().numpy().reshape(1, -1)  # interleaved
        frame = av.AudioFrame.from_ndarray(block, format="flt", layout=LAYOUTS[channels.shape[0]])
        frame.sample_rate, frame.pts = rate, start
        yield frame


def remove_with(owner: object, path: Path) -> None:
    """Remove a file when nothing refers to `owner` any more, or the host ends."""
    weakref.finalize(owner, path.unlink, missing_ok=True)


def present(sound: Any) -> Any:
    """What a stream carries as its sound, still there; InputError where its file was removed."""
    if isinstance(sound, Path) and not sound.is_file():
        raise InputError("audio", sound.name, "the sound of this stream went away", GONE_REMEDY)
    return sound


def audio_of(sound: Any) -> dict[str, Any]:
    """AUDIO of what a stream carries: the wave file it was made from, or a waveform of the engine."""
    if isinstance(present(sound), Path):
        samples, rate = _read_wave(sound)
    else:
        samples, rate = np.atleast_2d(sound.samples), int(sound.sample_rate)
    return {"waveform": torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))[None], "sample_rate": rate}


def _read_wave(path: Path) -> tuple[np.ndarray, int]:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        channels, rate = stream.codec_context.channels, stream.codec_context.sample_rate
        blocks = [frame.to_ndarray().reshape(-1, channels) for frame in container.decode(stream)]
    return np.concatenate(blocks).T, rate
