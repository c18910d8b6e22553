"""Stage `join`: with the convolutions fixed, what follows them learns which sound belongs to which window.

Shapes: B clips, T windows of a clip, S mouth shapes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...metrics.syncnet import FRAMES, REACH, ROWS, SyncNet, crops_of, distances, embeddings, face_crops, flat, score_of
from ..mixed_precision import mixed_precision
from ..visemes import SHAPES
from .lip_stage import LIP_FIXED, lit, shaken
from .speech_clips import WINDOWS, TalkClip

AUDIO_FIXED = 18  # the first layers of the sound stream, its last pool included


class JointTraining(nn.Module):
    """What follows the fixed convolutions of both streams, and how sharp their distances are."""

    def __init__(self, net: SyncNet) -> None:
        super().__init__()
        self.net = net
        self.sharp = nn.Parameter(torch.tensor(math.log(0.05)))
        self.mouth = nn.Linear(1024, FRAMES * len(SHAPES))
        net.requires_grad_(False)
        for part in (net.netcnnlip[LIP_FIXED:], net.netcnnaud[AUDIO_FIXED:], net.netfclip, net.netfcaud):
            part.requires_grad_(True)

    def train(self, mode: bool = True) -> JointTraining:
        """The fixed layers keep the statistics that they were trained with."""
        super().train(mode)
        self.net.netcnnlip[:LIP_FIXED].eval()
        self.net.netcnnaud[:AUDIO_FIXED].eval()
        return self

    def forward(self, seen: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, T, 1024) of maps of faces (B, T, 256, 6, 6) and of sounds (B, T, 256, 5, 4)."""
        size = seen.shape[:2]
        lips = flat(list(self.net.netcnnlip)[LIP_FIXED + 1 :], F.dropout(seen.flatten(0, 1).float(), 0.3, self.training)).flatten(1)
        ears = self.net.netcnnaud[AUDIO_FIXED:](F.dropout(heard.flatten(0, 1).float(), 0.2, self.training)).flatten(1)
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
        predicted = sum(((((self.mouth(e) - mouths) / spread) ** 2).mean() for e in (s, h)), torch.zeros(()))
        right = (within.argmax(-1) - target).abs() <= 1
        return by_face + by_sound + 0.5 * predicted, right.float().mean()


@torch.no_grad()
def maps_of(net: SyncNet, clip: TalkClip, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """What the fixed layers make of a clip: faces (T, 256, 6, 6), sounds (T, 256, 5, 4), both bfloat16; mouths (T, 5 S)."""
    crops = lit(face_crops(clip.frames, shaken(clip.boxes, rng)), rng)
    crops = crops.flip(-1) if rng.integers(2) else crops
    windows = crops.unfold(0, FRAMES, 1).permute(0, 1, 4, 2, 3).flatten(1, 2)
    rows = clip.rows[: 4 * WINDOWS + ROWS - 4].unfold(0, ROWS, 4)[:, None]
    fixed = list(net.netcnnlip)[: LIP_FIXED + 1]
    with mixed_precision("cpu"):
        seen = [flat(fixed, part.contiguous(memory_format=torch.channels_last)).bfloat16() for part in windows.split(19)]
        heard = net.netcnnaud[:AUDIO_FIXED](rows).bfloat16()
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
