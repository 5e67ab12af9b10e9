"""No option of librdkafka by which it would load code or run a command comes through an address."""

import ctypes
import re
from pathlib import Path

import confluent_kafka
import pytest

from scadles.config import load_config
from scadles.config.addresses import without_secrets
from scadles.errors import ConfigError
from scadles.streams import SourceURL

REFUSED = {
    "plugin.library.paths",
    "interceptors",
    "ssl.engine.id",
    "ssl.engine.location",
    "ssl.providers",
    "ssl.certificate.verify_cb",
    "sasl.kerberos.kinit.cmd",
    "offset.store.method",
    "offset.store.path",
    "offset.store.sync.interval.ms",
}
#: Files that whoever writes the address names, and that are read for what they say: certificates, keys, templates.
FILES = re.compile(r"\.location$|\.file$|^sasl\.kerberos\.keytab$")
#: Descriptions of options that do more than change how messages travel.
TELLING = re.compile(
    r"\b(librar(y|ies)|plugins?|command|path|engine|providers?|dlopen|shell|execut\w+)\b", re.IGNORECASE
)
#: What matches that and does nothing of the kind.
HARMLESS = {
    "builtin.features",
    "enable.gapless.guarantee",
    "enable.metrics.push",
    "sasl.oauthbearer.assertion.algorithm",
    "sasl.oauthbearer.grant.type",
    "ssl.ca.certificate.stores",
}


def properties(folder):
    """Return the description of each option of the installed library, by name."""
    libraries = Path(confluent_kafka.__file__).parents[1].glob("confluent_kafka.libs/librdkafka*.so*")
    library = next(libraries, None)
    if library is None:
        pytest.skip("this confluent-kafka has its library elsewhere")
    c, rdkafka = ctypes.CDLL(None), ctypes.CDLL(str(library))
    c.fopen.restype = ctypes.c_void_p
    file = ctypes.c_void_p(c.fopen(str(folder / "properties").encode(), b"w"))
    rdkafka.rd_kafka_conf_properties_show(file)
    c.fclose(file)
    lines = (folder / "properties").read_text().splitlines()
    rows = [line.split("|") for line in lines if line.count("|") >= 4]
    return {row[0].strip(): row[-1] for row in rows if re.fullmatch(r"[a-z][\w.]+", row[0].strip())}


def is_refused(name, value="1"):
    try:
        without_secrets(f"kafka://host/topic?{name}={value}")
    except ValueError as error:
        return "an address loads no code" in str(error)
    return False


def test_of_the_installed_library_every_option_is_decided_about(tmp_path):
    known = properties(tmp_path)
    assert len(known) > 100
    dotted = {name for name in known if "." in name}
    assert {name for name in dotted if is_refused(name)} == REFUSED & dotted
    telling = {name for name in dotted if TELLING.search(known[name]) and not FILES.search(name)}
    assert telling - REFUSED <= HARMLESS


@pytest.mark.parametrize("name", [*sorted(REFUSED), "PLUGIN.LIBRARY.PATHS", "ssl.provider.path", "any.command"])
def test_they_are_refused_wherever_an_address_is_read(name):
    url = f"kafka://host/topic?{name}=env:HOME"
    for refused in (lambda: load_config({"steps": 1, "stream": {"url": url}}), lambda: SourceURL.parse(url)):
        with pytest.raises(ConfigError, match=f"{re.escape(name)}: an address loads no code and runs no command"):
            refused()


@pytest.mark.parametrize("name", ["principal", "keytab", "service.name", "anything"])
@pytest.mark.parametrize("value", ["$(id)", "a;id", "a b", "%25{x}", "`id`", "a%0Aid", '"x', "a%26%26id"])
def test_what_becomes_a_word_of_a_command_is_one_word(name, value):
    with pytest.raises(ConfigError, match="it becomes a word of a command"):
        SourceURL.parse(f"kafka://host/topic?sasl.kerberos.{name}={value}")


def test_ordinary_options_are_taken():
    url = "kafka://host/topic?fetch.max.bytes=1000&ssl.ca.location=/ca.pem&sasl.kerberos.principal=edge/h@REALM.org"
    assert SourceURL.parse(url).text("sasl.kerberos.principal", "") == "edge/h@REALM.org"
    assert not is_refused("client.rack")
