"""``scadles compare``: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_DIR...",
            help="Folders of finished runs. The first is the baseline that the speed-up is measured against.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Also draw metric, waiting samples and times into this picture (needs the extra 'plots'). "
            "Of a single run it shows each device.",
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown, to paste into a report.")
    ] = False,
) -> None:
    """Put finished runs side by side: time to the target, speed-up, metric, times, samples, bytes.

    Differences that make a comparison doubtful (another target, seed, data set or stream) are named above the table.

    Example: scadles compare runs/ddl runs/scadles --out comparison.png
    """
    from scadles.observe import RunFolder, plot_comparison, plot_run
    from scadles.observe import compare as compare_runs
    from scadles.observe.console import plain_line

    folders = [RunFolder(run) for run in runs]
    comparison = compare_runs(folders)
    if markdown:
        typer.echo(comparison.to_markdown())
    else:
        comparison.print()
    if out is not None:
        if len(folders) == 1:
            plot_run(folders[0], out)
        else:
            plot_comparison(folders, out)
        typer.echo(plain_line(f"wrote {out}"), err=True)
