"""``scadles hub`` and ``scadles join``: a run whose devices come and go."""

from __future__ import annotations

import signal
from pathlib import Path
from threading import Event
from typing import Annotated

import typer

from scadles.errors import ConfigError

_OWN = ("stream", "cost", "data", "events", "checkpoint", "picture")
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

    checked = load_config(config, [*(settings or []), "fabric.backend=hub"])
    host, port = _address(listen, "--listen")
    folder = out or default_folder(f"{checked.method}-hub")
    with journal_of(folder, kept=2 * checked.checkpoint.every_steps + 2) as journal:
        serving = Hub(
            *(host, port, checked.devices),
            least=checked.fabric.min_devices,
            deadline_s=checked.fabric.deadline_s,
            journal=journal,
            settings=checked.model_dump(mode="json", exclude_defaults=True),
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
        typer.Option("--set", metavar="KEY=VALUE", help="what is this device's own, e.g. cost.speed=2"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run folder; runs/NAME by default")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")] = False,  # noqa: FBT002
) -> None:
    """Take part in the run of a hub, as long as it goes on; a device that comes back goes on where it was.

    The run is described at the hub. What is this device's own (stream, codec, paths, cost) is given here:

        scadles join HUB:29400 --name cam-3 --set stream.url=kafka://BROKER/cam-3 --out runs/cam-3

    SIGTERM and Ctrl-C make this device leave; the others go on.
    """
    from scadles.observe.console import plain_line
    from scadles.training.run import join_hub

    host, port = _address(address, "HOST:PORT")
    for setting in settings or []:
        if setting.partition("=")[0].partition(".")[0] not in _OWN:
            raise ConfigError(f"--set {setting}: the hub says that; a device's own are {', '.join(_OWN)}")
    join_hub(
        *(host, port, name, list(settings or []), out or Path("runs") / name),
        quiet=quiet,
        say=lambda line: None if quiet else typer.echo(plain_line(line), err=True),
    )


def _address(text: str, what: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{what} = {text}: say HOST:PORT")
    return host.strip("[]"), int(port)
