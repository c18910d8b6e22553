"""The types of this pack that travel between nodes; everything else on a wire is the host's own type."""

from __future__ import annotations

from .compat import io

Model = io.Custom("TM_MODEL")  # tm_core.weights.loading.TalkingModel
AudioWindows = io.Custom("TM_AUDIO_WINDOWS")  # tm_core.app.Voice
Speaker = io.Custom("TM_SPEAKER")  # tm_core.app.Speech
Portrait = io.Custom("TM_PORTRAIT")  # tm_core.app.Subject
LatentStream = io.Custom("TM_LATENT_STREAM")  # tm_core.streaming.handles.LatentStream
FrameStream = io.Custom("TM_FRAME_STREAM")  # tm_core.streaming.compose.Frames: a FrameStream, or several composed
Cast = io.Custom("TM_CAST")  # tuple of tm_core.scenes.Character
Layers = io.Custom("TM_LAYERS")  # tuple of tm_core.scenes.Placement
Faces = io.Custom("TM_FACES")  # tm_core.face.found.FoundFaces
Boxes = io.Custom("BBOX")  # other packs' boxes
