"""When the other end of a connection is silent, and when it is only slow."""

import math
import socket
import sys
import time

import pytest

from scadles.fabric.hub.connection import Connection
from scadles.fabric.hub.members import PULSE_S, Member, Pulse

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when the other end was last heard")


@pytest.fixture
def ends():
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    with near, far:
        yield Connection(near), far


def until(condition, again=lambda: None):
    give_up_s = time.monotonic() + 60
    while True:
        again()
        if condition():
            return
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


@on_linux
def test_bytes_that_come_and_bytes_that_are_taken(ends):
    near, far = ends
    until(lambda: near.since_data_s() > 0.3)
    assert near.since_taken_s() > 0.2
    until(lambda: near.since_data_s() < 0.3, lambda: far.sendall(b"x"))
    until(lambda: min(near.since_data_s(), near.since_taken_s()) > 0.3)
    until(lambda: near.since_taken_s() < 0.3 < near.since_data_s(), lambda: near._socket.sendall(b"y"))


def test_where_nothing_is_told():
    near, far = socket.socketpair()
    with near, far:
        assert (Connection(near).since_data_s(), Connection(near).since_taken_s()) == (math.inf, math.inf)


@on_linux
def test_a_device_whose_bytes_come_is_not_silent(ends):
    near, far = ends
    pulse, silent_s = Pulse(0.0), 20 * PULSE_S + 5.0
    for i in range(1, 20):
        pulse.heard(i * PULSE_S)
    member = Member("cam-1", 0, "", near, pulse)
    assert member.is_silent(silent_s), "it has not opened its other connections yet"
    member.up = near
    until(lambda: not member.is_silent(silent_s), lambda: far.sendall(b"x"))
    until(lambda: member.is_silent(silent_s))
    member.up, member.down = None, near
    until(lambda: not member.is_silent(silent_s), lambda: near._socket.sendall(b"y"))
    until(lambda: member.is_silent(silent_s))
    assert not member.is_silent(19 * PULSE_S + 0.3)
