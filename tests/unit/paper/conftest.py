"""A stand-in for the simulator that follows the paper's queue formulas, and tells what it was asked for."""

import math

import numpy as np
import pytest

import scadles.simulation
from scadles.config import load_config
from scadles.observe import (
    CONFIG_FILE,
    Compressed,
    DeviceSummary,
    Evaluation,
    EventLog,
    Header,
    Samples,
    Seconds,
    Step,
    Summary,
    events_path,
)
from scadles.streams import draw_rates

SAMPLES = Samples(received=0, trained=0, dropped=0, held=0, rejected=0)
SECONDS = Seconds(wait=0.0, compute=0.0, sync=0.0)
CNC, DENSE_BYTES = 0.5, 1000


class Queues:
    """All devices of a run, as numbers: what waits, is trained on and dropped after each step."""

    def __init__(self, config):
        self.config = config
        self.rates = np.array(draw_rates(config.stream.rates, config.devices, config.seed))
        self.time_s = 0.0
        self.trained = np.zeros(config.devices)
        self.dropped = np.zeros(config.devices)

    def step(self):
        fixed = self.config.batch.rule == "fixed"
        batch = np.full(len(self.rates), float(self.config.batch.size)) if fixed else np.round(self.rates)
        used = self.trained + self.dropped
        ready = np.maximum(self.time_s, (used + batch) / self.rates)
        self.wait_s = ready - self.time_s
        self.time_s = ready.max() + self._compute_s(batch.max()) + self._sync_s()
        self.batch, self.trained = batch, self.trained + batch
        self.waiting = np.floor(self.time_s * self.rates + 1e-9) - self.trained - self.dropped
        if self.config.buffer.policy == "truncation":
            lost = np.maximum(0, self.waiting - np.round(self.rates))
            self.waiting, self.dropped = self.waiting - lost, self.dropped + lost

    def _compute_s(self, batch):
        return self.config.cost.compute.step_s + self.config.cost.compute.sample_s * batch

    def _sync_s(self):
        cost, devices = self.config.cost, self.config.devices
        return 2 * (1 - 1 / devices) * (cost.message_bytes or 0) * 8 / cost.link.up_bps if cost.link.up_bps else 0.0

    def event(self, number, device):
        return Step(
            step=number, time_s=self.time_s, batch=int(self.batch[device]), total_batch=int(self.batch.sum()),
            offsets=None, rate_hz=self.rates[device], wait_s=self.wait_s[device], compute_s=0.1, sync_s=0.1,
            slowest=0, slowest_s=0.0, loss=None, lr=0.05, lr_scale=1.0, held=int(self.waiting[device]), lag=0,
            dropped=int(self.dropped[device]),
        )  # fmt: skip


def follow_the_formulas(config, *, out, quiet):
    """Write a run folder; where something is learnt, accuracy grows with the samples trained on."""
    config = load_config(config)
    out.mkdir(parents=True)
    recorded = range(min(config.devices, config.simulation.recorded_devices))
    logs = []
    for device in recorded:
        header = Header(
            step=0, time_s=0.0, device=device, devices=config.devices, method=config.method, seed=0, clock="virtual",
            started_at="", versions={},
        )  # fmt: skip
        logs.append(EventLog(events_path(out, device), header, append=False))
    queues, number, tested_s, accuracy, reached_s = Queues(config), 0, 0.0, None, None
    while number < (config.steps or math.inf) and queues.time_s < (config.duration_s or math.inf):
        queues.step()
        number += 1
        for device, log in enumerate(logs):
            log.write(queues.event(number, device))
        if config.model != "none" and queues.time_s >= tested_s:
            accuracy = 0.9 * (1 - math.exp(-queues.trained.sum() / 30_000))
            logs[0].write(Evaluation(step=number, time_s=queues.time_s, accuracy=accuracy, loss=1.0, samples_trained=0))
            tested_s += config.evaluation.every_s
            if reached_s is None and config.target_accuracy is not None and accuracy >= config.target_accuracy:
                reached_s = queues.time_s
    for log in logs:
        log.close()
    (out / CONFIG_FILE).write_text(config.to_yaml())
    result = summary(config, number, queues.time_s, accuracy, reached_s)
    result.write(out)
    return result


def summary(config, steps, time_s, accuracy, reached_s):
    """Half of the steps are compressed where compression is on, to nothing."""
    compressed = Compressed(
        ratio=0.1, values="int8", reduction="split", reduction_why="", cnc=CNC, kept_energy=0.75, decisions={}, why=""
    )
    on = config.compression.ratio is not None
    bytes_sent = round(DENSE_BYTES * config.devices * steps * (1 - CNC * on))
    device = DeviceSummary(
        device=0, rate_hz=8.0, samples=SAMPLES, seconds=SECONDS, buffer_max_samples=0, bytes_sent=0, slowest_steps=0,
        non_finite_steps=0,
    )  # fmt: skip
    return Summary(
        method=config.method, clock="virtual", devices=config.devices, seed=0, model=config.model, dataset="digits",
        steps=steps, time_s=time_s, wall_s=0.0, target_accuracy=config.target_accuracy,
        time_to_target_s=reached_s, final_accuracy=accuracy,
        best_accuracy=accuracy, samples=SAMPLES, buffer_max_samples=0, seconds=SECONDS, bytes_sent=bytes_sent,
        bytes_counted_by="model", collectives_per_step=1.0, lr_scale_mean=1.0, model_sha256="", ended_by="steps",
        per_device=(device,), compressed=compressed if on else None,
    )  # fmt: skip


@pytest.fixture
def simulated(monkeypatch):
    """Replace the simulator, and return the list of all configurations that it is given."""
    asked = []

    def simulate(config, *, out, quiet):
        asked.append(load_config(config))
        return follow_the_formulas(config, out=out, quiet=quiet)

    monkeypatch.setattr(scadles.simulation, "simulate", simulate, raising=False)
    return asked
