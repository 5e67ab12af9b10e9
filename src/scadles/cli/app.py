"""The ``scadles`` command."""

from __future__ import annotations

import os
import signal
import sys

import typer

from scadles.cli.compare import compare
from scadles.cli.data import data
from scadles.cli.devices import devices
from scadles.cli.doctor import doctor
from scadles.cli.hub import hub, join
from scadles.cli.paper import paper
from scadles.cli.publish import publish
from scadles.cli.settings import settings
from scadles.cli.simulate import simulate
from scadles.cli.sweep import sweep
from scadles.cli.train import train
from scadles.errors import ScadlesError

app = typer.Typer(
    help="Many devices learn one PyTorch model together, online, from live streams of unequal rates.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(train)
app.command()(hub)
app.command()(join)
app.command()(devices)
app.command()(simulate)
app.command()(publish)
app.command()(compare)
app.command()(data)
app.command()(doctor)
app.command()(settings)
app.command()(paper)
app.command()(sweep)


def main() -> None:
    """Run the command line; a user's mistake becomes one clear message and an exit code, never a traceback."""
    try:
        app()
    except ScadlesError as error:
        _report(error)
        sys.exit(error.exit_code)
    except MemoryError as error:
        detail = f" ({error})" if str(error) else ""
        _report(ScadlesError(f"not enough memory{detail}: lower what the settings ask for"))
        sys.exit(ScadlesError.exit_code)
    except KeyboardInterrupt:  # before there was anything to save
        sys.exit(128 + signal.SIGINT)


def _report(error: ScadlesError) -> None:
    from scadles.observe.console import print_error

    device = os.environ.get("RANK")
    print_error(f"device {device}: {error}" if device else str(error))


if __name__ == "__main__":
    main()
