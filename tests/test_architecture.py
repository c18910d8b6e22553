"""The rules of the house: which way imports point, what the engine may not know, what no file may contain."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:  # pip brings the same parser
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "tm_core"
HOST_MODULES = ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "nodes", "execution", "latent_preview")
EXTRAS = (
    "typer", "rich", "psutil", "pocketsphinx", "cv2", "aiortc", "ray",
    "mediapipe", "tflite", "ai_edge_litert", "sklearn", "onnxruntime", "openai", "websockets", "hibari", "silero_vad",
)  # fmt: skip
FRAMEWORKS = ("tm_core.live.livekit_avatar", "tm_core.live.pipecat_avatar")  # they say what is missing when they are imported
SKIPPED_FOLDERS = {
    ".hypothesis", ".git", ".venv", ".host", ".frameworks", "output", "build", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache",
}  # fmt: skip
SOURCE_SUFFIXES = {".py", ".js", ".toml", ".sh", ".css"}
TEXT_SUFFIXES = SOURCE_SUFFIXES | {".md", ".json", ".txt", ".html", ".yaml", ".yml", ""}


def files(folder: Path, suffixes: set[str]) -> Iterator[Path]:
    """Files of the project with one of these suffixes, environments and outputs left out."""
    for path in sorted(folder.iterdir()):
        if path.name in SKIPPED_FOLDERS or path.name.endswith(".egg-info"):
            continue
        if path.is_dir():
            yield from files(path, suffixes)
        elif path.suffix in suffixes:
            yield path


@cache
def tree(path: Path) -> ast.Module:
    """A source file, parsed once for all tests."""
    return ast.parse(path.read_text())


def core_files() -> list[Path]:
    """Every module of the engine; `__main__` files run when imported, so they are left out."""
    return [path for path in files(CORE, {".py"}) if path.name != "__main__.py"]


def module_name(path: Path) -> str:
    """tm_core/face/mesh.py -> tm_core.face.mesh."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import, relative ones resolved, those inside functions too."""
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, stem if node.module else f"{stem}.{alias.name}") for alias in node.names)


def unit(module: str) -> str:
    """tm_core.face.mesh -> face; tm_core.config -> config; tm_core and its attributes -> ''."""
    name = [*module.split("."), ""][1]
    return name if (CORE / name).is_dir() or (CORE / f"{name}.py").is_file() else ""


def layers() -> dict[str, int]:
    """Layer of each part of tm_core, lowest first, as docs/architecture.md draws it: `a, b` <- `c` <- `d`."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    found = re.search(r"((?:`[\w, ]+`\s*<-\s*)+`[\w, ]+`)", text)
    assert found, "docs/architecture.md no longer draws the layers as `a, b` <- `c`"
    groups = re.findall(r"`([\w, ]+)`", found.group(1))
    return {name.strip(): level for level, group in enumerate(groups) for name in group.split(",")}


def test_imports_point_downwards() -> None:
    rank, wrong = layers(), []
    for path in core_files():
        here = unit(module_name(path))
        for line, module in imports(path):
            there = unit(module) if module.split(".")[0] == "tm_core" else ""
            if here and there and here != there and rank[here] < rank[there]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {here} must not import {there}")
    assert not wrong, "\n".join(wrong)


def test_parts_of_one_layer_make_no_circle() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for path in core_files():
        here = unit(module_name(path))
        graph[here] |= {unit(m) for _, m in imports(path) if m.startswith("tm_core.")} - {here}
    assert list(TopologicalSorter(graph).static_order())  # CycleError names the circle


@cache
def module_graph() -> dict[str, set[str]]:
    """Which file of tm_core imports which: inside functions and for types alone too; of a package, its own file."""
    modules = {module_name(path): path for path in files(CORE, {".py"})}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for node in ast.walk(tree(path)):
            for found in imported_modules(node, name, path.name == "__init__.py"):
                while found and found not in modules:
                    found = found.rpartition(".")[0]
                graph[name] |= {found} - {name, ""}
    return graph


def imported_modules(node: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """What an import statement names, as far as it may be a module: `from .a import b` is a.b, or a."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        stem = ".".join([*base, *([node.module] if node.module else [])])
        yield from (f"{stem}.{alias.name}" for alias in node.names)


def test_no_two_files_import_each_other() -> None:
    graph = module_graph()
    pairs = {tuple(sorted((a, b))) for a, named in graph.items() for b in named if a in graph[b]}
    assert not pairs, pairs


def test_files_make_no_circle() -> None:
    assert list(TopologicalSorter(module_graph()).static_order())  # CycleError names the circle


def public_classes() -> dict[str, set[str]]:
    """Definitions of every public class of tm_core by its name; of an alias that stands for one, what it says and not where."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in files(CORE, {".py"}):
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].add(str(path.relative_to(ROOT)))
            elif isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name) and re.match("[A-Z][a-z]", target.id):
                found[target.id].add(ast.unparse(node.value))
    return found


def test_no_two_public_classes_share_a_name() -> None:
    twice = {name: places for name, places in public_classes().items() if len(places) > 1}
    assert not twice


def test_no_two_files_of_the_engine_share_a_name() -> None:
    """But for those that Python asks for."""
    places = defaultdict(list)
    for path in files(CORE, {".py"}):
        places[path.name].append(str(path.relative_to(ROOT)))
    twice = {name: where for name, where in places.items() if len(where) > 1 and not name.startswith("__")}
    assert not twice


def test_every_part_has_a_layer() -> None:
    parts = {unit(module_name(path)) for path in core_files()} - {""}
    assert parts <= set(layers()), f"add {sorted(parts - set(layers()))} to the layers in docs/architecture.md"


@pytest.mark.parametrize("folder", ["tm_core", "nodes"])
def test_the_pack_imports_itself_relatively(folder: str) -> None:
    """Inside ComfyUI the pack is a package named after its folder: `import tm_core` finds nothing there."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files(ROOT / folder, {".py"})
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "tm_core" for a in node.names))
        or (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "tm_core")
    ]
    assert not wrong, wrong


IMPORT_ALL = """
import importlib, sys
blocked, names = set(sys.argv[1].split(",")), sys.argv[2].split(",")
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is blocked by the test", name=name)
sys.meta_path.insert(0, Refuse())
for name in names:
    importlib.import_module(name)
print("imported", len(names))
"""


def import_all(blocked: tuple[str, ...], names: list[str]) -> None:
    """Import modules in a fresh interpreter that cannot see the blocked ones."""
    command = [sys.executable, "-c", IMPORT_ALL, ",".join(blocked), ",".join(names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"imported {len(names)}"


def test_the_engine_never_imports_its_host() -> None:
    import_all(HOST_MODULES, [name for name in map(module_name, core_files()) if name not in FRAMEWORKS])


def test_only_the_host_folder_of_the_nodes_imports_the_host() -> None:
    """`nodes/host/` alone knows host versions; node files are translations."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in files(ROOT / "nodes", {".py"}) if "host" not in path.relative_to(ROOT / "nodes").parts[:-1]
        for line, module in imports(path) if module.split(".")[0] in HOST_MODULES and not module.startswith("nodes.")
    ]
    assert not wrong, "\n".join(wrong)


def names_in(path: Path) -> set[str]:
    """What a module defines or imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def test_what_nodes_import_of_the_pack_exists() -> None:
    """They are imported by a ComfyUI alone, so that a renamed module or class would show only there."""
    wrong = []
    for path in files(ROOT / "nodes", {".py"}):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.ImportFrom) and node.level):
                continue
            place = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            known = names_in(module) if module.is_file() else set()
            lost = [a.name for a in node.names if a.name not in known and not (place / a.name).is_dir()
                    and not (place / f"{a.name}.py").is_file()]
            wrong += [f"{path.relative_to(ROOT)}:{node.lineno}: {node.module}: {name}" for name in lost]
    assert not wrong, "\n".join(wrong)


FORBIDDEN = {"parity": {"tests", "benchmarks"}, "benchmarks": {"tests"}, "tests": {"benchmarks"}}  # tests/benchmarks tests the latter


def mentioned(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of imports and of texts that begin with a folder's name: a module or a path made of them."""
    yield from imports(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and (m := re.match(r"(\w+)(?=$|[./]\w)", node.value)):
            yield node.lineno, m[1]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_tests_and_benchmarks_import_from_parity_and_never_the_other_way(folder: str) -> None:
    """Goldens, recorders and comparisons belong to parity/; benchmarks measure; tests import no benchmark but to test it.

    `make gpu` runs the tests marked gpu on its machine, in a process of their own (device_tests.py).
    """
    found = [path for path in files(ROOT / folder, {".py"}) if not path.is_relative_to(ROOT / "tests" / "benchmarks")]
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}" for path in found if path != Path(__file__) and path.name != "device_tests.py"
        for line, name in mentioned(path) if name.split(".")[0] in FORBIDDEN[folder]]
    assert found and not wrong, "\n".join(wrong)


def test_the_engine_needs_only_requirements_txt() -> None:
    """Everything a node can reach imports without the extras; the command line and training may ask for theirs."""
    names = [name for name in map(module_name, core_files()) if unit(name) not in {"cli", "train", "live"}]
    import_all((*HOST_MODULES, *EXTRAS), names)


def test_only_the_server_and_its_sessions_need_the_live_extra() -> None:
    """Agents ask for their packages when they are chosen, adapters when they are imported."""
    names = [name for name in map(module_name, core_files()) if unit(name) == "live" and name not in FRAMEWORKS]
    import_all((*HOST_MODULES, *EXTRAS), [n for n in names if n.rpartition(".")[2] not in ("server", "session")])


def test_the_pack_root_exports_two_names_and_imports_without_a_host() -> None:
    code = "import sys; from importlib.machinery import SourceFileLoader as L; print(L('pack', sys.argv[1]).load_module().__all__)"
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "__init__.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['WEB_DIRECTORY', 'comfy_entrypoint']"


def dotted(node: ast.AST) -> str:
    """`torch.nn.Linear` of an attribute chain; '' where it does not start with a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{stem}.{node.attr}" if (stem := dotted(node.value)) else f".{node.attr}"
    return ""


def calls(folder: Path) -> Iterator[tuple[str, str]]:
    """('file:line', dotted name) of every call."""
    for path in files(folder, {".py"}):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", dotted(node.func)


UNSAFE = re.compile(r"^(eval|exec|torch\.load|pickle\.loads?|os\.system)$|\.cuda$")
NOT_IN_MODELS = re.compile(r"^(torch\.)?nn\.(Linear|Conv[123]d|LayerNorm|RMSNorm|GroupNorm|Embedding)$|autocast$")


@pytest.mark.parametrize("folder", ["tm_core", "nodes"])
def test_no_unsafe_calls(folder: str) -> None:
    """No code from data, no pickles, no device that nobody asked for."""
    wrong = [f"{where}: {name}" for where, name in calls(ROOT / folder) if UNSAFE.search(name)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["tm_core/model", "tm_core/vae", "tm_core/streaming", "nodes"])
def test_layers_come_from_injected_operations(folder: str) -> None:
    """A raw nn.Linear gets none of the host's casting and offloading; autocast hides the dtype."""
    wrong = [f"{where}: {name}" for where, name in calls(ROOT / folder) if NOT_IN_MODELS.search(name)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["tm_core", "nodes"])
def test_logging_not_print(folder: str) -> None:
    """Only the command line prints."""
    wrong = [where for where, name in calls(ROOT / folder) if name == "print" and "/cli" not in where]
    assert not wrong, wrong


def test_sources_are_ascii() -> None:
    """Consoles with other code pages read them; a reviewer sees every character."""
    wrong = [str(path.relative_to(ROOT)) for path in files(ROOT, SOURCE_SUFFIXES) if not path.read_bytes().isascii()]
    assert not wrong, wrong


def test_no_path_of_the_developers_machine() -> None:
    pattern = re.compile(rb"(?<![\w.\-])/(?:work|root|home/\w+)/")
    wrong = [str(path.relative_to(ROOT)) for path in files(ROOT, TEXT_SUFFIXES) if pattern.search(path.read_bytes())]
    assert not wrong, wrong


def test_every_module_says_what_it_is_for() -> None:
    modules = [*core_files(), *files(ROOT / "nodes", {".py"})]
    wrong = [str(path.relative_to(ROOT)) for path in modules if not ast.get_docstring(tree(path))]
    assert not wrong, wrong


def requirements() -> list[str]:
    """Lines of requirements.txt without comments."""
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line]


def test_requirements_pin_neither_torch_nor_numpy() -> None:
    """They belong to the host: a pin here would replace a user's CUDA build."""
    bare = {"torch", "numpy"}
    assert bare <= set(requirements())
    assert not [line for line in requirements() if "==" in line or (re.split(r"\W", line)[0] in bare and line not in bare)]


def test_requirements_txt_is_what_pyproject_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(requirements()) == sorted(project["dependencies"])


def test_the_registry_accepts_the_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "comfyui" not in project["project"]["name"].lower()
    assert project["tool"]["comfy"]["requires-comfyui"] == ">=0.3.75"


def test_the_package_carries_no_file_too_large_for_a_registry() -> None:
    """16 MiB a file: the limit this project set for itself."""
    assets = [path for path in (CORE / "assets").rglob("*") if path.is_file()]
    assert assets, "tm_core/assets is empty"
    assert not [f"{p.name}: {p.stat().st_size}" for p in assets if p.stat().st_size > 16 * 2**20]


MOST_HOPS = 7


def walks() -> dict[str, list[str]]:
    """The files that each walk of docs/architecture.md passes, by what walks."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.split("## Three walks")[1].split("\n## ")[0]
    return {
        name: re.findall(r"`(tm_core/[\w/]+\.py)`", told)
        for name, told in re.findall(r"\*\*(A \w+)\*\*(.*?)\n\n", f"{section}\n\n", re.DOTALL)}


def test_walks_through_the_house_are_short_and_their_rooms_exist() -> None:
    found = walks()
    assert set(found) == {"A waveform", "A picture", "A latent"}
    for name, hops in found.items():
        assert 2 < len(hops) <= MOST_HOPS, name
        assert all((ROOT / hop).is_file() for hop in hops), name


def test_functions_of_the_walks_are_where_they_say() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().split("## Three walks")[1].split("\n## ")[0]
    named = re.findall(r"`(tm_core/[\w/]+\.py)`\s+([a-z]+_\w+|step|append|decode|write)\b", text)
    assert len(named) > 12
    for file, function in named:
        assert re.search(rf"def {function}\b", (ROOT / file).read_text()), f"{file}: {function}"


def test_words_of_the_glossary_are_classes() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().split("## Glossary")[1].split("\n## ")[0]
    known = {name for path in files(CORE, {".py"}) for name in re.findall(r"^(?:class|def) (\w+)", path.read_text(), re.MULTILINE)}
    named = re.findall(r"`([A-Z]\w+|[a-z]+_\w+)`", text)
    assert len(named) > 15 and set(named) <= known, set(named) - known
