"""Files in and out: sound, stills and video, all by PyAV and Pillow."""

from .audio_io import Waveform, read_audio, resample
from .image_io import open_image, open_mask
from .sound_reader import SoundReader, SoundSource, SoundTrack
from .video_io import VideoWriter
from .video_reader import Probe, VideoReader, probe, read_frames

__all__ = [
    "Probe", "SoundReader", "SoundSource", "SoundTrack", "VideoReader", "VideoWriter", "Waveform", "open_image", "open_mask", "probe",
    "read_audio", "read_frames", "resample",
]
