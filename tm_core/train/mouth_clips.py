"""What the mouth head learns from: generated people speaking, as the frozen autoencoder sees them and as they really are.

Frames are drawn at the autoencoder's size, with its own generator's plain mouth, and go through it; the truth is drawn
at the pixels of a box round the mouth alone. The box is laid by landmarks that are wrong by as much as a mesh is.

Shapes: T frames, BOX = (144, 192) pixels of the box, the rest as in vae/mouth_geometry.py.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from ..config import ModelConfig
from ..errors import InputError
from ..vae.mouth_geometry import GRID, MouthGeometry, box_grid, from_box, lip_curves, mouth_geometry, picture_coordinates, to_box
from ..vae.mouth_head import MouthSight, mouth_crop, mouth_sight
from ..vae.tiny import Motion, TinyVAE
from ..weights.files import save_tensors
from .dataset import SpeechDataset, draw_clip, mouth_shapes, tracks
from .generator import draw_mouth, skull_motion
from .people import PackedFaces, new_person
from .still_heads import Heads
from .visemes import SHAPES

log = logging.getLogger(__name__)

SIDE = 512  # of the stored pictures
BOX = (144, 192)
MARGIN = 4 / 3  # boxes that a portrait's kept part is wide
CLIPS, FRAMES, DRAWN = 3, 17, 5  # of a person, of a clip, of its frames that are drawn whole
WRONG = 0.0035, 0.002  # spread of the landmarks' common error and of each one's own, in picture widths
LATENT_NOISE = 0.15  # of the spread of what moves, in half of the clips
MOTION = (0.3, 0.8, 0.5)


def pack_mouth_faces(corpus: Path, out: Path) -> Path:
    """Write the stills of corpus/faces (faces.json) at SIDE pixels with their landmarks; returns the path."""
    from ..face.mesh import FaceMesh
    from ..face.portrait_crop import crop_portrait
    from ..media import open_image

    index = json.loads((corpus / "faces" / "faces.json").read_text())
    mesh, images, points = FaceMesh(), [], []
    meta: dict[str, list[str]] = {"faces": [], "splits": []}
    for entry in index["faces"] if isinstance(index, dict) else index:
        try:
            portrait = crop_portrait(open_image(corpus / "faces" / entry["file"]), SIDE, mesh)
        except InputError as e:
            log.warning("%s left out: %s", entry["file"], e)
            continue
        images.append(portrait.image.transpose(2, 0, 1))
        points.append(_normal(portrait.landmarks))
        meta["faces"].append(entry["identity"])
        meta["splits"].append(entry["split"])
    arrays = {"images": np.stack(images), "points": np.stack(points), "shapes": mouth_shapes()}
    save_tensors({out: {k: torch.from_numpy(a) for k, a in arrays.items()}}, {"mouth_faces": json.dumps(meta)}, "inputs")
    log.info("mouth faces: %d train, %d held", meta["splits"].count("train"), meta["splits"].count("held"))
    return out


def load_mouth_faces(path: Path, split: str) -> tuple[PackedFaces, tuple[str, ...]]:
    """The stills of one split and their names; pictures stay bytes until they are used. InputError if the file is not there."""
    if not path.is_file():
        raise InputError("inputs", path, "no stills for the mouth there", "run `talking-machines train prepare`")
    with safe_open(str(path), "pt") as f:
        meta = json.loads(f.metadata()["mouth_faces"])
        keep = torch.tensor([s == split for s in meta["splits"]])
        faces = PackedFaces(images=f.get_tensor("images")[keep], points=f.get_tensor("points")[keep], shapes=f.get_tensor("shapes"))
    return faces, tuple(n for n, s in zip(meta["faces"], meta["splits"], strict=True) if s == split)


def _normal(landmarks: np.ndarray) -> np.ndarray:
    flat = picture_coordinates(torch.from_numpy(landmarks.copy()), SIDE)
    return np.concatenate([flat.numpy(), landmarks[:, 2:].astype(np.float32) * 2 / SIDE], 1)


@dataclass(frozen=True, kw_only=True)
class MouthClip:
    """T frames of one person: what is seen of them, and the truth; box units."""

    sight: MouthSight
    crop: Tensor  # (3, *PORTRAIT) of the portrait, as the head sees it
    margin: Tensor  # (3, h, w) uint8, the portrait MARGIN boxes wide
    geometry: MouthGeometry  # by the wrong landmarks
    true_geometry: MouthGeometry  # in the same box
    drawn: Tensor  # (DRAWN,) which frames are kept as pictures
    frames: Tensor  # (DRAWN, 3, *BOX) uint8
    mouth: Tensor  # (DRAWN, 1, *BOX) uint8 share of the mouth's inside
    lips: Tensor  # (T, 2, columns)
    flows: Tensor  # (T, 4, *GRID) float16
    skull: Tensor  # (T, 3) about the wrong gums
    true_skull: Tensor  # (T, 3) about the true ones
    light: Tensor  # (T, 1)


def person(faces: PackedFaces, seed: int) -> Heads:
    """Somebody nobody has seen, at SIDE pixels; the same for the same seed."""
    rng = torch.Generator().manual_seed(seed)
    pick = torch.randint(len(faces.images), (2,), generator=rng)
    few = PackedFaces(images=faces.images[pick].float() / 255, points=faces.points[pick], shapes=faces.shapes)
    return new_person(few, rng)


def speech_poses(speech: SpeechDataset, cfg: ModelConfig, seed: int, frames: int, motion: float, strength: float = 1.0) -> Tensor:
    """Generator weights (frames, 13) of a random stretch of speech, the head already on its way; `strength` of the mouth's shapes."""
    rng = np.random.default_rng(seed)
    lead, first = 120, int(rng.integers(0, len(speech.weights) - frames))
    poses = tracks(speech, 0, lead + frames, cfg.fps, seed, motion)[int(rng.integers(0, lead)) :][:frames]
    poses[:, : len(SHAPES)] = (speech.weights[first : first + frames].float() * strength).clamp(0, 1)
    return poses


def wrong_landmarks(points: Tensor, rng: torch.Generator) -> Tensor:
    """Landmarks (468, 3) as a mesh might find them: shifted together and each on its own."""
    common, own = (torch.randn(n, 2, generator=rng) * 2 * w for n, w in zip((1, len(points)), WRONG, strict=True))
    return torch.cat([points[:, :2] + (common + own).to(points), points[:, 2:]], 1)


@torch.inference_mode()
def mouth_clip(
    vae: TinyVAE, head: Heads, poses: Tensor, points: Tensor, side: int, *, noise: float = 0.0, seen: Tensor | None = None
) -> MouthClip:
    """The clip of a head (N=1) in poses (T, 13); landmarks (468, 3) as found, noise on the latents.

    `side` of the autoencoder's frames; `seen` (3, side, side): the portrait that it is given, by default the head's.
    """
    motion = seen_motion(vae, head, poses, side, noise=noise, portrait=seen)
    geometry = mouth_geometry(points[None])
    boxes = geometry.box.expand(len(poses), -1, -1)
    coarse = draw_mouth(head, poses, SIDE, from_box(box_grid(*GRID, points)[None], boxes))
    flows = [(to_box(s, boxes) - box_grid(*GRID, s)).permute(0, 3, 1, 2) for s in (coarse.upper, coarse.lower)]
    lips = lip_curves(coarse.points, boxes)
    gap = (lips[:, 1] - lips[:, 0]).amax(1)
    drawn = torch.cat([gap.topk(2).indices, torch.randperm(len(poses))[: DRAWN - 2]])
    fine = draw_mouth(head, poses[drawn], SIDE, from_box(box_grid(*BOX, points)[None], boxes[drawn]))
    in_truth, rest = mouth_geometry(head.points, geometry.box), head.points[..., :2].expand(len(poses), -1, -1)
    margin = from_box(box_grid(round(BOX[0] * MARGIN), round(BOX[1] * MARGIN), points, MARGIN)[None], geometry.box)
    kept = F.grid_sample(head.texture, margin, mode="bicubic", padding_mode="border", align_corners=False)[0]
    return MouthClip(
        sight=MouthSight(*(t.half() for t in mouth_sight(motion, geometry))), crop=mouth_crop(head.texture, geometry)[0],
        margin=_bytes(kept), geometry=geometry, true_geometry=in_truth, drawn=drawn, frames=_bytes(fine.frames), mouth=_bytes(fine.mouth),
        lips=lips, flows=torch.cat(flows, 1).half(), skull=skull_motion(geometry, rest, coarse.skull),
        true_skull=skull_motion(in_truth, rest, coarse.skull), light=1 - 0.5 * poses[:, 3:4].clamp(0, 1))


@torch.inference_mode()
def seen_motion(vae: TinyVAE, head: Heads, poses: Tensor, side: int, *, noise: float = 0.0, portrait: Tensor | None = None) -> Motion:
    """The autoencoder's motion of a head's frames (3, side, side) at poses (T = 1 + 4k, 13)."""
    small = draw_clip(head, poses, side)
    latents = vae.encode(small, vae.open_encoder())[0]
    portrait = F.interpolate(head.texture, size=(side, side), mode="area")[0] if portrait is None else portrait
    return vae.motion(latents + noise * torch.randn_like(latents), vae.open_decoder(portrait))[0]


def mouth_clips(
    vae: TinyVAE, faces: PackedFaces, speech: SpeechDataset, cfg: ModelConfig, seed: int, folder: Path | None = None
) -> list[MouthClip]:
    """CLIPS clips of person `seed`; kept in `folder`, if one is given."""
    path = None if folder is None else folder / f"{seed}.safetensors"
    if path is not None and path.is_file():
        with safe_open(str(path), "pt") as f:
            kept = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
        return [_from_tensors({k[2:]: t for k, t in kept.items() if k.startswith(f"{i}.")}) for i in range(CLIPS)]
    clips = _new_clips(vae, faces, speech, cfg, seed)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors({path: {f"{i}.{k}": t for i, clip in enumerate(clips) for k, t in _as_tensors(clip).items()}}, {}, "clips")
    return clips


def _as_tensors(clip: MouthClip) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for f in fields(clip):
        value = getattr(clip, f.name)
        found.update({f.name: value} if isinstance(value, Tensor) else {f"{f.name}.{k}": t for k, t in value._asdict().items()})
    return {k: t.contiguous() for k, t in found.items()}


def _from_tensors(tensors: dict[str, Tensor]) -> MouthClip:
    values: dict[str, Any] = {k: t for k, t in tensors.items() if "." not in k}
    for name, kind in (("sight", MouthSight), ("geometry", MouthGeometry), ("true_geometry", MouthGeometry)):
        values[name] = kind(*(tensors[f"{name}.{k}"] for k in kind._fields))
    return MouthClip(**values)


def _new_clips(vae: TinyVAE, faces: PackedFaces, speech: SpeechDataset, cfg: ModelConfig, seed: int) -> list[MouthClip]:
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    head, found = person(faces, seed), []
    for i in range(CLIPS):
        chance = torch.rand(4, generator=rng).tolist()
        poses = speech_poses(speech, cfg, seed * CLIPS + i, FRAMES, MOTION[i % len(MOTION)], 0.75 + 0.45 * chance[0])
        plain = draw_clip(head, torch.zeros_like(poses[:1]), cfg.height)[0] if chance[1] < 0.5 else None
        found.append(mouth_clip(
            vae, head, poses, wrong_landmarks(head.points[0], rng), cfg.height, noise=LATENT_NOISE if chance[2] < 0.5 else 0.0, seen=plain))
    return found


def _bytes(picture: Tensor) -> Tensor:
    return (picture.clamp(0, 1) * 255).round().byte()


