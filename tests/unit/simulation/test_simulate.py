"""Whole simulated runs: what they cost, who takes part, what they leave behind."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import scadles
from scadles.config import load_config
from scadles.errors import ConfigError
from scadles.observe import Evaluation, Finished, NonFinite, Rejection, RunFolder, Samples, Step
from scadles.simulation import simulate

BASE = {"devices": 3, "steps": 8, "stream": {"rates": [40, 12, 8]}, "model": "none", "picture": False}


def merged(below, above):
    return {**below, **{k: merged(below.get(k, {}), v) if isinstance(v, dict) else v for k, v in above.items()}}


@pytest.fixture
def run(tmp_path):
    """Simulate ``BASE`` with changes; return its folder, read back."""

    def simulated(changes=(), **more):
        out = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        simulate(merged(BASE, dict(changes)), out=out, quiet=True, **more)
        return RunFolder(out)

    return simulated


def balanced(samples):
    return samples.received == samples.trained + samples.dropped + samples.held + samples.rejected


def evaluations(folder, device):
    return [event for event in folder.events(device) if isinstance(event, Evaluation)]


class TestTime:
    def test_a_step_waits_computes_and_synchronises(self, run):
        cost = {"compute": {"step_s": 0.5, "sample_s": 0.01}, "link": {"up_bps": 1e6, "down_bps": 1e6}}
        cost["message_bytes"] = 50_000
        folder = run({"cost": cost, "method": "ddl", "batch": {"size": 16}})
        # ring of 3: 2 (3 - 1) rounds of a third of the message
        exchange_s = 4 * (50_000 / 3) * 8 / 1e6
        first = [folder.steps(device)[0] for device in range(3)]
        assert [step.wait_s for step in first] == pytest.approx([16 / 40, 16 / 12, 16 / 8])
        assert [step.compute_s for step in first] == pytest.approx([0.66] * 3)
        assert [step.time_s for step in first] == pytest.approx([2.0 + 0.66 + exchange_s] * 3)
        assert {step.slowest for step in first} == {2}
        for step in first:
            assert step.wait_s + step.compute_s + step.sync_s == pytest.approx(step.time_s)
        assert folder.summary.bytes_sent == folder.summary.steps * 4 * 50_000

    def test_streams_go_on_while_a_step_runs(self, run):
        folder = run({"cost": {"compute": {"step_s": 5.0}}, "method": "ddl", "batch": {"size": 8}, "steps": 10})
        for device, rate in enumerate((40, 12, 8)):
            # the paper's queue: Q = (t S - b) T + S for t S >= b, with the first batch's wait on top
            waiting = sum(folder.column(device, name)[-1] for name in ("held", "lag"))
            assert waiting == pytest.approx((5.0 * rate - 8) * 10 + rate, abs=1.05 * rate + 8)
            assert balanced(folder.summary.per_device[device].samples)

    def test_truncation_keeps_a_window(self, run):
        folder = run({"cost": {"compute": {"step_s": 5.0}}, "steps": 10})
        for device, rate in enumerate((40, 12, 8)):
            assert folder.column(device, "held")[-1] + folder.column(device, "lag")[-1] == rate
            assert folder.summary.per_device[device].buffer_max_samples == pytest.approx(6 * rate, abs=rate)

    def test_the_run_ends_by_its_duration(self, run):
        folder = run({"steps": None, "duration_s": 12.5})
        assert folder.summary.ended_by == "duration"
        assert 12.5 <= folder.summary.time_s < 14


class TestAvailability:
    def test_who_is_off_is_not_waited_for(self, run):
        cost = {"availability": [{}, {"windows_s": [[3.5, 100]]}, {"windows_s": [[0, 3.5]]}]}
        folder = run({"cost": cost, "steps": 8})
        assert [step.step for step in folder.steps(0)] == list(range(1, 9))
        assert [step.step for step in folder.steps(1)] == [5, 6, 7, 8]
        # it goes off during its fourth step, and gives the samples back
        assert [step.step for step in folder.steps(2)] == [1, 2, 3]
        ledger = folder.summary.per_device[2].samples
        assert ledger.trained == sum(step.batch for step in folder.steps(2))
        assert ledger.held > 0
        assert balanced(ledger)
        totals = [step.total_batch for step in folder.steps(0)]
        assert totals[3] == folder.steps(0)[3].batch

    def test_who_comes_back_loads_the_model(self, run):
        cost = {
            "availability": [{}, {}, {"windows_s": [[0, 0.5], [2.5, 100]]}],
            "link": {"up_bps": 1e9, "down_bps": 1e6, "latency_s": 0.0},
            "message_bytes": 1_000_000,
        }
        folder = run({"cost": cost, "steps": 4})
        back = folder.steps(2)[0]
        others = [step for step in folder.steps(0) if step.step == back.step]
        assert back.compute_s >= 8.0 - 1.0 > others[0].compute_s
        assert back.slowest == 2

    def test_nobody_is_there_for_a_while(self, run):
        folder = run({"cost": {"availability": {"windows_s": [[0, 2.5], [10, 20]]}}, "steps": 6})
        times = folder.column(0, "time_s")
        assert len(times) >= 4
        assert not any(3.6 < time < 10 for time in times)
        assert times[-1] > 10

    def test_nobody_ever_comes_back(self, run):
        folder = run({"cost": {"availability": {"windows_s": [[0, 3.5]]}}, "steps": 50})
        assert folder.summary.ended_by == "deserted"
        assert folder.summary.steps < 6
        assert all(balanced(row.samples) for row in folder.summary.per_device)

    def test_device_0_may_be_the_one_that_is_off(self, run):
        cost = {"availability": [{"windows_s": [[0, 1.5], [6, 100]]}, {}, {}]}
        folder = run({"cost": cost, "steps": None, "duration_s": 9})
        assert folder.summary.ended_by == "duration"
        assert 9 <= folder.summary.time_s < 10.5
        assert folder.summary.steps >= 8

    def test_drawn_absences_lose_nothing(self, run):
        cost = {"availability": {"on_s": 6, "off_s": 3}, "compute": {"step_s": 0.4}}
        for policy in ("persistence", "truncation"):
            folder = run(
                {"cost": cost, "steps": 60, "buffer": {"policy": policy}, "devices": 5, "stream": {"rates": 20}}
            )
            trained = [sum(step.batch for step in folder.steps(device)) for device in range(5)]
            assert [row.samples.trained for row in folder.summary.per_device] == trained
            assert all(balanced(row.samples) for row in folder.summary.per_device)
            assert folder.summary.samples.dropped == 0 or policy == "truncation"


class TestOutcome:
    def test_what_was_trained_and_what_was_charged(self, run):
        folder = run({"model": "mlp", "cost": {"profile": "k80-vgg19"}, "steps": 2})
        simulated = folder.summary.simulated
        assert simulated.trained == "mlp, 4,810 parameters"
        assert simulated.charged == "VGG19, profile k80-vgg19"
        assert (simulated.message_bytes, simulated.collective) == (574_800_000, "ring")
        assert simulated.gradients == "fused"
        assert folder.summary.clock == "virtual"
        own = run({"model": "mlp", "steps": 2}).summary.simulated
        assert (own.charged, own.message_bytes) == ("the trained model, profile free", 4 * (4810 + 3 * 7))

    def test_a_large_cluster_records_some_devices(self, run):
        folder = run({"devices": 50, "stream": {"rates": 10}, "simulation": {"recorded_devices": 4}, "steps": 3})
        assert folder.devices == (0, 16, 33, 49)
        assert [row.device for row in folder.summary.per_device] == [0, 16, 33, 49]
        assert folder.summary.devices == 50
        assert folder.summary.samples.trained == sum(step.total_batch for step in folder.steps(0))
        assert folder.summary.seconds.wait == pytest.approx(sum(step.wait_s for step in folder.steps(0)))

    def test_samples_that_are_bad_are_rejected_and_counted(self, run, tmp_path):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(120, 1, 8, 8)).astype(np.float32), rng.integers(0, 4, 120)
        x[[5, 50, 77]] = np.nan
        np.savez(tmp_path / "bad.npz", train_x=x, train_y=y, test_x=x[100:], test_y=y[100:])
        folder = run({"model": "mlp", "data": {"dataset": f"npz:{tmp_path / 'bad.npz'}"}, "steps": 6})
        rows = folder.summary.per_device
        assert all(balanced(row.samples) for row in rows)
        assert folder.summary.samples.rejected > 0
        told = [e for device in range(3) for e in folder.events(device) if isinstance(e, Rejection)]
        assert sum(event.count for event in told) == folder.summary.samples.rejected
        assert np.isfinite(folder.summary.final_accuracy)

    def test_a_gradient_that_is_not_finite_is_left_out(self, run):
        class Fragile(nn.Module):
            """Its output is not finite for pictures that are bright in one corner."""

            def __init__(self):
                super().__init__()
                self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

            def forward(self, x):
                bad = (x[:, 0, 3, 3] > 1.2)[:, None]
                return torch.where(bad & self.training, torch.nan, self.inner(x))

        folder = run({"steps": 3}, model=Fragile())
        rows = folder.summary.per_device
        assert sum(row.non_finite_steps for row in rows) > 0
        assert all(balanced(row.samples) for row in rows)
        told = [e for device in range(3) for e in folder.events(device) if isinstance(e, NonFinite)]
        assert sum(event.batch for event in told) == folder.summary.samples.rejected > 0

    def test_the_end_is_written_down(self, run):
        folder = run({"steps": 2})
        for device in range(3):
            last = folder.events(device)[-1]
            assert isinstance(last, Finished)
            assert (last.step, last.reason) == (2, "steps")
            assert Samples(**last.ledger) == folder.summary.per_device[device].samples
        assert [type(event) for event in folder.events(0)].count(Step) == 2

    def test_local_batchnorm_tests_each_device_with_its_own(self, run):
        changes = {"model": "cnn", "steps": 6, "batch": {"min": 4}, "evaluation": {"every_s": 2}}
        own, common = (run({**changes, "aggregation": {"batchnorm": kind}}) for kind in ("local", "aggregate"))
        assert own.summary.samples == common.summary.samples
        assert common.summary.own_accuracy_range is None
        assert [e.own_accuracy for e in evaluations(common, 0)] == [None] * len(evaluations(common, 0))
        last = [evaluations(own, device)[-1] for device in range(3)]
        assert len({event.own_accuracy for event in last}) > 1, "devices differ"
        mean = np.mean([event.own_accuracy for event in last])
        assert [event.accuracy for event in last] == pytest.approx([mean] * 3)
        assert own.summary.final_accuracy == pytest.approx(mean)
        low, high = own.summary.own_accuracy_range
        assert (low, high) == (min(e.own_accuracy for e in last), max(e.own_accuracy for e in last))

    def test_of_many_devices_with_local_batchnorm_64_are_tested(self, run):
        changes = {"model": "cnn", "devices": 70, "steps": 2, "batch": {"min": 2}, "stream": {"rates": 4}}
        changes |= {"aggregation": {"batchnorm": "local"}, "simulation": {"recorded_devices": 70}}
        folder = run(changes)
        tested = [device for device in range(70) if evaluations(folder, device)[-1].own_accuracy is not None]
        assert len(tested) == 64
        assert (tested[0], tested[-1]) == (0, 69)

    def test_a_model_and_loss_of_ones_own(self, run):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        before = model[1].weight.detach().clone()
        folder = run(
            {"steps": 3}, model=model, loss=lambda out, y: nn.functional.cross_entropy(out, y, label_smoothing=0.1)
        )
        assert "one after the other" in folder.summary.simulated.gradients
        assert not torch.equal(model[1].weight, before)

    def test_it_is_a_public_name(self):
        assert scadles.simulate is simulate


class TestLimit:
    def test_the_run_is_never_better_than_the_limit(self, run):
        changes = {"model": "mlp", "devices": 4, "steps": None, "duration_s": 200, "target_accuracy": 0.8}
        changes |= {"stream": {"rates": [50, 38, 12, 82]}, "cost": {"compute": {"step_s": 2.0}}}
        summary = run(changes, limit=True).summary
        assert summary.time_to_target_s is not None
        assert 0 < summary.stream_limit_s < summary.time_to_target_s
        assert summary.stream_efficiency == pytest.approx(summary.stream_limit_s / summary.time_to_target_s)
        assert run(changes).summary.stream_limit_s is None

    def test_a_target_out_of_reach_has_no_limit(self, run):
        changes = {"model": "mlp", "steps": None, "duration_s": 4, "target_accuracy": 1.0}
        summary = run(changes, limit=True).summary
        assert (summary.stream_limit_s, summary.stream_efficiency) == (None, None)

    def test_needs_a_target(self, run):
        with pytest.raises(ConfigError, match="--limit asks how soon the target can be reached: set target_accuracy"):
            run(limit=True)


class TestRefusals:
    def test_live_streams(self, run):
        with pytest.raises(ConfigError, match="only a replayed stream can be simulated; leave the URL out"):
            run({"stream": {"url": "kafka://host/topic-{device}", "rates": 20}})

    def test_a_folder_with_a_run(self, run, tmp_path):
        folder = run()
        with pytest.raises(ConfigError, match=r"holds a run already: choose another --out$"):
            simulate(BASE, out=folder.path, quiet=True)

    def test_nothing_to_learn_is_for_simulations_only(self, tmp_path):
        with pytest.raises(ConfigError, match="model = none learns nothing: it is for scadles simulate"):
            scadles.train({"model": "none", "steps": 1, "stream": {"rates": 500}}, out=tmp_path / "run", quiet=True)

    def test_more_devices_than_samples(self, run):
        with pytest.raises(scadles.DataError, match=r"data\.partition = shared"):
            run({"devices": 2000, "stream": {"rates": 20}})


def test_settings_of_a_run_folder_make_the_same_run_again(run, tmp_path):
    folder = run({"model": "mlp", "cost": {"profile": "pi4-wifi"}})
    again = simulate(load_config(folder.path / "config.yaml"), out=tmp_path / "again", quiet=True)
    assert again.model_dump(exclude={"wall_s"}) == folder.summary.model_dump(exclude={"wall_s"})
    assert json.loads(again.model_dump_json())["clock"] == "virtual"


class TestStreamsThatEnd:
    ENDING = {"steps": None, "stream": {"rates": [400, 120, 80], "end": "stop"}, "buffer": {"policy": "persistence"}}  # noqa: RUF012

    @pytest.mark.parametrize("rule", ["rate", "fixed"])
    def test_every_device_trains_its_part_once_and_the_last_one_ends_the_run(self, run, rule):
        folder = run({**self.ENDING, "batch": {"rule": rule}})
        summary = folder.summary
        assert summary.ended_by == "streams"
        assert summary.samples.received == summary.samples.trained == 1442
        assert summary.samples.held == summary.samples.dropped == 0
        batches = [[step.batch for step in folder.steps(device)] for device in range(3)]
        assert [sum(sizes) for sizes in batches] == [481, 481, 480]
        if rule == "rate":
            assert batches[0][-1] == 0 < batches[2][-1]  # ended sooner, and had nothing
        assert all(finished.reason == "streams" for finished in [folder.events(0)[-1]])

    def test_other_ends_come_sooner(self, run):
        assert run({**self.ENDING, "steps": 2}).summary.ended_by == "steps"

    @pytest.mark.parametrize("bps", [1e6, 2.48e6, 7.29e6, 8.4e6])
    def test_who_neither_waits_nor_computes_is_ready_at_once(self, run, bps):
        """A clock that a float32 message has rounded down is no event of the past."""
        links = {"cost": {"link": {"up_bps": bps, "down_bps": bps}}, "buffer": {"policy": "persistence"}}
        settings = {"method": "auto", "model": "mlp", "steps": 12, "devices": 4, "batch": {"window_s": 0.25}}
        streams = {"stream": {"rates": [200, 152, 48, 328]}, "evaluation": {"every_s": 10}}
        assert run({**settings, **streams, **links}).summary.steps == 12

    def test_method_auto_leaves_the_rate_to_an_optimizer_that_is_not_sgd(self, tmp_path, capsys):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        settings = {**BASE, "method": "auto", "model": "mlp", "data": {"dataset": "digits"}}
        simulate(settings, model=model, optimizer=optimizer, out=tmp_path / "run")
        assert "method auto leaves the learning rate to Adam" in capsys.readouterr().err
        folder = RunFolder(tmp_path / "run")
        assert "rate: fixed" in folder.config_text
        assert folder.summary.steps == 8

    @pytest.mark.parametrize("backend", ["auto", "hub"])
    def test_method_auto_of_one_device_that_nobody_has_named(self, tmp_path, backend):
        settings = {"method": "auto", "steps": 3, "picture": False, "fabric": {"backend": backend}}
        assert simulate(settings, out=tmp_path / "run", quiet=True).steps == 3
        config = load_config(tmp_path / "run" / "config.yaml")
        assert (config.devices, config.batch.window, config.lr.rate) == (1, "fixed", "fixed")

    def test_a_stream_that_brings_nothing_holds_nobody_up(self, run):
        summary = run(merged(self.ENDING, {"stream": {"rates": [400, 120, 0]}})).summary
        assert (summary.ended_by, summary.samples.trained) == ("streams", 2 * 481)

    def test_streams_that_bring_nothing_end_a_run_before_its_first_step(self, run, in_threads, tmp_path):
        """As they do where devices are real."""
        nothing = {**self.ENDING, "picture": False, "stream": {"rates": 0, "end": "stop"}}
        simulated = run(nothing).summary

        def work(fabric):
            about = {"fabric": fabric, "clock": scadles.VirtualClock(), "out": tmp_path / "real", "quiet": True}
            with scadles.join({**nothing, "devices": 3}, **about) as device:
                assert list(device.batches()) == []
            return device.summary

        for summary in (simulated, *in_threads(3, work)):
            assert (summary.ended_by, summary.steps, summary.samples.received) == ("streams", 0, 0)

    def test_devices_that_are_gone_for_good_hold_nobody_up(self, run):
        cost = {"availability": [{}, {}, {"windows_s": [[0, 1.5]]}]}
        summary = run({**self.ENDING, "cost": cost}).summary
        assert summary.ended_by == "streams"
        assert [row.samples.trained for row in summary.per_device[:2]] == [481, 481]
        assert 0 < summary.per_device[2].samples.trained < 480
        assert all(balanced(row.samples) for row in summary.per_device)

    @pytest.mark.parametrize(
        "data",
        [{"partition": "shared"}, {"dataset": "synthetic-images"}, {"partition": "dirichlet", "drift_samples": 50}],
    )
    def test_what_has_no_end_is_refused(self, run, data):
        with pytest.raises(ConfigError, match=r"stream.end = stop: .* has no end; leave it at wait"):
            run(merged(self.ENDING, {"data": data}))
