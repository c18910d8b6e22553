"""Training of SyncNet (metrics/syncnet.py) on generated clips: which stretch of sound belongs to five frames.

Each window of pictures is compared with its own sound, the same voice at other offsets and all other clips' sounds;
cross-entropy over negative squared distances, as sharp as a learnt factor makes them. One linear head, the same for
both streams, reads the five frames' mouth shapes off either: without it minutes of training learn nothing. Half of the clips pass the
tiny autoencoder, whose pictures the score will see. Training identities and voices only.
`python -m tm_core.train.syncnet --minutes 20`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..audio.features import log_mel
from ..config import tiny
from ..metrics.syncnet import (
    ASSETS,
    BUNDLED,
    FRAMES,
    REACH,
    ROWS,
    SyncNet,
    crops_of,
    distances,
    embeddings,
    face_boxes,
    face_crops,
    mfcc,
    score_of,
)
from ..vae.tiny import TinyVAE
from .checkpoint import Average, load_checkpoint, save_checkpoint
from .data import Inputs, _utterances, draw_clip, level, load_inputs
from .generator import Heads, new_person
from .visemes import SHAPES, life, mouth_weights

log = logging.getLogger(__name__)

LENGTH, MARGIN = 61, REACH + 3  # frames of a clip; windows keep this far from its ends
OFFSETS = 2  # wrong ones of the own voice for each window
RATE = 1.2e-3


@dataclass(frozen=True, kw_only=True)
class TalkClip:
    """A drawn clip: frames (T, H, W, 3) uint8, crop boxes (T, 3), cepstra (R, 13), landmarks, samples."""

    frames: Tensor
    boxes: np.ndarray
    rows: Tensor
    mouth: Tensor  # (T, 6) weights of visemes.SHAPES
    landmarks: np.ndarray
    samples: np.ndarray


class Source:
    """Draws clips of one split."""

    def __init__(self, inputs: Inputs, corpus: Path, split: str, vae: TinyVAE | None) -> None:
        cfg = tiny()
        self.inputs, self.vae, self.size = inputs, vae, cfg.height
        long = LENGTH / cfg.fps + 0.3
        self.speech = [u for u in _utterances(corpus) if u[1]["split"] == split and len(u[2]) > long * 16000]
        voices = sorted({u[0] for u in self.speech})
        self.by_voice = [[u for u in self.speech if u[0] == v] for v in voices]

    def clip(self, seed: int) -> TalkClip:
        """Clip number `seed`: a person, a voice, a stretch, a mood."""
        rng = np.random.default_rng(seed)
        voice = self.by_voice[rng.integers(len(self.by_voice))]
        _, entry, samples = voice[rng.integers(len(voice))]
        first = int(rng.integers(0, len(samples) * 25 // 16000 - LENGTH))
        cut = samples[first * 640 : (first + LENGTH) * 640]
        phones = [(p, float(a), float(b)) for p, a, b in entry["phones"]]
        mouth = mouth_weights(phones, samples, first + LENGTH, 25)[first:]
        rest = life(level(log_mel(cut, tiny().audio)[: 4 * LENGTH]), 25, rng, float(rng.uniform(0, 0.8)))
        head = new_person(self.inputs.faces, torch.Generator().manual_seed(seed))
        tracks = torch.from_numpy(np.concatenate([mouth, rest], 1))
        frames = self._pictures(head, tracks, redrawn=self.vae is not None and bool(rng.integers(2)))
        points = head.points + torch.cat([(head.move[0] * tracks[:, :, None, None]).sum(1), torch.zeros(LENGTH, 468, 1)], -1)
        landmarks = ((points + 1) * self.size / 2 - 0.5).numpy()
        loud = cut * float(rng.uniform(0.3, 1.5)) + rng.standard_normal(len(cut)).astype(np.float32) * 10 ** rng.uniform(-5, -3)
        rows = torch.from_numpy(mfcc(np.append(loud, np.zeros(400, np.float32))))
        return TalkClip(frames=frames, boxes=face_boxes(landmarks), rows=rows, mouth=torch.from_numpy(mouth),
                        landmarks=landmarks, samples=cut)

    def _pictures(self, head: Heads, tracks: Tensor, *, redrawn: bool) -> Tensor:
        drawn = draw_clip(head, torch.cat([torch.zeros(1, tracks.shape[1]), tracks]), self.size)
        if redrawn and self.vae is not None:
            made = self.vae.decode_clip(self.vae.encode_clip(drawn[1:][None]), drawn[:1]).frames[0]
            drawn = torch.cat([drawn[:1], made])
        return drawn[1:].clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).contiguous()


class _Trained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = SyncNet()
        self.sharp = nn.Parameter(torch.tensor(math.log(0.02)))
        self.mouth = nn.Linear(1024, FRAMES * len(SHAPES))

    def loss(self, faces: Tensor, sounds: Tensor, mouths: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and share right; the right sound of a window comes first.

        faces (N, 3, 5, 224, 224); sounds (N, 1 + OFFSETS, 1, 13, 20); mouths (N, 1 + OFFSETS, 5 * 6).
        """
        seen = self.net.see(faces).float()
        heard = self.net.hear(sounds.flatten(0, 1)).float()
        logits = -self.sharp.exp() * ((seen[:, None] - heard[None]) ** 2).sum(-1)
        target = torch.arange(len(seen)) * sounds.shape[1]
        told = ((self.mouth(seen) - mouths[:, 0]) ** 2).mean() + ((self.mouth(heard) - mouths.flatten(0, 1)) ** 2).mean()
        return F.cross_entropy(logits, target) + 20 * told, (logits.argmax(1) == target).float().mean()


def draw_batch(bank: list[TalkClip], size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Windows of `size` different clips, their sounds and the mouths of those."""
    faces, sounds, mouths = [], [], []
    for pick in rng.permutation(len(bank))[:size]:
        clip, at = bank[pick], int(rng.integers(MARGIN, LENGTH - FRAMES - MARGIN))
        jitter = np.array([rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04), rng.uniform(-0.05, 0.05)]) * clip.boxes[0, 2]
        crop = face_crops(clip.frames[at : at + FRAMES], clip.boxes[at : at + FRAMES] + jitter)
        crop = (crop - 128) * float(rng.uniform(0.8, 1.2)) + 128 + float(rng.uniform(-20, 20))
        faces.append(crop.flip(-1) if rng.integers(2) else crop)
        wrong = rng.permutation([k for k in range(-REACH, REACH + 1) if k])[:OFFSETS]
        starts = [at + int(k) for k in (0, *wrong)]
        sounds.append(torch.stack([clip.rows[4 * i : 4 * i + ROWS].T for i in starts])[:, None])
        mouths.append(torch.stack([clip.mouth[i : i + FRAMES].flatten() for i in starts]))
    return torch.stack(faces).transpose(1, 2), torch.stack(sounds), torch.stack(mouths)


@torch.no_grad()
def examine(net: SyncNet, clips: list[TalkClip]) -> dict[str, float]:
    """Offsets found and confidence, right sound and another clip's, on held-out clips."""
    net.eval()
    pairs = [embeddings(net, crops_of(c.frames.numpy(), c.landmarks), c.samples, 25.0) for c in clips]
    right = [score_of(distances(s, h)) for s, h in pairs]
    wrong = [score_of(distances(s, pairs[(i + 1) % len(pairs)][1])) for i, (s, _) in enumerate(pairs)]
    net.train()
    return {
        "held_offset_within_1": float(np.mean([abs(r.offset_frames) <= 1 for r in right])),
        "held_sync_c": round(float(np.mean([r.sync_c for r in right])), 3),
        "held_sync_d": round(float(np.mean([r.sync_d for r in right])), 3),
        "held_wrong_sync_c": round(float(np.mean([w.sync_c for w in wrong])), 3),
        "held_wrong_sync_d": round(float(np.mean([w.sync_d for w in wrong])), 3)}


def train_syncnet(source: Source, held: Source, out: Path, *, minutes: float, batch: int = 12, clips: int = 60, exam: int = 6,
                  resume: bool = True, most_steps: int | None = None) -> SyncNet:
    """Train for `minutes` of wall time or `most_steps` steps; on from the checkpoint `out` when it is there."""
    torch.manual_seed(0)
    model = _Trained()
    average = Average(model, 0.99)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    info: dict[str, object] = {"step": 0, "curve": [], "minutes": 0.0}
    if resume and out.is_file():
        info = load_checkpoint(out, model, average, optimiser)
    step, curve, before = int(str(info["step"])), list(info["curve"]), float(str(info["minutes"]))  # type: ignore[call-overload]
    with torch.no_grad():
        bank = [source.clip(10_000 * (step + 1) + i) for i in range(clips)]
        judged = [held.clip(5 + i) for i in range(exam)]
    log.info("%d clips drawn", clips)
    began = saved = time.monotonic()
    last = math.inf if most_steps is None else step + most_steps
    while (spent := (time.monotonic() - began) / 60) < minutes and step < last:
        rng = np.random.default_rng(step)
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 30) * min(1.0, 0.1 + 2 * (1 - spent / minutes))
        drawn = draw_batch(bank, batch, rng)
        with torch.autocast("cpu", torch.bfloat16):
            loss, right = model.loss(*drawn)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        average.update(model)
        step += 1
        if step % 4 == 0:  # people and sentences come and go
            with torch.no_grad():
                bank[(step // 4) % len(bank)] = source.clip(10_000_000 + step)
        if step % 20 == 0:
            point: dict[str, object] = {"step": step, "minutes": round(before + spent, 2), "loss": round(loss.item(), 3),
                                        "right": round(right.item(), 2)}
            if step % 100 == 0:
                point |= examine(model.net, judged)
            curve.append(point)
            log.info("syncnet %s", json.dumps(point))
        if time.monotonic() - saved > 180:
            save_checkpoint(out, model, average, optimiser, {"step": step, "curve": curve, "minutes": round(before + spent, 2)})
            saved = time.monotonic()
    info = {"step": step, "curve": curve, "minutes": round(before + (time.monotonic() - began) / 60, 2)}
    save_checkpoint(out, model, average, optimiser, info)
    model.load_state_dict({k: v.to(model.state_dict()[k].dtype) for k, v in average.weights.items()})
    return model.net.eval()


def export(net: SyncNet, folder: Path, info: dict[str, object]) -> None:
    """Two fp16 files of at most 16 MiB and what is known of them."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    for name, part in zip(BUNDLED, ("aud", "lip"), strict=True):
        path = folder / name
        temporary = path.with_name(path.name + ".part")
        save_file({k: v.contiguous() for k, v in state.items() if k.split(".")[0].endswith(part)}, str(temporary))
        temporary.replace(path)
    (folder / "syncnet.json").write_text(json.dumps(info, indent=1))


def main() -> None:
    """The command line."""
    from ..weights.loading import load_model

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--work", type=Path, default=Path("build/train"))
    parser.add_argument("--corpus", type=Path, default=Path("build/corpus"))
    parser.add_argument("--fresh", action="store_true")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    vae, inputs = load_model().vae, chosen.work / "inputs.safetensors"
    assert isinstance(vae, TinyVAE)
    source = Source(load_inputs(inputs, "train"), chosen.corpus, "train", vae)
    held = Source(load_inputs(inputs, "held"), chosen.corpus, "held", vae)
    out = chosen.work / "syncnet.safetensors"
    net = train_syncnet(source, held, out, minutes=chosen.minutes, resume=not chosen.fresh)
    from .checkpoint import read_info

    with torch.no_grad():
        final = examine(net, [held.clip(500 + i) for i in range(20)])
    log.info("held-out, 20 clips: %s", json.dumps(final))
    export(net, ASSETS, read_info(out) | {"held": final})


if __name__ == "__main__":
    main()
