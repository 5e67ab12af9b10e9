"""A hub's folder: the disk is full for a while, and two hubs want the same one."""

import re
import shutil
import signal
import subprocess
from contextlib import suppress

import pytest

from scadles.fabric.hub import journal_of
from scadles.observe import Step

pytestmark = pytest.mark.timeout(300)

IN_A_SMALL_FILE_SYSTEM = """
import os, sys
mount = "mount -t tmpfs -o size=128k none hub && exec \\"$@\\""
os.execvp("unshare", ["unshare", "-Urm", "sh", "-c", mount, "sh", sys.executable, "-m", "scadles", *sys.argv[1:]])
"""
SETTINGS = {
    "method": "ddl",
    "devices": 2,
    "steps": 100_000,
    "stream": {"rates": 40},
    "clock": {"speed": 20},
    "checkpoint": {"every_steps": 5},
    "fabric": {"min_devices": 2},
}


def until_it_listens(hub):
    return hub.until(lambda: re.search(r" on (127\.0\.0\.1:\d+)\n", hub.out), "its address")[1]


def fill(path):
    """Write a file until nothing more fits."""
    with suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(b"x" * 512) == 512:
            pass


@pytest.fixture
def may_mount():
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], check=False).returncode:
        pytest.skip("needs unshare, and the right to make namespaces")


@pytest.mark.usefixtures("may_mount")
def test_a_run_goes_on_while_the_disk_of_the_hub_is_full(tmp_path, start, write_config, npz, finding):
    config = write_config(tmp_path / "c.yaml", **SETTINGS, data={"dataset": f"npz:{npz}"})
    (tmp_path / "hub").mkdir()
    arguments = ("hub", config, "--listen", "127.0.0.1:0", "--out", "hub")
    hub = start(tmp_path, "-c", IN_A_SMALL_FILE_SYSTEM, *arguments, PYTHONUNBUFFERED="1")
    address = until_it_listens(hub)
    joining = ("-m", "scadles", "join", address, "--quiet", "--allow", "data.dataset=npz:*")
    devices = [start(tmp_path, *joining, "--name", name, "--out", name) for name in "ab"]

    def newest():
        return max(
            (step.step for device in (0, 1) for step in finding(tmp_path / "a", 2).events(device, Step)), default=0
        )

    hub.until(lambda: newest() >= 5, "a few steps")
    folder = tmp_path.joinpath(f"/proc/{hub.process.pid}/root{tmp_path}/hub")
    assert (folder / "hub.jsonl").exists()
    fill(folder / "ballast")
    hub.until(lambda: "cannot write hub/hub.jsonl (No space left on device): the run goes on" in hub.err, "word of it")
    full_at = newest()
    hub.until(lambda: newest() >= full_at + 10, "steps with a full disk")
    assert "is written again" not in hub.err
    (folder / "ballast").unlink()
    hub.until(lambda: "hub/hub.jsonl is written again, with all that counts" in hub.err, "word of it")
    for run in devices:
        run.signal(signal.SIGTERM)
    assert [run.wait() for run in devices] == [143, 143]
    shutil.copytree(folder, tmp_path / "found")
    hub.signal(signal.SIGTERM)
    assert hub.wait() == 143
    assert hub.err.count("\n") == 2, hub.err
    with journal_of(tmp_path / "found") as journal:
        assert journal.newest >= full_at + 10
        assert min(journal.of("a")[0], journal.of("b")[0]) >= journal.newest - 1


def test_a_second_hub_in_the_same_folder_is_refused(tmp_path, start, write_config, npz):
    config = write_config(tmp_path / "c.yaml", **SETTINGS, data={"dataset": f"npz:{npz}"})
    arguments = ("-m", "scadles", "hub", config, "--listen", "127.0.0.1:0", "--out", "hub")
    first = start(tmp_path, *arguments, PYTHONUNBUFFERED="1")
    until_it_listens(first)
    journal = (tmp_path / "hub" / "hub.jsonl").read_bytes()
    second = start(tmp_path, *arguments)
    assert second.wait() == 2
    assert "error: hub is in use by a run since" in second.err
    assert f"(process {first.process.pid} on " in second.err
    assert second.err.count("\n") == 1
    local = start(
        tmp_path, "-m", "scadles", "train", config, "--local", "2", "--out", "hub", "--set", "fabric.backend=hub"
    )
    assert local.wait() == 2
    assert "error: hub is in use by a run since" in local.err
    assert (tmp_path / "hub" / "hub.jsonl").read_bytes() == journal
    first.process.kill()
    first.wait()
    third = start(tmp_path, *arguments, PYTHONUNBUFFERED="1")
    until_it_listens(third)
    third.signal(signal.SIGTERM)
    assert third.wait() == 143
