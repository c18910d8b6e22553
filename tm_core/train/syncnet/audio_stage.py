"""Stage `listen`: the sound stream reads mouth shapes and phones off speech.

Shapes: B stretches, T windows of a stretch, one begins at each frame, S mouth shapes.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...metrics.syncnet import FRAMES, ROWS, SyncNet, mfcc
from ..visemes import PHONES, SHAPES
from .speech_clips import FINE, PACE, SpeechClips, read_at, recorded


class AudioPretraining(nn.Module):
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
        predicted: Tensor = self.head(self.net["netfcaud"](seen.flatten(0, 1)))
        return cast(Tensor, predicted.unflatten(0, seen.shape[:2]))


def speech_batch(source: SpeechClips, size: int, windows: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
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


def audio_loss(predicted: Tensor, mouths: Tensor, phones: Tensor, spread: Tensor) -> Tensor:
    """Squared error in units of each shape's spread (5 S,), and cross-entropy on the phones that are trusted."""
    predicted = predicted.float()
    named = F.cross_entropy(predicted[..., len(spread) :].flatten(0, 1), phones.flatten(), ignore_index=-1, reduction="sum")
    return (((predicted[..., : len(spread)] - mouths) / spread) ** 2).mean() + 0.3 * named / phones.numel()


def explained(predicted: Tensor, mouths: Tensor) -> list[float]:
    """Share of each shape's variance that is explained, in the middle frame of five."""
    middle = slice(2 * len(SHAPES), 3 * len(SHAPES))
    a, b = predicted[..., middle].flatten(0, -2).float(), mouths[..., middle].flatten(0, -2)
    return [round(float(x), 3) for x in 1 - ((a - b) ** 2).sum(0) / ((b - b.mean(0)) ** 2).sum(0)]
