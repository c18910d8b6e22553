"""Open checkpoints in a real ComfyUI, with its own loaders: streamed by our nodes, sampled by its KSampler.

Files of reduced size under the published names lie in its model folders (benchmarks/_open_files.py); the graphs are those
that ship in workflows/api.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from benchmarks._open_files import write_companions, write_models
from tm_host_harness import Host, Job

ROOT = Path(__file__).resolve().parents[2]
Graph = dict[str, Any]
SIDE = 64
FOLDERS = {
    "base": "diffusion_models", "fp8": "diffusion_models", "infinitetalk": "model_patches", "fantasytalking": "model_patches",
    "lora": "loras", "vae": "vae", "taew2_1": "vae", "clip_l": "text_encoders", "wav2vec2": "audio_encoders"}
LOAD, LOADED_VAE, WRAP, IMAGE, AUDIO, FACE, EARS, ENCODER, SPEAKER, CLIP, PROMPT, NEGATIVE, SAMPLER, DECODER, SAVE = (
    str(i) for i in range(1, 16))


@pytest.fixture(scope="module")
def models(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The session's server with the files in its folders."""
    made = tmp_path_factory.mktemp("open")
    files = write_models(made, text_dim=768, audio_dim=768, fantasy_dim=768) | write_companions(made)
    for name, path in files.items():
        target = host.base / "models" / FOLDERS[name]
        target.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target / path.name)
    yield host
    host.forget_cache()


@pytest.fixture(scope="module")
def speech(host: Host, repo_root: Path) -> str:
    """Two seconds of somebody reading."""
    with av.open(str(next((repo_root / "tm_core" / "assets" / "speech").glob("*.wav")))) as container:
        stream = container.streams.audio[0]
        rate = stream.rate
        samples = np.concatenate([f.to_ndarray().reshape(-1) for f in container.decode(stream)])[: round(1.6 * rate)]
    from scipy.io import wavfile

    path = host.base / "short speech.wav"
    wavfile.write(path, rate, samples)
    return host.upload(path)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture(scope="module")
def graph(models: Host, speech: str, assets: Path) -> Graph:
    """InfiniteTalk, streamed and saved."""
    picture = models.upload(assets / "portraits" / "demo.jpg", "open portrait.jpg")
    return {
        LOAD: node("TM_LoadOpenModel", base="base.safetensors", adapter="infinitetalk.safetensors", family="auto", weight_dtype="default"),
        LOADED_VAE: node("VAELoader", vae_name="vae.safetensors"),
        WRAP: node("TM_TalkingModel", model=[LOAD, 0], vae=[LOADED_VAE, 0], width=SIDE, height=SIDE),
        IMAGE: node("LoadImage", image=picture),
        AUDIO: node("LoadAudio", audio=speech),
        FACE: node("TM_FaceMask", model=[WRAP, 0], image=[IMAGE, 0], face=-1),
        EARS: node("AudioEncoderLoader", audio_encoder_name="wav2vec2.safetensors"),
        ENCODER: node("TM_AudioEncoder", model=[WRAP, 0], audio=[AUDIO, 0], audio_encoder=[EARS, 0]),
        SPEAKER: node("TM_SpeakingSilence", audio_windows=[ENCODER, 0], mode="speaking", speech_db=-28.0, silence_db=-34.0, shortest_pause_s=0.3),
        CLIP: node("CLIPLoader", clip_name="clip_l.safetensors", type="stable_diffusion"),
        PROMPT: node("CLIPTextEncode", clip=[CLIP, 0], text="a woman talks"),
        NEGATIVE: node("CLIPTextEncode", clip=[CLIP, 0], text="blurred"),
        SAMPLER: node(
            "TM_CausalSampler", model=[WRAP, 0], portrait=[FACE, 0], speaker=[SPEAKER, 0], seed=1, steps=2, positive=[PROMPT, 0],
            negative=[NEGATIVE, 0]),
        DECODER: node("TM_DecodeStream", latents=[SAMPLER, 0], device="auto", queue_depth=2),
        SAVE: node("TM_SaveStream", frames=[DECODER, 0], filename_prefix="open/a"),
    }


def changed(graph: Graph, **inputs: Any) -> Graph:
    """A copy with some inputs set: `changed(g, n13_seed=3)` sets the seed of node 13."""
    copy: Graph = json.loads(json.dumps(graph))
    for key, value in inputs.items():
        number, name = key[1:].split("_", 1)
        copy[number]["inputs"][name] = value
    return copy


def frames_of(host: Host, job: Job) -> tuple[np.ndarray, float]:
    """Frames and rate of the one mp4 of a job."""
    assert job.status == "success", (job.error, host.log())
    file, = (f for f in job.files("images") if f["filename"].endswith(".mp4"))
    with av.open(BytesIO(host.view(file))) as container:
        rate = float(container.streams.video[0].average_rate or 0)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]), rate


def moved(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float32) - b).mean())


@pytest.fixture(scope="module")
def plain(models: Host, graph: Graph) -> np.ndarray:
    return frames_of(models, models.run(graph))[0]


def test_infinitetalk_streams_as_long_as_the_sound(models: Host, graph: Graph, plain: np.ndarray) -> None:
    frames, rate = frames_of(models, models.run(changed(graph, n15_filename_prefix="open/b")))
    assert rate == 25 and frames.shape == (40, SIDE, SIDE, 3)
    assert np.array_equal(frames, plain)
