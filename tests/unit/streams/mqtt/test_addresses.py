import pytest
import torch

from scadles.clock import VirtualClock
from scadles.config import CodecConfig
from scadles.errors import ConfigError
from scadles.streams import SourceURL, make_codec, open_source_url
from scadles.streams.mqtt.connection import broker_of
from scadles.streams.mqtt.terms import default_client_id

CODEC = make_codec(CodecConfig(), (2,), torch.uint8, classes=2)


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("mqtt://host/a/b", ("mqtt", "host", 1883, "a/b")),
        ("mqtts://host/a", ("mqtts", "host", 8883, "a")),
        ("mqtt://10.0.0.1:2000/a/%23", ("mqtt", "10.0.0.1", 2000, "a/#")),
        ("mqtt://[::1]:2000/a", ("mqtt", "::1", 2000, "a")),
        ("mqtt://[::1]/+/b", ("mqtt", "::1", 1883, "+/b")),
        ("mqtt://host/me%40home/a", ("mqtt", "host", 1883, "me@home/a")),
        ("mqtt://host/$share/group/a", ("mqtt", "host", 1883, "$share/group/a")),
    ],
)
def test_brokers_and_topics(url, broker):
    assert tuple(broker_of(SourceURL.parse(url))) == broker


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mqtt:///a", "names no broker; write mqtt://host:port/topic"),
        ("mqtt://host:port/a", "names no broker"),
        ("mqtt://host:0/a", "names no broker"),
        ("mqtt://host", "names no topic"),
        ("mqtt://host/a/#?username=me&password=sesame", "write %23 for a # in a topic"),
        ("mqtt://host/a/#", "write %23 for a # in a topic"),
        ("mqtt://me:sesame@host/a", "give user and password as parameters"),
    ],
)
def test_addresses_that_name_nothing(url, message):
    with pytest.raises(ConfigError, match=message) as caught:
        broker_of(SourceURL.parse(url))
    assert "sesame" not in str(caught.value)


def test_a_client_id_is_of_the_run_folder_and_the_device(tmp_path):
    ids = [default_client_id(folder, device) for folder in (tmp_path / "a", tmp_path / "b") for device in (0, 1)]
    assert len(set(ids)) == 4
    assert default_client_id(tmp_path / "a" / ".." / "b", 1) == ids[3]
    assert all(len(client_id) <= 23 + 8 and client_id.startswith("scadles-") for client_id in ids)


def test_a_source_needs_a_codec_and_a_clock():
    for context in ({"codec": CODEC}, {"clock": VirtualClock()}):
        with pytest.raises(ConfigError, match=r"give it codec=\.\.\. and clock=\.\.\."):
            open_source_url("mqtt://host/a", **context)


def test_nothing_is_connected_before_it_is_opened():
    source = open_source_url("mqtt://nobody.invalid/a", codec=CODEC, clock=VirtualClock())
    assert (source.position, source.lag(), source.duplicates, source.notices()) == (0, 0, 0, [])
    source.close()


@pytest.mark.parametrize(
    ("client", "url", "extra"), [("paho", "mqtt://host/a", "mqtt"), ("PIL", "mqtt://host/a", "images")]
)
def test_what_is_not_installed_is_named(said_by, client, url, extra):
    code = (
        "import sys, torch\n"
        f"sys.modules[{client!r}] = None\n"
        "from scadles.clock import VirtualClock\n"
        "from scadles.config import CodecConfig\n"
        "from scadles.errors import MissingExtraError\n"
        "from scadles.streams import make_codec, open_source_url\n"
        "try:\n"
        "    codec = make_codec(CodecConfig(format='image'), (1, 2, 2), torch.uint8, classes=2)\n"
        f"    open_source_url({url!r}, codec=codec, clock=VirtualClock())\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
    )
    assert f"pip install 'scadles[{extra}]'" in said_by(code)
