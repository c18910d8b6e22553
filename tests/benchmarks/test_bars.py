"""What README and docs say must be reached is what the benches check: every bar there comes from the bench's own constant."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from parity.golden import BAR
from tm_core.config import tiny
from tm_core.train.footage.thresholds import FootageConfig

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
NO_BENCH = "clean clone to `output/demo.mp4`"  # timed by hand


def bench(name: str) -> ModuleType:
    """A bench as a module."""
    return importlib.import_module(f"benchmarks.{name}")


def share(value: float) -> str:
    """0.9 -> 90 %."""
    return f"{100 * value:g} %"


def bars() -> dict[str, str]:
    """Start of a row of README's table -> the bar in it, made of the constants of the bench that prints the figure."""
    batch, containers, distillation, drift, faces, host = map(bench, (
        "batch", "containers", "distillation", "drift", "faces", "host"))
    memory, routing, scorer, silence, stream, sync = map(bench, ("memory", "routing", "scorer", "silence", "stream", "sync"))
    living, mouth = map(bench, ("_living_faces", "_mouth_truth"))
    exact, within = f"<= {BAR:.0e}".replace("e-0", "e-"), f"within {share(drift.MAX_CHANGE)}"
    loaded = float(re.findall(r"^\| loading ([\d.]+) GB", README, re.M)[0])
    return {
        "whole job over length of video": f"<= {stream.MAX_RTF:g}",
        "time to first frame": f"<= {stream.MAX_TTFF_S:g} s warm",
        "a face of 512 px in a picture": f"<= {stream.MAX_PICTURE_RTF:g}, **missed**; <= {stream.MAX_SQUARE_RTF:g}",
        "the same face: time to first frame": f"<= {stream.MAX_SIZED_TTFF_S:g} s, **missed**",
        "drawing a chunk": f"<= {bench('decode').MAX_DRAWN_MS:g} ms",
        "live, 512 px: first sound": live_bars("in a burst"),
        "the same, speech at its own pace": f"{live_bars('at the pace of speech')}, **missed**",
        "live, 320 px in Chromium": f"<= {bench('_live.answer').MAX_S:g} s, **missed**",
        "in the real ComfyUI": f"<= {host.MAX_RTF}",
        "video minus audio": f"<= {1 / float(tiny().fps):g} s",
        "growth of memory": f"< {memory.MAX_GROWTH_MB:g} MB",
        "the same of open models' samplers": f"< {memory.MAX_GROWTH_MB:g} MB",
        "loading ": f"<= {loaded + memory.ROOM_GB:g} GB",
        "scenes of 2, 3, 4": f"<= {routing.MAX_REST:g}",
        "the same: lip r lost": f"<= {routing.MAX_LOSS:g}; {printed('routing', 'all')}",
        "pixels changed outside": printed("routing", "0"),
        "one clip as mov": f"<= {share(containers.MOST_OFF)}; <= {containers.MOST_LAG}",
        "an hour of sound": f"<= {memory.MAX_LATER_S:g} s, <= {memory.MAX_MORE_MB:g} MB",
        "faces found at 32": f">= {share(faces.MIN_RECALL)}, {share(faces.MIN_RECALL_LARGE)}; {printed('faces', '== 0')}",
        "landmarks and boxes": f"<= {faces.MAX_PIXELS:g} px",
        "offset of shifted sound": f">= {share(scorer.MIN_OFFSET)}; >= {share(scorer.MIN_SPEAKER)}",
        "mouth at 512 px against truth": f"<= {mouth.MAX_INSIDE:g}; <= {mouth.MAX_JITTER_PX:g} px",
        "mouth at 512 px: error in a ring": f"<= {mouth.MAX_RING:g}; <= {mouth.MAX_LIP_PX:g} px; "
        f"{mouth.SHARPNESS[0]:g} to {mouth.SHARPNESS[1]:g}, **missed**",
        "stray paint on": f"{printed('_stray_paint', '0')}, **missed**",
        "life in three videos": f"{living.BLINKS[0]:g} to {living.BLINKS[1]:g}; {100 * living.NOSE_MOVES[0]:g} to "
        f"{share(living.NOSE_MOVES[1])}; >= {living.LEAST_LISTENING:.2f}",
        "life: longest stretch": f"< {living.LONGEST_STILL_S:g} s; <= {living.MAX_LIPS:g}",
        "lip motion of a listening face": f"<= {silence.MAX_RATIO:g}; >= {silence.MIN_BLINKS}",
        f"{batch.ITEMS} videos, killed": f"{batch.ITEMS}; {printed('batch', '= 0')}; {batch.ITEMS}; {batch.ITEMS}",
        "the same: throughput": f">= {batch.SPEEDUP:g} x",
        f"{bench('mutations').EACH} damaged": printed("mutations", "= 0"),
        f"{sum(bench('kills').KILLS.values())} kills": f"{printed('kills', '= 0')}; {printed('kills', '= 0')}",
        "the same as a share of the training": f">= {sync.MIN_SHARE:g}",
        "right sound above": f">= {sync.MIN_MARGIN:g}; >= {sync.MIN_WINS}",
        "p, b, m: the lips close": f">= {share(sync.MIN_CLOSURES)}",
        "lip gap in pauses": f"<= {sync.MAX_SILENCE:g}",
        "student, 2 evaluations": f">= {distillation.MIN_SHARE:g}",
        "student minus the undistilled": f"{printed('distillation', '> 0')}; {printed('distillation', '> 0')}; "
        f"<= {distillation.MAX_FRECHET:g}, **missed**",
        "30-minute stream": within,
        "the same: lip r in minutes": f"lip r falls by <= {drift.MAX_FALL:g}",
        "the same, cache `clean_rerun`": within,
        "difference from ComfyUI": exact,
        "open families against": exact,
        "streamed against whole": exact,
    }


def live_bars(way: str) -> str:
    """Median and 95th percentile of `bench live --part latency`."""
    middle, late = bench("_live.latency").BARS[way]
    return f"<= {middle:g}; <= {late:g} s"


def printed(name: str, bar: str) -> str:
    """A bar without a constant, as README writes it, if the bench has a `result` with it."""
    calls = [n for n in ast.walk(ast.parse(inspect.getsource(bench(name)))) if isinstance(n, ast.Call) and ast.unparse(n.func) == "result"]
    texts = {a.value for c in calls for a in c.args[3:4] if isinstance(a, ast.Constant)}
    assert bar in texts, f"bench {name} prints {sorted(map(str, texts))}"
    return bar.removeprefix("== ").removeprefix("= ")


def rows() -> list[list[str]]:
    """Cells of README's table of figures."""
    table = README[README.index("| what | how | figure | bar |") :].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_every_bar_of_the_readme_is_the_one_that_its_bench_checks() -> None:
    known, wrong, met = bars(), [], set()
    for what, how, _, bar in rows():
        keys = [key for key in known if what.startswith(key)]
        met |= set(keys)
        if what.startswith(NO_BENCH):
            assert how == "`make demo`"
        elif [known[key] for key in keys] != [bar] * bool(bar):
            wrong.append(f"{what}: README says {bar!r}, {how} {[known[key] for key in keys]}")
    assert not wrong, "\n".join(wrong)
    assert met == set(known), f"no such row: {sorted(set(known) - met)}"


def test_no_other_table_has_bars() -> None:
    """They would have to be compared as well; docs/gpu.md is written by the run itself, its bars with it."""
    pages = [path for path in (ROOT / "docs").glob("*.md") if path.name != "gpu.md"]
    heads = [line for path in pages for line in path.read_text().splitlines() if re.match(r"\|.*\bbar\b.*\|", line)]
    assert not heads


@pytest.mark.parametrize(("page", "said"), [
    ("model_card.md", lambda: f'"holds": face found, lip r >= {bench("looks").MIN_R:g}'),
    ("data.md", lambda: f"the threshold (r >= {FootageConfig().least_peak_r:g}"),
    ("data.md", lambda: f"the threshold is {FootageConfig().least_motion:g}."),
], ids=["looks", "lips", "stillness"])  # fmt: skip
def test_thresholds_in_the_text_are_the_codes(page: str, said: object) -> None:
    assert callable(said) and str(said()) in " ".join((ROOT / "docs" / page).read_text().split())
