"""Training of SyncNet (metrics/syncnet.py) on generated clips, in three stages that two CPU cores can carry.

`listen`: the sound stream reads phones and mouth shapes off speech. `look`: the lip stream's convolutions read the same
shapes off patches round the mouth. `join`: these convolutions stay, whole crops pass them once, and what follows learns
which sound belongs to which window: cross-entropy over the lags of a clip and over another clip's sounds. From the start
and on whole crops the lip stream learnt nothing in 6000 windows. Half of the clips pass the tiny autoencoder, whose
pictures the score will see. Training identities and voices only. Non-goals: footage (train/footage has a check by SyncNet).
"""

from .clips import LENGTH, STRETCH, WINDOWS, Source, TalkClip
from .joining import Joining, examine, maps_of
from .listening import Hearing, speech_batch
from .looking import PATCH, Looking, patch_batch, patches_of
from .stages import export, join, listen, look, take_over

__all__ = [
    "LENGTH", "PATCH", "STRETCH", "WINDOWS", "Hearing", "Joining", "Looking", "Source", "TalkClip", "examine", "export", "join",
    "listen", "look", "maps_of", "patch_batch", "patches_of", "speech_batch", "take_over",
]
