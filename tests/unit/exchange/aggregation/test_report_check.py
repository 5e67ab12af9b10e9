"""Reports that a hub must not take, whole and in pieces."""

import numpy as np
import pytest

from scadles.assembly.exchange import build_report_check, build_tail_check
from scadles.config import load_config
from scadles.exchange.aggregation import Report
from scadles.exchange.aggregation.report_check import ReportCheck, TailCheck

FIELDS, DEVICES = 7, 3
GOOD = (8.0, 8.0, 0.5, 0.5, 2.0, 0.0, 0.0)
CHECK = ReportCheck(batch=64, weight=64)
BAD = {
    "batch 65": (65.0, *GOOD[1:]),
    "batch -1": (-1.0, *GOOD[1:]),
    "weight 1e\\+06": (8.0, 1e6, *GOOD[2:]),
    "weight -8": (8.0, -8.0, *GOOD[2:]),
    "stop 7": (*GOOD[:5], 7.0, 0.0),
    "infinity": (8.0, 8.0, np.inf, *GOOD[3:]),
}


def message(report, seat, values=20):
    tail = np.zeros((DEVICES, FIELDS), dtype=np.float32)
    tail[seat] = report
    return np.concatenate([np.ones(values, dtype=np.float32), tail.ravel()])


def problems(sent, seat, piece):
    """What is wrong with the pieces of a message that are so many values long."""
    check = TailCheck(CHECK, DEVICES, FIELDS)
    parts = [sent[start : start + piece] for start in range(0, len(sent), piece)]
    left = len(sent) - np.cumsum([len(part) for part in parts])
    found = (check.problem(seat, part, int(rest)) for part, rest in zip(parts, left, strict=True))
    return [why for why in found if why]


@pytest.mark.parametrize("seat", range(DEVICES))
@pytest.mark.parametrize("piece", range(1, 45))
def test_what_devices_say_is_taken_however_it_is_cut(seat, piece):
    assert problems(message(GOOD, seat), seat, piece) == []


@pytest.mark.parametrize("piece", [1, 3, 20, 22, 25, 41])
@pytest.mark.parametrize("why", [name for name in BAD if name != "infinity"])
def test_what_cannot_be_is_found_however_it_is_cut(why, piece):
    [said] = problems(message(BAD[why], 1), 1, piece)
    assert why.replace("\\", "") in said


@pytest.mark.parametrize("piece", [1, 3, 20, 22, 25, 41])
@pytest.mark.parametrize("other", [0, 2])
def test_a_device_writes_into_no_place_but_its_own(piece, other):
    sent = message(GOOD, 1)
    sent[20 + other * FIELDS] = 1.0
    assert "a report in another device's place" in problems(sent, 1, piece)


@pytest.mark.parametrize("why", BAD)
def test_a_whole_report(why):
    assert CHECK.problem(0, GOOD) == CHECK.problem(0, Report(8, 8, norm_sq=np.inf)) == ""
    assert why.replace("\\", "") in CHECK.problem(0, BAD[why])


@pytest.mark.parametrize(
    ("settings", "batch", "weight"),
    [
        ({"method": "ddl", "batch": {"size": 32}}, 33, 1),
        ({"batch": {"max": 100}}, 101, 101),
        ({"batch": {"max": 100}, "aggregation": {"max_weight": 20}}, 101, 2020),
        ({"batch": {"max": 100}, "task": {"loss_options": {"weight": [1, 2, 5] + [1] * 7}}}, 101, 505),
        ({"batch": {"max": 100}, "task": "language"}, 101, np.inf),  # of as many tokens as a sample has
        ({"batch": {"max": 99}, "injection": {"alpha": 0.5, "beta": 0.25}}, 100 + 3 * 25, 175),
    ],
)
def test_bounds_come_from_the_settings(settings, batch, weight):
    config = load_config({"steps": 1, "devices": 4, **settings})
    assert build_report_check(config) == ReportCheck(batch, weight)
    assert build_tail_check(config).problem(0, np.zeros(4 * FIELDS), 0) == ""
