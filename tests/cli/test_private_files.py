"""Run folders hold no secret, and what could be misused in them is its owner's alone, whatever the umask."""

import os
import re
import stat
from pathlib import Path

import pytest

import scadles
from scadles.fabric.hub import Journal, journal_of
from scadles.files import open_private
from scadles.streams.quarantine import Quarantine
from scadles.streams.registry import open_source_url, register_source
from scadles.streams.secrets import read_secret

pytestmark = pytest.mark.timeout(300)
PASSWORD = "open-sesame-4711"
SETTINGS = {
    "method": "ddl",
    "steps": 4,
    "picture": False,
    "target_accuracy": None,
    "batch": {"size": 8},
    "clock": {"speed": 1},
    "checkpoint": {"every_steps": 2},
}


@pytest.fixture(params=[0o000, 0o022], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def assert_nowhere(folder, secret):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


@register_source("guarded")
def _guarded(url, *, clock, samples, **_):
    """A replayed stream that needs a password."""
    assert read_secret("password", url.text("password", "")) == PASSWORD
    return open_source_url("replay://?rate=200", clock=clock, samples=samples)


@pytest.mark.usefixtures("umask")
def test_checkpoints_are_private_and_no_password_is_in_a_run_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPSECRET", PASSWORD)
    settings = {**SETTINGS, "stream": {"url": "guarded://host/topic?password=env:TOPSECRET"}}
    scadles.train(settings, out=tmp_path / "run", quiet=True)
    checkpoints = list((tmp_path / "run" / "checkpoints").rglob("*.safetensors"))
    assert checkpoints
    assert {mode(path) for path in checkpoints} == {0o600}
    assert "env:TOPSECRET" in (tmp_path / "run" / "config.yaml").read_text()
    assert_nowhere(tmp_path / "run", PASSWORD)


@pytest.mark.usefixtures("umask")
def test_a_hubs_journal_is_private_also_where_it_was_not(tmp_path):
    with journal_of(tmp_path) as journal:
        journal.seat("cam-1", 0)
    [path] = tmp_path.iterdir()
    assert mode(path) == 0o600
    path.chmod(0o644)
    with journal_of(tmp_path) as journal:
        assert isinstance(journal, Journal)
        assert dict(journal.seats) == {"cam-1": 0}
    assert mode(path) == 0o600


@pytest.mark.usefixtures("umask")
def test_rejected_records_are_private(tmp_path):
    quarantine = Quarantine(tmp_path / "quarantine-0.jsonl", 1.0, 0)
    quarantine.keep(3, "not a sample", b"bytes", None)
    assert mode(tmp_path / "quarantine-0.jsonl") == 0o600


def test_a_file_that_others_could_read_is_private_before_it_is_written(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o666)
    with open_private(path, "a") as file:
        assert mode(path) == 0o600
        file.write(b" and new")
    assert path.read_bytes() == b"old and new"
    with open_private(path, "w") as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_no_token_and_no_key_is_in_the_run_folders_of_a_secure_hub(tmp_path, start, write_config):
    config = write_config(tmp_path / "c.yaml", **{**SETTINGS, "devices": 1, "clock": {"speed": 20}})
    fixed = ("-m", "scadles", "hub", config, "--listen", "127.0.0.1:0", "--secure", "--out", "hub")
    hub = start(tmp_path, *fixed, PYTHONUNBUFFERED="1")
    line = hub.until(lambda: re.search(r"scadles join (\S+) .*--token (\S+) --ca-hash (\S+)", hub.out), "how to join")
    address, token, ca_hash = line.groups()
    who = ("--name", "cam-1", "--out", "cam-1", "--identity", "identity", "--token", token, "--ca-hash", ca_hash)
    device = start(tmp_path, "-m", "scadles", "join", address, *who, "--quiet")
    assert device.wait() == 0, device.err
    assert hub.wait() == 0, hub.err
    for folder in ("hub", "cam-1"):
        assert_nowhere(tmp_path / folder, token)
    assert b"PRIVATE KEY" in b"".join(
        path.read_bytes() for path in (tmp_path / "identity").rglob("*") if path.is_file()
    )
    assert_nowhere(tmp_path / "cam-1", "PRIVATE KEY")
    private = [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and "authority" in path.parts]
    assert private
    assert {mode(Path(path)) for path in [*private, tmp_path / "hub" / "hub.jsonl"]} == {0o600}
