"""``scadles hub`` and ``scadles join``: a run whose devices come and go."""

from __future__ import annotations

import signal
from pathlib import Path
from threading import Event
from typing import Annotated

import typer

_LOOK_S = 0.2


def hub(
    config: Annotated[Path, typer.Argument(help="YAML file of settings; devices is how many seats there are")],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="where devices connect")] = "127.0.0.1:29400",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting, e.g. devices=8")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the hub; runs/METHOD-TIME by default")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="do not say who comes and goes")] = False,  # noqa: FBT002
) -> None:
    """Let devices come and go: each connects to this one process, which adds up what they send.

    On a machine that all devices reach, then on each device:

        scadles hub examples/digits.yaml --set devices=8 --listen 0.0.0.0:29400 --out runs/hub

        scadles join HUB:29400 --name cam-3 --out runs/cam-3

    The hub ends once the run has come to its end and all devices have left. What travels is neither encrypted nor
    authenticated: use it on a network that you trust.
    """
    from scadles.config import load_config
    from scadles.fabric.hub import Hub, journal_of
    from scadles.observe import default_folder
    from scadles.observe.console import plain_line
    from scadles.training.hub import address

    checked = load_config(config, [*(settings or []), "fabric.backend=hub"])
    host, port = address(listen, "--listen")
    folder = out or default_folder(f"{checked.method}-hub")
    with journal_of(folder, kept=2 * checked.checkpoint.every_steps + 2) as journal:
        serving = Hub(
            *(host, port, checked.devices),
            least=checked.fabric.min_devices,
            deadline_s=checked.fabric.deadline_s,
            journal=journal,
            settings=checked.model_dump(mode="json"),
            say=(lambda _: None) if quiet else (lambda line: typer.echo(plain_line(line))),
        )
        stopped = Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        serving.start()
        if not quiet:
            typer.echo(f"hub of run {journal.run[:8]} on {serving.address[0]}:{serving.address[1]}")
        try:
            while not stopped.wait(_LOOK_S) and not serving.is_over:
                pass
        finally:
            serving.close()


def join(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="where the hub listens")],
    name: Annotated[str, typer.Option(help="of this device, the same whenever it comes back")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="what is this device's own, e.g. stream.url=URL"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run folder; runs/NAME by default")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")] = False,  # noqa: FBT002
) -> None:
    """Take part in the run of a hub, as long as it goes on; a device that comes back goes on where it was.

    The run is described at the hub. What is this device's own is given here: its stream and codec, where its data
    lies (data.dataset, data.root), checkpoint.keep, events, picture.

        scadles join HUB:29400 --name cam-3 --set stream.url=kafka://BROKER/cam-3 --out runs/cam-3

    Start it at boot, and again whenever it ends: examples/systemd/scadles-join@.service does both. With the same name
    and folder it takes up the model of the others, and its own stream, account and residual where they were. The same
    from Python, with your own loop: scadles.join(hub="HUB:29400", name="cam-3", model=..., optimizer=...).

    Exit codes: 0 the run has ended, 2 a setting cannot work, 3 no hub answers or it refuses this device, 130 and 143
    this device left by Ctrl-C and SIGTERM with a checkpoint, and the others go on.
    """
    from scadles.config import overridden
    from scadles.errors import LeftError
    from scadles.observe.console import print_note
    from scadles.training.run import train

    own = overridden({}, settings or [])
    try:
        train(own, out=out or Path("runs") / name, quiet=quiet, hub=address, name=name)
    except LeftError as error:
        print_note(str(error))
        raise typer.Exit(error.exit_code) from None
