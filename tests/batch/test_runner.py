"""Batches as a user runs them: resumed, interrupted, with workers that die, over Ray."""

from __future__ import annotations

import errno
import gc
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from parity.open_files import save, write_models
from tm_core import talk
from tm_core.batch import local
from tm_core.batch.digest import content_digest, model_digest, weights_digest
from tm_core.batch.engine import InlineEngine
from tm_core.batch.local import LocalEngine
from tm_core.batch.manifest import BatchItem
from tm_core.batch.ray_engine import RayEngine
from tm_core.batch.runner import BatchProgress, run_batch
from tm_core.batch.worker import BatchConfig, BatchWorker, MakeStream, Task, streams_of
from tm_core.errors import InputError
from tm_core.families.registry import identify, model_config
from tm_core.families.settings import Choices
from tm_core.media import probe
from tm_core.model.talking import TalkingModel
from tm_core.options import AnimateOptions
from tm_core.streaming.handles import DecodedStream
from tm_core.vae.wan import WanVAE
from tm_core.weights.autoencoders import load_autoencoder
from tm_core.weights.files import read_header
from tm_core.weights.loading import load_model
from tm_core.weights.open_models import load_open_model

Environment = dict[str, str]


@pytest.fixture
def manifest(files: Path) -> Path:
    """Three items, the second no picture."""
    path = files / "jobs.csv"
    path.write_text("image,audio,out,seed\nface.jpg,voice.wav,a.mp4,1\nvoice.wav,voice.wav,bad.mp4,\nface.jpg,voice.wav,sub/b.mp4,2\n")
    return path


@pytest.fixture
def environment(repo_root: Path) -> Environment:
    return {**os.environ, "PYTHONPATH": str(repo_root)}


@pytest.fixture
def batch(manifest: Path, weights: Path, tmp_path: Path, environment: Environment) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `batch` into tmp_path/out."""

    def run(*options: str, jobs: Path = manifest) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable, "-m", "tm_core.cli", "batch", str(jobs), "--out", str(tmp_path / "out"), "--model", str(weights), "--device",
            "cpu", *options]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False)

    return run


def videos(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.mp4")}


def summary(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_failures_are_listed_and_a_second_run_goes_on(
    batch: Callable[..., subprocess.CompletedProcess[str]], files: Path, portrait: Path, tmp_path: Path,
) -> None:
    first = batch("--workers", "2")
    told = summary(first)
    assert first.returncode == 1, first.stderr
    assert (told["done"], told["done_now"], told["failed"], told["left"], told["workers"]) == (2, 2, 1, 0, 2)
    assert told["failures"][0]["line"] == 3 and "not a picture" in told["failures"][0]["reason"] and "bad.mp4" in first.stderr
    made = videos(tmp_path / "out")
    assert set(made) == {"a.mp4", "sub/b.mp4"} and made["a.mp4"] != made["sub/b.mp4"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.mp4", "sub", "ledger.jsonl", "report.json"}
    again = batch()
    assert again.returncode == 1 and summary(again)["done_now"] == 0 and videos(tmp_path / "out") == made
    (files / "jobs.csv").write_text((files / "jobs.csv").read_text().replace("\nvoice.wav,", "\nface.jpg,"))
    (files / "face.jpg").write_bytes(portrait.read_bytes() + b"changed")  # every item is made of it
    last = batch()
    assert last.returncode == 0 and summary(last)["done_now"] == 3, last.stderr


def test_bad_input_is_exit_code_two_and_touches_nothing(
    batch: Callable[..., subprocess.CompletedProcess[str]], manifest: Path, tmp_path: Path,
) -> None:
    manifest.write_text("image,audio,out\nx.jpg,voice.wav,a.mp4\n")
    for done in (batch(), batch("--engine", "abacus"), batch(jobs=tmp_path / "none.csv")):
        assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr and not done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [pytest.param(("--workers", "0"), id="no-workers"), pytest.param(("--model", __file__), id="no-model", marks=pytest.mark.slow)])
def test_workers_that_cannot_start(batch: Callable[..., subprocess.CompletedProcess[str]], options: tuple[str, ...]) -> None:
    done = batch(*options)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_everything_and_what_is_done_stays(
    files: Path, weights: Path, tmp_path: Path, environment: Environment, batch: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    many = files / "many.csv"
    many.write_text("image,audio,out,seed\n" + "".join(f"face.jpg,voice.wav,{i}.mp4,{i}\n" for i in range(60)))
    command = [sys.executable, "-m", "tm_core.cli", "batch", str(many), "--out", str(tmp_path / "out"), "--model", str(weights)]
    uses_audio = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # this suite may run where it is ignored
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=uses_audio)
    assert process.stderr is not None
    line = process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "done" in line and "Traceback" not in rest, rest
    left = {p.name for p in (tmp_path / "out").iterdir()} - {"ledger.jsonl", "report.json"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert 1 <= len(left) < 60 and report["done"] == len(left) and report["left"] == 60 - len(left)
    deadline = time.monotonic() + 30  # multiprocessing's own helper ends a moment later
    while (alive := living_group(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive


@pytest.fixture
def items(files: Path) -> list[BatchItem]:
    return [
        BatchItem(line=n, image=files / "face.jpg", audio=files / "voice.wav", out=f"{n}.mp4", options=AnimateOptions(seed=n))
        for n in range(1, 4)]


class Shooting(LocalEngine):
    """Kills the worker that was just given the chosen item, as often as told."""

    def __init__(self, *args: Any, victim: str, times: int, **keywords: Any) -> None:
        self._victim, self._times = victim, times
        super().__init__(*args, **keywords)

    def submit(self, task: Task) -> None:
        super().submit(task)
        if task.item.out == self._victim and self._times:
            self._times -= 1
            next(w for w in self._workers if w.task is task).process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("times", "failed"), [(1, 0), (2, 1)], ids=["once", "twice"])
def test_a_worker_that_dies_is_replaced_and_its_item_tried_once_more(
    items: list[BatchItem], weights: Path, tmp_path: Path, times: int, failed: int,
) -> None:
    out = tmp_path / "out"
    config = BatchConfig(staging=out, weights=weights, device="cpu")
    report = run_batch(
        items, out, partial(Shooting, workers=1, victim="2.mp4", times=times), model=weights_digest(weights), config=config)
    assert (report.done, report.failed) == (3 - failed, failed)
    assert [f["out"] for f in report.failures] == ["2.mp4"] * failed
    assert all("SIGKILL" in f["reason"] and "2 times" in f["reason"] for f in report.failures)


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(weights: Path, tmp_path: Path, environment: Environment) -> None:
    code = (
        "import sys; from pathlib import Path; from tm_core.batch.local import LocalEngine; from tm_core.batch.worker import BatchConfig\n"
        "if __name__ == '__main__':\n"
        "    e = LocalEngine(BatchConfig(staging=Path(sys.argv[2]), weights=Path(sys.argv[1]), device='cpu'), 9, workers=1)\n"
        "    print(e._workers[0].process.pid, flush=True)\n"
        "    while True: e.wait()")
    (tmp_path / "main.py").write_text(code)
    command = [sys.executable, str(tmp_path / "main.py"), str(weights), str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 60  # it may be importing torch
    while running(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(worker)


def status(pid: int) -> list[str]:
    """State, parent, group and so on of a process; a zombie is none (who collects orphans differs)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields


def running(pid: int) -> bool:
    return bool(status(pid))


def living_group(group: int) -> list[int]:
    """Processes of a group."""
    pids = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
    return [pid for pid in pids if status(pid)[2:3] == [str(group)]]


def test_threads_are_split(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "cores", lambda: 4)
    with closing(LocalEngine(BatchConfig(staging=tmp_path, weights=weights, device="cpu"), 9, workers=2)) as engine:
        assert [w.config.threads for w in engine._workers] == [2, 2]
    assert local.places(BatchConfig(staging=tmp_path, device="cpu"), 3) == 3


@pytest.mark.slow
def test_one_process_with_a_model_makes_the_same_files_and_stops_where_the_host_says(
    items: list[BatchItem], weights: Path, tmp_path: Path,
) -> None:
    class Stop(Exception):
        pass

    model, out, other = load_model(weights), tmp_path / "inline", tmp_path / "local"
    calls: list[BatchProgress] = []

    def poll() -> None:
        if any(c.item for c in calls):
            raise Stop

    def run(**keywords: Any) -> Any:
        return run_batch(
            items, out, lambda config, _: InlineEngine(config, streams_of(model), **keywords), model=model_digest(model),
            config=BatchConfig(staging=out), on_progress=calls.append)

    with pytest.raises(Stop):
        run(poll=poll)
    assert set(videos(out)) == {"1.mp4"} and not (out / ".batch").exists()
    before = (out / "1.mp4").stat().st_mtime_ns
    assert run().done_now == 2 and (out / "1.mp4").stat().st_mtime_ns == before
    run_batch(
        items, other, partial(LocalEngine, workers=2), model=weights_digest(weights),
        config=BatchConfig(staging=other, weights=weights, device="cpu"))
    assert videos(out) == videos(other)


# -- the disk


def inline(items: list[BatchItem], out: Path, weights: Path, make: Callable[[Any], Any] = streams_of, **options: Any) -> Any:
    model = load_model(weights)
    return run_batch(
        items, out, lambda config, _: InlineEngine(config, make(model)), model=model_digest(model),
        config=BatchConfig(staging=out), **options)


def test_item_without_a_place_fails_and_the_others_are_made(items: list[BatchItem], weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "1.mp4").mkdir(parents=True)  # a folder in its way
    (out / "sub").write_text("no folder")
    report = inline([items[0], replace(items[1], out="sub/2.mp4"), items[2]], out, weights)
    assert (report.done, report.failed, report.left) == (1, 2, 0) and (out / "3.mp4").is_file()
    assert [(f["line"], f["out"]) for f in report.failures] == [(1, "1.mp4"), (2, "sub/2.mp4")]
    assert all("cannot be written" in f["reason"] for f in report.failures)
    (out / "1.mp4").rmdir()
    again = inline([items[0]], out, weights, retry_failed=True)
    assert again.done_now == 1 and {p.name for p in out.iterdir()} == {"1.mp4", "3.mp4", "sub", "ledger.jsonl", "report.json"}


def test_damaged_videos_are_made_again_and_only_they(items: list[BatchItem], weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    inline(items, out, weights)
    made = videos(out)
    (out / "1.mp4").write_bytes(b"")
    (out / "3.mp4").write_bytes(made["3.mp4"][:-100])
    report = inline(items, out, weights)
    assert (report.done, report.done_now) == (3, 2) and videos(out) == made


def test_full_disk_ends_the_run_and_the_next_goes_on(items: list[BatchItem], weights: Path, tmp_path: Path) -> None:
    def full(model: TalkingModel) -> MakeStream:
        made = streams_of(model)

        def make(item: BatchItem) -> Any:
            if item.line == 2:
                raise InputError("out", item.out, "the disk is full", "free some space") from OSError(errno.ENOSPC, "no space")
            return made(item)

        return make

    out = tmp_path / "out"
    with pytest.raises(InputError, match="the disk is full"):
        inline(items, out, weights, full)
    left = json.loads((out / "report.json").read_text())
    assert (left["done"], left["failed"], left["left"]) == (1, 0, 2)
    assert inline(items, out, weights).done_now == 2


@pytest.mark.slow
def test_disk_that_takes_no_large_file_ends_the_run(manifest: Path, environment: Environment) -> None:
    code = (
        "import resource, sys, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); sys.argv = sys.argv[1:]\n"
        "runpy.run_module('tm_core.cli', run_name='__main__')")
    command = [sys.executable, "-c", code, "tm", "batch", str(manifest), "--workers", "1", "--out", "out"]
    done = subprocess.run(command, cwd=manifest.parent, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 2 and "the disk is full" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert {p.name for p in (manifest.parent / "out").iterdir()} == {"ledger.jsonl", "report.json"}


# -- options of one item


def test_a_video_is_the_whole_picture_or_a_crop_of_it(items: list[BatchItem], weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    inline([replace(items[0], options=replace(items[0].options, framing="face", size=160)), items[1]], out, weights)
    with Image.open(items[1].image) as picture:
        whole = picture.size
    assert (probe(out / "1.mp4").width, probe(out / "1.mp4").height) == (160, 160)
    assert (probe(out / "2.mp4").width, probe(out / "2.mp4").height) == whole


def test_the_options_of_an_item_are_handed_over(
    items: list[BatchItem], weights: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[AnimateOptions] = []
    monkeypatch.setattr(talk, "animate", lambda *_, options, **__: given.append(options))
    make, wanted = streams_of(load_model(weights)), [AnimateOptions(track=1), AnimateOptions(), AnimateOptions(face="all", size=640)]
    for options in wanted:
        make(replace(items[0], options=options))
    assert given == wanted


def test_a_model_is_known_by_its_numbers(weights: Path) -> None:
    model = load_model(weights)
    before = model_digest(model)
    assert before == model_digest(load_model(weights)) != model_digest(replace(model, config=replace(model.config, name="other")))
    next(iter(model.dit.parameters())).data.add_(1.0)
    assert model_digest(model) != before


# -- open models, as a host hands them over


@pytest.fixture(scope="module")
def open_model(tmp_path_factory: pytest.TempPathFactory) -> TalkingModel:
    """A small SoulX-FlashTalk."""
    folder = tmp_path_factory.mktemp("open")
    files = write_models(folder) | save(folder, {"vae": dict(WanVAE(2).state_dict())})
    both = [files["base"], files["infinitetalk"]]
    loaded = load_open_model(both, preset="flashtalk", dtype=torch.float32)
    config = model_config(identify([read_header(path).shapes for path in both], preset="flashtalk"), 64, 64)
    return TalkingModel(config=config, dit=loaded.dit, projector=loaded.projector, vae=load_autoencoder(files["vae"]))


@pytest.mark.slow
def test_an_open_model_is_given_what_it_hears_and_reads_for_each_item_and_keeps_nothing_of_it(
    items: list[BatchItem], open_model: TalkingModel, tmp_path: Path,
) -> None:
    heard, seen, kept = [], [], []
    make_stream = streams_of(
        open_model, choices=Choices(steps=1), encoders=talk.Encoders(
            speech=lambda sound: heard.append(len(sound.samples)) or torch.zeros(5, 12, 2),  # type: ignore[func-returns-value,union-attr]
            prompt=lambda portrait: seen.append(portrait.image.shape) or talk.Prompt(  # type: ignore[func-returns-value]
                text=torch.full((1, 8, 4096), 0.1))))

    def counted(item: BatchItem) -> DecodedStream:
        gc.collect()
        kept.append(sum(issubclass(type(one), torch.Tensor | DecodedStream) for one in gc.get_objects()))
        return make_stream(item)

    bad = replace(items[0], out="bad.mp4", image=items[0].audio)
    out = tmp_path / "out"
    report = run_batch(
        [bad, *items], out, lambda config, _: InlineEngine(config, counted), model=model_digest(open_model),
        config=BatchConfig(staging=out))
    assert (report.done, report.failed) == (3, 1) and set(videos(out)) == {"1.mp4", "2.mp4", "3.mp4"}
    assert heard == [3200] * 3 and seen == [(3, 64, 64)] * 3
    assert kept[1] == kept[0] and kept[2] == kept[3]


def test_what_an_open_model_lacks_fails_the_item_with_its_name(items: list[BatchItem], open_model: TalkingModel, tmp_path: Path) -> None:
    worker = BatchWorker(BatchConfig(staging=tmp_path), streams_of(open_model))
    outcome = worker.make(Task(item=items[0], digest="", staged="a.mp4"))
    assert "audio_encoder: nothing: SoulX-FlashTalk hears through chinese-wav2vec2-base" in outcome.reason


def test_contents_are_known_by_every_value() -> None:
    text = torch.arange(12.0).reshape(3, 4)
    alike = {"b": [1.5, text.clone()], "a": None}
    known = content_digest({"a": None, "b": [1.5, text]})
    assert content_digest(alike) == known == content_digest({"a": None, "b": (1.5, text)})
    changed = text.clone()
    changed[2, 2] += 1e-6
    others = [{"a": None, "b": [1.5, changed]}, {"a": None, "b": [1.5, text.half()]}, {"a": None, "b": [1.5, text.reshape(4, 3)]},
              {"a": None, "b": [1.6, text]}, {"a": 0, "b": [1.5, text]}, {"a": [None], "b": [1.5, text]}, {"a": None, "b": [1.5, [text]]}]
    assert len({known, *(content_digest(other) for other in others)}) == 1 + len(others)
    some = content_digest(text, most=4)
    assert some == content_digest(torch.where(text % 3 == 0, text, -text), most=4) != content_digest(text + 1, most=4)


# -- Ray


def test_without_ray_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"pip install 'talking-machines\[batch\]'"):
        RayEngine(BatchConfig(staging=tmp_path), 1)


@pytest.fixture
def ray_nodes(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a real cluster of two nodes on this machine, one core each."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed here; pip install 'talking-machines[batch]' to run this test")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    try:
        yield str(nodes.address)
    finally:
        nodes.shutdown()


@pytest.mark.slow
def test_ray_makes_the_same_files_on_two_nodes(
    ray_nodes: str, environment: Environment, manifest: Path, weights: Path, tmp_path: Path,
) -> None:
    rows = "".join(f"face.jpg,voice.wav,{i}.mp4,{i}\n" for i in range(8))
    manifest.write_text(manifest.read_text() + rows)
    command = [sys.executable, "-m", "tm_core.cli", "batch", str(manifest), "--model", str(weights), "--device", "cpu"]
    ends = {}
    for name, extra in (("local", ["--workers", "1"]), ("ray", ["--engine", "ray"])):
        done = subprocess.run(
            [*command, "--out", str(tmp_path / name), *extra], cwd=tmp_path, env={**environment, "RAY_ADDRESS": ray_nodes},
            capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 1, done.stderr  # the item that is no picture
        ends[name] = summary(done)
    assert ends["ray"]["workers"] == 2 and ends["ray"]["failures"] == ends["local"]["failures"]
    results = json.loads((tmp_path / "ray" / "report.json").read_text())["results"]
    assert len({r["node"] for r in results if r["state"] == "done"}) == 2
    made = videos(tmp_path / "ray")
    assert len(made) == 10 and made == videos(tmp_path / "local")


@pytest.mark.slow
def test_a_dead_ray_worker_is_replaced(
    ray_nodes: str, items: list[BatchItem], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    class ShootingRay(RayEngine):
        shots = 1

        def submit(self, task: Task) -> None:
            super().submit(task)
            if task.item.out == "2.mp4" and self.shots:
                self.shots -= 1
                ray.kill(next(actor for actor, t in self._busy.values() if t is task))

    monkeypatch.setenv("RAY_ADDRESS", ray_nodes)
    out = tmp_path / "out"
    config = BatchConfig(staging=out, weights=weights, device="cpu")
    report = run_batch(items, out, ShootingRay, model=weights_digest(weights), config=config)
    assert (report.done, report.failed, report.engine) == (3, 0, "ray")
