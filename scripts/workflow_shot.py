"""Make workflows/NAME.json (UI format) and NAME.jpg from workflows/api/NAME.json in the real frontend.

For maintainers. Needs a running ComfyUI with this pack, Chromium, and `pip install playwright`:
    python scripts/workflow_shot.py portrait --url http://127.0.0.1:8188 [--chromium /usr/bin/chromium]
The files the graph names must be in that server's input folder (upload them once). An existing UI file gives
the positions; otherwise nodes stand in columns by their distance from the inputs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
GAP_X, GAP_Y, TITLE, MARGIN = 60, 70, 30, 24

LOAD = """
async ([api, name]) => {
  const app = window.app ?? window.comfyAPI.app.app;
  await app.loadApiJson(api, name);
  for (const n of app.graph._nodes) for (const w of n.widgets ?? []) if (w.name === 'control_after_generate') w.value = 'fixed';
  return app.graph._nodes.map(n => ({id: n.id, size: [...n.computeSize()], type: n.type}));
}
"""
RUN = """
async () => {
  const app = window.app ?? window.comfyAPI.app.app;
  window.tmDone = false;
  app.api.addEventListener('execution_success', () => { window.tmDone = true; });
  await app.queuePrompt(0, 1);
}
"""
IDLE = "() => window.tmDone"
PLACE = """
async (places) => {
  const app = window.app ?? window.comfyAPI.app.app;
  for (const n of app.graph._nodes) {
    const at = places[n.id];
    n.pos = [at[0], at[1]];
    n.size = [at[2], at[3]];
  }
  app.graph.setDirtyCanvas(true, true);
  const boxes = app.graph._nodes.map(n => [n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]);
  const low = [0, 1].map(i => Math.min(...boxes.map(b => b[i])));
  const high = [2, 3].map(i => Math.max(...boxes.map(b => b[i])));
  const ds = app.canvas.ds;
  ds.scale = Math.min(1.0, 1700 / (high[0] - low[0] + 80), 1000 / (high[1] - low[1] + 80));
  ds.offset = [-low[0] + 120 / ds.scale, -low[1] + 150 / ds.scale];
  app.canvas.draw(true, true);
  const graph = JSON.parse(JSON.stringify(app.graph.serialize()));  // undefined would come back as null
  return [graph, low, high, ds.scale, [...ds.offset]];
}
"""


def depths(api: dict[str, Any]) -> dict[str, int]:
    """Column of every node: one more than the deepest node it takes something from."""
    found: dict[str, int] = {}

    def depth(node: str) -> int:
        if node not in found:
            links = [v[0] for v in api[node]["inputs"].values() if isinstance(v, list)]
            found[node] = 1 + max((depth(source) for source in links), default=-1)
        return found[node]

    for node in api:
        depth(node)
    return found


def columns(api: dict[str, Any], sizes: dict[str, list[float]]) -> dict[str, list[float]]:
    """x, y, width, height of every node."""
    depth, places, x = depths(api), {}, 0.0
    for column in range(1 + max(depth.values())):
        y, width = 0.0, max(max(sizes[n][0] for n in api if depth[n] == column), 260.0)
        for node in (n for n in api if depth[n] == column):
            height = sizes[node][1]
            places[node] = [x, y, width, height]
            y += height + GAP_Y
        x += width + GAP_X
    return places


def known_places(path: Path, sizes: dict[str, list[float]]) -> dict[str, list[float]] | None:
    """Places of an existing UI file, if it has all nodes."""
    if not path.is_file():
        return None
    nodes = {str(n["id"]): [*n["pos"], *n["size"]] for n in json.loads(path.read_text())["nodes"]}
    return nodes if nodes.keys() == sizes.keys() else None


def tidy(graph: dict[str, Any]) -> None:
    """Links numbered from 1, nothing of this browser's view."""
    number = {link[0]: i for i, link in enumerate(graph["links"], 1)}
    for link in graph["links"]:
        link[0] = number[link[0]]
    for node in graph["nodes"]:
        for slot in node.get("inputs", []):
            slot["link"] = number.get(slot.get("link"))
        for slot in node.get("outputs", []):
            slot["links"] = [number[i] for i in slot.get("links") or []]
    graph["last_link_id"] = len(number)
    graph["extra"] = {}
    for key in ("id", "floatingLinks", "definitions"):
        graph.pop(key, None)


def shoot(page: Page, name: str, run: float) -> None:
    """Load, place, run for at most `run` seconds (0: not at all), save the graph and its picture."""
    api = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())
    target = WORKFLOWS / f"{name}.json"
    nodes = page.evaluate(LOAD, [api, name])
    sizes = {str(n["id"]): n["size"] for n in nodes}
    time.sleep(3)  # pictures and players load and take their room
    places = known_places(target, sizes) or columns(api, sizes)
    graph, low, high, scale, offset = page.evaluate(PLACE, places)
    if run:
        page.evaluate(RUN)
        page.wait_for_function(IDLE, timeout=run * 1000)
        time.sleep(12)  # the saved video loads and shows its first frame
    tidy(graph)
    target.write_text(json.dumps(graph, indent=1) + "\n")
    time.sleep(2)
    shot = WORKFLOWS / f"{name}.png"
    page.screenshot(path=str(shot))
    box = [(low[i] + offset[i]) * scale - MARGIN for i in (0, 1)] + [(high[i] + offset[i]) * scale + MARGIN for i in (0, 1)]
    canvas = page.evaluate("() => { const r = document.querySelector('#graph-canvas').getBoundingClientRect(); return [r.x, r.y]; }")
    with Image.open(shot) as picture:
        picture.convert("RGB").crop([round(v + canvas[i % 2]) for i, v in enumerate(box)]).save(WORKFLOWS / f"{name}.jpg", quality=88)
    shot.unlink()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--url", default="http://127.0.0.1:8188")
    parser.add_argument("--run", type=float, default=0.0, metavar="SECONDS", help="run the graph first, so that results show")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1900, "height": 1150})
        for setting in ("Comfy.TutorialCompleted",):  # no template browser over the graph
            page.request.post(f"{options.url}/api/settings/{setting}", data=json.dumps(True))
        page.goto(options.url)
        page.wait_for_function("() => (window.app ?? window.comfyAPI?.app?.app)?.graph != null", timeout=120_000)
        time.sleep(3)
        shoot(page, options.name, options.run)
        browser.close()


if __name__ == "__main__":
    main()
