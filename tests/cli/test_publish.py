import re

import pytest


@pytest.fixture
def publish(tmp_path, monkeypatch, command, write_config, npz):
    """Type ``scadles publish c.yaml ARGUMENTS``; return exit code and standard error."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "c.yaml", steps=2, data={"dataset": f"npz:{npz}"})

    def run(*arguments):
        code, _, err = command("publish", "c.yaml", *arguments)
        return code, err

    return run


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "a replayed stream is no server that records could be sent to"),
        (("--retention-s", 60), "--retention-s and --retention-mb are of new topics: give --create-topics too"),
        (("--set", "stream.url=http://host/topic"), "http:// takes no records"),
        (("--set", "stream.url=kafka://host/topic/{divice}"), "only {device} can be filled in"),
        (("--set", "stream.url=kafka://host/topic/{device:99999999999}"), "only {device} can be filled in"),
        (("--set", "stream.url=kafka://host/topic/{device.__class__}"), "only {device} can be filled in"),
        (("--set", "stream.url=kafka://host/topic/{device!r}"), "only {device} can be filled in"),
        (("--set", "stream.url=kafka://host/t?sasl.password=env:SCADLES_NOT_SET"), "SCADLES_NOT_SET is not set"),
        (("--set", "stream.url=mqtt://host/t?usernme=x"), "unknown parameter 'usernme'; did you mean username?"),
        (
            ("--set", "stream.url=mqtt://host/t", "--create-topics", "--retention-s", 60),
            "mqtt://host:1883: MQTT has no topics to create and keeps no records for later: leave out --create-topics",
        ),
        (("--set", "stream.url=mqtt://host/t", "--set", "stream.codec.shape=[3]"), "stream.codec.shape = [3]"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(publish, arguments, told):
    code, err = publish(*arguments)
    assert code == 2
    assert len(re.findall("error: ", err)) == 1
    assert told in err
    assert "Traceback" not in err


def test_a_broker_that_is_not_there_is_said_soon(publish, monkeypatch):
    pytest.importorskip("paho.mqtt.client")
    monkeypatch.setattr("scadles.streams.mqtt.producer.ANSWER_S", 1.5)
    code, err = publish("--set", "stream.url=mqtt://127.0.0.1:1/t")
    assert code == 2
    assert err == "error: mqtt://127.0.0.1:1: no connection within 1.5 s: Connection refused\n"
