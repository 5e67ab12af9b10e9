import sys
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scadles.errors import DataError, MissingExtraError, RunError
from scadles.observe import EventLog, RunFolder, events_path, plot_timeline, timeline
from scadles.observe.timeline import _parts, _spans, _waiting_table, _window

seconds = st.floats(0, 100)
make_step_has_no_state = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draw a run folder and return the three panels and the title of what was written."""
    pytest.importorskip("matplotlib")
    finish = Mock(wraps=timeline.finish)
    monkeypatch.setattr(timeline, "finish", finish)

    def run(folder):
        out = tmp_path / "timeline.png"
        plot_timeline(RunFolder(folder), out)
        assert out.read_bytes().startswith(b"\x89PNG")
        figure, title, _ = finish.call_args.args
        return (*figure.axes, title)

    return run


def rewrite(folder, make_header, device, steps):
    """Replace the events of one device."""
    events_path(folder, device).unlink()
    with EventLog(events_path(folder, device), make_header(device), append=False) as log:
        for step in steps:
            log.write(step)


def rows(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_short_run_is_shown_whole_with_a_row_for_each_device(new_run, draw):
    devices, waiting, accuracy, title = draw(new_run(steps=9))
    assert rows(devices) == ["device 1 · 32/s", "device 0 · 16/s"]
    assert legend(devices)[:4] == ["waiting for samples", "computing", "waiting for the others", "synchronising"]
    assert "all waited for it" in legend(devices)
    assert "absent" not in legend(devices)
    assert devices.get_title(loc="left") == "What each device does: all steps"
    assert devices.get_xlim() == pytest.approx((0, 9 * 1.2))
    assert legend(waiting) == ["fullest device", "median device", "least device"]
    assert accuracy.get_ylim() == (0, 1.02)
    assert title == "run: scadles, 2 devices, digits"


def test_of_a_long_run_the_middle_is_shown_and_said(new_run, draw):
    devices, waiting, accuracy, _ = draw(new_run(steps=300))
    assert devices.get_title(loc="left").endswith("steps 144 to 157 of 300, from the middle of the run")
    assert devices.get_xlim() == pytest.approx((143 * 1.2, 157 * 1.2))
    assert waiting.get_xlim()[1] > 300
    assert "shown above" in [text.get_text() for text in accuracy.texts]


def test_of_many_devices_some_get_a_row_the_fastest_and_the_slowest_among_them(new_run, draw):
    devices, _, _, title = draw(new_run(devices=40, steps=3))
    shown = rows(devices)
    assert len(shown) == 16
    assert (shown[0], shown[-1]) == ("device 39 · 640/s", "device 0 · 16/s")
    assert title == "run: scadles, 40 devices (16 of them shown), digits"


def test_a_run_of_one_device_and_one_step(new_run, draw):
    devices, waiting, _, title = draw(new_run(devices=1, steps=1))
    assert rows(devices) == ["device 0 · 16/s"]
    assert waiting.get_lines()[0].get_marker() == "o"
    assert title == "run: scadles, 1 device, digits"


def test_devices_that_are_absent_for_some_steps_or_for_all(new_run, draw, make_header, make_step):
    run = new_run(devices=3, steps=8)
    rewrite(run, make_header, 1, [make_step(step, 1) for step in (1, 2, 6, 7, 8)])
    rewrite(run, make_header, 2, [])
    devices, waiting, _, _ = draw(run)
    assert len(rows(devices)) == 3
    assert legend(devices).count("absent") == 1
    assert all(np.isfinite(line.get_ydata()).all() for line in waiting.get_lines())


def test_steps_in_which_nobody_trained(new_run, draw, make_header, make_step):
    run = new_run(devices=2, steps=4)
    nothing = {"batch": 0, "total_batch": 0, "offsets": None, "loss": None, "compute_s": 0.0, "slowest_s": 0.0}
    for device in (0, 1):
        rewrite(run, make_header, device, [make_step(step, device, **nothing) for step in (1, 2, 3, 4)])
    devices, _, _, _ = draw(run)
    assert "all waited for it" not in legend(devices)


def test_a_run_in_which_no_device_made_a_step_cannot_be_drawn(new_run, tmp_path, make_header):
    run = new_run(devices=1)
    rewrite(run, make_header, 0, [])
    with pytest.raises(DataError, match="no device made a step"):
        plot_timeline(RunFolder(run), tmp_path / "x.png")
    events_path(run, 0).unlink()
    with pytest.raises(DataError, match="no events"):
        plot_timeline(RunFolder(run), tmp_path / "x.png")


def test_what_cannot_be_written_or_drawn_says_so(new_run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    run = RunFolder(new_run(steps=3))
    with pytest.raises(RunError, match="cannot write the picture"):
        plot_timeline(run, tmp_path / "no" / "x.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"scadles\[plots\]"):
        plot_timeline(run, tmp_path / "x.png")


@make_step_has_no_state
@given(st.lists(st.tuples(seconds, seconds, seconds), min_size=1, max_size=6))
def test_the_parts_of_a_step_fill_it_and_the_exchange_takes_everybody_the_same_time(make_step, taken):
    end_s = max(map(sum, taken))
    steps = [
        make_step(
            1, device, time_s=end_s, wait_s=wait_s, compute_s=compute_s, sync_s=max(0.0, end_s - wait_s - compute_s)
        )
        for device, (wait_s, compute_s, _) in enumerate(taken)
    ]
    spans = _spans({device: {1: step} for device, step in enumerate(steps)})
    exchanges = set()
    for step in steps:
        (wait,), (compute,), (others,), (sync,) = _parts([step], spans)
        for before, after in ((wait, compute), (compute, others), (others, sync)):
            assert sum(before) == pytest.approx(after[0], abs=1e-9)
            assert after[1] >= 0
        assert sum(sync) == pytest.approx(step.time_s)
        exchanges.add(sync)
    assert len(exchanges) == 1


@pytest.mark.parametrize(("slowest", "exchange_s"), [(0, 0.5), (9, 0.25)])
def test_the_exchange_begins_when_the_last_device_is_ready_whether_it_left_events_or_not(
    make_step, slowest, exchange_s
):
    steps = {
        device: {1: make_step(1, device, sync_s=sync_s, slowest=slowest, slowest_s=1.0)}
        for device, sync_s in enumerate((0.5, 0.75, 1.25))
    }
    assert _spans(steps)[1].exchange_s == exchange_s


@make_step_has_no_state
@given(st.integers(1, 200))
def test_the_window_is_in_the_middle(make_step, count):
    window = _window([make_step(step) for step in range(1, count + 1)])
    before, after = window.first - 1, count - window.last
    assert abs(before - after) <= 1
    assert window.whole == (count <= 20) == (before + after == 0)
    assert window.last - window.first + 1 in (count, 14)


def test_samples_waiting_are_put_together_by_step_not_by_place(make_step):
    rows = [[make_step(1, held=1), make_step(2, held=2, lag=5)], [make_step(2, 1, held=4, lag=None)], []]
    times, waiting = _waiting_table(rows)
    assert times.tolist() == [1.2, 2.4]
    np.testing.assert_array_equal(waiting, [[1, 7], [np.nan, 4], [np.nan, np.nan]])
