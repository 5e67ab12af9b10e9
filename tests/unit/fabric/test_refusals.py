"""What is said of refused connections: a line each, and of very many one a minute."""

import pytest

from scadles.fabric.hub import refusals
from scadles.fabric.hub.refusals import Refusals


class Told:
    """Refusals, with a clock of their own."""

    def __init__(self):
        self.now_s = 0.0
        self.lines = []
        self.refusals = Refusals(self.lines.append, lambda: self.now_s)

    def after(self, seconds):
        """What is said, and forgotten, so much later."""
        self.now_s += seconds
        self.refusals.tell()
        lines = self.lines.copy()
        self.lines.clear()
        return lines


@pytest.fixture
def told():
    return Told()


def test_a_few_are_told_each(told):
    told.refusals.add("10.0.0.9", "it does not speak TLS")
    told.refusals.add("10.0.0.8", "revoked", "cam-3 (10.0.0.8)")
    assert told.lines == ["10.0.0.9 was refused: it does not speak TLS", "cam-3 (10.0.0.8) was refused: revoked"]
    told.lines.clear()
    assert told.after(60.0) == []
    assert told.refusals.count == 2


def test_very_many_are_one_line_a_minute(told):
    for number in range(1008):
        told.refusals.add("10.0.0.9", f"reason {number}")
    assert len(told.lines) == 8
    told.lines.clear()
    assert told.after(59.0) == []
    assert told.after(1.0) == [
        "refused 1,000 more connections in the last minute: 1,000 of 10.0.0.9 (the last one: reason 1007)"
    ]
    assert told.after(60.0) == []
    assert told.refusals.count == 1008


def test_a_flood_of_one_address_does_not_silence_another(told):
    for _ in range(1000):
        told.refusals.add("10.0.0.9", "noise")
    told.lines.clear()
    told.refusals.add("10.0.0.7", "its certificate has expired")
    assert told.lines == ["10.0.0.7 was refused: its certificate has expired"]


def test_of_very_many_addresses_the_worst_are_named(told, monkeypatch):
    monkeypatch.setattr(refusals, "_MOST_ADDRESSES", 100)
    for number in range(10_000):
        told.refusals.add(f"10.0.{number % 4000 // 250}.{number % 250}", "noise")
    for _ in range(500):
        told.refusals.add("10.0.0.99", "noise")
    lines = len(told.lines)
    assert lines == 64, "so many at once, whatever comes"
    told.lines.clear()
    [line] = told.after(60.0)
    assert line.startswith(f"refused {10_500 - lines:,} more connections in the last minute: 5")
    assert " of 10.0.0.99 (the last one: noise), " in line
    assert line.endswith(" of others")
    assert len(line) < 300
    assert len(told.refusals._untold) == 0
    parts = [int(part.split(" of ")[0].replace(",", "")) for part in line.partition(": ")[2].split("), ")]
    assert sum(parts) == 10_500 - lines
