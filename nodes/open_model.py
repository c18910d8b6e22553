"""TM_LoadOpenModel, TM_TalkingModel and TM_ApplySpeech: open 14B checkpoints as the host's MODEL, streamed or in KSampler."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..tm_core import talk
from ..tm_core.families.registry import FAMILIES
from ..tm_core.weights.files import shards
from . import wires
from .host import encoders, folders, models, running, wan
from .host.schemas import chosen, field, io, schema

NONE, AUTO = "none", "auto"
HEARING = [name for name, family in FAMILIES.items() if family.speech is not None]


class LoadOpenModel(io.ComfyNode):
    """A base model and its adapter, or one whole checkpoint, as a MODEL."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_LoadOpenModel."""
        return schema(
            node_id="TM_LoadOpenModel",
            display_name="Load Open Talking Model",
            description="Loads FantasyTalking, MultiTalk, InfiniteTalk, SoulX-FlashTalk, SoulX-LiveAct or plain Wan2.1 I2V as a MODEL. "
            "LoRA, ModelSamplingSD3, TorchCompileModel and KSampler work on it; Talking Model from MODEL makes it stream.",
            search_aliases=["infinitetalk", "multitalk", "fantasytalking", "flashtalk", "liveact", "wan"],
            inputs=[
                field(
                    io.Combo, "base", options=folders.files_of(folders.DIFFUSION_MODELS),
                    tooltip="A .safetensors file of models/diffusion_models: Wan2.1 I2V 14B, or a whole talking checkpoint. "
                    "Of one in several files (-00001-of-...) choose any."),
                field(
                    io.Combo, "adapter", options=[NONE, *folders.files_of(folders.MODEL_PATCHES)], default=NONE,
                    tooltip="What makes the base hear: a .safetensors file of models/model_patches. none: the base has it in it."),
                field(
                    io.Combo, "family", options=[AUTO, *FAMILIES], default=AUTO,
                    tooltip="How it was trained to be used. auto: by its keys; MultiTalk, InfiniteTalk's two files and FlashTalk share "
                    "theirs, so name all but InfiniteTalk's single file."),
                field(
                    io.Combo, "weight_dtype", options=list(wan.TYPES), default="default", advanced=True,
                    tooltip="How weights are kept. default: as ComfyUI chooses; fp8 halves the memory. fp8 files are fp8 anyway."),
            ],
            outputs=[io.Model.Output("model", display_name="model", tooltip="An ordinary MODEL: patch it as any other.")],
        )

    @classmethod
    def execute(cls, base: str, adapter: str, family: str, weight_dtype: str) -> Any:
        """Load; InputError names what the files are, or what is missing in them."""
        files = shards(folders.path_of(folders.DIFFUSION_MODELS, base, "base"))
        if adapter != NONE:
            files += shards(folders.path_of(folders.MODEL_PATCHES, adapter, "adapter"))
        preset = None if family == AUTO else chosen("family", family, FAMILIES)
        return io.NodeOutput(wan.load(files, preset=preset, weight_type=chosen("weight_dtype", weight_dtype, wan.TYPES)))

    @classmethod
    def fingerprint_inputs(cls, base: str, adapter: str, **_: Any) -> Any:
        """A file that was replaced is loaded again."""
        return folders.fingerprint((folders.DIFFUSION_MODELS, base), (folders.MODEL_PATCHES, adapter))


class TalkingModelFromModel(io.ComfyNode):
    """A MODEL and a VAE for the nodes of this pack."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_TalkingModel."""
        return schema(
            node_id="TM_TalkingModel",
            display_name="Talking Model from MODEL",
            description="Makes an open talking model stream: what comes out goes wherever the bundled model goes.",
            inputs=[
                field(io.Model, "model", tooltip="From Load Open Talking Model, with any LoRA or shift on it."),
                field(
                    io.Vae, "vae", tooltip="Wan2.1's VAE. It reads the portrait, and decodes unless the decode node is given another."),
                field(io.Int, "width", default=512, min=64, max=2048, step=16, tooltip="Width of the video in pixels."),
                field(io.Int, "height", default=512, min=64, max=2048, step=16, tooltip="Height of the video in pixels."),
            ],
            outputs=[
                wires.Model.Output(
                    "talking_model", display_name="talking model", tooltip="The model, for every node that asks for one."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, vae: Any, width: int, height: int) -> Any:
        """Wrap; InputError for a MODEL or VAE of another kind. Nothing is loaded."""
        return io.NodeOutput(models.talking_model(model, vae, width, height))


class ApplySpeech(io.ComfyNode):
    """Lets a MODEL hear in KSampler."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_ApplySpeech."""
        return schema(
            node_id="TM_ApplySpeech",
            display_name="Apply Speech to MODEL",
            description="Lets an open talking model hear in ComfyUI's own KSampler, which samples the whole video at once.",
            inputs=[
                field(io.Model, "model", tooltip="From Load Open Talking Model."),
                field(wires.Speaker, "speaker", tooltip="The sound, and when it is spoken."),
                field(
                    wires.Portrait, "portrait", optional=True, tooltip="Where the voice may move the picture. Without it: everywhere."),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Model.Output("talking", display_name="model", tooltip="The same MODEL, and it hears."),
                io.Int.Output(
                    "length", display_name="length",
                    tooltip="Frames that cover the sound, as many as the model was made for at most. For WanImageToVideo."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, speaker: talk.Speaker, portrait: talk.Portrait | None = None) -> Any:
        """A clone that hears; InputError for a MODEL that cannot."""
        family = models.network_of(model).found.family
        encoders.speech_of(family.name)
        talking, voice = model.clone(), speaker.voice
        sound = wan.Sound(
            windows=partial(speaker.windows, each_clip=True), speaking=speaker.speaking, region=None if portrait is None else portrait.mask)
        talking.model_options["transformer_options"] = {**talking.model_options.get("transformer_options", {}), wan.SOUND: sound}
        if voice.num_frames > family.clip_frames:
            said = f"the sound lasts {voice.num_frames} frames, {family.title} was made for {family.clip_frames}"
            running.tell(cls.hidden.unique_id, f"{said}: the rest is left out; Causal Chunked Sampler goes on as long as the sound")
        shown = min(voice.num_frames, family.clip_frames)
        return io.NodeOutput(talking, 1 + voice.timeline.stride * (voice.timeline.num_latents(shown) - 1))
