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
from ..data import load_inputs
from .clips import Source
from .joining import examine
from .listening import Hearing
from .looking import Looking
from .stages import export, join, listen, look, take_over

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
    source = Source(load_inputs(inputs, "train"), chosen.corpus, "train", vae)
    held = Source(load_inputs(inputs, "held"), chosen.corpus, "held", vae)
    torch.manual_seed(0)
    net, at = SyncNet(), {stage: chosen.work / f"syncnet.{stage}.safetensors" for stage in ("listen", "look", "join")}
    if chosen.stage != "join":
        {"listen": listen, "look": look}[chosen.stage](net, source, held, at[chosen.stage], minutes=chosen.minutes)
        return
    known = {"listen": take_over(net, at["listen"], Hearing), "look": take_over(net, at["look"], Looking)}
    known["join"] = join(net, source, held, at["join"], minutes=chosen.minutes)
    final = examine(net, [held.clip(500 + i) for i in range(20)])
    log.info("held-out, 20 clips: %s", json.dumps(final))
    export(net, ASSETS, {"held": final, **known})


if __name__ == "__main__":
    main()
