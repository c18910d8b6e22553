"""The network that is trained: transformer and audio projector, on whole sequences of clean or noised latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..model.audio_projector import AudioProjector
from ..model.dit import SequenceGroup, TalkingDiT
from .sequences import Batch

AUDIO_LAYERS = (".k_proj.", ".v_proj.", ".audio_cross_attn.", ".norm_x.")  # of both kinds


class Denoiser(nn.Module):
    """A student, a teacher or a critic; the projector's trunk stays as it was pre-trained.

    `sequence`: ranks that share the tokens of every sequence with this one (World.sequence).
    """

    def __init__(self, cfg: ModelConfig, projector: AudioProjector | None, sequence: SequenceGroup | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        self._sequence = sequence
        self.dit = TalkingDiT(cfg.dit)
        self.projector = projector

    def train_only(self, part: str) -> None:
        """What learns: `all` layers, or the new `audio` layers alone (paper section 4.1, stage 2)."""
        for name, parameter in self.named_parameters():
            new = name.startswith("projector.") or any(part in name for part in AUDIO_LAYERS)
            parameter.requires_grad_((part == "all" or new) and not name.startswith("projector.trunk."))

    def tokens(self, batch: Batch, *, silent: bool = False) -> Tensor | None:
        """Audio tokens (B, F, N, D); `silent`: the zero embedding, which guidance steps away from."""
        if self.projector is None:
            return None
        with torch.no_grad():
            features = self.projector.trunk(batch.windows.flatten(0, 1)).unflatten(0, batch.windows.shape[:2])
        tokens = self.projector.embed(features) * batch.heard[..., None, None]
        return torch.zeros_like(tokens) if silent else tokens

    def forward(self, batch: Batch, x: Tensor, sigma: Tensor, *, chunk: int | None, silent: bool = False) -> Tensor:
        """Clean latents (B, C, F, h, w) seen in x at noise level sigma (B,).

        `chunk`: latents of a chunk under the sparse causal mask, None for full attention.
        """
        dit = self.cfg.dit
        text = batch.text if batch.text is not None else torch.zeros(len(x), dit.text_len, dit.text_dim, device=x.device)
        made: Tensor = self.dit.forward_x0(
            x, sigma, reference=batch.reference, text=text, image=batch.image, audio=self.tokens(batch, silent=silent),
            face_mask=batch.face_mask if self.projector is not None else None,
            positions=list(range(x.shape[2])), chunk_latents=chunk, sequence=self._sequence)
        return made


def noised(x0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """x0 (B, ...) mixed with noise: (1 - sigma) x0 + sigma noise, sigma (B,)."""
    s = sigma.view(-1, *[1] * (x0.dim() - 1))
    return (1 - s) * x0 + s * noise


def weighted_error(made: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of latents, weighted to the mouth."""
    return ((made - target) ** 2 * weight).mean()


def guided(model: Denoiser, batch: Batch, x: Tensor, sigma: Tensor, scale: float, *, chunk: int | None = None) -> Tensor:
    """Clean latents with guidance away from silence: two evaluations, one where the scale is 1."""
    heard: Tensor = model(batch, x, sigma, chunk=chunk)
    if scale == 1.0:
        return heard
    quiet: Tensor = model(batch, x, sigma, chunk=chunk, silent=True)
    return quiet + scale * (heard - quiet)


@torch.no_grad()
def sample(
    model: Denoiser, batch: Batch, noises: list[Tensor], sigmas: tuple[float, ...], *, chunk: int | None, scale: float = 1.0,
    again: bool = True,
) -> Tensor:
    """Latents (B, C, F, h, w) of whole sequences, sampled with few steps.

    `again`: each step's clean latents are noised anew (as the streaming sampler does, one noise a step); otherwise
    Euler steps of the probability flow from the first noise (what a teacher of many steps runs).
    """
    x = x0 = noises[0]
    for i, sigma in enumerate(sigmas):
        level = torch.full((len(x),), sigma, device=x.device)
        if i and again:
            x = noised(x0, level, noises[i])
        x0 = guided(model, batch, x, level, scale, chunk=chunk)
        if not again:
            after = sigmas[i + 1] if i + 1 < len(sigmas) else 0.0
            x = x0 + (x - x0) * (after / sigma)
    return x0
