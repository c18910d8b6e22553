"""The real data path: a user's own videos become training clips (paper section 4).

`prepare` walks a folder: scenes are cut, pieces of them judged (one steady face, motion, no text, in sync), kept ones
cached as latents, log-mel rows and masks; a ledger says what was dropped and why. `load_footage` reads the clips back,
`as_training_clip` gives one the fields that training draws batches from. Non-goals: downloading, several speakers.
"""

from .clip_files import FootageClip, as_training_clip, load_footage
from .preparation import FootageReport, prepare
from .thresholds import REASONS, FootageConfig

__all__ = ["REASONS", "FootageClip", "FootageConfig", "FootageReport", "as_training_clip", "load_footage", "prepare"]
