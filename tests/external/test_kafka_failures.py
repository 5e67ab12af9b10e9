"""Passwords, certificates, and brokers that go and come back."""

import re
import time
from contextlib import closing

import pytest

from kafka_tools import Cluster, drain, kafka_source, numbers_of
from live_streams import make_authority, make_certificate, refusal
from scadles.errors import ConfigError, SourceError
from scadles.testing.brokers import kafka
from scadles.testing.brokers.process import free_port

pytestmark = pytest.mark.timeout(240)

PASSWORD = "open-sesame-4711"


@pytest.fixture(scope="module")
def certificates(_kafka_folder):
    """A folder with an authority and a server's key and certificate that it vouches for."""
    folder = _kafka_folder / "certificates"
    folder.mkdir()
    make_authority(folder)
    make_certificate(folder, "server")
    parts = [(folder / name).read_text() for name in ("server.key", "server.pem", "authority.pem")]
    (folder / "keystore.pem").write_text("".join(parts))
    return folder


@pytest.fixture(scope="module")
def guarded(_kafka_folder, certificates):
    """A broker with an encrypted listener that asks for a password; returns it and that listener's port."""
    port = free_port()
    properties = {
        "listeners": f"PLAINTEXT://127.0.0.1:{{port}},SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{{controller}}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{{port}},SASL_SSL://localhost:{port}",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates / "keystore.pem"),
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule "
        f'required user_edge="{PASSWORD}";',
    }
    with kafka.KafkaBroker(_kafka_folder / "guarded", properties=properties) as broker:
        cluster = Cluster(broker.address)
        topic = cluster.new_topic()
        cluster.write(topic, range(20))
        yield f"localhost:{port}", topic


def credentials(certificates, place):
    return (
        f"security.protocol=SASL_SSL&ssl.ca.location={certificates}/authority.pem"
        f"&sasl.mechanism=PLAIN&sasl.username=edge&sasl.password={place}"
    )


def test_an_encrypted_stream_with_a_password(guarded, certificates, monkeypatch):
    servers, topic = guarded
    monkeypatch.setenv("SCADLES_TEST_PASSWORD", PASSWORD)
    with closing(kafka_source(servers, topic, credentials(certificates, "env:SCADLES_TEST_PASSWORD"))) as source:
        source.open(0)
        assert numbers_of(drain(source, 20)) == list(range(20))


def test_a_wrong_password_ends_a_run_with_one_line_and_is_written_nowhere(
    guarded, certificates, start_training, write_config, tmp_path
):
    servers, topic = guarded
    url = f"kafka://{servers}/{topic}?{credentials(certificates, 'env:EDGE_PASSWORD')}"
    config = write_config(tmp_path / "c.yaml", steps=5, stream={"url": url})
    run = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run", EDGE_PASSWORD="sesame-closed")
    assert run.wait(120) == 2, run.err
    # the run folder is made when both processes have met
    took_s = time.time() - (tmp_path / "run" / "config.yaml").stat().st_mtime
    said = run.err.strip().splitlines()
    assert len(said) == 1, run.err
    assert f"kafka://{servers} refuses us" in said[0]
    # fifteen seconds, and what two processes need to end on a busy machine
    assert took_s < 45
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert b"sesame-closed" not in path.read_bytes(), path
    assert "sesame-closed" not in run.err + run.out


def test_a_wrong_password_is_refused(guarded, certificates, tmp_path):
    servers, topic = guarded
    (tmp_path / "password").write_text("wrong-" + PASSWORD)
    said = refusal(kafka_source(servers, topic, credentials(certificates, f"file:{tmp_path}/password")))
    assert re.search(r"refuses us: .*[Aa]uthentication", said)
    assert PASSWORD not in said


def test_a_server_that_nobody_vouches_for_is_refused(guarded):
    servers, topic = guarded
    with closing(kafka_source(servers, topic, "security.protocol=SSL")) as source, pytest.raises(ConfigError) as told:
        source.open(0)
    assert "certificate verify failed" in str(told.value)


def test_a_broker_that_comes_back_is_waited_for(fragile_kafka_broker):
    broker = fragile_kafka_broker
    cluster = Cluster(broker.address)
    topic = cluster.new_topic()
    cluster.write(topic, range(50))
    with closing(kafka_source(cluster.servers, topic)) as source:
        source.open(0)
        drain(source, 50)
        broker.kill()
        assert len(source.poll(1, 3.0)) == 0
        broker.start()
        cluster.write(topic, range(50, 60))
        assert numbers_of(drain(source, 10, timeout_s=60.0)) == list(range(50, 60))
        source.commit(55)
        said, until_s = [], time.monotonic() + 30
        while len(said) < 2 and time.monotonic() < until_s:
            said += source.notices()
            time.sleep(0.05)
    words = [notice.partition(": ")[2].split(" ")[0] for notice in said]
    assert words == ["no", "answers"] * (len(words) // 2) != []  # more than once where the machine stands still


def test_a_broker_that_stays_away_ends_the_stream(fragile_kafka_broker):
    cluster = Cluster(fragile_kafka_broker.address)
    topic = cluster.new_topic()
    cluster.write(topic, range(50))
    with closing(kafka_source(cluster.servers, topic, "patience_s=3")) as source:
        source.open(0)
        drain(source, 50)
        fragile_kafka_broker.kill()
        with pytest.raises(SourceError, match=r"no answer for \d+ s, \d+ times asked \(.*refused"):
            source.poll(1, 60.0)
        with pytest.raises(SourceError):
            source.lag()
