"""Record what the official TAEHV gives for seeded random weights, for tests/vae/test_taehv.py (developers only).

    git clone https://github.com/madebyollin/taehv /tmp/taehv
    python -m parity.recorders.taehv /tmp/taehv/taehv.py --commit COMMIT [--out parity/goldens/taehv.safetensors]

The official code is run, never copied; the file holds numbers only, its metadata where they come from. Needs tqdm.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

SEED = 7
FRAMES, HEIGHT, WIDTH = 9, 24, 32
LATENTS = 4


def seeded_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = SEED) -> dict[str, Tensor]:
    """Weights for these names: about unit gain; frames mostly within 0..1. RandomState's stream is frozen by numpy's policy."""
    rng, out = np.random.RandomState(seed), {}
    for name, shape in sorted(shapes.items()):
        scale = 0.1 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
        out[name] = torch.from_numpy(rng.standard_normal(shape) * scale).float()
    out["decoder.22.weight"] *= 0.25
    out["decoder.22.bias"] += 0.5
    return out


def official(path: Path) -> Any:
    """The official model for Wan2.1's latents, without its weights."""
    spec = importlib.util.spec_from_file_location("official_taehv", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TAEHV(checkpoint_path=None).eval().requires_grad_(False)


@torch.inference_mode()
def record(path: Path) -> dict[str, Tensor]:
    """Inputs, and what the official sequential path makes of them."""
    model, rng = official(path), np.random.RandomState(SEED + 1)
    model.load_state_dict(seeded_weights({k: tuple(v.shape) for k, v in model.state_dict().items()}))
    latents = torch.from_numpy(rng.standard_normal((1, LATENTS, 16, HEIGHT // 8, WIDTH // 8))).float()
    clip = torch.from_numpy(rng.randint(0, 256, (FRAMES, 3, HEIGHT, WIDTH))).to(torch.uint8)
    filled = torch.cat([clip[:1].expand(3, -1, -1, -1), clip]).float()[None] / 255  # see tm_core/vae/taehv.py on the start of a clip
    return {
        "latents": latents.transpose(1, 2).contiguous(),
        "frames": model.decode_video(latents, parallel=False, show_progress_bar=False)[0].contiguous(),
        "clip": clip,
        "encoded": model.encode_video(filled, parallel=False, show_progress_bar=False).transpose(1, 2).contiguous(),
    }


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("official", type=Path)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--out", type=Path, default=Path("parity/goldens/taehv.safetensors"))
    args = parser.parse_args()
    save_file(record(args.official), str(args.out), {
        "repository": "https://github.com/madebyollin/taehv", "commit": args.commit, "licence": "MIT",
        "recorded": f"parity/recorders/taehv.py, float32 on a CPU, torch {torch.__version__}, weights seeded_weights(seed={SEED}); "
                    "decode_video and encode_video with parallel=False",
    })


if __name__ == "__main__":
    main()
