"""Ten thousand frames that cannot be, from a device whose session is in order, while two others go on."""

import json
import random
import struct
import threading
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import pytest
import torch

from scadles.clock import wall_seconds
from scadles.errors import FabricError, MembershipChangedError
from scadles.fabric.hub import Hub, HubFabric, reception
from scadles.fabric.hub.connection import ClosedError, Connection
from scadles.fabric.hub.frames import HEADER_BYTES, MOST_BYTES, PIECE_BYTES, VERSION, FrameError, Kind, parse
from scadles.security import Rate
from scadles.testing.elastic import come_in

LIMIT_S = 120.0
COUNT = 10_000
LENGTH = 1000


class Hostile:
    """A device that says hello as it should, and can send any bytes afterwards."""

    def __init__(self, address):
        self.control = Connection.open(*address, 10.0)
        welcome = self._hello(self.control, role="control", name="hostile", run="")
        self.seat = welcome["seat"]
        self.up, self.down = (Connection.open(*address, 10.0) for _ in range(2))
        self._hello(self.up, role="up", session=welcome["session"])
        self._hello(self.down, role="down", session=welcome["session"])

    def _hello(self, connection, **hello):
        connection.limit(10.0)
        connection.send_text(Kind.HELLO, hello)
        frame = connection.receive()
        assert frame.kind is Kind.WELCOME
        return connection.receive_text(frame)

    def come_in(self, hub):
        """Be admitted: it says that it is as far as the others, whatever they have done."""
        self.send(text(Kind.READY, {"step": 0}), "control")
        give_up_s = wall_seconds() + LIMIT_S
        while "hostile" not in hub.members().values():
            assert wall_seconds() < give_up_s, "it is not admitted"
            self.send(text(Kind.PULSE, {"step": 1 << 30}), "control")
            Event().wait(0.02)

    def send(self, data, where="up"):
        getattr(self, where)._socket.sendall(data)

    def is_lost(self):
        """Whether the hub has ended the session."""
        with suppress(OSError, ClosedError):
            self.control.limit(0.001)
            while self.control._socket.recv(1 << 16):
                pass
            return True
        return False

    def close(self):
        for connection in (self.control, self.up, self.down):
            connection.close()


@pytest.fixture
def meeting(monkeypatch):
    """A hub that lets everybody in as often as he comes, two honest devices that add up all the time, what was said."""
    monkeypatch.setattr(reception, "_SESSIONS", Rate(hz=1e6, burst=1000))
    said = []
    hub = Hub("127.0.0.1", 0, 3, least=2, say=said.append)
    hub.start()
    honest = [Honest(hub.address, f"cam-{i}") for i in range(2)]
    yield hub, honest, said
    for device in honest:
        device.stop.set()
    for device in honest:
        device.thread.join(LIMIT_S)
    hub.close()


class Honest:
    def __init__(self, address, name):
        self.fabric = HubFabric(*address, name, deadline_s=LIMIT_S)
        self.stop = Event()
        self.fabric.stopped = self.stop.is_set
        self.steps = 0
        self.problem = None
        self.was_cut_off = False
        self.thread = Thread(target=self._go_on, daemon=True)
        self.thread.start()

    def _go_on(self):
        step = 0
        try:
            while not self.stop.is_set():
                try:
                    if self.fabric.changed or not self.steps:
                        come_in(self.fabric, step)
                    self.fabric.note(step + 1, {"step": step + 1})
                    bucket = torch.full((LENGTH,), 1.0)
                    self.fabric.reduce(bucket, "a step").wait()
                    assert bucket.tolist() == [2.0] * LENGTH
                except MembershipChangedError as error:
                    self.was_cut_off = self.was_cut_off or error.detached
                    come_in(self.fabric, step)
                    continue
                step, self.steps = step + 1, self.steps + 1
                self.stop.wait(0.001)
        except (AssertionError, FabricError) as error:
            self.problem = error
        self.fabric.close()


def until(condition, what):
    give_up_s = wall_seconds() + LIMIT_S
    while not condition():
        assert wall_seconds() < give_up_s, f"waited {LIMIT_S} s for {what}"
        Event().wait(0.001)


def packed(kind, *, version=VERSION, checked=True, dtype=0, seat=2, view=1, sequence=1, offset=0, total=0, length=0):
    """A header with whatever is in it, and a checksum that is right or not."""
    header = struct.pack("!4sBBBBHIIQQI", b"ScaD", version, kind, dtype, 0, seat, view, sequence, offset, total, length)
    return header + struct.pack("!I", zlib.crc32(header) ^ (not checked))


def text(kind, content):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return packed(kind, seat=0, view=0, sequence=0, total=len(data), length=len(data)) + data


WRONG = {
    "another version": ("up", packed(Kind.REDUCE, version=VERSION + 1, total=8, length=8), "speaks version"),
    "a wrong checksum": ("up", packed(Kind.REDUCE, checked=False, total=8, length=8), "checksum is wrong"),
    "no frame": (
        "up",
        b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n" + bytes(HEADER_BYTES),
        "not bytes of this protocol",
    ),
    "an unknown kind": ("up", packed(77), "unknown kind 77"),
    "a huge message": ("up", packed(Kind.GATHER, total=MOST_BYTES + 1, length=PIECE_BYTES), "at most"),
    "a huge piece": ("up", packed(Kind.GATHER, total=2**30, length=2**30), "at most"),
    "a huge text": ("control", packed(Kind.PULSE, total=2**30, length=2**30), "at most"),
    "a piece beyond the end": ("up", packed(Kind.GATHER, offset=PIECE_BYTES, total=8, length=8), "at most"),
    "a piece between pieces": ("up", packed(Kind.GATHER, offset=3, total=8, length=5), "no multiple"),
    "unknown numbers": ("up", packed(Kind.REDUCE, dtype=200, total=8, length=8), "unknown numbers"),
    "half a number": ("up", packed(Kind.REDUCE, total=6, length=6), "unknown numbers"),
    "another device's seat": ("up", packed(Kind.REDUCE, seat=0, total=8, length=8) + bytes(8), "of device 0 in view"),
    "a view to come": ("up", packed(Kind.REDUCE, view=2**32 - 1, total=8, length=8) + bytes(8), "which cannot be"),
    "a view of its own": ("control", text(Kind.VIEW, {"members": {}}), "VIEW on a control connection"),
    "a sum on a control connection": (
        "control",
        packed(Kind.REDUCE, total=8, length=8) + bytes(8),
        "REDUCE on a control",
    ),
    "a pulse among sums": ("up", text(Kind.PULSE, {}), "PULSE among the messages"),
    "a note without a step": ("up", text(Kind.NOTE, {"step": None}), "a note without its step"),
    "a long note": ("up", text(Kind.NOTE, {"step": 1, "more": "x" * 70_000}), "too long"),
    "no step to be ready with": ("control", text(Kind.READY, {"step": "9"}), "READY without its step"),
    "no JSON": ("control", text(Kind.PULSE, b"\xff{]"), "no JSON object"),
    "deep JSON": ("control", text(Kind.PULSE, b"[" * 200_000), "no JSON object"),
    "long numbers": ("control", text(Kind.PULSE, b"[" + b"9" * 200_000 + b"]"), "no JSON object"),
    "a list": ("control", text(Kind.GOODBYE, [1]), "no JSON object"),
}


def test_each_is_refused_with_one_sentence_and_counted(meeting):
    hub, honest, said = meeting
    until(lambda: all(device.steps > 3 for device in honest), "a few steps")
    for number, (name, (where, data, sentence)) in enumerate(WRONG.items(), start=1):
        hostile = Hostile(hub.address)
        with suppress(OSError):  # it may be closed before it has read all
            hostile.send(data, where)
        until(lambda number=number: hub.refused >= number, f"a refusal of {name}")
        until(
            lambda number=number: sum("hostile (device" in line for line in list(said)) >= number,
            f"what is said of {name}",
        )
        hostile.close()
        line = [line for line in list(said) if "hostile (device" in line][-1]
        assert hub.refused == number, line
        assert "has left: what it sent was refused: " in line, line
        assert sentence in line, line
        assert "\n" not in line
    steps = [device.steps for device in honest]
    until(lambda: all(device.steps > before for device, before in zip(honest, steps, strict=True)), "more steps")
    assert [(device.problem, device.was_cut_off) for device in honest] == [(None, False)] * 2


@pytest.mark.parametrize("number", range(3))
def test_one_that_takes_part_is_done_without(meeting, number):
    """It is admitted, and everybody waits for it when it sends what cannot be; nothing of it is in any sum."""
    hub, honest, said = meeting
    names = list(WRONG)[number::3]
    for name in names:
        where, data, _ = WRONG[name]
        hostile = Hostile(hub.address)
        hostile.come_in(hub)
        with suppress(OSError):
            hostile.send(data, where)
        until(lambda: "hostile" not in hub.members().values(), f"the end of {name}")
        hostile.close()
    assert hub.refused == len(names), said
    steps = [device.steps for device in honest]
    until(lambda: all(device.steps > before for device, before in zip(honest, steps, strict=True)), "more steps")
    assert [(device.problem, device.was_cut_off) for device in honest] == [(None, False)] * 2


def test_one_that_takes_steps_and_reads_nothing_is_done_without(meeting):
    """What waits for it is that of two steps, and what lies in buffers of the kernel."""
    hub, honest, said = meeting
    hostile = Hostile(hub.address)
    hostile.come_in(hub)
    member, sequence, most = hub._views.members[hostile.seat], 0, 0
    view = hub._views.number
    zeros = bytes(4 * LENGTH)
    with suppress(OSError):
        while not member.is_gone:
            sequence += 1
            head = packed(Kind.REDUCE, view=view, sequence=sequence, total=len(zeros), length=len(zeros))
            hostile.send(head + zeros)
            hostile.send(text(Kind.PULSE, {}), "control")
            until(lambda sequence=sequence: honest[0].fabric._sequence >= sequence or member.is_gone, "the step")
            most = max(most, member.outbox.bytes)
    until(lambda: any("it takes steps, and does not read what comes of them" in line for line in said), said[-3:])
    assert most <= 3 * len(zeros)
    hostile.close()
    steps = [device.steps for device in honest]
    until(lambda: all(device.steps > before for device, before in zip(honest, steps, strict=True)), "more steps")
    assert [(device.problem, device.was_cut_off) for device in honest] == [(None, False)] * 2


def test_messages_out_of_order_from_one_that_takes_part(meeting):
    """A piece near the end of a huge message for the others takes no memory anywhere."""
    hub, honest, said = meeting
    hostile = Hostile(hub.address)
    hostile.come_in(hub)
    end = packed(
        *(Kind.RELAY,),
        view=hub._views.number,
        offset=MOST_BYTES - PIECE_BYTES,
        total=MOST_BYTES,
        length=PIECE_BYTES,
        seat=hostile.seat,
    )
    with suppress(OSError):
        hostile.send(end + bytes(PIECE_BYTES))
    until(lambda: any("pieces are not in order" in line for line in said), "its refusal")
    assert hub.refused == 1
    hostile.close()
    steps = [device.steps for device in honest]
    until(lambda: all(device.steps > before for device, before in zip(honest, steps, strict=True)), "more steps")
    assert [(device.problem, device.was_cut_off) for device in honest] == [(None, False)] * 2


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
@pytest.mark.timeout(300)
def test_ten_thousand_frames(meeting):
    """Any of them, and noise in good ones: nobody crashes, no sum is wrong, and memory does not grow."""
    hub, honest, said = meeting
    noise, hostile, sessions, lost = random.Random(0), None, 0, Counter()
    until(lambda: all(device.steps > 3 for device in honest), "a few steps")
    threads, before, steps = threading.active_count(), 0, [device.steps for device in honest]
    for number in range(COUNT):
        if number == COUNT // 5:
            before = resident()
        if hostile is None:
            hostile, sessions = Hostile(hub.address), sessions + 1
        where, data = fuzzed(noise, hostile.seat, hub._views.number)
        try:
            hostile.send(data, where)
            ends = where is not None and noise.random() < 0.05
        except OSError:
            ends = True
        if ends or (number % 8 == 0 and hostile.is_lost()):
            hostile.close()
            hostile = None
    if hostile is not None:
        hostile.close()
    grown = resident() - before
    assert grown < 30e6, f"{grown / 1e6:.1f} MB more"
    ended = "hostile (device 2) has left: "
    until(lambda: sum(line.startswith(ended) for line in list(said)) == sessions, "the end of the last session")
    until(lambda: threading.active_count() <= threads + 3, "the end of its threads")
    lost.update(line.split("has left: ")[1].split(":")[0] for line in said if "hostile" in line and "has left" in line)
    assert lost["what it sent was refused"] == hub.refused > COUNT // 50, lost
    assert sum(lost.values()) == sessions
    assert all("\n" not in line and len(line) < 300 for line in said)
    assert [(device.problem, device.was_cut_off) for device in honest] == [(None, False)] * 2
    assert all(device.steps > start + 50 for device, start in zip(honest, steps, strict=True))


def fuzzed(noise, seat, view):
    """Where to send what: mostly frames that are nearly right, of views and collectives that are not its own."""
    good = packed(
        noise.choice([Kind.REDUCE, Kind.GATHER, Kind.SWAP, Kind.RELAY]),
        seat=seat,
        view=max(0, view - noise.randrange(3)),
        sequence=noise.randrange(2**32),
        total=4 * LENGTH,
        length=4 * LENGTH,
    ) + noise.randbytes(4 * LENGTH)
    draw = noise.random()
    if draw < 0.5:  # of a collective in which it has no part, or of a view that is over; sometimes twice
        return "up", good * noise.choice([1, 1, 2])
    if draw < 0.6:  # it stops in the middle, and the rest is taken for what it is not
        return "up", good[: noise.randrange(1, len(good))]
    if draw < 0.7:
        _, (where, data, _) = noise.choice(list(WRONG.items()))
        return where, data
    data = bytearray(good)
    for _ in range(noise.randint(1, 4)):
        data[noise.randrange(HEADER_BYTES)] = noise.randrange(256)
    if draw < 0.85:
        data[HEADER_BYTES - 4 : HEADER_BYTES] = struct.pack("!I", zlib.crc32(bytes(data[: HEADER_BYTES - 4])))
    with suppress(FrameError):
        if parse(data[:HEADER_BYTES]).kind is Kind.NOTE:
            return "up", good
    return "up", bytes(data)
