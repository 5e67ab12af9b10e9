"""A hub with TLS, devices that it has enrolled, and hostile ends, for tests."""

import json
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event, Thread

import torch

from scadles.clock import unix_seconds, wall_seconds
from scadles.errors import FabricError
from scadles.fabric.hub import Hub, HubFabric, enrol
from scadles.fabric.hub.connection import Connection
from scadles.fabric.hub.frames import FrameError, Kind
from scadles.fabric.hub.secure import SecureConnection
from scadles.security import Credentials, Guard, device_context
from scadles.security.authority import HUB_NAME
from scadles.testing.elastic import come_in

LIMIT_S = 60.0
RUN = "0123456789abcdef"


class SecureHub:
    """A hub on loopback, which can be closed and started again.

    Args:
        folder: of the hub.
        seats, more: as of :class:`.Hub`.
        life_s, run, now: as of :class:`.Guard`.
    """

    def __init__(self, folder, seats=3, *, run=RUN, life_s=86_400.0, now=unix_seconds, **more):
        self.folder, self._seats, self._more = folder, seats, more
        self._guard = {"run": run, "life_s": life_s, "now": now}
        self.said = []
        self.start()

    def start(self, port=0):
        self.guard = Guard(self.folder, **self._guard)
        self.hub = Hub("127.0.0.1", port, self._seats, guard=self.guard, say=self.said.append, **self._more)
        self.hub.start()
        self.address = self.hub.address

    def enrol(self, folder, name, token=None, ca_hash=None):
        """Enrol a device; return its credentials."""
        credentials = Credentials(folder)
        enrol(self.address, name, token or self.guard.new_token(1), ca_hash or self.guard.ca_hash, credentials)
        return credentials

    def connect(self, name, credentials, **more):
        return HubFabric(*self.address, name=name, deadline_s=LIMIT_S, credentials=credentials, **more)

    def close(self):
        self.hub.close()


def until(condition, what):
    give_up_s = wall_seconds() + LIMIT_S
    while not condition():
        assert wall_seconds() < give_up_s, f"waited {LIMIT_S} s for {what}"
        Event().wait(0.01)


def two_that_add_up(serving, connect, closing):
    """Two devices that take steps all the time; how many."""
    fabrics = [connect(serving, name) for name in ("cam-1", "cam-2")]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda fabric: come_in(fabric, 0), fabrics))
    stop, steps = Event(), []

    def work(fabric):
        while not stop.is_set():
            bucket = torch.ones(1000)
            with suppress(FabricError):
                fabric.reduce(bucket, "a sum").wait()
                steps.append(bool(bucket.eq(2).all()))

    threads = [Thread(target=work, args=(fabric,), daemon=True) for fabric in fabrics]
    for thread in threads:
        thread.start()

    def end():
        stop.set()
        for fabric in fabrics:
            fabric.close()
        for thread in threads:
            thread.join(LIMIT_S)

    closing.callback(end)
    return steps


def go_on(serving, steps, more=20):
    before, view = len(steps), serving.hub._views.number
    until(lambda: len(steps) > before + more, "more steps")
    assert all(steps)
    assert serving.hub._views.number == view, "nobody was lost"


def answer_to(address, context, hub_name=HUB_NAME, **hello):
    """Say hello, by a context of one's own; return the kind of the answer and what it says, or the error."""
    secure = {"at_hub": False, "hub_name": hub_name}
    try:
        sock = socket.create_connection(address, LIMIT_S)
        connection = Connection(sock) if context is None else SecureConnection(sock, context, **secure)
    except OSError as error:
        return None, {"why": str(error)}
    try:
        connection.limit(LIMIT_S)
        connection.shake_hands()
        connection.send_text(Kind.HELLO, hello)
        frame = connection.receive()
        return frame.kind, connection.receive_text(frame)
    except (FrameError, OSError) as error:
        return None, {"why": str(error)}
    finally:
        connection.release()


def own_context(credentials, *, knows_hub=True):
    """What a device speaks TLS with, or one that lets any hub be."""
    hub = json.loads((credentials.folder / "hub.json").read_text())
    context = device_context(hub["authority"], credentials.folder / "device.pem")
    if not knows_hub:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Recorder:
    """Stands between devices and a hub, and keeps all that travels."""

    def __init__(self, address):
        self._to = address
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self.address = self._sockets[0].getsockname()[:2]
        self._seen = []
        self._threads = [Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def seen(self):
        return b"".join(self._seen)

    def close(self):
        for one in list(self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(LIMIT_S)
        for one in self._sockets:
            one.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                device, _ = self._sockets[0].accept()
                self._sockets.append(device)
                hub = socket.create_connection(self._to)
                self._sockets.append(hub)
                for one, other in ((device, hub), (hub, device)):
                    self._threads.append(Thread(target=self._pass_on, args=(one, other), daemon=True))
                    self._threads[-1].start()

    def _pass_on(self, one, other):
        with suppress(OSError):
            while data := one.recv(1 << 16):
                self._seen.append(data)
                other.sendall(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_WR)
