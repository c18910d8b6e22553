"""A real Chromium, headless, with a recorded voice as its microphone, driven over its own debugging protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import websocket

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required", "--remote-debugging-port=0", "--remote-allow-origins=*")


class Browser:
    """One page; a context manager."""

    def __init__(self, folder: Path, microphone: Path | None = None, width: int = 1100, height: int = 800) -> None:
        self._profile = folder / "profile"
        sound = [f"--use-file-for-fake-audio-capture={microphone}%noloop"] if microphone else []
        self._process = subprocess.Popen(
            [str(CHROMIUM), *FLAGS, *sound, f"--user-data-dir={self._profile}", f"--window-size={width},{height}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._numbers = itertools.count(1)
        self._socket = websocket.create_connection(self._page_address(), timeout=60)
        self._told: list[dict[str, Any]] = []
        self.call("Page.enable")
        self.call("Runtime.enable")

    def _page_address(self) -> str:
        port, until = self._profile / "DevToolsActivePort", time.monotonic() + 60
        while time.monotonic() < until:
            if port.is_file() and port.read_text().strip():
                number = port.read_text().split()[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{number}/json") as answer:
                    for page in json.load(answer):
                        if page["type"] == "page":
                            return str(page["webSocketDebuggerUrl"])
            time.sleep(0.1)
        raise TimeoutError("Chromium opened no page")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := json.loads(self._socket.recv())).get("id") != number:
            self._told.append(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return dict(message["result"])

    def run(self, script: str) -> Any:
        """The value of an expression; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"])[:500])
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 30) -> Any:
        """The first true value of an expression; TimeoutError with the last one."""
        until = time.monotonic() + seconds
        while True:
            value = self.run(script)
            if value:
                return value
            if time.monotonic() > until:
                raise TimeoutError(f"{script}: still {value!r}")
            time.sleep(0.1)

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def click(self, name: str) -> None:
        """The element with this data-testid."""
        self.run(f"document.querySelector('[data-testid={name}]').click()")

    def picture(self, path: Path) -> Path:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def problems(self) -> list[str]:
        """Errors of scripts and of the console so far."""
        self.run("0")
        return [str(m["params"])[:300] for m in self._told if m.get("method") == "Runtime.exceptionThrown" or (
            m.get("method") == "Runtime.consoleAPICalled" and m["params"]["type"] == "error")]

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(20)
        shutil.rmtree(self._profile, ignore_errors=True)
