"""TAEHV: the official implementation's numbers, any split into calls equals the whole, causal, states are values.

parity/goldens/taehv.safetensors holds what the official code gave (parity/recorders/taehv.py; commit in its metadata).
"""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from parity.golden import GOLDENS
from parity.recorders.taehv import seeded_weights
from tm_core.errors import InputError
from tm_core.vae.taehv import TAEHV

BAR = 1e-4


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDENS / "taehv.safetensors")


@pytest.fixture(scope="module")
def vae() -> TAEHV:
    net = TAEHV().eval().requires_grad_(False)
    net.load_state_dict(seeded_weights({k: tuple(v.shape) for k, v in net.state_dict().items()}))
    return net


@pytest.fixture
def clip(golden: dict[str, Tensor]) -> Tensor:
    return golden["clip"].float() / 255


def decode(vae: TAEHV, latents: Tensor, cuts: list[int]) -> list[Tensor]:
    state, parts = vae.open_decoder(None), []
    for piece in latents.split(cuts, 2):
        frames, state = vae.decode(piece, state)
        parts.append(frames)
    return parts


def encode(vae: TAEHV, clip: Tensor, cuts: list[int]) -> list[Tensor]:
    state, parts = vae.open_encoder(), []
    for piece in clip.split(cuts):
        latents, state = vae.encode(piece, state)
        parts.append(latents)
    return parts


@pytest.mark.parametrize("cuts", [[4], [1, 1, 1, 1], [3, 1], [1, 3]], ids=str)
def test_streamed_frames_are_the_official_ones(vae: TAEHV, golden: dict[str, Tensor], cuts: list[int]) -> None:
    parts = decode(vae, golden["latents"], cuts)
    assert [len(p) for p in parts] == [4 * n - 3 * (i == 0) for i, n in enumerate(cuts)]
    assert (torch.cat(parts) - golden["frames"]).abs().max() <= BAR
    assert torch.equal(torch.cat(parts), decode(vae, golden["latents"], [4])[0])
    assert golden["frames"].std() > 0.05


@pytest.mark.parametrize("cuts", [[9], [1, 4, 4], [5, 4], [1, 8]], ids=str)
def test_streamed_latents_are_the_official_ones(vae: TAEHV, golden: dict[str, Tensor], clip: Tensor, cuts: list[int]) -> None:
    made = torch.cat(encode(vae, clip, cuts), 2)
    assert (made - golden["encoded"]).abs().max() <= BAR
    assert torch.equal(made, encode(vae, clip, [9])[0])
    assert golden["encoded"].std() > 0.1


def test_the_numbers_say_where_they_come_from() -> None:
    path = GOLDENS / "taehv.safetensors"
    with safe_open(str(path), "pt") as f:
        metadata = f.metadata()
    assert metadata["repository"] == "https://github.com/madebyollin/taehv" and len(metadata["commit"]) == 40
    assert path.stat().st_size < 200_000


def test_the_future_changes_nothing_before_it(vae: TAEHV, golden: dict[str, Tensor], clip: Tensor) -> None:
    other = golden["latents"].clone()
    other[:, :, 2:] += 1
    a, b = (decode(vae, z, [4])[0] for z in (golden["latents"], other))
    assert torch.equal(a[:5], b[:5]) and (a[5:] - b[5:]).abs().amax((1, 2, 3)).min() > 0
    a, b = (encode(vae, frames, [9])[0] for frames in (clip, torch.cat([clip[:5], 1 - clip[5:]])))
    assert torch.equal(a[:, :, :2], b[:, :, :2]) and not torch.equal(a[:, :, 2], b[:, :, 2])


def test_an_old_state_gives_the_same_again(vae: TAEHV, golden: dict[str, Tensor], clip: Tensor) -> None:
    for run, start, head, tail in (
        (vae.decode, vae.open_decoder(None), golden["latents"][:, :, :1], golden["latents"][:, :, 1:]),
        (vae.encode, vae.open_encoder(), clip[:1], clip[1:]),
    ):
        _, state = run(head, start)  # type: ignore[operator]
        before = [t.clone() for t in state.kept]
        first, again = run(tail, state)[0], run(tail, state)[0]  # type: ignore[operator]
        assert torch.equal(first, again) and not torch.equal(first[:1], run(tail if run == vae.decode else tail[:1], start)[0][:1])  # type: ignore[operator]
        assert all(torch.equal(a, b) for a, b in zip(before, state.kept, strict=True))


def test_the_size_of_a_state_is_constant_and_known_before(vae: TAEHV, golden: dict[str, Tensor]) -> None:
    state, sizes = vae.open_decoder(None), []
    for piece in golden["latents"].split(1, 2):
        _, state = vae.decode(piece, state)
        sizes.append(state.nbytes)
        assert sum(t.untyped_storage().nbytes() for t in state.kept) == state.nbytes
    assert set(sizes) == {vae.decoder_state_nbytes(24, 32)} and len(state.kept) == 9
    assert TAEHV(device="meta", dtype=torch.bfloat16).decoder_state_nbytes(512, 512) == 2 * 3 * 64**2 * (256 + 4 * 128 + 16 * 64)


def test_a_picture_is_the_first_latent_of_its_clip(vae: TAEHV, golden: dict[str, Tensor], clip: Tensor) -> None:
    assert torch.equal(vae.encode_image(clip[0]), encode(vae, clip, [9])[0][0, :, 0])


def test_bfloat16_runs(vae: TAEHV, golden: dict[str, Tensor], clip: Tensor) -> None:
    half = TAEHV(dtype=torch.bfloat16).eval().requires_grad_(False)
    half.load_state_dict(vae.state_dict())
    frames = decode(half, golden["latents"], [4])[0]
    assert frames.dtype == torch.float32 and (frames - golden["frames"]).abs().max() < 0.05
    assert (half.encode_image(clip[0]).float() - golden["encoded"][0, :, 0]).abs().max() < 0.1


def test_names_are_the_official_ones(vae: TAEHV) -> None:
    """The weights of the recording are drawn in the order of their names: another set would not give its frames."""
    shapes = {name: tuple(t.shape) for name, t in vae.state_dict().items()}
    assert len(shapes) == 128 and sum(t.numel() for t in vae.state_dict().values()) == 11_315_539
    known = {
        "encoder.0.weight": (64, 3, 3, 3), "encoder.2.conv.weight": (64, 128, 1, 1), "encoder.12.conv.weight": (64, 64, 1, 1),
        "encoder.16.conv.4.bias": (64,), "encoder.17.weight": (16, 64, 3, 3), "decoder.1.weight": (256, 16, 3, 3),
        "decoder.3.conv.0.weight": (256, 512, 3, 3), "decoder.7.conv.weight": (256, 256, 1, 1), "decoder.13.conv.weight": (256, 128, 1, 1),
        "decoder.19.conv.weight": (128, 64, 1, 1), "decoder.20.weight": (64, 64, 3, 3), "decoder.22.bias": (3,),
    }
    assert {name: shapes.get(name) for name in known} == known


def test_wrong_calls_say_so(vae: TAEHV, clip: Tensor) -> None:
    with pytest.raises(InputError, match="latents"):
        vae.decode(torch.zeros(1, 48, 1, 2, 2), vae.open_decoder(None))
    with pytest.raises(InputError, match="1 \\+ 4k"):
        vae.encode(clip[:3], vae.open_encoder())
