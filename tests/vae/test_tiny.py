"""The streaming autoencoder: Wan's geometry, chunked equals whole, causal."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tm_core.config import VAEConfig
from tm_core.errors import InputError
from tm_core.media.image_io import open_image
from tm_core.streaming.workers import to_uint8
from tm_core.vae.tiny import TinyVAE
from tm_core.weights.loading import load_model


@pytest.fixture(scope="module")
def vae() -> TinyVAE:
    torch.manual_seed(3)
    net = TinyVAE(VAEConfig()).eval()
    net.scale.fill_(2.0)
    net.shift.fill_(0.1)
    return net


FRAMES = torch.rand(21, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[21], [1, 4, 16], [5, 8, 8], [9, 12], [1, 4, 4, 4, 4, 4]], ids=str)
def test_encoding_in_pieces_equals_the_whole(vae: TinyVAE, cuts: list[int]) -> None:
    whole = vae.normalise(vae.encode_clip(FRAMES[None]))
    state, parts = vae.open_encoder(), []
    for piece in FRAMES.split(cuts):
        latents, state = vae.encode(piece, state)
        parts.append(latents)
    assert whole.shape == (1, 16, 6, 8, 8)
    assert (torch.cat(parts, 2) - whole).abs().max() <= 1e-4


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 2, 3, 6])
def test_decoding_in_pieces_equals_the_whole(vae: TinyVAE, chunk: int) -> None:
    latents, portrait = torch.randn(1, 16, 6, 8, 8), FRAMES[0]
    whole = vae.decode_clip(vae.denormalise(latents), portrait[None]).frames[0]
    state, parts = vae.open_decoder(portrait), []
    for piece in latents.split(chunk, 2):
        frames, state = vae.decode(piece, state)
        parts.append(frames)
    assert whole.shape == (21, 3, 64, 64) and parts[0].shape[0] == 1 + 4 * (chunk - 1)
    assert (torch.cat(parts) - whole).abs().max() <= 1e-4
    assert whole.min() >= 0 and whole.max() <= 1


@torch.no_grad()
def test_the_future_changes_nothing(vae: TinyVAE) -> None:
    other = FRAMES.clone()
    other[9:] = 0
    a, b = (vae.encode_clip(f[None]) for f in (FRAMES, other))
    assert torch.equal(a[:, :, :3], b[:, :, :3]) and not torch.equal(a[:, :, 3], b[:, :, 3])


@torch.no_grad()
def test_a_still_picture_has_one_latent(vae: TinyVAE) -> None:
    latents, _ = vae.encode(FRAMES[:1].expand(9, -1, -1, -1), vae.open_encoder())
    assert torch.allclose(latents, vae.encode_image(FRAMES[0])[None, :, None].expand_as(latents), atol=1e-5)


def test_states_are_values(vae: TinyVAE) -> None:
    with torch.no_grad():
        start = vae.open_decoder(FRAMES[0])
        first, _ = vae.decode(torch.ones(1, 16, 1, 8, 8), start)
        again, _ = vae.decode(torch.ones(1, 16, 1, 8, 8), start)
    assert torch.equal(first, again)


def test_wrong_calls_say_so(vae: TinyVAE) -> None:
    with pytest.raises(InputError, match="portrait"):
        vae.open_decoder(None)
    with pytest.raises(ValueError, match="1 \\+ 4k"):
        vae.encode(FRAMES[:3], vae.open_encoder())


@torch.no_grad()
def test_shown_pixels_are_the_plain_formulas(assets: Path) -> None:
    """Of the bundled model: a rounding may fall the other way, never further, and rarely."""
    model = load_model()
    portrait = torch.from_numpy(open_image(assets / "portraits" / "demo.jpg").copy()).permute(2, 0, 1)[None].float() / 255
    portrait = F.interpolate(portrait, size=(128, 128), mode="area")[0]
    latents = model.vae.encode_image(portrait)[None, :, None] + 0.5 * torch.randn(1, 16, 4, 16, 16)
    state, parts = model.vae.open_decoder(portrait), []
    for piece in latents.split([1, 3], 2):
        frames, state = model.vae.decode(piece, state)
        parts.append(frames)
    shown, plain = torch.cat(parts), model.vae.decode_clip(model.vae.denormalise(latents), portrait[None]).frames[0]
    assert (shown - plain).abs().max() <= 5e-5
    levels = np.abs(to_uint8(shown).astype(int) - to_uint8(plain))
    assert levels.max() <= 1 and levels.mean() <= 1e-3
    assert (shown - portrait).abs().mean() > 1e-3  # something moved


def test_gradients_flow_through_the_weights_as_they_are() -> None:
    torch.manual_seed(3)
    vae, latents, portrait = TinyVAE(VAEConfig(width=16)), torch.randn(1, 16, 2, 4, 4), torch.rand(3, 32, 32)
    vae.decode_clip(vae.denormalise(latents), portrait[None]).frames.square().sum().backward()
    plain = {name: p.grad.clone() for name, p in vae.named_parameters() if p.grad is not None}
    vae.zero_grad()
    frames, _ = vae.decode(latents, vae.open_decoder(portrait))
    frames.square().sum().backward()
    assert {"from_latent.weight", "up1.weight", "up2.bias", "to_flow.weight", "frame.down1.weight"} <= set(plain)
    for name, parameter in vae.named_parameters():
        if name in plain:
            assert parameter.grad is not None and torch.allclose(parameter.grad, plain[name], rtol=1e-3, atol=1e-3), name


@torch.no_grad()
def test_a_new_stream_decodes_with_weights_that_changed(vae: TinyVAE) -> None:
    other, latents = copy.deepcopy(vae), torch.ones(1, 16, 1, 8, 8)
    before, _ = other.decode(latents, other.open_decoder(FRAMES[0]))
    other.up1.weight.mul_(2)
    after, _ = other.decode(latents, other.open_decoder(FRAMES[0]))
    assert not torch.equal(before, after)
    assert (after - other.decode_clip(other.denormalise(latents), FRAMES[:1]).frames[0]).abs().max() <= 1e-4
