import json

import numpy as np
import pytest
import torch

from scadles.device.measuring import Measured, Measuring, is_measured, message_bytes
from scadles.device.pace import WindowRule
from scadles.device.step_cost import StepCost
from scadles.device.window import AutoWindow
from scadles.exchange.aggregation.noise_scale import SKETCH_SIZE

DEVICES = 4


def make():
    return Measuring(AutoWindow(1.0, WindowRule(minimum=1, maximum=1000)))


def cost_of(exchange_s, *, batches=(20, 30, 40)):
    cost = StepCost()
    for batch in batches:
        cost.observe(batch, compute_s=0.1 + 0.001 * batch, exchange_s=exchange_s)
    return cost


def test_all_that_devices_say_is_one_sum_from_which_each_learns_the_same():
    devices, generator = [make() for _ in range(DEVICES)], torch.Generator().manual_seed(0)
    changes = []
    for step in range(1, 30):
        if not devices[0].is_due(step):
            continue
        messages = []
        for number, one in enumerate(devices):
            gradient = [0.2 + torch.randn(500, generator=generator) / 5]
            one.note(step, number, 25, one.sketch(gradient, step))
            said = one.row(step, number, 25.0, cost_of(3.0))
            messages.append(one.message(step, DEVICES, number, said))
        assert all(message.nbytes == message_bytes(DEVICES) for message in messages)
        total = torch.stack(messages).sum(dim=0)
        changes.append({one.learn_of(step, total, range(DEVICES)) for one in devices})
    assert [len(said) for said in changes] == [1] * len(changes)
    assert len({one.window.seconds for one in devices}) == 1
    assert devices[0].window.seconds > 1.5, "an exchange takes three seconds"
    assert devices[0].noise.bounds.value == pytest.approx(25, rel=0.2)  # 500 values of variance 1, of mean 0.2


class Compressor:
    """Messages take so long; remembers what it is told of windows."""

    def __init__(self, exchange_s):
        self.exchange_s, self.windows = exchange_s, None

    def heed(self, windows):
        self.windows = windows


def measure(one, step, exchange_s=3.0):
    rows = np.array([one.row(step, number, 25.0, cost_of(exchange_s)) for number in range(DEVICES)])
    return one.learn(step, rows, np.zeros(SKETCH_SIZE))


def test_beside_ratios_the_window_goes_at_once_by_what_the_chosen_one_takes_and_a_guess():
    compressor = Compressor(0.3)
    one = Measuring(AutoWindow(4.0, WindowRule(minimum=1, maximum=1000)), [compressor], noise_guess=100.0)
    said = measure(one, 2)
    assert one.window.seconds == pytest.approx(0.43, rel=0.1)
    assert "as the noise scale is not known and taken for 100 samples" in said
    assert measure(one, 4) is None
    other = Measuring(AutoWindow(4.0, WindowRule(minimum=1, maximum=1000)), [late := Compressor(0.3)])
    other.load(json.loads(json.dumps(one.state())))
    assert late.windows.at_best(1.0, 5.0, 100.0) == compressor.windows.at_best(1.0, 5.0, 100.0)


def test_before_anybody_knows_what_messages_take_the_window_stays():
    one = Measuring(AutoWindow(4.0, WindowRule(minimum=1, maximum=1000)), [Compressor(None)])
    assert measure(one, 2) is None
    assert one.window.seconds == 4.0


def test_who_only_follows_adds_nothing():
    one = make()
    one.note(2, 1, 25, torch.ones(SKETCH_SIZE))
    assert not one.message(2, DEVICES, 1, None).any()


def test_what_was_noted_of_another_step_or_did_not_count_is_not_said():
    one = make()
    one.note(2, 0, 25, torch.ones(SKETCH_SIZE))
    assert one.row(2, 0, 25.0, cost_of(1.0)).batch == 25
    assert one.row(4, 0, 25.0, cost_of(1.0)).batch == 0
    one.leave_out(0)
    assert one.row(2, 0, 25.0, cost_of(1.0)).batch == 0
    assert not one.total(2, [0]).any()


def test_who_has_taken_no_step_yet_does_not_count_where_costs_are_told():
    one, rows = make(), []
    for number, cost in enumerate((cost_of(3.0), cost_of(3.0), StepCost())):
        rows.append(one.row(2, number, 25.0, cost))
    assert rows[2].step_s < 0
    one.window.seconds = 20.0
    assert "a step costs 3.6 s" in one.learn(2, np.array(rows), np.zeros(SKETCH_SIZE))


@pytest.mark.parametrize(("share", "expected"), [(0.0, [2, 4, 6, 8, 10, 15, 20]), (0.2, [2, 22, 42]), (1.5, [2, 152])])
def test_measuring_takes_at_most_one_percent_of_the_time(share, expected):
    one, due = make(), []
    for step in range(1, 200):
        if one.is_due(step):
            due.append(step)
            one.learn(step, np.array([Measured(share=share / 2), Measured(share=share)]), np.zeros(SKETCH_SIZE))
    assert due[: len(expected)] == expected
    assert due[-1] - due[-2] >= max(20, round(100 * share)) or len(due) == 2


def test_a_measurement_that_had_to_wait_once_says_nothing_of_what_they_cost():
    one = make()
    said = []
    for share in (5.0, 0.002, 0.001, 0.4):
        one.took(share)
        said.append(one.row(2, 0, 25.0, cost_of(1.0)).share)
    assert said == [0.0, 0.0, 0.002, 0.002]


def test_numbers_that_are_none_are_no_measurement():
    one = make()
    before = one.state()
    assert one.learn(2, np.array([Measured(batch=8, rate_hz=np.nan)]), np.zeros(SKETCH_SIZE)) is None
    assert one.state() == before | {"due": 4}


def test_it_goes_on_where_it_was():
    one, other = make(), make()
    one.learn(2, np.array([Measured(8, 1.0, 25.0, 0.1, 0.01, 3.0)] * 2), np.ones(SKETCH_SIZE))
    other.load(one.state())
    assert other.state() == one.state()


@pytest.mark.parametrize("devices", [1, 5, 64, 65, 100, 1000])
def test_of_very_many_devices_some_are_measured(devices):
    assert sum(is_measured(number, devices) for number in range(devices)) == min(devices, 64)
