"""Training inputs: a small file of stills and speech, from which clips are drawn on any device.

`prepare` turns the corpora (train/corpus) into one safetensors file of a few MiB: pictures, landmarks,
quantised log-mel rows, mouth weights and phone labels. `SpeechDataset` and `PackedFaces` are its two halves; whole voices
and whole identities are held out by their split.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ..config import ModelConfig
from ..errors import InputError
from ..weights.files import save_tensors
from .generator import draw
from .people import PackedFaces
from .still_heads import Heads
from .visemes import life, mouth_weights, phone_labels

log = logging.getLogger(__name__)

TEXTURE = 192  # side of the stored pictures
PAD = 24  # frames of silence stored round every utterance, so that no window leaves it
FLOOR, STEP = -11.6, 0.075  # quantisation of log-mel rows to one byte


@dataclass(frozen=True, kw_only=True)
class SpeechDataset:
    """Utterances end to end, PAD frames of silence round each; T frames, 4 feature rows a frame."""

    rows: Tensor  # (4T, M) uint8
    weights: Tensor  # (T, 6) float16
    labels: Tensor  # (T,) uint8 index into PHONES
    starts: Tensor  # (U + 1,) first frame of each utterance's padding
    voices: tuple[str, ...]  # of each utterance
    trusted: Tensor  # (U,) bool: phone times are true, or aligned to a transcript

    def features(self, first_frame: Tensor, frames: int) -> Tensor:
        """Log-mel (B, 4 frames, M) from each first frame (B,)."""
        index = first_frame[:, None] * 4 + torch.arange(4 * frames, device=first_frame.device)
        return self.rows[index].float() * STEP + FLOOR

    def utterances(self, min_frames: int) -> list[int]:
        """Utterances with at least that many frames, padding counted in part."""
        length = self.starts[1:] - self.starts[:-1]
        return [int(i) for i in torch.nonzero(length >= min_frames).flatten()]

    def to(self, device: torch.device | str) -> SpeechDataset:
        """The same speech on another device."""
        return SpeechDataset(
            rows=self.rows.to(device), weights=self.weights.to(device), labels=self.labels.to(device), starts=self.starts,
            voices=self.voices, trusted=self.trusted)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Both halves of a training file, one split of it."""

    faces: PackedFaces
    speech: SpeechDataset
    identities: tuple[str, ...]


def load_inputs(path: Path, split: str) -> Inputs:
    """The stills and speech of one split ("train" or "held"); InputError if the file is not there."""
    if not path.is_file():
        raise InputError("inputs", path, "no training inputs there",
                         "run `python -m tm_core.train.corpus` and `talking-machines train prepare`")
    with safe_open(str(path), "pt") as f:
        meta = json.loads(f.metadata()["talking_machines_inputs"])
        part = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
    keep = torch.tensor([s == split for s in meta["face_splits"]])
    pictures = part["images"][part["pictures"][keep]].float() / 255
    flip = part["mirrored"][keep].bool().view(-1, 1, 1, 1)
    faces = PackedFaces(images=torch.where(flip, pictures.flip(-1), pictures), points=part["points"][keep], shapes=part["shapes"])
    names = tuple(n for n, s in zip(meta["faces"], meta["face_splits"], strict=True) if s == split)
    p = f"{split}."
    speech = SpeechDataset(
        rows=part[p + "rows"], weights=part[p + "weights"], labels=part[p + "labels"], starts=part[p + "starts"],
        voices=tuple(meta[p + "voices"]), trusted=part[p + "trusted"].bool())
    return Inputs(faces=faces, speech=speech, identities=names)


# -- preparing -----------------------------------------------------------------------------------------


def _utterances(corpus: Path) -> list[tuple[str, dict[str, Any], np.ndarray]]:
    """(voice, description, samples float32 16 kHz) of every utterance under corpus/speech."""
    found = []
    for index in sorted((corpus / "speech").glob("*.json")):
        entries = json.loads(index.read_text())
        entries = entries["utterances"] if isinstance(entries, dict) else entries
        with np.load(index.with_suffix(".npz")) as z:
            samples, starts = z["samples"], z["starts"]
        ends = [*starts[1:], len(samples)]
        for entry, start, end in zip(entries, starts, ends, strict=False):
            found.append((index.stem, entry, samples[start:end].astype(np.float32) / 32768))
    return found


def _speech_arrays(items: list[tuple[str, dict[str, Any], np.ndarray]], cfg: ModelConfig) -> tuple[dict[str, np.ndarray], list[str]]:
    from ..audio.features import SILENCE, log_mel

    parts: dict[str, list[np.ndarray]] = {k: [] for k in ("rows", "weights", "labels")}
    starts, voices, trusted = [0], [], []
    for voice, entry, samples in items:
        frames = len(samples) * cfg.fps // cfg.audio.sample_rate
        phones = [(p, float(a), float(b)) for p, a, b in entry["phones"]]
        rows = log_mel(samples, cfg.audio)[: frames * 4]
        rows = np.concatenate([rows, np.broadcast_to(SILENCE, (frames * 4 - len(rows), rows.shape[1]))])
        weights = mouth_weights(phones, samples, frames, cfg.fps)
        parts["rows"].append(_padded(rows, 4 * PAD, SILENCE))
        parts["weights"].append(_padded(weights, PAD, 0))
        parts["labels"].append(_padded(phone_labels(phones, frames, cfg.fps), PAD, 0))
        starts.append(starts[-1] + frames + 2 * PAD)
        voices.append(voice)
        trusted.append(bool(entry.get("trusted", entry.get("language", "en") == "en")))
    rows = np.clip(np.round((np.concatenate(parts["rows"]) - FLOOR) / STEP), 0, 255).astype(np.uint8)
    return {
        "rows": rows, "weights": np.concatenate(parts["weights"]).astype(np.float16),
        "labels": np.concatenate(parts["labels"]).astype(np.uint8),
        "starts": np.array(starts, np.int64), "trusted": np.array(trusted, np.uint8),
    }, voices


def _padded(rows: np.ndarray, pad: int, value: Any) -> np.ndarray:
    filler = np.broadcast_to(np.asarray(value, rows.dtype), (pad, *rows.shape[1:]))
    return np.concatenate([filler, rows, filler])


@dataclass(frozen=True, kw_only=True)
class _FaceRow:
    """One still, or its mirror image, which is not stored again."""

    picture: int
    mirrored: bool
    points: np.ndarray  # (468, 3) normalised
    identity: str
    split: str


def _face_rows(corpus: Path) -> tuple[np.ndarray, list[_FaceRow]]:
    """Pictures (K, 3, S, S) uint8 and what is seen in them and in their mirror images."""
    from ..face.mesh import FaceMesh
    from ..face.portrait_crop import crop_portrait
    from ..media import open_image

    mesh = FaceMesh()
    images: list[np.ndarray] = []
    rows: list[_FaceRow] = []
    index = json.loads((corpus / "faces" / "faces.json").read_text())
    for entry in index["faces"] if isinstance(index, dict) else index:
        if not entry.get("rest", True):  # the generator poses faces from rest
            continue
        try:
            portrait = crop_portrait(open_image(corpus / "faces" / entry["file"]), TEXTURE, mesh)
            flipped = np.ascontiguousarray(portrait.image[:, ::-1])
            views = [(False, portrait.landmarks), (True, mesh(flipped))]
        except InputError as e:
            log.warning("%s left out: %s", entry["file"], e)
            continue
        for mirrored, landmarks in views:
            rows.append(_FaceRow(picture=len(images), mirrored=mirrored, points=normalised(landmarks, TEXTURE),
                                 identity=entry["identity"], split=entry["split"]))
        images.append(portrait.image.transpose(2, 0, 1))
    return np.stack(images), rows


def normalised(landmarks: np.ndarray, side: int) -> np.ndarray:
    """Landmarks (468, 3) in pixels to the generator's -1..1."""
    out = landmarks.astype(np.float32) * 2 / side
    out[:, :2] -= 1
    return out


def mouth_shapes() -> np.ndarray:
    """(7, 468, 2) landmarks of the CC0 rendered head: rest, then the shapes of visemes.SHAPES."""
    with safe_open(str(Path(__file__).parents[1] / "assets" / "face" / "mouth_shapes.safetensors"), "np") as f:
        return np.asarray(f.get_tensor("shapes"), np.float32)


def prepare(corpus: Path, out: Path, cfg: ModelConfig) -> Path:
    """Write the training file from the corpora; returns its path."""
    images, rows = _face_rows(corpus)
    arrays: dict[str, np.ndarray] = {
        "images": images, "points": np.stack([r.points for r in rows]).astype(np.float32), "shapes": mouth_shapes(),
        "pictures": np.array([r.picture for r in rows], np.int64), "mirrored": np.array([r.mirrored for r in rows], np.uint8),
    }
    splits = [r.split for r in rows]
    meta: dict[str, Any] = {"faces": [r.identity for r in rows], "face_splits": splits}
    items = _utterances(corpus)
    for split in ("train", "held"):
        chosen = [i for i in items if i[1]["split"] == split]
        part, voices = _speech_arrays(chosen, cfg)
        arrays.update({f"{split}.{k}": v for k, v in part.items()})
        meta[f"{split}.voices"] = voices
        log.info("%s: %d utterances, %.1f min, voices %s", split, len(chosen), len(part["weights"]) / cfg.fps / 60, sorted(set(voices)))
    log.info("faces: %d train, %d held", splits.count("train"), splits.count("held"))
    out.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
    save_tensors({out: tensors}, {"talking_machines_inputs": json.dumps(meta)}, "inputs")
    return out


# -- clips ---------------------------------------------------------------------------------------------


def level(rows: np.ndarray) -> np.ndarray:
    """Loudness (T,) 0..1 of log-mel rows (4T, M): 1 is loud speech, 0 a quiet room."""
    loud = rows.reshape(-1, 4, rows.shape[-1]).mean((1, 2))
    return np.asarray(np.clip((loud + 8.5) / 7.0, 0, 1), np.float32)


def tracks(speech: SpeechDataset, first_frame: int, frames: int, fps: float, seed: int, motion: float, silent: bool = False) -> Tensor:
    """Generator weights (frames, 13) for a stretch of speech: mouth, then visemes.life; `silent`: lips at rest."""
    rng = np.random.default_rng(seed)
    mouth = speech.weights[first_frame : first_frame + frames].float().cpu()
    rows = speech.features(torch.tensor([first_frame], device=speech.rows.device), frames)[0].cpu().numpy()
    rest = life(np.zeros(frames, np.float32) if silent else level(rows), fps, rng, motion)
    return torch.cat([mouth * (0.0 if silent else 1.0), torch.from_numpy(rest)], 1)


def draw_clip(head: Heads, weights: Tensor, side: int) -> Tensor:
    """Frames (T, 3, side, side) of one head (N=1) posed by weights (T, 13), in pieces that fit the cache."""
    pieces = []
    for part in weights.split(32):
        index = torch.zeros(len(part), dtype=torch.long, device=part.device)
        pieces.append(draw(head[index], part, side).frames)
    return torch.cat(pieces)
