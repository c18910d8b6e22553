"""Files in and out: sound, stills and video, all by PyAV and Pillow."""

from .audio_io import Waveform, read_audio, resample
from .image_io import open_image, open_mask
from .video_io import Probe, VideoWriter, check_output, probe, read_frames

__all__ = [
    "Probe", "VideoWriter", "Waveform", "check_output", "open_image", "open_mask", "probe", "read_audio", "read_frames", "resample"]
