"""Wan2.1's autoencoder: any split into calls equals the whole, causal, states are values, Wan's own names.

Parity with the host's implementation is in tests/host/test_parity.py.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tm_core.errors import InputError
from tm_core.vae import wan
from tm_core.vae.geometry import STRIDE
from tm_core.vae.past import Past
from tm_core.vae.wan import WanDecoderState, WanEncoderState, WanVAE, denormalise, normalise

DIM = 8
HEIGHT, WIDTH = 16, 24


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    """Small and random, its layers neither zero nor saturated."""
    net, rng = WanVAE(DIM).eval().requires_grad_(False), torch.Generator().manual_seed(5)
    for name, p in net.named_parameters():
        if name.endswith("weight"):
            p.copy_(torch.randn(p.shape, generator=rng) * p[0].numel() ** -0.5)
        else:
            p.copy_((1.0 if name.endswith("gamma") else 0.0) + 0.1 * torch.randn(p.shape, generator=rng))
    return net


def latents(count: int) -> Tensor:
    return torch.randn(1, 16, count, HEIGHT // STRIDE, WIDTH // STRIDE, generator=torch.Generator().manual_seed(1))


def clip(count: int) -> Tensor:
    return torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))


def decode(vae: Any, pieces: tuple[Tensor, ...]) -> list[Tensor]:
    state, parts = vae.open_decoder(None), []
    for piece in pieces:
        frames, state = vae.decode(piece, state)
        parts.append(frames)
    return parts


def encode(vae: Any, pieces: tuple[Tensor, ...]) -> list[Tensor]:
    state, parts = vae.open_encoder(), []
    for piece in pieces:
        made, state = vae.encode(piece, state)
        parts.append(made)
    return parts


class Whole:
    """In the place of Past: one pass over a complete clip, no memory of anything, zeros in front of it."""

    first = False

    def join(self, x: Tensor, count: int) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, count, 0))


@pytest.fixture
def _whole_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first frame stays alone in a pass over all frames too."""
    double = wan._Double._double_time

    def double_rest(self: Any, x: Tensor, past: Any) -> Tensor:
        return torch.cat([x[:, :, :1], double(self, x[:, :, 1:], past)], 2)

    def halve_rest(self: Any, x: Tensor, past: Any) -> Tensor:
        return torch.cat([x[:, :, :1], self.time_conv(x)], 2)

    monkeypatch.setattr(wan._Double, "_double_time", double_rest)
    monkeypatch.setattr(wan._Halve, "_halve_time", halve_rest)


@pytest.mark.usefixtures("_whole_passes")
def test_streaming_equals_one_pass_without_memory(vae: WanVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Any = Whole()
    pixels = vae.decoder(vae.conv2(denormalise(latents(5))), whole)[0].transpose(0, 1)
    moments = vae.conv1(vae.encoder(clip(17).transpose(0, 1)[None] * 2 - 1, whole))
    monkeypatch.undo()
    assert (torch.cat(decode(vae, latents(5).split(2, 2))) - (pixels / 2 + 0.5).clamp(0, 1)).abs().max() < 1e-5
    assert (torch.cat(encode(vae, clip(17).split([9, 8])), 2) - normalise(moments[:, :16])).abs().max() < 1e-5


@pytest.mark.parametrize("cuts", [[1, 1, 1, 1, 1, 1], [3, 3], [1, 5], [2, 3, 1]], ids=str)
def test_decoding_in_pieces_equals_the_whole(vae: WanVAE, cuts: list[int]) -> None:
    (whole,) = decode(vae, (latents(6),))
    parts = decode(vae, latents(6).split(cuts, 2))
    assert [len(p) for p in parts] == [4 * n - 3 * (i == 0) for i, n in enumerate(cuts)]
    assert torch.equal(torch.cat(parts), whole)
    assert whole.shape == (21, 3, HEIGHT, WIDTH) and whole.dtype == torch.float32
    assert whole.min() >= 0 and whole.max() <= 1 and whole.std() > 0.05
    assert (whole[1:] - whole[:-1]).abs().amax((1, 2, 3)).min() > 1e-3  # no frame repeats the one before


@pytest.mark.parametrize("cuts", [[1, 4, 4, 4, 4], [5, 12], [9, 8], [1, 16]], ids=str)
def test_encoding_in_pieces_equals_the_whole(vae: WanVAE, cuts: list[int]) -> None:
    (whole,) = encode(vae, (clip(17),))
    assert whole.shape == (1, 16, 5, HEIGHT // STRIDE, WIDTH // STRIDE)
    assert torch.equal(torch.cat(encode(vae, clip(17).split(cuts)), 2), whole)
    assert whole.std() > 0.05


def test_the_future_changes_no_past_frame(vae: WanVAE) -> None:
    other = latents(5)
    other[:, :, 3:] += 1
    a, b = (decode(vae, (z,))[0] for z in (latents(5), other))
    assert torch.equal(a[:9], b[:9])
    assert (a[9:] - b[9:]).abs().amax((1, 2, 3)).min() > 0  # every frame after it does change


def test_the_future_changes_no_past_latent(vae: WanVAE) -> None:
    other = clip(17)
    other[9:] = 0
    a, b = (encode(vae, (frames,))[0] for frames in (clip(17), other))
    assert torch.equal(a[:, :, :3], b[:, :, :3]) and not torch.equal(a[:, :, 3], b[:, :, 3])


def test_the_past_reaches_the_frames_after_it(vae: WanVAE) -> None:
    """A decoder that forgot everything between calls would pass the tests above only if its whole forgot too."""
    other = latents(4)
    other[:, :, 1] += 1
    a, b = (decode(vae, (z,))[0] for z in (latents(4), other))
    assert (a[5:] - b[5:]).abs().max() > 1e-3


def test_doubling_in_time_has_the_earlier_frame_in_the_first_channels() -> None:
    layer, x = wan._Double(2, True, nn, {}).requires_grad_(False), torch.randn(1, 2, 1, 1, 1)
    assert layer.time_conv is not None
    layer.time_conv.weight.zero_()
    layer.time_conv.weight[:2, :, 2, 0, 0] = torch.eye(2)  # the newest frame as it is
    layer.time_conv.bias.copy_(torch.tensor([0.0, 0.0, 7.0, 8.0]))
    past = Past(WanDecoderState(), time=2)
    assert torch.equal(layer._double_time(x, past), x)
    past.step()
    earlier, later = layer._double_time(x, past).unbind(2)
    assert torch.equal(earlier, x[:, :, 0]) and later.flatten().tolist() == [7.0, 8.0]


@pytest.mark.parametrize("side", ["decoder", "encoder"])
def test_an_old_state_gives_the_same_again(vae: WanVAE, side: str) -> None:
    run, pieces = (vae.decode, latents(4).split(2, 2)) if side == "decoder" else (vae.encode, clip(9).split([5, 4]))
    _, state = run(pieces[0], vae.open_decoder(None) if side == "decoder" else vae.open_encoder())  # type: ignore[operator]
    before = [t.clone() for t in state.kept]
    first, after = run(pieces[1], state)
    again, _ = run(pieces[1], state)
    assert torch.equal(first, again)
    assert all(torch.equal(a, b) for a, b in zip(before, state.kept, strict=True))
    assert not {t.data_ptr() for t in state.kept} & {t.data_ptr() for t in after.kept}


def test_streams_share_the_weights(vae: WanVAE) -> None:
    """Two decoders taking turns; the module holds nothing of either."""
    known = set(vars(vae)) | set(vae.state_dict())
    mine, yours = latents(4), latents(4).flip(1)
    alone = [torch.cat(decode(vae, (z,))) for z in (mine, yours)]
    states, shown = [vae.open_decoder(None), vae.open_decoder(None)], [[], []]  # type: ignore[var-annotated]
    for i in range(4):
        for k, z in enumerate((mine, yours)):
            frames, states[k] = vae.decode(z[:, :, i : i + 1], states[k])
            shown[k].append(frames)
    assert all(torch.equal(torch.cat(s), a) for s, a in zip(shown, alone, strict=True))
    assert set(vars(vae)) | set(vae.state_dict()) == known


def test_the_size_of_a_state_is_constant_and_known_before(vae: WanVAE) -> None:
    state, sizes = vae.open_decoder(None), []
    assert state.nbytes == 0
    for piece in latents(5).split(1, 2):
        _, state = vae.decode(piece, state)
        sizes.append(state.nbytes)
        # no memory is a view of something larger
        assert sum(t.untyped_storage().nbytes() for t in state.kept) == state.nbytes
    assert set(sizes) == {vae.decoder_state_nbytes(HEIGHT, WIDTH)}
    assert len(state.kept) == 32  # layers that look back, as in Wan's decoder


def test_the_size_of_the_real_state() -> None:
    """reference: 32 caches at 480 x 832 (Self-Forcing's demo_utils/constant.py), in bfloat16."""
    frames = [(1, 16, 60, 104), (11, 384, 60, 104), (1, 192, 120, 208), (6, 384, 120, 208), (6, 192, 240, 416), (7, 96, 480, 832)]
    published = sum(2 * 2 * n * c * h * w for n, c, h, w in frames)
    assert WanVAE(device="meta", dtype=torch.bfloat16).decoder_state_nbytes(480, 832) == published


def test_a_picture_is_the_first_latent_of_its_clip(vae: WanVAE) -> None:
    assert torch.equal(vae.encode_image(clip(9)[0]), encode(vae, (clip(9),))[0][0, :, 0])


def test_normalisation_is_wans() -> None:
    raw = torch.zeros(1, 16, 1, 1, 1)
    raw[0, 0], raw[0, 15] = -0.7571 + 2.8184, -0.2921 - 1.9160
    assert torch.allclose(normalise(raw)[0, [0, 15], 0, 0, 0], torch.tensor([1.0, -1.0]), atol=1e-6)
    assert torch.allclose(denormalise(normalise(latents(2))), latents(2), atol=1e-5)


def test_bfloat16_runs(vae: WanVAE) -> None:
    half = WanVAE(DIM, dtype=torch.bfloat16).eval().requires_grad_(False)
    half.load_state_dict(vae.state_dict())
    (frames,), (exact,) = decode(half, (latents(3),)), decode(vae, (latents(3),))
    assert frames.dtype == torch.float32 and (frames - exact).abs().max() < 0.1
    made = half.encode_image(clip(1)[0])
    assert made.dtype == torch.bfloat16 and (made.float() - vae.encode_image(clip(1)[0])).abs().max() < 0.1


def test_names_are_wans() -> None:
    """Spot checks from Wan2.1's file; the full set is compared with the host's module."""
    shapes = {name: tuple(t.shape) for name, t in WanVAE(device="meta").state_dict().items()}
    known = {
        "encoder.conv1.weight": (96, 3, 3, 3, 3), "encoder.downsamples.5.time_conv.weight": (192, 192, 3, 1, 1),
        "encoder.downsamples.2.resample.1.weight": (96, 96, 3, 3), "encoder.downsamples.3.shortcut.bias": (192,),
        "encoder.middle.1.norm.gamma": (384, 1, 1), "encoder.head.2.weight": (32, 384, 3, 3, 3), "conv1.weight": (32, 32, 1, 1, 1),
        "conv2.bias": (16,), "decoder.middle.0.residual.0.gamma": (384, 1, 1, 1), "decoder.middle.1.to_qkv.weight": (1152, 384, 1, 1),
        "decoder.upsamples.3.time_conv.weight": (768, 384, 3, 1, 1), "decoder.upsamples.4.shortcut.weight": (384, 192, 1, 1, 1),
        "decoder.upsamples.11.resample.1.weight": (96, 192, 3, 3), "decoder.head.0.gamma": (96, 1, 1, 1), "decoder.head.2.bias": (3,),
    }
    assert {name: shapes.get(name) for name in known} == known
    assert sum(torch.Size(s).numel() for s in shapes.values()) == 126_892_531


def test_layers_are_built_from_what_is_given() -> None:
    made = []

    class Operations:
        def __getattr__(self, name: str) -> Any:
            kind = getattr(nn, name)
            return lambda *args, **kwargs: made.append(layer := kind(*args, **kwargs)) or layer

    net = WanVAE(DIM, operations=Operations())
    assert sum(p.numel() for layer in made for p in layer.parameters()) + sum(
        p.numel() for name, p in net.named_parameters() if name.endswith("gamma")) == sum(p.numel() for p in net.parameters())


def test_wrong_calls_say_so(vae: WanVAE) -> None:
    with pytest.raises(InputError, match=re.escape("must be (1, 16, F, h, w)")):
        vae.decode(torch.zeros(1, 48, 1, 2, 2), vae.open_decoder(None))
    with pytest.raises(InputError, match="1 \\+ 4k"):
        vae.encode(clip(3), vae.open_encoder())
    with pytest.raises(InputError, match="1 \\+ 4k"):
        vae.encode(clip(5), vae.encode(clip(1), vae.open_encoder())[1])
    with pytest.raises(InputError, match="multiples of 8"):
        vae.encode(clip(1)[..., :-1], vae.open_encoder())
    _, state = vae.decode(latents(1), vae.open_decoder(None))
    with pytest.raises(InputError, match="one size"):
        vae.decode(torch.zeros(1, 16, 1, 4, 4), state)
    with pytest.raises(ValueError, match="not a state of this network"):
        vae.decode(latents(1), WanDecoderState(kept=state.kept[:3]))
    with pytest.raises(ValueError, match="not a state of this network"):
        vae.decode(latents(1), WanDecoderState(kept=(*state.kept, state.kept[0])))
    assert WanEncoderState().nbytes == 0
