"""What somebody sees who records all packets between a hub and its devices."""

import re
import socket
import struct
import sys
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from networks import HUB
from scadles.observe import Step

pytestmark = pytest.mark.timeout(300)

SCRIPT = Path(__file__).parents[1] / "recorded_scadles.py"
PORT, STEPS = 29400, 60
NAMES = ["camera-left", "camera-right", "camera-that-comes-later"]
_ALL_PROTOCOLS = 3
_SOL_PACKET, _STATISTICS = 263, 6


class Packets:
    """All packets that pass an interface of a network, from now on."""

    def __init__(self, network, interface):
        with network.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        self._socket.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), 1 << 28)
        self._socket.bind((interface, 0))
        self._socket.settimeout(0.1)
        self._seen, self._over = [], Event()
        self._thread = Thread(target=self._record, daemon=True)
        self._thread.start()

    def stop(self):
        """Return all that was seen."""
        self._over.set()
        self._thread.join()
        counted, dropped = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        self._socket.close()
        assert counted
        assert dropped == 0, "not everything was seen"
        return b"".join(self._seen)

    def _record(self):
        while True:
            try:
                self._seen.append(self._socket.recv(1 << 17))
            except TimeoutError:
                if self._over.is_set():
                    return


class Fleet:
    """A hub, two devices, and one that comes while they train; all that passes the hub's network is recorded."""

    def __init__(self, networks, start, folder, config, finding, *allow, secure):
        self.folder = folder
        packets = Packets(networks.hub, "net")
        plain = [] if secure else ["--insecure"]
        with networks.hub.entered():
            place = ("hub", config, "--listen", f"{HUB}:{PORT}", "--out", "hub", *plain)
            hub = start(folder, "-m", "scadles", *place, PYTHONUNBUFFERED="1")
        hub.until(lambda: "in hub on" in hub.out, "an address")
        self.token = ""
        enrol = plain
        if secure:
            said = hub.until(lambda: re.search(r"--token (\w+) --ca-hash (sha256:\w+)\n", hub.out), "a token")
            self.token = said[1]
            enrol = ["--token", said[1], "--ca-hash", said[2]]
        devices = []
        for name, network in zip(NAMES, networks.devices, strict=True):
            if len(devices) == 2:
                hub.until(lambda: hub.out.count("takes part") == 2, "two devices")
                first = devices[0]
                first.until(lambda: self._step(finding) >= 5, "training")
            with network.entered():
                place = ("join", f"{HUB}:{PORT}", "--name", name, "--out", name, "--quiet")
                identity = ("--identity", f"identity-{name}") if secure else ()
                arguments = (str(SCRIPT), f"{name}.bytes", *place, *enrol, *identity, *allow)
                path = ":".join([str(SCRIPT.parent), *sys.path])
                devices.append(start(folder, *arguments, PYTHONPATH=path))
        runs = [*devices, hub]
        assert [run.wait() for run in runs] == [0] * len(runs), [run.err for run in runs]
        assert f"{NAMES[2]} (device" in hub.out
        self.wire = packets.stop()
        self.messages = b"".join((folder / f"{name}.bytes").read_bytes() for name in NAMES)
        labels = b"".join(path.read_bytes() for path in folder.glob("*.labels"))
        self.labels = {labels[begin : begin + 32] for begin in range(0, len(labels), 32)}

    def _step(self, finding):
        found = finding(self.folder / NAMES[0], len(NAMES))
        return max((event.step for device in range(3) for event in found.events(device, Step)), default=0)


@pytest.fixture
def recorded(internet, start, tmp_path, write_config, npz, finding):
    """Let a run go on to its end, and return what was seen of it: ``recorded(secure=True)``."""

    def make(*, secure):
        config = write_config(
            tmp_path / "run.yaml",
            method="ddl",
            devices=len(NAMES),
            steps=STEPS,
            data={"dataset": f"npz:{npz}"},
            target_accuracy=None,
            stop_at_target=False,
            stream={"rates": 20},
            batch={"size": 8, "max_wait_s": 600},
            clock={"speed": 10},
            injection={"alpha": 0.5, "beta": 0.5},
            fabric={"min_devices": 2},
        )
        allow = ("--allow", "data.dataset=npz:*")
        return Fleet(internet(len(NAMES)), start, tmp_path, config, finding, *allow, secure=secure)

    return make


def telling_words(content):
    """Return the different 8-byte words of messages that hardly come by chance, uint64 ``[n]``.

    Every 32 bytes in a row of a message hold three whole words of those.
    """
    words = np.frombuffer(content[: len(content) // 8 * 8], np.uint64)
    distinct = np.sort(words.view(np.uint8).reshape(-1, 8), axis=1)
    return np.unique(words[(np.diff(distinct, axis=1) != 0).sum(axis=1) >= 5])


def share_seen(words, wire):
    """Return which share of the words is in a recording, at whatever offset."""
    seen = np.zeros(len(words), bool)
    for offset in range(8):
        at = wire[offset : offset + (len(wire) - offset) // 8 * 8]
        seen |= np.isin(words, np.frombuffer(at, np.uint64))
    return seen.mean()


def told(fleet, npz):
    """What is said in so many words: names, settings, and the token where there is one."""
    settings = [b"max_wait_s", b"min_devices", b"target_accuracy", str(npz).encode()]
    return [*(name.encode() for name in NAMES), *settings, *([fleet.token.encode()] if fleet.token else [])]


def test_nothing_plain_is_in_any_packet(recorded, npz):
    fleet = recorded(secure=True)
    assert fleet.token
    words = telling_words(fleet.messages)
    assert len(words) > 10_000
    assert len(fleet.wire) > len(fleet.messages) / 2
    assert [secret for secret in told(fleet, npz) if secret in fleet.wire] == []
    assert share_seen(words, fleet.wire) == 0
    assert len(fleet.labels) > 10
    assert not any(labels in fleet.wire for labels in fleet.labels)


def test_the_same_look_finds_all_of_it_where_there_is_no_tls(recorded, npz):
    fleet = recorded(secure=False)
    assert [secret for secret in told(fleet, npz) if secret not in fleet.wire] == []
    assert share_seen(telling_words(fleet.messages), fleet.wire) > 0.8
    assert sum(labels in fleet.wire for labels in fleet.labels) > 0.8 * len(fleet.labels)
