"""``scadles devices``: who may take part in the run of a hub."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scadles.errors import ConfigError

if TYPE_CHECKING:
    from scadles.security import Enrolled


class Action(str, Enum):
    """What is done."""

    LIST = "list"
    TOKEN = "token"  # noqa: S105 - a word of the command line
    REVOKE = "revoke"
    READMIT = "readmit"


def devices(
    folder: Annotated[Path, typer.Argument(metavar="HUBFOLDER", help="the hub's --out")],
    action: Annotated[Action, typer.Argument(help="what to do")] = Action.LIST,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="of a device, to revoke or readmit")] = None,
    uses: Annotated[int, typer.Option(min=1, help="how many devices a token enrols")] = 1,
    hours: Annotated[float, typer.Option(min=0.01, max=8760, help="how long a token lives")] = 24.0,
) -> None:
    """List the devices that a hub has enrolled, enrol more, turn one out, or take it back; the hub may run meanwhile.

        scadles devices runs/hub

        scadles devices runs/hub token --uses 4 --hours 2

        scadles devices runs/hub revoke cam-3

        scadles devices runs/hub readmit cam-3

    At a hub that was started with --cert only the list and revoke, readmit are of use: its devices have certificates
    of another authority. There a name may be revoked before it has ever been seen.

    A token is shown once, and kept as its hash. A device that is revoked is cut off at once, the others go on. One that
    is readmitted comes back with the key that it had, or, where that is lost, with a new one and a token.

    Exit codes: 0 done, 2 there is no such hub or device.
    """
    from scadles.clock import unix_seconds
    from scadles.security import AUTHORITY_FOLDER, Authority, Registry, Tokens, holds_authority

    place = folder / AUTHORITY_FOLDER
    if not place.is_dir():
        raise ConfigError(
            f"{folder} has no authority: the first start of scadles hub makes one, with TLS and --out {folder}"
        )
    if (action in (Action.REVOKE, Action.READMIT)) != (name is not None):
        raise ConfigError(f"scadles devices {folder} {action.value}: revoke and readmit take the name of one device")
    registry = Registry(place)
    if action is Action.TOKEN and not holds_authority(place):
        raise ConfigError(f"{folder} is of a hub with --cert: it enrols nobody, the authority in its --ca does")
    if action is Action.TOKEN:
        now = unix_seconds()
        token = Tokens(place).new(uses, now + hours * 3600, now)
        typer.echo(f"scadles join HUB:PORT --name NAME --token {token} --ca-hash {Authority(place).ca_hash}")
    elif action is Action.LIST:
        _show(registry.all(), unix_seconds())
    elif action is Action.REVOKE:
        registry.revoke(str(name), known=holds_authority(place))
        typer.echo(f"{name} is revoked: its hub, where it runs, cuts it off within a second, and refuses it")
    else:
        registry.readmit(str(name))
        typer.echo(f"{name} is readmitted: start it again; where its key is lost, with a new token")


def _show(enrolled: dict[str, Enrolled], now: float) -> None:
    from scadles.clock import date_text
    from scadles.observe.console import print_table

    def state(one: Enrolled) -> str:
        return (
            "revoked"
            if one.revoked
            else "expired"
            if one.key and now > one.expires
            else "readmitted" * one.readmitted or "enrolled"
        )

    rows = [
        [name, state(one), *((date_text(one.issued), date_text(one.expires)) if one.key else "--"), one.key[:16]]
        for name, one in sorted(enrolled.items())
    ]
    print_table("", ["device", "state", "certificate of", "until", "key"], rows)
