"""``scadles doctor``: what works on this machine, and how to get what does not."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scadles.cli.checks import Finding


def doctor(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings as JSON, for scripts and for a report of a problem.")
    ] = False,
) -> None:
    """Check this machine: what ScaDLES can use here and, for what it cannot, the step that brings it.

    The exit code is 0 unless something that `scadles train` needs is broken; then it is 1.

    Example: scadles doctor
    """
    from scadles.cli.checks import examine
    from scadles.observe.console import print_table

    findings = examine()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print_table(
            "What works here",
            ("", "check", "found", "what to do"),
            [(_verdict(finding), finding.name, finding.value, finding.remedy) for finding in findings],
        )
    if any(finding.needed and not finding.ok for finding in findings):
        raise typer.Exit(1)


def _verdict(finding: Finding) -> str:
    if finding.ok:
        return "ok"
    return "BROKEN" if finding.needed else "-"
