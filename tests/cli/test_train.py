"""Whole runs that end as they should: what they leave behind, and whether it fits together."""

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scadles.config import load_config
from scadles.data import DealtPartition
from scadles.data.partition.deals import deal_evenly
from scadles.observe import Evaluation, Finished, Header, NonFinite, Rejection, RunFolder, Step, Summary
from scadles.observe.events import CheckpointWritten
from scadles.training.fingerprint import fingerprint

pytestmark = pytest.mark.timeout(300)

#: Fields of a summary that are there only where there is something to say.
USUALLY_LEFT_OUT = {"away", "diverged", "measured", "outliers", "insecure", "rate", "tested_on", "window"}

USERS_MODEL = '''
from torch import nn

def small(shape, classes):
    """A network with BatchNorm, as a user writes it."""
    return nn.Sequential(nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))
'''


@pytest.fixture(scope="module")
def scadles(tmp_path_factory, start_training, digits_config):
    """The example as it is, but for a stream that never brings anything."""
    folder = tmp_path_factory.mktemp("scadles")
    silent = "stream.rates=[50,38,0,82]"
    run = start_training(folder, digits_config, "--local", 4, "--set", silent, "--out", "run")
    assert run.wait(100) == 0, run.err
    return run, RunFolder(folder / "run")


@pytest.fixture(scope="module")
def ddl(tmp_path_factory, start_training, digits_config):
    """The example as conventional training, ended by its duration."""
    folder = tmp_path_factory.mktemp("ddl")
    settings = ("--set", "method=ddl", "--set", "duration_s=40")
    run = start_training(folder, digits_config, "--local", 4, *settings, "--out", "run")
    assert run.wait(100) == 0, run.err
    return run, RunFolder(folder / "run")


@pytest.fixture(params=["scadles", "ddl"])
def outcome(request):
    return request.getfixturevalue(request.param)[1]


def of_kind(folder, device, kind):
    return [event for event in folder.events(device) if isinstance(event, kind)]


def test_a_run_folder_is_complete(outcome):
    names = {path.name for path in outcome.path.iterdir()}
    logs = {f"events-{device}.jsonl" for device in range(4)}
    results = {"summary.json", "model.safetensors", "progress.png"}
    assert names == {"config.yaml", "run.json", "run.lock", "checkpoints"} | results | logs
    assert (outcome.path / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert (outcome.path / "progress.png").stat().st_size > 10_000
    assert set(outcome.summary.model_dump()) == set(Summary.model_fields) - USUALLY_LEFT_OUT
    for device in range(4):
        kept = sorted(path.name for path in (outcome.path / "checkpoints" / f"device-{device}").iterdir())
        assert kept[-1] == f"step-{outcome.summary.steps:08d}.safetensors"
        assert len(kept) == 2


def test_the_configuration_is_read_back(outcome, digits_config):
    config = load_config(outcome.path / "config.yaml")
    assert config.to_yaml() == outcome.config_text
    assert (config.devices, config.clock.speed, config.method) == (4, 20.0, outcome.summary.method)
    changes = [
        f"method={config.method}",
        f"stream.rates={list(config.stream.rates)}",
        f"duration_s={config.duration_s}",
    ]
    assert config == load_config(digits_config, changes)


def test_all_devices_hold_the_model_that_was_saved(outcome):
    finished = [of_kind(outcome, device, Finished)[-1] for device in range(4)]
    assert {event.model_sha256 for event in finished} == {outcome.summary.model_sha256}
    weights = load_file(outcome.path / "model.safetensors")
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    )  # fmt: skip
    model.load_state_dict(weights)
    assert fingerprint(model) == outcome.summary.model_sha256


def test_every_ledger_balances(outcome):
    rows = [row.samples for row in outcome.summary.per_device]
    for samples in (*rows, outcome.summary.samples):
        assert samples.received == samples.trained + samples.dropped + samples.held + samples.rejected
    for name in ("received", "trained", "dropped", "held", "rejected", "injected"):
        assert getattr(outcome.summary.samples, name) == sum(getattr(row, name) for row in rows)
    for device in range(4):
        for event in of_kind(outcome, device, (CheckpointWritten, Finished)):
            ledger = event.ledger
            assert ledger["received"] == sum(ledger[name] for name in ("trained", "dropped", "held", "rejected"))
        assert of_kind(outcome, device, Finished)[-1].ledger == dict(rows[device])


def test_the_summary_says_what_the_events_say(outcome):
    summary = outcome.summary
    for device, row in enumerate(summary.per_device):
        steps = outcome.steps(device)
        assert [step.step for step in steps] == list(range(1, summary.steps + 1))
        assert row.samples.trained == sum(step.batch for step in steps)
        assert row.seconds.wait == pytest.approx(sum(step.wait_s for step in steps))
        assert row.seconds.compute == pytest.approx(sum(step.compute_s for step in steps))
        assert row.seconds.sync == pytest.approx(sum(step.sync_s for step in steps))
        assert row.slowest_steps == sum(step.slowest == device for step in steps)
        assert row.non_finite_steps == 0
        assert steps[-1].time_s <= summary.time_s * 1.001 + 5.0
    totals = [[step.total_batch for step in outcome.steps(device)] for device in range(4)]
    assert totals[0] == totals[1] == totals[2] == totals[3]
    assert sum(totals[0]) == summary.samples.trained
    for name in ("wait", "compute", "sync"):
        mean = sum(getattr(row.seconds, name) for row in summary.per_device) / 4
        assert getattr(summary.seconds, name) == pytest.approx(mean)
    assert summary.lr_scale_mean == pytest.approx(outcome.column(0, "lr_scale").mean())


def test_all_devices_saw_the_same_tests(outcome):
    tests = [[(e.step, e.accuracy, e.loss) for e in of_kind(outcome, device, Evaluation)] for device in range(4)]
    assert tests[0] == tests[1] == tests[2] == tests[3]
    accuracies = [accuracy for _, accuracy, _ in tests[0]]
    assert (outcome.summary.final_accuracy, outcome.summary.best_accuracy) == (accuracies[-1], max(accuracies))


def test_one_message_a_step_carries_everything(outcome):
    """Beside the steps there are only tests, checkpoints (one collective each) and a handful at start and end."""
    summary = outcome.summary
    tests = len(of_kind(outcome, 0, Evaluation))
    checkpoints = len(of_kind(outcome, 0, CheckpointWritten))
    collectives = round(summary.collectives_per_step * summary.steps)
    assert summary.steps + tests + checkpoints <= collectives <= summary.steps + tests + checkpoints + 6


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel tells what was sent")
def test_the_kernel_counted_what_the_ring_sends(outcome):
    """A ring all-reduce sends 2 (N - 1) / N of the message from each device, and so does the broadcast, less."""
    summary = outcome.summary
    assert summary.bytes_counted_by == "kernel (TCP_INFO)"
    parameters = 64 * 64 + 64 + 64 * 10 + 10
    message = 4 * (parameters + 4 * 7)
    least = summary.steps * message * 2 * 3
    assert least < summary.bytes_sent < 1.25 * least + 200_000
    assert summary.bytes_sent == sum(row.bytes_sent for row in summary.per_device)
    assert min(row.bytes_sent for row in summary.per_device) > least / 4 * 0.9


def test_the_header_names_who_wrote_with_what(outcome):
    for device in range(4):
        header = outcome.events(device)[0]
        assert isinstance(header, Header)
        assert (header.device, header.devices, header.method) == (device, 4, outcome.summary.method)
        assert set(header.versions) == {"scadles", "torch", "python"}
        assert header.versions["torch"] == torch.__version__


def test_a_silent_stream_stops_nobody(scadles):
    run, folder = scadles
    summary = folder.summary
    assert summary.ended_by == "target"
    assert summary.final_accuracy >= summary.target_accuracy == 0.93
    assert 0 < summary.time_to_target_s <= summary.time_s
    assert summary.per_device[2].samples.received == summary.per_device[2].samples.trained == 0
    assert all(step.batch == 0 and step.offsets is None for step in folder.steps(2))
    assert all(summary.per_device[device].samples.trained > 0 for device in (0, 1, 3))
    assert "ledger balanced" in run.out
    assert "run folder: run" in run.out
    assert "arning" not in run.err


def test_conventional_training_waits_for_the_slowest_stream(ddl):
    run, folder = ddl
    summary = folder.summary
    assert summary.ended_by == "duration"
    assert summary.time_to_target_s is None or summary.best_accuracy >= 0.93
    assert all(step.batch == 64 for device in range(4) for step in folder.steps(device))
    # 12 samples/s fill a batch of 64 every 5.3 s, and nobody is faster than that
    assert summary.steps > 1
    # by the clock of the device that has them: the others' are a little apart
    assert all(64 * step.step <= 12 * step.time_s + 1 for step in folder.steps(2))
    assert summary.per_device[3].samples.held + summary.buffer_max_samples > 64
    assert "arning" not in run.err


@pytest.fixture(scope="module")
def cnn_with_nan(tmp_path_factory, start_training, write_npz, write_config):
    """A network with BatchNorm, on data of which some are NaN."""
    folder = tmp_path_factory.mktemp("cnn")
    data = write_npz(folder / "some.npz", 300, nan=NAN)
    config = write_config(
        folder / "c.yaml", method="ddl", batch={"size": 16}, stream={"rates": [80, 50]}, clock={"speed": 20}, steps=30
    )
    run = start_training(
        folder, config, "--local", 2, "-q", "--set", f"data.dataset=npz:{data}", "--set", "model=cnn", "--out", "run"
    )
    assert run.wait() == 0, run.err
    return run, RunFolder(folder / "run")


NAN = (3, 50, 51, 52, 133, 207, 208, 299)


def test_other_data_and_another_network(cnn_with_nan):
    run, folder = cnn_with_nan
    assert run.out == run.err == ""  # as --quiet asks
    summary = folder.summary
    assert (summary.model, summary.steps, summary.ended_by) == ("cnn", 30, "steps")
    assert summary.final_accuracy > 0.8
    assert load_config(folder.path / "config.yaml").data.dataset == summary.dataset


def test_running_statistics_are_equal_on_all_devices(cnn_with_nan):
    folder = cnn_with_nan[1]
    kept = [
        load_file(folder.path / "checkpoints" / f"device-{device}" / "step-00000030.safetensors") for device in (0, 1)
    ]
    statistics = [name for name in kept[0] if "running_" in name or "num_batches" in name]
    assert len(statistics) == 9
    saved = load_file(folder.path / "model.safetensors")
    for name in statistics:
        assert torch.equal(kept[0][name], kept[1][name])
        assert torch.equal(kept[0][name], saved[name.removeprefix("model/")])
    assert float(kept[0]["model/1.running_mean"].abs().sum()) > 0
    assert of_kind(folder, 0, Finished)[-1].model_sha256 == of_kind(folder, 1, Finished)[-1].model_sha256


def test_nan_samples_are_rejected_and_counted_exactly(cnn_with_nan):
    folder = cnn_with_nan[1]
    dealt = DealtPartition(deal_evenly(300, 2, seed=0), seed=0)
    for device in range(2):
        ledger = of_kind(folder, device, Finished)[-1].ledger
        numbers = dealt.indices(np.array([device]), np.arange(ledger["received"]))
        bad = [offset for offset, number in enumerate(numbers.tolist()) if number in NAN]
        assert ledger["rejected"] == len(bad) > 0
        told = of_kind(folder, device, Rejection)
        assert sum(event.count for event in told) == len(bad)
        assert {event.reason for event in told} == {"NaN or infinite values"}
        assert {event.first_offset for event in told} <= set(bad)
        # what was trained are the other samples, oldest first
        good = sorted(set(range(ledger["received"])) - set(bad))
        ends = [step.offsets for step in folder.steps(device)]
        batches = [(good[start], good[start + 15]) for start in range(0, len(ends) * 16, 16)]
        assert ends == batches
        assert not of_kind(folder, device, NonFinite)


def test_a_network_of_the_users_own(tmp_path, npz, start_training, write_config):
    """A device that stands alone, without a launcher; the module lies in the current folder."""
    (tmp_path / "mymodels.py").write_text(USERS_MODEL)
    config = write_config(
        tmp_path / "c.yaml",
        model="mymodels:small",
        steps=8,
        data={"dataset": f"npz:{npz}"},
        clock={"speed": 20},
    )
    run = start_training(tmp_path, config, "--quiet")
    assert run.wait() == 0, run.err
    [run_dir] = (tmp_path / "runs").iterdir()
    assert run_dir.name.startswith("scadles-2")
    summary = RunFolder(run_dir).summary
    assert (summary.model, summary.devices, summary.steps) == ("mymodels:small", 1, 8)
    assert load_file(run_dir / "model.safetensors")["4.weight"].shape == (4, 4 * 6 * 6)
    assert len(of_kind(RunFolder(run_dir), 0, Step)) == 8
