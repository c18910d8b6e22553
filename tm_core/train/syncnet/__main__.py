"""`python -m tm_core.train.syncnet listen|look|join --minutes 20`, in this order; each goes on from its checkpoint."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch

from ...metrics.syncnet import ASSETS, SyncNet
from ...vae.tiny import TinyVAE
from ...weights.loading import load_model
from ..dataset import load_inputs
from .audio_stage import AudioPretraining
from .joint_stage import examine
from .lip_stage import LipPretraining
from .speech_clips import SpeechClips
from .stages import export, take_over, train_audio_stream, train_joint, train_lip_stream

log = logging.getLogger(__name__)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("listen", "look", "join"))
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--work", type=Path, default=Path("build/train"))
    parser.add_argument("--corpus", type=Path, default=Path("build/corpus"))
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    vae, inputs = load_model().vae, chosen.work / "inputs.safetensors"
    assert isinstance(vae, TinyVAE)
    source = SpeechClips(load_inputs(inputs, "train"), chosen.corpus, "train", vae)
    held = SpeechClips(load_inputs(inputs, "held"), chosen.corpus, "held", vae)
    torch.manual_seed(0)
    net, at = SyncNet(), {stage: chosen.work / f"syncnet.{stage}.safetensors" for stage in ("listen", "look", "join")}
    if chosen.stage != "join":
        {"listen": train_audio_stream, "look": train_lip_stream}[chosen.stage](net, source, held, at[chosen.stage], minutes=chosen.minutes)
        return
    known = {"listen": take_over(net, at["listen"], AudioPretraining), "look": take_over(net, at["look"], LipPretraining)}
    known["join"] = train_joint(net, source, held, at["join"], minutes=chosen.minutes)
    final = examine(net, [held.clip(500 + i) for i in range(20)])
    log.info("held-out, 20 clips: %s", json.dumps(final))
    export(net, ASSETS, {"held": final, **known})


if __name__ == "__main__":
    main()
