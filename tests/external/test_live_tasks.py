"""Tasks beyond class labels over real brokers: published, trained on, with nothing rejected."""

import signal

import numpy as np
import pytest

from scadles.observe import RunFolder

pytestmark = pytest.mark.timeout(400)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(460, 5)).astype(np.float32)
Y = (50 + 20 * X[:, :1] * X[:, 1:2] + 10 * X[:, 2:4]).astype(np.float32)
REGRESSION = {"task": "regression", "target": {"metric": "mae", "at_most": 9.0}}
UNLABELLED = {"task": "reconstruction", "target": {"metric": "mse", "at_most": 0.5}}


def settings_at(url, codec, folder, **more):
    targets = {"train_y": Y[:400], "test_y": Y[400:]} if more["task"] == "regression" else {}
    np.savez(folder / "table.npz", train_x=X[:400], test_x=X[400:], **targets)
    stream = {"url": url, "rates": [80, 50], "codec": {"format": codec}}
    common = {"devices": 2, "duration_s": 120, "evaluation": {"every_s": 1.0}, "optimizer": {"lr": 0.05}}
    return common | {"stream": stream, "data": {"dataset": f"npz:{folder}/table.npz"}} | more


def learn(start, start_training, write_config, folder, settings, *overrides):
    """Publish to two topics and train on them until the target is reached; return the run's summary."""
    config = write_config(folder / "c.yaml", **settings)
    kafka = settings["stream"]["url"].startswith("kafka")
    topics = ["--create-topics"] if kafka else []
    publisher = start(folder, "-m", "scadles", "publish", config, "--records", 100_000, *topics)
    publisher.until(lambda: "publishing to" in publisher.err, "topics", timeout_s=90)
    run = start_training(folder, config, "--local", 2, "--quiet", "--out", "run", *overrides)
    assert run.wait(180) == 0, run.err
    publisher.signal(signal.SIGINT)
    assert publisher.wait() == 130, publisher.err
    return RunFolder(folder / "run").summary


def assert_reached(summary, metric):
    assert (summary.ended_by, summary.measured.metric) == ("target", metric)
    assert summary.measured.final <= summary.measured.target
    samples = summary.samples
    assert samples.received == samples.trained + samples.dropped + samples.held
    assert (samples.rejected, summary.online_accuracy) == (0, None)


@pytest.mark.parametrize("codec", ["raw", "npy", "json"])
def test_numbers_are_learnt_from_kafka(kafka_broker, start, start_training, write_config, tmp_path, codec):
    url = f"kafka://{kafka_broker.address}/loads-{codec}-{{device}}"
    summary = learn(start, start_training, write_config, tmp_path, settings_at(url, codec, tmp_path, **REGRESSION))
    assert_reached(summary, "mae")


def test_samples_without_targets_are_learnt_from_mqtt(mosquitto_broker, start, start_training, write_config, tmp_path):
    url = f"mqtt://{mosquitto_broker.address}/unlabelled/{{device}}"
    summary = learn(start, start_training, write_config, tmp_path, settings_at(url, "raw", tmp_path, **UNLABELLED))
    assert_reached(summary, "mse")


@pytest.mark.parametrize("broker", ["kafka", "mosquitto"])
@pytest.mark.parametrize("on", ["holdout", "stream"])
def test_a_run_on_a_live_stream_needs_no_file(request, start, start_training, write_config, tmp_path, broker, on):
    """Neither a data set nor a test set: only the form of a sample is said."""
    address = request.getfixturevalue(f"{broker}_broker").address
    url = f"{'kafka' if broker == 'kafka' else 'mqtt'}://{address}/no-file-{on}-{{device}}"
    settings = settings_at(url, "raw", tmp_path, **UNLABELLED)
    overrides = {"data.dataset": "none", "stream.codec.shape": "[5]", "evaluation.on": on}
    given = [word for name, value in overrides.items() for word in ("--set", f"{name}={value}")]
    summary = learn(start, start_training, write_config, tmp_path, settings, *given)
    assert (summary.ended_by, summary.tested_on, summary.dataset) == ("target", on, "none")
    assert summary.measured.final <= summary.measured.target
    assert summary.samples.balanced
    held_out = summary.samples.tested / summary.samples.received
    assert held_out == pytest.approx(0.1, abs=0.03) if on == "holdout" else held_out == 0
