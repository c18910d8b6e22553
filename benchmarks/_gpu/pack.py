"""The pack: a few stills and a piece of speech in one small file, from which a machine without inputs makes training clips.

`python -m benchmarks._gpu.pack` writes it: from build/train/inputs.safetensors where that is there (as many stills, as WebP, and as
much speech as the limit allows), else from the portraits and the speech that the package ships. Raw stills need no decoder on
the other side; WebP needs Pillow there. A pack under build/ (carried along, not committed) counts before the committed one.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "benchmarks" / "data" / "gpu_pack.safetensors"
ASSETS = ROOT / "tm_core" / "assets"
MOST_BYTES = 8 * 2**20
RAW_BYTES = 2**20  # stills that fit are kept as they are
SPEECH_BYTES = 3 * 2**20
META = "talking_machines_inputs"  # as train/dataset.py names it
QUALITY = 92  # of WebP


def work_folder() -> Path:
    """Where training's inputs are (TM_BUILD, or build/train)."""
    return Path(os.environ.get("TM_BUILD", ROOT / "build" / "train"))


def pack_path() -> Path:
    """The pack to use here."""
    carried = work_folder().parent / "gpu_pack.safetensors"
    return carried if carried.is_file() else SHIPPED


def load_pack(path: Path | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors as training's inputs have them, and the metadata; stills (K, 3, S, S) uint8 are decoded."""
    with safe_open(str(path or pack_path()), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        metadata = dict(file.metadata())
    if "images.webp" in tensors:
        starts = tensors.pop("images.starts").tolist()
        data = tensors.pop("images.webp").numpy().tobytes()
        tensors["images"] = torch.stack([_decode(data[a:b]) for a, b in pairwise(starts)])
    return tensors, metadata


def unpack(folder: Path) -> Path:
    """Training's inputs in a folder, from the pack."""
    tensors, metadata = load_pack()
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items() if not k.startswith("golden.")}, folder / "inputs.safetensors", metadata)
    return folder / "inputs.safetensors"


def _decode(data: bytes) -> Tensor:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB")).transpose(2, 0, 1).copy())


# -- writing ------------------------------------------------------------------------------------------------


def write(out: Path, inputs: Path | None = None) -> Path:
    """Make a pack of training inputs (None: of what the package ships)."""
    if inputs is None:
        with tempfile.TemporaryDirectory() as folder:
            return write(out, _shipped_inputs(Path(folder)))
    with safe_open(str(inputs), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        meta = json.loads(file.metadata()[META])
    tensors, meta = _some_speech(tensors, meta)
    tensors = _some_stills(tensors, meta)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, out, {META: json.dumps(meta)})
    size = out.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{out}: {size} bytes, a pack has at most {MOST_BYTES}")
    return out


def _some_speech(tensors: dict[str, Tensor], meta: dict[str, list[str]]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Whole utterances of each split while they fit, the held split a quarter of the room."""
    for split, room in (("train", SPEECH_BYTES * 3 // 4), ("held", SPEECH_BYTES // 4)):
        starts, rows = tensors[f"{split}.starts"], tensors[f"{split}.rows"]
        count = int((starts[1:] * 4 * rows.shape[1] <= room).sum())
        end = int(starts[count])
        for name, per_frame in (("rows", 4), ("weights", 1), ("labels", 1)):
            tensors[f"{split}.{name}"] = tensors[f"{split}.{name}"][: end * per_frame].clone()
        tensors[f"{split}.starts"] = starts[: count + 1].clone()
        tensors[f"{split}.trusted"] = tensors[f"{split}.trusted"][:count].clone()
        meta[f"{split}.voices"] = meta[f"{split}.voices"][:count]
    return tensors, meta


def _some_stills(tensors: dict[str, Tensor], meta: dict[str, list[str]]) -> dict[str, Tensor]:
    """The first stills, raw where all of them are small, else as many as WebP brings under the limit."""
    images = tensors["images"]
    if images.nbytes <= RAW_BYTES:
        return tensors
    room = MOST_BYTES - sum(t.nbytes for name, t in tensors.items() if name != "images") - 2**16
    parts, starts = list[bytes](), [0]
    for image in images:
        parts.append(_encode(image))
        if starts[-1] + len(parts[-1]) > room:
            parts.pop()
            break
        starts.append(starts[-1] + len(parts[-1]))
    keep = tensors["pictures"] < len(parts)
    for name in ("points", "pictures", "mirrored"):
        tensors[name] = tensors[name][keep]
    for name in ("faces", "face_splits"):
        meta[name] = [value for value, kept in zip(meta[name], keep.tolist(), strict=True) if kept]
    del tensors["images"]
    return tensors | {"images.webp": torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.uint8), "images.starts": torch.tensor(starts)}


def _encode(image: Tensor) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(out, "WEBP", quality=QUALITY, method=6)
    return out.getvalue()


def _shipped_inputs(folder: Path) -> Path:
    """Training inputs of the portraits and the speech that the package ships, written as the corpora are."""
    from tm_core.config import tiny
    from tm_core.media.audio_io import open_audio
    from tm_core.metrics.phones import recognise_phones
    from tm_core.train.dataset import prepare

    faces = [{"file": str(ASSETS / "portraits" / f"{name}.jpg"), "identity": name, "split": split}
             for name, split in (("demo", "train"), ("second", "train"), ("third", "train"), ("fourth", "held"))]
    (folder / "faces").mkdir()
    (folder / "faces" / "faces.json").write_text(json.dumps(faces))
    sound = next((ASSETS / "speech").glob("*.wav"))
    samples = open_audio(sound).samples
    phones = [(p.name, p.start, p.end) for p in recognise_phones(samples)]
    (folder / "speech").mkdir()
    twice = [{"phones": phones, "split": split, "trusted": False} for split in ("train", "held")]
    (folder / "speech" / f"{sound.stem}.json").write_text(json.dumps(twice))
    whole = np.clip(samples * 32768, -32768, 32767).astype(np.int16)
    np.savez(folder / "speech" / f"{sound.stem}.npz", samples=np.concatenate([whole, whole]), starts=np.array([0, len(whole)]))
    return prepare(folder, folder / "inputs.safetensors", tiny())


def main() -> None:
    """See the module's docstring."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--inputs", type=Path, help="training inputs (default: those under build/train, else what the package ships)")
    parse.add_argument("--out", type=Path)
    given = parse.parse_args()
    found = work_folder() / "inputs.safetensors"
    inputs = given.inputs or (found if found.is_file() else None)
    out = write(given.out or (SHIPPED if inputs is None else work_folder().parent / "gpu_pack.safetensors"), inputs)
    if inputs is None:
        from benchmarks._gpu.correctness import record

        record(out)
    print(f"{out}: {out.stat().st_size / 2**20:.2f} MiB, of {inputs or 'what the package ships'}")


if __name__ == "__main__":
    main()
