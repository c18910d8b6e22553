"""Training of SyncNet (metrics/syncnet.py) on generated clips, in three stages that two CPU cores can carry.

`listen`: the sound stream reads phones and mouth shapes off speech. `look`: the lip stream's convolutions read the same
shapes off patches round the mouth. `join`: these convolutions stay, whole crops pass them once, and what follows learns
which sound belongs to which window: cross-entropy over the lags of a clip and over another clip's sounds. From the start
and on whole crops the lip stream learnt nothing in 6000 windows. Half of the clips pass the tiny autoencoder, whose
pictures the score will see. Training identities and voices only. Non-goals: footage (train/footage has a check by SyncNet).
"""

from .audio_stage import AudioPretraining, speech_batch
from .joint_stage import JointTraining, examine, maps_of
from .lip_stage import PATCH, LipPretraining, patch_batch, patches_of
from .speech_clips import LENGTH, STRETCH, WINDOWS, SpeechClips, TalkClip
from .stages import export, take_over, train_audio_stream, train_joint, train_lip_stream

__all__ = [
    "LENGTH", "PATCH", "STRETCH", "WINDOWS", "AudioPretraining", "JointTraining", "LipPretraining", "SpeechClips", "TalkClip", "examine",
    "export", "maps_of", "patch_batch", "patches_of", "speech_batch", "take_over", "train_audio_stream", "train_joint", "train_lip_stream",
]
