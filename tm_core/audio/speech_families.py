"""How each family of open checkpoints hears: its encoder, what is done to the sound before, what is kept after.

A family's features are what its audio projection was trained on; anything else still runs and only looks worse,
so the rules stand here, each with its source, and `from_host` refuses what cannot be right.

What is known of input normalisation (zero mean, unit variance over the clip):
- wav2vec2-base-960h: on; its processor has `do_normalize: true` and FantasyTalking's infer.py uses that processor.
- chinese-wav2vec2-base: off; its preprocessor_config.json (160 bytes, sha256 c1707926...1c09) has `do_normalize:
  false`, and MultiTalk's scripts take it from there. So loudness reaches this encoder, hence the -23 LUFS.
Both encoders begin with a convolution without bias and a group norm over time, in which a constant gain or offset
cancels up to the norm's epsilon: normalisation matters for quiet sounds and hardly for loud ones.

Shapes: n samples, N tokens (50 a second), T video frames, L layers, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from .loudness import normalise_loudness
from .speech_windows import FrameWindows, GroupedWindows, PaddedWindows, TokenWindows
from .wav2vec2 import HOP, RECEPTIVE, SAMPLE_RATE, Wav2Vec2, resample_vectors, vectors_of

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
EncoderName = Literal["wav2vec2-base-960h", "chinese-wav2vec2-base"]
VARIANCE_FLOOR = 1e-7
AT_ONCE_S, CONTEXT_S = 60.0, 5.0  # of a long sound


@dataclass(frozen=True, kw_only=True)
class SpeechFamily:
    """One family's way from a sound to the features its projection takes.

    `per_frame` True: one feature per video frame, the encoder's convolutions stretched to the frame rate before the
    transformer, all L layers kept (T, L, D). False: the last layer's own 50 Hz sequence (N, D).
    """

    name: str
    encoder: EncoderName
    fps: Fraction
    normalise: bool  # zero mean, unit variance over the clip
    loudness_lufs: float | None = None
    gain: float = 1.0
    per_frame: bool = True
    layers: int = 12
    width: int = 768

    def frames_of(self, samples: int) -> int:
        """Video frames T whose features a sound of n samples has: whole ones only, at least one."""
        return max(1, int(samples / SAMPLE_RATE * float(self.fps)))

    def windows(self, *, num_tokens: int | None = None, num_frames: int | None = None) -> TokenWindows | FrameWindows:
        """The window rule. FantasyTalking's depends on the clip's tokens and frames; without them, the encoder's nominal rate."""
        if self.per_frame:
            return FrameWindows()
        if num_tokens and num_frames:
            return TokenWindows.of_clip(num_tokens, num_frames)
        return TokenWindows(tokens_per_frame=float(Fraction(SAMPLE_RATE, HOP) / self.fps))


@dataclass(frozen=True, kw_only=True)
class SpeechFeatures:
    """A sound as an open checkpoint hears it: what `encode_speech` or `from_host` made of it, and the video's frames T."""

    values: Tensor
    family: SpeechFamily
    frames: int

    def windows(self, latents: range, *, each_clip: bool = False) -> PaddedWindows | GroupedWindows:
        """Windows of consecutive latents. `each_clip`: their first one begins a clip that is sampled on its own."""
        rule = self.family.windows(num_tokens=len(self.values), num_frames=self.frames)
        if isinstance(rule, FrameWindows):
            return rule.windows(self.values, latents, clip_start=latents[0] if each_clip else 0)
        return rule.windows(self.values, latents)


# fps and preparation: fantasy-talking 8c2d0c9 infer.py and utils.py; MultiTalk c1ad840 generate_multitalk.py
# (InfiniteTalk 0107cd9: the same functions); SoulX-FlashTalk 688982e inference.py and infer_params.yaml;
# SoulX-LiveAct ac8579b generate.py (see `encode_speech` for its tempo)
SPEECH_FAMILIES: dict[str, SpeechFamily] = {
    family.name: family
    for family in (
        SpeechFamily(name="fantasytalking", encoder="wav2vec2-base-960h", fps=Fraction(23), normalise=True, per_frame=False),
        SpeechFamily(name="multitalk", encoder="chinese-wav2vec2-base", fps=Fraction(25), normalise=False, loudness_lufs=-23.0),
        SpeechFamily(name="infinitetalk", encoder="chinese-wav2vec2-base", fps=Fraction(25), normalise=False, loudness_lufs=-23.0),
        SpeechFamily(name="flashtalk", encoder="chinese-wav2vec2-base", fps=Fraction(25), normalise=False, loudness_lufs=-23.0),
        SpeechFamily(name="liveact", encoder="chinese-wav2vec2-base", fps=Fraction(24), normalise=False, gain=3.0),
    )
}


def prepare_sound(samples: Floats, family: SpeechFamily) -> Floats:
    """The sound (n,), 16 kHz mono, as this family's encoder is given it: loudness, gain, normalisation."""
    sound = np.asarray(samples, np.float32)
    if sound.ndim != 1:
        raise InputError("audio", f"shape {sound.shape}", "speech features are made of one mono sound", "mix or split its channels")
    if family.loudness_lufs is not None:
        sound = normalise_loudness(sound, SAMPLE_RATE, family.loudness_lufs)
    if family.gain != 1:
        sound = sound * np.float32(family.gain)
    return normalise_sound(sound) if family.normalise else sound


def normalise_sound(samples: Floats) -> Floats:
    """Zero mean and unit variance over the clip (n,)."""
    return np.asarray((samples - samples.mean()) / np.sqrt(samples.var() + VARIANCE_FLOOR), np.float32)


def encode_speech(
    encoder: Wav2Vec2, samples: Floats, family: SpeechFamily, *, device: Any = None, dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Features of a sound (n,), 16 kHz mono: (T, L, D) per video frame, or (N, D) at 50 Hz for FantasyTalking.

    `dtype` is the type the encoder's layers compute in. A sound of up to AT_ONCE_S is encoded at once, as the official scripts
    do; a longer one in pieces with CONTEXT_S more on either side, float16 on the CPU, so that an hour neither takes an hour's
    attention nor its memory. Loudness and normalisation are those of the whole sound either way.
    LiveAct's script speeds speech up to 25 frames a second before encoding; here the features are stretched to its frame
    rate instead, which is the same at 25 fps and close to it at 24 and 20. Errors: InputError for a sound below 400 samples.
    """
    sound = torch.from_numpy(prepare_sound(samples, family))

    def encode(part: Tensor, rows: int) -> Tensor:
        with torch.inference_mode():
            states = encoder(part.to(device=device, dtype=dtype)[None], frames=rows if family.per_frame else None)
        return pick_layers([state[0] for state in states], family)

    rows = family.frames_of(len(samples)) if family.per_frame else vectors_of(len(samples))
    if len(samples) <= AT_ONCE_S * SAMPLE_RATE:
        return encode(sound, rows)
    made = [encode(sound[piece.samples], piece.rows)[piece.kept].to("cpu", torch.float16) for piece in pieces(len(samples), family)]
    return torch.cat(made)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of a long sound: its samples, the features these give, and which of them count."""

    samples: slice
    rows: int
    kept: slice


def pieces(samples: int, family: SpeechFamily) -> list[Piece]:
    """A sound of n samples in stretches whose kept features, one after the other, are as many as the whole sound's."""
    hop = Fraction(SAMPLE_RATE) / family.fps if family.per_frame else Fraction(HOP)
    total = family.frames_of(samples) if family.per_frame else vectors_of(samples)
    step, margin = int(AT_ONCE_S * SAMPLE_RATE / hop), int(CONTEXT_S * SAMPLE_RATE / hop)
    found = []
    for first in range(0, total, step):
        last = min(total, first + step)
        low, high = max(0, first - margin), min(total, last + margin)
        end = samples if high == total else round(high * hop) + (0 if family.per_frame else RECEPTIVE - HOP)
        found.append(Piece(samples=slice(round(low * hop), end), rows=high - low, kept=slice(first - low, last - low)))
    return found


def pick_layers(states: list[Tensor], family: SpeechFamily) -> Tensor:
    """What the family's projection takes of the hidden states (T, D): all layers' outputs (T, L, D), or the last's (N, D)."""
    return torch.stack(states[1:], 1) if family.per_frame else states[-1]


# -- ComfyUI's own encoder node ---------------------------------------------------------------------------------


def from_host(output: Mapping[str, Any], family: SpeechFamily, *, approximate: bool = False) -> Tensor:
    """Features from ComfyUI's AUDIO_ENCODER_OUTPUT, shaped as `encode_speech` returns them.

    The host's node neither normalises base encoders nor stretches before the transformer, and does not say which
    file it loaded. Checked: number of layers, width, batch, tokens against `audio_samples`. Raises InputError where
    these do not fit, and for families of one feature per video frame unless `approximate`: their transformer must run
    at the video's rate, and stretching afterwards (what the host's own InfiniteTalk node does) is not the same. Not
    detectable from the numbers, so logged as a warning: which base encoder it was, normalisation, loudness.
    """
    states = _host_states(output, family)
    log.warning(
        "%s: ComfyUI's audio encoder does not %s and does not say which file it loaded (needed: %s), so quiet speech may "
        "sound different to this model than in its training; TM's own encoder has neither fault", family.name,
        "normalise the sound" if family.normalise else "adjust loudness", family.encoder)
    if not family.per_frame:
        return pick_layers(states, family)
    if not approximate:
        raise InputError(
            "audio_encoder_output", "50 features a second",
            f"{family.name} was trained on {family.fps} a second, made before the transformer",
            "connect the sound to TM's own encoder, or allow approximate features")
    samples = output.get("audio_samples") or len(states[0]) * HOP
    frames = family.frames_of(int(samples))
    return pick_layers([resample_vectors(state[None], frames)[0] for state in states], family)


def _host_states(output: Mapping[str, Any], family: SpeechFamily) -> list[Tensor]:
    """The hidden states (N, D) of one sound, checked."""
    field, remedy = "audio_encoder_output", f"load {family.encoder} in AudioEncoderLoader"
    layers = output.get("encoded_audio_all_layers") if isinstance(output, Mapping) else None
    if not layers:
        raise InputError(field, "no encoded_audio_all_layers", "all hidden states are needed", "connect ComfyUI's AudioEncoderEncode")
    shape = tuple(layers[-1].shape)
    if len(layers) != family.layers + 1 or shape[-1] != family.width:
        raise InputError(
            field, f"{len(layers)} layers {shape[-1]} wide", f"{family.name} needs {family.layers + 1} layers {family.width} wide", remedy)
    if len(shape) != 3 or shape[0] != 1:
        raise InputError(field, f"shape {shape}", "one mono sound at a time", "encode one sound")
    samples = output.get("audio_samples")
    if samples is not None and vectors_of(int(samples)) != shape[1]:
        raise InputError(
            field, f"{shape[1]} tokens of {samples} samples", f"wav2vec2 makes {vectors_of(int(samples))} of them at 16 kHz", remedy)
    return [state[0] for state in layers]
