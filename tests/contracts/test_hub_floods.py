"""Members that flood, and a hub whose disk is full: the others notice nothing."""

import json
import socket

import pytest
import torch

from scadles.clock import wall_seconds
from scadles.errors import ConfigError, FabricError
from scadles.fabric.hub import acceptor, reception, server
from scadles.fabric.hub.frames import Kind
from scadles.fabric.hub.secure import SecureConnection
from scadles.security import Credentials, Rate, guard, store
from scadles.testing.elastic import come_in
from secure_hub import LIMIT_S, answer_to, go_on, two_that_add_up, until

NEVER = 1e-9


def test_a_device_that_comes_and_goes_is_let_in_so_often_only(hub, connect, closing, monkeypatch, tmp_path):
    monkeypatch.setattr(reception, "_SESSIONS", Rate(hz=2.0, burst=3))
    serving = hub(least=2)
    steps = two_that_add_up(serving, connect, closing)
    credentials = serving.enrol(tmp_path / "cam-3", "cam-3")
    kinds = []
    for _ in range(6):
        kind, answer = answer_to(serving.address, credentials.context, role="control", name="cam-3", run="")
        kinds.append((kind, answer.get("again")))
    assert kinds[:3] == [(Kind.WELCOME, None)] * 3
    assert (Kind.REFUSAL, True) in kinds[3:]
    said = []
    device = serving.connect("cam-3", credentials, say=said.append)
    closing.callback(device.close)
    assert device.rank == 2, "it waits until it is let in"
    go_on(serving, steps)
    assert any("cam-3 comes and goes too often: it is let in every 0.5 s" in line for line in serving.said)


@pytest.mark.parametrize("role", ["up", "down"])
def test_a_session_has_one_connection_for_each_way(hub, connect, tmp_path, role):
    serving = hub()
    device = connect(serving, "cam-1")
    session = device._session.welcome["session"]
    own = Credentials(tmp_path / "cam-1").context
    kind, answer = answer_to(serving.address, own, role=role, session=session)
    assert kind is Kind.REFUSAL
    assert answer["why"] == f"cam-1 has its connection for what goes {role} already"


def test_states_that_nobody_waits_for_are_heard_so_often_only(hub, connect, tmp_path, monkeypatch):
    monkeypatch.setattr(acceptor, "_OF_ONE_ADDRESS", Rate(hz=NEVER, burst=20))
    serving = hub()
    device = connect(serving, "cam-1")
    own, session = Credentials(tmp_path / "cam-1").context, device._session.welcome["session"]
    kinds = [answer_to(serving.address, own, role="give", session=session, view=9)[0] for _ in range(40)]
    assert kinds.count(Kind.WELCOME) == 20 - 2, "two were to enrol it"
    assert not device.changed


def test_a_flood_of_texts_waits_on_the_device(hub, connect, closing, tmp_path):
    serving = hub(least=2)
    steps = two_that_add_up(serving, connect, closing)
    connection = SecureConnection(
        socket.create_connection(serving.address), serving.enrol(tmp_path / "cam-3", "cam-3").context, at_hub=False
    )
    closing.callback(connection.release)
    connection.limit(LIMIT_S)
    connection.shake_hands()
    connection.send_text(Kind.HELLO, {"role": "control", "name": "cam-3", "run": ""})
    connection.receive_text(connection.receive())
    began_s = wall_seconds()
    for _ in range(1000):
        connection.send_text(Kind.PULSE, {})
    for _ in range(400):
        connection.receive_text(connection.receive())
    rate, passed_s = server._TEXTS, wall_seconds() - began_s
    assert rate.burst + rate.hz * passed_s + 1 >= 400
    go_on(serving, steps)
    assert "cam-3" not in "".join(serving.said), "it is slowed down, and not refused"


def test_a_flood_of_notes_ends_the_session(hub, connect):
    serving = hub(least=1)
    device = connect(serving, "cam-1")
    come_in(device, 0)
    for step in range(1, 4):
        device.note(step, {})
        bucket = torch.ones(3)
        device.reduce(bucket, "a sum").wait()
    for _ in range(1000):
        device.note(4, {})
        device._sequence += 1
    until(lambda: serving.hub.refused == 1, "its refusal")
    until(lambda: any("has left: what it sent was refused: a second note" in line for line in serving.said), "a line")


def test_certificates_are_made_so_often_only(hub, connect, closing, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "_CERTIFICATES", Rate(hz=NEVER, burst=4))
    serving = hub(least=2)
    steps = two_that_add_up(serving, connect, closing)
    credentials = Credentials(tmp_path / "cam-1")
    file = serving.folder / "authority/devices.json"
    serials = set()
    for _ in range(20):
        hello = {"role": "renew", "name": "cam-1", "request": credentials.request()}
        kind, answer = answer_to(serving.address, credentials.context, **hello)
        serials.add(json.loads(file.read_text())["cam-1"]["serial"])
    assert len(serials) == 3, "with the first one four"
    assert kind is Kind.REFUSAL
    assert answer["why"].startswith("cam-1 asks for certificates too often: it gets one every ")
    go_on(serving, steps)


def full_disk(path, _):
    raise ConfigError(f"cannot write {path}: No space left on device")


def test_a_hub_that_cannot_write_its_list_says_where_to_its_operator_alone(hub, connect, tmp_path, monkeypatch):
    serving = hub()
    credentials = serving.enrol(tmp_path / "cam-1", "cam-1")
    hello = {"role": "renew", "name": "cam-1", "request": credentials.request()}
    _, answer = answer_to(serving.address, credentials.context, **hello)  # the next key is to be taken
    credentials.keep(answer["certificate"])
    token = serving.guard.new_token(1)
    with monkeypatch.context() as full:
        full.setattr(store, "write_private", full_disk)
        with pytest.raises(FabricError) as caught:
            serving.enrol(tmp_path / "cam-2", "cam-2", token)
        connected = serving.connect("cam-1", credentials)
        connected.close()
    sentence = "the hub cannot read or write its list of devices; whoever looks after it is told why"
    assert str(caught.value) == f"the hub refuses cam-2 for now: {sentence}"
    assert caught.value.exit_code == 3
    [line] = [line for line in serving.said if "refused" in line]
    assert line.startswith(f"cam-2 (127.0.0.1) was refused: cannot write {serving.folder}/authority/")
    connect(serving, "cam-2")
