"""Processes of a run that goes on with fewer devices, with more, and with those that had left."""

import json

import pytest

from scadles.observe import InitialValues, Notice, Resumed, RunFolder, Step, compare, read_events

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def config(tmp_path, write_config, npz):
    return write_config(
        tmp_path / "c.yaml",
        seed=2,
        steps=1_000_000,
        data={"dataset": f"npz:{npz}"},
        stream={"rates": "S1"},
        buffer={"policy": "persistence", "capacity": 64},
        batch={"window_s": 0.5, "max": 12},
        clock={"speed": 40},
        checkpoint={"every_steps": 5},
    )


@pytest.fixture
def train(start_training, tmp_path, config):
    """Start or resume the run with so many devices: ``train(devices, *settings)``."""

    def go(devices, *settings):
        resume = ["--resume"] * (tmp_path / "run" / "config.yaml").exists()
        more = [word for setting in settings for word in ("--set", setting)]
        return start_training(tmp_path, config, "--local", devices, "--quiet", "--out", "run", *resume, *more)

    return go


def assert_whole(folder):
    """Every sample is accounted for, trained once, and the account of the run is the sum of its devices'."""
    summary = folder.summary
    rows = {row.device: row.samples for row in (*summary.per_device, *summary.away)}
    after = {one.device: one.after_step for one in summary.away}
    for samples in (summary.samples, *rows.values()):
        assert samples.received == samples.trained + samples.dropped + samples.held + samples.rejected
    for name in type(summary.samples).model_fields:
        assert getattr(summary.samples, name) == sum(getattr(samples, name) for samples in rows.values())
    for device, samples in rows.items():
        following = 0
        for step in read_events(folder.path / f"events-{device}.jsonl"):
            if isinstance(step, Step) and step.offsets and step.step <= after.get(device, summary.steps):
                assert (step.offsets[0], step.offsets[1] - step.offsets[0] + 1) == (following, step.batch)
                following = step.offsets[1] + 1
        assert samples.trained == following
    assert compare([folder]).warnings == ()


def last_step(path):
    return max(event.step for event in read_events(path / "events-0.jsonl"))


def test_killed_shrunk_grown_and_back(train, tmp_path, finding):
    path = tmp_path / "run"
    found = finding(path, 3)
    first = train(3)
    first.until(lambda: all(found.checkpoints(device)[1:] for device in range(3)), "checkpoints")
    first.kill_all()
    one = train(1, f"steps={last_step(path) + 20}")
    assert one.wait() == 0, one.err
    folder = RunFolder(path)
    assert_whole(folder)
    assert [away.device for away in folder.summary.away] == [1, 2]
    assert one.err.count("warning: ") == 1
    assert "nobody takes up the streams of device 1 at offset" in one.err
    two = train(2)
    two.until(lambda: last_step(path) > folder.summary.steps + 7, "steps")
    two.kill_all()
    four = train(4, f"steps={last_step(path) + 10}")
    assert four.wait() == 0, four.err
    folder = RunFolder(path)
    assert_whole(folder)
    assert (folder.summary.devices, folder.summary.away) == (4, ())
    back = [event for event in read_events(path / "events-2.jsonl") if isinstance(event, Resumed)]
    new = [event for event in read_events(path / "events-3.jsonl") if isinstance(event, Resumed)]
    assert back[-1].away_since > 0
    assert new[-1].away_since == 0
    # processes, not threads: the models are the same on all of them
    shas = {json.loads((path / f"events-{d}.jsonl").read_text().splitlines()[-1])["model_sha256"] for d in range(4)}
    assert len(shas) == 1


def test_one_sentence_where_it_cannot_be(train, tmp_path):
    assert train(2, "steps=5", "stream.rates=[30,40]").wait() == 0
    refused = train(1, "steps=10", "stream.rates=[30,40]")
    assert refused.wait() == 2
    assert refused.err == "error: stream.rates has 2 entries and devices is 1: give one for each device\n"


def test_a_run_of_processes_starts_from_another(train, start_training, tmp_path, config):
    assert train(2, "steps=5").wait() == 0
    arguments = ("--set", "steps=5", "--set", "init_from=run", "--quiet", "--out", "next")
    started = start_training(tmp_path, config, "--local", 3, *arguments)
    assert (started.wait(), started.err) == (0, "")
    [event] = [event for event in read_events(tmp_path / "next" / "events-0.jsonl") if isinstance(event, InitialValues)]
    assert (event.path, event.sha256) == ("run/model.safetensors", RunFolder(tmp_path / "run").summary.model_sha256)
    resumed = start_training(tmp_path, config, "--local", 3, *arguments, "--resume", "--set", "steps=8")
    assert resumed.wait() == 0, resumed.err
    said = [event.message for event in read_events(tmp_path / "next" / "events-0.jsonl") if isinstance(event, Notice)]
    assert said == ["init_from = run is not read: the values are those of the checkpoint after step 5"]
    missing = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "x", "--set", "init_from=nowhere")
    assert missing.wait() == 2
    assert missing.err == (
        "error: init_from = nowhere: No such file or directory; name a model.safetensors, or the folder of a run\n"
    )
