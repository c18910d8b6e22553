"""Inside a chunk nothing is copied to the device and nothing is asked of it: on a GPU either waits for all that is still to be done.

The device is torch's meta device in the role of a GPU: it computes nothing, but every operation is seen with its devices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.streaming.test_compressed_sampler import SAMPLER as COMPRESSED
from tests.streaming.test_compressed_sampler import scene as compressed_scene
from tests.streaming.test_compressed_sampler import small
from tests.streaming.test_sampler import CONFIG, features, random_model, scene
from tm_core.streaming import clip_sampler, compressed_sampler, sampler
from tm_core.streaming.colour_correction import to_lab, to_rgb
from tm_core.streaming.compressed_sampler import CompressedSampler
from tm_core.streaming.sampler import ChunkedSampler
from tm_core.vae.wan import WanVAE

META = torch.device("meta")
DRAW = sampler.noise_of_steps


class Waits(TorchDispatchMode):
    """Writes down operations that take from the CPU to the device, or ask the device for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = [a for a in torch.utils._pytree.tree_leaves((args, kwargs or {})) if isinstance(a, torch.Tensor)]
        made = func(*args, **(kwargs or {}))
        out = [t for t in torch.utils._pytree.tree_leaves(made) if isinstance(t, torch.Tensor)]
        crosses = any(t.device.type == "cpu" and t.dim() for t in given) and any(t.device == META for t in [*given, *out])
        if crosses or func is torch.ops.aten._local_scalar_dense.default:
            self.found.append(str(func))
        return made


def on_meta(model: Any) -> Any:
    for part in (model.dit, model.projector, model.vae):
        if part is not None:
            part.to(META)
    return model


@pytest.mark.parametrize("mode", ["per_step", "clean_rerun"])
def test_the_steps_of_a_chunk_take_nothing_from_the_cpu(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ChunkedSampler(on_meta(random_model(CONFIG)), replace(CONFIG.sampler, cache_mode=mode))
    place = scene(features())
    place = replace(place, reference=place.reference.to(META))
    check_steps(made, made.open(place, 0), monkeypatch, sampler)


def test_nor_do_those_with_a_compressed_history(monkeypatch: pytest.MonkeyPatch) -> None:
    made, place = CompressedSampler(on_meta(small()), COMPRESSED), compressed_scene()
    check_steps(made, made.open(replace(place, reference=place.reference.to(META)), 0), monkeypatch, compressed_sampler)


def check_steps(made: Any, state: Any, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """From the moment the noise is there; the first chunks, whose place is new, make the tables that are kept."""
    for index in range(9):
        with Waits() as waits:
            drawn: list[int] = []

            def noise(*given: Any, waits: Waits = waits, drawn: list[int] = drawn) -> Any:
                values = DRAW(*given)
                waits.found.clear()  # what was copied before the steps
                drawn.append(1)
                return values

            monkeypatch.setattr(module, "noise_of_steps", noise)
            _, state = made.step(state)
            monkeypatch.undo()
        assert drawn == [1], "all noise of a chunk is drawn at once"
        assert index < 8 or not waits.found, waits.found


def test_decoding_and_colours_take_nothing_from_the_cpu() -> None:
    vae, latents = WanVAE(device=META), torch.empty(1, 16, 1, 8, 8, device=META)
    state = vae.open_decoder(None)
    picture = torch.empty(3, 8, 8, device=META)
    for warm in (True, False):
        with Waits() as waits, torch.inference_mode():
            _, state = vae.decode(latents, state)
            to_rgb(to_lab(picture))
        assert warm or not waits.found, waits.found


def test_clips_draw_their_noise_before_the_steps() -> None:
    assert clip_sampler.noise_of_steps is sampler.noise_of_steps
