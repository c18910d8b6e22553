"""Recipes: the paper's model has the paper's size, its stages run at reduced size with every switch they name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tm_core.config import DiTConfig, ModelConfig, paper_18b, wan_i2v_14b
from tm_core.errors import InputError
from tm_core.model.audio_projector import AudioProjector
from tm_core.model.conditioning import make_reference
from tm_core.model.dit import TalkingDiT
from tm_core.train.checkpoint import Average, save_checkpoint
from tm_core.train.denoiser import Denoiser
from tm_core.train.parallel import World
from tm_core.train.phoneme_classifier import PhonemeClassifier
from tm_core.train.recipes import RECIPES, TINY, Recipe, paper_stage1, paper_stage2, paper_stage3
from tm_core.train.run_checkpoint import load_run, save_run
from tm_core.train.sequences import Batch
from tm_core.train.trainer import Trainer
from tm_core.train.training_run import TrainingRun, build_trainer, main, make_method, new_projector


def count(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e9


def test_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        base, dit = TalkingDiT(wan_i2v_14b().dit), TalkingDiT(paper_18b().dit)
        config = paper_18b().projector
        assert config is not None
        projector = AudioProjector(config)
    assert count(base) == pytest.approx(16.4, abs=0.1)  # Wan2.1 I2V "14B", its image keys and values included
    assert count(projector) == pytest.approx(1.2, abs=0.05)
    assert count(dit) + count(projector) == pytest.approx(18, abs=0.6)


def test_stages_have_the_papers_numbers() -> None:
    one, two, three = paper_stage1(), paper_stage2(), paper_stage3()
    assert [r.train.steps for r in (one, two, three)] == [9_000, 30_000, 20_000]
    assert one.model.dit.audio_kind == "none" and two.phases[0].trainable == "audio" and two.phases[0].steps >= two.train.steps
    assert three.sampling.steps == 12 and three.distillation.guidance != 1.0  # 24 evaluations
    assert len(three.model.sampler.sigmas) == 2
    assert three.train.parallel.shard == "hybrid" and three.train.parallel.sequence > 1
    assert (one.model.width, one.model.height, one.model.fps) == (512, 512, 16)


def reduced(recipe: Recipe) -> Recipe:
    """The same recipe on a model of thousands of weights in one process."""
    model = recipe.model
    dit = replace(model.dit, dim=48, ffn_dim=64, num_heads=1, num_layers=2, text_dim=16, text_len=4, image_dim=8, audio_dim=24)
    projector = None if model.projector is None else replace(model.projector, width=16, dim=24, n_mels=12)
    small = replace(model, width=64, height=64, dit=dit, projector=projector)
    parallel = replace(recipe.train.parallel, shard="none", shard_size=None, sequence=1)
    optim = replace(recipe.train.optim, warmup=1, rate=1e-3)
    train = replace(recipe.train, batch=2, parallel=parallel, autocast=False, optim=optim, critic=optim)
    return replace(recipe, model=small, train=train)


class Footage:
    """Random sequences with text and image conditions, as footage would give them."""

    def __init__(self, cfg: ModelConfig) -> None:
        self.cfg = cfg

    def batch(self, step: int, size: int, rng: torch.Generator) -> Batch:
        dit: DiTConfig = self.cfg.dit
        h, w = self.cfg.latent_hw
        bands = self.cfg.projector.n_mels if self.cfg.projector else 12
        rows = 4 * self.cfg.projector.tokens if self.cfg.projector else 64

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(size, *shape, generator=rng)

        return Batch(
            x0=normal(16, 21, h, w), reference=make_reference(normal(16, h, w), list(range(21))), windows=normal(21, rows, bands),
            heard=torch.ones(size, 21), face_mask=torch.ones(size, h * w // 4), weight=torch.ones(size, 1, 1, h, w),
            text=normal(dit.text_len, dit.text_dim), image=normal(257, dit.image_dim or 8))


@pytest.mark.parametrize("make", [paper_stage1, paper_stage2, paper_stage3], ids=lambda f: f.__name__)
def test_a_paper_stage_takes_steps_at_reduced_size(make: object) -> None:
    recipe = reduced(make())  # type: ignore[operator]
    torch.manual_seed(0)
    roles = {name: Denoiser(recipe.model, new_projector(recipe.model)) for name in ("student", "teacher", "critic")}
    roles["teacher"].requires_grad_(False)
    world = World.open(recipe.train.parallel, "cpu")
    student = world.wrap(roles["student"])
    student.train_only("all")
    method = make_method(recipe, {**roles, "student": student}, recipe.phases)
    trainer = Trainer(method, Footage(recipe.model), recipe.train, world=world)
    before = {k: v.clone() for k, v in student.state_dict().items()}
    told = [trainer.one_step() for _ in range(2)]
    assert all(torch.isfinite(v) for t in told for v in t.values())
    changed = {k for k, v in student.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    if recipe.name == "paper_stage2":
        assert all("_proj." in k or k.startswith("projector.") for k in changed)


def test_all_recipes_hear_with_the_trunk_that_the_listener_left(tmp_path: Path) -> None:
    """Also a run that goes on: its own checkpoint holds an older trunk."""
    recipe, training = RECIPES["tiny_teacher"](), TrainingRun(folder=tmp_path, device="cpu")
    for seed in (0, 1):
        torch.manual_seed(seed)
        listener = PhonemeClassifier(recipe.model)
        save_checkpoint(tmp_path / "tiny_listener.safetensors", listener, Average(listener), torch.optim.AdamW(listener.parameters()), {})
        trainer = build_trainer(recipe, training, Footage(recipe.model), device="cpu")
        if seed:
            load_run(tmp_path / "tiny_teacher.safetensors", trainer, training.trunk(recipe.model))
        wanted = listener.projector.trunk.enter.weight
        assert torch.equal(trainer.product.projector.trunk.enter.weight, wanted)
        assert not seed or torch.equal(trainer.average.weights["projector.trunk.enter.weight"], wanted)
        save_run(tmp_path / "tiny_teacher.safetensors", trainer, {"curve": []})
    assert training.trunk(paper_stage2().model) == {}


def test_bad_calls_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TM_BUILD", str(tmp_path))
    training = TrainingRun(folder=tmp_path, device="cpu")
    with pytest.raises(InputError, match=r"^teacher: "):
        build_trainer(RECIPES["tiny_student"](), training, Footage(RECIPES["tiny_student"]().model), device="cpu")
    with pytest.raises(InputError, match=r"^recipe: "):
        main("nonsense")
    assert set(TINY) < set(RECIPES)
