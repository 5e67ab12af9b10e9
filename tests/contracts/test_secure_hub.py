"""A hub with TLS: who belongs takes part, everybody else gets one sentence, and nothing plain is on the wire."""

import json
import random
import re
import shutil
import socket
import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch

from scadles.clock import unix_seconds
from scadles.errors import FabricError, MembershipChangedError, UntrustedError
from scadles.fabric.hub import Hub, HubFabric, client, enrol, enrolment
from scadles.fabric.hub.frames import Kind
from scadles.security import Credentials, Registry, device_context
from scadles.testing.elastic import come_in
from secure_hub import LIMIT_S, Recorder, answer_to, own_context, until

NAME = "a camera, no one's"


def together(fabrics, work):
    with ThreadPoolExecutor(len(fabrics)) as pool:
        return list(pool.map(work, fabrics, timeout=LIMIT_S))


def two(serving, connect, tmp_path):
    """Two devices that take part; each goes on where the other is lost."""
    fabrics = [connect(serving, name, serving.enrol(tmp_path / name, name)) for name in ("cam-1", "cam-2")]
    together(fabrics, lambda fabric: come_in(fabric, 0))
    serving.hub._views.least = 1
    return fabrics


def add_up(fabrics, steps=3, length=300_000):
    for step in range(1, steps + 1):
        buckets = {fabric: torch.full((length,), float(step)) for fabric in fabrics}
        together(fabrics, lambda fabric, buckets=buckets: fabric.reduce(buckets[fabric], "a sum").wait())
        assert all(bucket.eq(step * len(fabrics)).all() for bucket in buckets.values())


def test_sums_of_devices_that_have_been_enrolled(hub, connect, tmp_path):
    serving = hub(least=2)
    fabrics = two(serving, connect, tmp_path)
    add_up(fabrics)
    assert serving.hub.refused == 0
    assert [one["serial"] for one in devices_of(serving).values()] != []


def devices_of(serving):
    return json.loads((serving.folder / "authority/devices.json").read_text())


def refused(serving, work, sentence, more=1):
    """Whether ``work`` is refused with a sentence, which the hub counts, and says in one line."""
    before, lines = serving.hub.refused, len(serving.said)
    with pytest.raises(FabricError) as caught:
        work()
    assert re.search(sentence, str(caught.value)), str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    until(lambda: serving.hub.refused == before + more, "it to be counted")
    until(lambda: len(serving.said) > lines, "it to be told")
    assert "\n" not in serving.said[-1]
    return serving.said[-1]


def test_no_certificate(hub):
    serving = hub()
    kind, answer = answer_to(
        serving.address, device_context(serving.guard.authority.certificate), role="control", name="cam-1"
    )
    assert kind is Kind.REFUSAL
    assert "it shows no certificate: enrol it with scadles join ADDRESS --name NAME --token T" in answer["why"]
    until(lambda: serving.hub.refused == 1, "it to be counted")


@pytest.mark.parametrize("role", ["up", "down", "give"])
def test_a_session_belongs_to_one_certificate(hub, connect, tmp_path, role):
    serving = hub()
    first = connect(serving, "cam-1", serving.enrol(tmp_path / "cam-1", "cam-1"))
    other = own_context(serving.enrol(tmp_path / "cam-2", "cam-2"))
    session = first._session.welcome["session"]
    kind, answer = answer_to(serving.address, other, role=role, session=session)
    assert kind is Kind.REFUSAL
    assert "its certificate is for the name cam-2, and it says that it is cam-1" in answer["why"]
    stranger = device_context(serving.guard.authority.certificate)
    assert "no certificate" in answer_to(serving.address, stranger, role=role, session=session)[1]["why"]


def test_another_authority_at_the_hub(hub, tmp_path):
    mine, other = hub(), hub(folder="other")
    credentials = mine.enrol(tmp_path / "cam-1", "cam-1")
    line = refused(other, lambda: other.connect("cam-1", credentials), "the hub is not of the authority that enrolled")
    assert line.endswith("was refused: it was enrolled by another authority than this hub's")


def test_another_authority_of_a_device_that_trusts_any_hub(hub, tmp_path):
    mine, other = hub(), hub(folder="other")
    context = own_context(mine.enrol(tmp_path / "cam-1", "cam-1"), knows_hub=False)
    _, answer = answer_to(other.address, context, role="control", name="cam-1", run="")
    assert "the hub does not know the authority that enrolled this device" in answer["why"]
    until(lambda: other.said == ["127.0.0.1 was refused: its certificate is of another authority"], other.said)
    assert other.hub.refused == 1


def test_a_hub_with_another_hash_is_told_nothing_secret(hub, tmp_path, closing):
    serving, other = hub(), hub(folder="other")
    recorder = Recorder(serving.address)
    closing.callback(recorder.close)
    with pytest.raises(UntrustedError, match=r"has another authority \(sha256:\w{64}\) than --ca-hash says") as caught:
        enrol(recorder.address, "cam-1", "T", other.guard.ca_hash, Credentials(tmp_path / "cam-1"))
    assert caught.value.exit_code == 3
    assert not (tmp_path / "cam-1").exists()
    assert serving.hub.state().known == []


def test_a_name_that_is_not_its_own(hub, tmp_path):
    serving = hub()
    credentials = serving.enrol(tmp_path / "cam-1", "cam-1")
    line = refused(
        serving, lambda: serving.connect("cam-2", credentials), "is for the name cam-1, and it says .* cam-2"
    )
    assert line == "cam-2 (127.0.0.1) was refused: its certificate is for the name cam-1, and it says that it is cam-2"


def test_revoked_while_it_takes_part_and_readmitted(hub, connect, tmp_path):
    serving = hub(least=2)
    one, other = two(serving, connect, tmp_path)
    Registry(serving.folder / "authority").revoke("cam-1")  # as another process does
    until(lambda: list(serving.hub.members().values()) == ["cam-2"], "its end")
    assert "cam-1 (device 0) has left: it has been revoked" in serving.said
    with pytest.raises(MembershipChangedError):
        one.reduce(torch.ones(3), "a sum").wait()
    refused(serving, lambda: one.enter(0), "the hub refuses cam-1: cam-1 has been revoked: at the hub, scadles devices")
    until(lambda: other.changed, "it to hear of that")
    other.enter(0)
    add_up([other])
    Registry(serving.folder / "authority").readmit("cam-1")
    again = connect(serving, "cam-1", Credentials(tmp_path / "cam-1"))
    assert again.rank == one.rank


class Times:
    """What time it is, as a hub has it."""

    def __init__(self):
        self.later_s = 0.0

    def __call__(self):
        return unix_seconds() + self.later_s


def test_expired(hub, connect, tmp_path):
    times = Times()
    serving = hub(now=times, life_s=30 * 86_400.0)
    credentials = serving.enrol(tmp_path / "cam-1", "cam-1")
    connect(serving, "cam-1", credentials)
    times.later_s = 31 * 86_400.0
    until(lambda: "cam-1 (device 0) has left: its certificate has expired" in serving.said, "its end")
    sentence = r"its certificate has expired \(\d{4}-\d\d-\d\d \d\d:\d\d UTC\): join with a new token"
    refused(serving, lambda: serving.connect("cam-1", credentials), sentence)
    again = serving.enrol(tmp_path / "cam-1", "cam-1")  # the same key, so that nobody must readmit it
    connect(serving, "cam-1", again)


def test_a_device_and_a_hub_that_believe_it_is_1970(hub, connect, tmp_path):
    serving = hub(now=lambda: 3600.0, life_s=30 * 86_400.0)
    connect(serving, "cam-1", serving.enrol(tmp_path / "cam-1", "cam-1"))
    [enrolled] = devices_of(serving).values()
    assert enrolled["expires"] == 3600.0 + 30 * 86_400.0, "long over by the clock of this process, OpenSSL's included"


def test_another_run(hub, tmp_path):
    first = hub()
    credentials = first.enrol(tmp_path / "cam-1", "cam-1")
    first.close()
    second = hub(run="another")
    refused(second, lambda: second.connect("cam-1", credentials), "its certificate is for another run than this hub's")


def test_a_device_that_the_hub_has_lost(hub, tmp_path):
    serving = hub()
    credentials = serving.enrol(tmp_path / "cam-1", "cam-1")
    (serving.folder / "authority/devices.json").unlink()
    refused(serving, lambda: serving.connect("cam-1", credentials), "cam-1 is not among the devices of this hub")


def test_a_name_that_another_key_has(hub, connect, tmp_path):
    serving = hub()
    old = serving.enrol(tmp_path / "old", "cam-1")
    refused(serving, lambda: serving.enrol(tmp_path / "new", "cam-1"), "the name cam-1 is taken by another key: at the")
    Registry(serving.folder / "authority").readmit("cam-1")
    connect(serving, "cam-1", serving.enrol(tmp_path / "new", "cam-1"))
    refused(serving, lambda: serving.connect("cam-1", old), "the name cam-1 belongs to another key")


def test_a_revoked_name_is_free_for_another_key_and_not_for_its_own(hub, connect, tmp_path):
    serving = hub()
    serving.enrol(tmp_path / "old", "cam-1")
    Registry(serving.folder / "authority").revoke("cam-1")
    refused(serving, lambda: serving.enrol(tmp_path / "old", "cam-1"), "cam-1 has been revoked")
    connect(serving, "cam-1", serving.enrol(tmp_path / "new", "cam-1"))


def test_tokens(hub, tmp_path):
    times = Times()
    serving = hub(now=times)
    token = serving.guard.new_token(2, hours=1.0)
    for name in ("cam-1", "cam-2"):
        serving.enrol(tmp_path / name, name, token)
    refused(serving, lambda: serving.enrol(tmp_path / "c", "cam-3", token), r"its token is used up \(good for 2\)")
    refused(serving, lambda: serving.enrol(tmp_path / "c", "cam-3", "guessed"), "its token is not known here")
    late = serving.guard.new_token(2, hours=1.0)
    times.later_s = 3601.0
    refused(serving, lambda: serving.enrol(tmp_path / "c", "cam-3", late), r"its token has expired \(")
    kept = (serving.folder / "authority/tokens.json").read_text()
    assert token not in kept
    assert late not in kept


def test_an_answer_that_is_lost_costs_no_token(hub, connect, tmp_path, monkeypatch):
    """The device has not kept its certificate when it is cut off; with the same token and key it gets another one."""
    serving = hub()
    token = serving.guard.new_token(1)
    with monkeypatch.context() as cut:
        cut.setattr(Credentials, "keep", lambda *_: (_ for _ in ()).throw(ConnectionError("cut off")))
        with pytest.raises(ConnectionError):
            serving.enrol(tmp_path / "cam-1", "cam-1", token)
    credentials = serving.enrol(tmp_path / "cam-1", "cam-1", token)
    connect(serving, "cam-1", credentials)
    before = serving.hub.refused
    assert serving.enrol(tmp_path / "cam-1", "cam-1", token).are_here, "it does not even ask"
    assert serving.hub.refused == before


@pytest.mark.parametrize(
    ("hello", "sentence"),
    [
        ({"role": "enrol", "name": "cam-1", "token": "T", "request": "none"}, "no request that its key has signed"),
        ({"role": "enrol", "name": "cam-1", "token": 7}, "no request that its key has signed"),
        ({"role": "enrol", "name": "a\nb", "token": "T", "request": "none"}, "a name must be 1 to 64 printable"),
        ({"role": "renew", "name": "cam-1", "request": "none"}, "it shows no certificate"),
        ({"role": "up", "session": "guessed"}, "it shows no certificate"),
        ({"role": []}, "it shows no certificate"),
    ],
)
def test_what_a_stranger_may_not_ask(hub, hello, sentence):
    serving = hub()
    context = device_context(serving.guard.authority.certificate)
    kind, answer = answer_to(serving.address, context, **hello)
    assert kind is Kind.REFUSAL
    assert sentence in answer["why"]
    until(lambda: serving.hub.refused == 1, "it to be counted")


def test_plain_text_to_a_hub_with_tls(hub):
    serving = hub()
    line = refused(
        serving,
        lambda: HubFabric(*serving.address, "cam-1", deadline_s=LIMIT_S),
        "this hub speaks TLS: enrol this device with --token and --ca-hash, and leave --insecure out",
    )
    assert line == "127.0.0.1 was refused: it does not speak TLS, and this hub does"


def test_tls_to_a_hub_without(hub, closing, tmp_path):
    serving = hub()
    credentials = serving.enrol(tmp_path / "cam-1", "cam-1")
    said = []
    plain = Hub("127.0.0.1", 0, 2, say=said.append)
    closing.callback(plain.close)
    plain.start()
    with pytest.raises(FabricError, match="the hub does not speak TLS: it was started with --insecure, or on loopback"):
        HubFabric(*plain.address, "cam-1", deadline_s=LIMIT_S, credentials=credentials)
    until(lambda: plain.refused == 1, "it to be counted")
    assert "it speaks TLS, and this hub does not" in said[0]


def test_tls_1_2(hub, tmp_path):
    serving = hub()
    context = own_context(serving.enrol(tmp_path / "cam-1", "cam-1"))
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    _, answer = answer_to(serving.address, context, role="control", name="cam-1")
    assert "TLS 1.3 is needed, and the other end has only older versions" in answer["why"]
    until(lambda: serving.hub.refused == 1, "it to be counted")
    assert serving.said == ["127.0.0.1 was refused: TLS 1.3 is needed, and the other end has only older versions"]


def test_bytes_that_are_altered_on_the_way_end_the_session(hub, connect, tmp_path):
    serving = hub(least=2)
    one, _ = two(serving, connect, tmp_path)
    socket.socket.sendall(one._session.up._socket, b"\x17\x03\x03\x00\x20" + bytes(32))
    until(lambda: any("has left" in line for line in serving.said), "its end")
    assert re.search(r"has left: what it sent was refused: TLS broke off \(.*mac\)", "".join(serving.said))
    assert serving.hub.refused == 1


def test_whoever_stands_still_in_a_handshake_holds_nobody_up(hub, connect, tmp_path, closing):
    serving = hub(least=2)
    for _ in range(200):
        closing.enter_context(socket.create_connection(serving.address)).sendall(b"\x16\x03\x01\x02\x00\x01")
    fabrics = two(serving, connect, tmp_path)
    add_up(fabrics)


def test_noise_is_refused_and_the_run_goes_on(hub, connect, tmp_path):
    serving = hub(least=2)
    fabrics = two(serving, connect, tmp_path)
    draw = random.Random(0)
    for number in range(100):
        noise = draw.randbytes(draw.randrange(1, 600))
        begin = (b"", b"\x16\x03\x01", b"\x16", b"ScaD\x01")[number % 4]
        with socket.create_connection(serving.address) as stranger, suppress(OSError):
            stranger.sendall(begin + noise)
            stranger.shutdown(socket.SHUT_WR)
    until(lambda: serving.hub.refused == 100, "all to be refused")
    assert all(line.startswith("127.0.0.1 was refused: ") for line in serving.said[2:])
    add_up(fabrics)


DUE_NOW = {"left_s": 43_200.0, "life_s": 86_400.0}


def test_renewals_without_a_lost_step(hub, connect, tmp_path):
    serving = hub(least=2)
    fabrics = two(serving, connect, tmp_path)
    first = devices_of(serving)
    view = serving.hub._views.number
    steps = 0
    for count in range(1, 6):
        for fabric in fabrics:
            fabric._renewal.learn(DUE_NOW)
        while min(fabric._renewal.count for fabric in fabrics) < count:
            add_up(fabrics, steps=1, length=1000)
            steps += 1
    assert steps >= 5
    assert serving.hub._views.number == view, "nobody was lost"
    assert serving.hub.refused == 0, serving.said
    assert all(first[name]["serial"] != one["serial"] for name, one in devices_of(serving).items())
    assert devices_of(serving)["cam-1"]["next_key"] != first["cam-1"]["key"]
    serving.hub._views.least = 2
    fabrics[0]._session.close("cut off")  # a later session shows the new certificate
    until(lambda: fabrics[1].changed, "the loss")
    together(fabrics, lambda fabric: come_in(fabric, steps))
    add_up(fabrics, steps=1)
    now = devices_of(serving)["cam-1"]
    assert (now["key"] != first["cam-1"]["key"], now["next_key"]) == (True, "")


def test_a_certificate_renews_itself_at_half_its_life(hub, connect, tmp_path):
    serving = hub(life_s=12.0)
    began_s = unix_seconds()
    fabric = connect(serving, "cam-1", serving.enrol(tmp_path / "cam-1", "cam-1"))
    until(lambda: fabric._renewal.count, "its renewal")
    assert unix_seconds() - began_s > 4.0
    assert serving.hub.refused == 0, serving.said


def test_a_renewal_whose_answer_is_lost_leaves_the_old_key_good(hub, connect, tmp_path):
    serving = hub()
    credentials = serving.enrol(tmp_path / "cam-1", "cam-1")
    hello = {"role": "renew", "name": "cam-1", "request": credentials.request()}
    kind, _ = answer_to(serving.address, credentials.context, **hello)  # and it forgets the answer
    assert kind is Kind.WELCOME
    connect(serving, "cam-1", Credentials(tmp_path / "cam-1"))


def test_what_hinders_a_renewal_is_said_once_and_tried_again(hub, connect, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(enrolment, "_LONGEST_PAUSE_S", 0.05)
    serving = hub()
    fabric = connect(serving, "cam-1", serving.enrol(tmp_path / "cam-1", "cam-1"), say=said.append)
    with monkeypatch.context() as broken:
        broken.setattr(Credentials, "request", lambda *_, **__: "none")
        fabric._renewal.learn(DUE_NOW)
        until(lambda: serving.hub.refused > 1, "two attempts")
    until(lambda: fabric._renewal.count, "the first that works")
    [line] = said
    assert re.match("the certificate of cam-1 is not renewed yet: .*no request.*; trying again", line)


def test_a_hub_that_is_killed_comes_back_with_its_authority(hub, connect, tmp_path):
    serving = hub(least=2)
    fabrics = two(serving, connect, tmp_path)
    ca_hash, port = serving.guard.ca_hash, serving.address[1]
    serving.close()
    until(lambda: all(fabric.changed for fabric in fabrics), "the loss")
    serving.start(port)
    assert serving.guard.ca_hash == ca_hash
    assert not serving.guard.authority.is_new
    together(fabrics, lambda fabric: come_in(fabric, 0))
    add_up(fabrics)


def test_nothing_plain_is_on_the_wire(hub, tmp_path, closing):
    serving = hub(least=2, settings={"model": "a secret model"})
    recorder = Recorder(serving.address)
    closing.callback(recorder.close)
    token = serving.guard.new_token(2)
    fabrics = []
    for name in (NAME, "cam-2"):
        credentials = Credentials(tmp_path / name)
        enrol(recorder.address, name, token, serving.guard.ca_hash, credentials)
        fabrics.append(HubFabric(*recorder.address, name, deadline_s=LIMIT_S, credentials=credentials))
        closing.callback(fabrics[-1].close)
    together(fabrics, lambda fabric: come_in(fabric, 0))
    add_up(fabrics, steps=2, length=100_000)
    seen = recorder.seen
    gradient = torch.full((8,), 1.0).numpy().tobytes()
    total = torch.full((8,), 2.0).numpy().tobytes()
    secrets = [NAME.encode(), b"cam-2", token.encode(), b"a secret model", b"ScaD", b"control", gradient, total]
    secrets += [fabric._session.welcome["session"].encode() for fabric in fabrics]
    assert len(seen) > 1_000_000
    assert [secret for secret in secrets if secret in seen] == []


def test_the_recorder_would_have_seen_it(closing):
    plain = Hub("127.0.0.1", 0, 2)
    closing.callback(plain.close)
    plain.start()
    recorder = Recorder(plain.address)
    closing.callback(recorder.close)
    fabric = HubFabric(*recorder.address, NAME, deadline_s=LIMIT_S)
    closing.callback(fabric.close)
    assert NAME.encode() in recorder.seen


def test_files_are_private(hub, tmp_path):
    serving = hub()
    serving.enrol(tmp_path / "cam-1", "cam-1")
    for folder in (serving.folder / "authority", tmp_path / "cam-1"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        assert set(modes.values()) == {0o600}, modes
    assert {path.name for path in (tmp_path / "cam-1").iterdir()} == {"device.pem", "hub.json"}


def test_a_stolen_certificate_without_its_key_is_nothing(hub, tmp_path):
    serving = hub()
    credentials = serving.enrol(tmp_path / "cam-1", "cam-1")
    shutil.copytree(credentials.folder, tmp_path / "thief")
    own = serving.enrol(tmp_path / "cam-2", "cam-2")
    [key] = re.findall(
        "-----BEGIN PRIVATE.*?END PRIVATE KEY-----\n", (own.folder / "device.pem").read_text(), re.DOTALL
    )
    certificate = (credentials.folder / "device.pem").read_text().partition("END PRIVATE KEY-----\n")[2]
    (tmp_path / "thief/device.pem").write_text(key + certificate)
    with pytest.raises(Exception, match="holds no identity that can be used"):
        Credentials(tmp_path / "thief")


def test_a_device_that_is_not_told_is_patient(hub, tmp_path, monkeypatch):
    """What says no to a certificate is final; what breaks on the way is tried again."""
    monkeypatch.setattr(client, "_LONGEST_PAUSE_S", 0.05)
    serving = hub()
    credentials = serving.enrol(tmp_path / "cam-1", "cam-1")
    port = serving.address[1]
    serving.close()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(serving.connect, "cam-1", credentials)
        serving.start(port)
        coming.result(LIMIT_S).close()
