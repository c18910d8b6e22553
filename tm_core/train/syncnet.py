"""Training of SyncNet (metrics/syncnet.py) on generated clips, in three stages that hours of two CPU cores can carry.

`listen`: the sound stream reads phones and mouth shapes off speech. `look`: the lip stream's convolutions read the same
shapes off patches round the mouth, an eighth of the crop's work. `join`: these convolutions stay, whole crops pass them
once, and what follows learns which sound belongs to which window: cross-entropy over the lags of a clip and over other
clips' sounds. From the start and on whole crops the lip stream learnt nothing in 6000 windows. Half of the clips pass the
tiny autoencoder, whose pictures the score will see. Training identities and voices only.
`python -m tm_core.train.syncnet listen|look|join --minutes 20`, in this order; each goes on from its checkpoint.

Shapes: B clips, T windows of a clip, S = 6 mouth shapes, one window begins at each frame.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

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
    SIDE,
    SyncNet,
    crops_of,
    distances,
    embeddings,
    face_boxes,
    face_crops,
    flat,
    mfcc,
    score_of,
)
from ..vae.tiny import TinyVAE
from .checkpoint import Average, load_checkpoint, read_info, save_checkpoint
from .data import Inputs, _utterances, draw_clip, level, load_inputs
from .generator import Heads, new_person
from .landmarks import LOWER, UPPER
from .visemes import PHONES, SHAPES, life, mouth_weights, phone_labels

log = logging.getLogger(__name__)

LENGTH = 61  # frames of a clip
WINDOWS = LENGTH - FRAMES + 1
PACE = 0.2  # log range of how much slower or faster a voice is played: its pitch and vocal tract go along
STRETCH = 60  # windows of a stretch of speech
PATCH, SPACE = 96, 20  # side of the mouth's patch, pixels around it to shift it in
EARS, EYES = 18, 17  # layers of either stream before the first that sees all of a window; the eyes' with their last pool
FINE = 100  # mouth shapes of an utterance are kept at this rate
EARNEST = 0.7  # share of the time after which `listen` hears windows as the score does, cut out


@dataclass(frozen=True, kw_only=True)
class TalkClip:
    """A drawn clip: frames (T, H, W, 3) uint8, crop boxes (T, 3), cepstra (R, 13), mouth (T, 6), landmarks, samples."""

    frames: Tensor
    boxes: np.ndarray
    rows: Tensor
    mouth: Tensor  # weights of visemes.SHAPES
    landmarks: np.ndarray
    samples: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """Speech with its mouth shapes (N, 6) and phones (N,) at FINE a second."""

    voice: str
    samples: np.ndarray
    mouth: np.ndarray
    phones: np.ndarray
    trusted: bool


class Source:
    """Draws clips and stretches of speech of one split."""

    def __init__(self, inputs: Inputs, corpus: Path, split: str, vae: TinyVAE | None) -> None:
        self.inputs, self.vae, self.size = inputs, vae, tiny().height
        self.speech = [_utterance(*u) for u in _utterances(corpus) if u[1]["split"] == split]
        self.speech = [u for u in self.speech if len(u.samples) > (STRETCH + 10) * 640 * math.exp(PACE)]
        voices = sorted({u.voice for u in self.speech})
        self.by_voice = [[u for u in self.speech if u.voice == v] for v in voices]

    def stretch(self, rng: np.random.Generator, frames: int, *, pace: float = 1.0) -> tuple[Utterance, np.ndarray, np.ndarray]:
        """An utterance, samples (640 frames,) of it played at `pace`, and the seconds (frames,) its frames are from."""
        voice = self.by_voice[rng.integers(len(self.by_voice))]
        said = voice[rng.integers(len(voice))]
        first = float(rng.uniform(0, len(said.samples) - 640 * frames * pace - 1))
        at = first + np.arange(640 * frames) * pace
        when = (first + (np.arange(frames) + 0.5) * 640 * pace) / 16000
        return said, np.interp(at, np.arange(len(said.samples)), said.samples).astype(np.float32), when

    def clip(self, seed: int, *, other_voice: bool = False) -> TalkClip:
        """Clip number `seed`: a person, a voice (slower or faster than it is: `other_voice`), a stretch, a mood."""
        rng = np.random.default_rng(seed)
        said, cut, when = self.stretch(rng, LENGTH, pace=math.exp(rng.uniform(-PACE, PACE)) if other_voice else 1.0)
        mouth = read_at(said.mouth, when)
        rest = life(level(log_mel(cut, tiny().audio)[: 4 * LENGTH]), 25, rng, float(rng.uniform(0, 0.8)))
        head = new_person(self.inputs.faces, torch.Generator().manual_seed(seed))
        tracks = torch.from_numpy(np.concatenate([mouth, rest], 1).astype(np.float32))
        frames = self._pictures(head, tracks, redrawn=self.vae is not None and bool(rng.integers(2)))
        points = head.points + torch.cat([(head.move[0] * tracks[:, :, None, None]).sum(1), torch.zeros(LENGTH, 468, 1)], -1)
        landmarks = ((points + 1) * self.size / 2 - 0.5).numpy()
        return TalkClip(frames=frames, boxes=face_boxes(landmarks), rows=torch.from_numpy(mfcc(recorded(cut, rng))),
                        mouth=torch.from_numpy(mouth), landmarks=landmarks, samples=cut)

    def _pictures(self, head: Heads, tracks: Tensor, *, redrawn: bool) -> Tensor:
        drawn = draw_clip(head, torch.cat([torch.zeros(1, tracks.shape[1]), tracks]), self.size)
        if redrawn and self.vae is not None:
            made = self.vae.decode_clip(self.vae.encode_clip(drawn[1:][None]), drawn[:1]).frames[0]
            drawn = torch.cat([drawn[:1], made])
        return drawn[1:].clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).contiguous()


def _utterance(voice: str, entry: dict[str, Any], samples: np.ndarray) -> Utterance:
    phones = [(p, float(a), float(b)) for p, a, b in entry["phones"]]
    count = len(samples) * FINE // 16000
    return Utterance(voice=voice, samples=samples, mouth=mouth_weights(phones, samples, count, FINE),
                     phones=phone_labels(phones, count, FINE), trusted=bool(entry.get("trusted", True)))


def read_at(curve: np.ndarray, when: np.ndarray) -> np.ndarray:
    """(N, S) of a curve (M, S) at FINE a second, at the seconds `when` (N,)."""
    return np.stack([np.interp(when * FINE - 0.5, np.arange(len(curve)), c) for c in curve.T], 1).astype(np.float32)


def recorded(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The samples as another microphone and room noise have them, and 25 ms more, so that the last row is whole."""
    tilt = float(rng.uniform(-0.5, 0.5))
    heard = samples + tilt * np.append(np.zeros(1, np.float32), samples[:-1])
    heard = heard * float(rng.uniform(0.2, 1.5)) + rng.standard_normal(len(samples)) * 10 ** rng.uniform(-5, -2.5)
    return np.append(heard, np.zeros(400)).astype(np.float32)


# -- listen -------------------------------------------------------------------------------------------------


class Hearing(nn.Module):
    """The sound stream and what it is asked: mouth shapes of the five frames, the phone in their middle."""

    def __init__(self, net: SyncNet) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"netcnnaud": net.netcnnaud, "netfcaud": net.netfcaud})
        self.head = nn.Linear(1024, FRAMES * len(SHAPES) + len(PHONES))

    def forward(self, rows: Tensor, *, cut: bool) -> Tensor:
        """(B, T, 30 + phones) of cepstra (B, 4 T + 16, 13); `cut`: windows apart, else in one go, a fifth of the work.

        The layers' strides along time make four rows, which is one frame; only the windows' zero padding differs.
        """
        if cut:
            windows = rows.unfold(1, ROWS, 4).flatten(0, 1)[:, None]
            seen = self.net["netcnnaud"](windows).flatten(1).unflatten(0, (len(rows), -1))
        else:
            seen = self.net["netcnnaud"](rows.transpose(1, 2)[:, None])[:, :, 0].transpose(1, 2)
        told: Tensor = self.head(self.net["netfcaud"](seen.flatten(0, 1)))
        return cast(Tensor, told.unflatten(0, seen.shape[:2]))


def speech_batch(source: Source, size: int, windows: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Cepstra (B, 4 T + 16, 13), mouths (B, T, 5 S), phones (B, T), -1 where they are not trusted."""
    rows, mouths, phones = [], [], []
    for _ in range(size):
        said, cut, when = source.stretch(rng, windows + FRAMES - 1, pace=math.exp(rng.uniform(-PACE, PACE)))
        rows.append(mfcc(recorded(cut, rng))[: 4 * windows + ROWS - 4])
        mouth = read_at(said.mouth, when)
        mouths.append(np.lib.stride_tricks.sliding_window_view(mouth, FRAMES, 0).transpose(0, 2, 1).reshape(windows, -1))
        middle = (when[2:-2] * FINE).astype(int).clip(0, len(said.phones) - 1)
        phones.append(said.phones[middle] if said.trusted else np.full(windows, -1))
    return torch.from_numpy(np.stack(rows)), torch.from_numpy(np.stack(mouths)), torch.from_numpy(np.stack(phones))


def hearing_loss(told: Tensor, mouths: Tensor, phones: Tensor, spread: Tensor) -> Tensor:
    """Squared error in units of each shape's spread (5 S,), and cross-entropy on the phones that are trusted."""
    told = told.float()
    named = F.cross_entropy(told[..., len(spread) :].flatten(0, 1), phones.flatten(), ignore_index=-1, reduction="sum")
    return (((told[..., : len(spread)] - mouths) / spread) ** 2).mean() + 0.3 * named / phones.numel()


def explained(told: Tensor, mouths: Tensor) -> list[float]:
    """Share of each shape's variance that is explained, in the middle frame of five."""
    middle = slice(2 * len(SHAPES), 3 * len(SHAPES))
    a, b = told[..., middle].flatten(0, -2).float(), mouths[..., middle].flatten(0, -2)
    return [round(float(x), 3) for x in 1 - ((a - b) ** 2).sum(0) / ((b - b.mean(0)) ** 2).sum(0)]


# -- look ---------------------------------------------------------------------------------------------------


class Looking(nn.Module):
    """The lip stream's convolutions and a head that reads the five frames' mouth shapes."""

    def __init__(self, net: SyncNet) -> None:
        super().__init__()
        self.netcnnlip = nn.Sequential(*list(net.netcnnlip)[:EYES])
        self.pool = net.netcnnlip[EYES]
        self.head = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1024), nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, FRAMES * len(SHAPES)))

    def forward(self, patches: Tensor) -> Tensor:
        """(N, 30) of patches (N, 15, 96, 96)."""
        return cast(Tensor, self.head(flat((*self.netcnnlip.children(), self.pool), patches)))


def patches_of(clip: TalkClip, rng: np.random.Generator) -> Tensor:
    """(T, 3, 136, 136) uint8 round the mouth, cut out of crops whose boxes are off a little."""
    boxes = shaken(clip.boxes, rng)
    lips = clip.landmarks[:, [*UPPER, *LOWER], :2].mean((0, 1))
    at = ((lips - boxes[:, :2]) / boxes[:, 2:]).mean(0) * SIDE / 2 + SIDE / 2
    side = PATCH + 2 * SPACE
    x, y = (int(np.clip(round(float(v)) - side // 2, 0, SIDE - side)) for v in at)
    return face_crops(clip.frames, boxes)[:, :, y : y + side, x : x + side].round().clamp(0, 255).byte()


def shaken(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Boxes (T, 3) shifted by up to 5 %, larger or smaller by up to 8 %, all alike."""
    return np.asarray(boxes + rng.uniform(-1, 1, 3) * (0.05, 0.05, 0.08) * boxes[0, 2])


def patch_batch(bank: list[tuple[Tensor, Tensor]], size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Windows (N, 15, 96, 96) of different clips, some mirrored, other light; mouths (N, 5 S)."""
    faces, mouths = [], []
    for pick in rng.permutation(len(bank))[:size]:
        patches, mouth = bank[pick]
        at, (x, y) = int(rng.integers(0, WINDOWS)), rng.integers(0, 2 * SPACE, 2)
        cut = patches[at : at + FRAMES, :, y : y + PATCH, x : x + PATCH].float()
        faces.append(lit(cut.flip(-1) if rng.integers(2) else cut, rng).transpose(0, 1).flatten(0, 1))
        mouths.append(mouth[at : at + FRAMES].flatten())
    return torch.stack(faces).contiguous(memory_format=torch.channels_last), torch.stack(mouths)


def lit(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures (..., 3, H, W) in another light."""
    colour = torch.from_numpy(rng.uniform(-12, 12, (3, 1, 1)).astype(np.float32))
    return (pictures - 128) * float(rng.uniform(0.75, 1.25)) + 128 + float(rng.uniform(-20, 20)) + colour


# -- join ---------------------------------------------------------------------------------------------------


class Joining(nn.Module):
    """What follows the fixed convolutions of both streams, and how sharp their distances are."""

    def __init__(self, net: SyncNet) -> None:
        super().__init__()
        self.net = net
        self.sharp = nn.Parameter(torch.tensor(math.log(0.05)))
        self.mouth = nn.Linear(1024, FRAMES * len(SHAPES))
        net.requires_grad_(False)
        for part in (net.netcnnlip[EYES:], net.netcnnaud[EARS:], net.netfclip, net.netfcaud):
            part.requires_grad_(True)

    def train(self, mode: bool = True) -> Joining:
        """The fixed layers keep the statistics that they were trained with."""
        super().train(mode)
        self.net.netcnnlip[:EYES].eval()
        self.net.netcnnaud[:EARS].eval()
        return self

    def forward(self, seen: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, T, 1024) of maps of faces (B, T, 256, 6, 6) and of sounds (B, T, 256, 5, 4)."""
        size = seen.shape[:2]
        lips = flat(list(self.net.netcnnlip)[EYES + 1 :], F.dropout(seen.flatten(0, 1), 0.3, self.training)).flatten(1)
        ears = self.net.netcnnaud[EARS:](F.dropout(heard.flatten(0, 1), 0.2, self.training)).flatten(1)
        return self.net.netfclip(lips).unflatten(0, size), self.net.netfcaud(ears).unflatten(0, size)

    def loss(self, seen: Tensor, heard: Tensor, mouths: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and the share of windows whose own sound is the nearest of its clip's, one frame off forgiven."""
        s, h = (t.float() for t in self(seen, heard))
        scale = self.sharp.exp()
        near = -scale * torch.cdist(s, h) ** 2  # (B, T, T)
        index = torch.arange(near.shape[1])
        lag = index[None] - index[:, None]
        within = near.masked_fill(lag.abs() > REACH, -1e4)
        others = -scale * ((s - h.roll(1, 0)[:, torch.randperm(len(index))]) ** 2).sum(-1, keepdim=True)
        target = index.expand(len(s), -1)
        by_face = F.cross_entropy(torch.cat([within, others], -1).flatten(0, 1), target.flatten())
        by_sound = F.cross_entropy(within.transpose(1, 2).flatten(0, 1), target.flatten())
        told = sum(((((self.mouth(e) - mouths) / spread) ** 2).mean() for e in (s, h)), torch.zeros(()))
        right = (within.argmax(-1) - target).abs() <= 1
        return by_face + by_sound + 0.5 * told, right.float().mean()


@torch.no_grad()
def maps_of(net: SyncNet, clip: TalkClip, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """What the fixed layers make of a clip: faces (T, 256, 6, 6), sounds (T, 256, 5, 4), both bfloat16; mouths (T, 5 S)."""
    crops = lit(face_crops(clip.frames, shaken(clip.boxes, rng)), rng)
    crops = crops.flip(-1) if rng.integers(2) else crops
    windows = crops.unfold(0, FRAMES, 1).permute(0, 1, 4, 2, 3).flatten(1, 2)
    rows = clip.rows[: 4 * WINDOWS + ROWS - 4].unfold(0, ROWS, 4)[:, None]
    fixed = list(net.netcnnlip)[: EYES + 1]
    with torch.autocast("cpu", torch.bfloat16):
        seen = [flat(fixed, part.contiguous(memory_format=torch.channels_last)).bfloat16() for part in windows.split(19)]
        heard = net.netcnnaud[:EARS](rows).bfloat16()
    mouths = clip.mouth.unfold(0, FRAMES, 1).transpose(1, 2).flatten(1)
    return torch.cat(seen), heard, mouths


@torch.no_grad()
def examine(net: SyncNet, clips: list[TalkClip]) -> dict[str, float]:
    """Offsets found and confidence, right sound and another clip's, on held-out clips."""
    net.eval()
    pairs = [embeddings(net, crops_of(c.frames.numpy(), c.landmarks), c.samples, 25.0) for c in clips]
    right = [score_of(distances(s, h)) for s, h in pairs]
    wrong = [score_of(distances(s, pairs[(i + 1) % len(pairs)][1])) for i, (s, _) in enumerate(pairs)]
    return {
        "held_offset_within_1": round(float(np.mean([abs(r.offset_frames) <= 1 for r in right])), 3),
        "held_sync_c": round(float(np.mean([r.sync_c for r in right])), 3),
        "held_sync_d": round(float(np.mean([r.sync_d for r in right])), 3),
        "held_wrong_sync_c": round(float(np.mean([w.sync_c for w in wrong])), 3),
        "held_wrong_sync_d": round(float(np.mean([w.sync_d for w in wrong])), 3)}


# -- stages -------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Stage:
    """A resumable loop over steps of one module: rate falls to nothing as the time runs out."""

    name: str
    module: nn.Module
    out: Path
    rate: float
    decay: float = 0.01

    def run(self, step: Callable[[int, float], Tensor], judge: Callable[[], dict[str, Any]], *, minutes: float,
            most_steps: int | None = None, report_every: int = 50, judge_every: int = 200) -> dict[str, Any]:
        """Train for `minutes` or `most_steps` on step(number, share of the time), on from `out`; ends with the average."""
        average = Average(self.module, 0.995)
        optimiser = torch.optim.AdamW([p for p in self.module.parameters() if p.requires_grad], lr=self.rate, weight_decay=self.decay)
        info: dict[str, Any] = {"step": 0, "curve": [], "minutes": 0.0}
        if self.out.is_file():
            info = load_checkpoint(self.out, self.module, average, optimiser)
        before, began = info["minutes"], time.monotonic()
        last, saved = math.inf if most_steps is None else info["step"] + most_steps, began
        while (spent := (time.monotonic() - began) / 60) < minutes and info["step"] < last:
            for group in optimiser.param_groups:
                group["lr"] = self.rate * min(1.0, (info["step"] + 1) / 50) * min(1.0, 0.02 + 1.6 * (1 - spent / minutes))
            loss = step(info["step"], spent / minutes)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), 5.0)
            optimiser.step()
            average.update(self.module)
            info["step"] += 1
            info["minutes"] = round(before + (time.monotonic() - began) / 60, 2)
            if info["step"] % report_every == 0:
                point = {"step": info["step"], "minutes": info["minutes"], "loss": round(loss.item(), 3)}
                if info["step"] % judge_every == 0:
                    self.module.eval()
                    with torch.no_grad():
                        point |= judge()
                    self.module.train()
                info["curve"].append(point)
                log.info("%s %s", self.name, json.dumps(point))
            if time.monotonic() - saved > 120:
                save_checkpoint(self.out, self.module, average, optimiser, info)
                saved = time.monotonic()
        save_checkpoint(self.out, self.module, average, optimiser, info)
        load_average(self.module, average.weights)
        return info


def load_average(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """The averaged weights, into a module in evaluation."""
    own = module.state_dict()
    module.load_state_dict({k: v.to(own[k].dtype) for k, v in weights.items()})
    module.eval()


def _spread(source: Source) -> Tensor:
    """(5 S,) standard deviation of each mouth shape in this speech."""
    one = np.concatenate([u.mouth for u in source.speech]).std(0)
    return torch.from_numpy(np.tile(one, FRAMES).astype(np.float32))


def listen(net: SyncNet, source: Source, held: Source, out: Path, *, minutes: float, size: int = 12, exam: int = 24,
           most_steps: int | None = None) -> dict[str, Any]:
    """Train the sound stream of `net`."""
    model, spread = Hearing(net).train(), _spread(source)
    judged = speech_batch(held, exam, STRETCH, np.random.default_rng(1))

    def step(number: int, share: float) -> Tensor:
        rows, mouths, phones = speech_batch(source, size, STRETCH, np.random.default_rng(number))
        with torch.autocast("cpu", torch.bfloat16):
            told = model(rows, cut=share > EARNEST)
        return hearing_loss(told, mouths, phones, spread)

    def judge() -> dict[str, Any]:
        told = model(judged[0], cut=True)
        return {"held_loss": round(float(hearing_loss(told, *judged[1:], spread)), 3), "held_explained": explained(told, judged[1])}

    return Stage(name="listen", module=model, out=out, rate=1.5e-3).run(step, judge, minutes=minutes, most_steps=most_steps)


def look(net: SyncNet, source: Source, held: Source, out: Path, *, minutes: float, size: int = 32, clips: int = 60, most_clips: int = 500,
         exam: int = 8, most_steps: int | None = None, renew_every: int = 3) -> dict[str, Any]:
    """Train the convolutions of the lip stream of `net`; a new clip comes every `renew_every` steps, later in an old one's place."""
    model, spread = Looking(net).train(), _spread(source)
    begun = read_info(out)["step"] if out.is_file() else 0

    def patches(of: Source, seed: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            clip = of.clip(seed, other_voice=True)
            return patches_of(clip, np.random.default_rng(seed)), clip.mouth

    bank = [patches(source, 1000 + begun * 7 + i) for i in range(clips)]
    judged = [patch_batch([patches(held, 5 + i)] * 24, 24, np.random.default_rng(i)) for i in range(exam)]

    def step(number: int, _: float) -> Tensor:
        if number % renew_every == 0:
            bank.append(patches(source, 1_000_000 + number))
            if len(bank) > most_clips:
                bank.pop(0)
        faces, mouths = patch_batch(bank, size, np.random.default_rng(number))
        with torch.autocast("cpu", torch.bfloat16):
            told = model(faces)
        return cast(Tensor, (((told.float() - mouths) / spread) ** 2).mean())

    def judge() -> dict[str, Any]:
        told = torch.stack([model(faces) for faces, _ in judged])
        return {"held_explained": explained(told, torch.stack([m for _, m in judged]))}

    return Stage(name="look", module=model, out=out, rate=1.5e-3).run(step, judge, minutes=minutes, most_steps=most_steps)


def join(net: SyncNet, source: Source, held: Source, out: Path, *, minutes: float, size: int = 6, clips: int = 40, most_clips: int = 700,
         exam: int = 12, most_steps: int | None = None, renew_every: int = 2) -> dict[str, Any]:
    """Train what follows the convolutions of `net`, which `listen` and `look` have trained."""
    model, spread = Joining(net).train(), _spread(source)
    begun = read_info(out)["step"] if out.is_file() else 0

    def maps(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            return maps_of(net, source.clip(seed, other_voice=True), np.random.default_rng(seed))

    bank = [maps(2_000_000 + begun * 7 + i) for i in range(clips)]
    judged = [held.clip(5 + i) for i in range(exam)]

    def step(number: int, _: float) -> Tensor:
        if number % renew_every == 0:
            bank.append(maps(3_000_000 + number))
            if len(bank) > most_clips:
                bank.pop(0)
        picks = np.random.default_rng(number).permutation(len(bank))[:size]
        seen, heard, mouths = (torch.stack([bank[i][part] for i in picks]) for part in range(3))
        with torch.autocast("cpu", torch.bfloat16):
            return model.loss(seen, heard, mouths, spread)[0]

    return Stage(name="join", module=model, out=out, rate=1e-3, decay=0.05).run(
        step, lambda: examine(net, judged), minutes=minutes, most_steps=most_steps)


def export(net: SyncNet, folder: Path, info: dict[str, object]) -> None:
    """Two fp16 files of at most 16 MiB and what is known of them."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    for name, part in zip(BUNDLED, ("aud", "lip"), strict=True):
        path = folder / name
        temporary = path.with_name(path.name + ".part")
        save_file({k: v.contiguous() for k, v in state.items() if k.split(".")[0].endswith(part)}, str(temporary))
        temporary.replace(path)
    (folder / "syncnet.json").write_text(json.dumps(info, indent=1))


def take_over(net: SyncNet, checkpoint: Path, wrapper: Callable[[SyncNet], nn.Module]) -> dict[str, Any]:
    """Put the averaged weights of a stage's checkpoint into `net`; returns what is known of it."""
    module = wrapper(net)
    average = Average(module)
    info = load_checkpoint(checkpoint, module, average, torch.optim.AdamW([p for p in module.parameters() if p.requires_grad]))
    load_average(module, average.weights)
    return info


def main() -> None:
    """The command line."""
    from ..weights.loading import load_model

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("listen", "look", "join"))
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--work", type=Path, default=Path("build/train"))
    parser.add_argument("--corpus", type=Path, default=Path("build/corpus"))
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    vae, inputs = load_model().vae, chosen.work / "inputs.safetensors"
    assert isinstance(vae, TinyVAE)
    source = Source(load_inputs(inputs, "train"), chosen.corpus, "train", vae)
    held = Source(load_inputs(inputs, "held"), chosen.corpus, "held", vae)
    torch.manual_seed(0)
    net, at = SyncNet(), {stage: chosen.work / f"syncnet.{stage}.safetensors" for stage in ("listen", "look", "join")}
    if chosen.stage != "join":
        {"listen": listen, "look": look}[chosen.stage](net, source, held, at[chosen.stage], minutes=chosen.minutes)
        return
    known = {"listen": take_over(net, at["listen"], Hearing), "look": take_over(net, at["look"], Looking)}
    known["join"] = join(net, source, held, at["join"], minutes=chosen.minutes)
    final = examine(net, [held.clip(500 + i) for i in range(20)])
    log.info("held-out, 20 clips: %s", json.dumps(final))
    export(net, ASSETS, {"held": final, **known})


if __name__ == "__main__":
    main()
