"""Records what SoulX-LiveAct's own `generate` makes at small size: parity/goldens/liveact.safetensors.

Usage: python -m parity.recorders.liveact FOLDER COMMIT, a checkout of Soul-AILab/SoulX-LiveAct. Needs torch, einops, pillow
and tqdm. Five blocks of its loop round its transformer (the history is pooled three times), with and without guidance
of the sound; the velocities of the first four blocks' three steps. Encoders and the autoencoder are stand-ins that
answer from parity/seeded.py, which also fills the weights and draws the noise, so the file holds outputs alone.
The code runs from a copy that differs in its device, its type (float32, on the CPU) and its number of layers and heads.
"""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from parity.golden import GOLDENS
from parity.recorders.official import stand_in
from parity.recorders.open_models import AUDIO_DIM, SIZES, TOKENS, inputs
from parity.seeded import fill_module, numbers

BLOCKS, WATCHED, SLOTS = 5, 4, 14  # sampled; their velocities recorded; latents of the encoded reference
WIDTH, HEIGHT, FPS, RATE, FRAMES = 48, 32, 24, 16000, 150
HIDDEN, GUIDED = 16, 2.5  # of the audio projector; the scale of guidance
DRAWS = 4  # of noise in a block: one to begin with, one after each step (the last weighs nothing)

HALF = ("torch.bfloat16", "torch.float32")
CUDA = ("f'cuda:{int(os.getenv(\"RANK\", 0))}'", "'cpu'")
EDITS = {
    "generate.py": (
        HALF, ("device = local_rank", "device = 'cpu'"), ("range(40)", f"range({SIZES['num_layers']})"),
        ("40, 128]", f"{SIZES['num_heads']}, {SIZES['dim'] // SIZES['num_heads']}]")),
    "model_liveact/model_memory.py": (HALF, CUDA),
    "model_liveact/attention.py": (HALF,),
    "util_liveact.py": (HALF,),
}


def reference() -> Tensor:
    """What the autoencoder makes of the picture and the empty video behind it (16, 14, h, w)."""
    return numbers("reference", (16, SLOTS, HEIGHT // 8, WIDTH // 8))


def sound() -> Tensor:
    """Features of every video frame (T, 12, 768); it ends before the last block does."""
    return numbers("sound", (FRAMES, 12, 768))


def drawn(count: int, shape: tuple[int, ...]) -> Tensor:
    """Noise number `count` of a run."""
    return numbers(f"noise {count}", shape)


def edited(folder: Path, to: Path) -> None:
    """A copy of the code that runs here, importable."""
    for name, changes in EDITS.items():
        text = (folder / name).read_text()
        for old, new in changes:
            if old not in text:
                raise ValueError(f"{name} has no {old}")
            text = text.replace(old, new)
        (to / name).parent.mkdir(exist_ok=True)
        (to / name).write_text(text)
    sys.path.insert(0, str(to))


class _Loaded(nn.Module):
    """A stand-in for an encoder: weightless, wherever it is put."""

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.device, self.model, self.feature_extractor = "cpu", nn.Module(), types.SimpleNamespace(_freeze_parameters=lambda: None)

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> Any:
        return cls()

    def visual(self, picture: Tensor) -> Tensor:
        return inputs()["image"]

    def forward(self, texts: str, device: str) -> list[Tensor]:
        return list(inputs()["text"])


class _Autoencoder(_Loaded):
    """Encodes to the reference, keeps what it is asked to decode."""

    def encode(self, video: Tensor) -> Tensor:
        return reference()

    def decode(self, latents: Tensor) -> Tensor:
        DECODED.append(latents)
        return torch.zeros(1, 3, 4 * latents.shape[1] - 3, 1, 1)


DECODED: list[Tensor] = []


def _same(thing: Any, *_: Any, **__: Any) -> Any:
    return thing


def surroundings() -> None:
    """What the code imports and is not there."""
    stand_in("diffusers", ModelMixin=type("ModelMixin", (nn.Module,), {"device": "cpu"}))
    stand_in("diffusers.configuration_utils", ConfigMixin=type("ConfigMixin", (), {}), register_to_config=_same)
    stand_in("diffusers.loaders", PeftAdapterMixin=type("PeftAdapterMixin", (), {}))
    stand_in("diffusers.utils", export_to_video=lambda *_, **__: None)
    for kind in ("8", "4"):
        stand_in(f"fp{kind}_gemm", **{f"FP{kind}Linear": nn.Linear, f"FP{kind}GemmOptions": None, f"enable_fp{kind}_gemm": None})
    parts = {n: lambda *_: None for n in ("Lambda", "ToTensor", "Resize", "Normalize")}
    stand_in("torchvision", transforms=types.SimpleNamespace(Compose=lambda _: lambda picture: torch.zeros(3, HEIGHT, WIDTH), **parts))
    seconds = (BLOCKS - 0.5) * 32 / FPS  # of sound: so many blocks are sampled
    effects = types.SimpleNamespace(apply_effects_tensor=lambda samples, rate, _: (samples, rate))
    stand_in("torchaudio", load=lambda _: (torch.zeros(1, int(seconds * RATE)), RATE), sox_effects=effects)
    stand_in("torchaudio.transforms", Resample=lambda *_: _same)
    stand_in("lightx2v.models.video_encoders.hf.wan.vae", WanVAE=_Autoencoder)
    stand_in("wan.modules.clip", CLIPModel=_Loaded)
    stand_in("wan.modules.t5", T5EncoderModel=_Loaded)
    stand_in("transformers", Wav2Vec2FeatureExtractor=_Loaded)
    stand_in("src.audio_analysis.wav2vec2", Wav2Vec2Model=_Loaded)
    torch.compile = _same  # type: ignore[assignment]
    torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]


@contextmanager
def noise_by_number() -> Iterator[None]:
    """torch.randn and torch.randn_like draw `drawn`, counted from 0."""
    kept, count = (torch.randn, torch.randn_like), iter(range(10**6))
    torch.randn = lambda *shape, **_: drawn(next(count), shape)  # type: ignore[assignment]
    torch.randn_like = lambda like, **_: drawn(next(count), tuple(like.shape))  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.randn, torch.randn_like = kept


def liveact(folder: Path) -> dict[str, Tensor]:
    """Latents of every block, plain and guided; velocities of the first blocks' steps."""
    surroundings()
    place = Path(tempfile.mkdtemp())
    edited(folder, place)
    Image.new("RGB", (8, 8)).save(place / "picture.png")
    (place / "input.json").write_text(json.dumps([{"cond_image": str(place / "picture.png"), "cond_audio": "sound.wav", "prompt": ""}]))
    network: Any = importlib.import_module("model_liveact.model_memory")
    model = network.WanModel(in_dim=36, **SIZES, intermediate_dim=HIDDEN, output_dim=AUDIO_DIM, context_tokens=TOKENS)
    fill_module(model)
    network.WanModel.from_pretrained = lambda *_, **__: model
    official: Any = importlib.import_module("generate")
    official.get_embedding = lambda *_, **__: sound()
    official.add_audio_to_video = official.torch_gc = lambda *_: None
    velocities: list[Tensor] = []
    model.register_forward_hook(lambda _, __, out: velocities.append(out[0]))
    off = "t5_cpu offload_cache fp8_kv_cache fp8_gemm fp4_gemm block_offload dura_print steam_audio mean_memory"
    found: dict[str, Tensor] = {}
    for name, scale in (("plain", 1.0), ("guided", GUIDED)):
        DECODED.clear()
        with noise_by_number():
            official.generate(types.SimpleNamespace(
                size=f"{WIDTH}*{HEIGHT}", ckpt_dir="", wav2vec_dir="", fps=FPS, audio_cfg=scale, seed=0,
                input_json=str(place / "input.json"), **dict.fromkeys(off.split(), False)))
        found[f"{name}, latents"] = torch.cat([made[:, 3 if i else 0 :] for i, made in enumerate(DECODED)], 1)
        if name == "plain":
            found |= {f"velocity, block {i // 3}, step {i % 3}": v for i, v in enumerate(velocities[: 3 * WATCHED])}
    shutil.rmtree(place)
    return found


@torch.inference_mode()
def main(folder: str, commit: str) -> None:
    """Write the file."""
    recorded = liveact(Path(folder))
    source = {"repository": "https://github.com/Soul-AILab/SoulX-LiveAct", "commit": commit, "sizes": SIZES}
    tensors = {k: v.float().contiguous() for k, v in recorded.items()}
    save_file(tensors, str(GOLDENS / "liveact.safetensors"), {"source": json.dumps(source)})
    for name, value in recorded.items():
        logging.info("%s %s %.3f", name, tuple(value.shape), value.square().mean().sqrt().item())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(*sys.argv[1:3])
