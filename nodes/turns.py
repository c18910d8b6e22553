"""TM_SpeakingTimeline, TM_Conversation and TM_SchedulePicture: who speaks when, as it is written down."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tm_core import talk
from ..tm_core.audio.conversation import split_conversation
from ..tm_core.audio.turns import SpeakingTurns, parse_turns, read_schedule
from ..tm_core.audio.turns_picture import Row, draw_turns
from ..tm_core.errors import InputError
from . import voice, wires
from .host import folders, pictures, sound
from .host.schemas import chosen, field, io, nothing, schema

MOST = 4
RTTM_FILE = re.compile(r"[^\n]+\.rttm")
TIMELINE_TIP = (
    "Who speaks when: 0.0-2.5 A, 2.5-4 B, 6- A + B (seconds or m:ss; an open end lasts to the end). Or the text of an RTTM file, "
    "or the name of one in the input folder (NAME.rttm).")


def schedule_of(text: str) -> SpeakingTurns:
    """The schedule of a text widget: what is written there, or the RTTM file of the input folder that it names."""
    name = text.strip()
    return read_schedule(folders.input_file(name, "timeline")) if RTTM_FILE.fullmatch(name) else parse_turns(text)


def stamp(text: str) -> str:
    """Changes when the RTTM file that a text widget names does."""
    name = text.strip()
    if not RTTM_FILE.fullmatch(name):
        return text
    state = folders.input_file(name, "timeline").stat()
    return f"{name} {state.st_mtime_ns} {state.st_size}"


def listed(names: str) -> list[str]:
    """Names of a text widget, at commas or lines."""
    return [name.strip() for name in re.split(r"[,;\n]", names) if name.strip()]


def _audio(samples: np.ndarray, rate: int) -> dict[str, Any]:
    return {"waveform": torch.from_numpy(samples)[None], "sample_rate": rate}


def _timeline_field() -> Any:
    return field(io.String, "timeline", multiline=True, default="", tooltip=TIMELINE_TIP)


class SpeakingTimeline(io.ComfyNode):
    """A voice that speaks in its written turns."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_SpeakingTimeline."""
        return schema(
            node_id="TM_SpeakingTimeline",
            display_name="Speaking Timeline",
            description="Decides by a written timeline or a diarisation (RTTM) when the lips follow the sound.",
            inputs=[
                field(wires.AudioWindows, "audio_windows", tooltip="The encoded sound."),
                _timeline_field(),
                field(
                    io.String, "name", default="", tooltip="Whose turns these are. May stay empty where the timeline names one speaker."),
                voice.silence_field(),
            ],
            outputs=[wires.Speaker.Output("speaker", display_name="speaker", tooltip="The sound and when it is spoken.")],
        )

    @classmethod
    def execute(cls, audio_windows: talk.AudioWindows, timeline: str, name: str, silence: str = "zero") -> Any:
        """Select; InputError for what is no timeline, and for a name or a turn that does not fit."""
        choice = voice.SILENCES[chosen("silence", silence, voice.SILENCES)]
        return io.NodeOutput(talk.select_speaking(audio_windows, silence=choice, turns=schedule_of(timeline), name=name.strip()))

    @classmethod
    def fingerprint_inputs(cls, timeline: str = "", **_: Any) -> str:
        """A file that was replaced is read again."""
        return stamp(timeline)


class Conversation(io.ComfyNode):
    """One mixed sound, apart for every speaker."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_Conversation."""
        sounds = [
            io.Audio.Output(f"audio_{i}", display_name=f"audio {i}", tooltip=f"The sound with all but the turns of speaker {i} silenced.")
            for i in range(1, MOST + 1)]
        return schema(
            node_id="TM_Conversation",
            display_name="Split Conversation",
            description="Takes one recording of several speakers and its timeline or diarisation (RTTM), and gives for every speaker the "
            "sound with the others' turns silenced, so that no face mouths another's words. Connect each to Talking Audio Encoder.",
            inputs=[
                field(io.Audio, "audio", tooltip="The mixed sound of the conversation. Channels and rate are kept."),
                _timeline_field(),
                field(
                    io.String, "names", default="",
                    tooltip="Who is speaker 1, 2, ...: names of the timeline at commas. Empty: in the order in which they begin."),
                field(
                    io.Boolean, "leave_others_out", default=False, optional=True, advanced=True,
                    tooltip="The timeline may name more speakers than names does: their turns are silenced for everybody."),
            ],
            outputs=[
                *sounds,
                io.Image.Output("picture", display_name="picture", tooltip="Who speaks when: a row for each speaker over the seconds."),
                io.String.Output("turns", display_name="turns", tooltip="The timeline as it was read, for Speaking Timeline."),
            ],
        )

    @classmethod
    def execute(cls, audio: Any, timeline: str, names: str, leave_others_out: bool = False) -> Any:
        """Split; InputError for names that are not the timeline's, or too many."""
        schedule = schedule_of(timeline)
        speakers = listed(names) or list(schedule.names)
        schedule.match(speakers, others=leave_others_out)
        if len(speakers) > MOST:
            remedy = f"list up to {MOST} of them in names and allow leave_others_out"
            raise InputError("names", ", ".join(speakers), f"{len(speakers)} speakers, this node has {MOST} outputs", remedy)
        channels, rate = sound.waveform_of(audio)
        tracks = split_conversation(channels.numpy(), rate, schedule, speakers)
        rows = [
            Row(name=name, samples=track.mean(0), sample_rate=rate, spans=schedule.spans(name))
            for name, track in zip(speakers, tracks, strict=True)]
        unused = f"the timeline has {len(speakers)} speakers ({', '.join(speakers)}): connect no more audio outputs than that"
        outputs = [_audio(track, rate) for track in tracks] + [nothing(unused)] * (MOST - len(tracks))
        return io.NodeOutput(*outputs, pictures.image_of(draw_turns(rows)[None]), schedule.text)

    @classmethod
    def fingerprint_inputs(cls, timeline: str = "", **_: Any) -> str:
        """A file that was replaced is read again."""
        return stamp(timeline)


class SchedulePicture(io.ComfyNode):
    """Who speaks when, to look at."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_SchedulePicture."""
        speakers = [
            field(wires.Speaker, f"speaker_{i}", optional=True, tooltip=f"Row {i} of those connected.") for i in range(1, MOST + 1)]
        return schema(
            node_id="TM_SchedulePicture",
            display_name="Schedule Picture",
            description="Draws when each speaker speaks: its waveform over the seconds, filled where the lips follow it.",
            inputs=[
                field(
                    io.String, "names", default="",
                    tooltip="A name for each connected speaker, at commas. Empty: Speaker 1, Speaker 2, ..."),
                field(io.Int, "width", default=1024, min=240, max=8192, step=16, tooltip="Width of the picture in pixels."),
                *speakers,
            ],
            outputs=[io.Image.Output("picture", display_name="picture", tooltip="A row for each speaker over the seconds.")],
        )

    @classmethod
    def execute(cls, names: str, width: int = 1024, **speakers: talk.Speaker | None) -> Any:
        """Draw; InputError where names and connected speakers are not as many, and for none."""
        return io.NodeOutput(cls.draw(listed(names), width, [s for _, s in sorted(speakers.items()) if s is not None]))

    @classmethod
    def draw(cls, names: list[str], width: int, speakers: list[talk.Speaker]) -> Tensor:
        """The picture of connected speakers as an IMAGE."""
        if names and len(names) != len(speakers):
            rule = f"{len(names)} names and {len(speakers)} connected speakers"
            raise InputError("names", ", ".join(names), rule, "name each connected speaker once, or none")
        rows = [
            Row(name=name, samples=s.voice.waveform.samples, sample_rate=s.voice.waveform.sample_rate, spans=s.spans)
            for name, s in zip(names or [f"Speaker {i}" for i in range(1, MOST + 1)], speakers, strict=bool(names))]
        return pictures.image_of(draw_turns(rows, width=width)[None])
