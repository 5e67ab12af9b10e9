"""A hub and its devices as processes: one is killed and started again, one comes late, one leaves and comes back."""

import signal

import pytest

from hub_processes import BATCH, Fleet, settings_of
from scadles.observe import Finished, Membership, Resumed, RunFolder, Step

pytestmark = pytest.mark.timeout(300)

STEPS = 240
SETTINGS = settings_of(STEPS, least=3)


@pytest.fixture(scope="module")
def fleet(start, tmp_path_factory, write_config, finding):
    folder = tmp_path_factory.mktemp("fleet")
    fleet = Fleet(start, folder, write_config(folder / "run.yaml", **SETTINGS), finding)
    for name in ("cam-1", "cam-2", "cam-3"):
        fleet.join(name)
    fleet.until_step("cam-1", 5)
    fleet.join("cam-4")
    fleet.until_step("cam-4", 1)
    fleet.running["cam-2"].kill_all()
    fleet.running["cam-3"].signal(signal.SIGTERM)
    assert fleet.running["cam-3"].wait() == 143, fleet.running["cam-3"].err
    fleet.left_at = fleet.last_step("cam-3")
    # two are too few: the others wait until one of these is there again
    fleet.join("cam-2")
    fleet.join("cam-3")
    codes = [run.wait() for run in (*fleet.running.values(), fleet.hub)]
    assert codes == [0] * 5, [run.err for run in (*fleet.running.values(), fleet.hub)]
    return fleet


NAMES = ["cam-1", "cam-2", "cam-3", "cam-4"]


def test_all_come_to_the_same_end(fleet):
    ends = [fleet.events(name, Finished)[-1] for name in NAMES]
    assert [(end.reason, end.step) for end in ends] == [("steps", STEPS)] * 4
    assert len({end.model_sha256 for end in ends}) == 1
    assert not any("Traceback" in run.err for run in (*fleet.running.values(), fleet.hub))


def test_each_has_the_results_in_its_own_folder(fleet, command):
    first, *others = (fleet.folder(name) for name in NAMES)
    summaries = [RunFolder(path).summary for path in (first, *others)]
    assert len({summary.model_sha256 for summary in summaries}) == 1
    assert [summary.samples for summary in summaries] == [summaries[0].samples] * 4
    model = (first / "model.safetensors").read_bytes()
    assert all((path / "model.safetensors").read_bytes() == model for path in others)
    code, out, err = command("compare", *others)
    assert (code, err) == (0, "")
    assert "is missing" not in out, "nothing is missed of devices whose folders are elsewhere"


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_is_trained_once(fleet, name):
    # a step can have counted that was not written down when its device was killed
    fleet.assert_each_trained_once(name, unseen=BATCH if name == "cam-2" else 0)


def test_only_who_was_away_misses_steps(fleet):
    taken = {name: [event.step for event in fleet.events(name, Step)] for name in NAMES}
    assert taken["cam-1"] == list(range(1, STEPS + 1)), "it was there all the time"
    assert taken["cam-4"] == list(range(taken["cam-4"][0], STEPS + 1))
    assert taken["cam-4"][0] > 5
    for name in ("cam-2", "cam-3"):
        assert taken[name][-1] == STEPS
        assert taken[name] == sorted(set(taken[name]))


def test_a_device_that_leaves_goes_on_where_it_was(fleet):
    back = fleet.events("cam-3", Resumed)[-1]
    assert back.away_since == fleet.left_at
    assert any(2 in event.left for event in fleet.events("cam-1", Membership)) or back.away_since < STEPS
