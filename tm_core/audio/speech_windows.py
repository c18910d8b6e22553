"""Which speech features a latent frame hears, for the open 14B checkpoints, by absolute latent index.

Two rules: `TokenWindows` (FantasyTalking: 17 tokens of the 50 Hz sequence around the latent's frames) and
`FrameWindows` (MultiTalk, InfiniteTalk, SoulX-FlashTalk, SoulX-LiveAct: five video frames around each of the
latent's frames, thinned to 3 + 2 + 3). Nothing depends on where a chunk begins, so a stream's windows equal the
file's. Both say how far they look ahead of the picture. They work on what an encoder made; that encoder
(wav2vec2.py) hears its whole clip, which no window can undo.

Shapes: N tokens or frames of features, F latents, W entries of a window, trailing axes "..." kept as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError

STRIDE = 4  # video frames of a latent, Wan's autoencoder
REACH_FRAMES = 2  # MultiTalk's window of a video frame: two frames on either side
MARGIN_TOKENS = 4  # FantasyTalking widens each range by these on either side


def _not_empty(features: Tensor) -> None:
    if not len(features):
        raise InputError("audio", "no features", "a window needs at least one", "give it a longer sound")


# -- FantasyTalking -------------------------------------------------------------------------------------------


class PaddedWindows(NamedTuple):
    """Windows whose tail may be padding: `tokens` (F, W, ...) and how many of each are real, `lengths` (F,) int64."""

    tokens: Tensor
    lengths: Tensor


@dataclass(frozen=True, kw_only=True)
class TokenWindows:
    """FantasyTalking's rule; `tokens_per_frame` is the rate at which its tokens run against the video.

    Source: `split_audio_sequence` and `split_tensor_with_padding` of Fantasy-AMAP/fantasy-talking 8c2d0c9. Tokens
    are those after the projection: what lies outside the sound is zero there, and `lengths` keeps it out of attention.
    """

    tokens_per_frame: float
    margin: int = MARGIN_TOKENS

    @classmethod
    def of_clip(cls, num_tokens: int, num_frames: int) -> TokenWindows:
        """The official rule: the clip's tokens spread evenly over the clip's frames."""
        return cls(tokens_per_frame=num_tokens / num_frames)

    @property
    def half(self) -> int:
        """Tokens on either side of the centre, before the margin."""
        return int(2 * self.tokens_per_frame)

    @property
    def size(self) -> int:
        """Tokens W of every window: 17 at 23 fps."""
        return 2 * (self.half + self.margin) + 1

    def _start(self, i: int) -> int:
        """First token of latent i >= 1 before the margin; floating point in the official order, so it rounds alike."""
        first, last = self.tokens_per_frame * (STRIDE * (i - 1) + 1), self.tokens_per_frame * (STRIDE * i + 1)
        return int((first + last) / 2) - 1 - self.half

    def tokens(self, i: int) -> range:
        """Tokens of latent i; may begin before 0 and end after the sound. Latent 0's end where latent 1's centre range begins."""
        start = self._start(i) if i else self._start(1) - 2 * self.half
        return range(start - self.margin, start + 2 * self.half + 1 + self.margin)

    def needed(self, latents: range) -> int:
        """Tokens that must exist before these latents' windows are final (a live stream waits for them)."""
        return max(0, *(self.tokens(i).stop for i in latents))

    @property
    def lookahead_frames(self) -> int:
        """Video frames after a latent's last one whose tokens its window may hold."""
        first = STRIDE // 2 + (self.margin - self.half) / self.tokens_per_frame
        later = (self.half + self.margin) / self.tokens_per_frame - STRIDE // 2
        return math.ceil(max(first, later))

    def window(self, features: Tensor, i: int) -> tuple[Tensor, int]:
        """Window (W, ...) of latent i of a sound's tokens (N, ...), real tokens first, and how many are real."""
        span = self.tokens(i)
        real = features[max(span.start, 0) : max(span.stop, 0)]
        out = features.new_zeros((len(span), *features.shape[1:]))
        out[: len(real)] = real
        return out, len(real)

    def windows(self, features: Tensor, latents: range) -> PaddedWindows:
        """Windows of consecutive latents; InputError for a sound without tokens."""
        _not_empty(features)
        made = [self.window(features, i) for i in latents]
        return PaddedWindows(torch.stack([w for w, _ in made]), torch.tensor([n for _, n in made], device=features.device))


# -- MultiTalk and its relatives --------------------------------------------------------------------------------


class GroupedWindows(NamedTuple):
    """`first` (0 or 1, 5, ...): a clip's first latent, one frame; `later` (F or F - 1, 8, ...): latents of four frames."""

    first: Tensor
    later: Tensor


@dataclass(frozen=True, kw_only=True)
class FrameWindows:
    """MultiTalk's rule: frame t hears frames t - 2 ... t + 2, repeated at the ends of the sound.

    A latent of one frame has those five. A latent of four has 3 + 2 + 3: the first frame's window up to its centre, the
    centres of the middle two, the last frame's window from its centre on. Source: `wan/multitalk.py` and
    `wan/modules/multitalk_model.py` of MeiGen-AI/MultiTalk c1ad840.
    """

    reach: int = REACH_FRAMES

    @property
    def lookahead_frames(self) -> int:
        """Video frames after a latent's last one that its window holds."""
        return self.reach

    def frames(self, i: int, *, clip_start: int = 0) -> range:
        """Frames of latent i: consecutive, because the three parts of a group of four join without a gap.

        `clip_start` is the latent that begins a clip sampled on its own (InfiniteTalk, FlashTalk): it stands for its last frame alone.
        """
        last = STRIDE * i
        first = last if i == clip_start else last - STRIDE + 1
        return range(first - self.reach, last + self.reach + 1)

    def needed(self, latents: range) -> int:
        """Frames of features that must exist before these latents' windows are final."""
        return self.frames(latents[-1]).stop

    def windows(self, features: Tensor, latents: range, *, clip_start: int = 0) -> GroupedWindows:
        """Windows of consecutive latents of a sound's features (N, ...), one per video frame.

        Raises InputError for a sound without features and for latents before the clip's first.
        """
        _not_empty(features)
        if len(latents) and latents[0] < clip_start:
            raise InputError("latents", latents[0], f"this clip begins at latent {clip_start}", "ask for latents of this clip")
        rows = [[min(max(t, 0), len(features) - 1) for t in self.frames(i, clip_start=clip_start)] for i in latents]
        first = [row for i, row in zip(latents, rows, strict=True) if i == clip_start]
        later = [row for i, row in zip(latents, rows, strict=True) if i != clip_start]
        return GroupedWindows(self._take(features, first, 2 * self.reach + 1), self._take(features, later, 2 * self.reach + STRIDE))

    def _take(self, features: Tensor, rows: list[list[int]], size: int) -> Tensor:
        index = torch.tensor(rows, dtype=torch.long, device=features.device).reshape(len(rows), size)
        return features[index]
