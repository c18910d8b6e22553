"""The commands and their options; each hands over to one function of a module beside this one.

Heavy modules are imported by the command that needs them, so that help and bad options answer at once.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..options import AnimateOptions
from . import argument_checks
from .footage_commands import data
from .printing import print_json

app = typer.Typer(
    name="talking-machines", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
    help="A portrait and a voice become a talking video that streams.",
)
app.add_typer(data, name="data")

Device = Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1, ...")]
Weights = Annotated[Path | None, typer.Option(help="A .safetensors model; the bundled one if left out.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")] = False,
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


@app.command()
def animate(
    image: Annotated[list[Path], typer.Option(help="The portrait: any picture with a face.")],
    audio: Annotated[Path, typer.Option(help="The voice: any file with sound, videos included.")],
    out: Annotated[Path, typer.Option(help="The mp4 to write.")],
    seed: Annotated[int, typer.Option(help="Same seed and inputs, same pixels.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON to this file as well.")] = None,
    weights: Weights = None,
    device: Device = "auto",
    decode_device: Annotated[str | None, typer.Option(help="Where frames are decoded; as --device if left out.")] = None,
    face: Annotated[str | None, typer.Option(
        metavar="NUMBER|all", help="Which face, counted from 0 row by row from the left; all: a video of the whole picture.")] = None,
    mask: Annotated[Path | None, typer.Option(
        help="A picture, white where the voice may move the portrait. On a transparent layer any paint marks; in an opaque picture with "
        "transparent holes the holes do.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps a chunk; the model's own number if left out.")] = None,
    speaking: Annotated[str, typer.Option(help="auto, speaking or listening.")] = "auto",
    queue_depth: Annotated[int, typer.Option(help="Chunks that may wait between the workers.")] = 2,
    framing: Annotated[str, typer.Option(help="picture: the video is the picture; face: a crop round the face.")] = "picture",
    size: Annotated[int | None, typer.Option(
        help="Longer side of the video in pixels: a picture has at most so many (1024 if left out), a face has so many (512).")] = None,
    blinks: Annotated[bool, typer.Option("--blinks/--no-blinks", help="Close the eyes now and then.")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a face that will hardly talk well, instead of a warning.")] = False,
    track: Annotated[int | None, typer.Option(
        help="Which sound track of AUDIO, from 0; the first that is not silent if left out.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Make PORTRAIT say AUDIO; prints the report as one line of JSON."""
    if len(image) != 1:
        raise InputError(
            "--image", f"{len(image)} portraits", "one portrait is animated per run", "give one --image, run once for each portrait")
    options = AnimateOptions(
        seed=seed, steps=steps, speaking=speaking, face=argument_checks.parse_face(face), track=track, blinks=blinks,
        framing=framing, size=size, strict=strict)
    argument_checks.check_animate(
        image=image[0], audio=audio, mask=mask, weights=weights, out=out, report=report, options=options, queue_depth=queue_depth)
    from ..streaming.metrics import process_started
    from ..talk import Running
    from .video_job import Job, run_job

    job = Job(
        image=image[0], audio=audio, out=out, options=options, mask=mask, report=report, weights=weights, device=device, quiet=quiet,
        running=Running(decode_device=decode_device, queue_depth=queue_depth), started=process_started())
    print_json(run_job(job))


@app.command()
def batch(
    manifest: Annotated[Path, typer.Argument(help="CSV with a header, or JSON: image, audio, out, and options.")],
    out: Annotated[Path, typer.Option(help="Folder of the videos, the ledger and report.json; a later run goes on there.")],
    workers: Annotated[int | None, typer.Option(help="Each loads the model once; left out: one for each core, or GPU.")] = None,
    engine: Annotated[str, typer.Option(help="local: processes here; ray: a Ray cluster, RAY_ADDRESS names it.")] = "local",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed in an earlier run.")] = False,
    model: Annotated[Path | None, typer.Option(help="A .safetensors model; the bundled one if left out.")] = None,
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="Say only what failed.")] = False,
) -> None:
    """Make every video of MANIFEST; can be stopped or killed at any time, the next run goes on. Exit code 1 if some failed."""
    items = argument_checks.batch_items(manifest, out, weights=model, workers=workers, engine=engine)
    from .batch import run_items

    summary = run_items(
        items, out, workers=workers, engine=engine, retry_failed=retry_failed, weights=model, device=device, quiet=quiet)
    print_json(summary)
    if summary["failed"]:
        raise typer.Exit(1)


@app.command()
def score(
    video: Annotated[Path, typer.Argument(help="Any video of talking faces; with --csv a folder of them as well.")],
    audio: Annotated[list[Path] | None, typer.Option(
        help="The sound to compare with; the video's own if left out. Given again for several faces, each is matched with one.")] = None,
    out: Annotated[Path | None, typer.Option("--csv", help="Write a table, a row for each face of each video.")] = None,
    seconds: Annotated[float | None, typer.Option(help="How much of each video SyncNet judges: 30 if left out, 0 for all.")] = None,
) -> None:
    """Measure lip sync of every face, who speaks, drift and quality of a video; prints JSON. Exit code 1 if some of a table failed."""
    argument_checks.check_score(video, audio or (), out, seconds)
    from .score_files import score_file, score_folder

    found = score_file(video, audio or (), seconds) if out is None else score_folder(video, out, seconds)
    print_json(found, indent=2)
    if out is not None and found["failed"]:
        raise typer.Exit(1)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    weights: Weights = None,
    models: Annotated[list[Path] | None, typer.Option(
        help="A ComfyUI models folder to look for open checkpoints in; may be given again. COMFYUI_PATH's if left out.")] = None,
) -> None:
    """Say what is installed, which devices, weights and open checkpoints work, what is missing and how to get it."""
    from .doctor import examine

    found = examine(weights, models or ())
    if as_json:
        print_json([c.to_dict() for c in found], indent=2)
    else:
        for check in found:
            typer.echo(check.line())
    if not all(check.ok or check.optional for check in found):
        raise typer.Exit(1)


@app.command()
def bench(
    name: Annotated[str | None, typer.Argument(help="Which figures; --list names them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    list_all: Annotated[bool, typer.Option("--list", help="Name the benchmarks and stop.")] = False,
    weights: Weights = None,
    device: Device = "auto",
    seconds: Annotated[float | None, typer.Option(help="Shorter or longer than the benchmark's own duration.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for what the benchmark leaves to look at.")] = None,
    part: Annotated[list[str] | None, typer.Option(help="One part of a benchmark that has several; may be given again.")] = None,
    gb: Annotated[float | None, typer.Option(help="Size of the checkpoint that `bench memory` writes to load it.")] = None,
    minutes: Annotated[float | None, typer.Option(help="How long `bench live` listens for sync; 60 for the hour.")] = None,
) -> None:
    """Measure the figures that README and docs quote; exit code 1 if one misses its bar."""
    argument_checks.check_bench(weights, seconds, out, gb, minutes)
    from .bench import available, run_bench

    if list_all or name is None:
        for entry, purpose in available().items():
            typer.echo(f"{entry:10} {purpose}")
        return
    result = run_bench(name, weights=weights, device=device, seconds=seconds, out=out, part=part or None, gb=gb, minutes=minutes)
    if as_json:
        print_json(result)
    if not all(r["ok"] is not False for r in result["results"]):
        raise typer.Exit(1)


@app.command()
def serve(
    image: Annotated[list[Path] | None, typer.Option(
        help="A portrait to talk to; may be given again. The bundled ones if left out.")] = None,
    agent: Annotated[str, typer.Option(
        help="Who answers: parrot says back what you say, reader reads aloud what you type, openai-realtime, pipeline.")] = "parrot",
    base_url: Annotated[str | None, typer.Option(
        help="Server of the agent, as http://host:port/v1; OpenAI's if left out. The key: OPENAI_API_KEY.")] = None,
    model: Annotated[str | None, typer.Option(help="openai-realtime: the model; pipeline: the chat's model.")] = None,
    voice: Annotated[str | None, typer.Option(help="A voice of the server that speaks.")] = None,
    instructions: Annotated[str | None, typer.Option(help="What the agent is told to be.")] = None,
    chat_url: Annotated[str | None, typer.Option(help="pipeline: server of the chat, where not --base-url.")] = None,
    stt_url: Annotated[str | None, typer.Option(help="pipeline: server of speech to text, where not --base-url.")] = None,
    stt_model: Annotated[str | None, typer.Option(help="Model that writes down what you say.")] = None,
    tts_url: Annotated[str | None, typer.Option(help="pipeline: server of text to speech, where not --base-url.")] = None,
    tts_model: Annotated[str | None, typer.Option(help="pipeline: model that speaks.")] = None,
    port: Annotated[int, typer.Option(help="Where the page is served.")] = 8765,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's own need --token.")] = "127.0.0.1",
    token: Annotated[str | None, typer.Option(envvar="TM_TOKEN", help="What callers must know: open the page with ?token=...")] = None,
    size: Annotated[int, typer.Option(help="Side of the picture in pixels.")] = 384,
    sessions: Annotated[int, typer.Option(help="Conversations at a time; each takes about two cores, or a GPU's share.")] = 1,
    idle: Annotated[float, typer.Option(help="Seconds without a word after which a conversation ends.")] = 600,
    ice: Annotated[list[str] | None, typer.Option(help="A STUN or TURN address, as turn:user:password@host; may be given again.")] = None,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """A live conversation in the browser; open the address that it prints."""
    from .serve import ServeJob, run_server

    asked = {
        "base_url": base_url, "chat_url": chat_url, "stt_url": stt_url, "tts_url": tts_url, "model": model, "stt_model": stt_model,
        "tts_model": tts_model, "voice": voice, "instructions": instructions}
    run_server(ServeJob(
        images=tuple(image or ()), agent=agent, agent_options=asked, port=port, host=host, token=token, size=size, sessions=sessions,
        idle_s=idle, ice=tuple(ice or ()), weights=weights, device=device))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="tiny (all of its stages), tiny_student, ..., or prepare.")],
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on from the newest checkpoint, or begin anew.")] = True,
    minutes: Annotated[float | None, typer.Option(help="Stop after this long; a checkpoint is kept.")] = None,
    footage: Annotated[Path | None, typer.Option(help="Clips of your own that `data prepare` kept; half of what is learnt from.")] = None,
    device: Device = "auto",
) -> None:
    """Train a model from a recipe; can be stopped and resumed at any time."""
    argument_checks.check_train(minutes, footage)
    from ..talk.stream import parse_device
    from ..train.training_run import main as run_training

    written = run_training(
        recipe, resume=resume, minutes=minutes, footage=footage, device=str(parse_device("--device", device)))
    typer.echo(written)
