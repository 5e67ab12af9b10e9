"""No secret comes past the settings, and no message tells one."""

import pytest

from scadles.config import load_config
from scadles.errors import ConfigError
from scadles.streams import SourceURL

CAMERA = "mqtt://host/camera"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"{CAMERA}/#?username=edge&password=sesame", "write %23 for a #"),
        ("kafka://host/t?from=now#sesame", "write %23 for a #"),
        ("replay://?x=1#password=sesame", "write %23 for a #"),
        ("kafka://[::1/t?sasl.password=sesame", "cannot be read"),
        ("kafka://me:pa?sesame@host/t", "cannot be read"),
        ("kafka://me:sesame@host/t", "give user and password as parameters"),
        ("kafka://me:ses/same@host/t", "give user and password as parameters"),
        ("kafka://me:sesame%40host/t", "give user and password as parameters"),
        ("mqtt:me:sesame@host/t", "give user and password as parameters"),
        ("kafka://host/t?SASL.PASSWORD=sesame", "SASL.PASSWORD is written"),
        ("kafka://host/t?sasl.passw%6Frd=sesame", "sasl.password is written"),
        ("kafka://host/t?sasl.passw%256Frd=sesame", "names of parameters are"),
        ("kafka://host/t?sasl.pass\tword=sesame", "sasl.password is written"),
        ("kafka://host/t?sasl.password=env:A&sasl.password=sesame", "sasl.password is written"),
        ("kafka://host/t?sasl.jaas.config=sesame", "sasl.jaas.config is written"),
        ("kafka://host/t?sasl.kerberos.kinit.cmd=sesame", "sasl.kerberos.kinit.cmd: an address loads no code"),
        (f"{CAMERA}?client_id=a;password=sesame", "password is written"),
        (f"{CAMERA}?client_id=a%26password=sesame", "password is written"),
        (f"{CAMERA}&password=sesame", "password is written"),
        (f"{CAMERA}/password=sesame", "password is written"),
        (f"{CAMERA}?passwort=sesame", "passwort is written"),
        (f"{CAMERA}?username=me&password=ENV:sesame", "password is written"),
    ],
)
def test_an_address_that_may_hold_a_secret_is_refused_and_not_told(url, told):
    for refused in (lambda: load_config({"stream": {"url": url}}), lambda: SourceURL.parse(url)):
        with pytest.raises(ConfigError) as caught:
            refused()
        assert told in str(caught.value)
        assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"stream": {"url": ["kafka://host/t?sasl.password=sesame"]}},
        {"stream": "kafka://host/t?sasl.password=sesame"},
        {"buffer": {"capacity": "kafka://host/t?sasl.password=sesame"}},
        {"stream": {"rates": {"sasl.password": "sesame"}}},
    ],
)
def test_an_address_in_the_wrong_place_is_not_told(settings):
    with pytest.raises(ConfigError) as caught:
        load_config({"steps": 1, **settings})
    assert "sesame" not in str(caught.value)


def test_a_line_that_is_not_yaml_is_not_told(tmp_path):
    (tmp_path / "c.yaml").write_text("stream:\n  url: kafka://host/t?sasl.password=sesame: 1\n")
    with pytest.raises(ConfigError, match=r"is not YAML: .* line 2") as caught:
        load_config(tmp_path / "c.yaml")
    assert "sesame" not in str(caught.value)


def test_an_override_without_a_key_is_told_without_its_value():
    with pytest.raises(ConfigError, match="--set a value that is not shown") as caught:
        load_config({}, ["stream..url=kafka://host/t?sasl.password=sesame"])
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "replay://",
        "kafka://[::1]:9092,two:9092/camera-{device}?partitions=0,1&sasl.username=edge@example.org",
        "kafka://host/t?sasl.password=env:PASSWORD_{device}&ssl.key.password=file:/run/secrets/key",
        "kafka://host/t?sasl.oauthbearer.token.endpoint.url=https://host/token&sasl.oauthbearer.client.secret=env:A",
        "kafka://host/t?sasl.oauthbearer.assertion.private.key.file=/etc/key.pem",
        "mqtt://host/secret-camera/%23?session=keep",
        "mqtts://host/me%40home/{device}?username=me&password=file:/run/secrets/mqtt&key=/etc/edge.key",
    ],
)
def test_other_addresses_are_left_as_they_are(url):
    assert load_config({"steps": 1, "stream": {"url": url}}).stream.url == url


def test_a_scheme_may_be_written_in_capitals():
    assert load_config({"steps": 1, "stream": {"url": "REPLAY://?rate=5"}, "clock": {"speed": 9}}).clock.speed == 9
    with pytest.raises(ConfigError, match=r"stream.end = stop: nobody can tell where an MQTT topic ends"):
        load_config({"steps": 1, "stream": {"url": "MQTT://Host/Topic", "end": "stop"}})
    assert load_config({"steps": 1, "stream": {"url": "Kafka://Host/Topic"}}).stream.url == "kafka://Host/Topic"
