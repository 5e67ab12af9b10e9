"""Brokers to play with: ``python -m scadles.testing.brokers`` (``make brokers``) runs them until Ctrl-C."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from scadles.clock import WallClock
from scadles.errors import RunError
from scadles.testing.brokers.kafka import KafkaBroker
from scadles.testing.brokers.mosquitto import Mosquitto
from scadles.training.signals import StopRequest

_KINDS: dict[str, tuple[type[KafkaBroker | Mosquitto], int, str]] = {
    "kafka": (KafkaBroker, 9092, "camera-{device}"),
    "mqtt": (Mosquitto, 1883, "camera/{device}"),
}
_LOOK_EVERY_S = 0.2


def main() -> int:
    """Start what there is, say how to use it, and wait; return the exit code."""
    with StopRequest() as stop, ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="scadles-brokers-")))
        running = [scheme for scheme in _KINDS if _started(scheme, folder / scheme, stack)]
        if not running:
            return 1
        _say("Ctrl-C ends them, with all that is in them")
        while not stop.wanted:
            WallClock().sleep(_LOOK_EVERY_S)
    return 0


def _started(scheme: str, folder: Path, stack: ExitStack) -> bool:
    """Start the broker of a scheme and say how to use it, or what is missing; return whether it runs."""
    kind, port, topic = _KINDS[scheme]
    try:
        broker = kind(folder)
        if _is_free(port):
            broker.port = port
        stack.callback(broker.stop)
        broker.start()
    except RunError as error:
        _say(f"no {scheme} broker: {error}\n")
        return False
    url = f"{scheme}://127.0.0.1:{broker.port}/{topic}"
    elsewhere = "" if broker.port == port else f" --set 'stream.url={url}'"
    create = " --create-topics" if scheme == "kafka" else ""
    _say(
        f"{scheme}: {url}\n"
        f"  scadles train examples/{scheme}.yaml --local 4{elsewhere}\n"
        f"  scadles publish examples/{scheme}.yaml{create}{elsewhere}\n"
    )
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
