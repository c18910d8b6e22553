"""Rotary positions: Wan's complex formula, relative, safe in half precision and in autograd."""

from __future__ import annotations

import pytest
import torch

from tm_core.model.rope import rope_table, rotate

CPU = torch.device("cpu")


def complex_rotation(x: torch.Tensor, times: list[float], height: int, width: int) -> torch.Tensor:
    """Wan's definition: pairs of channels as complex numbers, axes (d - 4 (d // 6), 2 (d // 6), 2 (d // 6)), float64."""
    d = x.shape[-1]
    axes = (d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6))
    grid = torch.tensor([[t, h, w] for t in times for h in range(height) for w in range(width)], dtype=torch.float64)
    angle = torch.cat([grid[:, i : i + 1] / 10000 ** (torch.arange(0, n, 2).double() / n) for i, n in enumerate(axes)], 1)
    turned = torch.view_as_complex(x.double().unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.view_as_real(turned).flatten(-2)


@pytest.mark.parametrize("head_dim", [48, 64, 128], ids=lambda d: f"head {d}")
def test_it_is_wans_complex_rotation(head_dim: int) -> None:
    times = [0.0, 1.0, 2.0, 18.0, 19.5]
    x = torch.randn(2, 5 * 12, 3, head_dim)
    made = rotate(x, rope_table(times, (4, 3), head_dim, CPU))
    assert (made - complex_rotation(x, times, 4, 3)).abs().max() < 1e-5


def test_only_differences_of_positions_matter() -> None:
    q, k = torch.randn(2, 1, 4, 1, 64)
    scores = []
    for start in (0, 15):
        table = [rope_table([t], (2, 2), 64, CPU) for t in (start, start + 5)]
        scores.append((rotate(q, table[0]) * rotate(k, table[1])).sum(-1))
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-4)


def test_half_precision_turns_by_exact_angles() -> None:
    x = torch.randn(1, 16, 2, 64).bfloat16()
    table = rope_table([20.0], (4, 4), 64, CPU)
    made = rotate(x, table)
    assert made.dtype == torch.bfloat16 and table.dtype == torch.float32
    assert (made.float() - rotate(x.float(), table)).abs().max() < 0.02


def test_a_table_made_in_inference_mode_serves_autograd() -> None:
    with torch.inference_mode():
        table = rope_table([77.0, 78.0], (3, 3), 48, CPU)
    assert not table.is_inference()
    x = torch.randn(1, 18, 2, 48, requires_grad=True)
    rotate(x, table).sum().backward()
    assert x.grad is not None
