"""`talking-machines data`: a folder of one's own videos becomes training clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .argument_checks import check_prepare
from .printing import print_json

data = typer.Typer(no_args_is_help=True, help="Make training clips of your own footage.")


@data.command()
def prepare(
    folder: Annotated[Path, typer.Argument(help="A folder of videos; folders in it are searched as well.")],
    out: Annotated[Path, typer.Option(help="Where clips, ledger and report go.")] = Path("build/footage"),
    workers: Annotated[int, typer.Option(help="Processes, each on a source of its own.")] = 1,
    limit: Annotated[int | None, typer.Option(help="Stop after this many sources; the next run goes on.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A threshold, NAME=VALUE; see `data thresholds`.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The model whose autoencoder makes the latents; else the bundled one.")] = None,
    device: Annotated[str, typer.Option(help="Where the networks run: auto, cpu, cuda, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line for each source.")] = False,
) -> None:
    """Cut scenes, keep what shows one steady talking face, cache what training reads, say what was dropped and why."""
    check_prepare(folder, out, weights, workers, limit)
    from ..talk.stream import parse_device
    from ..train.footage import FootageConfig
    from ..train.footage import prepare as run
    from ..train.footage.thresholds import with_settings

    cfg = with_settings(FootageConfig(), settings or [])
    place = str(parse_device("--device", device))
    report = run(folder, out, cfg, weights=weights, device=place, workers=workers, limit=limit, progress=None if quiet else _tell)
    if as_json:
        print_json(report.to_dict(), indent=2)
    else:
        typer.echo(report.table())


@data.command()
def thresholds() -> None:
    """The thresholds of `prepare` with their defaults."""
    from ..train.footage.thresholds import described

    for name, default, text in described():
        typer.echo(f"{name + '=' + str(default).lower():28} {text}")


def _tell(source: str, records: list[dict[str, Any]]) -> None:
    """One line a source on stderr: what was kept, and why the rest was not."""
    last = records[-1]
    found = [f"{r['start_s']:.1f}-{r['end_s']:.1f} s {r['reason'] or 'kept'}" for r in records[:-1]]
    typer.echo(f"{source}: {', '.join(found) or last['reason'] or 'nothing'}" + f" ({last['detail']})" * bool(last["detail"]), err=True)
