"""The three stages as resumable loops, and the files that come of them."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...metrics.syncnet import BUNDLED, FRAMES, SyncNet
from ...outputs import write_text
from ...weights.files import save_tensors
from ..checkpoint import Average, load_checkpoint, read_info, save_checkpoint
from ..mixed_precision import mixed_precision
from .audio_stage import AudioPretraining, audio_loss, explained, speech_batch
from .joint_stage import JointTraining, examine, maps_of
from .lip_stage import LipPretraining, patch_batch, patches_of
from .speech_clips import STRETCH, SpeechClips

log = logging.getLogger(__name__)

LEAST_SPREAD = 0.02  # of a mouth shape that hardly occurs
EARNEST = 0.7  # share of the time after which `listen` hears windows as the score does, cut out


@dataclass(kw_only=True)
class Stage:
    """A resumable loop over steps of one module: rate falls to nothing as the time runs out."""

    name: str
    module: nn.Module
    out: Path
    rate: float
    decay: float = 0.01

    def run(self, step: Callable[[int, float], Tensor], evaluate: Callable[[], dict[str, Any]], *, minutes: float,
            most_steps: int | None = None, report_every: int = 50, evaluate_every: int = 200) -> dict[str, Any]:
        """Train for `minutes` or `most_steps` on step(number, share of the time), on from `out`; ends with the average."""
        average = Average(self.module, 0.995)
        optimiser = torch.optim.AdamW([p for p in self.module.parameters() if p.requires_grad], lr=self.rate, weight_decay=self.decay)
        info: dict[str, Any] = {"step": 0, "curve": [], "minutes": 0.0}
        if self.out.is_file():
            info = load_checkpoint(self.out, self.module, average, optimiser)
        before, began = info["minutes"], time.monotonic()
        last, saved = math.inf if most_steps is None else info["step"] + most_steps, began
        while (spent := (time.monotonic() - began) / 60) < minutes and info["step"] < last:
            for group in optimiser.param_groups:
                group["lr"] = self.rate * min(1.0, (info["step"] + 1) / 50) * min(1.0, 0.02 + 1.6 * (1 - spent / minutes))
            loss = step(info["step"], spent / minutes)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), 5.0)
            optimiser.step()
            average.update(self.module)
            info["step"] += 1
            info["minutes"] = round(before + (time.monotonic() - began) / 60, 2)
            if info["step"] % report_every == 0:
                point = {"step": info["step"], "minutes": info["minutes"], "loss": round(loss.item(), 3)}
                if info["step"] % evaluate_every == 0:
                    self.module.eval()
                    with torch.no_grad():
                        point |= evaluate()
                    self.module.train()
                info["curve"].append(point)
                log.info("%s %s", self.name, json.dumps(point))
            if time.monotonic() - saved > 120:
                save_checkpoint(self.out, self.module, average, optimiser, info)
                saved = time.monotonic()
        save_checkpoint(self.out, self.module, average, optimiser, info)
        load_average(self.module, average.weights)
        return info


def load_average(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """The averaged weights, into a module in evaluation."""
    own = module.state_dict()
    module.load_state_dict({k: v.to(own[k].dtype) for k, v in weights.items()})
    module.eval()


def _spread(source: SpeechClips) -> Tensor:
    """(5 S,) standard deviation of each mouth shape in this speech."""
    one = np.concatenate([u.mouth for u in source.speech]).std(0)
    return torch.from_numpy(np.tile(one, FRAMES).astype(np.float32)).clamp(min=LEAST_SPREAD)


def train_audio_stream(
    net: SyncNet, source: SpeechClips, held: SpeechClips, out: Path, *, minutes: float, size: int = 12, exam: int = 24,
    most_steps: int | None = None,
) -> dict[str, Any]:
    """Train the sound stream of `net`."""
    model, spread = AudioPretraining(net).train(), _spread(source)
    held_out = speech_batch(held, exam, STRETCH, np.random.default_rng(1))

    def step(number: int, share: float) -> Tensor:
        rows, mouths, phones = speech_batch(source, size, STRETCH, np.random.default_rng(number))
        with mixed_precision("cpu"):
            predicted = model(rows, cut=share > EARNEST)
        return audio_loss(predicted, mouths, phones, spread)

    def evaluate() -> dict[str, Any]:
        predicted = model(held_out[0], cut=True)
        loss = audio_loss(predicted, *held_out[1:], spread)
        return {"held_loss": round(float(loss), 3), "held_explained": explained(predicted, held_out[1])}

    return Stage(name="listen", module=model, out=out, rate=1.5e-3).run(step, evaluate, minutes=minutes, most_steps=most_steps)


def train_lip_stream(
    net: SyncNet, source: SpeechClips, held: SpeechClips, out: Path, *, minutes: float, size: int = 32, clips: int = 60,
    most_clips: int = 500, exam: int = 8, most_steps: int | None = None, renew_every: int = 3,
) -> dict[str, Any]:
    """Train the convolutions of the lip stream of `net`; a new clip comes every `renew_every` steps, later in an old one's place."""
    model, spread = LipPretraining(net).train(), _spread(source)
    begun = read_info(out)["step"] if out.is_file() else 0

    def patches(of: SpeechClips, seed: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            clip = of.clip(seed, other_voice=True)
            return patches_of(clip, np.random.default_rng(seed)), clip.mouth

    bank = [patches(source, 1000 + begun * 7 + i) for i in range(clips)]
    held_out = [patch_batch([patches(held, 5 + i)] * 24, 24, np.random.default_rng(i)) for i in range(exam)]

    def step(number: int, _: float) -> Tensor:
        if number % renew_every == 0:
            bank.append(patches(source, 1_000_000 + number))
            if len(bank) > most_clips:
                bank.pop(0)
        faces, mouths = patch_batch(bank, size, np.random.default_rng(number))
        with mixed_precision("cpu"):
            predicted = model(faces)
        return cast(Tensor, (((predicted.float() - mouths) / spread) ** 2).mean())

    def evaluate() -> dict[str, Any]:
        predicted = torch.stack([model(faces) for faces, _ in held_out])
        return {"held_explained": explained(predicted, torch.stack([m for _, m in held_out]))}

    return Stage(name="look", module=model, out=out, rate=1.5e-3).run(step, evaluate, minutes=minutes, most_steps=most_steps)


def train_joint(
    net: SyncNet, source: SpeechClips, held: SpeechClips, out: Path, *, minutes: float, size: int = 6, clips: int = 40,
    most_clips: int = 700, exam: int = 12, most_steps: int | None = None, renew_every: int = 2,
) -> dict[str, Any]:
    """Train what follows the convolutions of `net`, which the stages `listen` and `look` have trained."""
    model, spread = JointTraining(net).train(), _spread(source)
    begun = read_info(out)["step"] if out.is_file() else 0

    def maps(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            return maps_of(net, source.clip(seed, other_voice=True), np.random.default_rng(seed))

    bank = [maps(2_000_000 + begun * 7 + i) for i in range(clips)]
    held_out = [held.clip(5 + i) for i in range(exam)]

    def step(number: int, _: float) -> Tensor:
        if number % renew_every == 0:
            bank.append(maps(3_000_000 + number))
            if len(bank) > most_clips:
                bank.pop(0)
        picks = np.random.default_rng(number).permutation(len(bank))[:size]
        seen, heard, mouths = (torch.stack([bank[i][part] for i in picks]) for part in range(3))
        with mixed_precision("cpu"):
            return model.loss(seen, heard, mouths, spread)[0]

    return Stage(name="join", module=model, out=out, rate=1e-3, decay=0.05).run(
        step, lambda: examine(net, held_out), minutes=minutes, most_steps=most_steps)


def export(net: SyncNet, folder: Path, info: dict[str, object]) -> None:
    """Two fp16 files of at most 16 MiB and what is known of them."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    parts = zip(BUNDLED, ("aud", "lip"), strict=True)
    save_tensors({folder / name: {k: v for k, v in state.items() if k.split(".")[0].endswith(part)} for name, part in parts})
    write_text(folder / "syncnet.json", json.dumps(info, indent=1))


def take_over(net: SyncNet, checkpoint: Path, wrapper: Callable[[SyncNet], nn.Module]) -> dict[str, Any]:
    """Put the averaged weights of a stage's checkpoint into `net`; returns what is known of it."""
    module = wrapper(net)
    average = Average(module)
    info = load_checkpoint(checkpoint, module, average, torch.optim.AdamW([p for p in module.parameters() if p.requires_grad]))
    load_average(module, average.weights)
    return info
