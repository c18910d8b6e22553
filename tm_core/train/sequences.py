"""Training sequences: generated clips, encoded once and kept on disk, and the batches drawn from them.

A clip is long (12 chunks); a sequence is its c0 and six neighbouring chunks c(t-5)..c(t), the positions
re-indexed without a hole (paper section 4.2). Clip i and batch s depend on (seed, i) and (seed, s) alone:
a run that was stopped goes on as if it had not been, and all processes of a run draw the same batch.

Shapes: B sequences, C latent channels, F latents, h w latent grid, S tokens of a latent, W x M audio window.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import InputError
from ..model.conditioning import make_reference
from ..vae.tiny import TinyVAE
from ..weights.files import save_tensors
from . import landmarks as lm
from .audio_augmentation import augment
from .dataset import PAD, Inputs, draw_clip, tracks
from .people import inside, new_person, soften
from .still_heads import Heads, pixel_grid

CHUNKS = 12  # of a clip
SEQUENCE = 7  # chunks of a training sequence (paper: 21 latents of 3)
LISTENING = 0.08  # share of clips in which the face listens: zero embedding, lips at rest
HELD_SEED = 77_000_000
MOUTH, EYES = 12.0, 6.0  # what the loss weighs there more than elsewhere (1)


@dataclass(frozen=True, kw_only=True)
class EncodedClip:
    """One encoded clip of F = CHUNKS * n latents and its sound."""

    latents: Tensor  # (C, F, h, w) float16
    reference: Tensor  # (C, h, w)
    weight: Tensor  # (h, w) of the loss
    face_mask: Tensor  # (S,)
    rows: Tensor  # (R, M) log-mel rows, from 11 frames before the first to 8 after the last
    speaking: Tensor  # (F,) False where the lips rest for the whole latent
    listens: Tensor  # () bool
    portrait: Tensor  # (3, H, W) uint8

    def to(self, device: torch.device | str) -> EncodedClip:
        """The same clip on another device."""
        return EncodedClip(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def face_tokens(points: Tensor, cfg: ModelConfig) -> Tensor:
    """(S,) share of each token in the face, the jaw's reach below the chin included; points (468, 3) normalised."""
    side = cfg.height
    oval = points[list(lm.OVAL), :2]
    centre = oval.mean(0)
    down = (points[152, :2] - points[10, :2]) * 0.08
    low = ((oval - centre) @ down > 0).float()[:, None]
    mask = soften(inside(centre + (oval - centre) * 1.05 + low * down, side), side // 32)
    return F.adaptive_avg_pool2d(mask, cfg.token_hw).flatten()


def loss_weight(head: Heads, cfg: ModelConfig) -> Tensor:
    """(h, w): 1, more on the eyes, most on the mouth and jaw."""
    height, width = cfg.latent_hw
    grid = F.adaptive_avg_pool2d(pixel_grid(cfg.height).permute(2, 0, 1), (height, width)).permute(1, 2, 0)
    tall = head.height[0].cpu()

    def blob(indices: tuple[int, ...], reach: float) -> Tensor:
        centre = head.points[0, list(indices), :2].mean(0).cpu()
        return torch.exp(-((((grid - centre) ** 2).sum(-1) / (reach * tall) ** 2) ** 2))

    mouth = blob((*lm.UPPER, *lm.LOWER), 0.28)
    eyes = blob(lm.LID[:7], 0.13) + blob(lm.LID[7:], 0.13)
    return (1 + MOUTH * mouth + EYES * eyes).to(head.points.device)


@torch.no_grad()
def make_clip(vae: TinyVAE, inputs: Inputs, cfg: ModelConfig, seed: int, *, motion: float, person: Heads | None = None) -> EncodedClip:
    """A new person says a random stretch of speech (or listens to it)."""
    rng = torch.Generator().manual_seed(seed)
    speech, latents = inputs.speech, CHUNKS * cfg.sampler.chunk_latents
    frames = 1 + 4 * (latents - 1)
    usable = speech.utterances(frames + 2 * (PAD - 12))
    u = usable[int(torch.randint(len(usable), (1,), generator=rng))]
    low, high = int(speech.starts[u]) + 12, int(speech.starts[u + 1]) - 12 - frames
    first = int(torch.randint(low, high + 1, (1,), generator=rng))
    listens = torch.rand(1, generator=rng).item() < LISTENING
    lively = motion * torch.rand(1, generator=rng).item()
    head = person if person is not None else new_person(inputs.faces, rng)
    device = head.texture.device
    weights = tracks(speech, first, frames, cfg.fps, seed, lively, silent=listens).to(device)
    still = torch.zeros(1, weights.shape[1], device=device)
    pictures = draw_clip(head, torch.cat([still, weights]), cfg.height)
    portrait, clip = pictures[:1], pictures[1:]
    raw = vae.encode_clip(clip[None])
    reference = vae.still(vae.frame(portrait))
    open_frames = torch.cat([weights[:1, :6].sum(1).expand(3), weights[:, :6].sum(1)]) > 0.02
    speaking = open_frames.view(-1, 4).any(1)
    speaking = F.max_pool1d(speaking.float()[None, None], 3, 1, 1)[0, 0] > 0
    start = torch.tensor([first - 11], device=speech.rows.device)
    return EncodedClip(
        latents=vae.normalise(raw)[0].half(), reference=vae.normalise(reference[:, :, None])[0, :, 0],
        weight=loss_weight(head, cfg), face_mask=face_tokens(head.points[0], cfg),
        rows=speech.features(start, 4 * latents + 16)[0], speaking=speaking, listens=torch.tensor(listens, device=device),
        portrait=portrait[0].clamp(0, 1).mul(255).round().byte(),
    )


class ClipCache:
    """Clips by number, made when they are first asked for and kept under `folder` (None: in memory alone).

    The folder's name changes with the autoencoder, the shapes, the weights of the loss and the split, so stale clips
    are never read.
    """

    def __init__(
        self, vae: TinyVAE, inputs: Inputs, cfg: ModelConfig, *, motion: float, seed: int, folder: Path | None, device: str = "cpu",
        in_memory: int = 400,
    ) -> None:
        self._vae, self._inputs, self._cfg, self._motion, self._seed = vae, inputs, cfg, motion, seed
        self._device, self._in_memory = device, in_memory
        self._recent: OrderedDict[int, EncodedClip] = OrderedDict()
        self._folder = None if folder is None else folder / _fingerprint(vae, cfg, inputs.identities, motion, seed)

    def __getitem__(self, index: int) -> EncodedClip:
        """Clip `index`, on the bank's device."""
        if index not in self._recent:
            self._recent[index] = self._load(index).to(self._device)
            if len(self._recent) > self._in_memory:
                self._recent.popitem(last=False)
        return self._recent[index]

    def _load(self, index: int) -> EncodedClip:
        path = None if self._folder is None else self._folder / f"{index:06d}.safetensors"
        if path is not None and path.is_file():
            return EncodedClip(**load_file(str(path)))
        clip = make_clip(self._vae, self._inputs, self._cfg, self._seed + index, motion=self._motion)
        if path is not None:
            _write(clip, path)
        return clip


def _write(clip: EncodedClip, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(InputError):  # another process makes the same clip, or there is no room: it is made again when needed
        save_tensors({path: {f.name: getattr(clip, f.name).cpu() for f in fields(clip)}}, field="clip")


def _fingerprint(vae: nn.Module, cfg: ModelConfig, identities: tuple[str, ...], motion: float, seed: int) -> str:
    shapes = (cfg.height, cfg.fps, cfg.sampler.chunk_latents, CHUNKS)
    digest = hashlib.sha256(repr((*shapes, (MOUTH, EYES), identities, motion, seed)).encode())
    for name, value in vae.state_dict().items():
        if name.startswith("mouth."):
            continue  # of TinyVAE: it makes no latents
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B sequences of F latents; every tensor's first axis is B."""

    x0: Tensor  # (B, C, F, h, w)
    reference: Tensor  # (B, 20, F, h, w)
    windows: Tensor  # (B, F, W, M)
    heard: Tensor  # (B, F) 0 where the embedding is zero
    face_mask: Tensor  # (B, S)
    weight: Tensor  # (B, 1, 1, h, w), mean 1
    text: Tensor | None = None  # (B, L, text_dim); None: an empty prompt
    image: Tensor | None = None  # (B, 257, image_dim)

    def part(self, which: slice) -> Batch:
        """Some of the sequences."""
        return self.map(lambda t: t[which])

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with every tensor changed."""
        return replace(self, **{f.name: change(t) for f in fields(self) if (t := getattr(self, f.name)) is not None})


def chosen_latents(t: int, chunk: int) -> list[int]:
    """c0 and c(t-5)..c(t): latent indices of a sequence that ends with chunk t (>= SEQUENCE - 1)."""
    first = (t - SEQUENCE + 2) * chunk
    return [*range(chunk), *range(first, (t + 1) * chunk)]


def assemble(clips: list[EncodedClip], latents: list[int], cfg: ModelConfig, rng: torch.Generator, *, clean: bool = False) -> Batch:
    """These latents of each clip; `clean`: the sound as it is, pauses heard."""
    device = clips[0].latents.device
    count, window = len(clips), 4 * 4 * cfg.audio.window_latents
    index = torch.tensor(latents, device=device)[:, None] * 16 + torch.arange(window, device=device)
    rows = torch.stack([c.rows[index] for c in clips])
    heard = torch.stack([c.speaking[latents] for c in clips]).float()
    if not clean:
        rows = augment(rows.flatten(1, 2), rng).view_as(rows)
        pauses = (torch.rand(count, 1, generator=rng) < 0.5).float().to(device)
        heard = heard * pauses + (1 - pauses)  # a pause is a zero embedding, or heard as the silence it is
    heard = heard * (~torch.stack([c.listens for c in clips])).float()[:, None]
    weight = torch.stack([c.weight for c in clips])
    weight = weight / weight.mean((1, 2), keepdim=True)
    return Batch(
        x0=torch.stack([c.latents[:, latents] for c in clips]).float(),
        reference=make_reference(torch.stack([c.reference for c in clips]), latents), windows=rows, heard=heard,
        face_mask=torch.stack([c.face_mask for c in clips]), weight=weight[:, None, None],
    )


@dataclass(frozen=True, kw_only=True)
class ClipData:
    """What a trainer draws batches from: a bank that grows with the steps, and clips of real footage, if any."""

    bank: ClipCache
    cfg: ModelConfig
    footage: Sequence[EncodedClip] = ()  # of at least SEQUENCE chunks
    footage_share: float = 0.5
    first_clips: int = 60
    renew_every: int = 2  # steps a new clip
    most_clips: int = 1200

    def batch(self, step: int, size: int, rng: torch.Generator) -> Batch:
        """`size` sequences of step `step`."""
        count = min(self.most_clips, self.first_clips + step // self.renew_every)
        picks = torch.randint(count, (size,), generator=rng).tolist()
        real = torch.rand(size, generator=rng) < (self.footage_share if self.footage else 0.0)
        clips = [self.footage[i % len(self.footage)] if r else self.bank[i] for i, r in zip(picks, real.tolist(), strict=True)]
        chunks = min(c.latents.shape[1] for c in clips) // self.cfg.sampler.chunk_latents
        t = int(torch.randint(SEQUENCE - 1, chunks, (1,), generator=rng))
        return assemble(clips, chosen_latents(t, self.cfg.sampler.chunk_latents), self.cfg, rng)


def exam_batch(bank: ClipCache, cfg: ModelConfig, count: int) -> Batch:
    """The first `count` clips' beginnings, with clean sound: what held-out figures are measured on."""
    n = cfg.sampler.chunk_latents
    return assemble([bank[i] for i in range(count)], list(range(SEQUENCE * n)), cfg, torch.Generator().manual_seed(5), clean=True)
