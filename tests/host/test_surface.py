"""What a user sees before anything runs: nodes, tooltips, help pages, translations, workflow templates."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests
from PIL import Image

from parity.comfyui import PACK, Host

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "workflows"
IDS = {
    "TM_LoadModel", "TM_AudioEncoder", "TM_FaceMask", "TM_SpeakingSilence", "TM_CausalSampler", "TM_DecodeStream",
    "TM_PreviewStream", "TM_SaveStream", "TM_CollectFrames", "TM_LoadOpenModel", "TM_TalkingModel", "TM_ApplySpeech",
    "TM_DetectFaces", "TM_FaceMasks", "TM_PasteBack", "TM_Character", "TM_SceneStream", "TM_Layer", "TM_Canvas",
    "TM_ScoreVideo",
    "TM_BatchLipsync",
    "TM_SpeakingTimeline", "TM_Conversation", "TM_SchedulePicture", "TM_LiveConversation",
}  # fmt: skip
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))


@pytest.fixture(scope="module")
def info(host: Host) -> dict[str, Any]:
    return host.object_info()


@pytest.fixture(scope="module")
def ours(info: dict[str, Any]) -> dict[str, Any]:
    return {name: node for name, node in info.items() if name.startswith("TM_")}


def inputs_of(node: dict[str, Any]) -> dict[str, list[Any]]:
    """Specifications of all inputs, in the order of their widgets."""
    return {**node["input"].get("required", {}), **node["input"].get("optional", {})}


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_ids_that_workflows_rely_on(ours: dict[str, Any]) -> None:
    assert set(ours) == IDS
    assert {node["category"] for node in ours.values()} == {"TalkingMachines"}


def test_nothing_went_wrong_while_loading(host: Host, ours: dict[str, Any]) -> None:
    log = host.log_path.read_text(errors="replace")
    assert "IMPORT FAILED" not in log and "Error while calling comfy_entrypoint" not in log


def test_everything_has_a_tooltip(ours: dict[str, Any]) -> None:
    bare = {
        name: [*(key for key, spec in inputs_of(node).items() if not spec[1].get("tooltip")), *["description"] * (not node["description"]),
               *(label for label, tip in zip(node["output_name"], node["output_tooltips"], strict=True) if not tip)]
        for name, node in ours.items()}
    assert len(bare) == len(IDS) and not {name: missing for name, missing in bare.items() if missing}


def test_the_help_page_names_every_input(host: Host, ours: dict[str, Any]) -> None:
    wrong = {}
    for name, node in ours.items():
        page = requests.get(f"{host.url}/extensions/{PACK}/docs/{name}.md", timeout=10)
        titled = page.ok and page.text.startswith(f"# {node['display_name']}\n")
        wrong[name] = ["no page"] * (not titled) + [key for key in (*inputs_of(node), *node["output_name"]) if f"`{key}`" not in page.text]
    assert len(wrong) == len(IDS) and not {name: missing for name, missing in wrong.items() if missing}


def test_no_page_without_a_node() -> None:
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == IDS


def test_translations_are_those_of_the_schemas(ours: dict[str, Any]) -> None:
    kept = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text())
    assert kept == script("node_defs").node_defs(ours), "run scripts/node_defs.py"


def test_the_host_serves_translations_and_templates(host: Host) -> None:
    assert set(host.get("/api/i18n")["en"]["nodeDefs"]) >= IDS
    assert sorted(host.get("/api/workflow_templates")[PACK]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_workflow_has_a_picture_and_an_api_twin(name: str) -> None:
    assert (WORKFLOWS / "api" / f"{name}.json").is_file()
    with Image.open(WORKFLOWS / f"{name}.jpg") as picture:
        assert picture.format == "JPEG" and min(picture.size) >= 300


def widgets_of(node: dict[str, Any]) -> list[str | None]:
    """Inputs in the order of a node's widget values; None for a widget that belongs to the browser alone."""
    found: list[str | None] = []
    for key, (kind, *rest) in inputs_of(node).items():
        if isinstance(kind, list) or kind in WIDGETS:
            found += [key, None] if rest and rest[0].get("control_after_generate") else [key]
    return found


def as_api(ui: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """A UI graph in API format: the links and widget values of each node."""
    source = {link[0]: [str(link[1]), link[2]] for link in ui["links"]}
    graph = {}
    for node in ui["nodes"]:
        names = widgets_of(info[node["type"]])
        values = dict(zip(names, node.get("widgets_values") or [], strict=False))
        links = {slot["name"]: source[slot["link"]] for slot in node.get("inputs", []) if slot.get("link") is not None}
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": {k: v for k, v in values.items() if k} | links}
    return graph


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_of_a_workflow_are_the_same_graph(info: dict[str, Any], name: str) -> None:
    ui = json.loads((WORKFLOWS / f"{name}.json").read_text())
    api = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())
    assert as_api(ui, info) == {key: {"class_type": n["class_type"], "inputs": n["inputs"]} for key, n in api.items()}


@pytest.mark.parametrize("name", NAMES)
def test_workflows_name_what_exists(info: dict[str, Any], name: str) -> None:
    ui = json.loads((WORKFLOWS / f"{name}.json").read_text())
    for node in ui["nodes"]:
        known = inputs_of(info[node["type"]])
        own = node["type"] in IDS
        assert not own or len(node.get("widgets_values") or []) == len(widgets_of(info[node["type"]])), node["type"]
        assert {slot["name"] for slot in node["inputs"]} - {"upload", "audioUI"} <= set(known), node["type"]
        assert [slot["type"] for slot in node.get("outputs", [])] == info[node["type"]]["output"], node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_workflows_start_with_files_that_ship(assets: Path, name: str) -> None:
    api = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())
    shipped = {path.name for folder in ("portraits", "speech", "clips") for path in (assets / folder).iterdir()}
    named = {n["inputs"][key] for n in api.values() for key in ("image", "audio", "file") if isinstance(n["inputs"].get(key), str)}
    assert named and named <= shipped


def test_only_the_model_and_device_lists_depend_on_the_machine(ours: dict[str, Any]) -> None:
    load = inputs_of(ours["TM_LoadModel"])
    assert load["weights"][1]["options"][0] == "bundled" and load["device"][1]["options"][:2] == ["auto", "cpu"]
    assert "auto" in inputs_of(ours["TM_DecodeStream"])["device"][1]["options"]


def test_seeds_fit_a_browser(ours: dict[str, Any]) -> None:
    assert inputs_of(ours["TM_CausalSampler"])["seed"][1]["max"] == 2**53 - 1


def test_pages_are_plain_text() -> None:
    for path in [*(ROOT / "web").rglob("*.md"), *WORKFLOWS.rglob("*.json"), *(ROOT / "locales").rglob("*.json")]:
        assert path.read_bytes().isascii() and not re.search(r"https?://(?!127\.0\.0\.1)", path.read_text()), path
