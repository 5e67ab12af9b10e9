"""Whole runs over a real MQTT broker: published, trained on, killed in every way, and accounted for."""

import json
import random
import signal
import time

import numpy as np
import pytest

from live_streams import KEPT, SOON
from mqtt_tools import Sender, new_topic, until_saved
from scadles.config import CodecConfig
from scadles.data.digits import load_digits
from scadles.observe import CheckpointWritten, Loss, Rejection, RunFolder, Step
from scadles.streams import make_codec
from scadles.testing.brokers.process import free_port

pytestmark = pytest.mark.timeout(400)


def settings_at(broker, prefix, rates, query="", **more):
    """Settings of a run over the topics ``prefix/0``, ``prefix/1``, ..."""
    stream = {"url": f"mqtt://{broker.address}/{prefix}/{{device}}{query}", "rates": rates, **more.pop("stream", {})}
    return {"devices": len(rates), "stream": stream, **more}


def until_all_listen(run, found):
    """The first checkpoint is written when the stream is open."""
    run.until(lambda: all(found.events(d, CheckpointWritten) for d in found.devices), "open streams", 90)


@pytest.fixture
def listening(start_training, finding, write_config, tmp_path):
    """Start two devices with these settings; return the run, what is found of it and its configuration."""

    def listen(settings):
        config = write_config(tmp_path / "c.yaml", **settings)
        run = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run")
        found = finding(tmp_path / "run", 2)
        until_all_listen(run, found)
        return run, found, config

    return listen


def trained(found, device):
    return sum(step.batch for step in found.events(device, Step))


@pytest.mark.parametrize("policy", ["persistence", "truncation"])
def test_two_topics_reach_the_target(mosquitto_broker, start, listening, tmp_path, policy):
    settings = settings_at(
        mosquitto_broker, f"digits-{policy}", [60, 40], target_accuracy=0.75, buffer={"policy": policy}, **SOON
    )
    run, found, config = listening(settings)
    publisher = start(tmp_path, "-m", "scadles", "publish", config, "--records", 100_000)
    assert run.wait(180) == 0, run.err
    publisher.signal(signal.SIGINT)
    assert publisher.wait() == 130, publisher.err
    found.assert_ended_together("target")
    summary = RunFolder(found.path).summary
    for row in summary.per_device:
        assert row.rate_hz > 0
        assert row.samples.rejected == row.duplicates == 0
        assert row.samples.dropped == 0 or policy == "truncation"


def test_killed_devices_and_brokers_lose_nothing(fragile_mosquitto, start, start_training, listening, npz, tmp_path):
    broker, records, luck = fragile_mosquitto(), 2500, random.Random(3)
    settings = settings_at(broker, "kept", [100, 70], data={"dataset": f"npz:{npz}"}, **KEPT)
    run, found, config = listening(settings)

    def resumed():
        return start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run", "--resume")

    def trains_for_a_while(run):
        before = len(found.raw(0))
        run.until(lambda: any(e["event"] == "step" and e["batch"] for e in found.raw(0)[before:]), "a step", 90)
        time.sleep(1 + luck.random())

    publisher = start(tmp_path, "-m", "scadles", "publish", config, "--records", records)
    trains_for_a_while(run)
    run.send(run.devices()[luck.randrange(2)], signal.SIGKILL)
    assert run.wait() == 3, run.err
    run = resumed()
    trains_for_a_while(run)
    run.kill_all()
    run = resumed()
    trains_for_a_while(run)
    assert publisher.wait(120) == 0, publisher.err
    until_saved(broker)  # what a killed broker took in since it last did so is gone
    broker.kill()
    broker.start()
    run.until(lambda: all(trained(found, device) >= records for device in (0, 1)), "all records", 150)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143, run.err

    found.assert_ended_together("stopped")
    found.assert_trained_once()
    assert [found.last_checkpoint(device).ledger["trained"] for device in (0, 1)] == [records, records]
    assert "has forgotten" not in run.err


@pytest.fixture
def digits():
    """Messages of the handwritten digits: ``digits(number)`` is a label and a value."""
    dataset = load_digits()
    codec = make_codec(CodecConfig(), dataset.shape, dataset.dtype, dataset.classes)

    def message(number):
        x, y = dataset.samples(np.array([number % dataset.train_size]))
        key, value = codec.encode(x[0], int(y[0]))
        return key.decode(), value

    return message


def send_some(broker, prefix, digits, numbers, garbage):
    """Send messages of these numbers to both topics; those that ``garbage`` names are none."""
    with Sender(broker) as sender:
        for device in (0, 1):
            for number in numbers:
                key, value = digits(number)
                sent = sender.send(
                    f"{prefix}/{device}", b"garbage" if garbage(number) else value, number, key, wait=False
                )
        sent.wait_for_publish(30)


def test_garbage_is_rejected_exactly_and_kept_as_examples(mosquitto_broker, listening, digits):
    prefix, count = new_topic(), 1000
    settings = settings_at(mosquitto_broker, prefix, [100, 100], steps=1_000_000, buffer={"policy": "persistence"})
    run, found, _ = listening(settings)
    send_some(mosquitto_broker, prefix, digits, range(count), lambda number: number % 100 == 7)
    run.until(lambda: all(trained(found, device) == 990 for device in (0, 1)), "all records", 90)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143, run.err
    found.assert_ended_together("stopped")
    for row in RunFolder(found.path).summary.per_device:
        assert (row.samples.received, row.samples.trained, row.samples.rejected) == (1000, 990, 10)
        assert sum(event.count for event in found.events(row.device, Rejection)) == 10
        lines = (found.path / f"quarantine-{row.device}.jsonl").read_text().splitlines()
        assert [json.loads(line)["offset"] for line in lines] == list(range(7, 1000, 100))
        assert json.loads(lines[0])["reason"] == "7 bytes, expected 64"


def test_a_stream_that_is_mostly_garbage_ends_the_run_on_all_devices(
    mosquitto_broker, start_training, listening, digits, tmp_path
):
    prefix = new_topic()
    settings = settings_at(
        mosquitto_broker, prefix, [100, 100], steps=1_000_000, stream={"max_rejected_share": 0.2},
        buffer={"policy": "persistence"},
    )  # fmt: skip
    run, found, config = listening(settings)
    send_some(mosquitto_broker, prefix, digits, range(300), lambda number: number % 3 == 0)
    assert run.wait(90) == 2, run.err
    assert run.err.count("more than stream.max_rejected_share = 0.2 of the stream cannot be trained on") == 1
    assert "quarantine-" in run.err
    assert "Traceback" not in run.err
    found.assert_ended_together("rejected")
    assert RunFolder(found.path).summary.ended_by == "rejected"
    rerun = start_training(
        tmp_path, config, "--local", 2, "--quiet", "--out", "run", "--resume", "--set", "stream.max_rejected_share=0.9"
    )
    send_some(mosquitto_broker, prefix, digits, range(300, 320), lambda number: False)
    rerun.until(lambda: all(trained(found, device) == 220 for device in (0, 1)), "all records", 90)
    rerun.signal(signal.SIGTERM)
    assert rerun.wait() == 143, rerun.err
    assert [found.last_checkpoint(device).ledger["rejected"] for device in (0, 1)] == [100, 100]


def test_a_wrong_password_is_one_clear_message_and_nowhere_on_the_disk(
    fragile_mosquitto, start_training, write_config, tmp_path
):
    (tmp_path / "passwords").touch()
    broker = fragile_mosquitto("allow_anonymous false", f"password_file {tmp_path / 'passwords'}")
    query = "?username=device&password=env:SECRET_OF_A_TEST"
    config = write_config(tmp_path / "c.yaml", **settings_at(broker, "camera", [10, 10], query, steps=5))
    run = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run", SECRET_OF_A_TEST="open-sesame-4711")
    assert run.wait(60) == 2, run.err
    assert run.err.strip() == f"error: mqtt://{broker.address}: the broker refuses us: Not authorized"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"open-sesame-4711" not in path.read_bytes(), path


def test_a_broker_that_is_not_there_is_one_clear_message(start_training, write_config, tmp_path):
    class Nobody:
        address = f"127.0.0.1:{free_port()}"

    config = write_config(tmp_path / "c.yaml", **settings_at(Nobody, "camera", [10, 10], steps=5))
    run = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run")
    assert run.wait(60) == 2, run.err
    assert run.err.strip() == f"error: mqtt://{Nobody.address}: no connection within 10 s: Connection refused"


def test_messages_that_never_came_are_told_and_counted_apart(
    mosquitto_broker, start_training, finding, write_config, npz, tmp_path
):
    topic = new_topic()
    settings = settings_at(mosquitto_broker, topic, [100], data={"dataset": f"npz:{npz}"}, **KEPT)
    config = write_config(tmp_path / "c.yaml", **settings)
    found = finding(tmp_path / "run", 1)
    with np.load(npz) as data:
        values, labels = [x.tobytes() for x in data["train_x"]], data["train_y"].tolist()

    def missing():
        return sum(loss.count for loss in found.events(0, Loss))

    with Sender(mosquitto_broker) as sender:

        def send(*numbers):
            for number in numbers:
                sender.send(f"{topic}/0", values[number], 7000 + number, str(labels[number]))

        run = start_training(tmp_path, config, "--local", 1, "--quiet", "--out", "run")
        until_all_listen(run, found)
        send(*range(40), *range(43, 60))
        run.until(lambda: missing() == 3, "a loss", 90)
        run.until(lambda: found.last_checkpoint(0).ledger["trained"] == 57, "a checkpoint", 90)
        run.kill_all()
        run = start_training(tmp_path, config, "--local", 1, "--quiet", "--out", "run", "--resume")
        run.until(lambda: any(event["event"] == "resumed" for event in found.raw(0)), "resumption", 90)
        send(*range(65, 80))
        run.until(lambda: missing() == 8, "another loss", 90)
        run.until(lambda: found.last_checkpoint(0).ledger["trained"] == 72, "a checkpoint", 90)
        run.signal(signal.SIGTERM)
        assert run.wait() == 143, run.err
    assert run.err.count("messages never came, as gaps in their ids show") == 1
    [row] = RunFolder(found.path).summary.per_device
    assert (row.missing, row.samples.received, row.samples.trained, row.samples.dropped) == (8, 72, 72, 0)
