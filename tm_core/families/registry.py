"""Families of open checkpoints: what their keys say, and how each was made to be used.

`identify` reads names and shapes alone (a safetensors header), so it costs nothing however large the file. What keys
cannot tell (MultiTalk, both files of InfiniteTalk and SoulX-FlashTalk share theirs) is a preset the user names; a
file's name may hint at it (`families_of`). Sources of the figures and commits: docs/adapters.md.

Non-goals: loading tensors (open_models.py), running them (streaming/).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from ..audio.speech_families import SPEECH_FAMILIES, SpeechFamily
from ..config import MOST_BLOCKS, AudioKind, ClipConfig, ClipLead, DiTConfig, Guidance, HistoryConfig, ModelConfig, SamplerConfig, Voices
from ..errors import InputError
from ..model.open_projectors import Shapes
from ..streaming.clip_sampler import clip_of
from ..streaming.guidance import noise_levels, shifted

log = logging.getLogger(__name__)

Layout = Literal["wan", "fantasytalking", "multitalk", "liveact"]
Mode = Literal["bidirectional", "sparse_causal"]

HEAD_DIM = 128  # of every published Wan
SILENT_FPS = Fraction(16)  # Wan2.1's own
CHUNK_LATENTS = 3  # of the sparse causal mode (paper section 4.2)
MULTITALK_LAST = 1 / 1000
VARIANT_FOLDERS = ("single", "multi")  # of InfiniteTalk's own repository, in which both files have one name
WRAPPERS = ("model.diffusion_model.", "diffusion_model.")
QUANTISED = re.compile(r"(^|\.)(scaled_fp8|scale_weight|scale_input|weight_scale|input_scale|comfy_quant)$")  # beside the weights


@dataclass(frozen=True, kw_only=True)
class Family:
    """How checkpoints of one kind were trained to be used."""

    name: str
    title: str
    layout: Layout
    mode: Mode
    steps: int
    shift: float  # of the flow's timesteps
    clip_frames: int  # bidirectional: sampled at once;  causal: one chunk's, the first one's as `history` says
    motion_frames: int = 0  # of a clip that repeat the one before; 0: made for one clip (ClipConfig says how a stream goes on)
    lead: ClipLead = "clean"
    colour_correction: float = 0.0  # SamplerConfig's, as the authors' own programs set it
    guidance: Guidance = field(default_factory=Guidance)
    history: HistoryConfig | None = None  # of a causal family: its chunks, its history, and which steps hear
    timesteps: tuple[float, ...] | None = None  # of a distilled model, 1000 first, already shifted or not as `shift` says
    last_level: float | None = None  # of the even levels before the shift (`noise_levels`)
    speech: SpeechFamily | None = None  # None: does not hear
    voices: Voices = "apart"  # of two speakers
    licence: str = "Apache-2.0"
    source: str = ""

    @property
    def fps(self) -> Fraction:
        """Video frames a second."""
        return SILENT_FPS if self.speech is None else self.speech.fps

    def levels(self, steps: int | None = None, shift: float | None = None) -> tuple[float, ...]:
        """Noise level at each step; a distilled model's own ones, or another number of them from the same curve."""
        steps, shift = steps or self.steps, self.shift if shift is None else shift
        if self.timesteps is None:
            return noise_levels(steps, shift, last=self.last_level)
        curve = [*(t / 1000 for t in self.timesteps), 0.0]
        at = np.linspace(0.0, len(self.timesteps), steps + 1)[:-1]
        return tuple(shifted(float(level), shift) for level in np.interp(at, range(len(curve)), curve))

    def sampler(
        self, *, mode: Mode | None = None, steps: int | None = None, shift: float | None = None, text: float | None = None,
        audio: float | None = None,
    ) -> SamplerConfig:
        """How it is sampled; None: as it was trained. InputError for a mode its weights were not made for at all."""
        guidance = replace(
            self.guidance, text=self.guidance.text if text is None else text, audio=self.guidance.audio if audio is None else audio)
        if self.history is not None:
            return self._with_memory(mode, steps, shift, guidance)
        common = SamplerConfig(
            sigmas=self.levels(steps, shift), renoise=self.timesteps is not None, guidance=guidance, chunk_latents=CHUNK_LATENTS)
        if (mode or self.mode) == "sparse_causal":
            return common
        return replace(common, clip=self.clip, colour_correction=self.colour_correction)

    @property
    def clip(self) -> ClipConfig | None:
        """A clip in its bidirectional mode; None for a family that has none."""
        return None if self.history is not None else clip_of(self.clip_frames, self.motion_frames, self.lead)

    def _with_memory(self, mode: Mode | None, steps: int | None, shift: float | None, guidance: Guidance) -> SamplerConfig:
        assert self.history is not None
        if mode == "bidirectional":
            raise InputError("mode", mode, f"{self.title} was made to stream", "choose sparse_causal, or leave it out")
        if steps not in (None, self.steps):
            raise InputError("steps", steps, f"{self.title} was distilled for {self.steps}, not all of which hear", "leave it out")
        return SamplerConfig(
            sigmas=self.levels(shift=shift), guidance=guidance, history=self.history, chunk_latents=self.history.chunk_latents)


INFINITETALK = Family(
    name="infinitetalk", title="InfiniteTalk", layout="multitalk", mode="bidirectional", steps=40, shift=7.0, clip_frames=81,
    motion_frames=9, colour_correction=1.0, guidance=Guidance(text=5.0, audio=4.0), speech=SPEECH_FAMILIES["infinitetalk"],
    last_level=MULTITALK_LAST, source="MeiGen-AI/InfiniteTalk")
FAMILIES: dict[str, Family] = {
    f.name: f
    for f in (
        Family(
            name="wan_i2v", title="Wan2.1 I2V", layout="wan", mode="bidirectional", steps=40, shift=3.0, clip_frames=81,
            guidance=Guidance(text=5.0), source="Wan-Video/Wan2.1"),
        Family(
            name="fantasytalking", title="FantasyTalking", layout="fantasytalking", mode="bidirectional", steps=30,
            shift=5.0, clip_frames=81, guidance=Guidance(text=5.0, audio=5.0, rule="fantasytalking"),
            speech=SPEECH_FAMILIES["fantasytalking"], source="Fantasy-AMAP/fantasy-talking"),
        Family(
            name="multitalk", title="MultiTalk", layout="multitalk", mode="bidirectional", steps=40, shift=7.0,
            clip_frames=81, motion_frames=25, lead="given", colour_correction=1.0, guidance=Guidance(text=5.0, audio=4.0),
            speech=SPEECH_FAMILIES["multitalk"], voices="together", last_level=MULTITALK_LAST, source="MeiGen-AI/MultiTalk"),
        INFINITETALK,
        replace(INFINITETALK, name="infinitetalk_multi", title="InfiniteTalk multi", voices="together"),
        Family(
            name="flashtalk", title="SoulX-FlashTalk", layout="multitalk", mode="bidirectional", steps=4, shift=5.0,
            clip_frames=33, motion_frames=5, colour_correction=1.0, timesteps=(1000.0, 750.0, 500.0, 250.0),
            speech=SPEECH_FAMILIES["flashtalk"], source="Soul-AILab/SoulX-FlashTalk"),
        Family(
            name="liveact", title="SoulX-LiveAct", layout="liveact", mode="sparse_causal", steps=3, shift=1.0,
            clip_frames=32, history=HistoryConfig(), timesteps=(1000.0, 937.5, 2500 / 3), speech=SPEECH_FAMILIES["liveact"],
            licence="none stated by its authors", source="Soul-AILab/SoulX-LiveAct"),
    )
}
DEFAULTS: dict[Layout, str] = {"wan": "wan_i2v", "fantasytalking": "fantasytalking", "multitalk": "infinitetalk", "liveact": "liveact"}
AUDIO_KINDS: dict[Layout, AudioKind] = {
    "wan": "none", "fantasytalking": "shared_q_kv", "multitalk": "own_q_kv_proj", "liveact": "own_q_kv_proj"}
PROJECTOR_PREFIXES = ("proj_model.", "audio_proj.")

# part of a name that only this family has -> why it does not run here
OTHERS = (
    ("casual_audio_encoder", "Wan2.2 S2V (LiveAvatar's base)", "its sound enters by an encoder and 12 injectors of its own"),
    ("audio_proj.audio_proj_glob_1", "HuMo", "its sound is read by Whisper"),
    ("vace_blocks", "Wan VACE", "it is steered by video"),
    ("face_adapter", "Wan Animate", "it is driven by a face video"),
    ("control_adapter", "Wan Fun Camera", "it is steered by a camera"),
    ("img_emb.emb_pos", "Wan2.1 first-and-last-frame", "it wants two pictures"),
    ("audio_cond_projs", "OmniAvatar", "its sound is added to the tokens"),
    ("vocal_projector", "StableAvatar", "its sound depends on the noise level"),
    ("double_blocks", "Hunyuan or Flux", "it is no Wan"),
    ("transformer_blocks", "a model in Diffusers' names", "its names are Diffusers'"),
)


@dataclass(frozen=True, kw_only=True)
class Identified:
    """A checkpoint, or a base and its adapter: family, sizes, and where each of our tensors is in the files."""

    family: Family
    dit: DiTConfig
    names: dict[str, str]  # ours -> the file's
    projector: dict[str, tuple[int, ...]]  # shapes of the audio projector's tensors, without their prefix


def identify(files: Iterable[Shapes], *, preset: str | None = None, head_dim: int = HEAD_DIM) -> Identified:
    """What these files are together (a base model and its adapter, in any order; one whole checkpoint).

    `preset` names a family of FAMILIES where keys leave a choice. InputError for what is unknown, incomplete, or has
    tensors that nothing here uses: it names the family the keys look most like and the first of them.
    """
    found: dict[str, tuple[int, ...]] = {}
    names: dict[str, str] = {}
    for shapes in files:
        for key, shape in shapes.items():
            if not QUANTISED.search(key):
                found[canonical(key)] = tuple(shape)
                names[canonical(key)] = key
    layout = layout_of(found)
    family = _preset(layout, preset)
    cfg = replace(sizes(found, layout, head_dim), voices=family.voices)
    _check(found, cfg, family)
    projector = {k.removeprefix(p): v for k, v in found.items() for p in PROJECTOR_PREFIXES if k.startswith(p)}
    return Identified(family=family, dit=cfg, names=names, projector=projector)


def model_config(found: Identified, width: int, height: int, *, shift: float | None = None) -> ModelConfig:
    """What the rest of the engine must know of an open checkpoint; InputError for a size that is not whole tokens."""
    family = found.family
    config = ModelConfig(
        name=family.name, width=width, height=height, fps=int(family.fps), dit=found.dit, sampler=family.sampler(shift=shift),
        framing="picture", family=family.name, shift=shift)
    for name, pixels, patch in (("width", width, found.dit.patch_size[2]), ("height", height, found.dit.patch_size[1])):
        token = config.spatial_stride * patch
        if pixels < token or pixels % token:
            raise InputError(name, pixels, f"must be a multiple of {token} pixels", f"use {max(1, round(pixels / token)) * token}")
    return config


def canonical(key: str) -> str:
    """A file's name for a tensor in ours: wrappers and FantasyTalking's two spellings removed."""
    for wrapper in WRAPPERS:
        key = key.removeprefix(wrapper)
    key = key.removeprefix("audio_processor.")
    return key.replace(".cross_attn.processor.", ".cross_attn.")


def looks_like(keys: Iterable[str]) -> str | None:
    """The families or the foreign model that these names are of, None for nothing known; an adapter counts as its family."""
    keys = [canonical(key) for key in keys]
    foreign = next((title for part, title, _ in OTHERS if any(part in key for key in keys)), None)
    if foreign is not None:
        return foreign
    layout = _layout(keys)
    if layout == "wan" and not any(key.startswith(("img_emb.proj.", "blocks.0.self_attn.", "patch_embedding.")) for key in keys):
        return None
    return titles(f for f in FAMILIES.values() if f.layout == layout)


def families_of(layout: Layout, path: Path) -> tuple[Family, ...]:
    """The families a file of this layout may be: those its name speaks of most closely, else all."""
    all_of = tuple(f for f in FAMILIES.values() if f.layout == layout)
    words = path.stem + (path.parent.name if path.parent.name in VARIANT_FOLDERS else "")
    stem = "".join(c for c in words.lower() if c.isalnum())
    named = [f for f in all_of if all(part in stem for part in f.name.split("_"))]
    closest = max((f.name.count("_") for f in named), default=0)
    return tuple(f for f in named if f.name.count("_") == closest) or all_of


def titles(families: Iterable[Family]) -> str:
    """Their names in a sentence."""
    return " or ".join(f.title for f in families)


def advise(family: Family, files: Iterable[Path]) -> None:
    """A line of log where what keys alone choose is not what a file's name speaks of: their keys are the same."""
    if family is not FAMILIES[DEFAULTS[family.layout]]:
        return
    for path in files:
        named = families_of(family.layout, path)
        if family not in named:
            log.info("%s is used as %s, its name speaks of %s: name the family %s if it is",
                     path.name, family.title, titles(named), " or ".join(f.name for f in named))


def _layout(keys: Sequence[str]) -> Layout:
    if any(".memory_proj_" in k for k in keys):
        return "liveact"
    if any(".audio_cross_attn." in k or k.startswith("audio_proj.") for k in keys):
        return "multitalk"
    return "fantasytalking" if any(".cross_attn.k_proj." in k or k.startswith("proj_model.") for k in keys) else "wan"


def layout_of(keys: Iterable[str]) -> Layout:
    """Which layout these (canonical) names are; InputError for another model's, and for an adapter without its base."""
    keys = list(keys)
    for part, title, why in OTHERS:
        if any(part in key for key in keys):
            raise InputError("checkpoint", title, f"cannot be run: {why}", "docs/adapters.md lists what can")
    layout = _layout(keys)
    if "patch_embedding.weight" not in keys:
        if layout == "wan":
            raise InputError("checkpoint", f"{len(keys)} tensors", "none is of a Wan model", "docs/adapters.md lists what can be run")
        title = FAMILIES[DEFAULTS[layout]].title
        raise InputError("checkpoint", f"{title} adapter", "is no model by itself", "choose Wan2.1 I2V 14B as the base beside it")
    return layout


def _preset(layout: Layout, preset: str | None) -> Family:
    if preset is None:
        return FAMILIES[DEFAULTS[layout]]
    if preset not in FAMILIES:
        raise InputError("family", preset, "is not known", f"choose one of {', '.join(FAMILIES)}")
    family = FAMILIES[preset]
    if family.layout != layout:
        fitting = ", ".join(f.name for f in FAMILIES.values() if f.layout == layout)
        raise InputError("family", preset, f"the file's keys are those of {FAMILIES[DEFAULTS[layout]].title}", f"choose {fitting}")
    return family


def sizes(found: Shapes, layout: Layout, head_dim: int = HEAD_DIM) -> DiTConfig:
    """The transformer's sizes from canonical names and shapes; InputError for a model that takes no picture, or cannot be."""
    def shape(name: str, axes: int, absent: tuple[int, ...] | None = None) -> tuple[int, ...]:
        got = found.get(name, absent)
        if got is None or len(got) != axes or (0 in got and got is not absent):
            title = FAMILIES[DEFAULTS[layout]].title
            rule = f"has no {name}" if got is None else f"damaged: {name} cannot be {got}"
            raise InputError("checkpoint", title, rule, "fetch the whole file again")
        return got

    dim, in_dim, *patch = shape("patch_embedding.weight", 5)
    out_dim = shape("head.head.weight", 2)[0] // (patch[0] * patch[1] * patch[2])
    if in_dim != out_dim + 20:
        rule = f"takes {in_dim} channels, a portrait needs {out_dim} of noise, 4 of mask and 16 of picture"
        raise InputError("checkpoint", "Wan", rule, "choose an image-to-video (I2V) model")
    num_heads = max(1, dim // head_dim)
    if dim % (2 * num_heads):
        raise InputError("checkpoint", "Wan", f"{dim} channels are no heads of {head_dim}", "fetch the whole file again")
    heard = "blocks.0.audio_cross_attn.kv_linear.weight"
    audio_dim = {
        "wan": 0, "fantasytalking": shape("blocks.0.cross_attn.k_proj.weight", 2, (0, 2048))[1],
        "multitalk": shape(heard, 2, (0, 768))[1], "liveact": shape(heard, 2, (0, 768))[1]}[layout]
    image = "img_emb.proj.1.weight"
    return DiTConfig(
        dim=dim, ffn_dim=shape("blocks.0.ffn.0.weight", 2)[0], num_heads=num_heads, num_layers=count_layers(found), in_dim=in_dim,
        out_dim=out_dim, text_dim=shape("text_embedding.0.weight", 2)[1], freq_dim=shape("time_embedding.0.weight", 2)[1],
        image_dim=shape(image, 2)[0] if image in found else None,
        patch_size=(patch[0], patch[1], patch[2]), audio_kind=AUDIO_KINDS[layout], audio_dim=audio_dim,
        memory_stride=(found.get("blocks.0.self_attn.memory_proj_k.weight") or (0,))[-1])


def count_layers(keys: Iterable[str]) -> int:
    """Blocks, by the highest index; InputError for more than there are tensors of them, which nobody may build."""
    numbers = [m[1] for k in keys if (m := re.match(r"blocks\.(\d+)\.", k))]
    highest = max(numbers, key=lambda n: (len(n), n), default="0")
    if len(highest) > len(str(MOST_BLOCKS)) or int(highest) >= min(MOST_BLOCKS, max(1, len(numbers))):
        rule = f"damaged: it counts blocks up to {highest} in {len(numbers)} tensors"
        raise InputError("checkpoint", "Wan", rule, "fetch the whole file again")
    return 1 + int(highest)


def expected(cfg: DiTConfig, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every tensor a checkpoint of this layout has (canonical)."""
    import torch

    from ..model.dit import TalkingDiT
    from ..model.open_projectors import FantasyProjector, FantasyProjectorConfig, GroupedProjector, GroupedProjectorConfig

    with torch.device("meta"):
        parts: dict[str, torch.nn.Module] = {"": TalkingDiT(replace(cfg, num_layers=1))}
        if layout == "fantasytalking":
            parts["proj_model."] = FantasyProjector(FantasyProjectorConfig(dim=cfg.audio_dim))
        elif layout in ("multitalk", "liveact"):
            parts["audio_proj."] = GroupedProjector(GroupedProjectorConfig(dim=cfg.audio_dim))
    found = {prefix + k: tuple(v.shape) for prefix, part in parts.items() for k, v in part.state_dict().items()}
    first = {k.removeprefix("blocks.0."): shape for k, shape in found.items() if k.startswith("blocks.0.")}  # all blocks are alike
    return found | {f"blocks.{i}.{k}": shape for i in range(1, cfg.num_layers) for k, shape in first.items()}


def _check(found: Shapes, cfg: DiTConfig, family: Family) -> None:
    try:
        wanted = expected(cfg, family.layout)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        rule = f"damaged: its sizes contradict each other ({error})"
        raise InputError("checkpoint", family.title, rule, "fetch the whole file again") from error
    missing, surplus = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing:
        rule = f"{len(missing)} of {len(wanted)} tensors are missing, first {missing[0]}"
        remedy = "fetch the whole file again, or choose the adapter that belongs to the base"
        raise InputError("checkpoint", family.title, rule, remedy)
    if surplus:
        rule = f"{len(surplus)} tensors are of no use to it, first {surplus[0]}"
        raise InputError("checkpoint", family.title, rule, "name the family it is, or choose another file")
    sized = (k for k in wanted if found[k] != wanted[k] and not k.startswith(PROJECTOR_PREFIXES))
    if (wrong := next(sized, None)) is not None:
        raise InputError("checkpoint", family.title, f"{wrong} is {found[wrong]}, not {wanted[wrong]}", "choose a file that fits the base")
