"""Frozen configuration and the recipes that fill it in.

Shapes are those of Wan2.1 I2V: latents `[B, C=16, F, H/8, W/8]`, latent 0 is one frame, every later
latent four. Recipes are functions: `tiny()` is the embedded default; the sizes of the large models come
from their checkpoints (weights/).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

AudioKind = Literal["none", "shared_q_kv", "own_q_kv_proj"]
# what the network sees and says: noisy latents -> velocity; noisy latents -> clean minus reference;
# noisy latents minus their share of the reference -> clean minus reference
Prediction = Literal["velocity", "x0_residual", "residual"]
CacheMode = Literal["per_step", "clean_rerun", "recompute"]
# several speakers: each voice attended apart and weighed by its mask, or two attended together and told apart by place
Voices = Literal["apart", "together"]
GuidanceRule = Literal["fantasytalking", "multitalk"]
Framing = Literal["face", "picture"]  # what a model is shown: a crop round one face, or the picture as it is
# the frames that lead a clip: clean in its latents beside the portrait that is given (InfiniteTalk, SoulX-FlashTalk), or
# given in the portrait's place and as noisy as the rest (MultiTalk)
ClipLead = Literal["clean", "given"]


MOST_BLOCKS = 1000  # of a transformer: a file that counts higher is not believed, since they would be built
LARGEST, LONGEST = 2**16, 1000  # of any whole number or share of a configuration, of any of its lists
MOST = {  # where it is another
    "width": 2**13, "height": 2**13, "fps": 240, "sample_rate": 384000, "num_layers": MOST_BLOCKS, "window_latents": 100,
    "latents": 1000, "motion_latents": 1000, "first_latents": 1000, "chunk_latents": 1000, "anchor_latents": 1000}
RENAMED = {"memory": "history", "hears": "uses_audio"}  # names of fields in files written by older versions
MAY_BE_ZERO = frozenset({"audio_dim", "memory_stride", "motion_latents", "anchor_latents"})


def check_share(name: str, value: float) -> None:
    """InputError unless `value` is in 0..1."""
    if not 0 <= value <= 1:
        raise InputError(name, value, "must be between 0 (off) and 1", "use 0 or for example 0.5")


class _Serialisable:
    """`to_dict` / `from_dict` for checkpoint metadata, which may come from anyone: what is unknown, of another type or size is refused."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; ValueError for a key this version does not know, and for a value that cannot be."""
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        values = {name if name in known else RENAMED.get(name, name): value for name, value in values.items()}
        if unknown := set(values) - known:
            raise ValueError(f"{cls.__name__}: unknown keys {sorted(unknown)}; update the node pack")
        kinds = get_type_hints(cls)
        return cls(**{name: cls._value(name, kinds[name], value) for name, value in values.items()})

    @classmethod
    def _value(cls, name: str, kind: Any, value: Any) -> Any:
        """A field's value of one of JSON."""
        if isinstance(value, dict) and (part := _part_of(kind)) is not None:
            return part.from_dict(value)
        value = tuple(value) if isinstance(value, list) else value
        if not _fits(value, kind, range(name not in MAY_BE_ZERO, MOST.get(name, LARGEST) + 1)):
            raise ValueError(f"{cls.__name__}: {name} cannot be {str(value)[:100]}")
        return value


def _part_of(kind: Any) -> type[_Serialisable] | None:
    """The configuration that a field holds, or may hold."""
    return next((k for k in (kind, *get_args(kind)) if isinstance(k, type) and issubclass(k, _Serialisable)), None)


def _fits(value: Any, kind: Any, numbers: range) -> bool:
    """Whether a value (JSON's, lists as tuples) is of a field's type, whole numbers among these."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, k, numbers) for k in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is tuple:
        kinds = args[:1] * len(value) if isinstance(value, tuple) and args[-1] is ... else args
        return isinstance(value, tuple) and 0 < len(value) == len(kinds) <= LONGEST and all(
            _fits(entry, k, numbers) for entry, k in zip(value, kinds, strict=True))
    if kind is float:
        return type(value) in (int, float) and abs(value) <= LARGEST and math.isfinite(value)
    return type(value) is kind and (kind is not int or value in numbers)  # a bool is an int to Python


@dataclass(frozen=True, kw_only=True)
class AudioConfig(_Serialisable):
    """Log-mel features (librosa) and the window each latent frame sees (paper section 3: 5 latents)."""

    sample_rate: int = 16000
    n_fft: int = 400
    hop: int = 160
    n_mels: int = 80
    window_latents: int = 5

    @property
    def feature_rate(self) -> int:
        """Feature frames per second."""
        return self.sample_rate // self.hop


@dataclass(frozen=True, kw_only=True)
class AudioProjectorConfig(_Serialisable):
    """Window of log-mel -> `tokens` tokens of `dim` (one token per video frame of the window)."""

    n_mels: int = 80
    width: int = 192
    dim: int = 192
    tokens: int = 20


@dataclass(frozen=True, kw_only=True)
class DiTConfig(_Serialisable):
    """Wan2.1 DiT sizes; names as in Wan's own configuration."""

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    in_dim: int = 36  # 16 noisy + 4 mask + 16 reference latent channels
    out_dim: int = 16
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    image_dim: int | None = 1280  # CLIP token width; None: no image cross-attention (text only)
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    audio_kind: AudioKind = "shared_q_kv"
    audio_dim: int = 768  # width of the audio tokens that reach the blocks
    prediction: Prediction = "velocity"
    reference_scale: float = 1.0  # the network sees the reference latent divided by it: where latents are scaled by what moves
    max_latents: int = 21  # temporal RoPE range seen in training
    memory_stride: int = 0  # tokens that a stream's older keys are pooled by, with weights for it (SoulX-LiveAct: 5); 0: none
    voices: Voices = "apart"  # as the model was trained; together is for two, of whole clips (model/voices.py)

    def __post_init__(self) -> None:
        if self.voices == "together" and self.audio_kind != "own_q_kv_proj":
            raise InputError("voices", self.voices, f"is a rule of MultiTalk's layers, not of {self.audio_kind}", "use apart")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads


@dataclass(frozen=True, kw_only=True)
class VAEConfig(_Serialisable):
    """Tiny streaming autoencoder in Wan's latent geometry (stride 4 in time, 8 in space)."""

    latent_channels: int = 16
    width: int = 32  # channels at half resolution; doubles (roughly) at each coarser level
    temporal_stride: int = 4
    spatial_stride: int = 8


@dataclass(frozen=True, kw_only=True)
class Guidance(_Serialisable):
    """Classifier-free guidance for text and sound apart; 1 is off, both on is three evaluations a step.

    `rule`: how a family joins them (streaming/guidance.py).
    """

    text: float = 1.0
    audio: float = 1.0
    rule: GuidanceRule = "multitalk"


@dataclass(frozen=True, kw_only=True)
class ClipConfig(_Serialisable):
    """Clips sampled at once under full attention, each beginning with the last frames of the one before.

    `motion_latents`: how many are repeated, 1 + 4 (n - 1) frames. 0 is for models that were made for one clip (Wan,
    FantasyTalking): a later clip's picture is the last frame of the one before, what their users do by hand, and that
    one frame is what it repeats. Such a stream is longer than anything its authors showed.
    """

    latents: int = 9
    motion_latents: int = 2
    lead: ClipLead = "clean"

    @property
    def repeated_latents(self) -> int:
        """Latents of a clip whose frames the one before has shown."""
        return max(1, self.motion_latents)

    @property
    def moves_picture(self) -> bool:
        """Whether later clips are given frames in the portrait's place."""
        return self.lead == "given" or self.motion_latents == 0


@dataclass(frozen=True, kw_only=True)
class HistoryConfig(_Serialisable):
    """Chunks that see a history of constant size, into which older latents are pooled (SoulX-LiveAct)."""

    first_latents: int = 6  # of chunk 0; as many slots has the history, which they fill as they are
    chunk_latents: int = 8  # of every later chunk
    anchor_latents: int = 2  # the stream's first ones, never pooled
    uses_audio: tuple[bool, ...] = (False, True, True)  # by denoising step: one that does not skips the layers of the sound

    @property
    def slots(self) -> int:
        """Latents a cache holds: the history and the chunk."""
        return self.first_latents + self.chunk_latents


@dataclass(frozen=True, kw_only=True)
class SamplerConfig(_Serialisable):
    """Rectified-flow sampling of chunks: every chunk of a stream runs the same timesteps."""

    chunk_latents: int = 3
    sigmas: tuple[float, ...] = (1.0, 0.75)  # noise level at each step, first 1.0, descending; x0 after the last
    renoise: bool = True  # between steps: noise anew (distilled students); False: an Euler step of the probability flow
    guidance: Guidance = field(default_factory=Guidance)
    clip: ClipConfig | None = None  # clips under full attention;  neither it nor history: sparse causal chunks (the paper)
    history: HistoryConfig | None = None  # chunks with a compressed history
    cache_mode: CacheMode = "per_step"
    articulation: float = 1.0  # scales what departs from the portrait: a mean moves too little, guidance makes it too much
    colour_correction: float = 0.0  # 0..1: how far decoded frames' colours are moved to the portrait's (streaming/colour_correction.py)

    def __post_init__(self) -> None:
        check_share("colour_correction", self.colour_correction)

    @property
    def num_steps(self) -> int:
        """Denoising steps per chunk; each is one evaluation of the network, more with guidance."""
        return len(self.sigmas)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Serialisable):
    """One checkpoint: everything needed to rebuild its modules and use them as they were trained."""

    name: str
    width: int
    height: int
    fps: int
    dit: DiTConfig
    audio: AudioConfig = field(default_factory=AudioConfig)
    projector: AudioProjectorConfig | None = None
    vae: VAEConfig | None = None
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    framing: Framing = "face"
    family: str | None = None  # of open checkpoints (families/registry.py): how it hears and is sampled
    shift: float | None = None  # of its noise levels, where it is not the family's

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second as a fraction."""
        return Fraction(self.fps)

    @property
    def spatial_stride(self) -> int:
        """Pixels of a side that one latent stands for; Wan's where the autoencoder comes from elsewhere."""
        return (self.vae or VAEConfig()).spatial_stride

    @property
    def temporal_stride(self) -> int:
        """Video frames that a latent other than the first stands for."""
        return (self.vae or VAEConfig()).temporal_stride

    @property
    def latent_hw(self) -> tuple[int, int]:
        """Height and width of a latent."""
        return self.height // self.spatial_stride, self.width // self.spatial_stride

    @property
    def token_hw(self) -> tuple[int, int]:
        """Height and width of the token grid of one latent."""
        height, width = self.latent_hw
        return height // self.dit.patch_size[1], width // self.dit.patch_size[2]


def tiny() -> ModelConfig:
    """The embedded default: 128 px, 25 fps, real time on two CPU cores."""
    return ModelConfig(
        name="tiny", width=128, height=128, fps=25,
        dit=DiTConfig(
            dim=192, ffn_dim=768, num_heads=3, num_layers=6, text_dim=32, text_len=1, image_dim=None,
            audio_dim=192, prediction="residual", reference_scale=3.0,
        ),
        projector=AudioProjectorConfig(),
        vae=VAEConfig(),
        # the second level chosen by measurement; guidance made the student move more than its teacher's data (docs/training.md)
        sampler=SamplerConfig(sigmas=(1.0, 0.5), articulation=0.95),
    )


def wan_i2v_14b() -> ModelConfig:
    """Wan2.1 I2V 14B at the paper's 512 x 512 and 16 fps, without sound: where its training starts (section 4.1)."""
    return ModelConfig(
        name="wan_i2v_14b", width=512, height=512, fps=16,
        dit=DiTConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, audio_kind="none"),
        sampler=SamplerConfig(sigmas=tuple(1 - i / 12 for i in range(12))),
    )


def paper_18b() -> ModelConfig:
    """The paper's model: Wan2.1 I2V 14B, audio keys and values in every block, a projector of 1.2 B parameters.

    The paper gives the sum alone (18 B) and no encoder; 768 channels at 50 Hz are wav2vec2-base's.
    """
    base = wan_i2v_14b()
    return replace(
        base, name="paper_18b", dit=replace(base.dit, audio_kind="shared_q_kv", audio_dim=2048),
        audio=AudioConfig(n_mels=768, hop=320), projector=AudioProjectorConfig(n_mels=768, width=6976, dim=2048, tokens=16),
    )
