"""One simulated run, from its settings to its summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scadles import assembly
from scadles.assembly.exchange import build_cluster_exchange
from scadles.assembly.injection import build_injection, build_sample_format, injects
from scadles.clock import wall_seconds
from scadles.config import RunConfig
from scadles.data import Dataset
from scadles.device.device import Device
from scadles.device.divergence import Action
from scadles.device.managed import find_parameters
from scadles.device.step_cost import StepCost
from scadles.errors import ConfigError
from scadles.fabric import LocalFabric
from scadles.models import Nothing
from scadles.observe import (
    InitialValues,
    Notice,
    Progress,
    RateChange,
    RatioChange,
    Simulated,
    Summary,
    WindowChange,
    evenly,
    write_config,
)
from scadles.seeding import derive_seed
from scadles.simulation.batchnorm import ClusterStatistics
from scadles.simulation.charge import Charge
from scadles.simulation.choice import choose_gradients
from scadles.simulation.cluster import Cluster, StepDone
from scadles.simulation.costs import Costs
from scadles.simulation.elastic import ElasticCluster
from scadles.simulation.gradients import Lookup
from scadles.simulation.record import Record
from scadles.simulation.sharing import Sharing
from scadles.tasks import Task
from scadles.training.evaluation import Evaluator, make_evaluator
from scadles.training.fingerprint import fingerprint
from scadles.training.outliers import count_found, outliers
from scadles.training.run_statistics import RunStatistics
from scadles.training.schedule import Schedule
from scadles.training.score import Score
from scadles.training.signals import StopRequest
from scadles.training.starting_values import Origin
from scadles.training.summarise import RunEnd, compose

# Of more devices with a model of their own, so many are tested, evenly chosen: a test of each costs a whole test set.
_MOST_TESTED = 64


class Simulator:
    """A cluster that is run once.

    Args:
        config: the run.
        dataset: what its streams play.
        model: the network that all devices share.
        optimizer: over its parameters; None builds the one in the settings.
        task: what is learnt; None is what the settings say.
        run_dir: where settings and events go; None writes nothing.
        progress: what the terminal shows.
        origin: where the model's values come from; None where they were drawn.

    Attributes:
        learner: the model in training.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        task: Task | None = None,
        run_dir: Path | None = None,
        progress: Progress | None = None,
        origin: Origin | None = None,
    ) -> None:
        self._started_wall_s = wall_seconds()
        self._config = config
        self._task = task or assembly.build_task(config, dataset)
        torch.manual_seed(derive_seed(config.seed, "torch", 0))
        # in the in-memory fabric all simulated devices are one end: their sum is already there
        self._fabric = LocalFabric.create(1)[0]
        optimizer = assembly.choose_optimizer(config, model, optimizer)
        exchange = build_cluster_exchange(config, find_parameters(model, optimizer), self._fabric)
        self.learner = assembly.build_learner(config, dataset, model, optimizer, exchange)
        self._devices = assembly.build_devices(config, dataset, self.learner)
        self._statistics = ClusterStatistics(model, config.devices)
        transform = assembly.build_transform(config, dataset)
        if transform is not None and injects(config):
            raise ConfigError(
                f"data.transform = {config.data.transform}: a simulation passes what devices share through the model "
                "once, and each would transform it in its own way; leave data.transform or injection out"
            )
        partition = assembly.build_partition(config, dataset)
        lookup = Lookup(dataset, partition, self.learner, transform)
        self._lookup = Lookup(dataset, partition, self.learner)
        self._learns = not isinstance(model, Nothing)
        self._tests = _tests(config, dataset, self._task, self._devices) if self._learns else []
        if self._tests:
            self._tests[0].check(model)
        self._gradients = choose_gradients(config, self.learner, lookup, self._task, self._statistics)
        self._costs = Costs(config.cost, config.devices, config.seed)
        self._charge = Charge(config, self._costs, exchange)
        sharing = None
        if injects(config):
            sharing = Sharing(build_injection(config), build_sample_format(dataset), lookup.labels, self._costs)
        prequential = self._learns and config.tested_on == "stream"
        parts = (self._devices, self.learner, self._gradients, self._charge, self._on_step, sharing)
        first = self._test_first if prequential else None
        self._cluster = Cluster(*parts, test_first=first)
        if config.fabric.backend == "hub":
            self._cluster = ElasticCluster(
                *parts, least=config.fabric.min_devices, statistics=self._statistics, test_first=first
            )
        if run_dir is not None:  # not sooner: what cannot work leaves no folder behind
            write_config(run_dir, config.to_yaml())
        self._record = Record(config, self._devices, self.learner, self._task, run_dir, progress or _silent(config))
        if origin is not None:
            self._record.all(InitialValues, lambda _: origin._asdict(), 0.0)
        self._tests_each = bool(self._statistics) and config.aggregation.batchnorm == "local"
        self._schedule = Schedule(config)
        self._run_statistics = RunStatistics()
        self._stop = StopRequest()
        self._reason: str | None = None
        self._evaluated_at = -1

    def run(self) -> Summary:
        """Run the cluster to its end, which Ctrl-C and SIGTERM bring sooner, and return what came of it."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self._config.simulation.threads)
        try:
            with self._stop:
                self._cluster.run()
                without_a_step = "streams" if self._cluster.brings_nothing else "deserted"
                return self._finish(self._reason or without_a_step)
        finally:
            torch.set_num_threads(threads)
            self._record.close()
            self._fabric.close()

    def _on_step(self, done: StepDone) -> bool:
        self._record.step(done)
        self._follow_divergence(done)
        self._run_statistics.steps += 1
        self._tell_of_outliers(done)
        for ratio, why in self.learner.exchange.ratio_changes():
            self._tell_of_ratio({"ratio": ratio, "why": why})
        self._run_statistics.lr_scale += done.result.lr_scale
        self._measure(done)
        if self._schedule.evaluation_due(self.learner):
            self._evaluate()
        self._reason = self._schedule.reason_to_end(
            self.learner, self._run_statistics, stopped=self._stop.wanted, ended=done.result.ended
        )
        if self._reason is None and self.learner.step_number % self._config.checkpoint.every_steps == 0:
            self._share_statistics()  # as writing a checkpoint does
        return self._reason is None

    def _measure(self, done: StepDone) -> None:
        """Let window and learning rate follow what is measured, where they do."""
        measuring, step = self.learner.measuring, self.learner.step_number
        if measuring is None or not measuring.is_due(step):
            return
        rows = []
        for device in done.members:
            if not done.reports.weight[device.number]:
                measuring.leave_out(device.number)
            cost = device.cost or StepCost()
            rows.append(measuring.row(step, device.number, device.intake.rate_hz, cost))
        total = measuring.total(step, (device.number for device in done.members))
        why = measuring.learn(step, np.array(rows, dtype=np.float32), total.double().numpy())
        if done.duration_s > 0:
            measuring.took(done.measuring_s / done.duration_s)
        if why is not None and (window := measuring.window) is not None:
            said = {"window_s": window.seconds, "why": why, **measuring.describe()}
            self._record.all(WindowChange, lambda _: said, self._cluster.now_s)
        if (why := measuring.rate_news()) is not None:
            told = {"factor": measuring.rate_factor, "why": why}
            self._record.all(RateChange, lambda _: told, self._cluster.now_s)

    def _follow_divergence(self, done: StepDone) -> None:
        """Let BatchNorm's statistics follow what the step did to the model, and say what there is to say."""
        self.learner.take_buffers_along(done.result)
        if done.result.action.copies:
            self._statistics.remember()
        elif done.result.action is Action.SWAP:
            self._statistics.swap()
        if (found := done.result.finding) is not None:
            self._record.diverges(done, found)

    def _tell_of_ratio(self, said: dict[str, Any]) -> None:
        self._record.all(RatioChange, lambda _: said, self._cluster.now_s)

    def _tell_of_outliers(self, done: StepDone) -> None:
        told = count_found(self._run_statistics.found, done.found)
        steps, action = self.learner.step_number, self._config.aggregation.outliers
        for outlier in outliers(self._run_statistics.found, steps, action):
            if outlier.device in told:
                self._record.first(Notice(step=steps, time_s=self._cluster.now_s, message=str(outlier)))

    def _evaluate(self) -> None:
        if not self._tests:
            return
        self._evaluated_at = self.learner.step_number
        now_s = self._cluster.now_s
        self._share_statistics()
        tested = self._tested()
        counted = self._config.tested_on != "dataset"
        score = Score.of(self._count(tested), self._task, now_s, own=bool(tested), counted=counted)
        if score.values:
            self._run_statistics.evaluated(
                score.values, now_s, self._task.aim, score.per_label, score.spread, counts=score.counts
            )
            self._record.evaluated(score, self._cluster.here, dict(zip(tested, score.own, strict=True)))
        for test in self._tests:
            test.tested()
        self._schedule.evaluated(self.learner)

    def _test_first(self, devices: Sequence[Device]) -> None:
        """Test each device's model, or the common one, on what it has taken and trains on next."""
        for device in devices:
            if self._statistics:  # also where they are averaged: until then each device's are its own
                self._statistics.load(device.number)
            x, y = self._lookup([device.number], [device.taken])
            if device.tests is not None:
                device.tests.note(self._tests[device.number].measure(self.learner.model, x, y))

    def _tested(self) -> list[int]:
        """Return the devices whose models are tested; none where all have one."""
        if not self._tests_each:
            return []
        numbers = np.flatnonzero(self._cluster.here)
        return [int(numbers[place]) for place in evenly(len(numbers), _MOST_TESTED)]

    def _count(self, tested: Sequence[int]) -> Tensor:
        """Return the sums that a score is made of: rows of these devices' own models, or of tests of the common one."""
        if not tested:
            here = np.flatnonzero(self._cluster.here).tolist() if len(self._tests) > 1 else [0]
            return torch.stack([self._tests[number].count(self.learner.model) for number in here])
        rows = []
        took_part, has_model = self._cluster.took_part, self._cluster.has_model
        for device in tested:  # each device tests the model that it would use: one that comes has that of the first
            self._statistics.load(device if has_model[device] else int(took_part.argmax()))
            rows.append(self._tests[device if len(self._tests) > 1 else 0].count(self.learner.model))
        return torch.stack(rows)

    def _share_statistics(self) -> None:
        if self._config.aggregation.batchnorm == "aggregate":
            self._statistics.average()

    def _finish(self, reason: str) -> Summary:
        if reason == "streams":
            for number in np.flatnonzero(self._cluster.here).tolist():
                if self._devices[number].exhausted:
                    self._devices[number].intake.drop_held()
        if self._evaluated_at != self.learner.step_number:
            self._evaluate()
        self._share_statistics()
        if self._tests_each:
            self._statistics.load(int(self._cluster.took_part.argmax()))
        model_sha256 = fingerprint(self.learner.model, buffers=self._config.aggregation.batchnorm == "aggregate")
        now_s = self._cluster.now_s
        self._record.finished(reason, model_sha256, now_s)
        ending = RunEnd(
            time_s=now_s,
            wall_s=wall_seconds() - self._started_wall_s,
            time_to_target_s=self._run_statistics.time_to_target_s,
            reason=reason,
            model_sha256=model_sha256,
            clock="virtual",
            bytes_counted_by=f"message sizes, {self._charge.ways}",
            collectives=self._charge.collectives,
            simulated=self._describe(),
        )
        return compose(
            *(self._config, self._task, self.learner, self._run_statistics, ending),
            *(self._record.rows(), self._record.shown),
        )

    def _describe(self) -> Simulated:
        cost = self._config.cost
        parameters = sum(p.numel() for p in self.learner.exchange.parameters)
        norm = " with GroupNorm" if self._config.normalization == "group" else ""
        return Simulated(
            trained=f"{self._config.model}{norm}, {parameters:,} parameters" if self._learns else "nothing",
            charged=f"{cost.model or 'the trained model'}, profile {cost.profile}",
            message_bytes=self._charge.message_bytes,
            collective=cost.collective,
            gradients=self._gradients.description,
        )


def _tests(config: RunConfig, dataset: Dataset, task: Task, devices: Sequence[Device]) -> list[Evaluator]:
    """Return the test of each device, or one that stands for all where they are tested on a test set."""
    alone = LocalFabric.create(1)[0]
    first = make_evaluator(devices[0], task, dataset, config.evaluation.batch_size, alone)
    return [first] if config.tested_on == "dataset" else [first.of(device) for device in devices]


def _silent(config: RunConfig) -> Progress:
    return Progress("", config.devices, None, None, None, None, quiet=True)
