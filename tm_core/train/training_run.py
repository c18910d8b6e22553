"""`talking-machines train RECIPE`: builds what a recipe names and runs it, resumable; `tiny` runs all of TINY.

A recipe goes on from its checkpoint in the work folder; without one it begins with the product of the recipe
it starts from, else with the bundled weights, else anew. Non-goals: preparing data (corpus, data.prepare).
"""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import safe_open
from torch import Tensor, nn

from ..config import ModelConfig, tiny
from ..errors import InputError
from ..model.audio_projector import AudioProjector
from ..model.dit import SequenceGroup
from ..model.talking import TalkingModel
from ..outputs import write_text
from ..vae.mouth_head import MouthHead
from ..vae.tiny import TinyVAE
from ..weights.loading import default_mouth, default_weights, load_model, save_model, save_mouth
from .autoencoder import fit_scale, train_autoencoder
from .callbacks import Checkpoints, Curve, ValidationVideo, examine, log_points
from .checkpoint import read_info
from .dataset import Inputs, load_inputs, prepare
from .denoiser import Denoiser
from .methods.distribution_matching import DistributionMatching
from .methods.flow_matching import FlowMatching, Phase
from .methods.method import Method
from .methods.regression import Regression
from .mouth_clips import load_mouth_faces, pack_mouth_faces
from .mouth_training import evaluate_mouth, held_mouths, train_mouth
from .parallel import World
from .phoneme_classifier import train_phoneme_classifier
from .recipes import RECIPES, TINY, Recipe
from .run_checkpoint import load_run
from .sequences import HELD_SEED, SEQUENCE, Batch, ClipCache, ClipData, EncodedClip, exam_batch
from .trainer import Data, Trainer

log = logging.getLogger(__name__)

MOUTH_FACES = "mouth_faces.safetensors"  # in the work folder


def work_folder() -> Path:
    """Where inputs and checkpoints are (TM_BUILD, or build/train under the current folder)."""
    return Path(os.environ.get("TM_BUILD", "build/train"))


def main(
    recipe: str, *, resume: bool = True, minutes: float | None = None, device: str = "cpu", out: Path | None = None,
    most_steps: int | None = None, footage: Path | None = None,
) -> Path:
    """Run a recipe, or all of the tiny ones (`tiny`: they share `minutes` as they share their own); returns what it wrote.

    `footage`: a folder that `data prepare` wrote; half of the sequences then are real. `prepare` instead of a recipe
    writes the training inputs from build/corpus.
    """
    folder = work_folder()
    if recipe == "prepare":
        pack_mouth_faces(folder.parent / "corpus", folder / MOUTH_FACES)
        return prepare(folder.parent / "corpus", folder / "inputs.safetensors", tiny())
    if recipe != "tiny" and recipe not in RECIPES:
        raise InputError("recipe", recipe, "not known", f"choose one of {', '.join(['tiny', *RECIPES, 'prepare'])}")
    if recipe.startswith("paper"):
        raise InputError(
            "recipe", recipe, "needs footage, encoders and weights that no folder here holds",
            "call tm_core.train.training_run.build_trainer with your own Data; docs/training.md shows how")
    names = TINY if recipe == "tiny" else (recipe,)
    training = TrainingRun(folder=folder, device=device, resume=resume, footage=footage)
    planned = {name: RECIPES[name]().minutes or 0.0 for name in names}
    share = 1.0 if minutes is None else minutes / sum(planned.values())
    for name in names:
        training.run(RECIPES[name](), share * planned[name], most_steps)
    last = RECIPES[names[-1]]()
    target = out or (default_mouth() if last.method == "mouth" else default_weights())
    return training.export(last, target) if os.environ.get("RANK", "0") == "0" else target  # torchrun: one process writes


@dataclass(kw_only=True)
class TrainingRun:
    """The tiny recipes' shared parts: inputs, autoencoder, audio trunk, clips, checkpoints."""

    folder: Path
    device: str
    resume: bool = True
    footage: Path | None = None

    def checkpoint(self, name: str) -> Path:
        """Where a recipe's checkpoint is."""
        return self.folder / f"{name}.safetensors"

    def run(self, recipe: Recipe, minutes: float, most_steps: int | None = None) -> None:
        """Train for `minutes`; 0 leaves the recipe as its checkpoint has it."""
        if minutes <= 0:
            return
        if recipe.method == "autoencoder":
            self._autoencoder(recipe.model, minutes, most_steps)
        elif recipe.method == "listen":
            self._listener(recipe.model, minutes, most_steps)
        elif recipe.method == "mouth":
            self._mouth(recipe.model, minutes, most_steps)
        else:
            self._method(recipe, minutes, most_steps)

    # -- parts ------------------------------------------------------------------------------------------

    def inputs(self, split: str) -> Inputs:
        """Stills and speech of a split, on the device."""
        inputs = load_inputs(self.folder / "inputs.safetensors", split)
        return Inputs(faces=inputs.faces.to(self.device), speech=inputs.speech.to(self.device), identities=inputs.identities)

    def vae(self, cfg: ModelConfig) -> TinyVAE:
        """The autoencoder as trained so far, its latents scaled by what moves; with footage, the bundled one."""
        if self.footage is not None and (bundled := shipped(cfg)) is not None:
            return cast(TinyVAE, bundled.vae).to(self.device)  # footage keeps latents of it
        vae = self._autoencoder(cfg, 0.0, None)
        if self.checkpoint("tiny_autoencoder").is_file():
            fit_scale(vae, cfg, self.inputs("train"), self.device)
        return vae

    def _autoencoder(self, cfg: ModelConfig, minutes: float, most_steps: int | None) -> TinyVAE:
        start = shipped(cfg) if self.resume else None
        return train_autoencoder(
            cfg, self.inputs("train"), self.checkpoint("tiny_autoencoder"), minutes=minutes, device=self.device, resume=self.resume,
            report=log_points("tiny_autoencoder"), start=cast(TinyVAE, start.vae) if start else None, most_steps=most_steps)

    def _listener(self, cfg: ModelConfig, minutes: float, most_steps: int | None) -> AudioProjector:
        start = shipped(cfg) if self.resume else None
        return train_phoneme_classifier(
            cfg, self.inputs("train").speech, self.inputs("held").speech, self.checkpoint("tiny_listener"), minutes=minutes,
            device=self.device, resume=self.resume, report=log_points("tiny_listener"),
            start=cast(AudioProjector, start.projector) if start else None,
            most_steps=most_steps)

    def _mouth(self, cfg: ModelConfig, minutes: float, most_steps: int | None) -> MouthHead:
        """The mouth head as trained so far, or after more; its autoencoder is the shipped one, or this folder's."""
        vae, path = self.vae(cfg), self.checkpoint("tiny_mouth")
        bundled = shipped(cfg) if self.resume else None
        start = cast(TinyVAE, bundled.vae).mouth if bundled else None
        (faces, _), (others, names) = (load_mouth_faces(self.folder / MOUTH_FACES, split) for split in ("train", "held"))
        held = held_mouths(vae, others, names, self.inputs("held").speech, cfg, frames=17) if minutes > 0 else []
        return train_mouth(
            cfg, vae, faces, self.inputs("train").speech, path, minutes=minutes, most_steps=most_steps, resume=self.resume,
            start=cast(MouthHead, start) if start else None, report=log_points("tiny_mouth"), exam=lambda head: evaluate_mouth(head, held))

    def trunk(self, cfg: ModelConfig) -> dict[str, Tensor]:
        """The audio trunk as tiny_listener left it, by the names of a Denoiser; nothing without its checkpoint, or for another projector.

        No other recipe trains it, all take it when they begin or go on: after more of the listener, the teacher has
        to be trained again, then the student.
        """
        path, average = self.checkpoint("tiny_listener"), "average."
        if not path.is_file() or cfg.projector != RECIPES["tiny_listener"]().model.projector:
            return {}
        with safe_open(str(path), "pt") as f:
            names = [k for k in f.keys() if k.startswith(f"{average}projector.trunk.")]  # noqa: SIM118 - not a dict
            return {k[len(average) :]: f.get_tensor(k) for k in names}

    def product(self, name: str, cfg: ModelConfig, sequence: SequenceGroup | None = None) -> Denoiser | None:
        """The averaged weights of a recipe's checkpoint; None without one. `sequence` as for Denoiser."""
        if not self.checkpoint(name).is_file():
            return None
        model = Denoiser(cfg, new_projector(cfg), sequence)
        with safe_open(str(self.checkpoint(name)), "pt") as f:
            model.load_state_dict({k[8:]: f.get_tensor(k) for k in f.keys() if k.startswith("average.")})  # noqa: SIM118
        return model.to(self.device).eval()

    def beginning(self, recipe: Recipe, sequence: SequenceGroup | None = None) -> tuple[Denoiser, bool]:
        """What the recipe starts from, and whether that was trained before. `sequence` as for Denoiser."""
        cfg = recipe.model
        if self.resume and recipe.start and (found := self.product(recipe.start, cfg, sequence)) is not None:
            return found, True
        model = Denoiser(cfg, new_projector(cfg), sequence)
        if self.resume and (whole := shipped(cfg)) is not None:
            model.dit.load_state_dict(whole.dit.state_dict())
            if model.projector is not None and whole.projector is not None:
                model.projector.load_state_dict(cast(AudioProjector, whole.projector).state_dict())
            return model.to(self.device), True
        model.dit.init_weights()
        if model.projector is not None:
            model.projector.load_state_dict(self._listener(cfg, 0.0, None).state_dict())
        return model.to(self.device), False

    # -- one method -------------------------------------------------------------------------------------

    def _method(self, recipe: Recipe, minutes: float, most_steps: int | None) -> None:
        cfg, vae = recipe.model, self.vae(recipe.model)
        bank, held = (self._bank(vae, cfg, split, recipe.motion) for split in ("train", "held"))
        exam = exam_batch(held, cfg, 8)
        trainer = build_trainer(recipe, self, ClipData(bank=bank, cfg=cfg, footage=self._real(cfg, vae)), device=self.device)
        curve = Curve(exam=lambda m: examine(m, exam, chunk=exam_chunk(recipe)), report=log_points(recipe.name))
        path = self.checkpoint(recipe.name)
        if self.resume and path.is_file():
            curve.points = load_run(path, trainer, self.trunk(cfg))["curve"]
        trainer.callbacks = (curve, Checkpoints(path, curve), self._video(recipe, vae, exam, held[0].portrait.float() / 255))
        trainer.run(minutes=minutes, most_steps=most_steps)
        trainer.world.close()

    def _real(self, cfg: ModelConfig, vae: TinyVAE) -> tuple[EncodedClip, ...]:
        """Clips of the user's footage that are long enough; InputError where their latents are of another autoencoder."""
        if self.footage is None:
            return ()
        from .footage import as_training_clip, load_footage
        from .footage.encode import weights_hash

        found = load_footage(self.footage)
        if other := [c.name for c in found if c.vae != weights_hash(vae)]:
            rule = f"{len(other)} clips hold latents of another autoencoder, first {other[0]}"
            raise InputError("--footage", self.footage, rule, "run `talking-machines data prepare` again")
        least = SEQUENCE * cfg.sampler.chunk_latents
        clips = tuple(as_training_clip(c).to(self.device) for c in found if c.latents.shape[1] >= least)
        if not clips:
            raise InputError("--footage", self.footage, f"no clip has {least} latents", "prepare longer videos")
        return clips

    def _bank(self, vae: TinyVAE, cfg: ModelConfig, split: str, motion: float) -> ClipCache:
        seed = HELD_SEED if split == "held" else 0
        return ClipCache(vae, self.inputs(split), cfg, motion=motion, seed=seed, folder=self.folder / "clips" / split, device=self.device)

    def _video(self, recipe: Recipe, vae: TinyVAE, exam: Batch, portrait: Tensor) -> ValidationVideo:
        return ValidationVideo(
            self.folder / "videos" / recipe.name, vae, exam, portrait, sigmas=recipe.model.sampler.sigmas,
            chunk=recipe.model.sampler.chunk_latents, fps=recipe.model.fps)

    def export(self, recipe: Recipe, out: Path) -> Path:
        """Write the averaged weights of a recipe and, beside them, all learning curves."""
        cfg = recipe.model
        if recipe.method in ("autoencoder", "listen"):
            return self.checkpoint(recipe.name)
        if recipe.method == "mouth":
            save_mouth(self._mouth(cfg, 0.0, None), out)
            write_text(out.with_suffix(".curve.json"), json.dumps(self.curves((recipe.name,)), indent=1))
            return out
        model = self.product(recipe.name, cfg)
        if model is None:
            raise InputError("checkpoint", self.checkpoint(recipe.name), "is not there", "train the recipe for a while first")
        vae = self.vae(cfg)
        vae.mouth = None  # in a file of its own
        whole = TalkingModel(config=cfg, dit=model.dit, projector=model.projector, vae=vae)
        out.parent.mkdir(parents=True, exist_ok=True)
        save_model(whole, out)
        write_text(out.with_suffix(".curve.json"), json.dumps(self.curves(), indent=1))
        log.info("wrote %s", out)
        return out

    def curves(self, names: Sequence[str] = TINY) -> dict[str, Any]:
        """Steps, minutes and learning curve of every recipe that has a checkpoint."""
        infos = {name: read_info(path) for name in names if (path := self.checkpoint(name)).is_file()}
        return {n: {"steps": i["step"], "minutes": i.get("minutes"), "curve": i["curve"]} for n, i in infos.items()}


def exam_chunk(recipe: Recipe) -> int | None:
    """Under which mask a recipe's product is examined."""
    causal = recipe.method != "flow_matching" or recipe.causal_share > 0
    return recipe.model.sampler.chunk_latents if causal else None


def new_projector(cfg: ModelConfig) -> AudioProjector | None:
    """An untrained projector, if the model hears."""
    return None if cfg.projector is None else AudioProjector(cfg.projector)


def build_trainer(recipe: Recipe, source: TrainingRun, data: Data, *, device: str) -> Trainer:
    """A trainer with the recipe's roles, wrapped for as many processes as there are."""
    world = World.open(recipe.train.parallel, device)
    roles = _teacher_and_critic(recipe, source, world.sequence)
    student, trained = source.beginning(recipe, world.sequence)
    phases = () if trained else recipe.phases
    student.train_only("all")
    roles["student"] = student
    for module in roles.values():
        module.load_state_dict(source.trunk(recipe.model), strict=False)
    wrapped = {name: world.wrap(m, trainable=name != "teacher") for name, m in roles.items()}
    method = make_method(recipe, wrapped, phases, paths=source.folder / "paths" / f"{recipe.name}-{_stamp(source, recipe)}")
    return Trainer(method, data, recipe.train, world=world, name=recipe.name)


def _teacher_and_critic(recipe: Recipe, source: TrainingRun, sequence: SequenceGroup | None) -> dict[str, nn.Module]:
    """The frozen teacher, and the critic, which begins as its copy."""
    if not recipe.teacher:
        return {}
    teacher = source.product(recipe.teacher, recipe.model, sequence)
    if teacher is None:
        raise InputError("teacher", recipe.teacher, "has no checkpoint", f"train it first: talking-machines train {recipe.teacher}")
    roles: dict[str, nn.Module] = {"teacher": teacher.requires_grad_(False)}
    if recipe.method == "distribution_matching":
        critic = copy.deepcopy(teacher)
        critic.train_only("all")
        roles["critic"] = critic
    return roles


def _stamp(source: TrainingRun, recipe: Recipe) -> str:
    """Changes with the teacher's checkpoint: paths of another teacher are not used."""
    file = source.checkpoint(recipe.teacher or "none")
    return str(read_info(file)["step"]) if file.is_file() else "0"


def make_method(recipe: Recipe, roles: dict[str, Any], phases: tuple[Phase, ...] = (), paths: Path | None = None) -> Method:
    """The recipe's method over its roles."""
    chunk = recipe.model.sampler.chunk_latents
    if recipe.method == "flow_matching":
        return FlowMatching(roles["student"], chunk=chunk, causal_share=recipe.causal_share, phases=phases)
    if recipe.method == "regression":
        return Regression(
            roles["student"], roles["teacher"], chunk=chunk, sigmas=recipe.model.sampler.sigmas, sampling=recipe.sampling,
            folder=paths)
    return DistributionMatching(
        roles["student"], roles["teacher"], roles["critic"], chunk=chunk, sigmas=recipe.model.sampler.sigmas, cfg=recipe.distillation)


def shipped(cfg: ModelConfig) -> TalkingModel | None:
    """The bundled weights, to go on from where the machine has no checkpoint of them."""
    if not default_weights().is_file():
        return None
    model = load_model()
    if model.config.to_dict() | {"sampler": None} != cfg.to_dict() | {"sampler": None}:
        log.info("the bundled weights have another shape; starting anew")
        return None
    return model


