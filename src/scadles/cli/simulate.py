"""``scadles simulate``: the whole cluster in this process, in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    config: Annotated[Path, typer.Argument(help="YAML file of settings, as for scadles train")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting, e.g. devices=1000")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run folder; runs/METHOD-TIME by default")] = None,
    limit: Annotated[  # noqa: FBT002
        bool, typer.Option("--limit", help="also find the earliest time at which the streams allow the target")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show no progress and no table")] = False,  # noqa: FBT002
) -> None:
    """Run the cluster that scadles train runs, in one process and in virtual time.

    What steps and messages cost is said by the section cost: a profile that ships, or your own numbers.

        scadles simulate examples/s1.yaml --out runs/s1

        scadles simulate examples/s1.yaml --set method=ddl --out runs/s1-ddl

        scadles compare runs/s1-ddl runs/s1

        scadles simulate examples/digits.yaml --set devices=1000 --set stream.rates=20 --set data.partition=shared

        scadles simulate examples/digits.yaml --set cost.profile=pi4-wifi

    The same seed gives the same summary and events, to the byte. Exit codes: 0 the run ended as it should, 1 training
    has diverged for good (lr.guard), 2 a setting cannot work.
    """
    from scadles.config import load_config
    from scadles.observe import compare, default_folder
    from scadles.observe.console import plain_line
    from scadles.simulation import simulate as run_simulation
    from scadles.training.tools import diverged

    checked = load_config(config, settings or [])
    run_dir = out or default_folder(checked.method)
    summary = run_simulation(checked, out=run_dir, quiet=quiet, limit=limit)
    if not quiet:
        compare([run_dir]).print()
        typer.echo(plain_line(f"run folder: {run_dir}"))
    if summary.ended_by == "diverged":
        raise diverged(run_dir)
