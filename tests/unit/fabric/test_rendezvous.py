import os
import sys

import pytest

from scadles.fabric.rendezvous import choose_interface


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
