"""The main job in a real ComfyUI: previews while it works, the mp4, the cache, cancel, restart, every bad input.

The graph is the one that ships (workflows/api/portrait.json) with an untrained model of the same size, so
that these tests say nothing of the picture and everything of the path.
"""

from __future__ import annotations

import json
import re
import time
import wave
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from parity.comfyui import Host, HostError, Job
from tm_core import talk
from tm_core.config import ModelConfig, tiny
from tm_core.model.audio_projector import AudioProjector
from tm_core.model.dit import TalkingDiT
from tm_core.model.talking import TalkingModel
from tm_core.vae.tiny import TinyVAE
from tm_core.weights.loading import load_model, save_model

ROOT = Path(__file__).resolve().parents[2]
Graph = dict[str, Any]
MODEL, IMAGE, AUDIO, FACE, ENCODER, SPEAKER, SAMPLER, DECODER, PREVIEW, SAVE = (str(i) for i in range(1, 11))
FRAME_S = 0.04
ASKED = "memory asked for: "
SECONDS, FRAMES = 1.0, 25


@pytest.fixture(scope="module")
def portrait(assets: Path) -> Path:
    return assets / "portraits" / "demo.jpg"


def write_weights(host: Host, name: str, config: ModelConfig) -> str:
    """An untrained model whose output depends on everything: layers that start at zero get some noise."""
    torch.manual_seed(7)
    assert config.projector is not None and config.vae is not None
    dit = TalkingDiT(config.dit)
    for weight in dit.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight.data, std=0.05)
    model = TalkingModel(config=config, dit=dit, projector=AudioProjector(config.projector), vae=TinyVAE(config.vae))
    save_model(model, host.models_dir / name)
    return name


@pytest.fixture(scope="module")
def graph(host: Host, portrait: Path, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The shipped graph on an untrained model, the demo portrait and a second of sound."""
    made: Graph = json.loads((ROOT / "workflows" / "api" / "portrait.json").read_text())
    made[MODEL]["inputs"]["weights"] = write_weights(host, "untrained.safetensors", tiny())
    made[IMAGE]["inputs"]["image"] = host.upload(portrait, "face portrait.jpg")
    made[AUDIO]["inputs"]["audio"] = sound(host, tmp_path_factory.mktemp("sounds"), "one_second.wav", seconds=SECONDS)
    made[PREVIEW]["inputs"]["real_time"] = False
    return made


def changed(graph: Graph, **inputs: Any) -> Graph:
    """A copy with some inputs set: `changed(g, n7_seed=3)` sets the seed of node 7."""
    copy: Graph = json.loads(json.dumps(graph))
    for key, value in inputs.items():
        node, name = key[1:].split("_", 1)
        copy[node]["inputs"][name] = value
    return copy


def without(graph: Graph, *nodes: str) -> Graph:
    return {key: node for key, node in graph.items() if key not in nodes}


def saving(graph: Graph, prefix: str, **inputs: Any) -> Graph:
    """The graph without its preview, saving under this prefix."""
    return without(changed(graph, n10_frames=[DECODER, 0], n10_filename_prefix=prefix, **inputs), PREVIEW)


def sound(host: Host, folder: Path, name: str, *, seconds: float, rate: int = 16000, channels: int = 1, level: float = 0.3) -> str:
    """Upload a wobbling tone as a wave file."""
    t = np.arange(round(seconds * rate)) / rate
    tone = level * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * t)) * np.sin(2 * np.pi * 170 * t)
    with wave.open(str(folder / name), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.repeat(tone[:, None], channels, 1) * 32767).astype("<i2").tobytes())
    return host.upload(folder / name)


def outputs(host: Host) -> set[str]:
    """Every file under the output folder, unfinished ones too."""
    return {str(path.relative_to(host.output_dir)) for path in host.output_dir.rglob("*") if path.is_file()}


def video_of(host: Host, job: Job) -> bytes:
    """The one mp4 a job names in the history."""
    assert job.status == "success", (job.error, host.log())
    files = [file for file in job.files("images") if file["filename"].endswith(".mp4")]
    assert len(files) == 1
    return host.view(files[0])


def frames_of(mp4: bytes) -> np.ndarray:
    with av.open(BytesIO(mp4)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def streams_of(mp4: bytes) -> tuple[Any, Any, float]:
    """Both tracks, and how long the container says the sound is (AAC pads its last block, the container cuts it)."""
    with av.open(BytesIO(mp4)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert audio.duration is not None and audio.time_base is not None
        return video, audio, float(audio.duration * audio.time_base)


# ---- the main job


def test_the_shipped_graph_streams_previews_and_saves(host: Host, graph: Graph) -> None:
    job = host.run(graph)
    mp4 = video_of(host, job)
    progress = [e for e in job.of("progress") if e.data["node"] == PREVIEW]
    assert progress[-1].data["value"] == progress[-1].data["max"] == FRAMES
    first = job.previews[0]
    assert first.t_s < next(e.t_s for e in progress if e.data["value"] == FRAMES), "the first picture came after the last frame"
    assert len(job.previews) >= 10
    with Image.open(BytesIO(first.image)) as picture:
        assert picture.format == "JPEG" and picture.size == (400, 400)
    video, audio, seconds = streams_of(mp4)
    assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
    assert frames_of(mp4).shape == (FRAMES, 400, 400, 3)
    assert abs(seconds - SECONDS) <= FRAME_S


def test_the_file_carries_its_graph(host: Host, graph: Graph) -> None:
    queued = saving(graph, "graph/a")
    with av.open(BytesIO(video_of(host, host.run(queued)))) as container:
        kept = json.loads(container.metadata["prompt"])
    assert {key: node["inputs"] for key, node in kept.items()} == {key: node["inputs"] for key, node in queued.items()}


def test_queued_again_nothing_is_exhausted_and_nothing_sampled_twice(host: Host, graph: Graph) -> None:
    first = video_of(host, host.run(changed(graph, n10_filename_prefix="again/a")))
    same = host.run(changed(graph, n10_filename_prefix="again/a"))
    assert {SAMPLER, DECODER, SAVE} <= set(same.of("execution_cached")[0].data["nodes"])
    other = host.run(changed(graph, n10_filename_prefix="again/b"))
    cached = set(other.of("execution_cached")[0].data["nodes"])
    assert SAMPLER in cached and SAVE not in cached
    assert np.array_equal(frames_of(first), frames_of(video_of(host, other)))


def test_the_same_seed_gives_the_same_video_after_a_restart(host: Host, graph: Graph) -> None:
    before = frames_of(video_of(host, host.run(saving(graph, "restart/a"))))
    host.restart()
    after = frames_of(video_of(host, host.run(saving(graph, "restart/b"))))
    assert np.array_equal(before, after)
    assert not np.array_equal(before, frames_of(video_of(host, host.run(saving(graph, "restart/c", n7_seed=1)))))


def test_the_graph_makes_the_video_of_the_command_line(host: Host, graph: Graph, portrait: Path) -> None:
    model = load_model(host.models_dir / "untrained.safetensors", device=torch.device("cpu"), dtype=torch.float32)
    stream = talk.animate(portrait, host.input_dir / "one_second.wav", model=model)
    mine = np.concatenate([chunk.frames for chunk in stream]).astype(np.float32)
    theirs = frames_of(video_of(host, host.run(saving(graph, "same/a"))))
    assert np.abs(mine - theirs).mean() < 3.0  # what H.264 loses; another face or another chunk costs far more
    assert np.abs(mine[0] - mine[-1]).mean() < np.abs(mine[0] - 128).mean()


@pytest.mark.parametrize(
    ("name", "rate", "channels", "seconds"),
    [("stereo.wav", 48000, 2, 1.0), ("telephone.wav", 8000, 1, 0.3), ("music.wav", 44100, 2, 0.77)], ids=lambda v: str(v))
def test_sound_is_kept_as_it_came(host: Host, graph: Graph, tmp_path: Path, name: str, rate: int, channels: int, seconds: float) -> None:
    uploaded = sound(host, tmp_path, name, seconds=seconds, rate=rate, channels=channels)
    mp4 = video_of(host, host.run(saving(graph, "sound/a", n3_audio=uploaded)))
    _, audio, length = streams_of(mp4)
    assert (audio.codec_context.sample_rate, audio.codec_context.channels) == (rate, channels)
    assert abs(length - seconds) <= FRAME_S and abs(len(frames_of(mp4)) * FRAME_S - seconds) <= FRAME_S


def test_sounds_leave_the_temporary_folder_with_their_stream(host: Host, graph: Graph, tmp_path: Path) -> None:
    def kept() -> int:
        return len(list((host.base / "temp").glob("tm_sound_*")))

    for i in range(3):
        uploaded = sound(host, tmp_path, f"short_{i}.wav", seconds=0.2, level=0.2 + 0.1 * i)
        video_of(host, host.run(saving(graph, "temp/a", n3_audio=uploaded)))
    assert 1 <= kept() <= 2  # what the cache of the last prompts holds
    host.forget_cache()
    deadline = time.monotonic() + 20
    while kept() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert kept() == 0


def test_a_sound_that_went_away_is_an_error_without_a_file(host: Host, graph: Graph) -> None:
    for _ in range(2):  # the host may still forget, as the test before asked it to, when the first job has ended
        video_of(host, host.run(saving(graph, "gone/a", n7_seed=5)))
    for path in (host.base / "temp").glob("tm_sound_*"):
        path.unlink()  # what "clear the temp folder" scripts do
    before = outputs(host)
    job = host.run(saving(graph, "gone/b", n7_seed=5))
    assert "audio" in job.error and "went away" in job.error and outputs(host) == before
    host.forget_cache()


def test_names_in_any_language(host: Host, graph: Graph, tmp_path: Path) -> None:
    uploaded = sound(host, tmp_path, "\u58f0 \u00e9t\u00e9.wav", seconds=0.2)
    job = host.run(saving(graph, "vid\u00e9o \u52d5\u753b/mon \u00e9t\u00e9", n3_audio=uploaded))
    assert len(frames_of(video_of(host, job))) == 5
    assert job.files("images")[0]["subfolder"] == "vid\u00e9o \u52d5\u753b"


def test_half_precision_draws_the_same_face(host: Host, graph: Graph, tmp_path: Path) -> None:
    """One chunk: a CPU takes seconds for each in half precision."""
    short = saving(graph, "dtype/a", n3_audio=sound(host, tmp_path, "one_chunk.wav", seconds=0.3))
    whole = frames_of(video_of(host, host.run(short))).astype(np.float32)
    half = frames_of(video_of(host, host.run(changed(short, n1_dtype="bf16"))))
    assert len(whole) == len(half) == 8
    assert np.abs(whole - half).mean() < 8.0


def test_the_bundled_model_draws_the_portrait(host: Host, graph: Graph) -> None:
    bundled = saving(graph, "bundled/a", n1_weights="bundled", **{f"n{DECODER}_framing": "face", f"n{DECODER}_size": 128})
    bundled["11"] = {"class_type": "SaveImage", "inputs": {"images": [FACE, 2], "filename_prefix": "bundled/crop"}}
    job = host.run(bundled)
    files = {Path(file["filename"]).suffix: host.view(file) for file in job.files("images")}
    with Image.open(BytesIO(files[".png"])) as picture:
        crop = np.asarray(picture.convert("RGB"), np.float32)
    frames = frames_of(files[".mp4"]).astype(np.float32)
    away = np.abs(frames - crop).mean(axis=(1, 2, 3))
    assert away.max() < 20.0 < np.abs(crop - crop.mean()).mean(), away  # the same face, all the way


def test_two_sinks_side_by_side_show_the_same(host: Host, graph: Graph) -> None:
    both = without(changed(graph, n10_frames=[DECODER, 0], n10_filename_prefix="two/a"), PREVIEW)
    both["11"] = {"class_type": "TM_SaveStream", "inputs": {"frames": [DECODER, 0], "filename_prefix": "two/b"}}
    job = host.run(both)
    assert job.status == "success", job.error
    one, two = (frames_of(host.view(file)) for file in job.files("images"))
    assert np.array_equal(one, two)


def test_silence_gives_a_listening_face(host: Host, graph: Graph, tmp_path: Path) -> None:
    quiet = sound(host, tmp_path, "quiet.wav", seconds=1.0, level=0.0)
    listening = frames_of(video_of(host, host.run(saving(graph, "quiet/a", n3_audio=quiet))))
    chosen = frames_of(video_of(host, host.run(saving(graph, "quiet/b", n3_audio=quiet, n6_mode="silence"))))
    assert len(listening) == 25 and np.array_equal(listening, chosen)


def test_a_preview_alone_keeps_the_pace_of_the_video(host: Host, graph: Graph) -> None:
    preview = without(changed(graph, n9_real_time=True), SAVE)
    host.run(changed(preview, n9_preview_fps=5))  # sampled; the next run only decodes
    started = time.monotonic()
    job = host.run(preview)
    assert job.status == "success" and time.monotonic() - started >= 0.8 * SECONDS
    assert len(job.previews) == 9  # every third frame
    assert [file["type"] for file in job.files("images")] == ["temp"]


def test_a_mask_of_the_users_wins(host: Host, graph: Graph) -> None:
    with_mask = changed(graph, n4_mask=["20", 0])
    with_mask["20"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 400, "height": 400}}
    with_mask["21"] = {"class_type": "MaskToImage", "inputs": {"mask": [FACE, 1]}}
    with_mask["22"] = {"class_type": "SaveImage", "inputs": {"images": ["21", 0], "filename_prefix": "mask/a"}}
    job = host.run(without(with_mask, *(str(i) for i in range(5, 11)), AUDIO))
    assert job.status == "success", job.error
    with Image.open(BytesIO(host.view(job.files("images")[0]))) as picture:
        assert picture.size == (128, 128) and np.asarray(picture).min() == 255


def test_collected_frames_feed_the_hosts_own_nodes(host: Host, graph: Graph) -> None:
    collect = without(graph, PREVIEW, SAVE) | {
        "11": {"class_type": "TM_CollectFrames", "inputs": {"frames": [DECODER, 0]}},
        "12": {"class_type": "CreateVideo", "inputs": {"images": ["11", 0], "audio": ["11", 1], "fps": ["11", 2]}},
        "13": {"class_type": "SaveVideo", "inputs": {"video": ["12", 0], "filename_prefix": "core/v", "format": "mp4", "codec": "h264"}},
        "14": {"class_type": "SaveAudio", "inputs": {"audio": ["11", 1], "filename_prefix": "core/a"}},
    }  # fmt: skip
    job = host.run(collect)
    frames = frames_of(video_of(host, job))
    saved = frames_of(video_of(host, host.run(saving(graph, "core/own"))))
    assert frames.shape == saved.shape and np.abs(frames.astype(float) - saved).mean() < 4.0
    with av.open(BytesIO(host.view(job.files("audio")[0]))) as container:
        kept = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    with wave.open(str(host.input_dir / "one_second.wav")) as file:
        given = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    kept16 = kept.astype(np.int64) if kept.dtype == np.int16 else np.round(kept.astype(np.float64) / 2.0**31 * 32768).astype(np.int64)
    assert np.abs(kept16 - given).max() <= 1


def test_a_saved_stream_is_a_video_for_other_nodes(host: Host, graph: Graph) -> None:
    chained = saving(graph, "chain/a") | {
        "11": {"class_type": "GetVideoComponents", "inputs": {"video": [SAVE, 0]}},
        "12": {"class_type": "ImageFromBatch", "inputs": {"image": ["11", 0], "batch_index": FRAMES - 1, "length": 1}},
        "13": {"class_type": "SaveImage", "inputs": {"images": ["12", 0], "filename_prefix": "chain/last"}},
    }  # fmt: skip
    job = host.run(chained)
    assert job.status == "success", job.error
    assert sum(file["filename"].startswith("last") for file in job.files("images")) == 1


# ---- cancel


@pytest.fixture(scope="module")
def long_graph(host: Host, graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Three minutes of video: no machine is through with it before it is interrupted."""
    name = sound(host, tmp_path_factory.mktemp("long"), "three_minutes.wav", seconds=180.0, rate=8000)
    return changed(graph, n3_audio=name, n7_seed=99)


@pytest.mark.parametrize("sink", ["save", "preview", "collect"])
def test_cancel_takes_effect_at_once_and_leaves_nothing(host: Host, graph: Graph, long_graph: Graph, sink: str) -> None:
    before = outputs(host)
    graphs = {
        "save": saving(long_graph, "cancel/a"),
        "preview": without(changed(long_graph, n9_real_time=True), SAVE),
        "collect": without(long_graph, PREVIEW, SAVE) | {
            "11": {"class_type": "TM_CollectFrames", "inputs": {"frames": [DECODER, 0]}},
            "12": {"class_type": "PreviewImage", "inputs": {"images": ["11", 0]}},
        },
    }  # fmt: skip
    job = host.run(graphs[sink], interrupt_at="preview", interrupt_after=2)
    assert job.of("execution_interrupted") and not job.error
    stopped = next(e.t_s for e in job.events if e.kind == "execution_interrupted") - job.previews[1].t_s
    assert stopped < 5.0, "more than a denoising step"  # a step takes 0.1 s; the job minutes; the machine may be busy
    assert outputs(host) == before
    again = host.run(saving(graph, f"after_cancel/{sink}"))
    assert len(frames_of(video_of(host, again))) == FRAMES


def test_a_cancelled_stream_can_be_pulled_again(host: Host, graph: Graph, tmp_path: Path) -> None:
    name = sound(host, tmp_path, "four_seconds.wav", seconds=4.0)
    job = host.run(saving(graph, "resume/a", n3_audio=name), interrupt_at="preview", interrupt_after=3)
    assert job.of("execution_interrupted")
    again = host.run(saving(graph, "resume/a", n3_audio=name))
    assert SAMPLER in again.of("execution_cached")[0].data["nodes"]
    assert len(frames_of(video_of(host, again))) == 100


def test_no_stream_keeps_its_state_when_the_host_asks_for_memory(host: Host, long_graph: Graph) -> None:
    """The host's own way, as when another model needs the room: it takes the streams' entry out of its list."""
    before = host.log(10**6).count(ASKED)
    job = host.run(changed(long_graph, n9_real_time=True), interrupt_at="preview", interrupt_after=5)  # the sampler is far ahead
    assert job.of("execution_interrupted")
    said, deadline = [""] * before, time.monotonic() + 30
    while len(said) == before and time.monotonic() < deadline:
        host.post("/free", {"unload_models": True})  # again: the host does not hear it while it collects garbage after a job
        time.sleep(1.0)
        said = [line for line in host.log(10**6).splitlines() if ASKED in line]
    assert len(said) == before + 1, host.log()
    streams, left = re.search(r"of (\d+) streams held a sampler's state, (\d+) do now", said[-1]).groups()  # type: ignore[union-attr]
    assert int(streams) >= 1 and int(left) == 0
    again = host.run(changed(long_graph, n9_real_time=True), interrupt_at="preview", interrupt_after=2)
    assert SAMPLER in again.of("execution_cached")[0].data["nodes"] and again.of("execution_interrupted")  # it goes on from what is kept


# ---- bad input: one line that names field and remedy, and no file


def garbage(host: Host, _: Path) -> None:
    (host.models_dir / "garbage.safetensors").write_bytes(b"not weights at all" * 50)


def truncated(host: Host, _: Path) -> None:
    whole = (host.models_dir / "untrained.safetensors").read_bytes()
    (host.models_dir / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])


def foreign(host: Host, _: Path) -> None:
    save_file({"lora.weight": np.zeros((2, 2), np.float32)}, host.models_dir / "foreign.safetensors")


def no_face(host: Host, folder: Path) -> None:
    Image.effect_noise((400, 400), 40).convert("RGB").save(folder / "no_face.png")
    host.upload(folder / "no_face.png")


def two_faces(host: Host, folder: Path) -> None:
    with Image.open(ROOT / "tm_core" / "assets" / "portraits" / "demo.jpg") as face:
        both = Image.new("RGB", (2 * face.width, face.height))
        both.paste(face, (0, 0))
        both.paste(face.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (face.width, 0))
    both.save(folder / "two_faces.png")
    host.upload(folder / "two_faces.png")


def blocked(host: Host, _: Path) -> None:
    (host.output_dir / "blocked").write_text("a file where a folder is asked")


def nothing(host: Host, _: Path) -> None:
    """No preparation."""


EXTRA: Graph = {
    "20": {"class_type": "EmptyAudio", "inputs": {"duration": 0.0, "sample_rate": 16000, "channels": 1}},
    "21": {"class_type": "RepeatImageBatch", "inputs": {"image": [IMAGE, 0], "amount": 2}},
    "22": {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 400, "height": 400}},
}  # fmt: skip
BAD: dict[str, tuple[Callable[[Host, Path], None], dict[str, Any], str, tuple[str, ...]]] = {
    "no face": (no_face, {"n2_image": "no_face.png"}, FACE, ("image", "face")),
    "two faces": (two_faces, {"n2_image": "two_faces.png"}, FACE, ("2", "face")),
    "third of two faces": (two_faces, {"n2_image": "two_faces.png", "n4_face": 5}, FACE, ("face",)),
    "several pictures": (nothing, {"n4_image": ["21", 0]}, FACE, ("image", "one picture", "Image From Batch")),
    "empty mask": (nothing, {"n4_mask": ["22", 0]}, FACE, ("mask", "marks nothing")),
    "empty sound": (nothing, {"n5_audio": ["20", 0]}, ENCODER, ("audio", "no sound", "0.04 s")),
    "fp16 on a CPU": (nothing, {"n1_dtype": "fp16", "n1_device": "cpu"}, MODEL, ("dtype", "fp16", "fp32")),
    "garbage weights": (garbage, {"n1_weights": "garbage.safetensors"}, MODEL, ("garbage.safetensors",)),
    "truncated weights": (truncated, {"n1_weights": "truncated.safetensors"}, MODEL, ("truncated.safetensors",)),
    "weights of another kind": (foreign, {"n1_weights": "foreign.safetensors"}, MODEL, ("foreign.safetensors",)),
    "output is a file": (blocked, {"n10_filename_prefix": "blocked/x"}, SAVE, ("filename_prefix", "blocked/x", "output folder")),
    "output outside": (nothing, {"n10_filename_prefix": "../../outside"}, SAVE, ("filename_prefix", "outside the output folder", "use")),
    "output at the root": (nothing, {"n10_filename_prefix": "/tmp/outside/x"}, SAVE, ("filename_prefix", "outside the output folder")),
    "output on a drive": (nothing, {"n10_filename_prefix": "C:\\outside"}, SAVE, ("filename_prefix", "drive")),
    "output on another computer": (nothing, {"n10_filename_prefix": "\\\\host\\share\\x"}, SAVE, ("filename_prefix", "computer")),
    "output with a NUL": (nothing, {"n10_filename_prefix": "a\0b"}, SAVE, ("filename_prefix", "\\x00", "character")),
    "output with half a character": (nothing, {"n10_filename_prefix": "\ud800"}, SAVE, ("filename_prefix", "character")),
    "output too long": (nothing, {"n10_filename_prefix": "x" * 4000}, SAVE, ("filename_prefix", "too long")),
}


@pytest.mark.parametrize("case", BAD, ids=lambda name: name.replace(" ", "-"))
def test_bad_input_is_one_line_with_a_remedy(host: Host, graph: Graph, tmp_path: Path, case: str) -> None:
    prepare, inputs, node, words = BAD[case]
    prepare(host, tmp_path)
    before = outputs(host)
    job = host.run(changed(graph, **inputs) | EXTRA)
    failed = job.of("execution_error")
    assert job.status == "error" and failed[0].data["node_id"] == node, failed
    message = job.error.strip()
    assert "\n" not in message and ";" in message, message
    assert not [word for word in words if word not in message], message
    assert "InputError" in failed[0].data["exception_type"]
    assert outputs(host) == before


def test_corrupt_sound_fails_and_leaves_nothing(host: Host, graph: Graph, tmp_path: Path) -> None:
    (tmp_path / "corrupt.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVEjunk" * 20)
    before = outputs(host)
    job = host.run(changed(graph, n3_audio=host.upload(tmp_path / "corrupt.wav")))
    assert job.status == "error" and outputs(host) == before  # the host's own loader says so


@pytest.mark.parametrize(
    ("place", "value"),
    [("n1_weights", "missing.safetensors"), ("n1_weights", "../../untrained.safetensors"), ("n1_device", "cuda:77"),
     ("n1_dtype", "fp64"), ("n6_mode", "shout"), ("n8_device", "abacus")], ids=str)  # fmt: skip
def test_what_is_not_in_a_list_is_refused(host: Host, graph: Graph, place: str, value: str) -> None:
    """Hosts differ in who says so: the queue, or (0.3.75 does not check V3 lists) the node."""
    before = outputs(host)
    try:
        words = host.run(changed(graph, **{place: value})).error
    except HostError as refused:
        words = str(refused)
    assert value in words and place.split("_", 1)[1] in words and outputs(host) == before, words


def test_only_safetensors_are_offered(host: Host, graph: Graph) -> None:
    (host.models_dir / "pickle.pt").write_bytes(b"x")
    options = host.object_info("TM_LoadModel")["input"]["required"]["weights"][1]["options"]
    assert "untrained.safetensors" in options and "pickle.pt" not in options


def test_replaced_weights_are_loaded_again(host: Host, graph: Graph) -> None:
    write_weights(host, "replaced.safetensors", tiny())
    job_graph = saving(graph, "replaced/a", n1_weights="replaced.safetensors")
    video_of(host, host.run(job_graph))
    write_weights(host, "replaced.safetensors", replace(tiny(), name="other"))
    job = host.run(changed(job_graph, n10_filename_prefix="replaced/b"))
    assert MODEL not in job.of("execution_cached")[0].data["nodes"]


def test_collecting_what_does_not_fit_is_refused_beforehand(host: Host, graph: Graph, tmp_path: Path) -> None:
    side = 2048
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(meminfo["MemAvailable"].split()[0]) * 1024
    uploaded = sound(host, tmp_path, "too_much.wav", seconds=1.5 * available / (25 * side * side * 3 * 4), rate=8000)
    large = {f"n{DECODER}_framing": "face", f"n{DECODER}_size": side}
    collect = without(changed(graph, n3_audio=uploaded, **large), PREVIEW, SAVE) | {
        "11": {"class_type": "TM_CollectFrames", "inputs": {"frames": [DECODER, 0]}},
        "12": {"class_type": "PreviewImage", "inputs": {"images": ["11", 0]}},
    }  # fmt: skip
    job = host.run(collect)
    assert "GiB" in job.error and "Save Stream" in job.error and not job.previews
