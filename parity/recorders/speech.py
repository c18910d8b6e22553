"""Record what the official code makes of sound, as numbers for tests/audio and tests/model (developers only).

    python -m parity.recorders.speech wav2vec2 MULTITALK_FOLDER COMMIT LIVEACT_FOLDER COMMIT
    python -m parity.recorders.speech loudness
    python -m parity.recorders.speech fantasytalking FANTASY_TALKING_FOLDER COMMIT
    python -m parity.recorders.speech multitalk MULTITALK_FOLDER COMMIT LIVEACT_FOLDER COMMIT

Needs PyPI `transformers` 4.49 and `pyloudnorm`; the folders are checkouts of Fantasy-AMAP/fantasy-talking,
MeiGen-AI/MultiTalk and Soul-AILab/SoulX-LiveAct at the commits named. Their code is imported and run, none of it is
kept: the files under parity/goldens hold outputs only. Weights and inputs follow parity/seeded.py. Packages those
repositories import for other purposes (attention kernels, video output) may be missing: they are replaced by empty ones.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import types
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from parity import seeded
from parity.recorders.official import ACCELERATORS, absent, import_from, package, save, stand_in_diffusers

SMALL_WAV2VEC2 = {  # Hugging Face's names for sizes
    "hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 256, "conv_dim": (32,) * 7,
}
SAMPLES, FRAMES = 9000, 14  # 0.56 s; frames the convolutions' vectors are stretched to
FANTASY_CASES = [(n, f) for f in (5, 49, 81, 121) for n in (round(f * 50 / 23), f * 2, f * 2 - 11 % f, f * 27 // 16, f)]
FANTASY_FEATURES, FANTASY_FRAMES, FANTASY_DIMS = 58, 25, (24, 32)
MULTITALK_CLIPS = ((33, 0, 21), (33, 16, 17))  # features, first frame of the clip, its frames
MULTITALK_FEATURE = (3, 4)  # layers, width
GROUPED = {"blocks": 3, "channels": 16, "intermediate_dim": 24, "output_dim": 20, "context_tokens": 4}


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module's tensors."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def filled(module: nn.Module) -> nn.Module:
    """The module with weights of the rule."""
    module.load_state_dict(seeded.fill_state(shapes_of(module)))
    return module.eval()


@torch.inference_mode()
def record_wav2vec2(folder: Path, commit: str, liveact: Path, liveact_commit: str) -> None:
    """Hugging Face's encoder and normalisation, MultiTalk's stretching before the transformer, LiveAct's way from sound to features."""
    transformers = importlib.import_module("transformers")
    config = transformers.Wav2Vec2Config(**SMALL_WAV2VEC2)
    samples = torch.from_numpy(seeded.sound(SAMPLES))[None]
    plain = filled(transformers.Wav2Vec2Model(config))
    states = plain(samples, output_hidden_states=True).hidden_states
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    normalised = torch.from_numpy(np.array(extractor(seeded.sound(SAMPLES), sampling_rate=16000).input_values[0]))
    subclass = import_from(folder, "src.audio_analysis.wav2vec2").Wav2Vec2Model
    stretching = filled(subclass(config))
    stretched = stretching(samples, seq_len=FRAMES, output_hidden_states=True).hidden_states
    as_it_is = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)  # chinese-wav2vec2-base's preprocessor_config.json
    features = import_from(liveact, "util_liveact").get_embedding(seeded.sound(SAMPLES), as_it_is, stretching)
    full = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config())
    save(
        "wav2vec2",
        {"states": torch.cat(states), "stretched": torch.cat(stretched), "normalised_every_8th": normalised[::8], "features": features},
        transformers=transformers.__version__, config=SMALL_WAV2VEC2, samples=SAMPLES, frames=FRAMES,
        parameters_of_base=sum(p.numel() for p in full.parameters()),
        shapes=shapes_of(plain),
        stretched_by=f"MeiGen-AI/MultiTalk {commit} src/audio_analysis/wav2vec2.py",
        features_by=f"Soul-AILab/SoulX-LiveAct {liveact_commit} util_liveact.get_embedding", torch=torch.__version__)


def loudness_cases() -> dict[str, np.ndarray]:
    """Sounds at 16 kHz that reach every branch of the meter: level, pauses, both gates, silence."""
    speech = seeded.sound(64000)
    half_silent = np.concatenate([speech, np.zeros(48000, np.float32)])
    return {
        "speech": speech, "loud": speech * 8, "quiet": speech * 0.01, "below_the_gate": speech * 1e-4,
        "silence": np.zeros(32000, np.float32), "half_silent": half_silent,
        "loud_then_soft": np.concatenate([speech * 5, speech * 0.1]), "odd_length": speech[:30011], "just_a_block": speech[:6400],
    }


def record_loudness() -> None:
    """pyloudnorm's integrated loudness of each case, and of the same with the recommendation's exact filters."""
    meter = importlib.import_module("pyloudnorm").Meter
    found = {name: meter(16000).integrated_loudness(x) for name, x in loudness_cases().items()}
    exact = meter(16000, filter_class="DeMan").integrated_loudness(loudness_cases()["speech"])
    save(
        "loudness", {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()},
        pyloudnorm=importlib.metadata.version("pyloudnorm"), speech_with_exact_filters=exact, torch=torch.__version__)


@torch.inference_mode()
def record_fantasytalking(folder: Path, commit: str) -> None:
    """Ranges of many clips, windows of one, the projection."""
    package(folder, "diffsynth", "diffsynth.models")
    official = import_from(folder, "model")
    model = official.FantasyTalkingAudioConditionModel
    tensors = {f"ranges_{n}_{f}": torch.tensor(model.split_audio_sequence(None, n, num_frames=f)) for n, f in FANTASY_CASES}
    features = seeded.fill("features", (1, FANTASY_FEATURES, FANTASY_DIMS[0])) * 5
    projector = filled(official.AudioProjModel(*FANTASY_DIMS))
    tokens = projector(features)
    ranges = model.split_audio_sequence(None, FANTASY_FEATURES, num_frames=FANTASY_FRAMES)
    windows, lengths = model.split_tensor_with_padding(None, tokens, ranges, expand_length=4)
    save(
        "fantasytalking", {**tensors, "tokens": tokens[0], "windows": windows[0], "lengths": lengths},
        repository="Fantasy-AMAP/fantasy-talking", commit=commit, features=[FANTASY_FEATURES, FANTASY_DIMS[0]], frames=FANTASY_FRAMES,
        shapes=shapes_of(projector), torch=torch.__version__)


class Reached(Exception):
    """Raised where the recording has what it wants."""


class Catch(nn.Module):
    """Stands where the audio projection was and keeps what it is given."""

    def forward(self, first: Tensor, later: Tensor) -> Tensor:
        self.given = first, later
        raise Reached


def grouped_windows(official: types.ModuleType, audio: Tensor) -> tuple[Tensor, Tensor]:
    """What MultiTalk's model hands to its audio projection, given frames' windows (1, T, 5, L, C)."""
    sizes = {"dim": 32, "ffn_dim": 32, "freq_dim": 16, "text_dim": 8, "in_dim": 8, "num_heads": 2, "num_layers": 0, "intermediate_dim": 2}
    model = official.WanModel(**sizes, weight_init=False)
    model.audio_proj = catch = Catch()
    latents = (audio.shape[1] - 1) // 4 + 1
    picture = torch.zeros(4, latents, 4, 4)
    try:
        model(
            [picture], t=torch.zeros(1), context=[torch.zeros(4, 8)], seq_len=latents * 4, clip_fea=torch.zeros(1, 257, 1280),
            y=[picture], audio=audio)
    except Reached:
        return catch.given
    raise RuntimeError("the official model never reached its audio projection")


@torch.inference_mode()
def record_multitalk(folder: Path, commit: str, liveact: Path, liveact_commit: str) -> None:
    """Windows of two clips of one sound, the projection."""
    absent(*ACCELERATORS, "kokoro")
    stand_in_diffusers()
    package(folder, "wan", "wan.modules", "wan.utils")
    official = import_from(folder, "wan.modules.multitalk_model")
    frame_windows = import_from(liveact, "util_liveact").get_audio_emb
    tensors = {}
    for clip, (count, start, frames) in enumerate(MULTITALK_CLIPS):
        features = seeded.fill("features", (count, *MULTITALK_FEATURE))
        first, later = grouped_windows(official, frame_windows(features, start, start + frames, "cpu"))
        tensors |= {f"clip{clip}_first": first[0], f"clip{clip}_later": later[0]}
    first, later = (seeded.fill(f"window{n}", (2, f, n, GROUPED["blocks"], GROUPED["channels"])) * 10 for f, n in ((1, 5), (3, 8)))
    projector = filled(official.AudioProjModel(seq_len=5, seq_len_vf=8, norm_output_audio=True, **GROUPED))
    save(
        "multitalk", {**tensors, "tokens": projector(first, later)}, repository="MeiGen-AI/MultiTalk", commit=commit, projector=GROUPED,
        shapes=shapes_of(projector), clips=MULTITALK_CLIPS, feature=MULTITALK_FEATURE,
        frame_windows=f"Soul-AILab/SoulX-LiveAct {liveact_commit} util_liveact.get_audio_emb", torch=torch.__version__)


def main() -> None:
    """Record one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["wav2vec2", "loudness", "fantasytalking", "multitalk"])
    parser.add_argument("rest", nargs="*", help="folders and their commits, see above")
    args = parser.parse_args()
    given = [Path(value) if i % 2 == 0 else value for i, value in enumerate(args.rest)]
    globals()[f"record_{args.part}"](*given)


if __name__ == "__main__":
    main()
