"""``scadles paper``: the paper's tables and figures, reproduced."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scadles.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from scadles.paper import Outcome


def paper(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="latency, accumulation, buffers, convergence, compression, speedup, window, noniid, injection, rates, "
            "or all",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="where NAME.csv, NAME.md, NAME.png and runs/ go")] = Path(
        "runs/paper"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="smaller and fewer runs: minutes, not an hour")] = False,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="npz:PATH",
            help="where something is learnt (all but latency, accumulation, buffers, rates): learn this data set, not "
            "synthetic images",
        ),
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="rates: measure this Kafka broker, and do not start one for it"),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="simulations at the same time; as many as there are cores by default")
    ] = None,
) -> None:
    """Reproduce a table or figure of the ScaDLES paper, each cell beside the paper's own value.

    All but rates, which is measured on a real broker, are simulated.

    latency: seconds to gather a batch, fastest and slowest device of each set of rates (seconds)

    accumulation: GB that pile up under DDL after 1e3, 1e4 and 1e5 steps (a minute)

    buffers: samples held at convergence under persistence and truncation (minutes)

    convergence: time to a target and accuracy: weighted aggregation against DDL (minutes)

    compression: steps compressed, accuracy, floats and bytes sent, by CR and delta (an hour; --quick: minutes)

    speedup: accuracy, buffer and time: ScaDLES as a whole against DDL (40 minutes; --quick: minutes)

    window: time to the target over the batch window, with the one chosen by measurement (an hour; --quick: minutes)

    noniid: accuracy with few labels a device, and what helps: injection, GroupNorm (an hour; --quick: minutes)

    injection: KB a step that data injection shares, and the accuracy that it buys (an hour; --quick: minutes)

    rates: records per second on 1 to 32 Kafka topics at the same time (four minutes; needs a broker)

    Runs are kept in DIR/runs and used again while their settings are the same; delete them to simulate anew.

    Example: scadles paper speedup --quick --out runs/paper
    """
    from scadles.paper import Options, Runs, find_experiments

    experiments = find_experiments(name)
    if data is not None and not any(experiment.learns for experiment in experiments):
        raise ConfigError(f"--data {data}: nothing is learnt in {name}; leave it out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot make this folder: {error.strerror}") from None
    runs = Runs(out / "runs", jobs or os.cpu_count() or 1, say=lambda line: typer.echo(line, err=True))
    options = Options(quick, data, broker)
    for experiment in experiments:
        typer.echo(f"{experiment.name}: {experiment.title}", err=True)
        if why_not := experiment.why_not(options):
            if len(experiments) == 1:
                raise ConfigError(f"{name}: {why_not}")
            typer.echo(f"skipped: {why_not}", err=True)
            continue
        outcome = experiment.run(options, runs)
        files = outcome.write(out, experiment.name)
        outcome.print()
        files = (*files, *_picture(outcome, out / f"{experiment.name}.png"))
        typer.echo(f"wrote {', '.join(map(str, files))}", err=True)


def _picture(outcome: Outcome, path: Path) -> list[Path]:
    """Draw the picture where the extra for it is installed, and say so where it is not."""
    try:
        outcome.draw(path)
    except MissingExtraError as error:
        typer.echo(f"no picture: {error}", err=True)
        return []
    return [path]
