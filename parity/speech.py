"""Speech features, windows and projections against numbers recorded from the official code (parity/goldens, see its metadata)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from parity.golden import recorded
from parity.seeded import fill, fill_state, sound
from tm_core.audio.loudness import integrated_loudness
from tm_core.audio.speech_families import SPEECH_FAMILIES, encode_speech
from tm_core.audio.speech_windows import FrameWindows, TokenWindows
from tm_core.audio.wav2vec2 import build_wav2vec2
from tm_core.model.open_projectors import FantasyProjector, FantasyProjectorConfig, GroupedProjector, GroupedProjectorConfig


def differences() -> dict[str, float]:
    """Largest difference of everything recorded, by what it is and whose it is."""
    return {**_encoder(), **_loudness(), **_fantasytalking(), **_multitalk()}


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def _encoder() -> dict[str, float]:
    said, source = recorded("wav2vec2")
    model = build_wav2vec2(fill_state({name: tuple(shape) for name, shape in source["shapes"].items()}))
    speech = sound(source["samples"])
    made = torch.cat(model(torch.from_numpy(speech)[None]))
    stretched = torch.cat(model(torch.from_numpy(speech)[None], frames=source["frames"]))
    features = encode_speech(model, speech, replace(SPEECH_FAMILIES["multitalk"], loudness_lufs=None))
    return {
        f"wav2vec2 of transformers {source['transformers']}": _gap(made, said["states"]),
        "MultiTalk's wav2vec2, stretched before the transformer": _gap(stretched, said["stretched"]),
        "LiveAct's features of a sound": _gap(features, said["features"]),
    }


def _loudness() -> dict[str, float]:
    said, source = recorded("loudness")
    return {f"loudness of pyloudnorm {source['pyloudnorm']}, LUFS": abs(integrated_loudness(sound(64000), 16000) - float(said["speech"]))}


def _fantasytalking() -> dict[str, float]:
    said, source = recorded("fantasytalking")
    rule = TokenWindows.of_clip(len(said["tokens"]), source["frames"])
    windows = rule.windows(said["tokens"], range((source["frames"] - 1) // 4 + 1)).tokens
    count, width = source["features"]
    shapes = {k: tuple(v) for k, v in source["shapes"].items()}
    projector = FantasyProjector(FantasyProjectorConfig.of(shapes))
    projector.load_state_dict(fill_state(shapes))
    tokens = projector(fill("features", (1, count, width))[0] * 5)
    return {"FantasyTalking's windows": _gap(windows, said["windows"]), "FantasyTalking's projection": _gap(tokens, said["tokens"])}


def _multitalk() -> dict[str, float]:
    said, source = recorded("multitalk")
    worst = 0.0
    for clip, (count, start, frames) in enumerate(source["clips"]):
        latents = range(start // 4, start // 4 + (frames - 1) // 4 + 1)
        made = FrameWindows().windows(fill("features", (count, *source["feature"])), latents, clip_start=start // 4)
        worst = max(worst, _gap(made.first, said[f"clip{clip}_first"]), _gap(made.later, said[f"clip{clip}_later"]))
    shapes = {k: tuple(v) for k, v in source["shapes"].items()}
    cfg = GroupedProjectorConfig.of(shapes, layers=source["projector"]["blocks"])
    model = GroupedProjector(cfg)
    model.load_state_dict(fill_state(shapes))
    first, later = (fill(f"window{n}", (2, f, n, cfg.layers, cfg.audio_dim)) * 10 for f, n in ((1, 5), (3, 8)))
    return {"MultiTalk's windows": worst, "MultiTalk's projection": _gap(model(first, later), said["tokens"])}
