"""``init_from`` through a hub: whoever has the file begins the run, whatever its seat; all others take its values."""

import re

import pytest

import scadles
from scadles.observe import CheckpointWritten, Finished, InitialValues

pytestmark = pytest.mark.timeout(300)

NAMES = ("cam-0", "cam-1", "cam-2")
SETTINGS = {"method": "ddl", "stream": {"rates": 40}, "clock": {"speed": 20}, "steps": 12}


@pytest.fixture
def config(tmp_path, write_config, npz):
    """Settings of a run that begins with the values of another one, which lie on one device."""
    settings = {**SETTINGS, "data": {"dataset": f"npz:{npz}"}}
    (tmp_path / NAMES[2]).mkdir()
    scadles.train({**settings, "steps": 3, "seed": 5, "picture": False}, out=tmp_path / "before", quiet=True)
    (tmp_path / "before" / "model.safetensors").rename(tmp_path / NAMES[2] / "first.safetensors")
    more = {"devices": 3, "init_from": "first.safetensors", "fabric": {"backend": "hub", "min_devices": 2}}
    return write_config(tmp_path / "c.yaml", **settings, **more)


def test_one_that_has_the_file_begins(tmp_path, start, config, finding):
    hub = start(
        tmp_path, "-m", "scadles", "hub", config, "--listen", "127.0.0.1:0", "--out", "hub", PYTHONUNBUFFERED="1"
    )
    address = hub.until(lambda: re.search(r" on (127\.0\.0\.1:\d+)\n", hub.out), "its address")[1]

    def join(name):
        (tmp_path / name).mkdir(exist_ok=True)
        allowed = ("--allow", "data.dataset=npz:*", "--allow", "init_from=first.safetensors")
        return start(tmp_path / name, "-m", "scadles", "join", address, "--name", name, "--out", "run", *allowed)

    devices = []
    for name in NAMES[:2]:
        devices.append(join(name))
        devices[-1].until(lambda: "waiting to be admitted" in devices[-1].err, "its wish")
    hub.until(lambda: "cam-0, cam-1 wait to be admitted" in hub.out, "two that wait, which were enough")
    devices.append(join(NAMES[2]))
    for run in (*devices, hub):
        assert run.wait() == 0, run.err
    said = "init_from = first.safetensors is not on this device: it waits for one that has it, or whose run has begun"
    assert [said in run.err for run in devices] == [True, True, False]
    found = [finding(tmp_path / name / "run", 3) for name in NAMES]
    firsts = [one.events(number, CheckpointWritten)[0] for number, one in enumerate(found)]
    assert [event.step for event in firsts] == [0, 0, 0]
    [values] = [event for number, one in enumerate(found) for event in one.events(number, InitialValues)]
    assert found[2].events(2, InitialValues) == [values]
    assert values.path == "first.safetensors"
    assert {event.model_sha256 for event in firsts} == {values.sha256}
    assert len({one.events(number, Finished)[-1].model_sha256 for number, one in enumerate(found)}) == 1


def test_a_file_that_nobody_has_is_told_at_once_on_one_machine(tmp_path, start_training, config):
    nowhere = start_training(tmp_path, config, "--local", 3, "--out", "run")
    assert nowhere.wait() == 2
    assert nowhere.err == (
        "error: init_from = first.safetensors: No such file or directory; name a model.safetensors, or the folder of a "
        "run\n"
    )


def test_a_file_that_cannot_be_used_is_told_by_the_device_that_has_it(tmp_path, start_training, config):
    (tmp_path / "first.safetensors").write_bytes(b"noise")
    run = start_training(tmp_path, config, "--local", 3, "--out", "run")
    assert run.wait() == 2
    assert run.err.count("error: init_from = first.safetensors: it is no safetensors file, or half of one") == 1
    assert "Traceback" not in run.err
