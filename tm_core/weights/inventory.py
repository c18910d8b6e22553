"""What lies in a ComfyUI models folder: every file by its header alone, and which families that makes complete.

A file is known by names and shapes of its tensors, never by its own name, except where keys leave a choice (which of
three families, which of two speech encoders). What is damaged, foreign or a pickle gets one line that says so.
Non-goals: loading tensors, downloading, telling good weights from bad ones. Where files belong: docs/adapters.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..audio.wav2vec2 import build_wav2vec2
from ..config import DiTConfig
from ..errors import InputError, one_line
from ..families.registry import (
    FAMILIES,
    QUANTISED,
    Family,
    Layout,
    canonical,
    families_of,
    identify,
    layout_of,
    looks_like,
    titles,
)
from ..model.open_projectors import Shapes
from ..streaming.cache_size import IMAGE_TOKENS
from .autoencoders import check_names, recognise
from .files import read_header
from .loading import DESCRIPTION, SECOND

Kind = Literal["base", "adapter", "model", "student", "vae", "audio encoder", "text encoder", "clip vision", "lora"]

FOLDERS: dict[str, tuple[str, ...]] = {  # ComfyUI's name of a folder -> where it looks
    "diffusion_models": ("diffusion_models", "unet"), "model_patches": ("model_patches",), "audio_encoders": ("audio_encoders",),
    "vae": ("vae",), "vae_approx": ("vae_approx",), "clip_vision": ("clip_vision",), "text_encoders": ("text_encoders", "clip"),
    "loras": ("loras",), "talking_machines": ("talking_machines",)}
BELONGS: dict[Kind, tuple[str, ...]] = {
    "base": ("diffusion_models",), "adapter": ("model_patches", "diffusion_models"), "model": ("diffusion_models",),
    "student": ("talking_machines",), "vae": ("vae", "vae_approx"), "audio encoder": ("audio_encoders",),
    "text encoder": ("text_encoders",), "clip vision": ("clip_vision",), "lora": ("loras",)}
ENDINGS = {".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".pkl", ".bin", ".gguf"}
HOME = "COMFYUI_PATH"
UMT5_WORDS = 256384  # T5 and its other relatives have another vocabulary
SOUND = ("feature_extractor.conv_layers.", "wav2vec2.")
PIXELS = ("decoder.", "encoder.", "vae.", "first_stage_model.", "conv1.", "conv2.")


@dataclass(frozen=True, kw_only=True)
class Found:
    """One file; `kind` None: of no use here, `what` says why."""

    path: Path
    folder: str
    what: str
    kind: Kind | None = None
    layout: Layout | None = None
    encoders: tuple[str, ...] = ()  # an audio encoder: which it may be
    parameters: int = 0
    nbytes: int = 0
    dtypes: tuple[str, ...] = ()
    shapes: Shapes = field(default_factory=dict, repr=False, compare=False)

    @property
    def misplaced(self) -> str:
        """Where it ought to lie, '' where it does."""
        return "" if self.kind is None or self.folder in BELONGS[self.kind] else BELONGS[self.kind][0]

    def line(self) -> str:
        """For people."""
        if self.kind is None:
            return self.what
        size = f"{self.parameters / 1e9:.2f} G parameters, {self.nbytes / 1e9:.2f} GB, {' and '.join(self.dtypes)}"
        return f"{self.what}, {size}" + (f"; belongs into models/{self.misplaced}" if self.misplaced else "")


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """Whether a family can be run with what was found."""

    family: Family
    have: tuple[str, ...]
    missing: tuple[str, ...]  # each with where to put it
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing is missing."""
        return not self.missing


def default_folders(root: Path) -> list[Path]:
    """Models folders to search where nobody names one: COMFYUI_PATH's, else the one `make host` installed below `root`."""
    if named := os.environ.get(HOME):
        return [Path(named).expanduser() / "models"]
    host = Path(os.environ.get("TM_HOST", root / ".host")) / "ComfyUI" / "models"
    return [host] if host.is_dir() else []


def search(models: Path) -> Iterator[Found]:
    """Every model file of a models folder; InputError where there is none."""
    if not models.is_dir():
        raise InputError("--models", models, "no such folder", "name a ComfyUI models folder")
    for folder, names in FOLDERS.items():
        for name in names:
            for path in sorted((models / name).rglob("*")):
                if path.suffix.lower() in ENDINGS:
                    yield examine_file(path, folder)


def examine_file(path: Path, folder: str) -> Found:
    """What a file is, from its header; never raises for what is in it."""
    try:
        header = read_header(path, remedy="fetch it again")
        numbers = [key for key in header.shapes if not QUANTISED.search(key)]
        return replace(
            examine(header.shapes, header.metadata, path, folder), nbytes=path.stat().st_size,
            parameters=sum(math.prod(header.shapes[key]) for key in numbers), dtypes=tuple(sorted({header.dtypes[key] for key in numbers})))
    except InputError as error:
        return Found(path=path, folder=folder, what=one_line(error.rule))
    except (ValueError, LookupError, TypeError, OSError, RuntimeError, ArithmeticError) as error:  # a header may hold any nonsense
        return Found(path=path, folder=folder, what=f"not understood ({one_line(error) or 'no reason'})")


def examine(shapes: Shapes, metadata: dict[str, str], path: Path, folder: str) -> Found:
    """What these tensors are; InputError for what is of no use."""
    keys = [canonical(key) for key in shapes]
    at: dict[str, Any] = {"path": path, "folder": folder}
    if DESCRIPTION in metadata:
        second = " (its autoencoder)" if metadata.get(SECOND) == path.name else ""
        return Found(kind="student", what=f"Talking Machines student{second}", **at)
    if any(".lora_" in key or key.startswith("lora_") for key in shapes):
        return _lora(shapes, at)
    if any(key.startswith(SOUND) for key in keys):
        return _speech(shapes, at)
    if "shared.weight" in keys:
        return _text(shapes, at)
    if any(key.startswith(("vision_model.", "visual.")) for key in keys):
        return _vision(shapes, at)
    if any(key.startswith(PIXELS) for key in keys):
        vae = recognise(path, shapes, torch.bfloat16, nn)
        check_names(path, vae, shapes)
        return Found(kind="vae", what={"WanVAE": "Wan2.1 VAE", "TAEHV": "TAEHV, the fast VAE"}[type(vae).__name__], **at)
    return _transformer(shapes, keys, at)


def _transformer(shapes: Shapes, keys: list[str], at: dict[str, Any]) -> Found:
    blocks = [key for key in keys if key.startswith("blocks.")]
    if not blocks and looks_like(keys) is None:
        raise InputError("file", at["path"], f"unknown: {len(keys)} tensors, first {min(keys, default='none at all')}", "")
    if "patch_embedding.weight" not in keys and (layout := _adapter_layout(keys)) is not None:
        return Found(kind="adapter", layout=layout, what=f"adapter of {titles(families_of(layout, at['path']))}", shapes=shapes, **at)
    try:
        found = identify([shapes])
    except InputError as error:
        raise InputError("file", at["path"], f"{error.value}: {error.rule}", error.remedy) from error
    layout = found.family.layout
    kind: Kind = "base" if layout == "wan" else "model"
    what = titles(families_of(layout, at["path"])) + f", {found.dit.num_layers} blocks {found.dit.dim} wide"
    return Found(kind=kind, layout=layout, what=what if kind == "base" else f"whole model of {what}", shapes=shapes, **at)


def _adapter_layout(keys: Iterable[str]) -> Layout | None:
    """The layout of an adapter's keys; None for what is no adapter of ours."""
    try:
        layout = layout_of([*keys, "patch_embedding.weight"])  # as if its base were there: another model's keys are refused
    except InputError:
        return None
    return None if layout == "wan" else layout


def _lora(shapes: Shapes, at: dict[str, Any]) -> Found:
    wan = [key for key in shapes if "blocks" in key and ("self_attn" in key or "cross_attn" in key or "ffn" in key)]
    if not wan:
        raise InputError("file", at["path"], "a LoRA, but not of Wan", "")
    ranks = sorted({min(shapes[k]) for k in wan if len(shapes[k]) == 2 and "lora_" in k})
    return Found(kind="lora", what=f"LoRA of a Wan, rank {' and '.join(map(str, ranks)) or 'not stated'}", **at)


def _speech(shapes: Shapes, at: dict[str, Any]) -> Found:
    """Checked as when it is loaded, on the meta device."""
    state = {k: torch.empty(s, device="meta") for k, s in shapes.items()}
    try:
        build_wav2vec2(state, device="meta")
    except InputError as error:
        raise InputError("file", at["path"], f"{error.value}: {error.rule}", error.remedy) from error
    known = sorted({f.speech.encoder for f in FAMILIES.values() if f.speech is not None})
    heads = {"lm_head.": "wav2vec2-base-960h", "quantizer.": "chinese-wav2vec2-base"}  # to transcribe, or from pretraining
    told = {name for head, name in heads.items() if any(k.removeprefix("wav2vec2.").startswith(head) for k in shapes)}
    stem = at["path"].stem.lower()
    told = told or {name for name in known if ("chinese" in stem) == ("chinese" in name) and ("chinese" in stem or "960h" in stem)}
    encoders = tuple(sorted(told)) or tuple(known)
    doubt = "" if told else " (the file does not say which)"
    return Found(kind="audio encoder", what=f"{' or '.join(encoders)}{doubt}", encoders=encoders, **at)


def _text(shapes: Shapes, at: dict[str, Any]) -> Found:
    words, width = shapes["shared.weight"]
    if (words, width) != (UMT5_WORDS, DiTConfig.text_dim):
        rule = f"a text encoder of {words} words, {width} wide; Wan reads umT5-XXL ({UMT5_WORDS}, {DiTConfig.text_dim})"
        raise InputError("file", at["path"], rule, "")
    return Found(kind="text encoder", what="umT5-XXL", **at)


def _vision(shapes: Shapes, at: dict[str, Any]) -> Found:
    place = shapes.get("vision_model.embeddings.position_embedding.weight", ())
    if place != (IMAGE_TOKENS, DiTConfig.image_dim):
        rule = f"a vision encoder of {place or 'other names'}; Wan sees through CLIP vision H ({IMAGE_TOKENS}, {DiTConfig.image_dim})"
        raise InputError("file", at["path"], rule, "")
    return Found(kind="clip vision", what="CLIP vision H", **at)


# -- families ----------------------------------------------------------------------------------------------


def readiness(found: Iterable[Found]) -> list[Readiness]:
    """One answer per family."""
    usable = [f for f in found if f.kind is not None and not f.misplaced]
    return [_readiness(family, usable) for family in FAMILIES.values()]


def _readiness(family: Family, files: list[Found]) -> Readiness:
    have, missing, notes = _network(family, files)
    wanted: list[tuple[Kind, str]] = [
        ("vae", "wan_2.1_vae.safetensors (or taew2_1.safetensors in models/vae_approx)"), ("text encoder", "umT5-XXL")]
    for kind, name in wanted:
        _take(kind, [f for f in files if f.kind == kind], name, have, missing)
    if family.speech is not None:
        encoder = family.speech.encoder
        fitting = [f for f in files if encoder in f.encoders]
        _take("audio encoder", fitting, encoder, have, missing)
        if fitting and all(len(f.encoders) > 1 for f in fitting):
            notes.append(f"make sure that {fitting[0].path.name} is {encoder}")
    if not any(f.kind == "clip vision" for f in files):
        notes.append("advised: CLIP vision H into models/clip_vision")
    return Readiness(family=family, have=tuple(have), missing=tuple(missing), notes=tuple(notes))


def _take(kind: Kind, fitting: list[Found], name: str, have: list[str], missing: list[str]) -> None:
    if fitting:
        have.append(f"{kind} {fitting[0].path.name}")
    else:
        missing.append(f"{kind} {name} into models/{BELONGS[kind][0]}")


def _network(family: Family, files: list[Found]) -> tuple[list[str], list[str], list[str]]:
    """The transformer: a whole model, or a base and an adapter that fit each other."""
    mine = [f for f in files if f.layout == family.layout and family in families_of(family.layout, f.path)]
    notes = []
    if mine and len(families_of(family.layout, mine[0].path)) > 1:
        notes.append(f"{mine[0].path.name} may be {titles(families_of(family.layout, mine[0].path))}: only you can tell")
    if whole := [f for f in mine if f.kind in ("base", "model")]:
        return [f"model {whole[0].path.name}"], [], notes
    bases, adapters = [f for f in files if f.kind == "base"], [f for f in mine if f.kind == "adapter"]
    base_wanted = f"base {FAMILIES['wan_i2v'].title} 14B into models/{BELONGS['base'][0]}"
    if family.layout == "wan":
        return [], [base_wanted], notes
    why = ""
    for adapter in adapters:
        for base in bases:
            try:
                identify([base.shapes, adapter.shapes])
            except InputError as error:
                why = f"an adapter that fits: {adapter.path.name} with {base.path.name}: {error.rule}"
            else:
                return [f"base {base.path.name}", f"adapter {adapter.path.name}"], [], notes
    if why:
        return [], [why], notes
    have = [f"base {bases[0].path.name}" for _ in bases[:1]] + [f"adapter {adapters[0].path.name}" for _ in adapters[:1]]
    missing = [] if bases else [base_wanted]
    if not adapters:
        places = BELONGS["adapter"][0], BELONGS["model"][0]
        missing.append(f"{family.title}'s adapter into models/{places[0]} (or its whole model into models/{places[1]})")
    return have, missing, notes
