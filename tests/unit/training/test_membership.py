"""Runs that go on with fewer devices, with more, and with those that had left."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

import scadles
from scadles.assembly import build_dataset, build_network, build_partition, samples_of
from scadles.config import load_config
from scadles.config.operation import EventsConfig
from scadles.errors import CheckpointError, ConfigError
from scadles.observe import Notice, Resumed, RunFolder, Step, Thinned, compare, read_events
from scadles.training.saving import save


@pytest.fixture
def settings(npz):
    return {
        "seed": 2,
        "picture": False,
        "data": {"dataset": f"npz:{npz}"},
        "buffer": {"policy": "persistence", "capacity": 64},
        "stream": {"rates": "S1"},
        "batch": {"window_s": 0.5, "max": 12},
        "checkpoint": {"every_steps": 5},
    }


class Attempts:
    """One run in several attempts, each of so many devices, which are threads with a virtual clock each.

    Attributes:
        path: the run folder.
        summary: of the last attempt.
    """

    def __init__(self, path, settings, in_threads):
        self.path, self.summary = path, None
        self._settings, self._in_threads, self._clock_s = settings, in_threads, 0.0

    def go_on(self, devices, steps, folders=None, leave_after=None, **changes):
        """Start or resume the run with so many devices until ``steps``; return its summary."""
        config = load_config(self._settings | {"devices": devices, "steps": steps} | changes)
        models = [build_network(config, build_dataset(config)) for _ in range(devices)]
        resume = (self.path / "config.yaml").exists()

        def work(fabric):
            out = folders[fabric.rank] if folders else self.path
            about = {"fabric": fabric, "clock": scadles.VirtualClock(self._clock_s), "model": models[fabric.rank]}
            with scadles.join(config, out=out, resume=resume, quiet=True, **about) as device:
                for count, batch in enumerate(device.batches(), start=1):
                    if count == leave_after:
                        raise KeyError("it dies")
                    outputs = device.model(batch.x)
                    device.step(cross_entropy(outputs, batch.y), outputs)
            return device.summary, device.clock_now_s

        outcomes = self._in_threads(devices, work)
        self._clock_s = max(clock_s for _, clock_s in outcomes)
        self.summary = outcomes[0][0]
        for summary, _ in outcomes:
            assert summary.model_dump(exclude={"wall_s"}) == self.summary.model_dump(exclude={"wall_s"})
        self.check()
        return self.summary

    def check(self):
        """The account of the run is whole: nothing is lost, nothing is counted or trained twice."""
        summary = self.summary
        rows = {row.device: row.samples for row in (*summary.per_device, *summary.away)}
        assert sorted(rows) == list(range(len(rows)))
        for samples in (summary.samples, *rows.values()):
            assert samples.received == samples.trained + samples.dropped + samples.held + samples.rejected
        for name in type(summary.samples).model_fields:
            assert getattr(summary.samples, name) == sum(getattr(samples, name) for samples in rows.values())
        state = self.state(0)
        assert summary.samples.trained == state["device"]["samples_seen"]
        for device, samples in rows.items():
            following = 0
            for step in self.steps(device):
                if step.offsets is not None:
                    assert (step.offsets[0], step.offsets[1] - step.offsets[0] + 1) == (following, step.batch)
                    following = step.offsets[1] + 1
            assert samples.trained == following
        assert compare([RunFolder(self.path)]).warnings == ()

    def steps(self, device):
        """A device's steps that count, also of one that is away."""
        found = read_events(self.path / f"events-{device}.jsonl")
        last = {one.device: one.after_step for one in self.summary.away}.get(device, self.summary.steps)
        return [event for event in found if isinstance(event, Step) and event.step <= last]

    def state(self, device):
        files = sorted((self.path / "checkpoints" / f"device-{device}").glob("step-*.safetensors"))
        with safe_open(files[-1], "pt") as file:
            return json.loads(file.metadata()["state"])["run"]

    def events(self, device, kind):
        found = read_events(self.path / f"events-{device}.jsonl")
        return [event for event in found if isinstance(event, kind)]

    def notices(self):
        return [event.message for event in self.events(0, Notice)]


@pytest.fixture
def run(settings, tmp_path, in_threads):
    """A run in attempts: ``run(**settings).go_on(devices, steps)``."""
    return lambda **changes: Attempts(tmp_path / "run", settings | changes, in_threads)


class TestAccount:
    def test_shrink_grow_and_return(self, run):
        attempts = run()
        attempts.go_on(2, 10)
        one = attempts.go_on(1, 22)
        [away] = one.away
        assert (away.device, away.after_step) == (1, 10)
        assert away.samples.held > 0
        [said] = attempts.notices()
        assert said == (
            "the run goes on from step 10 with 1 device in place of 2; nobody takes up the streams of device 1 at "
            f"offset {away.position} with {away.samples.held} samples held, which their checkpoints keep"
        )
        three = attempts.go_on(3, 30)
        assert three.away == ()
        assert attempts.notices()[-2:] == [
            f"streams that go on where they were left: device 1 at offset {away.position}, away since step 10",
            "new devices, whose streams begin now, with the model and optimizer of the others: device 2",
        ]
        assert [step.step for step in attempts.steps(1)] == [*range(1, 11), *range(23, 31)]
        assert [step.step for step in attempts.steps(2)] == list(range(23, 31))
        back, new = attempts.events(1, Resumed), attempts.events(2, Resumed)
        assert (back[-1].position, back[-1].away_since) == (away.position, 10)
        assert (new[-1].position, new[-1].away_since) == (0, 0)
        two = attempts.go_on(2, 40)
        assert [(one.device, one.after_step) for one in two.away] == [(2, 30)]
        four = attempts.go_on(4, 50)
        assert (four.away, four.steps) == ((), 50)

    @pytest.mark.parametrize("numbers", [(3, 1, 2, 3), (1, 3, 2, 1, 4), (4, 2, 3, 2, 4)])
    def test_any_order(self, run, numbers):
        attempts = run()
        for count, devices in enumerate(numbers, start=1):
            attempts.go_on(devices, 7 * count)

    @pytest.mark.parametrize(
        "changes",
        [
            {"model": "cnn", "optimizer": {"name": "adam", "lr": 0.002}},
            {"model": "cnn", "aggregation": {"batchnorm": "local"}},
            {"optimizer": {"momentum": 0.9}, "compression": {"ratio": 0.1, "gate": "norm"}},
            {"compression": {"ratio": 1, "method": "whole", "gate": "always"}},
            {"compression": {"ratio": 0.3, "method": "powersgd", "gate": "always"}},
            {
                "stream": {"rates": "S1", "profile": "poisson"},
                "data": {"dataset": "synthetic-images", "shape": [1, 8, 8]},
            },
        ],
        ids=["adam and BatchNorm", "local BatchNorm", "top-k", "int8", "powersgd", "endless"],
    )
    def test_whatever_devices_have_of_their_own(self, run, changes):
        attempts = run(**changes)
        for count, devices in enumerate((2, 3, 1, 3), start=1):
            attempts.go_on(devices, 6 * count)

    def test_truncation_drops_and_counts_what_came_meanwhile(self, run):
        attempts = run(buffer={"policy": "truncation", "capacity": 64})
        attempts.check = lambda: None
        attempts.go_on(2, 10)
        position = attempts.go_on(1, 30).away[0].position
        summary = attempts.go_on(2, 35)
        samples = summary.per_device[1].samples
        assert samples.received == samples.trained + samples.dropped + samples.held
        state = attempts.state(1)["intake"]
        assert state["ledger"]["received"] == state["position"] > position
        assert samples.dropped > 60

    def test_what_was_shared_counts_for_all(self, run):
        attempts = run(injection={"alpha": 1, "beta": 0.25})
        attempts.check = lambda: None
        three = attempts.go_on(3, 10)
        two = attempts.go_on(2, 11)
        assert two.shared.samples > three.shared.samples
        assert two.shared.distinct_records > three.shared.distinct_records
        before = two.per_device[0].shared.samples
        attempts.go_on(1, 15)
        again = attempts.go_on(3, 16)
        assert again.per_device[0].shared.samples > before
        assert again.per_device[2].shared.samples > three.per_device[2].shared.samples


class TestThinned:
    """Events that grow beyond their bound while devices leave and come back."""

    @pytest.fixture
    def attempts(self, run, monkeypatch):
        monkeypatch.setattr(EventsConfig, "most_bytes", property(lambda _: 60_000))
        attempts = run()
        attempts.check = lambda: None  # steps that it follows are no longer there
        return attempts

    def assert_whole(self, attempts):
        """By events and what they say of those that are gone, each device trained what the summary says."""
        folder = RunFolder(attempts.path)
        for row in folder.summary.per_device:
            thinned = [event.trained for event in folder.events(row.device) if isinstance(event, Thinned)]
            kept = sum(step.batch for step in folder.steps(row.device))
            assert row.samples.trained == kept + sum(thinned)
        assert compare([folder]).warnings == ()

    @pytest.mark.parametrize("crashes", [False, True])
    def test_accounts_are_exact(self, attempts, crashes):
        for devices, steps in ((3, 73), (1, 160), (3, 250), (2, 290), (3, 420)):
            if crashes and steps < 420:
                with pytest.raises(KeyError):
                    attempts.go_on(devices, 1000, leave_after=60)
            else:
                attempts.go_on(devices, steps)
                self.assert_whole(attempts)
        assert [bool(attempts.events(device, Thinned)) for device in range(3)] == [True] * 3
        assert attempts.events(2, Resumed)[-1].away_since > 0


class TestModel:
    def test_the_one_that_stays_trains_on_as_one_process_would(self, run, settings):
        """From the parameters and momentum on that two devices came to, by torch alone, on device 0's stream."""
        attempts = run(optimizer={"momentum": 0.9, "lr": 0.05, "weight_decay": 0})
        attempts.go_on(2, 10)
        file = attempts.path / "checkpoints" / "device-0" / "step-00000010.safetensors"
        start = load_file(file)
        attempts.go_on(1, 25)
        config = load_config(settings | {"devices": 2, "steps": 1})
        dataset = build_dataset(config)
        model = build_network(config, dataset)
        model.load_state_dict({n.removeprefix("model/"): t for n, t in start.items() if n.startswith("model/")})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for number, parameter in enumerate(model.parameters()):
            optimizer.state[parameter]["momentum_buffer"] = start[f"optimizer/{number}/momentum_buffer"].clone()
        samples = samples_of(dataset, build_partition(config, dataset), 0)
        for step in attempts.steps(0)[10:]:
            first, last = step.offsets
            x, y = samples(np.arange(first, last + 1))
            # the base batch follows the number of devices: batch.size for each of them
            optimizer.param_groups[0]["lr"] = 0.05 * len(y) / 64
            assert step.lr == pytest.approx(0.05 * len(y) / 64)
            optimizer.zero_grad()
            cross_entropy(model(dataset.prepare(x)), y).backward()
            optimizer.step()
        ended = load_file(attempts.path / "model.safetensors")
        for name, tensor in model.state_dict().items():
            assert torch.allclose(tensor, ended[name], atol=1e-6), name

    def test_a_new_device_has_what_all_have_in_common(self, run):
        """The optimizer's state, schedule and samples seen of a new device are those of the others."""
        attempts = run(optimizer={"name": "adam", "lr": 0.01}, lr={"warmup_samples": 5000})
        attempts.go_on(1, 10)
        attempts.go_on(3, 15)
        files = [attempts.path / "checkpoints" / f"device-{d}" / "step-00000015.safetensors" for d in range(3)]
        first, *others = map(load_file, files)
        for other in others:
            assert other.keys() == first.keys()
            for name, tensor in first.items():
                assert name.startswith("generator/") or torch.equal(tensor, other[name]), name
        states = [attempts.state(device)["device"] for device in range(3)]
        assert all(state["samples_seen"] == states[0]["samples_seen"] for state in states)

    def test_streams_stay_what_they_were_dealt(self, run, settings):
        config = load_config(settings | {"devices": 2, "steps": 1})
        dataset = build_dataset(config)
        offsets = np.arange(700)
        dealt = build_partition(config, dataset)
        for devices in (1, 2, 5):
            now = build_partition(load_config(config, [f"devices={devices}"]), dataset, 2)
            for device in range(min(devices, 2)):
                mine = np.array([device])
                assert np.array_equal(dealt.indices(mine, offsets), now.indices(mine, offsets))
        parts = [set(now.indices(np.array([device]), offsets).tolist()) for device in range(5)]
        assert parts[0] == parts[2] == parts[4] != parts[1] == parts[3]


class TestRefusals:
    def test_lists_for_each_device_must_fit(self, run):
        attempts = run(stream={"rates": [60, 20]})
        attempts.go_on(2, 5)
        with pytest.raises(ConfigError, match=r"^stream.rates has 2 entries and devices is 1: give one for ea"):
            attempts.go_on(1, 10)
        attempts.go_on(1, 10, stream={"rates": [60]})
        attempts.go_on(3, 15, stream={"rates": [60, 20, 30]})

    def test_profiles_of_those_that_stay_must_stay(self, run):
        attempts = run(stream={"profile": ["bursts", "poisson"]})
        attempts.go_on(2, 5)
        with pytest.raises(ConfigError, match=r"stream was .* a resumed run must keep it"):
            attempts.go_on(1, 10, stream={"profile": ["poisson"]})
        attempts.go_on(1, 10, stream={"profile": ["bursts"]})
        attempts.go_on(2, 15, stream={"profile": ["bursts", "poisson"]})

    def test_who_comes_back_without_its_checkpoint(self, run):
        attempts = run()
        attempts.go_on(2, 10)
        attempts.go_on(1, 20)
        file = attempts.path / "checkpoints" / "device-1" / "step-00000010.safetensors"
        moved = file.rename(attempts.path / "moved")
        with pytest.raises(CheckpointError, match=r"^device 1 comes back, and the checkpoint that it left can"):
            attempts.go_on(2, 30)
        attempts.go_on(1, 25)
        moved.rename(file)
        attempts.go_on(2, 30)

    def test_an_earlier_versions_checkpoint_grows_and_does_not_shrink(self, run, monkeypatch):
        attempts = run()
        with monkeypatch.context() as earlier:
            earlier.setattr("scadles.training.course.save", _as_earlier_version)
            attempts.go_on(2, 10)
        with pytest.raises(CheckpointError, match="of an earlier version, which does not say what each device had: "):
            attempts.go_on(1, 20)
        attempts.go_on(3, 20)


def _as_earlier_version(*arguments):

    return save(*arguments[:6])


class TestCrashes:
    def test_who_left_is_found_again_by_the_steps_that_count(self, run):
        """Two devices come to step 20, one of these checkpoints is harmed, and the run goes on from 15 with one."""
        attempts = run()
        attempts.go_on(2, 20)
        file = attempts.path / "checkpoints" / "device-0" / "step-00000020.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        [away] = attempts.go_on(1, 30).away
        assert away.after_step == 15
        assert (attempts.path / "checkpoints" / "device-1" / "step-00000020.safetensors").exists()
        attempts.go_on(2, 40)
        assert [step.step for step in attempts.steps(1)] == [*range(1, 16), *range(31, 41)]

    @pytest.mark.parametrize("then", [1, 2, 3])
    def test_a_crash_before_the_first_checkpoint_together(self, run, then):
        attempts = run()
        attempts.go_on(2, 10)
        attempts.go_on(1, 20)
        with pytest.raises(KeyError):
            attempts.go_on(3, 40, leave_after=3)
        attempts.go_on(then, 30)
        attempts.go_on(3, 40)


def test_each_device_may_have_a_folder_of_its_own(run, tmp_path):
    attempts = run()
    attempts.check = lambda: None
    folders = [tmp_path / "run", tmp_path / "other", tmp_path / "third"]
    attempts.go_on(2, 10, folders)
    attempts.go_on(1, 20, folders)
    summary = attempts.go_on(3, 30, folders)
    assert (summary.steps, summary.away) == (30, ())
    assert summary.samples.trained == sum(row.samples.trained for row in summary.per_device)
    shutil.rmtree(folders[1])
    with pytest.raises(CheckpointError, match="device 0 has 25, 30, device 1 has none"):
        attempts.go_on(3, 40, folders)
