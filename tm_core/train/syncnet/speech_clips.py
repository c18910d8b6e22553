"""Clips and stretches of speech of one split, drawn by the training data's generator.

Shapes: T frames at 25 a second, R rows of cepstra at 100, S = 6 mouth shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...audio.features import log_mel
from ...config import tiny
from ...metrics.syncnet import FRAMES, face_boxes, mfcc
from ...vae.tiny import TinyVAE
from ..dataset import Inputs, _utterances, draw_clip, level
from ..people import new_person
from ..still_heads import Heads
from ..visemes import life, mouth_weights, phone_labels

LENGTH = 61  # frames of a clip
WINDOWS = LENGTH - FRAMES + 1
PACE = 0.2  # log range of how much slower or faster a voice is played: its pitch and vocal tract go along
STRETCH = 60  # windows of a stretch of speech
FINE = 100  # mouth shapes of an utterance are kept at this rate


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
class LabelledUtterance:
    """Speech with its mouth shapes (N, 6) and phones (N,) at FINE a second."""

    voice: str
    samples: np.ndarray
    mouth: np.ndarray
    phones: np.ndarray
    trusted: bool


class SpeechClips:
    """Draws clips and stretches of speech of one split."""

    def __init__(self, inputs: Inputs, corpus: Path, split: str, vae: TinyVAE | None) -> None:
        self.inputs, self.vae, self.size = inputs, vae, tiny().height
        self.speech = [_utterance(*u) for u in _utterances(corpus) if u[1]["split"] == split]
        self.speech = [u for u in self.speech if len(u.samples) > (STRETCH + 10) * 640 * math.exp(PACE)]
        voices = sorted({u.voice for u in self.speech})
        self.by_voice = [[u for u in self.speech if u.voice == v] for v in voices]

    def stretch(self, rng: np.random.Generator, frames: int, *, pace: float = 1.0) -> tuple[LabelledUtterance, np.ndarray, np.ndarray]:
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


def _utterance(voice: str, entry: dict[str, Any], samples: np.ndarray) -> LabelledUtterance:
    phones = [(p, float(a), float(b)) for p, a, b in entry["phones"]]
    count = len(samples) * FINE // 16000
    return LabelledUtterance(
        voice=voice, samples=samples, mouth=mouth_weights(phones, samples, count, FINE), phones=phone_labels(phones, count, FINE),
        trusted=bool(entry.get("trusted", True)))


def read_at(curve: np.ndarray, when: np.ndarray) -> np.ndarray:
    """(N, S) of a curve (M, S) at FINE a second, at the seconds `when` (N,)."""
    return np.stack([np.interp(when * FINE - 0.5, np.arange(len(curve)), c) for c in curve.T], 1).astype(np.float32)


def recorded(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The samples as another microphone and room noise have them, and 25 ms more, so that the last row is whole."""
    tilt = float(rng.uniform(-0.5, 0.5))
    heard = samples + tilt * np.append(np.zeros(1, np.float32), samples[:-1])
    heard = heard * float(rng.uniform(0.2, 1.5)) + rng.standard_normal(len(samples)) * 10 ** rng.uniform(-5, -2.5)
    return np.append(heard, np.zeros(400)).astype(np.float32)
