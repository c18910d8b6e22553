"""Recipes: what is trained, how, from where. Functions that return frozen dataclasses.

`tiny_*` train the embedded default on one small machine (`tiny_mouth` on its own: it has a file of its own);
`paper_stage1/2/3` are the paper's stages for the 18 B model with its numbers where it gives them (section 4.1, table
of stages), ours where it does not: marked "ours".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from ..config import ModelConfig, SamplerConfig, paper_18b, tiny, wan_i2v_14b
from .methods.distribution_matching import DistillationConfig
from .methods.flow_matching import Phase
from .methods.regression import TeacherSampling
from .parallel import ParallelConfig
from .trainer import OptimConfig, TrainConfig

MethodName = Literal["autoencoder", "mouth", "listen", "flow_matching", "regression", "distribution_matching"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run; `minutes` of wall time end it, if given."""

    name: str
    model: ModelConfig
    method: MethodName
    train: TrainConfig
    start: str | None = None  # the recipe whose product this one begins with
    teacher: str | None = None  # the recipe whose product is the frozen teacher
    minutes: float | None = None
    phases: tuple[Phase, ...] = ()  # before the rest; skipped by a run that begins with trained weights
    motion: float = 0.8  # of the heads in generated clips
    causal_share: float = 0.0  # of the batches under the sparse causal mask (flow matching)
    sampling: TeacherSampling = field(default_factory=TeacherSampling)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)


def tiny_autoencoder() -> Recipe:
    """Pictures to latents and back."""
    return Recipe(name="tiny_autoencoder", model=tiny(), method="autoencoder", train=TrainConfig(steps=20_000, batch=24), minutes=25)


def tiny_mouth() -> Recipe:
    """The mouth at the portrait's own size, from the autoencoder's motion; everything else frozen."""
    return Recipe(name="tiny_mouth", model=tiny(), method="mouth", train=TrainConfig(steps=20_000, batch=6), minutes=40)


def tiny_listener() -> Recipe:
    """The audio trunk, on phone labels."""
    return Recipe(name="tiny_listener", model=tiny(), method="listen", train=TrainConfig(steps=20_000, batch=48), minutes=4)


def tiny_teacher() -> Recipe:
    """Bidirectional, 12 steps of two evaluations; audio layers alone after a warm-up without sound, as in stages 1 and 2.

    A share of the batches is causal, so that the same weights are a good beginning for the student.
    """
    return Recipe(
        name="tiny_teacher", model=tiny(), method="flow_matching", start="tiny_teacher", minutes=60, causal_share=0.4,
        phases=(Phase(steps=200, sound=False), Phase(steps=300, trainable="audio")),
        train=TrainConfig(steps=20_000, batch=6, optim=OptimConfig(rate=8e-4, decay_from=2000)),
    )


def tiny_init() -> Recipe:
    """The student's beginning: it learns where the teacher's probability flow ends (ours; CausVid begins so)."""
    return Recipe(
        name="tiny_init", model=tiny(), method="regression", start="tiny_teacher", teacher="tiny_teacher", minutes=10,
        train=TrainConfig(steps=5_000, batch=4, optim=OptimConfig(rate=4e-4, warmup=20), average=0.99),
    )


def tiny_student() -> Recipe:
    """Sparse causal, two evaluations: DMD and regression, first on real sequences, then on its own as well."""
    return Recipe(
        name="tiny_student", model=tiny(), method="distribution_matching", start="tiny_init", teacher="tiny_teacher", minutes=30,
        train=TrainConfig(
            steps=5_000, batch=4, optim=OptimConfig(rate=1.5e-4, betas=(0.0, 0.99), warmup=20),
            critic=OptimConfig(rate=3e-4, betas=(0.0, 0.99), warmup=10), average=0.98),
        distillation=DistillationConfig(guidance=1.1, regression=1.0, own_from=60, critic_updates=1, other_share=0.2),
    )


def paper_stage1() -> Recipe:
    """Warm-up to the resolution and to people: all layers, 9k steps, 128 GPUs (rate, batch: ours)."""
    return Recipe(
        name="paper_stage1", model=wan_i2v_14b(), method="flow_matching",
        train=TrainConfig(
            steps=9_000, batch=128, optim=OptimConfig(rate=1e-5, warmup=500), average=0.999,
            parallel=ParallelConfig(shard="hybrid", shard_size=8, checkpoint_activations=True)),
    )


def paper_stage2() -> Recipe:
    """Sound: the new audio layers alone, 30k steps, 384 GPUs (rate, batch: ours)."""
    first = paper_stage1()
    return replace(
        first, name="paper_stage2", model=paper_18b(), start="paper_stage1", phases=(Phase(steps=30_000, trainable="audio"),),
        train=replace(first.train, steps=30_000, batch=384, optim=OptimConfig(rate=1e-4, warmup=1000)),
    )


def paper_stage3() -> Recipe:
    """Sparse autoregressive distillation to two steps: 20k steps, 128 GPUs, three copies, two of them trained.

    The paper names HSDP and Ulysses; rates, ratio and weights are ours (Self-Forcing's, reference/checkpoints.md).
    """
    return Recipe(
        name="paper_stage3", model=replace(paper_18b(), sampler=SamplerConfig()), method="distribution_matching",
        start="paper_stage2", teacher="paper_stage2",
        train=TrainConfig(
            steps=20_000, batch=64, optim=OptimConfig(rate=2e-6, betas=(0.0, 0.999), clip=10.0),
            critic=OptimConfig(rate=4e-7, betas=(0.0, 0.999), clip=10.0), average=0.99,
            parallel=ParallelConfig(shard="hybrid", shard_size=8, sequence=2, checkpoint_activations=True)),
        distillation=DistillationConfig(guidance=4.0, own_from=5_000, critic_updates=5),
    )


ABLATION_STEPS, ABLATION_OWN_FROM = 60, 10


def brief(name: str, **changes: object) -> Callable[[], Recipe]:
    """tiny_student cut short, whole or with a part of the method left out: all as long, to be compared with each other."""
    def make() -> Recipe:
        student = tiny_student()
        changed = replace(student.distillation, own_from=ABLATION_OWN_FROM, **changes)  # type: ignore[arg-type]
        train = replace(student.train, steps=ABLATION_STEPS, average=0.95)
        return replace(student, name=f"tiny_student.{name}", distillation=changed, train=train, minutes=30)

    return make


RECIPES: dict[str, Callable[[], Recipe]] = {
    f.__name__: f
    for f in (tiny_autoencoder, tiny_mouth, tiny_listener, tiny_teacher, tiny_init, tiny_student, paper_stage1, paper_stage2, paper_stage3)
} | {
    "tiny_student.brief": brief("brief"),
    "tiny_student.no_regression": brief("no_regression", regression=0.0),
    "tiny_student.no_own": brief("no_own", own_share=0.0),
    "tiny_student.no_anchor": brief("no_anchor", anchor=False),
}
TINY = ("tiny_autoencoder", "tiny_listener", "tiny_teacher", "tiny_init", "tiny_student")  # in this order
