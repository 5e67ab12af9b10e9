"""How a device leaves the others: with a word to its hub where it fails."""

from __future__ import annotations

from types import TracebackType

from scadles.errors import LeftError, NotAdmittedError, ScadlesError
from scadles.fabric import ElasticFabric, Fabric

_NO_FAILURES = (LeftError, NotAdmittedError, KeyboardInterrupt, SystemExit)


def leave(
    fabric: Fabric,
    kind: type[BaseException] | None = None,
    error: BaseException | None = None,
    trace: TracebackType | None = None,
) -> None:
    """Close a fabric at the end of a context; where that ends with an error, say so."""
    if error is not None:
        say_why(fabric, error)
    fabric.close()


def say_why(fabric: Fabric, error: BaseException) -> None:
    """Let whoever looks at the hub hear of an error with which this device leaves."""
    if isinstance(fabric, ElasticFabric) and not isinstance(error, _NO_FAILURES):
        named = "" if isinstance(error, ScadlesError) else f"{type(error).__name__}: "
        fabric.failure = f"{named}{error}"
