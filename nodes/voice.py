"""TM_AudioEncoder and TM_SpeakingSilence: a sound becomes a speaker."""

from __future__ import annotations

from typing import Any

from ..tm_core import app
from ..tm_core.errors import InputError
from ..tm_core.media.audio_io import read_audio
from ..tm_core.weights.loading import TalkingModel
from . import compat, sound, wires
from .compat import io

MODES: dict[str, app.SpeakingMode] = {"auto": "auto", "speaking": "speaking", "silence": "listening"}


class AudioEncoder(io.ComfyNode):
    """Log-mel windows of a sound, one for each latent frame."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_AudioEncoder."""
        return compat.schema(
            node_id="TM_AudioEncoder",
            display_name="Talking Audio Encoder",
            description="Turns a sound into what the model hears. The video will be as long as this sound.",
            inputs=[
                compat.field(wires.Model, "model", tooltip="The model that will hear the sound."),
                compat.field(io.Audio, "audio", tooltip="Speech of any length, rate and number of channels. In silence the face listens."),
            ],
            outputs=[
                wires.AudioWindows.Output(
                    "audio_windows", display_name="audio windows", tooltip="The sound on the time axis of the video."),
            ],
        )

    @classmethod
    def execute(cls, model: TalkingModel, audio: Any) -> Any:
        """Encode; InputError for a sound without samples."""
        path = sound.write_wave(*sound.waveform_of(audio), compat.temp_folder())
        try:
            voice = app.encode_audio(read_audio(path), model.config, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        sound.remove_with(voice, path)
        return io.NodeOutput(voice)


class SpeakingSilence(io.ComfyNode):
    """When the face speaks and when it listens."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_SpeakingSilence."""
        return compat.schema(
            node_id="TM_SpeakingSilence",
            display_name="Speaking / Silence",
            description="Decides when the lips follow the sound. In silence the mouth stays closed while the face keeps moving.",
            inputs=[
                compat.field(wires.AudioWindows, "audio_windows", tooltip="The encoded sound."),
                compat.field(
                    io.Combo, "mode", options=list(MODES), default="auto",
                    tooltip="auto: by the loudness of the sound. speaking: always. silence: never, the face only listens."),
                compat.field(
                    io.Float, "speech_db", default=-28.0, min=-80.0, max=0.0, step=1.0, advanced=True,
                    tooltip="auto only: speech begins above this level, in dB below the loud part of the sound."),
                compat.field(
                    io.Float, "silence_db", default=-34.0, min=-80.0, max=0.0, step=1.0, advanced=True,
                    tooltip="auto only: speech ends below this level, in dB below the loud part of the sound."),
                compat.field(
                    io.Float, "shortest_pause_s", default=0.3, min=0.0, max=5.0, step=0.05, advanced=True,
                    tooltip="auto only: quiet for less than this many seconds does not end speech."),
            ],
            outputs=[wires.Speaker.Output("speaker", display_name="speaker", tooltip="The sound and when it is spoken.")],
        )

    @classmethod
    def execute(
        cls, audio_windows: app.Voice, mode: str, speech_db: float = -28.0, silence_db: float = -34.0, shortest_pause_s: float = 0.3,
    ) -> Any:
        """Select; InputError for levels that cannot be."""
        if silence_db > speech_db:
            raise InputError("silence_db", silence_db, f"is above speech_db ({speech_db})", "set it some dB below")
        choice = MODES[compat.chosen("mode", mode, MODES)]
        return io.NodeOutput(app.select_speaking(audio_windows, choice, on_db=speech_db, off_db=silence_db, hold_s=shortest_pause_s))
