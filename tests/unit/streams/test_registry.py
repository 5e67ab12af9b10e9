import pytest

from scadles.errors import ConfigError
from scadles.streams import SourceURL, open_source_url, register_source
from scadles.streams import registry as registry_module


def test_a_registered_scheme_gets_its_url_and_context(monkeypatch):
    monkeypatch.setattr(registry_module, "_factories", {})

    @register_source("test")
    def factory(url, *, clock, **_):
        return url, clock

    url, clock = open_source_url("test://host:1/a/b?n=3&name=x%20y", clock="tick", more=1)
    assert (url.scheme, url.netloc, url.path, dict(url.query)) == ("test", "host:1", "a/b", {"n": "3", "name": "x y"})
    assert clock == "tick"


def test_an_unknown_scheme_lists_those_that_exist():
    with pytest.raises(ConfigError, match=r"unknown scheme 'carrier-pigeon'; there are .*replay"):
        open_source_url("carrier-pigeon://roof")


@pytest.mark.parametrize("url", ["replay", "replay:", "/path", "", "://x", "kafka:host/topic"])
def test_no_scheme(url):
    with pytest.raises(ConfigError, match="no scheme"):
        open_source_url(url)


@pytest.mark.parametrize("url", ["a://[::1", "a://x?=&", "a://x?novalue"])
def test_unreadable(url):
    with pytest.raises(ConfigError, match="cannot be read"):
        SourceURL.parse(url)


def test_typed_parameters():
    url = SourceURL.parse("a://h?i=3&f=2.5&t=word")
    assert (url.integer("i", 0), url.number("f", 0.0), url.text("t", "")) == (3, 2.5, "word")
    assert (url.integer("j", 7), url.number("g", 0.5), url.text("u", "none")) == (7, 0.5, "none")
    with pytest.raises(ConfigError, match="t='word' must be an integer"):
        url.integer("t", 0)
    with pytest.raises(ConfigError, match="t='word' must be a number"):
        url.number("t", 0)


def test_unexpected_parameters():
    url = SourceURL.parse("a://h?partitoin=3")
    with pytest.raises(ConfigError, match="did you mean partition"):
        url.expect("partition", "group")
    with pytest.raises(ConfigError, match="there are x, y"):
        url.expect("x", "y")
