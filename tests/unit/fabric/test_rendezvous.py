import os
import sys

import pytest

from scadles.errors import ConfigError
from scadles.fabric import rendezvous
from scadles.fabric.rendezvous import choose_interface, open_store, public_address


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    for name in ("GLOO_SOCKET_IFNAME", "MASTER_ADDR", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    yield
    os.environ.pop("GLOO_SOCKET_IFNAME", None)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked for its interfaces")
def test_devices_of_one_host_connect_on_loopback(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert choose_interface() == "lo" == os.environ["GLOO_SOCKET_IFNAME"]


def test_what_the_user_has_chosen_stays(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "wlan0")
    assert choose_interface() == "wlan0" == os.environ["GLOO_SOCKET_IFNAME"]


@pytest.mark.parametrize("master", ["127.0.1.1", "no.such.host.invalid"])
def test_an_address_that_leads_to_no_other_host_is_left_to_gloo(monkeypatch, master):
    monkeypatch.setenv("MASTER_ADDR", master)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert choose_interface() is None
    assert "GLOO_SOCKET_IFNAME" not in os.environ


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.10", False),
        ("169.254.3.4", False),
        ("100.64.0.1", False),
        ("100.127.255.254", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("8.8.8.8", True),
        ("172.32.0.1", True),
        ("100.128.0.1", True),
        ("2001:4860::8888", True),
    ],
)
def test_which_addresses_are_public(monkeypatch, address, is_public):
    monkeypatch.setenv("MASTER_ADDR", address)
    monkeypatch.setattr(rendezvous, "_own_address_towards", lambda _: "192.168.1.2")
    assert public_address() == (address if is_public else None)


def test_an_own_address_may_be_the_public_one(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setattr(rendezvous, "_own_address_towards", lambda _: "8.8.4.4")
    assert public_address() == "8.8.4.4"
    monkeypatch.setenv("SCADLES_RENDEZVOUS_FILE", "/tmp/meeting")
    assert public_address() is None, "devices of one launcher are on loopback"


@pytest.mark.parametrize(
    ("master", "port", "said"),
    [
        ("192.0.2.1", "29500", "device 0 cannot listen there"),
        ("no.such.host.invalid", "29500", "cannot be looked up"),
        ("127.0.0.1", "port", "set them to an address of this host and a free port"),
        ("127.0.0.1", "99999", "set them to an address of this host and a free port"),
    ],
)
def test_an_address_on_which_device_0_cannot_listen(monkeypatch, master, port, said):
    for name, value in {"MASTER_ADDR": master, "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said):
        open_store(1, 5.0)
