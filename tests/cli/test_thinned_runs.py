"""Runs whose events grow beyond their bound: summaries stay exact, resumptions find no gaps."""

import pytest

import scadles
from scadles.observe import Notice, RunFolder, Step, Thinned, compare

MOST = 1_000_000


def accounts(folder):
    """Samples trained of each device by its events, those counted that are no longer there."""
    for device in folder.devices:
        events = folder.events(device)
        [thinned] = [event for event in events if isinstance(event, Thinned)]
        steps = [event for event in events if isinstance(event, Step)]
        assert len(steps) + thinned.removed["step"] == folder.summary.steps
        yield thinned.trained + sum(step.batch for step in steps)


def assert_exact(path):
    folder = RunFolder(path)
    assert [row.samples.trained for row in folder.summary.per_device] == list(accounts(folder))
    assert compare([folder]).warnings == ()
    for device in folder.devices:
        assert (path / f"events-{device}.jsonl").stat().st_size < MOST


def test_a_long_simulation(tmp_path):
    scadles.simulate(
        {
            "devices": 2,
            "model": "none",
            "steps": 4000,
            "picture": False,
            "stream": {"rates": [40, 25], "profile": "poisson"},
            "events": {"max_mb": 1},
        },
        out=tmp_path / "run",
        quiet=True,
    )
    assert_exact(tmp_path / "run")


@pytest.mark.timeout(300)
def test_a_long_run_that_is_resumed(tmp_path):
    settings = {
        "method": "ddl",
        "picture": False,
        "stream": {"rates": 50},
        "batch": {"size": 4},
        "clock": {"speed": 400},
        "evaluation": {"every_s": 1e6},
        "checkpoint": {"every_steps": 100},
        "events": {"max_mb": 1},
    }
    run = tmp_path / "run"
    scadles.train({**settings, "steps": 1900}, out=run, quiet=True)
    assert_exact(run)
    scadles.train({**settings, "steps": 2000, "events": {"max_mb": 2}}, out=run, resume=True, quiet=True)
    assert [event for event in RunFolder(run).events(0) if isinstance(event, Notice)] == []
    assert_exact(run)
