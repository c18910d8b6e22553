"""The transformer: the paper's mask, chunked equals whole, silence is no sound, names are Wan's."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tm_core.config import AudioKind, DiTConfig
from tm_core.model.attention import attention
from tm_core.model.blocks import attend_audio
from tm_core.model.dit import TalkingDiT
from tm_core.model.masks import sparse_causal_mask, visible_chunks
from tm_core.model.rope import rope_table, rotate, stream_positions

SMALL = DiTConfig(dim=96, ffn_dim=128, num_heads=2, num_layers=2, text_dim=8, text_len=1, image_dim=None, audio_dim=24)


def random_dit(cfg: DiTConfig = SMALL) -> TalkingDiT:
    torch.manual_seed(1)
    dit = TalkingDiT(cfg)
    dit.init_weights()
    torch.nn.init.normal_(dit.head.head.weight, std=0.05)
    return dit.eval()


def inputs(latents: int, batch: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return {
        "x": torch.randn(batch, 16, latents, 8, 8), "reference": torch.randn(batch, 20, latents, 8, 8), "text": torch.randn(batch, 1, 8),
        "audio": torch.randn(batch, latents, 5, 24), "face_mask": torch.rand(batch, 16),
    }


def test_mask_rows_are_the_papers() -> None:
    assert [visible_chunks(t) for t in range(7)] == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5], [0, 5, 6]]


@torch.no_grad()
def test_chunk_loop_equals_the_dense_mask() -> None:
    attn, x = random_dit().blocks[0].self_attn, torch.randn(1, 5 * 12, 96)
    table = rope_table(list(range(15)), (2, 2), 48, x.device)
    q, k, v = attn.qkv(x)
    dense = torch.nn.functional.scaled_dot_product_attention(
        rotate(q, table).transpose(1, 2), rotate(k, table).transpose(1, 2), v.transpose(1, 2), attn_mask=sparse_causal_mask(5, 12))
    assert torch.allclose(attn(x, table, 5)[0], attn.o(dense.transpose(1, 2).flatten(2)), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["velocity", "x0_residual"])
@pytest.mark.parametrize("n", [1, 3], ids=lambda n: f"{n} latents a chunk")
def test_chunks_with_a_cache_equal_the_whole_sequence(prediction: str, n: int) -> None:
    dit, latents = random_dit(replace(SMALL, prediction=prediction)), 5 * n
    data, sigma = inputs(latents), torch.tensor([0.7])
    whole = dit.forward_x0(sigma=sigma, chunk_latents=n, **data)
    conditions, cache, parts = dit.conditions(data["text"]), dit.allocate_cache(1, n, (8, 8)), []
    for t in range(5):
        part = {k: data[k][:, :, t * n : t * n + n] for k in ("x", "reference")}
        parts.append(dit.chunk_x0(sigma=sigma, conditions=conditions, audio=dit.audio(data["audio"][:, t * n : t * n + n]),
                                  face_mask=data["face_mask"], cache=cache, chunk=t, **part))
    assert (torch.cat(parts, 2) - whole).abs().max() <= 1e-4


@torch.no_grad()
def test_the_future_and_the_forgotten_past_change_nothing() -> None:
    dit, data, sigma = random_dit(), inputs(15), torch.tensor([0.7])
    before = dit(sigma=sigma, chunk_latents=3, **data)
    for name in ("x", "reference"):
        data[name][:, :, 12:] += 1
    data["audio"][:, 12:] += 1
    after = dit(sigma=sigma, chunk_latents=3, **data)
    assert torch.equal(before[:, :, :12], after[:, :, :12]) and not torch.equal(before[:, :, 12:], after[:, :, 12:])


@torch.no_grad()
def test_zero_tokens_and_a_zero_mask_are_no_sound() -> None:
    dit, data, sigma = random_dit(), inputs(3), torch.tensor([0.5])
    heard = dit(sigma=sigma, **data)
    silent = dit(sigma=sigma, **{**data, "audio": None})
    assert torch.equal(dit(sigma=sigma, **{**data, "audio": torch.zeros_like(data["audio"])}), silent)
    assert torch.equal(dit(sigma=sigma, **{**data, "face_mask": torch.zeros(1, 16)}), silent)
    assert (heard - silent).abs().max() > 1e-3


@torch.no_grad()
def test_speakers_are_summed_under_their_masks() -> None:
    dit, data, sigma = random_dit(), inputs(3), torch.tensor([0.5])
    left = torch.zeros(1, 16)
    left[:, :8] = 1
    both = torch.stack([data["audio"], data["audio"]], 1)
    split = dit(sigma=sigma, **{**data, "audio": both, "face_mask": torch.stack([left, 1 - left], 1)})
    assert torch.allclose(split, dit(sigma=sigma, **{**data, "face_mask": torch.ones(1, 16)}), atol=1e-5)


@torch.no_grad()
def test_a_latent_hears_only_its_own_tokens() -> None:
    attn, audio = random_dit().blocks[0].cross_attn, torch.randn(1, 1, 3, 5, 24)
    q, mask = torch.randn(1, 3 * 16, 2, 48), torch.ones(1, 1, 3, 16)
    before = attend_audio(q, attn.audio(audio), mask)
    audio[:, :, 2] += 1
    after = attend_audio(q, attn.audio(audio), mask)
    assert torch.equal(before[:, :32], after[:, :32]) and not torch.equal(before[:, 32:], after[:, 32:])


@torch.no_grad()
def test_velocity_and_x0_agree() -> None:
    sigma = torch.tensor([0.6])
    for prediction in ("velocity", "x0_residual"):
        dit, data = random_dit(replace(SMALL, prediction=prediction)), inputs(3)
        x0, velocity = dit.forward_x0(sigma=sigma, **data), dit(sigma=sigma, **data)
        assert torch.allclose(data["x"] - 0.6 * velocity, x0, atol=1e-5)


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [(0, ([0, 1, 2], [0, 1, 2], [0, 1, 2])), (1, ([0, 1, 2], [0, 1, 2], [3, 4, 5])), (2, ([0, 1, 2], [3, 4, 5], [6, 7, 8])),
     (6, ([0, 1, 2], [15, 16, 17], [18, 19, 20])), (7, ([0, 1, 2], [15, 16, 17], [18, 19, 20])),
     (10**6, ([0, 1, 2], [15, 16, 17], [18, 19, 20]))],
    ids=lambda v: f"chunk {v}" if isinstance(v, int) else "",
)
def test_positions_are_true_then_relative(chunk: int, expected: tuple[list[int], list[int], list[int]]) -> None:
    assert stream_positions(chunk, 3, 21) == expected


@torch.no_grad()
def test_a_late_chunk_of_a_stream_equals_a_training_sequence() -> None:
    """With one block a chunk's keys do not depend on what it saw, so {c0, c(t-1), c(t)} alone must give the same."""
    dit, data, sigma = random_dit(replace(SMALL, num_layers=1)), inputs(30), torch.tensor([0.7])
    conditions, cache, last = dit.conditions(data["text"]), dit.allocate_cache(1, 3, (8, 8)), torch.zeros(0)
    for t in range(10):
        part = {k: data[k][:, :, 3 * t : 3 * t + 3] for k in ("x", "reference")}
        last = dit.chunk_x0(sigma=sigma, conditions=conditions, audio=dit.audio(data["audio"][:, 3 * t : 3 * t + 3]),
                            face_mask=data["face_mask"], cache=cache, chunk=t, **part)
    kept = [0, 1, 2, *range(24, 30)]
    sequence = {**data, "x": data["x"][:, :, kept], "reference": data["reference"][:, :, kept], "audio": data["audio"][:, kept]}
    positions = torch.tensor([p for part in stream_positions(9, 3, 21) for p in part])
    whole = dit.forward_x0(sigma=sigma, chunk_latents=3, positions=positions, **sequence)
    assert (whole[:, :, 6:] - last).abs().max() <= 1e-4


@torch.no_grad()
def test_a_stream_with_text_and_image_and_two_speakers_equals_the_whole() -> None:
    cfg = replace(SMALL, text_len=6, image_dim=32)
    dit, data, sigma = random_dit(cfg), inputs(9), torch.tensor([0.3])
    data |= {"text": torch.randn(1, 6, 8), "image": torch.randn(1, 257, 32)}
    data |= {"audio": torch.randn(1, 2, 9, 5, 24), "face_mask": torch.rand(1, 2, 9, 16)}
    whole = dit.forward_x0(sigma=sigma, chunk_latents=3, **data)
    assert not torch.allclose(whole, dit.forward_x0(sigma=sigma, chunk_latents=3, **{**data, "image": None}), atol=1e-3)
    conditions, cache = dit.conditions(data["text"], data["image"]), dit.allocate_cache(1, 3, (8, 8))
    for t in range(3):
        own = slice(3 * t, 3 * t + 3)
        made = dit.chunk_x0(
            data["x"][:, :, own], sigma, reference=data["reference"][:, :, own], conditions=conditions, cache=cache, chunk=t,
            audio=dit.audio(data["audio"][:, :, own]), face_mask=data["face_mask"][:, :, own])
        assert (made - whole[:, :, own]).abs().max() <= 1e-4


def test_a_sequence_must_be_whole_chunks() -> None:
    with pytest.raises(ValueError, match="whole chunks"):
        random_dit()(sigma=torch.tensor([0.5]), chunk_latents=3, **inputs(4))


def test_an_untrained_residual_model_shows_the_reference() -> None:
    dit, data = TalkingDiT(replace(SMALL, prediction="x0_residual")), inputs(3)
    dit.init_weights()
    assert torch.equal(dit.forward_x0(sigma=torch.tensor([1.0]), **data), data["reference"][:, 4:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_half_precision_weights_work(dtype: torch.dtype) -> None:
    """The residual sum stays float32, so a stack of blocks loses little."""
    cfg, sigma = replace(SMALL, num_layers=8, image_dim=32), torch.tensor([0.7])
    data = {**inputs(3), "image": torch.randn(1, 257, 32)}
    exact = random_dit(cfg)(sigma=sigma, **data)
    dit = random_dit(cfg).to(dtype)
    low = {k: v.to(dtype) if k in ("text", "image", "audio") else v for k, v in data.items()}
    assert (dit(sigma=sigma, **low) - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_training_works_after_sampling_in_the_same_process() -> None:
    """Tables made in inference mode must not reach autograd, nor may autocast change what is trained."""
    dit, data, sigma = random_dit(), inputs(9), torch.tensor([0.5])
    rope_table([40.0, 41.0, 42.0], (4, 4), 48, torch.device("cpu"))
    with torch.inference_mode():
        exact = dit(sigma=sigma, chunk_latents=3, positions=list(range(50, 59)), **data)
    with torch.autocast("cpu", torch.bfloat16):
        made = dit(sigma=sigma, chunk_latents=3, positions=list(range(50, 59)), **data)
    made.square().mean().backward()
    assert (made - exact).abs().mean() < 0.02 * exact.abs().mean()
    unused = [name for name, p in dit.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not unused


def test_state_dict_names_are_wans() -> None:
    names = set(TalkingDiT(replace(SMALL, image_dim=32)).state_dict())
    block = {name.removeprefix("blocks.1.") for name in names if name.startswith("blocks.1.")}
    pair, attention = ("weight", "bias"), ("q", "k", "v", "o")
    expected = {"modulation", "norm3.weight", "norm3.bias", *(f"ffn.{i}.{p}" for i in (0, 2) for p in pair)}
    for kind in ("self_attn", "cross_attn"):
        expected |= {f"{kind}.{layer}.{p}" for layer in attention for p in pair} | {f"{kind}.norm_q.weight", f"{kind}.norm_k.weight"}
    expected |= {f"cross_attn.{layer}.{p}" for layer in ("k_img", "v_img") for p in pair} | {"cross_attn.norm_k_img.weight"}
    assert block == expected | {"cross_attn.k_proj.weight", "cross_attn.v_proj.weight"}
    tops = {name.split(".")[0] for name in names}
    assert tops == {"patch_embedding", "text_embedding", "time_embedding", "time_projection", "blocks", "head", "img_emb"}


def test_every_layer_comes_from_the_injected_operations() -> None:
    """What the host needs to cast, offload and patch weights."""
    kinds = ("Linear", "Conv3d", "LayerNorm", "RMSNorm")
    operations = SimpleNamespace(**{kind: type(f"Host{kind}", (getattr(torch.nn, kind),), {}) for kind in kinds})
    dit = TalkingDiT(replace(SMALL, image_dim=32), operations=operations)
    leaves = [m for m in dit.modules() if not list(m.children()) and list(m.parameters())]
    assert leaves and all(type(m).__name__.startswith("Host") for m in leaves)


def test_a_layer_of_its_own_for_sound_has_multitalks_names() -> None:
    names = set(TalkingDiT(replace(SMALL, audio_kind="own_q_kv_proj")).state_dict())
    new = {n.removeprefix("blocks.1.") for n in names - set(TalkingDiT(replace(SMALL, audio_kind="none")).state_dict()) if "blocks.1." in n}
    layers = [f"audio_cross_attn.{layer}" for layer in ("q_linear", "kv_linear", "proj")]
    assert new == {f"{layer}.{part}" for layer in [*layers, "norm_x"] for part in ("weight", "bias")}


@torch.no_grad()
def test_a_layer_of_its_own_streams_as_it_runs_whole() -> None:
    dit, data, sigma = random_dit(replace(SMALL, audio_kind="own_q_kv_proj")), inputs(9), torch.tensor([0.7])
    valid = torch.ones(1, 9, 5, dtype=torch.bool)
    valid[:, :2, 3:] = False
    whole = dit.forward_x0(sigma=sigma, chunk_latents=3, audio_valid=valid, **data)
    conditions, cache, parts = dit.conditions(data["text"]), dit.allocate_cache(1, 3, (8, 8)), []
    for t in range(3):
        own = slice(3 * t, 3 * t + 3)
        audio = dit.audio(data["audio"][:, own], valid[:, own])
        parts.append(dit.chunk_x0(
            data["x"][:, :, own], sigma, reference=data["reference"][:, :, own], conditions=conditions, audio=audio,
            face_mask=data["face_mask"], cache=cache, chunk=t))
    assert (torch.cat(parts, 2) - whole).abs().max() <= 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", ["shared_q_kv", "own_q_kv_proj"])
def test_padding_is_attended_by_nobody_and_a_zero_mask_hears_nothing(kind: AudioKind) -> None:
    dit, data, sigma = random_dit(replace(SMALL, audio_kind=kind)), inputs(3), torch.tensor([0.5])
    valid = torch.ones(1, 3, 5, dtype=torch.bool)
    valid[..., 3:] = False
    padded = dit(sigma=sigma, audio_valid=valid, **data)
    assert (padded - dit(sigma=sigma, **{**data, "audio": data["audio"][:, :, :3]})).abs().max() <= 1e-5
    assert (padded - dit(sigma=sigma, **data)).abs().max() > 1e-3
    nobody = {**data, "face_mask": torch.zeros(1, 16)}
    assert torch.equal(dit(sigma=sigma, **nobody), dit(sigma=sigma, **{**data, "audio": None}))


def test_a_latent_without_a_single_valid_token_hears_nothing() -> None:
    """Beyond the end of the sound: zeros, not the not-a-number of a softmax over nothing; the other latents do not notice."""
    q, k, v = (torch.randn(2, 5, 2, 8) for _ in range(3))
    for keys in (5, 40):  # plain products, and torch's own attention
        many = [t.repeat(1, keys // 5, 1, 1) for t in (k, v)]
        none = torch.stack([torch.zeros(keys, dtype=torch.bool), torch.arange(keys) < 4])
        heard = attention(q, *many, none)
        assert not heard[0].any() and torch.allclose(heard[1], attention(q[1:], *(t[1:, :4] for t in many))[0], atol=1e-6)
