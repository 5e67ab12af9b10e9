"""Samples and targets of several parts over real brokers: the same model as from replayed streams."""

import pytest
import torch
from safetensors.torch import load_file

from mqtt_tools import new_topic
from scadles.observe import CheckpointWritten, RunFolder
from two_inputs import SETTINGS, write_files

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

    def begin(name, url, codec="raw", rates=400):
        stream = {"url": url, "rates": rates, "codec": {"format": codec}}
        config = write_config(tmp_path / f"{name}.yaml", **SETTINGS, **EVERY_RECORD, stream=stream)
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


@pytest.mark.parametrize("codec", ["raw", "json"])
def test_mqtt_brings_what_is_replayed(mosquitto_broker, start, train, replayed, finding, tmp_path, codec):
    run, config = train(codec, f"mqtt://{mosquitto_broker.address}/{new_topic()}/{{device}}", codec)
    found = finding(tmp_path / codec, 2)
    run.until(lambda: all(found.events(device, CheckpointWritten) for device in (0, 1)), "open streams", 90)
    publisher = start(tmp_path, "-m", "scadles", "publish", config, "--records", 2 * STEPS * BATCH)
    assert publisher.wait(120) == 0, publisher.err
    assert run.wait(180) == 0, run.err
    assert_same(tmp_path / codec, replayed)
