"""From a portrait and a voice to a stream of frames: one module for each step of a graph, one function for each node.

`encode_audio`, `prepare_portrait`, `select_speaking`, `build_scene`, `sample_stream`, `decode_stream`; `scene_stream` for several
characters of one picture; `animate` is all of them, for files. Nothing is sampled before a sink pulls. Paper section 3.
"""

from .animate import Encoders, Running, animate, every_portrait
from .characters import Cast, Character, put_back, scene_stream, together
from .portrait import Portrait, face_mesh, prepare_portrait
from .scene import BuiltScene, Prompt, build_scene, check_prompt, encode_picture
from .speaker import Speaker, select_speaking
from .stream import decode_stream, parse_device, sample_stream, sampler_of, share_cpu
from .voice import AudioWindows, encode_audio, speech_family, timeline_of

__all__ = [
    "AudioWindows", "BuiltScene", "Cast", "Character", "Encoders", "Portrait", "Prompt", "Running", "Speaker", "animate", "build_scene",
    "check_prompt", "decode_stream", "encode_audio", "encode_picture", "every_portrait", "face_mesh", "parse_device", "prepare_portrait",
    "put_back", "sample_stream", "sampler_of", "scene_stream", "select_speaking", "share_cpu", "speech_family", "timeline_of", "together",
]
