import pytest

from scadles.errors import ConfigError
from scadles.streams import SourceURL, open_source_url
from scadles.streams.kafka.address import KafkaAddress
from scadles.streams.kafka.connection import Complaints


def address(text, **more):
    return KafkaAddress.of(SourceURL.parse(text), Complaints(), group="scadles-run", client="scadles-3", **more)


def test_defaults():
    found = address("kafka://one:9092,two:9093/camera-3")
    assert (found.servers, found.topic, found.partitions, found.begin) == (
        "one:9092,two:9093",
        "camera-3",
        None,
        "beginning",
    )
    assert (found.group, found.patience_s) == ("scadles-run", 60.0)
    assert found.options["bootstrap.servers"] == "one:9092,two:9093"
    assert found.options["group.id"] == "scadles-run"
    assert found.options["client.id"] == "scadles-3"
    assert found.options["enable.auto.commit"] is False


def test_every_option_of_the_client_can_be_given(monkeypatch):
    monkeypatch.setenv("SESAME", "open sesame")
    found = address(
        "kafka://host/topic?partitions=2,0&from=now&group=watched&patience_s=5&fetch.wait.max.ms=100"
        "&security.protocol=SASL_SSL&sasl.password=env:SESAME"
    )
    assert (found.partitions, found.begin, found.group, found.patience_s) == ((0, 2), "now", "watched", 5.0)
    assert found.options["fetch.wait.max.ms"] == "100"
    assert found.options["security.protocol"] == "SASL_SSL"
    assert found.options["sasl.password"] == "open sesame"
    assert str(found) == "kafka://host/topic"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kafka:///topic", "names no broker"),
        ("kafka://host", "write kafka://host:port/topic"),
        ("kafka://host/a/b", "write kafka://host:port/topic"),
        ("kafka://host/t?from=tomorrow", "from='tomorrow' must be beginning or now"),
        ("kafka://host/t?partitions=0,x", "partitions='0,x' must be all"),
        ("kafka://host/t?partitions=1,1", "partitions='1,1' must be all"),
        ("kafka://host/t?patience_s=0", "patience_s=0 must be above 0"),
        ("kafka://host/t?patience=9", "unknown parameter 'patience'; did you mean patience_s?"),
        ("kafka://host/t?enable.auto.commit=true", "enable.auto.commit is not yours to set"),
        ("kafka://host/t?group.id=x", "group.id is not yours to set"),
        ("kafka://me:sesame@host/t", "give user and password as parameters"),
        ("kafka://host/t?sasl.jaas.config=sesame", "sasl.jaas.config is written into run folders"),
        ("kafka://host/t?sasl.password=sesame", "sasl.password is written into run folders"),
    ],
)
def test_what_cannot_work_is_refused(text, told):
    with pytest.raises(ConfigError) as refused:
        address(text)
    assert told in str(refused.value)
    assert "sesame" not in str(refused.value)


def test_a_stream_of_bytes_needs_a_codec():
    with pytest.raises(ConfigError, match="give it codec"):
        open_source_url("kafka://host/topic")


def test_the_client_is_not_imported_before_it_is_used_and_missed_by_name(said_by):
    code = (
        "import sys\n"
        "import scadles.streams as streams\n"
        "from scadles.errors import MissingExtraError\n"
        "assert 'confluent_kafka' not in sys.modules\n"
        "sys.modules['confluent_kafka'] = None\n"
        "try:\n"
        "    streams.open_source_url('kafka://host/topic', codec=object())\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
    )
    assert said_by(code).strip() == "kafka:// needs the extra 'kafka': pip install 'scadles[kafka]'"
