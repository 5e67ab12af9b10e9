"""Strangers, and members that flood: what they cost a hub is bounded, and the others notice nothing."""

import random
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from scadles.errors import FabricError
from scadles.fabric.hub import acceptor, enrolment, server
from scadles.fabric.hub.connection import Connection
from scadles.fabric.hub.frames import Frame, Kind
from scadles.fabric.hub.secure import SecureConnection
from scadles.security import Credentials, Rate, context_of_a_stranger, device_context, guard
from secure_hub import LIMIT_S, go_on, two_that_add_up, until

STRANGER = "127.0.0.9"
NEVER = 1e-9


def call(serving, address=STRANGER):
    """Connect from another address of this machine."""
    return socket.create_connection(serving.address, LIMIT_S, source_address=(address, 0))


def client_hello():
    """The first bytes of a TLS handshake, for which a hub must sign something."""
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    talk = context_of_a_stranger().wrap_bio(coming, going)
    with suppress(ssl.SSLWantReadError):
        talk.do_handshake()
    return going.read()


class Flood:
    """A stranger that connects again and again with the same bytes, or with noise, until it is told to stop."""

    def __init__(self, serving, content=None, address=STRANGER):
        self._serving, self._content, self._address = serving, content, address
        self._noise = random.Random(0)
        self._stop = Event()
        self.count = 0
        self._thread = Thread(target=self._work, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(LIMIT_S)

    def _work(self):
        while not self._stop.is_set():
            with suppress(OSError), call(self._serving, self._address) as stranger:
                self.count += 1
                stranger.sendall(self._content or self._noise.randbytes(200))
                stranger.recv(1)


def heard(serving):
    """Let a hub count how many connections it hears, with all that this costs."""
    count = []
    make = serving.hub._acceptor._make
    serving.hub._acceptor._make = lambda sock: count.append(sock.getpeername()[0]) or make(sock)
    return count


@pytest.mark.parametrize("content", [None, client_hello()], ids=["noise", "handshakes"])
def test_a_flood_is_heard_so_often_only_and_honest_devices_get_in(hub, connect, closing, monkeypatch, content):
    monkeypatch.setattr(acceptor, "_OF_ONE_ADDRESS", Rate(hz=NEVER, burst=20))
    serving = hub(least=2)
    count, steps = heard(serving), two_that_add_up(serving, connect, closing)
    with Flood(serving, content) as flood:
        until(lambda: flood.count > 200, "a flood")
        late = connect(serving, "cam-3")
        come_in_step = flood.count
        until(lambda: flood.count > come_in_step + 50, "more of it")
        go_on(serving, steps)
    assert late.rank == 2
    assert count.count(STRANGER) == 20
    until(lambda: serving.hub.refused >= flood.count, "all to be counted")
    assert 8 <= sum(line.startswith(f"{STRANGER} was refused") for line in serving.said) < 30, "of very many a few"


def test_strangers_of_many_addresses_share_one_limit_which_is_not_for_devices(hub, connect, tmp_path, monkeypatch):
    monkeypatch.setattr(acceptor, "_OF_STRANGERS", Rate(hz=NEVER, burst=30))
    serving = hub()
    credentials = serving.enrol(tmp_path / "cam-1", "cam-1")
    serving.connect("cam-1", credentials).close()
    count = heard(serving)
    for number in range(2, 100):
        with suppress(OSError), call(serving, f"127.0.0.{number}") as stranger:
            stranger.sendall(b"noise" * 20)
            stranger.recv(1)
    until(lambda: serving.hub.refused == 98, "all to be refused")
    assert 25 <= len(count) <= 28, "two were to enrol the device, and some for what it said before it was known"
    serving.connect("cam-1", credentials).close()


def test_a_whole_fleet_behind_one_address_comes_back_at_once(hub, tmp_path, monkeypatch, closing):
    """With half as many connections again as may come at once: what was in order does not count."""
    fleet = 24
    monkeypatch.setattr(acceptor, "_OF_ONE_ADDRESS", Rate(hz=NEVER, burst=2 * fleet))
    monkeypatch.setattr(acceptor, "_OF_STRANGERS", Rate(hz=NEVER, burst=2 * fleet))
    serving = hub(seats=fleet)
    names = [f"cam-{number}" for number in range(fleet)]
    known = {name: serving.enrol(tmp_path / name, name) for name in names}
    port = serving.address[1]
    serving.close()
    serving.start(port)
    with ThreadPoolExecutor(fleet) as pool:
        fabrics = list(pool.map(lambda name: serving.connect(name, known[name]), names))
    for fabric in fabrics:
        closing.callback(fabric.close)
    assert serving.hub.refused == 0, serving.said
    assert sorted(fabric.rank for fabric in fabrics) == list(range(fleet))


def test_a_device_whose_connections_are_closed_unheard_tries_again(hub, tmp_path):
    serving = hub()
    credentials, said = Credentials(tmp_path / "cam-1"), []
    hears = [True, False] * 5
    serving.hub._acceptor._limits.take = lambda *_: hears.pop() if hears else True
    enrolment.enrol(serving.address, "cam-1", serving.guard.new_token(1), serving.guard.ca_hash, credentials)
    serving.connect("cam-1", credentials, say=said.append).close()
    assert serving.hub.refused == 5
    assert any("does not answer (" in line for line in said)


def test_who_says_nothing_pushes_out_only_his_own(hub, connect, monkeypatch, closing):
    monkeypatch.setattr(acceptor, "_MOST_WAITING", 20)
    serving = hub()
    first = [closing.enter_context(call(serving, f"127.0.0.{number}")) for number in range(2, 7)]
    until(lambda: len(serving.hub._acceptor._greetings) == 5, "five that wait")
    threads = threading.active_count()
    for _ in range(200):
        closing.enter_context(call(serving))
    until(lambda: serving.hub.refused == 200 + 5 - 20, "those that are too many to be closed")
    assert len(serving.hub._acceptor._greetings) == 20
    until(lambda: threading.active_count() <= threads + 15 + 1, "the end of their threads")
    assert "it has not said hello, and 16 connections of its address have not" in serving.said[0]
    connect(serving, "cam-1")
    for sock in first:
        sock.settimeout(0.0)
        with pytest.raises(BlockingIOError):  # it is open still
            sock.recv(1)


def test_a_hello_that_never_ends(hub, monkeypatch, closing):
    """Each byte comes in time, and all of them take too long."""
    monkeypatch.setattr(acceptor, "_HELLO_S", 0.5)
    monkeypatch.setattr(acceptor, "_LOOK_S", 0.05)
    serving = hub()
    stranger = closing.enter_context(call(serving))
    hello = client_hello()
    with suppress(OSError):
        for number in range(len(hello)):
            stranger.sendall(hello[number : number + 1])
            if serving.hub.refused:
                break
            Event().wait(0.02)
    until(lambda: serving.said, "its end")
    assert serving.said == [f"{STRANGER} was refused: it has not said hello within 0.5 s"]
    assert not serving.hub._acceptor._greetings


def test_a_long_hello_takes_no_memory(hub, closing):
    serving = hub()
    context = device_context(serving.guard.authority.certificate)
    connection = SecureConnection(call(serving), context, at_hub=False)
    closing.callback(connection.release)
    connection.limit(LIMIT_S)
    connection.shake_hands()
    connection.send(Frame(Kind.HELLO, total=1 << 18, length=1 << 18), bytes(1 << 18))
    until(lambda: serving.hub.refused == 1, "its refusal")
    until(lambda: serving.said, "it to be told")
    assert serving.said == [f"{STRANGER} was refused: a hello of 262144 bytes, at most 16384 are agreed"]


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_memory_is_flat(hub, monkeypatch):
    """Of the hub and of who floods it, who are one process here."""
    monkeypatch.setattr(acceptor, "_OF_ONE_ADDRESS", Rate(hz=1e6, burst=1000))
    monkeypatch.setattr(acceptor, "_OF_STRANGERS", Rate(hz=1e6, burst=1000))
    serving = hub()
    hello, threads = client_hello(), threading.active_count()
    before = 0
    with ExitStack() as held:
        for number in range(1500):
            if number == 500:
                before = resident()
            stranger = held.enter_context(call(serving))
            stranger.sendall(hello if number % 3 else b"\x16\x03\x01")
            if number % 3 == 1:
                held.pop_all().close()
    until(lambda: serving.hub.refused == 1500, "the last one")
    until(lambda: threading.active_count() <= threads, "the end of their threads")
    assert resident() - before < 20e6
    assert len(serving.said) < 30


def test_plain_hubs_have_the_same_limits(closing, monkeypatch):
    monkeypatch.setattr(acceptor, "_OF_ONE_ADDRESS", Rate(hz=NEVER, burst=5))
    plain = server.Hub("127.0.0.1", 0, 2)
    closing.callback(plain.close)
    plain.start()
    for _ in range(50):
        with suppress(OSError), socket.create_connection(plain.address, source_address=(STRANGER, 0)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n" * 8)
            stranger.recv(1)
    until(lambda: plain.refused == 50, "all to be refused")
    connection = Connection.open(*plain.address, LIMIT_S)
    closing.callback(connection.close)
    connection.send_text(Kind.HELLO, {"role": "control", "name": "cam-1", "run": ""})
    assert connection.receive().kind is Kind.WELCOME


def test_guessed_tokens_lock_nobody_out(hub, connect, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "_CERTIFICATES", Rate(hz=NEVER, burst=1))
    serving = hub()
    for number in range(20):
        with pytest.raises(FabricError, match="its token is not known here"):
            serving.enrol(tmp_path / "thief", "cam-1", f"{number:032x}")
    connect(serving, "cam-1")
