"""Labels that come up to twice as late as anybody waits for, over real brokers; devices and brokers are killed."""

import random
import signal
import time

import numpy as np
import pytest

from late_device import trained
from live_streams import KEPT
from mqtt_tools import until_saved
from scadles.observe import CheckpointWritten, RunFolder

pytestmark = pytest.mark.timeout(400)

WAIT_S = 2.0
SCRIPT = "tests/late_device.py"


def settings_at(folder, url, labels, **more):
    """Settings of a run on samples that are numbers, each of which is published once; its label is the last digit."""
    x = np.arange(60_000, dtype=np.float32)[:, None]
    y = np.arange(60_000) % 10
    np.savez(folder / "numbers.npz", train_x=x, train_y=y, test_x=x[:50], test_y=y[:50])
    stream = {"url": url, "rates": 150, "labels": {"url": labels, "wait_s": WAIT_S}}
    data = {"dataset": f"npz:{folder}/numbers.npz", "normalize": "none"}
    return {"devices": 1, "stream": stream, "data": data, "picture": False, **KEPT, **more}


def published(start, folder, config, *arguments):
    publisher = start(folder, "-m", "scadles", "publish", config, "--delay", 2 * WAIT_S, *arguments)
    publisher.until(lambda: "publishing to" in publisher.err, "topics", timeout_s=90)
    return publisher


class Device:
    """The device's processes, one after the other."""

    def __init__(self, start, found, config, root):
        self.found, self.luck = found, random.Random(5)
        self._start, self._config, self._script = start, config, root / SCRIPT
        self.run = None

    def listen(self):
        """Start it; return once its streams are open."""
        self.run = self._start(self.found.path.parent, self._script, self._config, self.found.path)
        self.run.until(lambda: self.found.events(0, CheckpointWritten), "open streams", 90)

    def begin(self):
        """Start it; return once it has trained on something and somewhat longer."""
        before = len(self.found.raw(0))
        resume = ["resume"] * (self.found.path / "config.yaml").exists()
        self.run = self._start(self.found.path.parent, self._script, self._config, self.found.path, *resume)
        self.run.until(
            lambda: any(e["event"] == "step" and e["batch"] for e in self.found.raw(0)[before:]), "a step", 90
        )
        time.sleep(2 * self.luck.random())

    def kill(self):
        self.run.signal(signal.SIGKILL)
        self.run.wait()

    def end(self, records):
        """Wait until all that was published is settled, and late labels as well, then stop it."""
        settled_s = []

        def all_settled():
            last = [e for e in self.found.raw(0) if e["event"] == "checkpoint"][-1]
            if (last["ledger"]["received"], last["ledger"]["held"]) == (records, 0):
                settled_s.append(last["time_s"])
            return bool(settled_s) and last["time_s"] > settled_s[0] + 3 * WAIT_S

        self.run.until(all_settled, "all that was published", 150)
        self.run.signal(signal.SIGTERM)
        self.run.wait()
        self.found.assert_balanced()
        return RunFolder(self.found.path).summary


def assert_each_once(summary, folder, records, targets):
    """Each record is trained on once or unlabelled, and each label was given to one or is a stray."""
    samples, pairs = summary.samples, trained(folder)
    assert samples.received == records == samples.trained + samples.unlabelled
    assert samples.balanced
    assert len(pairs) == len({x for x, _ in pairs}) == samples.trained
    assert all(y == x % 10 for x, y in pairs)
    assert samples.trained + summary.per_device[0].stray_targets == targets
    # fewer than half: what came while the device or the broker was down is read with its labels
    assert 0 < samples.unlabelled < 0.6 * records


def test_killed_devices_and_brokers_train_each_labelled_sample_once(
    fragile_kafka_broker, start, finding, write_config, tmp_path, pytestconfig
):
    broker = fragile_kafka_broker
    at = f"kafka://{broker.address}"
    settings = settings_at(tmp_path, f"{at}/frames-{{device}}", f"{at}/labels-{{device}}")
    config = write_config(tmp_path / "c.yaml", **settings)
    publisher = published(start, tmp_path, config, "--records", 50_000, "--create-topics")
    device = Device(start, finding(tmp_path / "run", 1), config, pytestconfig.rootpath)
    for _ in range(2):
        device.begin()
        device.kill()
    device.begin()
    broker.kill()
    time.sleep(5.0)
    broker.start()
    device.run.until(lambda: device.run.err.count("answers again after") >= 2, "the good news of both topics", 60)
    device.kill()
    device.begin()
    publisher.signal(signal.SIGINT)
    assert publisher.wait(120) == 130, publisher.err
    rows = (line.split(":") for line in broker.tool("GetOffsetShell", "--time", "latest").splitlines())
    ends = {topic: int(end) for topic, _, end in rows}
    summary = device.end(ends["frames-0"])
    assert_each_once(summary, tmp_path / "run", ends["frames-0"], ends["labels-0"])


def test_of_mqtt(fragile_mosquitto, start, finding, write_config, tmp_path, pytestconfig):
    """Messages have ids, by which those that come again are known, and both sessions are persistent."""
    broker, records = fragile_mosquitto(), 3000
    at = f"mqtt://{broker.address}"
    settings = settings_at(tmp_path, f"{at}/frames/{{device}}", f"{at}/labels/{{device}}")
    config = write_config(tmp_path / "c.yaml", **settings)
    device = Device(start, finding(tmp_path / "run", 1), config, pytestconfig.rootpath)
    device.listen()
    publisher = published(start, tmp_path, config, "--records", records)
    time.sleep(2 * device.luck.random())
    device.kill()
    device.begin()
    device.kill()
    device.begin()
    assert publisher.wait(120) == 0, publisher.err
    until_saved(broker)
    broker.kill()
    broker.start()
    summary = device.end(records)
    assert_each_once(summary, tmp_path / "run", records, records)
    assert summary.per_device[0].missing == 0
