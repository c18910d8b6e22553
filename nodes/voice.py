"""TM_AudioEncoder and TM_SpeakingSilence: a sound becomes a speaker."""

from __future__ import annotations

from typing import Any, get_args

from torch import Tensor

from ..tm_core import talk
from ..tm_core.audio.silence import Levels
from ..tm_core.audio.silenced_windows import Silence
from ..tm_core.errors import InputError
from ..tm_core.inputs import SpeakingMode
from ..tm_core.media.audio_io import LongWaveform, Waveform, open_audio
from ..tm_core.weights.loading import TalkingModel
from . import wires
from .host import encoders, folders, sound
from .host.schemas import chosen, field, io, schema

MODES: dict[str, SpeakingMode] = {"auto": "auto", "speaking": "speaking", "silence": "listening"}

SILENCES: dict[str, Silence] = {name: name for name in get_args(Silence)}


def silence_field() -> Any:
    """The input `silence` of the nodes that make a speaker."""
    return field(
        io.Combo, "silence", options=list(SILENCES), default="zero", optional=True, advanced=True,
        tooltip="What the model hears while the face listens. zero: no sound at all, which the bundled model rests with. "
        "real: digital silence, for models that keep talking without a sound.")


class AudioEncoder(io.ComfyNode):
    """Log-mel windows of a sound, one for each latent frame."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_AudioEncoder."""
        return schema(
            node_id="TM_AudioEncoder",
            display_name="Talking Audio Encoder",
            description="Turns a sound into what the model hears. The video will be as long as this sound. "
            "Open 14B models hear through wav2vec2: connect AudioEncoderLoader.",
            inputs=[
                field(wires.Model, "model", tooltip="The model that will hear the sound."),
                field(io.Audio, "audio", tooltip="Speech of any length, rate and number of channels. In silence the face listens."),
                field(
                    io.AudioEncoder, "audio_encoder", optional=True,
                    tooltip="Open models only: the wav2vec2 they were trained with, from AudioEncoderLoader. Loudness, normalisation and "
                    "frame rate are done here as in their training."),
                field(
                    io.AudioEncoderOutput, "audio_encoder_output", optional=True,
                    tooltip="Instead of audio_encoder: what AudioEncoderEncode made. Refused where it cannot be right for the model."),
                field(
                    io.Boolean, "approximate", default=False, optional=True, advanced=True,
                    tooltip="Take an audio_encoder_output of another frame rate, stretched afterwards. Lips follow less well."),
            ],
            outputs=[
                wires.AudioWindows.Output(
                    "audio_windows", display_name="audio windows", tooltip="The sound on the time axis of the video."),
            ],
        )

    @classmethod
    def execute(
        cls, model: TalkingModel, audio: Any, audio_encoder: Any = None, audio_encoder_output: Any = None, approximate: bool = False,
    ) -> Any:
        """Encode; InputError for a sound without samples, and for an encoder that is missing or not the model's."""
        path = sound.write_wave(*sound.waveform_of(audio), folders.temp_folder())
        try:
            waveform = open_audio(path)
            speech = speech_features(model, waveform, audio_encoder, audio_encoder_output, approximate)
            voice = talk.encode_audio(waveform, model.config, path, speech)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        sound.remove_with(voice.waveform, path)  # a stream hears it when nothing else of the voice is left
        return io.NodeOutput(voice)


def speech_features(model: TalkingModel, waveform: Waveform | LongWaveform, encoder: Any, output: Any, approximate: bool) -> Tensor | None:
    """What an open model's encoder makes of a sound; None for our own models, which need none."""
    if model.config.family is None:
        return None
    family = encoders.speech_of(model.config.family)
    if encoder is not None:
        return encoders.speech_features(encoder, waveform.samples, family)
    return None if output is None else encoders.features_of_output(output, family, approximate=approximate)


class SpeakingSilence(io.ComfyNode):
    """When the face speaks and when it listens."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_SpeakingSilence."""
        return schema(
            node_id="TM_SpeakingSilence",
            display_name="Speaking / Silence",
            description="Decides when the lips follow the sound. In silence the mouth stays closed while the face keeps moving.",
            inputs=[
                field(wires.AudioWindows, "audio_windows", tooltip="The encoded sound."),
                field(
                    io.Combo, "mode", options=list(MODES), default="auto",
                    tooltip="auto: by the loudness of the sound. speaking: always. silence: never, the face only listens."),
                field(
                    io.Float, "speech_db", default=-28.0, min=-80.0, max=0.0, step=1.0, advanced=True,
                    tooltip="auto only: speech begins above this level, in dB below the loud part of the sound."),
                field(
                    io.Float, "silence_db", default=-34.0, min=-80.0, max=0.0, step=1.0, advanced=True,
                    tooltip="auto only: speech ends below this level, in dB below the loud part of the sound."),
                field(
                    io.Float, "shortest_pause_s", default=0.3, min=0.0, max=5.0, step=0.05, advanced=True,
                    tooltip="auto only: quiet for less than this many seconds does not end speech."),
                field(
                    io.Float, "shortest_speech_s", default=0.0, min=0.0, max=5.0, step=0.05, optional=True, advanced=True,
                    tooltip="auto only: a sound shorter than this many seconds is no speech, as a cough or a click. 0: all of it is."),
                field(
                    io.Combo, "levels", options=list(get_args(Levels)), default="relative", optional=True, advanced=True,
                    tooltip="auto only. relative: the levels are below the loud part of the sound. absolute: they are dB of full scale, "
                    "for example -40 and -46, so that a track of noise or of a faint other voice stays silent."),
                silence_field(),
            ],
            outputs=[wires.Speaker.Output("speaker", display_name="speaker", tooltip="The sound and when it is spoken.")],
        )

    @classmethod
    def execute(
        cls, audio_windows: talk.AudioWindows, mode: str, speech_db: float = -28.0, silence_db: float = -34.0,
        shortest_pause_s: float = 0.3, shortest_speech_s: float = 0.0, levels: str = "relative", silence: str = "zero",
    ) -> Any:
        """Select; InputError for levels that cannot be."""
        if silence_db > speech_db:
            raise InputError("silence_db", silence_db, f"is above speech_db ({speech_db})", "set it some dB below")
        choice = MODES[chosen("mode", mode, MODES)]
        return io.NodeOutput(talk.select_speaking(
            audio_windows, choice, silence=SILENCES[chosen("silence", silence, SILENCES)], on_db=speech_db, off_db=silence_db,
            hold_s=shortest_pause_s, shortest_s=shortest_speech_s, levels=chosen("levels", levels, get_args(Levels))))
