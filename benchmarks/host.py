"""The main job inside a real ComfyUI with previews on: the shipped graph, driven over HTTP and WebSocket as a browser does.

Boots the host (`COMFYUI_PATH`, or what `make host` installed), queues workflows/api/portrait.json with a minute of the
bundled speech, previews as fast as they come, then the mp4. First with cold caches, then with another seed.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._common import ROOT, Result, demo_portrait, result, say, speech_of, write_wav
from parity.host import HostMissing
from tm_core.errors import InputError

SECONDS = 60.0
MAX_RTF = 1.0
IMAGE, AUDIO, SAMPLER, PREVIEW, SAVE = "2", "3", "7", "9", "10"  # nodes of the shipped graph
SHARE = 0.9  # of the previews that eight a second make; the host drops some when the browser is slow


def run(*, seconds: float | None = None) -> list[Result]:
    """Figures of one job in a host that was just started and of one in a warm host."""
    length = seconds or SECONDS
    from parity.comfyui import Host  # it needs requests and websocket, which the other benches do not

    with tempfile.TemporaryDirectory(prefix="tm-bench-") as folder:
        try:
            host = Host(Path(folder))
        except HostMissing as missing:
            raise InputError("host", ".host", str(missing), "run `make host`") from missing
        say("starting ComfyUI")
        with host:
            graph = _graph(host, Path(folder), length)
            results = _one(host, graph, length, "first job of the host")
            graph[SAMPLER]["inputs"]["seed"] += 1
            return results + _one(host, graph, length, "warm", bars=True)


def _graph(host: Any, folder: Path, length: float) -> dict[str, Any]:
    graph: dict[str, Any] = json.loads((ROOT / "workflows" / "api" / "portrait.json").read_text())
    graph[IMAGE]["inputs"]["image"] = host.upload(demo_portrait())
    graph[AUDIO]["inputs"]["audio"] = host.upload(write_wav(folder / "speech.wav", speech_of(length)))
    graph[PREVIEW]["inputs"]["real_time"] = False
    return graph


def _one(host: Any, graph: dict[str, Any], length: float, when: str, *, bars: bool = False) -> list[Result]:
    say(f"{when}: {length:g} s of sound")
    began = time.monotonic()
    job = host.run(graph, timeout_s=20 * length + 120)
    if job.status != "success":
        raise RuntimeError(f"the job failed: {job.error}\n{host.log()}")
    ends = [e.t_s for e in job.of("executing")]
    start = next(e.t_s for e in job.of("executing") if e.data.get("node") == PREVIEW)
    after = next(t for t in ends if t > start)  # the next node's turn: the preview has seen the last frame
    wall, watched = ends[-1] - began, after - began
    wanted = SHARE * length * graph[PREVIEW]["inputs"]["preview_fps"]
    shown = [e for e in job.previews if start <= e.t_s <= after]
    bar = (lambda limit, value: (f"<= {limit:g}", value <= limit)) if bars else (lambda *_: (None, None))
    return [
        result(f"{when}: all previews shown, over video length", watched / length, "x", *bar(MAX_RTF, watched / length)),
        result(f"{when}: previews and mp4, over video length", wall / length, "x", *bar(MAX_RTF, wall / length)),
        result(f"{when}: first picture in the browser after queueing", job.previews[0].t_s - began, "s"),
        result(f"{when}: previews received", len(shown), "pictures", f">= {wanted:g}", len(shown) >= wanted),
        result(f"{when}: server memory", host.rss_mb(), "MB"),
    ]
