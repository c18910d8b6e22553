"""A bad wire between two network namespaces of this machine: packets are lost, late and out of order, or none come through.

Two TUN devices, one in each namespace, and a thread that carries packets between them, by the rules of Linux's netem (which few
kernels have built in). Needs root and iproute2.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from dataclasses import dataclass

NAMES, DEVICES, ADDRESSES = ("tm-bench-a", "tm-bench-b"), ("tmb0", "tmb1"), ("10.77.15.1", "10.77.15.2")
TUN, SET_NAME = "/dev/net/tun", 0x400454CA  # the control call that names a device
PLAIN_IP = 0x0001 | 0x1000  # no link layer, no header of the driver's
LARGEST, TURN_S = 65536, 0.05


@dataclass(frozen=True, kw_only=True)
class WireConfig:
    """Each way: seconds of delay, so many more or less by chance, and the share of packets that are lost."""

    delay_s: float = 0.08
    jitter_s: float = 0.03
    loss: float = 0.02


def missing() -> str:
    """What a wire needs and is not here; '' where it can be had."""
    if os.geteuid():
        return "needs root"
    if not shutil.which("ip"):
        return "needs ip (iproute2)"
    return "" if os.path.exists(TUN) else f"needs {TUN}"


class Wire:
    """A context manager; `prefixes` run a command at either end."""

    def __init__(self, config: WireConfig | None = None, seed: int = 0) -> None:
        self._config, self._rng = config or WireConfig(), random.Random(seed)
        self.silent = False
        self._ended = False
        self._ends: list[int] = []
        self.prefixes = [["ip", "netns", "exec", name] for name in NAMES]

    def __enter__(self) -> Wire:
        _remove()
        for name, device, address in zip(NAMES, DEVICES, ADDRESSES, strict=True):
            _ip("netns", "add", name)
            end = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
            self._ends.append(end)
            fcntl.ioctl(end, SET_NAME, struct.pack("16sH", device.encode(), PLAIN_IP))
            _ip("link", "set", device, "netns", name)
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            _ip("-n", name, "link", "set", device, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        self._thread = threading.Thread(target=self._carry, name="tm-wire", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()
        for end in self._ends:
            os.close(end)
        _remove()

    def _carry(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []
        numbers, cfg = itertools.count(), self._config
        while not self._ended:
            until = min(TURN_S, max(0.0, waiting[0][0] - time.monotonic())) if waiting else TURN_S
            for end in select.select(self._ends, [], [], until)[0]:
                packet = os.read(end, LARGEST)
                if self.silent or self._rng.random() < cfg.loss:
                    continue
                due = time.monotonic() + cfg.delay_s + self._rng.uniform(-cfg.jitter_s, cfg.jitter_s)
                other = self._ends[1 - self._ends.index(end)]
                heapq.heappush(waiting, (due, next(numbers), other, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, other, packet = heapq.heappop(waiting)
                with contextlib.suppress(OSError):  # what the other side cannot take is lost
                    os.write(other, packet)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _remove() -> None:
    for name in NAMES:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
