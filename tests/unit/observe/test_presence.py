"""Who was there when, read from events and drawn."""

import json

import pytest

from scadles.errors import DataError
from scadles.observe.presence import plot_presence, read_presence

HEADER = {
    "event": "header", "step": 0, "time_s": 0.0, "device": 2, "devices": 3, "method": "ddl", "seed": 0,
    "clock": "wall", "started_at": "2026-01-01T00:00:00Z", "versions": {}, "schema": 1,
}  # fmt: skip
MEMBERS = {"event": "membership", "step": 0, "time_s": 0.0, "names": {"2": "cam-9"}, "joined": [2], "left": []}


def step(number):
    """A step that ends after so many seconds and took one."""
    zeros = ("rate_hz", "wait_s", "sync_s", "slowest", "slowest_s", "held", "dropped")
    return {
        "event": "step", "step": number, "time_s": float(number), "batch": 8, "total_batch": 16, "offsets": None,
        "compute_s": 1.0, "loss": 1.0, "lr": 0.1, "lr_scale": 1.0, "lag": None, **dict.fromkeys(zeros, 0),
    }  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def one(*events):
        path = tmp_path / "events-00002.jsonl"
        path.write_text("".join(json.dumps(event) + "\n" for event in events))
        return path

    return one


def test_steps_that_are_missing_are_an_absence(write):
    row = read_presence(write(HEADER, MEMBERS, *map(step, [1, 2, 3, 7, 8])))
    assert row == ("cam-9", [(0, 3), (6, 8)], [1, 2, 3, 7, 8], "")


def test_without_a_step_there_is_nothing_to_draw(write):
    with pytest.raises(DataError, match="no step"):
        read_presence(write(HEADER, MEMBERS))


def test_a_picture(write, tmp_path):
    pytest.importorskip("matplotlib")
    plot_presence([write(HEADER, MEMBERS, *map(step, [1, 2, 3, 7, 8]))], tmp_path / "who.png")
    assert (tmp_path / "who.png").read_bytes()[:4] == b"\x89PNG"
