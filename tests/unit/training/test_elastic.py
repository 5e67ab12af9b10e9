"""Devices in threads that come and go through a hub."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from hub_devices import BATCH, LIMIT_S, SETTINGS, Device, begin_together, hub_starter, lose_steps, until
from scadles.device.holdout import held_out
from scadles.errors import MembershipChangedError
from scadles.exchange.reduction import VectorOwner
from scadles.observe import Finished, Notice, RunFolder, Step
from scadles.streams import ReplaySource, Source


@pytest.fixture
def start_hub(tmp_path):
    with hub_starter(tmp_path / "hub") as start:
        yield start


def test_steps_that_nobody_has_any_more_are_taken_back(start_hub, tmp_path, monkeypatch):
    again, two = lose_steps(start_hub, tmp_path, monkeypatch)
    for device in (again, two):
        device.assert_trained_once()


def account(device):
    """A device's ledger, once what was trained on is that of the steps that count, and nothing is dropped."""
    ledger = device.events(Finished)[-1].ledger
    assert ledger["trained"] == sum(step.batch for step in device.events(Step))
    assert ledger["received"] == sum(ledger[fate] for fate in ("trained", "held", "tested", "unlabelled"))
    return ledger


def test_what_is_held_out_is_counted_once_though_steps_are_taken_back(start_hub, tmp_path, monkeypatch):
    settings = SETTINGS | {"evaluation": {"on": "holdout", "holdout_every": 4}}
    for device in lose_steps(start_hub, tmp_path, monkeypatch, settings):
        ledger = account(device)
        assert ledger["tested"] == held_out(np.arange(ledger["received"]), 4).sum() > 0


def test_what_waits_for_its_label_is_settled_once_though_steps_are_taken_back(start_hub, tmp_path, monkeypatch):
    labels = {"url": "replay://?delay_s=2", "wait_s": 1.5}
    settings = SETTINGS | {"stream": {"rates": [20, 20], "labels": labels}}
    for device in lose_steps(start_hub, tmp_path, monkeypatch, settings):
        ledger = account(device)
        assert ledger["unlabelled"] > 0  # how many, the load of the machine says
        assert ledger["trained"] > 0


def test_where_a_stream_cannot_go_back_what_was_trained_on_is_counted_and_the_run_goes_on(
    start_hub, tmp_path, monkeypatch
):
    monkeypatch.setattr(ReplaySource, "rewind", Source.rewind)
    _, two = lose_steps(start_hub, tmp_path, monkeypatch)
    steps = [step for step in two.events(Step) if step.offsets is not None]
    [(before, after)] = [pair for pair in pairwise(steps) if pair[1].offsets[0] != pair[0].offsets[1] + 1]
    lost = after.offsets[0] - before.offsets[1] - 1
    assert lost % BATCH == 0
    assert lost >= 5 * BATCH
    ledger = two.events(Finished)[-1].ledger
    assert (ledger["dropped"], ledger["rejected"]) == (lost, 0)
    assert ledger["received"] == ledger["trained"] + ledger["dropped"] + ledger["held"]
    assert ledger["trained"] == sum(step.offsets[1] - step.offsets[0] + 1 for step in steps)
    [notice] = [notice.message for notice in two.events(Notice) if "counted as dropped" in notice.message]
    assert notice.startswith(f"device {two.live.rank}: {lost} samples are counted as dropped")


@pytest.mark.parametrize("where", ["test after", "comparing models"])
def test_a_device_is_cut_off_in_the_middle_of_what_all_do_after_a_step(start_hub, tmp_path, where):
    """It comes in again when the others have done that, and does with them what they do then; its clock goes on."""
    hub, cut = start_hub(), []

    def cut_off(fabric, phase):
        if phase.startswith(where) and int(phase.split()[-1]) > 10 and not cut:
            cut.append(phase)
            [member] = [member for member in hub._views.members.values() if member.name == "cam-2"]
            hub._leave(member, "a test")
            until(lambda: fabric.changed, "news of it")

    one = Device(hub.address, "cam-1", tmp_path / "one")
    two = Device(hub.address, "cam-2", tmp_path / "two", before_gather=cut_off)
    begin_together(hub)
    for device in (one, two):
        device.join()
        assert device.error is None
        device.assert_trained_once()
    ends = [device.events(Finished)[-1] for device in (one, two)]
    assert cut
    assert [(end.reason, end.step) for end in ends] == [("steps", 80)] * 2
    assert ends[0].model_sha256 == ends[1].model_sha256


def test_one_that_comes_between_two_messages_of_a_step_is_given_the_model_as_it_was_before_it(start_hub, tmp_path):
    """The statistics of BatchNorm had seen a batch by then, and the others take that step again without it."""
    settings = SETTINGS | {
        "steps": 20,
        "model": "cnn",
        "data": {"dataset": "synthetic-windows", "shape": [2, 16], "classes": 3, "normalize": "running"},
        "compression": {"ratio": 0.1, "gate": "always"},
        "checkpoint": {"every_steps": 1},
    }
    hub = start_hub(least=1, fold=VectorOwner().fold)
    one = Device(hub.address, "cam-1", tmp_path / "one", settings=settings, pause_at=5)
    one.until_paused()
    two = Device(hub.address, "cam-2", tmp_path / "two", settings=settings)
    until(lambda: "cam-2" in hub.state().waiting or two.error is not None, "it waits to be let in")
    one.goes_on.set()
    for device in (one, two):
        device.join()
        assert device.error is None, repr(device.error)
    assert hub.refused == 0
    assert two.events(Step), "it never counted"
    assert len({device.events(Finished)[-1].model_sha256 for device in (one, two)}) == 1


def test_a_device_that_is_away_at_the_end_leaves(start_hub, tmp_path):
    hub = start_hub()
    one = Device(hub.address, "cam-1", tmp_path / "one")
    two = Device(hub.address, "cam-2", tmp_path / "two", pause_at=25)
    begin_together(hub)
    two.until_paused()
    [member] = [member for member in hub._views.members.values() if member.name == "cam-2"]
    hub._leave(member, "a test")
    one.join()
    assert (one.error, one.events(Finished)[-1].reason) == (None, "steps")
    assert not hub.is_over
    two.goes_on.set()
    two.join()
    assert (two.error, two.events(Finished)[-1].reason) == (None, "left")
    two.assert_trained_once()
    until(lambda: hub.is_over, "the end")


def test_nobody_is_said_to_have_waited_for_who_was_away(start_hub, tmp_path):
    """It is cut off after step 25, and comes in again by itself, after step 60: others went on meanwhile."""
    hub = start_hub()
    one = Device(hub.address, "cam-1", tmp_path / "one", pause_at=60)
    two = Device(hub.address, "cam-2", tmp_path / "two", pause_at=25)
    begin_together(hub)
    assert two.paused.wait(LIMIT_S)
    [member] = [member for member in hub._views.members.values() if member.name == "cam-2"]
    hub._leave(member, "a test")
    assert one.paused.wait(LIMIT_S)
    two.goes_on.set()
    until(lambda: "cam-2" in hub.state().waiting, "it waits to be let in")
    one.goes_on.set()
    for device in (one, two):
        device.join()
        assert device.error is None
        device.assert_trained_once()
    steps = {step.step: step for step in one.events(Step)}
    back = next(step.step for step in two.events(Step) if step.step > 26)
    away_s = steps[60].time_s - steps[25].time_s
    assert steps[back].slowest_s < away_s / 2


def test_the_summary_has_the_account_of_who_is_away(start_hub, tmp_path):
    """It stands still after step 25 and is cut off; the last checkpoint, which tells of all, is of step 20."""
    hub = start_hub()
    two = Device(hub.address, "cam-2", tmp_path / "two", pause_at=25)
    until(lambda: hub.state().known == ["cam-2"], "its seat, the first one")
    one = Device(hub.address, "cam-1", tmp_path / "one")
    begin_together(hub)
    assert two.paused.wait(LIMIT_S)
    [member] = [member for member in hub._views.members.values() if member.name == "cam-2"]
    hub._leave(member, "a test")
    one.join()
    summary = RunFolder(tmp_path / "one").summary
    [away], [here] = summary.away, summary.per_device
    assert (away.device, away.after_step, here.device) == (0, 25, 1)
    assert summary.samples.trained == away.samples.trained + here.samples.trained
    assert summary.time_s > 0
    assert (
        away.samples.trained == away.samples.received == sum(step.batch for step in two.events(Step)) == away.position
    )
    two.goes_on.set()
    two.join()


def test_a_device_whose_step_counted_keeps_back_only_what_it_has_not_sent(start_hub, tmp_path):
    """It is cut off with compression, when all that it sent is there, and no answer has come."""
    hub, kept = start_hub(fold=VectorOwner(0.1).fold), []

    def cut_off_once(device):
        fabric, compressor = device._device.fabric, device._learner.exchange.compressor
        fold, counted = fabric.fold, device._learner.exchange.counted

        def fold_without_an_answer(message, phase):
            answer = fold(message, phase)
            if not kept and compressor.step > 10:
                sent, whole = compressor.reducer.outgoing, compressor._feedback.state()["residual"].clone()
                kept.append(whole.index_add(0, sent.indices, sent.values, alpha=-1))
                [member] = [member for member in hub._views.members.values() if member.name == "cam-2"]
                hub._leave(member, "a test")
                until(lambda: one.step > compressor.step, "steps of the other one")
                raise MembershipChangedError("cut off", detached=True)
            return answer

        def then_counted():
            counted()
            kept.append(compressor._feedback.state()["residual"].clone())

        fabric.fold, device._learner.exchange.counted = fold_without_an_answer, then_counted

    settings = {**SETTINGS, "compression": {"ratio": 0.1, "gate": "always"}}
    one = Device(hub.address, "cam-1", tmp_path / "one", settings=settings)
    two = Device(hub.address, "cam-2", tmp_path / "two", settings=settings, prepare=cut_off_once)
    begin_together(hub)
    for device in (one, two):
        device.join()
        assert device.error is None, repr(device.error)
    one.assert_trained_once()
    offsets = [step.offsets for step in two.events(Step) if step.offsets is not None]
    [counted] = [after[0] - before[1] - 1 for before, after in pairwise(offsets) if after[0] != before[1] + 1]
    ledger = two.events(Finished)[-1].ledger
    assert (counted, ledger["trained"], ledger["dropped"]) == (BATCH, offsets[-1][1] + 1, 0)
    assert len(kept) == 2
    assert torch.equal(*kept)
    ends = [device.events(Finished)[-1] for device in (one, two)]
    assert [(end.reason, end.step) for end in ends] == [("steps", 80)] * 2
    assert ends[0].model_sha256 == ends[1].model_sha256
