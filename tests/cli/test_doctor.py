import json
import os
import socket
import sys
import threading

import pytest
import typer
from typer.testing import CliRunner

from scadles.cli import checks as module
from scadles.cli.doctor import doctor


def invoke(*arguments):
    app = typer.Typer()
    app.command()(doctor)
    return CliRunner().invoke(app, list(arguments))


def test_all_checks_end_in_a_table():
    result = invoke()
    assert result.exit_code == 0, result.output
    for name in ("python", "torch", "gloo", "reverse look-up", "extra kafka", "broker mqtt", "free disk"):
        assert name in result.stdout


def test_findings_are_printed_as_json():
    findings = json.loads(invoke("--json").stdout)
    assert {"name", "ok", "value", "remedy", "needed"} == set(findings[0])
    assert all(finding["ok"] or finding["remedy"] for finding in findings)


def test_only_what_is_needed_decides_the_exit_code(monkeypatch):
    broken = module.Finding("x", ok=False, value="broken", remedy="mend it")
    monkeypatch.setattr(module, "examine", lambda: [broken])
    assert invoke().exit_code == 0
    monkeypatch.setattr(module, "examine", lambda: [module.Finding("x", ok=False, value="broken", needed=True)])
    result = invoke()
    assert result.exit_code == 1
    assert "BROKEN" in result.stdout


TRUSTED = "not encrypted, for networks that you trust"


class TestNetwork:
    @pytest.fixture(autouse=True)
    def surroundings(self, monkeypatch):
        for name in ("GLOO_SOCKET_IFNAME", "MASTER_ADDR"):
            monkeypatch.setenv(name, "")  # what the check sets goes when the test ends
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")

    def test_an_address_that_other_hosts_cannot_reach_is_told_with_its_remedy(self, monkeypatch):
        """Debian and Raspberry Pi OS give a host's own name this address."""
        monkeypatch.setenv("MASTER_ADDR", "127.0.1.1")
        finding = module.network()
        assert (finding.ok, finding.value) == (False, "MASTER_ADDR = 127.0.1.1 is no way to other hosts")
        assert "export GLOO_SOCKET_IFNAME=NAME" in finding.remedy

    def test_an_address_of_the_internet_is_told_with_its_remedy(self, monkeypatch):
        monkeypatch.setenv("MASTER_ADDR", "8.8.8.8")
        finding = module.network()
        assert (finding.ok, finding.value) == (False, "devices connect by 8.8.8.8, which is public")
        assert "or a hub (scadles hub)" in finding.remedy

    def test_where_devices_will_connect_is_told(self, monkeypatch):
        assert module.network().value == f"the interface that leads to MASTER_ADDR, once it is set; {TRUSTED}"
        monkeypatch.setenv("MASTER_ADDR", "10.7.0.1")
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "wlan0")
        assert module.network().value == f"wlan0, towards 10.7.0.1; {TRUSTED}"


def test_gloo_really_sums():
    assert module._sum_alone() == 1.0
    assert module.gloo().ok


@pytest.mark.parametrize(
    ("error", "value"), [(RuntimeError("no address\nmore"), "no address"), (AttributeError(), "not in this PyTorch")]
)
def test_gloo_that_fails_is_needed_and_has_a_remedy(monkeypatch, error, value):
    def fail():
        raise error

    monkeypatch.setattr(module, "_sum_alone", fail)
    finding = module.gloo()
    assert (finding.ok, finding.needed, finding.value) == (False, True, value)
    assert finding.remedy


def test_gloo_that_hangs_is_given_up(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(module, "_sum_alone", release.wait)
    monkeypatch.setattr(module, "_GIVE_UP_S", 0.05)
    assert "no answer within 0.05 s" in module.gloo().value
    release.set()


def test_without_torch_nothing_crashes(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not module.torch_library().ok
    assert not module.gloo().ok
    assert not module.cuda().ok
    assert not module.backend("nccl", "x").ok


def test_a_slow_look_up_is_told_with_its_remedy(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(socket, "getnameinfo", lambda *_: release.wait())
    monkeypatch.setattr(module, "_GIVE_UP_S", 0.05)
    finding = module.reverse_lookup()
    release.set()
    assert "more than 0.05 s" in finding.value
    monkeypatch.setattr(module, "_SLOW_LOOKUP_S", 0.0)
    finding = module.reverse_lookup()
    assert not finding.ok
    assert 'RES_OPTIONS="timeout:1 attempts:1"' in finding.remedy


def test_a_look_up_without_an_answer_is_no_delay(monkeypatch):
    def fail(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getnameinfo", fail)
    assert module.reverse_lookup().ok


def test_missing_extras_name_the_pip_line(monkeypatch):
    monkeypatch.setitem(module._EXTRAS, "kafka", "no-such-package-at-all")
    finding = module.extra("kafka")
    assert (finding.ok, finding.remedy) == (False, "pip install 'scadles[kafka]'")


def test_a_broker_that_answers(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("SCADLES_MQTT", f"127.0.0.1:{port}")
        assert module.broker("mqtt").ok
    finding = module.broker("mqtt")
    assert not finding.ok
    assert "refused" in finding.value


@pytest.mark.parametrize("address", ["", "localhost", "localhost:x", ":9092"])
def test_a_broker_that_is_not_named_says_how(monkeypatch, address):
    monkeypatch.setenv("SCADLES_KAFKA", address)
    finding = module.broker("kafka")
    assert not finding.ok
    assert "export SCADLES_KAFKA=localhost:9092" in finding.remedy


def test_a_full_disk_is_broken(monkeypatch, tmp_path):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    finding = module.free_disk()
    assert (finding.ok, finding.needed, finding.value) == (False, True, "1.0 kB here")


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux only")
def test_trying_the_scheduling_class_does_not_change_ours():
    before = os.sched_getscheduler(0)
    assert module.batch_scheduling().value
    assert os.sched_getscheduler(0) == before


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_the_kernel_counts_bytes():
    assert "of 1000 bytes" in module.byte_counters().value
