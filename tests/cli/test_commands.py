"""The other commands: help, doctor, bench, score, train, and what happens to unknown ones."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tm_core.cli.bench import available, machine, result_line
from tm_core.families.registry import FAMILIES
from tm_core.vae.taehv import TAEHV

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = ("animate", "score", "doctor", "bench", "train", "batch")


def test_help_names_every_command(cli: Run) -> None:
    done = cli("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout


def test_version(cli: Run) -> None:
    done = cli("--version")
    assert done.returncode == 0 and done.stdout.strip()[0].isdigit()


@pytest.mark.parametrize("args", [("fly",), ("animate", "--image", "x"), ("animate", "--nonsense"), ("bench", "speed-of-light")])
def test_wrong_usage_is_two_without_a_traceback(cli: Run, args: tuple[str, ...]) -> None:
    done = cli(*args)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_doctor_finds_what_the_main_job_needs(cli: Run, weights: Path) -> None:
    done = cli("doctor", "--json", "--weights", weights)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {check["what"]: check for check in json.loads(done.stdout)}
    for what in ("python", "torch", "encoder libx264", "encoder aac", "device cpu", "weights", "face models"):
        assert found[what]["ok"], found[what]
    assert "aiortc" not in found and "live" not in done.stdout  # what does not exist


def test_doctor_names_the_remedy_for_missing_weights(cli: Run, tmp_path: Path) -> None:
    done = cli("doctor", "--weights", tmp_path / "absent.safetensors")
    assert done.returncode == 1
    line = next(text for text in done.stdout.splitlines() if "weights" in text)
    assert line.startswith("MISSING") and "absent.safetensors" in line


def test_doctor_lists_open_checkpoints_and_what_each_family_needs(cli: Run, weights: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "diffusion_models").mkdir(parents=True)
    (models / "diffusion_models" / "cut.safetensors").write_bytes(b"\x10")
    (models / "vae_approx").mkdir()
    save_file(TAEHV().state_dict(), models / "vae_approx" / "taew2_1.safetensors")
    done = cli("doctor", "--json", "--weights", weights, "--models", models)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {check["what"]: check for check in json.loads(done.stdout)}
    assert found["vae_approx/taew2_1.safetensors"]["ok"] and not found["diffusion_models/cut.safetensors"]["ok"]
    assert {f"family {f.title}" for f in FAMILIES.values()} <= set(found)
    said = cli("doctor", "--weights", weights, "--models", models).stdout
    assert "no use  diffusion_models/cut.safetensors: damaged" in said
    assert "partly  family InfiniteTalk: found vae taew2_1.safetensors; needs base Wan2.1 I2V 14B into models/diffusion_models;" in said


def test_doctor_says_which_named_folder_is_not_there(cli: Run, weights: Path, tmp_path: Path) -> None:
    done = cli("doctor", "--weights", weights, "--models", tmp_path / "nowhere")
    assert done.returncode == 1 and "nowhere: no such folder" in done.stdout


def test_bench_lists_the_benchmarks_of_the_issue(cli: Run) -> None:
    done = cli("bench", "--list")
    assert done.returncode == 0
    names = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"stream", "sync", "drift", "parity", "memory"} <= names
    assert all(available().values()), "each says what it measures"


@pytest.mark.slow
def test_bench_json_is_one_object(cli_process: Run, weights: Path) -> None:
    done = cli_process("bench", "memory", "--json", "--part", "stream", "--seconds", 3, "--weights", weights, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {"bench", "machine", "commit", "results"} and result["bench"] == "memory"
    assert result["results"] and all(set(r) == {"what", "value", "unit", "bar", "ok"} for r in result["results"])
    assert "cores" in result["machine"]


def test_a_result_reads_like_a_sentence() -> None:
    result = {"what": "growth", "value": 3, "unit": "MB", "bar": "< 50", "ok": True}
    assert result_line(result) == "ok   growth: 3 MB   (bar < 50)"
    assert machine()


def test_training_an_unknown_recipe_is_one_line(cli: Run) -> None:
    done = cli("train", "no-such-recipe", "--device", "cpu")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "no-such-recipe" in done.stderr
