"""Compression through a hub of processes: a device is killed and comes back, and then the hub."""

import json
import re

import pytest

from hub_processes import BATCH, Fleet, settings_of
from scadles.observe import Finished, Notice, Step

pytestmark = pytest.mark.timeout(300)

STEPS = 200
NAMES = ("cam-1", "cam-2", "cam-3")
SETTINGS = settings_of(STEPS, least=2)


@pytest.fixture(scope="module")
def fleet(start, tmp_path_factory, write_config, finding):
    folder = tmp_path_factory.mktemp("fleet")
    fleet = Fleet(start, folder, write_config(folder / "run.yaml", **SETTINGS), finding)
    for name in NAMES:
        fleet.join(name)
    for name in NAMES:
        fleet.until_step(name, 10)
    fleet.running["cam-2"].kill_all()
    killed_at = fleet.last_step("cam-2")
    fleet.until_step("cam-1", killed_at + 5)
    fleet.join("cam-2")
    fleet.until_step("cam-2", killed_at + 10)
    fleet.hub.kill_all()
    fleet.start_hub()
    runs = [*fleet.running.values(), fleet.hub]
    assert [run.wait() for run in runs] == [0] * 4, [run.err for run in runs]
    return fleet


def test_all_come_to_the_same_end(fleet):
    ends = [fleet.events(name, Finished)[-1] for name in NAMES]
    assert [(end.reason, end.step) for end in ends] == [("steps", STEPS)] * 3
    assert len({end.model_sha256 for end in ends}) == 1
    assert not any("Traceback" in run.err for run in (*fleet.running.values(), fleet.hub))
    for name in NAMES:
        steps = fleet.events(name, Step)
        assert [step.step for step in steps] == sorted({step.step for step in steps})


@pytest.mark.parametrize("name", NAMES)
def test_ledgers_are_exact(fleet, name):
    fleet.assert_each_trained_once(name, unseen=BATCH if name == "cam-2" else 0)


def test_what_the_hub_had_kept_back_is_lost_with_it_and_that_is_said(fleet):
    """Once, with its norm; what devices keep back themselves is there still, and training goes on."""
    for name in NAMES:
        said = [event.message for event in fleet.events(name, Notice) if "the hub has lost" in event.message]
        assert len(said) == 1
        assert re.fullmatch(
            r"step \d+: the hub has lost what it had kept back of gradients, of norm [\d.]+ \([\d.]+ in all\)", said[0]
        )
    summary = json.loads((fleet.folder("cam-1") / "summary.json").read_text())
    assert summary["compressed"]["cnc"] == 1.0
    assert summary["final_accuracy"] > 0.9
