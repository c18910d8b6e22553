"""Drive a real ComfyUI from outside: boot, upload, queue, listen, fetch, interrupt, stop, restart.

The server runs in the host's own environment (`.host/`, see scripts/install_host.py, or `COMFYUI_PATH` with
`COMFYUI_PYTHON`), with this repository as one of its custom nodes and every folder it writes to under a temporary
one. The test environment only speaks HTTP and WebSocket to it, as a browser does.

Tests get a running server from the `host` fixture of tests/host; benchmarks start their own.

Non-goals: anything about the nodes themselves; that is what the tests are for.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import websocket

from parity.host import ROOT, HostMissing, Installation

__all__ = ["Event", "Host", "HostError", "HostMissing", "Installation", "Job", "Listener"]

PACK = "talking-machines"  # folder name under custom_nodes; a hyphen, as users' folders often have
BOOT_TIMEOUT_S = 240.0  # two busy cores and cold files; 8 s when warm
SERVER_OPTIONS = ("--cpu", "--disable-auto-launch", "--disable-api-nodes", "--preview-method", "auto")
PREVIEW_IMAGE, PREVIEW_WITH_METADATA = 1, 4  # binary WebSocket messages, first four bytes, big endian


class HostError(Exception):
    """The server refused a request or died; carries what it said."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One WebSocket message: `kind` is ComfyUI's type, or "preview" with JPEG/PNG bytes in `image`."""

    kind: str
    data: dict[str, Any]
    image: bytes = b""
    t_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A finished (or failed, or interrupted) prompt: what was heard while it ran and what the history keeps."""

    prompt_id: str
    events: tuple[Event, ...]
    history: dict[str, Any]

    @property
    def status(self) -> str:
        """'success' or 'error' (an interrupted job is an 'error' to ComfyUI)."""
        return str(self.history["status"]["status_str"])

    @property
    def previews(self) -> tuple[Event, ...]:
        """Preview images, in the order they came."""
        return tuple(e for e in self.events if e.kind == "preview")

    def of(self, kind: str) -> tuple[Event, ...]:
        """Events of one kind."""
        return tuple(e for e in self.events if e.kind == kind)

    @property
    def error(self) -> str:
        """Message of the node that failed; empty when none did."""
        return next((str(e.data["exception_message"]) for e in self.events if e.kind == "execution_error"), "")

    def files(self, key: str | None = None) -> list[dict[str, str]]:
        """Files the output nodes name (filename, subfolder, type), optionally under one key (images, video, audio)."""
        entries = [(k, v) for out in self.history.get("outputs", {}).values() for k, values in out.items() for v in values]
        return [v for k, v in entries if isinstance(v, dict) and "filename" in v and key in (None, k)]


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def parse_message(raw: str | bytes) -> Event:
    """A WebSocket message of ComfyUI as an Event."""
    if isinstance(raw, str):
        message = json.loads(raw)
        return Event(kind=message["type"], data=message.get("data") or {})
    kind = int.from_bytes(raw[:4], "big")
    if kind == PREVIEW_IMAGE:
        return Event(kind="preview", data={"format": int.from_bytes(raw[4:8], "big")}, image=raw[8:])
    if kind == PREVIEW_WITH_METADATA:
        end = 8 + int.from_bytes(raw[4:8], "big")
        return Event(kind="preview", data=json.loads(raw[8:end]), image=raw[end:])
    return Event(kind=f"binary{kind}", data={}, image=raw[4:])


class Listener:
    """A WebSocket of one client; `events()` yields what arrives until the deadline."""

    def __init__(self, url: str) -> None:
        self._socket = websocket.create_connection(url, timeout=10)

    def events(self, timeout_s: float) -> Iterator[Event]:
        """Messages as they arrive; HostError when the deadline passes first."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                yield parse_message(self._socket.recv())
            except websocket.WebSocketTimeoutException:
                break
        raise HostError(f"nothing decisive arrived over the WebSocket in {timeout_s:.0f} s")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class Host:
    """A ComfyUI server process with this pack in its custom_nodes; folders under `base`."""

    def __init__(
        self, base: Path, installation: Installation | None = None, *, options: tuple[str, ...] = (), packages: Path | None = None,
    ) -> None:
        """`packages`: a folder of more packages for the host's python."""
        self.base, self._packages = base, packages
        self.installation = installation or Installation.find()
        self.options = options
        self.client_id = uuid.uuid4().hex
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("input", "output", "temp", "user", "models/talking_machines", "custom_nodes"):
            (base / name).mkdir(parents=True, exist_ok=True)
        link = base / "custom_nodes" / PACK
        if not link.exists():
            link.symlink_to(ROOT, target_is_directory=True)

    # ---- life of the process

    @property
    def url(self) -> str:
        """Root of the HTTP interface."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def input_dir(self) -> Path:
        """Where uploads go."""
        return self.base / "input"

    @property
    def output_dir(self) -> Path:
        """Where save nodes write."""
        return self.base / "output"

    @property
    def models_dir(self) -> Path:
        """Where a user puts weights for this pack."""
        return self.base / "models" / "talking_machines"

    @property
    def log_path(self) -> Path:
        """Everything the server printed, over all its runs."""
        return self.base / "server.log"

    def log(self, lines: int = 60) -> str:
        """The end of the server's log."""
        text = self.log_path.read_text(errors="replace") if self.log_path.is_file() else ""
        return "\n".join(text.splitlines()[-lines:])

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def rss_mb(self) -> float:
        """Resident memory of the server now, in MB (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) / 1024

    def command(self) -> list[str]:
        """The command line of the server."""
        return [
            str(self.installation.python), "main.py", *SERVER_OPTIONS, "--port", str(self.port), "--listen", "127.0.0.1",
            "--base-directory", str(self.base), "--database-url", f"sqlite:///{self.base / 'user' / 'comfyui.db'}", *self.options,
        ]

    def start(self) -> None:
        """Boot and wait until it answers; HostError with the log's end if it dies or is too slow."""
        assert self._process is None, "already running"
        self.port = free_port()
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")}
        env |= {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        if self._packages is not None:
            env["PYTHONPATH"] = str(self._packages)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), cwd=self.installation.path, env=env, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )
        self._wait_ready()

    def _wait_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while time.monotonic() < deadline:
            if (code := self._process.poll()) is not None:
                self._process = None
                raise HostError(f"ComfyUI exited with {code} while booting:\n{self.log()}")
            try:
                if requests.get(f"{self.url}/system_stats", timeout=2).ok:
                    return
            except requests.RequestException:
                time.sleep(0.2)
        self.stop()
        raise HostError(f"ComfyUI did not answer within {BOOT_TIMEOUT_S:.0f} s:\n{self.log()}")

    def stop(self) -> None:
        """Ctrl-C, then, if that is not enough, kill; nothing of the server is left."""
        if self._process is None:
            return
        process, self._process = self._process, None
        for sent in (signal.SIGINT, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, sent)
            try:
                process.wait(timeout=20)
                return
            except subprocess.TimeoutExpired:
                continue

    def restart(self) -> None:
        """Stop and boot again on the same folders."""
        self.stop()
        self.start()

    def __enter__(self) -> Host:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- HTTP

    def get(self, path: str, **params: str) -> Any:
        """JSON of a GET request."""
        return self._checked(requests.get(self.url + path, params=params, timeout=60)).json()

    def post(self, path: str, body: dict[str, Any]) -> requests.Response:
        """A POST with a JSON body; HostError with the server's words when refused."""
        return self._checked(requests.post(self.url + path, json=body, timeout=60))

    def _checked(self, reply: requests.Response) -> requests.Response:
        if not reply.ok:
            raise HostError(f"{reply.request.method} {reply.url}: {reply.status_code}: {reply.text}")
        return reply

    def object_info(self, node_id: str | None = None) -> dict[str, Any]:
        """Schemas of all nodes, or of one."""
        info = self.get("/object_info" + (f"/{urllib.parse.quote(node_id)}" if node_id else ""))
        return dict(info[node_id] if node_id else info)

    def upload(self, file: Path, name: str | None = None) -> str:
        """Upload an image or a sound into the input folder; the name the load nodes know it by."""
        with file.open("rb") as stream:
            reply = requests.post(
                f"{self.url}/upload/image", files={"image": (name or file.name, stream)},
                data={"type": "input", "overwrite": "true"}, timeout=60,
            )
        return str(self._checked(reply).json()["name"])

    def queue(self, graph: dict[str, Any], *, client_id: str | None = None) -> str:
        """Queue a graph in API format; its prompt id. HostError names what validation found."""
        body = {"prompt": graph, "client_id": client_id or self.client_id}
        return str(self.post("/prompt", body).json()["prompt_id"])

    def interrupt(self) -> None:
        """What the cross in the browser does."""
        self.post("/interrupt", {})

    def history(self, prompt_id: str) -> dict[str, Any]:
        """The history entry of a finished prompt; {} before."""
        return dict(self.get(f"/history/{prompt_id}").get(prompt_id, {}))

    def view(self, file: dict[str, str]) -> bytes:
        """The bytes of a file the history names."""
        params = {k: file[k] for k in ("filename", "subfolder", "type") if k in file}
        return self._checked(requests.get(f"{self.url}/view", params=params, timeout=120)).content

    def forget_cache(self) -> None:
        """Make the next prompt execute every node again."""
        self._free(unload_models=True, free_memory=True)

    def unload(self) -> None:
        """Put all weights out; what was computed stays."""
        self._free(unload_models=True)

    def _free(self, **what: bool) -> None:
        for _ in range(3):  # while it collects garbage after a job the host does not wake up
            self.post("/free", what)
            time.sleep(0.5)

    # ---- jobs

    @contextmanager
    def listen(self, client_id: str | None = None) -> Iterator[Listener]:
        """A WebSocket as the browser opens it."""
        listener = Listener(f"ws://127.0.0.1:{self.port}/ws?clientId={client_id or self.client_id}")
        try:
            yield listener
        finally:
            listener.close()

    def run(
        self, graph: dict[str, Any], *, timeout_s: float = 180.0, interrupt_at: str | None = None, interrupt_after: int = 1
    ) -> Job:
        """Queue a graph and listen until it ends; optionally interrupt at the n-th event of kind `interrupt_at`."""
        with self.listen() as listener:
            prompt_id = self.queue(graph)
            events: list[Event] = []
            try:
                for event in listener.events(timeout_s):
                    events.append(event)
                    if event.kind == interrupt_at and sum(e.kind == interrupt_at for e in events) == interrupt_after:
                        self.interrupt()
                    if self._is_end(event, prompt_id):
                        break
            except HostError as late:
                raise HostError(f"{late}; heard {[e.kind for e in events][-12:]}\n{self.log()}") from late
        return Job(prompt_id=prompt_id, events=tuple(events), history=self._settled_history(prompt_id))

    @staticmethod
    def _is_end(event: Event, prompt_id: str) -> bool:
        """ComfyUI ends a prompt with `executing` of no node; errors and interrupts have their own message first."""
        return event.kind == "executing" and event.data.get("node") is None and event.data.get("prompt_id") == prompt_id

    def _settled_history(self, prompt_id: str) -> dict[str, Any]:
        """The history entry; it is written a moment after the last message."""
        deadline = time.monotonic() + 10
        while not (entry := self.history(prompt_id)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not entry:
            raise HostError(f"prompt {prompt_id} ended but is not in the history:\n{self.log()}")
        return entry
