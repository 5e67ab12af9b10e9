"""One device of a hub lies about its gradients: the others come to the target, and everybody says who it was."""

import json
from pathlib import Path

import pytest

from hub_processes import Fleet, settings_of
from scadles.observe import Finished, Membership, Notice, SetAside, Step

pytestmark = pytest.mark.timeout(300)

LIAR = str(Path(__file__).parent.parent / "liar.py")
HONEST = ("cam-0", "cam-1", "cam-2", "cam-3")
MOST_STEPS = 4000  # of which a busy machine, whose batches are small, takes more
SETTINGS = settings_of(MOST_STEPS, least=4)
SETTINGS |= {
    "devices": 5,
    "stream": {"rates": [50] * 5},
    "target_accuracy": 0.88,
    "stop_at_target": True,
    "aggregation": {"outliers": "reject"},
    "evaluation": {"every_s": 1.0},
    # small batches diverge at a higher rate, and so low a one lasts until the last device has come
    "optimizer": {"lr": 0.002},
}
COMPRESSED = SETTINGS["compression"] | {"values": "float32"}
ATTACKS = {
    "1000 times": "norm",
    "backwards": "against the others, mean cosine -",
    "garbage": "",
    "nan": "",
}


def run_with_a_liar(start, folder, config, finding, attack):
    fleet = Fleet(start, folder, config, finding)
    arguments = (attack, "join", fleet._address, "--name", "liar", "--out", "liar", "--quiet")
    fleet.running["liar"] = start(folder, LIAR, *arguments)
    for name in HONEST[1:]:
        fleet.join(name)
    fleet.hub.until(lambda: "liar (device " in fleet.hub.out, "the liar to take part")
    fleet.join(HONEST[0])
    runs = [fleet.running[name] for name in HONEST]
    assert [run.wait() for run in runs] == [0] * 4, [run.err for run in runs]
    fleet.running["liar"].wait()
    fleet.hub.wait()
    assert not any("Traceback" in run.err for run in (*fleet.running.values(), fleet.hub))
    return fleet


@pytest.fixture(scope="module")
def fleet(start, tmp_path_factory, write_config, finding):
    """Run a fleet with a liar once for each attack, with compression or without."""
    done = {}

    def run(attack, *, compressed):
        if (attack, compressed) not in done:
            folder = tmp_path_factory.mktemp("fleet")
            settings = SETTINGS | ({"compression": COMPRESSED} if compressed else {})
            config = write_config(folder / "run.yaml", **(settings if compressed else without_compression(settings)))
            done[attack, compressed] = run_with_a_liar(start, folder, config, finding, attack)
        return done[attack, compressed]

    return run


def without_compression(settings):
    return {name: value for name, value in settings.items() if name != "compression"}


WAYS = [(attack, compressed) for attack in ATTACKS for compressed in (False, True) if compressed or attack != "garbage"]


@pytest.mark.parametrize(("attack", "compressed"), WAYS)
def test_the_others_come_to_the_target_and_name_it(fleet, attack, compressed):
    done = fleet(attack, compressed=compressed)
    for name in HONEST:
        summary = json.loads((done.folder(name) / "summary.json").read_text())
        assert (summary["ended_by"], summary["best_accuracy"] >= 0.88) == ("target", True)
        done.assert_each_trained_once(name)
    if not ATTACKS[attack]:
        return
    seat = done.found("liar")[1]
    [outlier] = summary["outliers"]
    assert (outlier["device"], outlier["action"]) == (seat, "reject")
    assert outlier["why"].startswith(ATTACKS[attack])
    said = [event.message for event in done.events("cam-1", Notice)]
    assert any(message.startswith(f"device {seat}: gradient set aside in 1 of ") for message in said), said
    assert f"device {seat}: gradient set aside in 1 of " in done.running["cam-1"].err


@pytest.mark.parametrize(("attack", "compressed"), [way for way in WAYS if ATTACKS[way[0]]])
def test_what_was_set_aside_is_rejected_in_the_ledger(fleet, attack, compressed):
    done = fleet(attack, compressed=compressed)
    aside = done.events("liar", SetAside)
    steps = {step.step: step.batch for step in done.events("liar", Step)}
    ledger = done.events("liar", Finished)[-1].ledger
    assert ledger["rejected"] == sum(event.batch for event in aside) > 0
    assert ledger["trained"] == sum(steps.values())
    assert all(steps[event.step] == 0 for event in aside)
    assert ledger["received"] == ledger["trained"] + ledger["rejected"] + ledger["held"] + ledger["dropped"]


@pytest.mark.parametrize("compressed", [False, True])
def test_what_is_no_number_is_refused_before_it_is_added(fleet, compressed):
    done = fleet("nan", compressed=compressed)
    seat = done.found("liar")[1]
    assert "what it sent was refused: " in done.hub.out + done.hub.err
    assert any(seat in event.left for event in done.events("cam-1", Membership))


def test_without_folds_as_well(start, tmp_path, write_config, finding):
    """A plain sum is looked at piece by piece."""
    settings = without_compression(SETTINGS) | {"aggregation": {"outliers": "accept"}}
    done = run_with_a_liar(start, tmp_path, write_config(tmp_path / "run.yaml", **settings), finding, "nan")
    assert "NaN or infinity in a sum, which no device sends" in done.hub.out + done.hub.err
    for name in HONEST:
        assert json.loads((done.folder(name) / "summary.json").read_text())["ended_by"] == "target"
        done.assert_each_trained_once(name)
