"""Open checkpoints in a real ComfyUI, with its own loaders: streamed by our nodes, sampled by its KSampler.

Files of reduced size under the published names lie in its model folders (benchmarks/_open_files.py); the graphs are those
that ship in workflows/api.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from benchmarks._open_files import save, transformer, write_companions, write_models
from tm_host_harness import Host, Job

ROOT = Path(__file__).resolve().parents[2]
Graph = dict[str, Any]
SIDE = 64
FOLDERS = {
    "base": "diffusion_models", "fp8": "diffusion_models", "infinitetalk": "model_patches", "fantasytalking": "model_patches",
    "liveact": "model_patches", "wan": "diffusion_models",
    "lora": "loras", "vae": "vae", "taew2_1": "vae", "clip_l": "text_encoders", "wav2vec2": "audio_encoders"}
LOAD, LOADED_VAE, WRAP, IMAGE, AUDIO, FACE, EARS, ENCODER, SPEAKER, CLIP, PROMPT, NEGATIVE, SAMPLER, DECODER, COLLECT, SAVE = (
    str(i) for i in range(1, 17))


@pytest.fixture(scope="module")
def models(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The session's server with the files in its folders."""
    made = tmp_path_factory.mktemp("open")
    files = write_models(made, text_dim=768, audio_dim=768, fantasy_dim=768) | write_companions(made)
    files["wan"] = save(made, {"wan": transformer("none")})["wan"]
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
        SPEAKER: node(
            "TM_SpeakingSilence", audio_windows=[ENCODER, 0], mode="speaking", speech_db=-28.0, silence_db=-34.0, shortest_pause_s=0.3),
        CLIP: node("CLIPLoader", clip_name="clip_l.safetensors", type="stable_diffusion"),
        PROMPT: node("CLIPTextEncode", clip=[CLIP, 0], text="a woman talks"),
        NEGATIVE: node("CLIPTextEncode", clip=[CLIP, 0], text="blurred"),
        SAMPLER: node(
            "TM_CausalSampler", model=[WRAP, 0], portrait=[FACE, 0], speaker=[SPEAKER, 0], seed=1, steps=2, positive=[PROMPT, 0],
            negative=[NEGATIVE, 0]),
        DECODER: node("TM_DecodeStream", latents=[SAMPLER, 0], device="auto", queue_depth=2),
        COLLECT: node("TM_CollectFrames", frames=[DECODER, 0]),
        SAVE: node("SaveImage", images=[COLLECT, 0], filename_prefix="open/a"),
    }


def changed(graph: Graph, **inputs: Any) -> Graph:
    """A copy with some inputs set: `changed(g, n13_seed=3)` sets the seed of node 13."""
    copy: Graph = json.loads(json.dumps(graph))
    for key, value in inputs.items():
        number, name = key[1:].split("_", 1)
        copy[number]["inputs"][name] = value
    return copy


def frames_of(host: Host, job: Job, prefix: str = "") -> np.ndarray:
    """The pictures a job saved, (T, H, W, 3)."""
    assert job.status == "success", (job.error, host.log())
    files = [f for f in job.files("images") if f["filename"].startswith(prefix)]
    return np.stack([np.asarray(Image.open(BytesIO(host.view(f)))) for f in files])


def moved(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float32) - b).mean())


@pytest.fixture(scope="module")
def plain(models: Host, graph: Graph) -> np.ndarray:
    return frames_of(models, models.run(graph))


def test_infinitetalk_streams_as_long_as_the_sound(models: Host, graph: Graph, plain: np.ndarray) -> None:
    assert plain.shape == (40, SIDE, SIDE, 3)
    again = models.run(changed(graph, n16_filename_prefix="open/b", n14_queue_depth=3))
    assert SAMPLER in again.of("execution_cached")[0].data["nodes"] and np.array_equal(frames_of(models, again), plain)


# ---- families, modes, decoders


@pytest.mark.parametrize(("adapter", "family", "steps", "rate"), [
    ("fantasytalking", "auto", 2, 23), ("infinitetalk", "flashtalk", 2, 25), ("infinitetalk", "multitalk", 1, 25),
    ("liveact", "auto", 0, 24),
], ids=lambda v: str(v))
def test_every_family_streams_at_its_own_rate(models: Host, graph: Graph, adapter: str, family: str, steps: int, rate: float) -> None:
    queued = changed(graph, n1_adapter=f"{adapter}.safetensors", n1_family=family, n13_steps=steps)
    frames = frames_of(models, models.run(queued))
    assert len(frames) == round(1.6 * rate) and frames.std() > 1


def test_infinitetalk_also_runs_as_sparse_causal_chunks(models: Host, graph: Graph, plain: np.ndarray) -> None:
    causal = changed(graph, n13_mode="sparse_causal")
    made = {cache: frames_of(models, models.run(changed(causal, n13_cache=cache))) for cache in ("per_step", "clean_rerun")}
    assert all(frames.shape == plain.shape and moved(frames, plain) > 1 for frames in made.values())
    assert moved(made["per_step"][20:], made["clean_rerun"][20:]) > 0.1


def test_the_tiny_autoencoder_decodes_the_same_latents(models: Host, graph: Graph, plain: np.ndarray) -> None:
    models.run(graph)
    fast = graph | {"20": node("VAELoader", vae_name="taew2_1.safetensors")}
    job = models.run(changed(fast, n14_vae=["20", 0]))
    assert SAMPLER in job.of("execution_cached")[0].data["nodes"]
    frames = frames_of(models, job)
    assert frames.shape == plain.shape and moved(frames, plain) > 1


def test_a_lora_a_shift_and_fp8_weights_change_the_stream_and_leave_nothing(models: Host, graph: Graph, plain: np.ndarray) -> None:
    lora = graph | {"20": node("LoraLoaderModelOnly", model=[LOAD, 0], lora_name="lora.safetensors", strength_model=1.0)}
    shift = graph | {"20": node("ModelSamplingSD3", model=[LOAD, 0], shift=2.0)}
    fp8 = changed(graph, n1_weight_dtype="fp8_e4m3fn")
    for patched in (changed(lora, n3_model=["20", 0]), changed(shift, n3_model=["20", 0]), fp8):
        assert moved(frames_of(models, models.run(patched)), plain) > 0.05
    models.forget_cache()
    assert np.array_equal(frames_of(models, models.run(graph)), plain)


def test_two_models_in_one_graph_do_not_meet(models: Host, graph: Graph, plain: np.ndarray) -> None:
    other = {f"b{key}": {**value, "inputs": {k: [f"b{v[0]}", v[1]] if isinstance(v, list) else v for k, v in value["inputs"].items()}}
             for key, value in changed(graph, n1_adapter="fantasytalking.safetensors", n16_filename_prefix="open/other").items()}
    models.forget_cache()
    job = models.run(changed(graph, n16_filename_prefix="open/both") | other)
    assert job.status == "success", (job.error, models.log())
    assert np.array_equal(frames_of(models, job, "both"), plain) and moved(frames_of(models, job, "other")[:30], plain[:30]) > 1


# ---- the host's own sampler


def native(graph: Graph) -> Graph:
    """The whole sound at once by KSampler, decoded and shown by the host's nodes."""
    kept = {key: value for key, value in graph.items() if key not in (SAMPLER, DECODER, COLLECT, SAVE)}
    return kept | {
        "20": node("TM_ApplySpeech", model=[LOAD, 0], speaker=[SPEAKER, 0], portrait=[FACE, 0]),
        "21": node(
            "WanImageToVideo", positive=[PROMPT, 0], negative=[NEGATIVE, 0], vae=[LOADED_VAE, 0], width=SIDE, height=SIDE, length=["20", 1],
            batch_size=1, start_image=[IMAGE, 0]),
        "22": node(
            "KSampler", model=["20", 0], seed=1, steps=2, cfg=2.0, sampler_name="euler", scheduler="simple", positive=["21", 0],
            negative=["21", 1], latent_image=["21", 2], denoise=1.0),
        "23": node("VAEDecode", samples=["22", 0], vae=[LOADED_VAE, 0]),
        "24": node("SaveImage", images=["23", 0], filename_prefix="native/a"),
    }


def test_ksampler_hears(models: Host, graph: Graph) -> None:
    """Frames cover the sound; a face that listens, and a model that was given no speech, look otherwise."""
    speaking = frames_of(models, models.run(native(graph)))
    silent = frames_of(models, models.run(changed(native(graph), n9_mode="silence", n24_filename_prefix="native/b")))
    deaf = frames_of(models, models.run(changed(native(graph), n22_model=[LOAD, 0], n24_filename_prefix="native/c")))
    assert len(speaking) == 41 and moved(speaking, silent) > 0.1 and moved(speaking, deaf) > 0.1


# ---- what goes wrong


@pytest.mark.parametrize(("change", "says"), [
    ({"n8_audio_encoder": None}, "audio_encoder: nothing: InfiniteTalk hears through chinese-wav2vec2-base"),
    ({"n13_positive": None}, "positive: nothing: InfiniteTalk was trained with a prompt"),
    ({"n13_negative": None}, "negative: nothing: InfiniteTalk was trained with a prompt"),
    ({"n1_adapter": "none", "n8_audio_encoder": None}, "audio: Wan2.1 I2V: does not hear"),
    ({"n1_family": "fantasytalking"}, "the file's keys are those of InfiniteTalk"),
    ({"n1_base": "base.safetensors", "n1_adapter": "liveact.safetensors", "n13_steps": 5}, "distilled for 3"),
    ({"n13_cache": "per_step"}, "clips sampled at once keep no cache"),
    ({"n3_width": 72}, "width"),
], ids=lambda v: next(iter(v)) if isinstance(v, dict) else "")
def test_what_cannot_be_says_so(models: Host, graph: Graph, change: dict[str, Any], says: str) -> None:
    queued = changed(graph, **change)
    for key in queued:
        queued[key]["inputs"] = {k: v for k, v in queued[key]["inputs"].items() if v is not None}
    job = models.run(queued)
    assert job.status == "error" and says in job.error, job.error


def test_a_model_of_another_loader_is_refused(models: Host, graph: Graph) -> None:
    other = graph | {"20": node("UNETLoader", unet_name="wan.safetensors", weight_dtype="default")}
    job = models.run(changed(other, n3_model=["20", 0]))
    assert job.status == "error" and "load it with Load Open Talking Model" in job.error


def test_the_hosts_encoded_sound_is_refused_unless_approximate_is_allowed(models: Host, graph: Graph, plain: np.ndarray) -> None:
    queued = changed(graph, n8_audio_encoder_output=["20", 0])
    queued["20"] = node("AudioEncoderEncode", audio_encoder=[EARS, 0], audio=[AUDIO, 0])
    del queued[ENCODER]["inputs"]["audio_encoder"]
    job = models.run(queued)
    assert job.status == "error" and "was trained on 25 a second, made before the transformer" in job.error
    frames = frames_of(models, models.run(changed(queued, n8_approximate=True)))
    assert frames.shape == plain.shape


def test_a_stop_ends_a_stream_of_clips(models: Host, graph: Graph) -> None:
    timer = threading.Timer(4.0, models.interrupt)
    timer.start()
    job = models.run(changed(graph, n13_steps=100, n13_seed=9, n16_filename_prefix="open/stopped"))
    timer.cancel()
    assert job.status == "error" and job.of("execution_interrupted"), job.error
    assert not list((models.output_dir / "open").glob("stopped*"))
