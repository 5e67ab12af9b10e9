"""Answers of a broker that Mosquitto with a file of rules never gives."""

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from scadles.errors import SourceError
from scadles.streams import SourceURL
from scadles.streams.mqtt.connection import broker_of, make_client
from scadles.streams.mqtt.session import Session


@pytest.fixture
def session():
    url = SourceURL.parse("mqtt://broker/camera/%23")
    return Session(make_client(url, "client"), broker_of(url), lambda *_: None, lambda: None, 60.0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (135, "the broker does not let us subscribe to camera/#: Not authorized"),
        (0, "the broker grants camera/# with QoS 0 only, which loses messages"),
    ],
)
def test_a_subscription_that_does_not_do(session, answer, message):
    session._on_subscribe(session._client, None, 1, [ReasonCode(PacketTypes.SUBACK, identifier=answer)], None)
    assert session.failed
    with pytest.raises(SourceError, match="mqtt://broker:1883: ") as caught:
        session.check()
    assert str(caught.value).endswith(message)


def test_an_error_of_our_own_in_the_thread_is_told(session, monkeypatch):
    def broken():
        raise KeyError("broken")

    monkeypatch.setattr(session._client, "reconnect", broken)
    session._run()
    with pytest.raises(SourceError, match="KeyError: 'broken'"):
        session.check()
