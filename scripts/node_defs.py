"""locales/en/nodeDefs.json from the schemas of a running ComfyUI with this pack.

    python scripts/node_defs.py --url http://127.0.0.1:8188
A test compares the file with the schemas; run this after changing a name or a tooltip.
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "locales" / "en" / "nodeDefs.json"


def described(name: str, options: dict[str, Any]) -> dict[str, str]:
    """Label and tooltip of one input."""
    label = options.get("display_name") or name.replace("_", " ")
    return {"name": label, **({"tooltip": options["tooltip"]} if options.get("tooltip") else {})}


def node_def(node: dict[str, Any]) -> dict[str, Any]:
    """One node as the frontend's translation files have it."""
    specs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    inputs = {name: described(name, (spec[1:] or [{}])[0]) for name, spec in specs.items()}
    outputs = {
        str(i): {"name": name, **({"tooltip": tooltip} if tooltip else {})}
        for i, (name, tooltip) in enumerate(zip(node["output_name"], node["output_tooltips"], strict=True))
    }
    defined = {"display_name": node["display_name"], "description": node["description"], "inputs": inputs}
    return {**defined, **({"outputs": outputs} if outputs else {})}


def node_defs(object_info: dict[str, Any]) -> dict[str, Any]:
    """Every node of this pack, by id."""
    return {name: node_def(node) for name, node in sorted(object_info.items()) if name.startswith("TM_")}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8188")
    with urllib.request.urlopen(f"{parser.parse_args().url}/object_info") as reply:
        TARGET.write_text(json.dumps(node_defs(json.load(reply)), indent=2) + "\n")


if __name__ == "__main__":
    main()
