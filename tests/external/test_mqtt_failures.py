"""What goes wrong between a device and an MQTT broker, and what is said of it."""

import subprocess

import pytest

from live_streams import make_authority, make_certificate, openssl, refusal
from mqtt_tools import Sender, client_name, new_topic, opened_at, source_at, take, until, until_saved
from scadles.errors import ConfigError, SourceError
from scadles.testing.brokers.process import free_port

# paho leaves a socket to the garbage collector when its handshake fails
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")


def test_a_killed_broker_that_keeps_sessions_loses_nothing(fragile_mosquitto):
    broker, topic = fragile_mosquitto(), new_topic()
    source = opened_at(broker, topic, f"?client_id={client_name()}")
    with Sender(broker) as sender:
        sender.send_numbers(topic, range(300))
        assert take(source, 200) == list(range(200))
        source.commit(100)
        until_saved(broker)
    broker.kill()
    broker.start()
    with Sender(broker) as sender:
        sender.send_numbers(topic, range(300, 400))
    assert take(source, 200, 60) == list(range(200, 400))
    assert source.notices() == []
    mark = source.mark(400)
    assert mark["ids"] == [[0, 399]]
    source.commit(400)
    source.close()


def test_a_broker_that_forgets_sessions_is_told_of_and_gone_on_with(fragile_mosquitto):
    broker, topic = fragile_mosquitto(persistence=False), new_topic()
    source = opened_at(broker, topic, f"?client_id={client_name()}")
    with Sender(broker) as sender:
        sender.send_numbers(topic, range(50))
        assert take(source, 20) == list(range(20))
        until(lambda: source.lag() == 30, "messages")
    broker.kill()
    broker.start()
    notices = []
    until(lambda: notices.extend(source.notices()) or notices, "notice")
    assert len(notices) == 1
    assert f"has forgotten this device's session: messages of {topic}" in notices[0]
    with Sender(broker) as sender:
        heard = []
        sender.client.on_publish = lambda client, userdata, mid, reason, properties: heard.append(reason.value)
        # the notice comes before the subscription: 16 says that nobody has one
        until(lambda: sender.send(topic, bytes([50, 0]), 50, "0") and heard[-1] != 16, "subscription")
        sender.send_numbers(topic, range(51, 80))
        assert take(source, 60) == list(range(20, 80))  # what had come stays
        source.commit(80)
        sender.send_numbers(topic, range(80, 90))
        assert take(source, 10) == list(range(80, 90))
    source.close()


def test_it_goes_back_while_the_broker_is_away(fragile_mosquitto):
    broker, topic = fragile_mosquitto(), new_topic()
    source = opened_at(broker, topic, f"?client_id={client_name()}")
    with Sender(broker) as sender:
        sender.send_numbers(topic, range(100))
        assert take(source, 80) == list(range(80))
        until_saved(broker)
    broker.kill()
    assert source.rewind(30, source.mark(30))
    assert len(source.poll(1, 0.2)) == 0
    broker.start()
    assert take(source, 70, 60) == list(range(30, 100))
    assert (source.position, source.missing, source.notices()) == (100, 0, [])
    source.close()


def test_it_does_not_go_back_to_what_the_broker_has_forgotten(fragile_mosquitto):
    broker, topic = fragile_mosquitto(persistence=False), new_topic()
    source = opened_at(broker, topic, f"?client_id={client_name()}")
    with Sender(broker) as sender:
        sender.send_numbers(topic, range(50))
        assert take(source, 20) == list(range(20))
        until(lambda: source.lag() == 30, "messages")
    broker.kill()
    broker.start()
    until(source.notices, "notice")
    assert not source.rewind(10, source.mark(10))
    assert take(source, 30) == list(range(20, 50))
    source.close()


def test_a_broker_that_stays_away_breaks_the_stream(fragile_mosquitto):
    broker = fragile_mosquitto()
    source = opened_at(broker, new_topic(), "?patience_s=2")
    broker.stop()
    with pytest.raises(SourceError, match=r"mqtt://127.0.0.1:\d+: no connection for 2 s: "):
        until(lambda: source.poll(1, 0.2) and False, "end", 20)
    source.close()


def test_two_sources_with_one_client_id_are_told(mosquitto_broker):
    query = f"?client_id={client_name()}"
    first = opened_at(mosquitto_broker, new_topic(), query)
    second = opened_at(mosquitto_broker, new_topic(), query)
    with pytest.raises(SourceError, match="does another client use the same client_id"):
        until(lambda: not first.poll(1, 0.2) and not second.poll(1, 0.2) and None, "end", 40)
    first.close()
    second.close()


@pytest.fixture
def impatient(monkeypatch):
    """Give a broker two seconds in place of ten to answer; tests of whole runs wait as users do."""
    monkeypatch.setattr("scadles.streams.mqtt.session.ANSWER_S", 2.0)


def test_an_unreachable_broker_is_named(impatient):
    class Nobody:
        address = f"127.0.0.1:{free_port()}"

    said = refusal(source_at(Nobody, "camera"))
    assert said == f"mqtt://{Nobody.address}: no connection within 2 s: Connection refused"


@pytest.fixture(scope="module")
def password_file(_mosquitto_folder):
    path = _mosquitto_folder / "passwords"
    try:
        subprocess.run(["mosquitto_passwd", "-c", "-b", path, "device", "open sesame"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs mosquitto_passwd, which comes with Mosquitto")
    return path


def test_passwords(fragile_mosquitto, password_file, monkeypatch, tmp_path):
    broker = fragile_mosquitto("allow_anonymous false", f"password_file {password_file}")
    monkeypatch.setenv("RIGHT", "open sesame")
    monkeypatch.setenv("WRONG", "open barley")
    for query in ("", "?username=device&password=env:WRONG", "?username=nobody&password=env:RIGHT"):
        said = refusal(source_at(broker, "camera", query))
        assert "the broker refuses us: Not authorized" in said
        assert "barley" not in said
    (tmp_path / "secret").write_text("open sesame\n")
    for place in ("env:RIGHT", f"file:{tmp_path / 'secret'}"):
        source = opened_at(broker, "camera", f"?username=device&password={place}")
        source.close()


@pytest.fixture(scope="module")
def certificates(_mosquitto_folder):
    """A folder with an authority, a server and a client that it vouches for, and an authority that nobody knows."""
    folder = _mosquitto_folder / "certificates"
    folder.mkdir()
    for name in ("authority", "stranger"):
        make_authority(folder, name)
    for name in ("server", "client"):
        make_certificate(folder, name)
    openssl(folder, "rsa", "-aes256", "-passout", "pass:open sesame", "-in", "client.key", "-out", "locked.key")
    return folder


def secured(certificates, *more):
    return (
        "allow_anonymous true",
        f"cafile {certificates / 'authority.pem'}",
        f"certfile {certificates / 'server.pem'}",
        f"keyfile {certificates / 'server.key'}",
        *more,
    )


def secure_source(broker, query):
    return source_at(broker, new_topic(), query, scheme="mqtts")


def test_encrypted_connections(fragile_mosquitto, certificates):
    broker = fragile_mosquitto(*secured(certificates))
    source = secure_source(broker, f"?ca={certificates / 'authority.pem'}")
    source.open(0)
    source.close()
    said = refusal(secure_source(broker, f"?ca={certificates / 'stranger.pem'}"))
    assert "its certificate is not to be trusted" in said
    assert "its certificate is not to be trusted" in refusal(secure_source(broker, ""))


def test_encryption_with_a_broker_that_has_none(impatient, mosquitto_broker, certificates):
    said = refusal(secure_source(mosquitto_broker, f"?ca={certificates / 'authority.pem'}"))
    assert "no connection within 2 s" in said


def test_clients_that_prove_who_they_are(impatient, fragile_mosquitto, certificates, monkeypatch):
    broker = fragile_mosquitto(*secured(certificates, "require_certificate true"))
    trusted = f"?ca={certificates / 'authority.pem'}"
    mine = f"&cert={certificates / 'client.pem'}&key={certificates / 'client.key'}"
    locked = f"&cert={certificates / 'client.pem'}&key={certificates / 'locked.key'}&key_password=env:UNLOCK"
    monkeypatch.setenv("UNLOCK", "open sesame")
    for query in (mine, locked):
        source = secure_source(broker, trusted + query)
        source.open(0)
        source.close()
    assert "no connection within 2 s" in refusal(secure_source(broker, trusted))
    monkeypatch.setenv("UNLOCK", "open barley")
    with pytest.raises(ConfigError, match=r"cert=.*key=") as caught:
        secure_source(broker, trusted + locked)
    assert "barley" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?pasword=env:A", "unknown parameter 'pasword'; did you mean password"),
        ("?password=env:A", "password without username"),
        ("?username=me&password=sesame", "say where it is, env:NAME or file:PATH"),
        ("?username=me&password=env:NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE is not set"),
        ("?ca=x.pem", "ca is of an encrypted connection; write mqtts://"),
        ("?receive_max=0", "receive_max=0 must be from 1 to 65535"),
        ("?session=old", "session='old' must be new or keep"),
        ("?keepalive_s=0", "keepalive_s=0 must be from 1 to 65535"),
    ],
)
def test_addresses_that_cannot_work(mosquitto_broker, query, message):
    with pytest.raises(ConfigError, match=message) as caught:
        source_at(mosquitto_broker, "camera", query).open(0)
    assert "sesame" not in str(caught.value)


def test_messages_that_a_full_queue_dropped_are_missing_over_resumptions(fragile_mosquitto):
    broker = fragile_mosquitto("allow_anonymous true", "max_queued_messages 10", "max_inflight_messages 10")
    topic, query = new_topic(), f"?client_id={client_name()}"
    source = opened_at(broker, topic, query)
    with Sender(broker) as sender:
        for first in (1000, 1010):
            sender.send_numbers(topic, range(first, first + 10))
            assert len(take(source, 10)) == 10
            source.commit(first - 990)
        mark = source.mark(20)
        source.close()
        sender.send_numbers(topic, range(1020, 1060))  # the session is kept, and its queue is short
        resumed = source_at(broker, topic, query)
        resumed.open(20, mark)
        came = take(resumed, 1)
        assert resumed.missing == 0  # nobody can tell before a later one has come

        def later():
            resumed.commit(resumed.position)  # makes room for more
            sender.send(topic, bytes([200, 0]), 1060)
            came.extend(take(resumed, 40, 0.5))
            return came[-1] == 200

        until(later, "a later message")
        came = len(came) - 1
        assert came < 40
        assert resumed.missing == 40 - came
        again = resumed.mark(resumed.position)
        resumed.commit(resumed.position)
        resumed.close()
        last = source_at(broker, topic, query)
        last.open(resumed.position, again)
        assert last.missing == 40 - came
        last.close()
