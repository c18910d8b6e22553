"""Weight files made to do harm: each gives one line, at once, without the memory it asks for.

Every file goes through every loader there is, whatever it pretends to be.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tm_core.audio.wav2vec2 import Wav2Vec2
from tm_core.config import DiTConfig, tiny
from tm_core.errors import InputError
from tm_core.metrics.syncnet import SyncNet, load_syncnet
from tm_core.model.audio_projector import AudioProjector
from tm_core.model.dit import TalkingDiT
from tm_core.model.open_projectors import GroupedProjector, GroupedProjectorConfig
from tm_core.model.talking import TalkingModel
from tm_core.vae.tiny import TinyVAE
from tm_core.vae.wan import WanVAE
from tm_core.weights.autoencoders import load_autoencoder
from tm_core.weights.files import MOST_HEADER_BYTES, TensorFile, read_header
from tm_core.weights.inventory import examine_file
from tm_core.weights.loading import load_model, save_model
from tm_core.weights.open_models import load_open_model

Json = dict[str, Any]
MOST_S, MOST_BYTES = 2.0, 200 * 2**20
LOADERS: dict[str, Callable[[Path], object]] = {
    "header": read_header, "model": load_model, "autoencoder": load_autoencoder, "syncnet": load_syncnet,
    "open model": lambda path: load_open_model([path]), "open model of two": lambda path: load_open_model([path, path])}
SMALL = replace(tiny(), dit=replace(tiny().dit, dim=48, ffn_dim=64, num_heads=1, num_layers=1, audio_dim=48), projector=replace(
    tiny().projector, width=32, dim=48), vae=replace(tiny().vae, width=8))  # type: ignore[type-var]
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def written(path: Path, header: bytes, data: int = 0, length: int | None = None) -> Path:
    """A file of a header and `data` bytes that are a hole; `length` is what it says of its header."""
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header) if length is None else length) + header)
        file.truncate(8 + len(header) + data)
    return path


def entries(**tensors: Json) -> bytes:
    return json.dumps(tensors).encode()


@contextmanager
def bounded() -> Iterator[None]:
    """Fails where what is inside takes longer than MOST_S, or more memory than MOST_BYTES besides what is there."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    started = time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert time.process_time() - started < MOST_S


def refused(load: Callable[[Path], object], path: Path) -> str:
    """The line it is refused with."""
    with pytest.raises(InputError) as caught, bounded():
        load(path)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 5000, "one line that a terminal can take"
    assert all((caught.value.field, str(caught.value.value), caught.value.rule, caught.value.remedy))
    return line


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """Libraries are loaded before memory is bounded."""
    load_syncnet()
    load_model()


HEADERS: dict[str, tuple[bytes, int, int | None]] = {  # header, bytes of data, length it says
    "nothing after the length": (b"", 0, 100),
    "length beyond the file": (entries(a=F32), 8, 10**6),
    "length that is negative in 64 bits": (entries(a=F32), 8, 2**64 - 8),
    "length of a gigabyte, which is there": (b"{", 2**30 + 9, 2**30),
    "no JSON": (b"\x93NUMPY" * 9, 0, None),
    "no text": (b'{"\xff\xfe": 1}', 0, None),
    "a list": (b"[1, 2]", 0, None),
    "a number": (b"17", 0, None),
    "nested 100000 deep": (b"[" * 10**5, 0, None),
    "nested deep in a tensor": (b'{"a": ' + b'{"a":' * 10**5, 0, None),
    "as many empty lists as fit": (b'{"a": [' + b"[]," * (MOST_HEADER_BYTES // 3 - 99) + b"[]]}", 0, None),
    "as many empty objects as fit": (b'{"a": [' + b"{}," * (MOST_HEADER_BYTES // 3 - 99) + b"{}]}", 0, None),
    "as many axes as fit": (b'{"a": {"dtype": "F32", "data_offsets": [0, 8], "shape": [' + b"9999999," * 10**6 + b"1]}}", 8, None),
    "a number of a million digits": (b'{"a": ' + b"9" * 10**6 + b"}", 0, None),
    "an entry that is a number": (entries(a=3), 0, None),  # type: ignore[arg-type]
    "an entry without a shape": (entries(a={"dtype": "F32", "data_offsets": [0, 8]}), 8, None),
    "a shape that is a text": (entries(a={**F32, "shape": "22"}), 8, None),
    "10^12 numbers in eight bytes": (entries(a={**F32, "shape": [10**12]}), 8, None),
    "a shape of 2^64": (entries(a={**F32, "shape": [2**64]}), 8, None),
    "a negative shape": (entries(a={**F32, "shape": [-2]}), 8, None),
    "two negative axes": (entries(a={**F32, "shape": [-2, -1]}), 8, None),
    "bools for numbers": (entries(a={"dtype": "U8", "shape": [True], "data_offsets": [False, True]}), 1, None),
    "fractions for numbers": (entries(a={**F32, "shape": [2.0], "data_offsets": [0.0, 8.0]}), 8, None),
    "NaN for a number": (b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}', 8, None),
    "a shape that does not fill its bytes": (entries(a={**F32, "shape": [1]}), 8, None),
    "an unknown type": (entries(a={**F32, "dtype": "F33"}), 8, None),
    "an unknown type of 10^12 numbers": (entries(a={**F32, "dtype": "F33", "shape": [10**12]}), 8, None),
    "a type that is a list": (entries(a={**F32, "dtype": ["F32"]}), 8, None),
    "offsets beyond the end": (entries(a={**F32, "data_offsets": [8, 16]}), 8, None),
    "offsets before the start": (entries(a={**F32, "data_offsets": [-8, 0]}), 0, None),
    "offsets turned round": (entries(a={**F32, "data_offsets": [8, 0]}), 8, None),
    "three offsets": (entries(a={**F32, "data_offsets": [0, 4, 8]}), 8, None),
    "overlapping tensors": (entries(a=F32, b={**F32, "data_offsets": [4, 12]}), 12, None),
    "two tensors in one place": (entries(a=F32, b=F32), 8, None),
    "a gap between tensors": (entries(a=F32, b={**F32, "data_offsets": [12, 20]}), 20, None),
    "bytes that are no tensor's": (entries(a=F32), 9, None),
    "a tensor twice": (b'{"a": ' + json.dumps(F32).encode() + b', "a": ' + json.dumps(F32).encode() + b"}", 8, None),
    "metadata that are a list": (entries(a=F32, __metadata__=[1]), 8, None),  # type: ignore[arg-type]
    "metadata that are no texts": (entries(a=F32, __metadata__={"talking_machines": {"name": 1}}), 8, None),
    "a name that moves the cursor": (entries(**{"\x1b[2J\x07\n\r\u202e": F32}), 8, None),
    "a name that is half a character": (b'{"\\ud800": ' + json.dumps(F32).encode() + b"}", 8, None),
    "a name of a megabyte": (entries(**{"x" * 10**6: F32}), 8, None),
    "metadata of seven megabytes": (entries(a=F32, __metadata__={"talking_machines": "x" * 7 * 2**20}), 8, None),
    "no tensors": (b"{}", 0, None),
}
FINE_HEADERS = {  # nothing contradicts itself in these
    "an unknown type", "a name that moves the cursor", "a name that is half a character", "a name of a megabyte",
    "metadata of seven megabytes", "no tensors"}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_lies_is_refused_by_every_loader(tmp_path: Path, kind: str) -> None:
    header, data, length = HEADERS[kind]
    path = written(tmp_path / "w.safetensors", header, data, length)
    for name, load in LOADERS.items():
        if name == "header" and kind in FINE_HEADERS:
            with bounded():
                assert len(read_header(path).shapes) <= 1
        else:
            assert refused(load, path)
    with bounded():
        found = examine_file(path, "diffusion_models")
    assert found.kind in (None, "student") and found.what.isprintable()


@pytest.mark.parametrize("kind", ["empty", "three bytes", "folder", "pipe", "pickle", "missing", "name too long", "a link to itself"])
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.safetensors"
    if kind == "empty":
        path.touch()
    elif kind == "three bytes":
        path.write_bytes(b"abc")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"dit.weight": list(range(1000))}))
    elif kind == "name too long":
        path = tmp_path / f"{'w' * 4000}.safetensors"
    elif kind == "a link to itself":
        path.symlink_to(path)
    assert examine_file(path, "diffusion_models").kind is None
    for load in LOADERS.values():
        assert refused(load, path)


# -- what a checkpoint of ours says of itself -----------------------------------------------------------------


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], Json]:
    """Tensors and configuration of a small whole model."""
    assert SMALL.projector and SMALL.vae
    model = TalkingModel(config=SMALL, dit=TalkingDiT(SMALL.dit), projector=AudioProjector(SMALL.projector), vae=TinyVAE(SMALL.vae))
    path = tmp_path_factory.mktemp("ours") / "m.safetensors"
    save_model(model, path)
    assert load_model(path).config == SMALL
    parts = {"dit": model.dit, "projector": model.projector, "vae": model.vae}
    tensors = {f"{name}.{k}": v for name, part in parts.items() if part for k, v in part.state_dict().items()}
    return tensors, json.loads(json.dumps(SMALL.to_dict()))


def changed(config: Json, where: str, value: Any) -> Json:
    """The configuration with one field changed, by its dotted name."""
    name, _, rest = where.partition(".")
    return {**config, name: changed(config[name], rest, value) if rest else value}


WRONG: tuple[Any, ...] = ("9", [1], {"a": 1}, None, True, 2.5, -1, 0, 10**9, 10**300)
NUMBERS = (
    "width", "height", "fps", "dit.dim", "dit.num_heads", "dit.num_layers", "dit.ffn_dim", "dit.text_len", "dit.freq_dim",
    "dit.max_latents", "audio.hop", "audio.n_fft", "audio.sample_rate", "audio.window_latents", "projector.tokens",
    "projector.width", "vae.width", "vae.latent_channels", "vae.temporal_stride", "sampler.chunk_latents")


@pytest.mark.parametrize("where", NUMBERS)
def test_a_configuration_that_cannot_be_is_refused(tmp_path: Path, ours: tuple[Any, Json], where: str) -> None:
    for value in WRONG:
        save_file({"dit.a": torch.zeros(1)}, tmp_path / "w.safetensors", {"talking_machines": json.dumps(changed(ours[1], where, value))})
        line = refused(load_model, tmp_path / "w.safetensors")
        assert "tensors missing" not in line, "refused for what the configuration says"


@pytest.mark.parametrize("text", [
    "", "null", "17", '"text"', "[]", "{}", '{"name": "a"}', "[" * 10**5, "NaN", '{"name": 1e999}', '{"dit": {"dim": {}}}',
    '{"name": "x", "width": 16, "height": 16, "fps": 25, "dit": 5}'], ids=[
        "nothing", "null", "number", "text", "list", "empty", "name alone", "nested", "NaN", "infinite", "no width", "no transformer"])
def test_a_configuration_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    save_file({"dit.a": torch.zeros(1)}, tmp_path / "w.safetensors", {"talking_machines": text})
    refused(load_model, tmp_path / "w.safetensors")


@pytest.mark.parametrize(("where", "value"), [
    ("dit.patch_size", [1, 2]), ("dit.patch_size", [1, 0, 2]), ("dit.patch_size", [1, 10**9, 2]), ("dit.prediction", "guess"),
    ("dit.audio_kind", ["none"]), ("dit.eps", "1"), ("sampler.sigmas", []), ("sampler.sigmas", [1.0] * 10**5),
    ("sampler.sigmas", [0.2, 0.5]), ("sampler.sigmas", [1.0, -3.0]),
    ("sampler.clip", {"latents": 10**9}), ("sampler.memory", {"hears": [1, 2]}), ("vae", 3),
    ("sampler.guidance", {"text": "x"}), ("sampler.colour_correction", 7), ("dit.num_heads", 7), ("width", 120), ("vae.latent_channels", 8),
    ("projector.dim", 32), ("framing", "feet"), ("dit", None)], ids=lambda v: str(v)[:30])
def test_fields_that_contradict_each_other_are_refused(tmp_path: Path, ours: tuple[Any, Json], where: str, value: Any) -> None:
    tensors, config = ours
    save_file(tensors, tmp_path / "w.safetensors", {"talking_machines": json.dumps(changed(config, where, value))})
    refused(load_model, tmp_path / "w.safetensors")


@pytest.mark.parametrize("second", [
    "../../etc/passwd", "/etc/passwd", "..", "/", "", "a/b.safetensors", "C:\\w.safetensors", "\\\\host\\w.safetensors", "w\0.safetensors",
    "w.pth", "none.safetensors", "x" * 10**5], ids=lambda name: name[:20] or "nothing")
def test_the_second_file_lies_beside_the_first(tmp_path: Path, ours: tuple[Any, Json], second: str) -> None:
    tensors, config = ours
    save_file({k: v for k, v in tensors.items() if not k.startswith("vae.")}, tmp_path / "w.safetensors",
              {"talking_machines": json.dumps(config), "talking_machines_second_file": second})
    refused(load_model, tmp_path / "w.safetensors")


def test_a_tensor_larger_than_the_memory_is_said_so(tmp_path: Path) -> None:
    """In a file as long as it says (a hole): what cannot be held is refused, not the process ended."""
    path = written(tmp_path / "w.safetensors", entries(a={"dtype": "U8", "shape": [10**12], "data_offsets": [0, 10**12]}), 10**12)
    with TensorFile(path) as file:
        assert "a needs 931.3 GiB, more than there is" in refused(lambda _: file.get_tensor("a"), path)


# -- other people's -------------------------------------------------------------------------------------------

WAN = DiTConfig(dim=128, ffn_dim=64, num_heads=1, num_layers=1, text_dim=32, text_len=4, freq_dim=64, audio_kind="own_q_kv_proj",
                audio_dim=24)


def of_wan() -> dict[str, list[int]]:
    """Shapes of a small whole checkpoint of MultiTalk's layout."""
    with torch.device("meta"):
        dit, projector = TalkingDiT(WAN), GroupedProjector(GroupedProjectorConfig(audio_dim=2, hidden=8, dim=24, tokens=3))
    return {k: list(v.shape) for k, v in dit.state_dict().items()} | {
        f"audio_proj.{k}": list(v.shape) for k, v in projector.state_dict().items()}


def hollow(path: Path, shapes: dict[str, list[int]]) -> Path:
    """A file of these tensors, as long as it says, all of it a hole."""
    header, at = {}, 0
    for key, shape in shapes.items():
        count = 2 * int(torch.Size(shape).numel())
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + count]}
        at += count
    return written(path, json.dumps(header).encode(), at)


def test_the_small_checkpoint_itself_is_a_model(tmp_path: Path) -> None:
    with bounded():
        model = load_open_model([hollow(tmp_path / "w.safetensors", of_wan())])
    assert model.projector is not None and len(model.dit.blocks) == 1


SHAPES: tuple[list[int], ...] = (
    [], [1], [0], [0, 10**9], [1, 1], [2**30], [2**20, 2**10], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0])


@pytest.mark.parametrize("name", [
    "patch_embedding.weight", "head.head.weight", "blocks.0.ffn.0.weight", "text_embedding.0.weight", "time_embedding.0.weight",
    "img_emb.proj.1.weight", "blocks.0.audio_cross_attn.kv_linear.weight", "blocks.0.norm_x.bias", "audio_proj.proj1.weight",
    "audio_proj.proj1_vf.weight", "audio_proj.proj3.weight", "audio_proj.norm.weight"])
def test_no_shape_of_a_tensor_is_believed(tmp_path: Path, name: str) -> None:
    for shape in SHAPES:
        path = hollow(tmp_path / "w.safetensors", {**of_wan(), name: shape})
        refused(LOADERS["open model"], path)
        with bounded():
            assert examine_file(path, "diffusion_models").what.isprintable()


@pytest.mark.parametrize("number", ["1", "999", "999999999", "9" * 5000], ids=lambda n: n[:12])
def test_no_number_of_blocks_is_believed(tmp_path: Path, number: str) -> None:
    path = hollow(tmp_path / "w.safetensors", {**of_wan(), f"blocks.{number}.self_attn.q.weight": [1]})
    refused(LOADERS["open model"], path)
    with bounded():
        assert examine_file(path, "diffusion_models").kind is None


@pytest.mark.parametrize("number", ["12", "999999999", "9" * 5000], ids=lambda n: n[:12])
def test_no_number_of_a_speech_encoders_layers_is_believed(tmp_path: Path, number: str) -> None:
    shapes = {k: list(v.shape) for k, v in Wav2Vec2(device="meta").state_dict().items()}
    path = hollow(tmp_path / "w.safetensors", {**shapes, f"encoder.layers.{number}.layer_norm.weight": [1]})
    with bounded():
        assert examine_file(path, "audio_encoders").kind is None


@pytest.mark.parametrize("name", ["conv1.weight", "decoder.head.0.gamma", "decoder.middle.0.residual.0.gamma"])
@pytest.mark.parametrize("shape", [[], [0], [2**30], [0, 10**9]], ids=str)
def test_no_width_of_an_autoencoder_is_believed(tmp_path: Path, name: str, shape: list[int]) -> None:
    shapes = {k: list(v.shape) for k, v in WanVAE(8, device="meta").state_dict().items()}
    path = hollow(tmp_path / "w.safetensors", {**shapes, name: shape})
    refused(load_autoencoder, path)
    with bounded():
        assert examine_file(path, "vae").kind is None


def test_syncnets_tensors_are_not_read_before_they_fit(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {k: list(v.shape) for k, v in SyncNet().state_dict().items()}
    assert "of another shape" in refused(load_syncnet, hollow(tmp_path / "w.safetensors", {**shapes, "netfcaud.0.weight": [2**32]}))
