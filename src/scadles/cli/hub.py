"""``scadles hub`` and ``scadles join``: a run whose devices come and go."""

from __future__ import annotations

import signal
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from scadles.clock import wall_seconds

if TYPE_CHECKING:
    from scadles.fabric.hub import HubState

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

    devices is how many seats there are; fabric.min_devices how many must be there for a step. A device that is lost is
    done without, one that comes is taken in after the next step. The hub itself may be killed: started again with the
    same --out, it is found by all devices, which go on (examples/systemd/scadles-hub.service).

    The hub ends once the run has come to its end and all devices have left. What travels is neither encrypted nor
    authenticated yet, and whoever reaches the port can take part: use it on a network that you trust.

    Exit codes: 0 the run has ended, 2 a setting cannot work, 130 and 143 stopped by Ctrl-C and SIGTERM.
    """
    from scadles.assembly.hub import build_hub, build_journal
    from scadles.config import load_config
    from scadles.observe import default_folder
    from scadles.observe.console import print_note
    from scadles.observe.hub_progress import HubProgress
    from scadles.training.hub import address
    from scadles.training.lock import alone_in

    checked = load_config(config, [*(settings or []), "fabric.backend=hub"])
    host, port = address(listen, "--listen")
    folder = out or default_folder(f"{checked.method}-hub")
    stopped: list[int] = []
    with alone_in(folder), HubProgress(quiet=quiet) as progress, build_journal(checked, folder, print_note) as journal:
        serving = build_hub(checked, host, port, journal, progress.say)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: stopped.append(number))
        serving.start()
        progress.say(f"hub of run {journal.run[:8]} in {folder} on {serving.address[0]}:{serving.address[1]}")
        began_s, pause = wall_seconds(), Event()
        try:
            while not stopped and not serving.is_over:
                progress.state(serving.state().line())
                pause.wait(_LOOK_S)
        finally:
            serving.close()
            progress.say(_came_to(serving.state(), wall_seconds() - began_s))
    if stopped:
        raise typer.Exit(128 + stopped[0])


def _came_to(state: HubState, wall_s: float) -> str:
    """Return what came of it in one line."""
    from scadles.fabric.hub.state import listed
    from scadles.observe.console import human_bytes, human_seconds

    ended = f"the run has ended ({state.ended_by})" if state.ended_by else "stopped; the same command goes on,"
    who = f"{len(state.known)} device{'s' * (len(state.known) != 1)}" + (
        f" ({listed(state.known)})" * bool(state.known)
    )
    return (
        f"{ended} after step {state.step}: {who}, {state.refused} refused, {human_bytes(state.received)} in, "
        f"{human_bytes(state.sent)} out, {human_seconds(wall_s)}"
    )


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
