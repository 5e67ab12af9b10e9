"""Samples and targets of several parts over real brokers: the same model as from replayed streams."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from mqtt_tools import Sender, new_topic
from scadles.observe import CheckpointWritten, Rejection, RunFolder, Step
from two_inputs import SETTINGS, arrays, write_files

pytestmark = pytest.mark.timeout(400)

STEPS, BATCH = 12, 16
# batches of a size are the same records in the same order, whenever they come
EVERY_RECORD = {
    "devices": 2,
    "seed": 5,
    "steps": STEPS,
    "batch": {"rule": "fixed", "size": BATCH, "max_wait_s": 90},
    "buffer": {"policy": "persistence"},
    "checkpoint": {"every_steps": 4},
}


@pytest.fixture
def train(start_training, write_config, tmp_path):
    """Start two devices; ``train(name, url, codec)`` returns the process and the file of settings."""
    write_files(tmp_path)

    def begin(name, url, codec="raw", rates=400, **more):
        stream = {"url": url, "rates": rates, "codec": {"format": codec}}
        config = write_config(tmp_path / f"{name}.yaml", **SETTINGS | EVERY_RECORD | more, stream=stream)
        return start_training(tmp_path, config, "--local", 2, "--quiet", "--out", name), config

    return begin


@pytest.fixture
def replayed(train, tmp_path):
    run, _ = train("replayed", "replay://")
    assert run.wait(120) == 0, run.err
    return tmp_path / "replayed"


def assert_same(found, expected):
    """Both runs trained on the same samples and came to the same model."""
    one, other = RunFolder(found).summary, RunFolder(expected).summary
    assert (one.steps, one.samples.trained, one.samples.rejected) == (STEPS, 2 * STEPS * BATCH, 0)
    assert [row.samples.trained for row in one.per_device] == [row.samples.trained for row in other.per_device]
    assert one.measured.metrics == pytest.approx(other.measured.metrics, rel=1e-4)
    model, again = (load_file(folder / "model.safetensors") for folder in (found, expected))
    assert model.keys() == again.keys()
    for name, tensor in model.items():
        torch.testing.assert_close(tensor, again[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("codec", ["raw", "npy", "safetensors", "json", "arrow", "avro"])
def test_kafka_brings_what_is_replayed(kafka_broker, start, train, replayed, tmp_path, codec):
    if codec in ("arrow", "avro"):
        pytest.importorskip({"arrow": "pyarrow", "avro": "fastavro"}[codec])
    run, config = train(codec, f"kafka://{kafka_broker.address}/drone-{codec}-{{device}}", codec)
    publisher = start(tmp_path, "-m", "scadles", "publish", config, "--records", 2 * STEPS * BATCH, "--create-topics")
    assert publisher.wait(120) == 0, publisher.err
    assert run.wait(180) == 0, run.err
    assert_same(tmp_path / codec, replayed)


def test_targets_of_several_parts_may_come_later(kafka_broker, start, start_training, write_config, tmp_path):
    write_files(tmp_path)
    topics = {name: f"kafka://{kafka_broker.address}/late-drone-{name}-{{device}}" for name in ("x", "y")}
    stream = {"url": topics["x"], "rates": 400, "labels": {"url": topics["y"], "wait_s": 60}}
    tests = {"evaluation": {"on": "holdout", "holdout_every": 4}}
    config = write_config(tmp_path / "late.yaml", **SETTINGS | EVERY_RECORD | tests, stream=stream)
    run = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "late")
    publisher = start(
        *(tmp_path, "-m", "scadles", "publish", config),
        *("--records", 2 * STEPS * BATCH, "--delay", 0.5, "--create-topics"),
    )
    assert publisher.wait(120) == 0, publisher.err
    assert run.wait(180) == 0, run.err
    summary = RunFolder(tmp_path / "late").summary
    assert (summary.steps, summary.samples.trained) == (STEPS, 2 * STEPS * BATCH)
    assert (summary.samples.rejected, summary.samples.unlabelled) == (0, 0)
    assert [row.stray_targets for row in summary.per_device] == [0, 0]
    assert summary.samples.tested > 0
    assert summary.samples.balanced


@pytest.mark.parametrize("codec", ["raw", "json"])
def test_mqtt_brings_what_is_replayed(mosquitto_broker, start, train, replayed, finding, tmp_path, codec):
    run, config = train(codec, f"mqtt://{mosquitto_broker.address}/{new_topic()}/{{device}}", codec)
    found = finding(tmp_path / codec, 2)
    run.until(lambda: all(found.events(device, CheckpointWritten) for device in (0, 1)), "open streams", 90)
    publisher = start(tmp_path, "-m", "scadles", "publish", config, "--records", 2 * STEPS * BATCH)
    assert publisher.wait(120) == 0, publisher.err
    assert run.wait(180) == 0, run.err
    assert_same(tmp_path / codec, replayed)


def message(number, **changed):
    """What a device's sensor sends, as JSON: ``x`` and ``y`` by part."""
    parts = {name: part[number % 400].tolist() for name, part in PARTS.items()} | changed
    left = {name: part for name, part in parts.items() if part is not None}
    split = {which: {name[2:]: part for name, part in left.items() if name[0] == which} for which in "xy"}
    return json.dumps(split).encode()


PARTS = arrays()
BAD = {
    "part telemetry is missing": {"x.telemetry": None},
    "1 part beyond picture, telemetry": {"x.depth": 3},
    "part telemetry is no list in the shape [3]": {"x.telemetry": [1, 2]},
    "part telemetry holds something else than numbers": {"x.telemetry": ["1", 2, 3]},
    "part picture holds a number that does not fit uint8": {"x.picture": [[[256] * 6] * 6] * 2},
    "part telemetry: NaN or infinite values": {"x.telemetry": [1, float("nan"), 3]},
    "part kind is missing": {"y.kind": None},
    "part kind: label 3, expected 0 to 2": {"y.kind": 3},
    "part kind: the label is no integer": {"y.kind": 1.5},
    "part place: a target with NaN or infinite values": {"y.place": [float("nan"), 1]},
}


def test_bad_messages_are_rejected_exactly_with_the_part(mosquitto_broker, train, finding, tmp_path):
    good, topic = 200, new_topic()
    run, _ = train("bad", f"mqtt://{mosquitto_broker.address}/{topic}/{{device}}", "json", steps=1_000_000)
    found = finding(tmp_path / "bad", 2)
    run.until(lambda: all(found.events(device, CheckpointWritten) for device in (0, 1)), "open streams", 90)
    with Sender(mosquitto_broker) as sender:
        for device in (0, 1):
            for number in range(good):
                sent = sender.send(f"{topic}/{device}", message(number), 2 * number, wait=False)
                if number < 5 * len(BAD):
                    changed = list(BAD.values())[number % len(BAD)]
                    sent = sender.send(f"{topic}/{device}", message(number, **changed), 2 * number + 1, wait=False)
        sent.wait_for_publish(30)
    whole = good - good % BATCH
    run.until(lambda: all(sum(s.batch for s in found.events(d, Step)) >= whole for d in (0, 1)), "all records", 120)
    run.signal(signal.SIGTERM)
    assert run.wait(60) == 143, run.err
    for row in RunFolder(tmp_path / "bad").summary.per_device:
        told = found.events(row.device, Rejection)
        counts = {reason: sum(e.count for e in told if e.reason == reason) for reason in {e.reason for e in told}}
        assert counts == dict.fromkeys(BAD, 5)
        samples = row.samples
        assert (samples.received, samples.rejected) == (good + 5 * len(BAD), 5 * len(BAD))
        assert samples.received == samples.trained + samples.dropped + samples.held + samples.rejected
