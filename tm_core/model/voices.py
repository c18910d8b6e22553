"""Two voices told apart by place: how MultiTalk and InfiniteTalk's multi file were trained to hear them.

One attention sees the tokens of both voices, everywhere in the picture, and a rotary position tells them apart. The
voices stand at 2 and 22. A token of the video stands at 0..4 where its self-attention looks at the first speaker of the
portrait more than at the second and at the rest, at 20..24 where at the second, the further up the more it looks there
in comparison with all other tokens; at 12 where it looks at the rest. The portrait is the sequence's first latent. Every
block looks anew, and nothing here has weights.

Source: `get_attn_map_with_target` and `SingleStreamMutiAttention` of MeiGen-AI/MultiTalk c1ad840; MeiGen-AI/InfiniteTalk
0107cd9 has the same functions. A region without tokens, which is not a number there, is looked at by nobody here.

Non-goals: other numbers of voices, and streams that see the portrait only in a cache: there every voice is weighed by
its mask (blocks.py). Shapes: B batch, L tokens of F latents, S of one latent, H heads, E head width, R = 3 regions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import attention
from .rope import THETA, rotate

SPAN = 4.0  # of positions, for one speaker
STARTS = (0.0, 20.0)  # where each speaker's positions begin
STANDS = tuple(start + SPAN / 2 for start in STARTS)  # of their voices
BACKGROUND = 12.0
TINY = 1e-8
HEADS_AT_ONCE = 8  # of those that look: a kernel that keeps its scores keeps these


def regions_of(mask_BPS: Tensor) -> Tensor:
    """(B, S, R) ones and zeros: tokens of each of two speakers, then those of neither.

    A token is a speaker's from half of the mask's strongest token on: 0.5, but for a face smaller than a token.
    """
    own = (mask_BPS > 0) & (mask_BPS >= mask_BPS.amax(-1, keepdim=True) / 2)
    return torch.cat([own, ~own.any(1, keepdim=True)], 1).transpose(1, 2).float()


@torch.no_grad()
def places(q_BLHE: Tensor, k_BLHE: Tensor, regions_BSR: Tensor) -> Tensor:
    """Where each token stands (B, L) float32, from self-attention's queries and keys as they meet."""
    portrait, count = k_BLHE[:, : regions_BSR.shape[1]], q_BLHE.shape[2]
    # attention whose values are the regions: what a softmax over the portrait gives to each, without keeping the softmax
    values = F.pad(regions_BSR, (0, q_BLHE.shape[3] - regions_BSR.shape[2])).to(q_BLHE)[:, :, None]
    total = torch.zeros((), device=q_BLHE.device)
    for q, k in zip(q_BLHE.split(HEADS_AT_ONCE, 2), portrait.split(HEADS_AT_ONCE, 2), strict=True):
        looked = attention(q, k.to(q), values.expand(-1, -1, k.shape[2], -1))
        total = total + looked.unflatten(2, (k.shape[2], -1))[..., : regions_BSR.shape[2]].float().sum(2)
    return positions(total / count / regions_BSR.sum(1, keepdim=True).clamp(min=1))


def positions(looks_BLR: Tensor) -> Tensor:
    """Positions (B, L) of tokens by how much they look at a token of each region."""
    low, high = looks_BLR.amin(1, keepdim=True), looks_BLR.amax(1, keepdim=True)
    along = (looks_BLR - low) / (high - low + TINY) * SPAN
    at = torch.stack([along[..., 0] + STARTS[0], along[..., 1] + STARTS[1], torch.full_like(along[..., 2], BACKGROUND)], -1)
    return at.gather(-1, looks_BLR.argmax(-1, keepdim=True))[..., 0]


def turned(x: Tensor, at: Tensor) -> Tensor:
    """x (..., H, E) turned by positions (...), which may be of fewer axes, or 1 long on some."""
    width = x.shape[-1]
    rate = THETA ** (-torch.arange(0, width, 2, dtype=torch.float32, device=x.device) / width)
    angle = at.to(x.device, torch.float32)[..., None, None] * rate
    return rotate(x, torch.stack([angle.cos(), angle.sin()]))
