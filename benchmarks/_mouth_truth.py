"""The mouth that is drawn against the mouth that should have been: held-out people speaking, 512 pixels, by pixel. Part of bench looks.

The people and voices are the held-out ones of the training's inputs (`talking-machines train prepare`, in TM_BUILD or build/train). The
generator draws each person at 512 pixels (the truth) and at the autoencoder's size; the mouth head sees only what the autoencoder makes
of the latter. "Today" is the autoencoder's own paint, enlarged.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks._common import Result, result, say
from benchmarks._sheet import row_sheet
from tm_core.config import ModelConfig
from tm_core.errors import InputError
from tm_core.model.talking import TalkingModel
from tm_core.train.dataset import SpeechDataset, load_inputs
from tm_core.train.mouth_clips import load_mouth_faces
from tm_core.train.mouth_training import HeldMouth, draw_held, held_mouths, mouth_figures
from tm_core.train.people import PackedFaces
from tm_core.train.training_run import MOUTH_FACES, work_folder
from tm_core.vae.mouth_head import MouthHead
from tm_core.vae.tiny import TinyVAE

PEOPLE, FRAMES = 7, 33
MAX_INSIDE, MAX_RING = 0.60, 0.55  # of the error of today's decoder, enlarged
MAX_LIP_PX, MAX_JITTER_PX = 1.3, 0.1
SHARPNESS = (0.95, 1.05)  # of the truth's
SHOWN, WINDOW, LARGER = 8, (112, 144), 2  # frames of a person on the sheet; rows and columns of each, and how much they are enlarged


@dataclass(frozen=True, kw_only=True)
class MouthExam:
    """What the examination needs: the frozen autoencoder with its head, and who is held out."""

    vae: TinyVAE
    head: MouthHead
    faces: PackedFaces
    names: tuple[str, ...]
    speech: SpeechDataset
    cfg: ModelConfig

    @classmethod
    def of(cls, model: TalkingModel) -> MouthExam:
        """InputError for weights without a mouth head, and where the training's inputs are not there."""
        if not isinstance(model.vae, TinyVAE) or not isinstance(model.vae.mouth, MouthHead):
            raise InputError("weights", model.config.name, "have no mouth head", "use the bundled weights")
        folder = work_folder()
        faces, names = load_mouth_faces(folder / MOUTH_FACES, "held")
        if len(names) < PEOPLE:
            raise InputError("inputs", folder / MOUTH_FACES, f"has {len(names)} held-out stills of {PEOPLE}", "make the corpora anew")
        vae = copy.deepcopy(model.vae).cpu().float().eval()
        assert isinstance(vae.mouth, MouthHead)
        speech = load_inputs(folder / "inputs.safetensors", "held").speech
        return cls(vae=vae, head=vae.mouth, faces=faces, names=names, speech=speech, cfg=model.config)


def mouth_rows(exam: MouthExam, path: Path, people: int = PEOPLE, frames: int = FRAMES) -> list[Result]:
    """Means over the people, each with its bar, and the spread between them without one; the sheet goes to `path`."""
    found, rows = [], []
    for held in held_mouths(exam.vae, exam.faces, exam.names, exam.speech, exam.cfg, frames=frames, most=people):
        drawn = draw_held(exam.head, held)
        figures = mouth_figures(drawn)
        say(f"{held.name}: " + ", ".join(f"{k} {figures[k]:.3f}" for k in ("inside", "ring", "lip_px", "sharpness", "jitter_px")))
        found.append(figures)
        rows += _sheet_rows(held, drawn)
    say(f"contact sheet: {row_sheet([], rows, path)}")
    return figure_rows(found)


def figure_rows(found: Sequence[dict[str, float]]) -> list[Result]:
    """Rows of `mouth_figures` of several people."""
    mean = {name: sum(f[name] for f in found) / len(found) for name in found[0]}
    low, high = SHARPNESS
    bars = {
        "inside": ("error inside the mouth over today's", "", f"<= {MAX_INSIDE:g}", mean["inside"] <= MAX_INSIDE),
        "ring": ("error in a ring round the lips over today's", "", f"<= {MAX_RING:g}", mean["ring"] <= MAX_RING),
        "lip_px": ("error of the lips' gap", "px", f"<= {MAX_LIP_PX:g}", mean["lip_px"] <= MAX_LIP_PX),
        "sharpness": ("sharpness of the mouth", "of the truth's", f"{low:g} to {high:g}", low <= mean["sharpness"] <= high),
        "jitter_px": ("jitter of teeth beyond the truth's", "px", f"<= {MAX_JITTER_PX:g}", mean["jitter_px"] <= MAX_JITTER_PX)}
    rows = [result("mouths against truth at 512 px, people held out", len(found), "")]
    for name, (what, unit, bar, ok) in bars.items():
        values = sorted(f[name] for f in found)
        rows.append(result(f"mouth: {what}, mean", mean[name], unit, bar, ok))
        rows.append(result(f"mouth: {what}, from person to person", f"{values[0]:.3f} to {values[-1]:.3f}", unit))
    return [
        *rows, result("mouth: error inside, mean", mean["made_inside"], f"of 255 (today's {mean['today_inside']:.2f})"),
        result("mouth: error in the ring, mean", mean["made_ring"], f"of 255 (today's {mean['today_ring']:.2f})")]


def _sheet_rows(held: HeldMouth, drawn: dict[str, Tensor]) -> list[tuple[str, list[np.ndarray]]]:
    """Truth above made: frames at even steps of how wide the true mouth is, from shut to widest, so nobody picks them."""
    order = drawn["gap"][1].argsort()
    picks = order[torch.linspace(0, len(order) - 1, SHOWN).round().long()]
    numbers = " ".join(str(int(i)) for i in picks)
    return [
        (f"{held.name}: {word}, frames {numbers}", [_tile(drawn[name][i]) for i in picks])
        for word, name in (("truth", "truth"), ("made", "made"))]


def _tile(picture: Tensor) -> np.ndarray:
    """(h, w, 3) uint8 of the middle of a picture (3, H, W) in 0..1, enlarged; white where it is smaller."""
    pixels = picture.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    tile = np.full((*WINDOW, 3), 255, np.uint8)
    here, there = zip(*(_overlap(n, wanted) for n, wanted in zip(pixels.shape[:2], WINDOW, strict=True)), strict=True)
    tile[there] = pixels[here]
    return np.asarray(Image.fromarray(tile).resize((LARGER * WINDOW[1], LARGER * WINDOW[0]), Image.Resampling.BICUBIC))


def _overlap(count: int, wanted: int) -> tuple[slice, slice]:
    """The middle `wanted` of a line of `count`, and where it lies in a line of `wanted`."""
    kept = min(count, wanted)
    first, at = (count - kept) // 2, (wanted - kept) // 2
    return slice(first, first + kept), slice(at, at + kept)
