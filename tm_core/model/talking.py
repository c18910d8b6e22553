"""One checkpoint's modules together."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import ModelConfig
from ..vae.base import StreamingVAE
from .audio_projector import AudioProjector
from .dit import TalkingDiT


@dataclass(frozen=True, kw_only=True)
class TalkingModel:
    """Transformer, audio projector and autoencoder, and the configuration they were trained with."""

    config: ModelConfig
    dit: TalkingDiT
    projector: AudioProjector | None
    vae: StreamingVAE
