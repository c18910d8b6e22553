"""Equalities the design rests on: the host's WanModel and wav2vec2, chunked against whole, future sound against past picture.

Needs a ComfyUI for the first (`make host`, or COMFYUI_PATH with COMFYUI_PYTHON); everything runs in float32 on the
CPU. What is left against the host is its sinusoid of the timestep, which it computes in float32, Wan's own code and
ours in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._common import Result, demo_portrait, load, result, say, speech_of
from parity import open_models, speech, two_speakers
from parity.golden import BAR
from parity.host import Installation, compare_with_host, find_host
from tm_core import talk
from tm_core.audio.features import StreamingLogMel
from tm_core.audio.windows import rows_needed, windows
from tm_core.config import ModelConfig
from tm_core.media.image_io import open_image
from tm_core.model.conditioning import make_reference
from tm_core.streaming.sampler import ChunkedSampler, Scene, chunk_noise
from tm_core.weights.loading import TalkingModel

CHUNKS = 7  # as many as have true temporal positions: a whole sequence knows no others
SEED = 3


def run(*, weights: Path | None = None) -> list[Result]:
    """Every equality, with the largest difference found."""
    model = load(weights, "cpu")
    with torch.inference_mode():
        return [*host_results(), *recorded_results(), *sampler_results(model), *decoder_results(model), *audio_results(model.config)]


def _equal(what: str, difference: float, bar: float = BAR) -> Result:
    return result(what, f"{difference:.2g}", "max abs difference", f"<= {bar:g}" if bar else "exactly 0", difference <= bar)


# -- the host -----------------------------------------------------------------------------------------------


def host_results(host: Installation | None = None) -> list[Result]:
    """Our transformer and speech encoder against the host's, same weights."""
    host = host or find_host()
    if host is None:
        return [result("the host's WanModel", "not measured: no ComfyUI, run `make host`", "", f"<= {BAR:g}", False)]
    say("the host's WanModel in its own Python")
    found = compare_with_host(host)
    rows = [_equal(f"ComfyUI {found['version']} WanModel, {name}", c["difference"]) for name, c in found["compared"].items()]
    rows += [_equal(f"ComfyUI {found['version']} wav2vec2, {name}", c["difference"]) for name, c in found["wav2vec2"].items()]
    rms = next(iter(found["compared"].values()))["rms"]
    rows += [result("size of what is compared", rms, "rms"), result("state-dict names in common", found["keys"], "tensors")]
    say("open checkpoints as the host's MODEL")
    return [*rows, *vae_rows(found["version"], found["vae"]), *model_rows(compare_with_host(host, "host_models.py"))]


def model_rows(found: dict[str, Any]) -> list[Result]:
    """Shares of the latents' spread, after the host's own KSampler (parity/host_models.py)."""
    rows = []
    for name, value in found.items():
        same = name.endswith(("host's own Wan", "silent", "zero mask", "removed", "again", "not compiled"))
        if same:
            rows.append(result(f"MODEL: {name}", f"{value:.2g}", "of the latents' spread", f"<= {BAR:g}", value <= BAR))
        elif isinstance(value, float) and name != "freed":
            rows.append(result(f"MODEL: {name}", value, "of the latents' spread"))
    return [
        *rows, result("MODEL: stops when interrupted", found["interrupted"], "", "True", found["interrupted"]),
        result("MODEL: stays after ten were loaded, used and dropped", found["freed"], "MB", "< 30", found["freed"] < 30)]


def vae_rows(version: str, found: dict[str, Any]) -> list[Result]:
    """Our video autoencoders, streamed, against the host's whole decode and encode."""
    rows = [_equal(f"ComfyUI {version} Wan VAE, {name}", c["difference"]) for name, c in found["compared"].items()]
    rows += [_equal(f"ComfyUI {version} TAEHV, {name}", c["difference"]) for name, c in found["tiny"].items()]
    smallest, true = min(c["spread"] for part in ("compared", "tiny") for c in found[part].values()), found["true"]
    return [
        *rows, result("size of what is compared, the least varied", smallest, "standard deviation"),
        result("Wan VAE at its true width", true["ours"], "parameters", f"{true['parameters']}, the host's names", true["same"]),
    ]


def recorded_results() -> list[Result]:
    """Open checkpoints' sound, transformers and sampler against their own code's recorded numbers."""
    say("recorded answers of the official code")
    found = {**speech.differences(), **open_models.differences(), **two_speakers.differences()}
    return [_equal(f"recorded: {name}", difference, bar=1e-3 if "LUFS" in name else BAR) for name, difference in found.items()]


# -- chunked equals whole -----------------------------------------------------------------------------------


def built_scene(model: TalkingModel, cut_s: float | None = None) -> talk.BuiltScene:
    """The bundled portrait and speech; after `cut_s` the speech is another."""
    waveform = speech_of(4 * 3 * (CHUNKS + 1) / model.config.fps)
    if cut_s is not None:
        start = round(cut_s * waveform.sample_rate)
        waveform.samples[start:] = np.random.default_rng(0).normal(size=len(waveform.samples) - start) * 0.1
    subject = talk.prepare_portrait(open_image(demo_portrait()), model.config)
    return talk.build_scene(model, subject, talk.select_speaking(talk.encode_audio(waveform, model.config), "speaking"))


def stream(model: TalkingModel, scene: Scene, chunks: int) -> Iterator[Tensor]:
    """Latents, chunk by chunk."""
    sampler = ChunkedSampler(model, model.config.sampler)
    state = sampler.open(scene, SEED)
    for _ in range(chunks):
        chunk, state = sampler.step(state)
        yield chunk.latents


def whole_sequence(model: TalkingModel, scene: Scene, chunks: int) -> Tensor:
    """Every denoising step over all chunks at once, under the sparse causal mask, with the stream's noise."""
    n, cfg = model.config.sampler.chunk_latents, model.config
    latents = range(n * chunks)
    speaker, projector = scene.speakers[0], model.projector
    assert projector is not None
    audio = projector(speaker.windows(latents)[None]) * speaker.speaking(latents).float()[None, :, None, None]
    shape, x0 = (1, cfg.dit.out_dim, n, *cfg.latent_hw), torch.zeros(())
    for i, sigma in enumerate(cfg.sampler.sigmas):
        noise = torch.cat([chunk_noise(SEED, t, i, shape) for t in range(chunks)], 2)
        x = noise if i == 0 else (1 - sigma) * x0 + sigma * noise
        x0 = model.dit.forward_x0(
            x, torch.tensor([sigma]), reference=make_reference(scene.reference[None], list(latents)),
            text=torch.zeros(1, cfg.dit.text_len, cfg.dit.text_dim), audio=audio, face_mask=speaker.mask[None], chunk_latents=n)
    still = scene.reference[None, :, None]
    return still + cfg.sampler.articulation * (x0 - still)


def sampler_results(model: TalkingModel) -> list[Result]:
    """Streamed latents against the whole sequence's, and against those of a sound with another future."""
    say("the sampler, chunk by chunk and whole")
    built = built_scene(model)
    streamed = torch.cat(list(stream(model, built.scene, CHUNKS)), 2)
    whole = whole_sequence(model, built.scene, CHUNKS)
    kept, config = CHUNKS - 2, model.config
    timeline = talk.timeline_of(config)
    known = rows_needed(range(kept * timeline.chunk_latents), timeline, config.audio)
    # a row is a spectrum of n_fft samples around its own hop: its right half reaches past it
    cut_s = known / config.audio.feature_rate + config.audio.n_fft / 2 / config.audio.sample_rate
    other = torch.cat(list(stream(model, built_scene(model, cut_s).scene, CHUNKS)), 2)
    shown = kept * timeline.chunk_latents
    change = (other - streamed).abs().amax((0, 1, 3, 4))
    return [
        _equal(f"sampler: {CHUNKS} chunks streamed, masked whole", (streamed - whole).abs().max().item()),
        _equal("sampler: chunks before the look-ahead of another future", change[:shown].max().item(), 0.0),
        result("sampler: the chunks after it", change[shown:].max().item(), "max abs difference", "> 0", change[shown:].max().item() > 0),
    ]


def decoder_results(model: TalkingModel) -> list[Result]:
    """Frames decoded chunk by chunk against one decode of all latents."""
    say("the decoder, chunk by chunk and whole")
    built = built_scene(model)
    state, parts, chunks = model.vae.open_decoder(built.image), [], list(stream(model, built.scene, CHUNKS))
    for latents in chunks:
        frames, state = model.vae.decode(latents, state)
        parts.append(frames)
    whole, _ = model.vae.decode(torch.cat(chunks, 2), model.vae.open_decoder(built.image))
    return [_equal(f"decoder: {len(whole)} frames streamed, whole", (torch.cat(parts) - whole).abs().max().item())]


def audio_results(config: ModelConfig) -> list[Result]:
    """Windows of sound that arrives in odd pieces against those of the file."""
    say("audio windows, in pieces and whole")
    samples = speech_of(7.77).samples
    incoming, rows, at, size = StreamingLogMel(config.audio), [], 0, 1
    while at < len(samples):
        rows.append(incoming.push(samples[at : at + size]))
        at, size = at + size, size % 3001 + 37
    rows.append(incoming.finish())
    timeline, voice = talk.timeline_of(config), talk.encode_audio(speech_of(7.77), config)
    pieces = np.concatenate([
        windows(np.concatenate(rows), timeline.latents_of_chunk(t), timeline, config.audio)
        for t in range(timeline.num_chunks(voice.num_frames))
    ])
    whole = voice.windows(range(voice.num_latents)).numpy()
    return [_equal(f"audio: {len(whole)} windows streamed, whole", float(np.abs(pieces - whole).max()), 0.0)]


if __name__ == "__main__":
    for row in run():
        print(row)
