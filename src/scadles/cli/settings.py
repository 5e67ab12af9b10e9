"""``scadles settings``: every setting there is."""

from __future__ import annotations

from typing import Annotated

import typer


def settings(
    section: Annotated[str | None, typer.Argument(help="only this section, e.g. batch")] = None,
) -> None:
    """Print every setting with its values, default and meaning, as Markdown.

    scadles settings stream
    """
    from scadles.cli.reference import reference

    typer.echo(reference(section), nl=False)
