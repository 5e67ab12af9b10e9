"""How brokers on loopback are started, waited for and ended, with programs that only look like them."""

import os
import sys
from pathlib import Path

import pytest

import scadles.streams.kafka.presence
from scadles.errors import RunError
from scadles.testing.brokers import __main__ as to_play_with
from scadles.testing.brokers import kafka, mosquitto

# `mosquitto -c CONFIGURATION`: listens where it is told to
MOSQUITTO = """
import re, socket, sys
port = int(re.search(r"listener (\\d+)", open(sys.argv[2]).read())[1])
server = socket.create_server(("127.0.0.1", port))
while True:
    server.accept()[0].close()
"""
# `java ... PROGRAM ...`: formats a folder, runs until it is ended, or is one of Kafka's tools
JAVA = """
import pathlib, signal, sys
if "kafka.tools.StorageTool" in sys.argv:
    pathlib.Path("data").mkdir()
    pathlib.Path("data/meta.properties").touch()
elif "kafka.Kafka" in sys.argv:
    pathlib.Path("started").touch()
    signal.pause()
elif "--fail" in sys.argv:
    sys.exit("no such topic")
else:
    print(*sys.argv[-3:])
"""
FAILING = "import sys; sys.exit('cannot do this')"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a program of Python into the path, before all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def put(name, code):
        (folder / name).write_text(f"#!{sys.executable} -IS\n{code}")
        (folder / name).chmod(0o755)

    return put


@pytest.fixture
def kafka_home(tmp_path, monkeypatch):
    """A folder that looks like Kafka's, whose broker answers at once."""
    (tmp_path / "kafka" / "libs").mkdir(parents=True)
    (tmp_path / "kafka" / "libs" / "kafka_2.13.jar").touch()
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path / "kafka"))
    monkeypatch.setattr(scadles.streams.kafka.presence, "is_there", lambda servers, timeout_s: True)


def test_mosquitto_is_started_and_ended_twice_with_its_sessions(program, tmp_path):
    program("mosquitto", MOSQUITTO)
    broker = mosquitto.Mosquitto(tmp_path / "broker")
    for _ in range(2):
        with broker:
            assert Path(f"/proc/{broker.pid}").exists()
            assert broker.address == f"127.0.0.1:{broker.port}"
        assert broker.pid is None
    broker.stop()
    told = (tmp_path / "broker" / "mosquitto.conf").read_text()
    assert f"persistence_location {tmp_path / 'broker'}/" in told
    assert "allow_anonymous true" in told


def test_what_does_not_end_when_asked_is_killed(program, tmp_path):
    program("mosquitto", f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{MOSQUITTO}")
    with mosquitto.Mosquitto(tmp_path / "broker", persistence=False) as broker:
        broker.stop_s = 0.2
    assert "persistence false" in (tmp_path / "broker" / "mosquitto.conf").read_text()


def test_mosquitto_that_does_not_start_says_why(program, tmp_path):
    program("mosquitto", FAILING)
    with pytest.raises(RunError, match=r"does not start: (.|\n)*cannot do this"):
        mosquitto.Mosquitto(tmp_path / "broker").start()


def test_kafka_is_formatted_once_started_and_asked(program, kafka_home, tmp_path):
    program("java", JAVA)
    broker = kafka.KafkaBroker(tmp_path / "broker", properties={"listeners": "PLAINTEXT://127.0.0.1:{port}"})
    for _ in range(2):
        broker.start()
        assert broker.tool("TopicCommand", "--list") == f"--bootstrap-server {broker.address} --list\n"
        with pytest.raises(RunError, match=r"TopicCommand failed: (.|\n)*no such topic"):
            broker.tool("TopicCommand", "--fail")
        broker.kill()
    told = (tmp_path / "broker" / "server.properties").read_text()
    assert f"listeners=PLAINTEXT://127.0.0.1:{broker.port}\n" in told


def test_kafka_that_does_not_start_says_why(program, kafka_home, tmp_path, monkeypatch):
    monkeypatch.setattr(scadles.streams.kafka.presence, "is_there", lambda servers, timeout_s: False)
    program("java", FAILING)
    with pytest.raises(RunError, match=r"cannot format (.|\n)*cannot do this"):
        kafka.KafkaBroker(tmp_path / "one").start()
    program("java", JAVA.replace("signal.pause()", "sys.exit('no memory')"))
    with pytest.raises(RunError, match=r"does not start, see its server.log: (.|\n)*no memory"):
        kafka.KafkaBroker(tmp_path / "two").start()


def test_without_the_programs_it_is_said_how_to_provide_them(tmp_path, monkeypatch):
    monkeypatch.setattr(mosquitto, "_DEBIAN", tmp_path / "mosquitto")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RunError, match="install Debian's package mosquitto"):
        mosquitto.Mosquitto(tmp_path)
    with pytest.raises(RunError, match="set KAFKA_HOME"):
        kafka.KafkaBroker(tmp_path)


def test_brokers_to_play_with_say_how_and_end_when_asked(program, kafka_home, monkeypatch, capsys):
    program("mosquitto", MOSQUITTO)
    program("java", JAVA)
    monkeypatch.setattr(to_play_with, "_is_free", lambda port: False)
    monkeypatch.setattr(to_play_with.StopRequest, "wanted", True)
    assert to_play_with.main() == 0
    said = capsys.readouterr().out
    assert "scadles publish examples/kafka.yaml --create-topics --set 'stream.url=kafka://127.0.0.1:" in said
    assert "scadles train examples/mqtt.yaml --local 4 --set 'stream.url=mqtt://127.0.0.1:" in said
    assert "Ctrl-C ends them" in said


def test_without_any_broker_there_is_nothing_to_play_with(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(mosquitto, "_DEBIAN", tmp_path / "mosquitto")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert to_play_with.main() == 1
    said = capsys.readouterr().out
    assert "no kafka broker: needs Apache Kafka" in said
    assert "no mqtt broker: needs Mosquitto" in said
