import sys

import pytest

from scadles.errors import ConfigError, MissingExtraError
from scadles.streams import SourceURL
from scadles.streams.producing import make_producer


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("replay://", "a replayed stream is no server"),
        ("kafak://host/topic", "takes no records; did you mean kafka?"),
        ("mqtt://host/", "names no topic"),
        ("mqtt://host/cam/%23", "many topics at once can be read and not published to"),
        ("mqtt://host/+/1", "many topics at once can be read and not published to"),
        ("kafka://host/topic?partition=1", "unknown parameter 'partition'; did you mean partitions?"),
    ],
)
def test_what_no_record_can_be_sent_to(url, told):
    with pytest.raises(ConfigError) as refused:
        make_producer([SourceURL.parse(url)], clock=None)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("scheme", "client", "extra"), [("kafka", "confluent_kafka", "kafka"), ("mqtt", "paho", "mqtt")]
)
def test_a_client_that_is_not_installed_is_named(monkeypatch, scheme, client, extra):
    monkeypatch.setitem(sys.modules, client, None)
    for name in [name for name in sys.modules if name.startswith((f"{client}.", f"scadles.streams.{scheme}."))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=rf"scadles\[{extra}\]"):
        make_producer([SourceURL.parse(f"{scheme}://host/topic")], clock=None)
