"""Batches: killed at random and gone on with, against one call an item, and over two Ray nodes.

`--part` chooses among kill, speed and ray; each compares with one undisturbed run of the same manifest. Items are a second or less
of the bundled recording and the bundled portrait, mirrored, turned grey and cropped. Times are of whole commands, what it takes to
start Python and to load the model included. Ray runs as two nodes of this machine.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from PIL import Image, ImageOps

from benchmarks._common import ROOT, Result, demo_portrait, result, say, speech_of, write_wav
from tm_core.batch.batch_ledger import LEDGER
from tm_core.batch.digest import file_digest
from tm_core.errors import InputError
from tm_core.media.audio_io import Waveform

ITEMS, SINGLE, KILLS, CORES = 100, 6, 5, 2
SPEEDUP = 2.0
SOUNDS_S = (0.4, 1.0)
PARTS = ("kill", "speed", "ray")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a benchmark works, with what, on which cores."""

    folder: Path
    weights: Path | None
    cores: tuple[int, ...]
    items: int

    @property
    def manifest(self) -> Path:
        """The items."""
        return self.folder / "manifest.jsonl"

    def command(self, out: str, *options: str) -> list[str]:
        """A batch of the items into a folder."""
        return [*cli(), "batch", str(self.manifest), "--out", str(self.folder / out), *options, *self.model("--model")]

    def model(self, option: str) -> list[str]:
        """The option that names the weights, where some are named."""
        return [option, str(self.weights), "--device", "cpu"] if self.weights else ["--device", "cpu"]

    def start(self, command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
        """A process group of its own on the chosen cores."""
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **environment}
        affinity = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores)  # a child begins with it
        try:
            return subprocess.Popen(
                list(command), env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
        finally:
            os.sched_setaffinity(0, affinity)

    def finished(self, command: Sequence[str], **environment: str) -> dict[str, Any]:
        """The last line of stdout, of a command that worked."""
        process = self.start(command, **environment)
        text, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}: {text[-500:]}")
        found: dict[str, Any] = json.loads(text.splitlines()[-1])
        return found


def cli() -> list[str]:
    """This interpreter's command line."""
    return [sys.executable, "-m", "tm_core.cli"]


def run(
    *, weights: Path | None = None, part: Sequence[str] | None = None, items: int = ITEMS, single: int = SINGLE, kills: int | None = None,
) -> list[Result]:
    """The figures of every part, or of those chosen; `single`: calls of animate to compare with."""
    if unknown := set(part or ()) - set(PARTS):
        raise InputError("--part", ", ".join(sorted(unknown)), f"bench batch has {', '.join(PARTS)}", "choose one of them")
    chosen = [p for p in PARTS if not part or p in part]
    cores = tuple(sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory(prefix="tm-bench-") as name:
        setting = Setting(folder=Path(name), weights=weights, cores=cores, items=items)
        names = write_manifest(setting)
        say(f"{items} items, undisturbed")
        started = time.monotonic()
        whole = setting.finished(setting.command("whole", "--workers", str(len(cores))))
        wall = time.monotonic() - started
        expected = hashes(setting.folder / "whole")
        rows = [result("items made undisturbed", whole["done"], "items", f"= {items}", whole["done"] == items)]
        if "kill" in chosen:
            rows += killed(setting, names, expected, KILLS if kills is None else kills)
        if "speed" in chosen:
            rows += speed(setting, whole, wall, single)
        if "ray" in chosen:
            rows += over_ray(setting, expected)
    return rows


# -- items ------------------------------------------------------------------------------------------------


def write_manifest(setting: Setting) -> list[str]:
    """Portraits, sounds and the manifest; the names of the videos."""
    faces = _portraits(setting.folder)
    voice = speech_of(60.0)
    rng = random.Random(5)
    rows = []
    for i in range(setting.items):
        seconds, start = rng.uniform(*SOUNDS_S), rng.uniform(0, 50)
        first, count = round(start * voice.sample_rate), round(seconds * voice.sample_rate)
        sound = Waveform(samples=voice.samples[first : first + count], sample_rate=voice.sample_rate)
        write_wav(setting.folder / f"{i}.wav", sound)
        rows.append({"image": faces[i % len(faces)].name, "audio": f"{i}.wav", "out": f"{i % 3}/{i}.mp4", "seed": i})
    setting.manifest.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return [str(r["out"]) for r in rows]


def _portraits(folder: Path) -> list[Path]:
    with Image.open(demo_portrait()) as opened:
        face = ImageOps.exif_transpose(opened).convert("RGB")
    edge = face.width // 16
    variants = {
        "plain": face, "mirrored": ImageOps.mirror(face), "grey": face.convert("L").convert("RGB"),
        "closer": face.crop((edge, edge, face.width - edge, face.height - edge))}
    for name, picture in variants.items():
        picture.save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in variants]


def hashes(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder that is neither ledger nor report."""
    kept = (p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".json", ".jsonl"))
    return {p.relative_to(folder).as_posix(): file_digest(p) for p in kept}


# -- kill -------------------------------------------------------------------------------------------------


def killed(setting: Setting, names: Sequence[str], expected: dict[str, str], kills: int) -> list[Result]:
    """Figures of a run that was killed `kills` times, all its processes at once, at random moments."""
    rng, out, command = random.Random(time.time_ns()), setting.folder / "killed", setting.command("killed")
    partial = []
    for number in range(kills):
        kill_at_random(setting, command, out, setting.items // (kills + 1), rng)
        partial.append(broken_files(out))
        say(f"  killed {number + 1} times: {len(done_lines(out))} of {setting.items} items done")
    setting.finished(command)
    made, times = hashes(out), Counter(done_lines(out))
    once = sum(times[name] == 1 and name in made for name in names)
    same = sum(made.get(name) == expected[name] for name in names)
    extra = sorted(set(made) - set(names))
    return [
        result("killed at random", kills, "times"),
        result("done exactly once", once, "items", f"= {setting.items}", once == setting.items),
        result("half-written after a kill", sum(partial), "items", "= 0", not sum(partial)),
        result("files besides the videos at the end", len(extra), "files", "= 0", not extra),
        result("videos bit-identical to the undisturbed run's", same, "items", f"= {setting.items}", same == setting.items)]


def kill_at_random(setting: Setting, command: Sequence[str], out: Path, share: int, rng: random.Random) -> None:
    """Start a batch, let it finish up to `share` more items, then end its processes at a random moment with SIGKILL."""
    before, process = len(done_lines(out)), setting.start(command)
    wanted = before + rng.randint(0, share)
    while process.poll() is None and len(done_lines(out)) < wanted:
        time.sleep(0.02)
    time.sleep(rng.uniform(0.0, 2.0))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def done_lines(out: Path) -> list[str]:
    """Names of the ledger's finished items, as often as it says so."""
    found = []
    for line in (out / LEDGER).read_text(encoding="utf-8").splitlines() if (out / LEDGER).is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:  # the kill cut it off
            continue
        found += [record["out"]] if record["state"] == "done" else []
    return found


def broken_files(out: Path) -> int:
    """Videos under a final name that do not play to their end."""
    return sum(not plays(path) for path in out.rglob("*.mp4") if not path.parent.name.startswith("."))


def plays(path: Path) -> bool:
    """Whether as many frames decode as the file says it has, and a sound track is there."""
    try:
        with av.open(str(path)) as file:
            told = file.streams.video[0].frames
            return bool(file.streams.audio) and told > 0 and sum(1 for _ in file.decode(video=0)) == told
    except (av.FFmpegError, IndexError):
        return False


# -- speed ------------------------------------------------------------------------------------------------


def speed(setting: Setting, whole: dict[str, Any], wall: float, single: int) -> list[Result]:
    """Figures of the undisturbed run against one call of animate for each item, on the same cores."""
    say(f"{single} items one by one")
    rows = [json.loads(line) for line in setting.manifest.read_text(encoding="utf-8").splitlines()]
    chosen = rows[:: max(1, len(rows) // single)][:single]
    started = time.monotonic()
    for number, row in enumerate(chosen):
        setting.finished([
            *cli(), "animate", "--image", str(setting.folder / row["image"]), "--audio", str(setting.folder / row["audio"]), "--out",
            str(setting.folder / f"single{number}.mp4"), "--seed", str(row["seed"]), "--quiet", *setting.model("--weights")])
    one = (time.monotonic() - started) / len(chosen)
    each = wall / setting.items
    pairs = [(setting.folder / f"single{n}.mp4", setting.folder / "whole" / row["out"]) for n, row in enumerate(chosen)]
    same = sum(file_digest(a) == file_digest(b) for a, b in pairs)
    return [
        result("cores", len(setting.cores), "cores"), result("workers", whole["workers"], "processes"),
        result("animate, a call an item", one, "s/item"), result("batch", each, "s/item"),
        result("throughput of batch against one by one", one / each, "x", f">= {SPEEDUP:g}", one / each >= SPEEDUP),
        result("videos bit-identical to animate's", same, "items", f"= {len(chosen)}", same == len(chosen))]


# -- Ray --------------------------------------------------------------------------------------------------


def over_ray(setting: Setting, expected: dict[str, str]) -> list[Result]:
    """Figures of the same manifest over a cluster of two nodes with one worker each."""
    if importlib.util.find_spec("ray") is None:
        return [result("Ray", "not measured: ray not installed", "")]
    say("over two Ray nodes")
    with RayNodes(2) as nodes:
        done = setting.finished(setting.command("ray", "--engine", "ray"), RAY_ADDRESS=nodes.address)
    same = sum(hashes(setting.folder / "ray").get(name) == sha for name, sha in expected.items())
    used = len({r["node"] for r in json.loads((setting.folder / "ray" / "report.json").read_text(encoding="utf-8"))["results"]})
    return [
        result("Ray nodes that made videos", used, "nodes", "= 2", used == 2), result("Ray workers", done["workers"], "actors"),
        result("Ray, seconds an item", done["wall_s"] / setting.items, "s/item"),
        result("videos of Ray bit-identical to the local engine's", same, "items", f"= {setting.items}", same == setting.items)]


class RayNodes:
    """A context manager: a cluster of nodes on this machine, each a raylet of its own with one core."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        for _ in range(count - 1):
            self._cluster.add_node(num_cpus=1)
        self.address = str(self._cluster.address)

    def __enter__(self) -> RayNodes:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()
