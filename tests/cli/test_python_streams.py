"""Streams of the user's own Python in runs of several processes."""

import signal

import pytest

from scadles.observe import RunFolder

SENSORS = """
import threading
import torch

CENTRES = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))

def sample(number, device):
    noise = torch.randn(4, generator=torch.Generator().manual_seed(10_000 * device + number))
    return CENTRES[number % 3] + 0.3 * noise, number % 3

def readings(start, device, count=600):
    for number in range(start, int(count)):
        yield sample(number, device)

def endless(start, device):
    while True:
        yield sample(start, device)
        start += 1

def stuck(device):
    yield from (sample(number, device) for number in range(40))
    threading.Event().wait()

def broken(device):
    yield from (sample(number, device) for number in range(40))
    if device == 1:
        raise OSError("the cable is out")
    threading.Event().wait()
"""


@pytest.fixture
def settings(tmp_path, write_config):
    """Write a run of two devices: ``settings(callable, **more)``."""
    (tmp_path / "sensors.py").write_text(SENSORS)
    (tmp_path / "table.csv").write_text(
        "a,b,c,d,y\n" + "\n".join(f"{i % 3},{i % 3 - 1},{-(i % 3)},{i},{i % 3}" for i in range(30))
    )

    def write(name, **more):
        stream = {"url": f"python://sensors:{name}"} | more.pop("stream", {})
        data = {"dataset": "csv:table.csv", "target": "y", "normalize": "none"}
        return write_config(tmp_path / "c.yaml", data=data, stream=stream, **more)

    return write


def test_a_run_ends_with_its_iterators(start_training, settings, finding, tmp_path):
    config = settings("readings?count=500", stream={"end": "stop"}, method="ddl", batch={"size": 16}, steps=None)
    run = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run")
    assert run.wait() == 0, run.err
    finding(tmp_path / "run", 2).assert_ended_together("streams")
    for row in RunFolder(tmp_path / "run").summary.per_device:
        samples = row.samples
        assert (samples.received, samples.trained, samples.held) == (500, 500, 0)


def test_what_can_go_back_is_trained_on_once_whatever_happens(start_training, settings, finding, tmp_path):
    config = settings("endless", method="ddl", batch={"size": 16}, steps=300, checkpoint={"every_steps": 5})
    found = finding(tmp_path / "run", 2)
    run = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run")
    run.until(lambda: all(len(found.checkpoints(device)) > 1 for device in (0, 1)), "checkpoints")
    run.kill_all()
    again = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run", "--resume")
    assert again.wait() == 0, again.err
    found.assert_ended_together("steps")
    found.assert_trained_once()


def test_a_stuck_iterator_keeps_no_run_from_its_end(start_training, settings, finding, tmp_path):
    config = settings("stuck", duration_s=4, steps=None, evaluation={"every_s": 1})
    run = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run")
    assert run.wait() == 0, run.err
    finding(tmp_path / "run", 2).assert_ended_together("duration")


def test_a_broken_iterator_is_told_in_one_sentence(start_training, settings, tmp_path):
    config = settings("broken", method="ddl", batch={"size": 8, "max_wait_s": 1}, duration_s=600, steps=None)
    run = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run")
    assert run.wait() != 0
    assert "python://sensors:broken has broken off after 40 records: OSError: the cable is out (" in run.err
    assert "Traceback" not in run.err


def test_what_cannot_go_back_says_so_when_it_is_resumed(start_training, settings, finding, tmp_path):
    config = settings("stuck", duration_s=600, steps=None, checkpoint={"every_steps": 1})
    found = finding(tmp_path / "run", 2)
    run = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run")
    run.until(lambda: len(found.checkpoints(0)) > 1, "checkpoint")
    run.signal(signal.SIGINT)
    assert run.wait() == 130, run.err
    again = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run", "--resume")
    said = "python://sensors:stuck cannot go back, as it takes no start"
    again.until(lambda: all(said in found.log(device).read_text() for device in (0, 1)), "notices")
    again.signal(signal.SIGINT)
    assert again.wait() == 130, again.err
    found.assert_balanced()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("python://sensors:nothing", "module 'sensors' has no 'nothing'"),
        ("python://sensors", "write python://MODULE:CALLABLE"),
        ("python://sensors:readings?cuont=5", "unknown parameter 'cuont'; sensors:readings takes count"),
        ("python://sensors:CENTRES", "is Tensor, not something to call"),
    ],
)
def test_a_wrong_address_is_one_sentence(start_training, settings, tmp_path, url, said):
    config = settings("endless", stream={"url": url}, steps=5)
    run = start_training(tmp_path, config, "--quiet", "--out", "run")
    assert run.wait() == 2
    assert said in run.err
    assert "Traceback" not in run.err
