"""``scadles hub`` and ``scadles join``: a run whose devices come and go."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from scadles.clock import wall_seconds
from scadles.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scadles.fabric.hub import Hub, HubState
    from scadles.observe.hub_progress import HubProgress
    from scadles.security import CertificateFiles, Guard

_LOOK_S = 0.2
_Cert = Annotated[Path | None, typer.Option(help="certificate of an authority that exists already, PEM")]
_Key = Annotated[Path | None, typer.Option(help="the key of --cert, PEM without a passphrase")]
_Ca = Annotated[Path | None, typer.Option(help="authorities that the other end's certificate may be of, PEM")]


def hub(
    config: Annotated[Path, typer.Argument(help="YAML file of settings; devices is how many seats there are")],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="where devices connect")] = "127.0.0.1:29400",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting, e.g. devices=8")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the hub; runs/METHOD-TIME by default")] = None,
    secure: Annotated[bool, typer.Option("--secure", help="TLS also on loopback")] = False,  # noqa: FBT002
    insecure: Annotated[bool, typer.Option("--insecure", help="no TLS, on a network that you trust")] = False,  # noqa: FBT002
    cert: _Cert = None,
    key: _Key = None,
    ca: _Ca = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="do not say who comes and goes")] = False,  # noqa: FBT002
) -> None:
    """Let devices come and go: each connects to this one process, which adds up what they send.

    On a machine that all devices reach, then on each device:

        scadles hub examples/digits.yaml --set devices=8 --listen 0.0.0.0:29400 --out runs/hub

        scadles join HUB:29400 --name cam-3 --token T --ca-hash H --out runs/cam-3

    The second line is printed by the first one, with a token for all seats that lives 24 hours: scadles devices makes
    others, and turns devices out. Both ends prove who they are, and all that travels is encrypted (docs/security.md);
    on loopback only with --secure. With --cert, --key and --ca on both ends the certificates are those of an authority
    that exists already.

    devices is how many seats there are; fabric.min_devices how many must be there for a step. A device that is lost is
    done without, one that comes is taken in after the next step. The hub itself may be killed: started again with the
    same --out, it is found by all devices, which go on (examples/systemd/scadles-hub.service).

    The hub ends once the run has come to its end and all devices have left.

    Exit codes: 0 the run has ended, 2 a setting cannot work, 130 and 143 stopped by Ctrl-C and SIGTERM.
    """
    from scadles.assembly.hub import build_hub, build_journal
    from scadles.config import load_config, with_devices
    from scadles.fabric.hub import is_loopback
    from scadles.observe import default_folder
    from scadles.observe.console import print_note
    from scadles.observe.hub_progress import HubProgress
    from scadles.security import ExternalGuard, Guard
    from scadles.training.hub import PLAIN_TEXT, address
    from scadles.training.lock import alone_in

    checked = with_devices(load_config(config, [*(settings or []), "fabric.backend=hub"]))
    host, port = address(listen, "--listen")
    if secure and insecure:
        raise ConfigError("--secure and --insecure: give one of them")
    files = _certificate_files(cert, key, ca, insecure=insecure)
    folder = out or default_folder(f"{checked.method}-hub")
    stopped: list[int] = []
    with alone_in(folder), HubProgress(quiet=quiet) as progress, build_journal(checked, folder, print_note) as journal:
        guard: Guard | ExternalGuard | None = None
        if files is not None:
            guard = ExternalGuard(folder, journal.run, files, print_note)
        elif secure or not (insecure or is_loopback(host)):
            guard = Guard(folder, journal.run)
        serving = build_hub(checked, host, port, journal, progress.say, guard=guard)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: stopped.append(number))
        serving.start()
        progress.say(f"hub of run {journal.run[:8]} in {folder} on {serving.address[0]}:{serving.address[1]}")
        if isinstance(guard, ExternalGuard):
            progress.say(
                f"devices join with --cert, --key and --ca; a name of this run alone: scadles://{journal.run}/NAME"
            )
        elif guard is not None:
            progress.say(_how_to_join(guard, checked.devices, serving.address, folder, quiet=quiet))
        elif not is_loopback(host):
            print_note(f"warning: {PLAIN_TEXT}")
        _serve(serving, progress, stopped)
    if stopped:
        raise typer.Exit(128 + stopped[0])


def _serve(hub: Hub, progress: HubProgress, stopped: Sequence[int]) -> None:
    """Show how things are until the run is over, or a signal has come."""
    began_s, pause = wall_seconds(), Event()
    try:
        while not stopped and not hub.is_over:
            progress.state(hub.state().line())
            pause.wait(_LOOK_S)
    finally:
        hub.close()
        progress.say(_came_to(hub.state(), wall_seconds() - began_s))


def _certificate_files(
    cert: Path | None, key: Path | None, ca: Path | None, *, insecure: bool
) -> CertificateFiles | None:
    from scadles.security import CertificateFiles

    if cert is None and key is None and ca is None:
        return None
    if insecure or cert is None or key is None or ca is None:
        raise ConfigError("--cert, --key and --ca belong together, and to no --insecure")
    return CertificateFiles(cert, key, ca)


def _how_to_join(guard: Guard, seats: int, listening: tuple[str, int], folder: Path, *, quiet: bool) -> str:
    """Return the line that enrols a device, with a token where the authority is new; else who makes one."""
    if quiet or not guard.authority.is_new:
        return f"a token for more devices: scadles devices {shlex.quote(str(folder))} token"
    return f"on each device: {join_line(guard.new_token(seats), guard.ca_hash, *listening)}"


def join_line(token: str, ca_hash: str, host: str, port: int) -> str:
    """Return what enrols a device, and lets it join.

    Args:
        token: for it.
        ca_hash: of the authority's key.
        host, port: where the hub listens; of one that listens everywhere an address of this machine is told.
    """
    from scadles.training.hub import reachable

    where = reachable(host)
    place = f"[{where}]:{port}" if ":" in where else f"{where}:{port}"
    return f"scadles join {place} --name NAME --token {token} --ca-hash {ca_hash}"


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
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="code, file or address that the hub's settings may name, e.g. model=mine:net"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run folder; runs/NAME by default")] = None,
    token: Annotated[str | None, typer.Option(help="from the hub, the first time")] = None,
    ca_hash: Annotated[str | None, typer.Option(metavar="sha256:HASH", help="of the hub's authority")] = None,
    identity: Annotated[
        Path | None, typer.Option(help="folder of key and certificate; ~/.config/scadles/devices/NAME by default")
    ] = None,
    cert: _Cert = None,
    key: _Key = None,
    ca: _Ca = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="no TLS, where the hub has none")] = False,  # noqa: FBT002
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")] = False,  # noqa: FBT002
) -> None:
    """Take part in the run of a hub, as long as it goes on; a device that comes back goes on where it was.

    The run is described at the hub. What is this device's own is given here: its stream and codec, where its data
    lies (data.dataset, data.root), checkpoint.keep, events, picture.

        scadles join HUB:29400 --name cam-3 --token T --ca-hash H --set stream.url=kafka://BROKER/cam-3 --out runs/cam-3

    Code, files and addresses on this device are named here, never by the hub alone: what its settings say of them is
    refused unless --allow says the same (a * at the end stands for more: --allow 'model=mypackage.models:*').

    Token and hash are printed by the hub. With them this device makes a key, which never leaves it, and has it signed;
    later starts do without. The certificate renews itself. A hub on loopback takes part in none of this unless it is
    started with --secure. With --cert, --key and --ca this device shows a certificate of an authority that exists
    already, and is not enrolled.

    Start it at boot, and again whenever it ends: examples/systemd/scadles-join@.service does both. With the same name
    and folder it takes up the model of the others, and its own stream, account and residual where they were. The same
    from Python, with your own loop: scadles.join(hub="HUB:29400", name="cam-3", model=..., optimizer=...).

    Exit codes: 0 the run has ended, 2 a setting cannot work, 3 no hub answers or it refuses this device, 130 and 143
    this device left by Ctrl-C and SIGTERM with a checkpoint, and the others go on.
    """
    from scadles.config import merged, overridden
    from scadles.errors import LeftError
    from scadles.observe.console import print_note
    from scadles.training.from_hub import ALLOW, parse_allowed
    from scadles.training.hub import enrol_here
    from scadles.training.run import train

    own = overridden({}, settings or [])
    if allow:
        own = merged(own, {ALLOW: parse_allowed(allow)})
    if (token is None) != (ca_hash is None) or (insecure and token is not None):
        raise ConfigError("--token and --ca-hash belong together, and to no --insecure: copy both from the hub")
    files = _certificate_files(cert, key, ca, insecure=insecure)
    if files is not None and (token or ca_hash or identity):
        raise ConfigError("--cert is a device's certificate already: leave --token, --ca-hash and --identity out")
    if token is not None and ca_hash is not None:
        enrol_here(address, name, token, ca_hash, identity)
    folder = out or Path("runs") / name
    try:
        train(own, out=folder, quiet=quiet, hub=address, name=name, identity=files or identity, insecure=insecure)
    except LeftError as error:
        print_note(str(error))
        raise typer.Exit(error.exit_code) from None
