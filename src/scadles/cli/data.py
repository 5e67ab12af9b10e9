"""``scadles data``: who holds what, before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def data(
    config: Annotated[Path, typer.Argument(help="YAML file of settings, as for scadles train")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting, e.g. devices=10")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="also draw a picture, e.g. partition.png")] = None,
) -> None:
    """Show which device would get which labels, and how much of them.

        scadles data examples/s1.yaml --set data.partition=labels

        scadles data examples/s1.yaml --set data.partition=dirichlet --set data.alpha=0.1 --out partition.png

    Of more than 100 devices, 100 evenly chosen ones are shown. Exit codes: 0 shown, 2 a setting cannot work.
    """
    from scadles.assembly import build_dataset
    from scadles.assembly.label_distribution import build_label_distribution
    from scadles.config import load_config
    from scadles.observe.console import plain_line

    checked = load_config(config, settings or [])
    distribution = build_label_distribution(checked, build_dataset(checked))
    distribution.print()
    if out is not None:
        distribution.plot(out)
        typer.echo(plain_line(f"picture: {out}"))
