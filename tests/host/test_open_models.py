"""Open checkpoints in a real ComfyUI, with its own loaders: streamed by our nodes, sampled by its KSampler.

Files of reduced size under the published names lie in its model folders (parity/open_files.py); the graphs are those
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
from safetensors.torch import load_file
from scipy.io import wavfile

from parity.comfyui import Host, Job
from parity.open_files import save, transformer, write_clip_vision_h, write_companions, write_models

ROOT = Path(__file__).resolve().parents[2]
Graph = dict[str, Any]
SIDE = 64
PLACES = {  # where the shipped graphs look for them
    "base": "diffusion_models/wan2.1_i2v_480p_14B_fp16", "flashtalk": "diffusion_models/SoulX-FlashTalk-14B",
    "liveact_whole": "diffusion_models/SoulX-LiveAct", "wan": "diffusion_models/wan",
    "infinitetalk": "model_patches/wan2.1_infiniteTalk_single_fp16", "fantasytalking": "model_patches/fantasytalking_fp16",
    "liveact": "model_patches/liveact", "lora": "loras/lora", "vae": "vae/wan_2.1_vae", "taew2_1": "vae/taew2_1",
    "clip_l": "text_encoders/umt5_xxl_fp8_e4m3fn_scaled", "wav2vec2": "audio_encoders/wav2vec2-chinese-base_fp16",
    "wav2vec2_960h": "audio_encoders/wav2vec2-base-960h"}
(LOAD, LOADED_VAE, WRAP, IMAGE, AUDIO, FACE, EARS, ENCODER, SPEAKER, CLIP, PROMPT, NEGATIVE, VISION, SEEN, SAMPLER, DECODER, COLLECT,
 SAVE) = (str(i) for i in range(1, 19))
BASE, INFINITE, FANTASY, LIVE = (
    f"{PLACES[name].split('/')[1]}.safetensors" for name in ("base", "infinitetalk", "fantasytalking", "liveact"))


@pytest.fixture(scope="module")
def models(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The session's server with the files in its folders."""
    made = tmp_path_factory.mktemp("open")
    files = write_models(made, text_dim=768, audio_dim=768, fantasy_dim=768) | write_companions(made)
    whole = {name: {k: v for part in ("base", adapter) for k, v in load_file(files[part]).items()}
             for name, adapter in (("flashtalk", "infinitetalk"), ("liveact_whole", "liveact"))}
    files |= save(made, {**whole, "wan": transformer("none"), "wav2vec2_960h": load_file(files["wav2vec2"])})
    for name, place in PLACES.items():
        target = host.base / "models" / f"{place}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(files[name], target)
    (host.base / "models" / "clip_vision").mkdir(exist_ok=True)
    write_clip_vision_h(host.base / "models" / "clip_vision" / "clip_vision_h.safetensors")
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


def shipped(name: str, host: Host, speech: str, assets: Path) -> Graph:
    """A workflow of the pack on small pictures and a short sound."""
    graph: Graph = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())
    graph[IMAGE]["inputs"]["image"] = host.upload(assets / "portraits" / "demo.jpg", "open portrait.jpg")
    graph[AUDIO]["inputs"]["audio"] = speech
    for entry in graph.values():
        entry["inputs"] |= {k: SIDE for k in ("width", "height") if k in entry["inputs"]}
    return graph


@pytest.fixture(scope="module")
def graph(models: Host, speech: str, assets: Path) -> Graph:
    """InfiniteTalk in two steps, without what it sees of the portrait; frames are kept exactly."""
    made = shipped("infinitetalk", models, speech, assets)
    del made[VISION], made[SEEN], made[SAMPLER]["inputs"]["clip_vision_output"]
    made[SAMPLER]["inputs"] |= {"steps": 2, "seed": 1}
    made[SPEAKER]["inputs"]["mode"] = "speaking"
    made[COLLECT] = node("TM_CollectFrames", frames=[DECODER, 0])
    made[SAVE] = node("SaveImage", images=[COLLECT, 0], filename_prefix="open/a")
    return made


def changed(graph: Graph, **inputs: Any) -> Graph:
    """A copy with some inputs set: `changed(g, n15_seed=3)` sets the seed of node 13."""
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


def forget_streams(models: Host, graph: Graph) -> None:
    """Drops what was sampled and the models, but not what was encoded, which takes longer: the host keeps what the last graph names."""
    streams = {"TM_CausalSampler", "TM_DecodeStream", "TM_PreviewStream", "TM_CollectFrames", "TM_Layer", "TM_Canvas", "SaveImage"}
    named = {key: entry for key, entry in graph.items() if entry["class_type"] not in streams}
    job = models.run(named | {"99": node("PreviewImage", images=[IMAGE, 0])})
    assert job.status == "success", job.error
    models.unload()


def sampled(job: Job, *nodes: str) -> bool:
    """Whether these samplers ran, and were not kept from an earlier job."""
    return not {*nodes} & {*job.of("execution_cached")[0].data["nodes"]}


@pytest.fixture(scope="module")
def plain(models: Host, graph: Graph) -> np.ndarray:
    return frames_of(models, models.run(graph))


def test_infinitetalk_streams_as_long_as_the_sound(models: Host, graph: Graph, plain: np.ndarray) -> None:
    assert plain.shape == (40, SIDE, SIDE, 3)
    again = models.run(changed(graph, n18_filename_prefix="open/b", n16_queue_depth=3))
    assert SAMPLER in again.of("execution_cached")[0].data["nodes"] and np.array_equal(frames_of(models, again), plain)


# ---- the graphs that ship, families, modes, decoders


@pytest.mark.parametrize(("name", "rate"), [
    ("infinitetalk", 25), ("flashtalk", 25), ("fantasytalking", 23), ("liveact", 24), ("wan_ksampler", 25)])
def test_the_shipped_graphs_run(models: Host, speech: str, assets: Path, name: str, rate: int) -> None:
    """As they are, CLIP vision included, but for the size of the picture, the length of the sound and the number of steps.

    All but the first show CLIP vision the whole picture, not each its own crop: that is kept from graph to graph, a ViT-H takes long.
    """
    made = shipped(name, models, speech, assets)
    if name != "infinitetalk":
        made[SEEN]["inputs"]["image"] = [IMAGE, 0]
    for entry in made.values():
        if entry["class_type"] == "KSampler" or (entry["inputs"].get("audio_guidance") == 0 and name in ("infinitetalk", "fantasytalking")):
            entry["inputs"]["steps"] = 2
    job = models.run(made)
    assert job.status == "success", (job.error, models.log())
    file, = (f for f in job.files() if f["filename"].endswith(".mp4"))
    with av.open(BytesIO(models.view(file))) as container:
        assert container.streams.video[0].average_rate == rate and container.streams.audio
        assert len(list(container.decode(video=0))) in (round(1.6 * rate), 41 if name == "wan_ksampler" else 0)


@pytest.mark.parametrize(("adapter", "family", "steps", "rate"), [
    (FANTASY, "auto", 2, 23), (INFINITE, "flashtalk", 2, 25), (INFINITE, "multitalk", 1, 25), (INFINITE, "infinitetalk_multi", 1, 25),
    (LIVE, "auto", 0, 24),
], ids=lambda v: str(v))
def test_every_family_streams_at_its_own_rate(models: Host, graph: Graph, adapter: str, family: str, steps: int, rate: float) -> None:
    queued = changed(graph, n1_adapter=adapter, n1_family=family, n15_steps=steps)
    frames = frames_of(models, models.run(queued))
    assert len(frames) == round(1.6 * rate) and frames.std() > 1


def test_two_people_are_heard_as_the_family_was_trained(models: Host, graph: Graph, assets: Path) -> None:
    """One picture, two voices: the same weights as InfiniteTalk's single and multi files."""
    made = changed(graph, n4_image=models.upload(assets / "portraits" / "group.jpg"), n6_face=0)
    del made[DECODER], made[SAMPLER]
    made["20"] = node("TM_FaceMask", face=1, model=[WRAP, 0], image=[IMAGE, 0])
    made["21"] = changed(made, n9_mode="silence")[SPEAKER]
    mixed = {"name": "", "gain_db": 0.0, "pan": 0.0}
    made["22"] = node("TM_Character", portrait=[FACE, 0], speaker=[SPEAKER, 0], **mixed)
    made["23"] = node("TM_Character", portrait=["20", 0], speaker=["21", 0], others=["22", 0], **mixed)
    made["24"] = node("TM_SceneStream", model=[WRAP, 0], image=[IMAGE, 0], cast=["23", 0], seed=1, steps=1, device="auto",
                      queue_depth=2, positive=[PROMPT, 0], negative=[NEGATIVE, 0])
    made[COLLECT] = node("TM_CollectFrames", frames=["24", 0])
    apart = frames_of(models, models.run(changed(made, n18_filename_prefix="open/apart")))
    together = frames_of(models, models.run(changed(made, n1_family="infinitetalk_multi", n18_filename_prefix="open/together")))
    assert len(apart) == len(together) == 40 and moved(apart, together) > 0.1


def test_infinitetalk_also_runs_as_sparse_causal_chunks(models: Host, graph: Graph, plain: np.ndarray) -> None:
    causal = changed(graph, n15_mode="sparse_causal")
    made = {cache: frames_of(models, models.run(changed(causal, n15_cache=cache))) for cache in ("per_step", "clean_rerun")}
    assert all(frames.shape == plain.shape and moved(frames, plain) > 1 for frames in made.values())
    assert moved(made["per_step"][20:], made["clean_rerun"][20:]) > 0.1


def test_the_tiny_autoencoder_decodes_the_same_latents(models: Host, graph: Graph, plain: np.ndarray) -> None:
    models.run(graph)
    fast = graph | {"20": node("VAELoader", vae_name="taew2_1.safetensors")}
    job = models.run(changed(fast, n16_vae=["20", 0]))
    assert SAMPLER in job.of("execution_cached")[0].data["nodes"]
    frames = frames_of(models, job)
    assert frames.shape == plain.shape and moved(frames, plain) > 1


def test_a_lora_a_shift_and_fp8_weights_change_the_stream_and_leave_nothing(models: Host, graph: Graph, plain: np.ndarray) -> None:
    lora = graph | {"20": node("LoraLoaderModelOnly", model=[LOAD, 0], lora_name="lora.safetensors", strength_model=1.0)}
    shift = graph | {"20": node("ModelSamplingSD3", model=[LOAD, 0], shift=2.0)}
    fp8 = changed(graph, n1_weight_dtype="fp8_e4m3fn")
    for patched in (fp8, changed(shift, n3_model=["20", 0]), changed(lora, n3_model=["20", 0])):
        assert moved(frames_of(models, models.run(patched)), plain) > 0.05
    job = models.run(graph)
    assert sampled(job, SAMPLER) and not sampled(job, LOAD), "the same MODEL"
    assert np.array_equal(frames_of(models, job), plain)


def test_two_models_in_one_graph_do_not_meet(models: Host, graph: Graph, plain: np.ndarray) -> None:
    other = {f"b{key}": {**value, "inputs": {k: [f"b{v[0]}", v[1]] if isinstance(v, list) else v for k, v in value["inputs"].items()}}
             for key, value in changed(graph, n1_adapter=FANTASY, n18_filename_prefix="open/other").items()}
    forget_streams(models, graph)
    job = models.run(changed(graph, n18_filename_prefix="open/both") | other)
    assert job.status == "success" and sampled(job, SAMPLER, f"b{SAMPLER}"), (job.error, models.log())
    assert np.array_equal(frames_of(models, job, "both"), plain) and moved(frames_of(models, job, "other")[:30], plain[:30]) > 1


def side_by_side(graph: Graph, model: list[Any], **nodes: Any) -> Graph:
    """The graph's stream on the left of a canvas, the same with another MODEL on the right."""
    made = changed(graph) | nodes
    made["30"] = changed(made, n3_model=model)[WRAP]
    made["31"] = changed(made, n15_model=["30", 0])[SAMPLER]
    made["32"] = changed(made, n16_latents=["31", 0])[DECODER]
    place = {"y": 0, "width": 0, "height": 0, "layer": 0, "soft_edge": False, "start_s": 0.0, "gain_db": 0.0, "pan": 0.0}
    made["33"] = node("TM_Layer", frames=[DECODER, 0], x=0, **place)
    made["34"] = node("TM_Layer", frames=["32", 0], others=["33", 0], x=SIDE, **place)
    made["35"] = node("TM_Canvas", layers=["34", 0], width=2 * SIDE, height=SIDE, background="black", fps=0.0)
    return changed(made, n17_frames=["35", 0], n18_filename_prefix="open/canvas")


def halves_alone(models: Host, both: Graph) -> list[np.ndarray]:
    """What each of the two draws alone; nothing of it is kept for the canvas."""
    made = [frames_of(models, models.run(changed(both, n17_frames=[decoder, 0]))) for decoder in (DECODER, "32")]
    forget_streams(models, both)
    return made


def test_a_canvas_of_two_models_loads_both(models: Host, graph: Graph) -> None:
    """Neither puts the other's weights out; both draw what they draw alone."""
    both = side_by_side(graph, ["20", 0], **{"20": changed(graph, n1_family="multitalk")[LOAD]})
    left, right = halves_alone(models, both)
    job = models.run(both)
    frames = frames_of(models, job)
    assert sampled(job, SAMPLER, "31")
    assert np.array_equal(frames[:, :, :SIDE], left) and np.array_equal(frames[:, :, SIDE:], right) and moved(left, right) > 0.05


def test_two_versions_of_one_model_are_not_sampled_at_the_same_time(models: Host, graph: Graph) -> None:
    """Both would be drawn by the weights of the second. With the preview that the error names, one is sampled before the other."""
    lora = node("LoraLoaderModelOnly", model=[LOAD, 0], lora_name="lora.safetensors", strength_model=1.0)
    both = side_by_side(graph, ["20", 0], **{"20": lora})
    left, right = halves_alone(models, both)
    job = models.run(both)
    assert job.status == "error" and "two versions of one MODEL" in job.error and "Preview Stream" in job.error, job.error
    both["36"] = node("TM_PreviewStream", frames=["32", 0], preview_fps=8, real_time=False)
    frames = frames_of(models, models.run(changed(both, n34_frames=["36", 0])), "canvas")
    assert np.array_equal(frames[:, :, :SIDE], left) and np.array_equal(frames[:, :, SIDE:], right) and moved(left, right) > 0.05


# ---- the host's own sampler


@pytest.fixture(scope="module")
def native(models: Host, speech: str, assets: Path) -> Graph:
    """The shipped graph of KSampler; its frames are kept exactly."""
    made = shipped("wan_ksampler", models, speech, assets)
    del made[VISION], made[SEEN], made["16"]["inputs"]["clip_vision_output"], made["19"]
    made["17"]["inputs"]["steps"] = 2
    made["20"] = node("SaveImage", images=["18", 0], filename_prefix="native/a")
    return made


def test_ksampler_hears(models: Host, native: Graph) -> None:
    """Frames cover the sound; a face that listens, and a model that was given no speech, look otherwise."""
    speaking = frames_of(models, models.run(changed(native, n9_mode="speaking")))
    silent = frames_of(models, models.run(changed(native, n9_mode="silence", n20_filename_prefix="native/b")))
    without_audio = frames_of(models, models.run(changed(native, n17_model=[LOAD, 0], n20_filename_prefix="native/c")))
    assert len(speaking) == 41 and moved(speaking, silent) > 0.1 and moved(speaking, without_audio) > 0.1


# ---- what goes wrong


@pytest.mark.parametrize(("change", "says"), [
    ({"n8_audio_encoder": None}, "audio_encoder: nothing: InfiniteTalk hears through chinese-wav2vec2-base"),
    ({"n15_positive": None}, "positive: nothing: InfiniteTalk was trained with a prompt"),
    ({"n15_negative": None}, "negative: nothing: InfiniteTalk was trained with a prompt"),
    ({"n1_adapter": "none", "n8_audio_encoder": None}, "audio: Wan2.1 I2V: does not hear"),
    ({"n1_family": "fantasytalking"}, "the file's keys are those of InfiniteTalk"),
    ({"n1_adapter": LIVE, "n15_steps": 5}, "distilled for 3"),
    ({"n15_cache": "per_step"}, "clips sampled at once keep no cache"),
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
    job = models.run(changed(graph, n15_steps=100, n15_seed=9, n18_filename_prefix="open/stopped"))
    timer.cancel()
    assert job.status == "error" and job.of("execution_interrupted"), job.error
    assert not list((models.output_dir / "open").glob("stopped*"))


# ---- a folder of portraits

BATCH, REPORT = "10", "11"  # of the shipped batch; its model has the same numbers as above


@pytest.fixture(scope="module")
def batch(models: Host, speech: str, assets: Path) -> Graph:
    """The shipped batch in one step on two portraits and a file that is none, with 0.4 s of the sound."""
    rate, samples = wavfile.read(models.input_dir / speech)
    wavfile.write(models.input_dir / "shorter speech.wav", rate, samples[: round(0.4 * rate)])
    folder = models.input_dir / "open faces"
    folder.mkdir()
    for name in ("demo", "second"):
        shutil.copy(assets / "portraits" / f"{name}.jpg", folder)
    (folder / "torn.jpg").write_bytes((folder / "demo.jpg").read_bytes()[:200])
    made: Graph = json.loads((ROOT / "workflows" / "api" / "batch_open.json").read_text())
    made[WRAP]["inputs"] |= {"width": SIDE, "height": SIDE}
    made["4"]["inputs"]["audio"] = "shorter speech.wav"
    made[BATCH]["inputs"] |= {"portraits": folder.name, "steps": 1, "mode": "speaking"}
    return made


def without(graph: Graph, *names: str) -> Graph:
    copy = changed(graph)
    for name in names:
        del copy[BATCH]["inputs"][name]
    return copy


def told(job: Job) -> dict[str, Any]:
    assert job.status == "success", job.error
    found: dict[str, Any] = json.loads(job.history["outputs"][REPORT]["text"][0])
    return found


def test_a_folder_of_portraits_is_made_once_with_an_open_model(models: Host, batch: Graph) -> None:
    """As it ships, CLIP vision included; a broken file is listed and the rest is made, once."""
    job = models.run(batch)
    report = told(job)
    assert (report["done_now"], report["failed"], report["video_s"]) == (2, 1, 0.8) and len(job.previews) >= 2
    assert report["failures"][0]["out"] == "torn.mp4" and "picture" in report["failures"][0]["reason"]
    for name in ("demo", "second"):
        with av.open(str(models.output_dir / "batch" / "infinitetalk" / f"{name}.mp4")) as container:
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
            assert container.streams.audio and frames.shape == (10, SIDE, SIDE, 3) and frames.std() > 1
    assert told(models.run(batch))["done_now"] == 0


def test_what_all_items_share_is_part_of_what_they_are_made_of(models: Host, batch: Graph) -> None:
    """A LoRA (on the weights by then or not), a prompt, guidance: made again where it changes, and only there; not after a new start."""
    folder = models.input_dir / "one open face"
    folder.mkdir()
    shutil.copy(models.input_dir / "open faces" / "demo.jpg", folder)
    queued = changed(
        without(batch, "clip_vision", "negative"), n1_family="flashtalk", n10_output_folder="batch/flashtalk", n10_portraits=folder.name)
    lora = changed(queued | {"20": node("LoraLoaderModelOnly", model=["1", 0], lora_name="lora.safetensors", strength_model=1.0)},
                   n3_model=["20", 0])
    other = changed(lora, n7_text="A person sings.")
    louder = changed(other, n10_audio_guidance=2.0)
    for changed_graph, made in ((queued, 1), (lora, 1), (lora, 0), (other, 1), (louder, 1)):
        assert told(models.run(changed_graph))["done_now"] == made
    models.forget_cache()
    assert told(models.run(louder))["done_now"] == 0


def test_a_stop_ends_the_batch_and_fails_nothing(models: Host, batch: Graph) -> None:
    heard: list[str] = []
    with models.listen() as listener:
        models.queue(changed(batch, n10_steps=100, n10_output_folder="batch/stopped"))
        for event in listener.events(120):
            heard.append(event.kind)
            if event.kind == "binary3" and heard.count("binary3") == 2:  # a text: the first item begins
                threading.Timer(1.5, models.interrupt).start()
            if event.kind in ("execution_interrupted", "execution_error", "execution_success"):
                break
    assert heard[-1] == "execution_interrupted", models.log()
    folder = models.output_dir / "batch" / "stopped"
    assert {path.name for path in folder.iterdir()} == {"ledger.jsonl", "report.json"} and not (folder / "ledger.jsonl").read_text()
    assert json.loads((folder / "report.json").read_text())["left"] == 3


@pytest.mark.parametrize(("missing", "change", "says"), [
    ("audio_encoder", {}, "audio_encoder: nothing: InfiniteTalk hears through chinese-wav2vec2-base; load it with AudioEncoderLoader"),
    ("positive", {}, "positive: nothing: InfiniteTalk was trained with a prompt; connect CLIP Text Encode"),
    ("negative", {}, "negative: nothing: InfiniteTalk was trained with a prompt"),
    (None, {"n1_adapter": "none"}, "audio: Wan2.1 I2V: does not hear"),
    (None, {"n1_adapter": LIVE, "n10_steps": 5}, "distilled for 3"),
    (None, {"n10_model": ["20", 0]}, "positive: vectors of 768: tiny reads vectors of 32; leave it out"),
], ids=["encoder", "positive", "negative", "deaf", "steps", "bundled"])
def test_what_a_batch_lacks_is_said_before_anything_is_made(
    models: Host, batch: Graph, missing: str | None, change: dict[str, Any], says: str,
) -> None:
    queued = changed(batch | {"20": node("TM_LoadModel", weights="bundled", device="auto", dtype="auto")}, **change)
    queued = changed(without(queued, missing) if missing else queued, n10_output_folder="batch/lacking")
    job = models.run(queued)
    assert job.status == "error" and says in job.error, job.error
    assert not (models.output_dir / "batch" / "lacking").exists()
