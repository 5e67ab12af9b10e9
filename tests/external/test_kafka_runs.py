"""Whole runs over a real broker: published, trained on, killed in every way, and accounted for by its own offsets."""

import random
import signal
import time

import pytest

from live_streams import KEPT, SOON
from scadles.observe import RunFolder, Step
from scadles.testing.brokers.process import free_port

pytestmark = pytest.mark.timeout(400)

RATES = [50, 38, 12, 82]


def ends(broker, *topics):
    """How many records Kafka's own tool says each topic has ever had."""
    rows = (line.split(":") for line in broker.tool("GetOffsetShell", "--time", "latest").splitlines())
    found = {topic: int(end) for topic, _, end in rows}
    return [found[topic] for topic in topics]


def settings_at(broker, prefix, **more):
    """Settings of a run over the topics ``prefix-0``, ``prefix-1``, ..."""
    stream = {"url": f"kafka://{broker.address}/{prefix}-{{device}}", "rates": more.pop("rates")}
    return {"devices": len(stream["rates"]), "stream": stream, **more}


def started_publishing(start, folder, config, records):
    """Start to publish so many records to each topic; return once all topics are there."""
    publisher = start(folder, "-m", "scadles", "publish", config, "--records", records, "--create-topics")
    publisher.until(lambda: "publishing to" in publisher.err, "topics", timeout_s=90)
    return publisher


@pytest.mark.parametrize("policy", ["persistence", "truncation"])
def test_four_topics_of_unequal_rates_reach_the_target(
    kafka_broker, start, start_training, finding, write_config, tmp_path, policy
):
    settings = settings_at(
        kafka_broker, f"digits-{policy}", rates=RATES, target_accuracy=0.8, buffer={"policy": policy}, **SOON
    )
    config = write_config(tmp_path / "c.yaml", **settings)
    publisher = started_publishing(start, tmp_path, config, 100_000)
    run = start_training(tmp_path, config, "--local", 4, "--quiet", "--out", "run")
    assert run.wait(180) == 0, run.err
    publisher.signal(signal.SIGINT)
    assert publisher.wait() == 130, publisher.err
    found = finding(tmp_path / "run", 4)
    found.assert_ended_together("target")
    summary = RunFolder(found.path).summary
    assert summary.time_to_target_s is not None
    for row, rate_hz in zip(summary.per_device, RATES, strict=True):
        assert row.rate_hz == pytest.approx(rate_hz, rel=0.5)
        last = found.last_checkpoint(row.device)
        assert last.ledger["received"] == last.position + last.ledger["held"]
        assert last.ledger["trained"] + last.ledger["dropped"] == last.position
        assert (last.ledger["dropped"] == 0) or policy == "truncation"
        assert last.ledger["rejected"] == 0
    groups = kafka_broker.tool("consumer.group.ConsumerGroupCommand", "--describe", "--group", "scadles-run")
    committed = {line.split()[1]: int(line.split()[3]) for line in groups.splitlines() if f"digits-{policy}" in line}
    assert committed == {f"digits-{policy}-{device}": found.last_checkpoint(device).position for device in range(4)}


def test_killed_devices_and_brokers_lose_nothing(
    fragile_kafka_broker, start, start_training, finding, write_config, npz, tmp_path
):
    broker, luck = fragile_kafka_broker, random.Random(7)
    settings = settings_at(broker, "kept", rates=[200, 150], data={"dataset": f"npz:{npz}"}, **KEPT)
    config = write_config(tmp_path / "c.yaml", **settings)
    publisher = started_publishing(start, tmp_path, config, 1_000_000)
    found = finding(tmp_path / "run", 2)

    def resumed():
        before = len(found.raw(0))
        resume = ["--resume"] * (found.path / "config.yaml").exists()
        run = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run", *resume)
        run.until(lambda: any(e["event"] == "step" and e["batch"] for e in found.raw(0)[before:]), "a step", 90)
        time.sleep(2 * luck.random())
        return run

    run = resumed()
    run.send(run.devices()[luck.randrange(2)], signal.SIGKILL)
    assert run.wait() == 3, run.err
    resumed().kill_all()
    run = resumed()
    broker.kill()
    time.sleep(5.0)
    broker.start()
    run.until(lambda: all(heard_again(run, device) for device in (0, 1)), "the good news", 60)
    publisher.signal(signal.SIGINT)
    assert publisher.wait(120) == 130, publisher.err
    records = ends(broker, "kept-0", "kept-1")
    run.until(lambda: [last_offset(found, device) for device in (0, 1)] == [end - 1 for end in records], "all", 120)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143, run.err

    found.assert_ended_together("stopped")
    found.assert_trained_once()
    assert [found.last_checkpoint(device).ledger["trained"] for device in (0, 1)] == records
    for device in (0, 1):
        said = ["no answer" in line for line in run.err.splitlines() if f"kept-{device}: " in line]
        assert said == [True, False] * (len(said) // 2) != [], run.err  # more than once where the machine stands still


def heard_again(run, device):
    return any(f"kept-{device}: answers again after" in line for line in run.err.splitlines())


def last_offset(found, device):
    trained = [step.offsets for step in found.events(device, Step) if step.offsets]
    return trained[-1][1] if trained else None


def test_killed_runs_that_truncate_account_for_every_offset(
    kafka_broker, start, start_training, finding, write_config, npz, tmp_path
):
    luck = random.Random(11)
    settings = settings_at(
        kafka_broker,
        "newest",
        rates=[400, 100],
        steps=1_000_000,
        data={"dataset": f"npz:{npz}"},
        batch={"window_s": 0.2, "max": 32},
        checkpoint={"every_steps": 4},
    )
    config = write_config(tmp_path / "c.yaml", **settings)
    publisher = started_publishing(start, tmp_path, config, 100_000)
    found = finding(tmp_path / "run", 2)
    for attempt in range(3):
        before = len(found.raw(0))
        resume = ["--resume"] if attempt else []
        run = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run", *resume)
        run.until(lambda before=before: len(found.raw(0)) > before + 10, "steps", 90)
        time.sleep(luck.random())
        if attempt < 2:
            run.kill_all()
            found.assert_balanced()
    run.signal(signal.SIGTERM)
    assert run.wait() == 143, run.err
    publisher.signal(signal.SIGINT)
    publisher.wait()
    found.assert_ended_together("stopped")
    there = ends(kafka_broker, "newest-0", "newest-1")
    for device, end in enumerate(there):
        last = found.last_checkpoint(device)
        assert last.ledger["received"] == last.position + last.ledger["held"] <= end
        assert last.ledger["trained"] + last.ledger["dropped"] == last.position
        assert last.ledger["trained"] == sum(step.batch for step in found.events(device, Step))
    assert found.last_checkpoint(0).ledger["dropped"] > 0


def test_no_secret_is_left_in_a_run_folder(start_training, write_config, tmp_path):
    port = free_port()
    url = f"kafka://127.0.0.1:{port}/t?security.protocol=SASL_PLAINTEXT&sasl.mechanism=PLAIN&sasl.username=edge"
    plain = write_config(tmp_path / "plain.yaml", steps=5, stream={"url": f"{url}&sasl.password=open-sesame"})
    run = start_training(tmp_path, plain, "--out", "plain", "--quiet")
    assert run.wait() == 2
    assert "sasl.password is written into run folders" in run.err
    assert "open-sesame" not in run.err
    assert not (tmp_path / "plain").exists()
