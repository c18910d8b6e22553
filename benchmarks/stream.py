"""Speed, first frame, time between chunks, hidden decoding and length of the main job.

Runs `animate` on the bundled portrait and speech, cut or repeated to 0.3, 1, 7.77 and 73 s, and compares
the length of what it wrote with the sound. The first run of all is a process of its own (cold). Then the sizes that people use:
the same face at 512 px in a picture of 1024 px, and the square of 512 px without an mp4, as a live stream has it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks._common import ROOT, Result, demo_portrait, load, result, say, speech_of, write_wav
from tm_core import talk
from tm_core.cli.video_job import write_video
from tm_core.media import probe
from tm_core.media.image_io import open_image
from tm_core.options import AnimateOptions
from tm_core.weights.loading import TalkingModel

DURATIONS_S = (0.3, 1.0, 7.77, 73.0)
MAX_RTF, MAX_TTFF_S = 0.8, 1.5
PICTURE_PX, FACE_PX, SIZED_S = 1024, 512, 15.0  # the larger jobs
MAX_PICTURE_RTF, MAX_SQUARE_RTF, MAX_SIZED_TTFF_S = 0.8, 0.6, 0.6


def run(*, weights: Path | None = None, device: str = "auto", seconds: float | None = None) -> list[Result]:
    """Figures of every duration; `seconds` replaces the longest."""
    durations = [*DURATIONS_S[:-1], seconds or DURATIONS_S[-1]]
    with tempfile.TemporaryDirectory(prefix="tm-bench-") as folder:
        results = _cold(Path(folder), weights, device)
        model = load(weights, device)
        for duration in durations:
            results += _one(Path(folder), model, duration, long=duration == durations[-1])
        return results + _sized(Path(folder), model, min(SIZED_S, durations[-1]))


def large_picture(model: TalkingModel) -> np.ndarray:
    """The bundled portrait in the middle of a picture of PICTURE_PX, its edge repeated outwards, the face's crop FACE_PX wide."""
    picture = open_image(demo_portrait())
    box = talk.prepare_portrait(picture, model.config).crop.box
    scale = FACE_PX / (box[2] - box[0])
    small = round(PICTURE_PX / scale)
    room = [(max(0, small - n) // 2, max(0, small - n + 1) // 2) for n in picture.shape[:2]]
    wide = np.pad(picture, [*room, (0, 0)], mode="edge")
    return np.asarray(Image.fromarray(wide).resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BICUBIC))


def _sized(folder: Path, model: TalkingModel, duration: float) -> list[Result]:
    say(f"a face of {FACE_PX} px, {duration:g} s of sound")
    image, sound = folder / "large.png", write_wav(folder / "large.wav", speech_of(duration))
    Image.fromarray(large_picture(model)).save(image)
    started = time.monotonic()
    frames = talk.animate(image, sound, model=model)
    metrics = frames.new_metrics(started=started)
    write_video(frames, folder / "large.mp4", metrics, quiet=True)
    whole, first = (time.monotonic() - started) / duration, metrics.report()["ttff_s"]
    name, square = f"{FACE_PX} px face in a picture of {PICTURE_PX} px", AnimateOptions(framing="face", size=FACE_PX)
    started = time.monotonic()
    frames = talk.animate(demo_portrait(), sound, model=model, options=square)
    for _ in frames.chunks():
        pass
    without = (time.monotonic() - started) / duration
    return [
        result(f"{name}, mp4 included, over video length", whole, "x", f"<= {MAX_PICTURE_RTF:g}", whole <= MAX_PICTURE_RTF),
        result(f"{name}: time to first frame, warm", first, "s", f"<= {MAX_SIZED_TTFF_S:g}", first <= MAX_SIZED_TTFF_S),
        result(f"square of {FACE_PX} px without mp4, over video length", without, "x", f"<= {MAX_SQUARE_RTF:g}", without <= MAX_SQUARE_RTF),
    ]


def _cold(folder: Path, weights: Path | None, device: str) -> list[Result]:
    say("cold start: a process of its own, 1 s of sound")
    out = folder / "cold.mp4"
    command = [
        sys.executable, "-m", "tm_core.cli", "animate", "--image", str(demo_portrait()), "--audio",
        str(write_wav(folder / "cold.wav", speech_of(1.0))), "--out", str(out), "--device", device, "--quiet",
        *(["--weights", str(weights)] if weights else []),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout.splitlines()[-1])
    return [result("time to first frame, cold (process start to first frame)", report["ttff_s"], "s")]


def _one(folder: Path, model: TalkingModel, duration: float, *, long: bool) -> list[Result]:
    say(f"{duration:g} s of sound")
    out = folder / f"{duration:g}.mp4"
    sound = write_wav(folder / f"{duration:g}.wav", speech_of(duration))
    started = time.monotonic()
    frames = talk.animate(demo_portrait(), sound, model=model)
    metrics = frames.new_metrics(started=started)
    write_video(frames, out, metrics, quiet=True)
    wall = time.monotonic() - started
    tracks, meta = probe(out), frames.meta
    difference = abs(tracks.video_s - duration)
    results = [
        result(f"{duration:g} s: video minus audio", difference, "s", f"<= {1 / float(meta.fps):g}", difference <= 1 / meta.fps + 1e-6)]
    if long:
        report = metrics.report()
        results += [
            result("time to first frame, warm (from files)", report["ttff_s"], "s", f"<= {MAX_TTFF_S:g}", report["ttff_s"] <= MAX_TTFF_S),
            result("whole job over video length", wall / duration, "x", f"<= {MAX_RTF:g}", wall / duration <= MAX_RTF),
            result("picture", f"{meta.width}x{meta.height}", "px", ">= 128", min(meta.width, meta.height) >= 128),
            *(result(f"time between chunks {k}", v, "s", f"chunk is {meta.chunk_s:g}") for k, v in report["ttbc_s"].items()),
            result("frames per second", report["generation_fps"], "1/s", f"video has {float(meta.fps):g}"),
            result("decoding hidden behind denoising", report["decode_hidden"], "share"),
            result("denoising", report["denoise_s"] / meta.num_chunks, "s a chunk"),
            result("decoding", report["decode_s"] / meta.num_chunks, "s a chunk"),
            result("peak memory", report["peak_rss_mb"], "MB"),
        ]
    return results
