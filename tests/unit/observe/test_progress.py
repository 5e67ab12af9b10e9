import io
import math

import pytest
from rich.console import Console

from scadles.observe import (
    Evaluation,
    Finished,
    NonFinite,
    Notice,
    Progress,
    RatioChange,
    Rejection,
    Resumed,
    WindowChange,
    progress,
)
from scadles.observe.progress import sparkline


@pytest.fixture
def wall(monkeypatch):
    """A wall clock that stands where the test puts it."""

    class Wall:
        now_s = 100.0

    monkeypatch.setattr(progress, "wall_seconds", lambda: Wall.now_s)
    return Wall


def shown(*, terminal=False, target=None, steps=None, duration_s=None, speed=1.0, quiet=False):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    return Progress("digits", 2, target, steps, duration_s, speed, quiet=quiet, console=console), console.file


def evaluated(step, accuracy):
    return Evaluation(step=step, time_s=step * 1.2, accuracy=accuracy, loss=0.1, samples_trained=step)


def test_without_a_terminal_there_is_a_line_every_few_seconds(wall, make_step):
    shower, out = shown()
    with shower:
        for step in range(1, 101):
            wall.now_s += 0.125
            shower.update(make_step(step))
    lines = out.getvalue().splitlines()
    assert lines[0] == "digits · 2 devices"
    assert [line.split(" |")[0] for line in lines[1:]] == ["step 1", "step 41", "step 81"]


def test_evaluations_wait_for_the_next_line(wall, make_step):
    shower, out = shown(target=0.9)
    with shower:
        shower.update(make_step(1))
        for step, accuracy in ((2, 0.5), (3, 0.6), (4, 0.4)):
            shower.update(evaluated(step, accuracy))
        wall.now_s += 10
        shower.update(make_step(5))
    lines = out.getvalue().splitlines()[2:]
    assert ["0.400 of 0.900, best 0.600" in line for line in lines] == [True]


def test_another_window_is_said_at_once_with_the_reason(wall, make_step):
    shower, out = shown()
    why = "window 1 s -> 0.5 s: +100 % steps a second"
    with shower:
        shower.update(make_step(1))
        shower.update(WindowChange(step=8, time_s=8.0, window_s=0.5, why=why, noise_scale=None, low=None, high=None))
        wall.now_s += 10
        shower.update(make_step(9))
    lines = out.getvalue().splitlines()
    assert f"step 8: {why}" in lines
    assert "samples/s, window 0.5 s" in lines[-1]
    assert "window" not in lines[1]


def test_another_ratio_is_said_at_once_with_the_reason(wall, make_step):
    shower, out = shown()
    why = "compression none -> 0.1, 1.73 times the progress a second"
    with shower:
        shower.update(make_step(1))
        shower.update(RatioChange(step=8, time_s=8.0, ratio=0.1, why=why))
    assert f"step 8: {why}" in out.getvalue().splitlines()


def test_a_line_tells_what_matters(wall, make_step):
    shower, out = shown(target=0.9, steps=500, speed=20.0)
    with shower:
        shower.update(make_step(1))
        wall.now_s += 10
        shower.update(Rejection(step=10, time_s=1.0, count=3, reason="bad", first_offset=0))
        shower.update(NonFinite(step=10, time_s=1.0, batch=4))
        wall.now_s += 10
        shower.update(make_step(101, slowest=1, slowest_s=1.5, held=7, lag=None, dropped=1234, loss=None))
    line = out.getvalue().splitlines()[-1]
    for part in (
        "step 101 of 500",
        "(×20), 20.0 s on the wall",
        "slowest device 1, 1.50 s after the first",
        "buffer 7 held, 1,234 dropped",
        "loss none",
        "rejected 3",
        "non-finite 1",
        "left at most 79.8 s",
    ):
        assert part in line


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"duration_s": 60.0, "speed": 2.0}, "left 24.0 s"),
        ({"duration_s": 60.0, "speed": None}, "left 40.0 s"),
        ({"duration_s": 60.0, "steps": 15, "speed": 2.0}, "left 5.00 s"),
        ({"target": 0.9}, "left until the target"),
    ],
)
def test_the_time_left_is_that_to_the_nearest_limit(wall, limits, left, make_step):
    shower, out = shown(**limits)
    with shower:
        shower.update(make_step(5, time_s=6.0))
        wall.now_s += 5
        shower.update(make_step(10, time_s=12.0))
        assert left in out.getvalue().splitlines()[-1]
        shower.update(Finished(step=10, time_s=12.0, reason="stopped"))
    assert out.getvalue().endswith("| ended: stopped\n")
    assert "left" not in out.getvalue().splitlines()[-1]


def test_what_is_waited_for_is_said_and_forgotten(wall, make_step):
    shower, out = shown()
    with shower:
        shower.waiting("gathering 31/64 samples, 3.1 s")
        wall.now_s += 6
        shower.update(make_step(1))
        wall.now_s += 6
        shower.update(Resumed(step=1, time_s=1.2, position=0, started_at="now"))
    lines = out.getvalue().splitlines()
    assert lines[1] == "step 0 | wall time 0.0 s | gathering 31/64 samples, 3.1 s"
    assert "gathering" not in lines[2]
    assert lines[3].endswith("resumed at step 1")


def test_on_a_terminal_there_is_a_panel(wall, make_step):
    shower, out = shown(terminal=True, target=0.9)
    with shower:
        for step in range(1, 9):
            wall.now_s += 1
            shower.update(make_step(step))
            shower.update(evaluated(step, step / 10))
        shower.waiting("gathering 3/64 samples")
    panel = out.getvalue()
    assert "digits · 2 devices" in panel
    assert "0.800 of 0.900, best 0.800 ▁▂▃▄▅▆▇█" in panel
    assert panel.rindex("8") > panel.rindex("╭")


def test_a_panel_is_drawn_again_only_after_a_pause(wall, make_step):
    shower, out = shown(terminal=True)
    with shower:
        shower.update(make_step(1))
        once = len(out.getvalue())
        for step in range(2, 100):
            shower.update(make_step(step))
        assert len(out.getvalue()) == once
        wall.now_s += shower.redraw_s
        shower.update(make_step(100))
        assert len(out.getvalue()) > once


def test_dear_drawing_is_done_seldom(wall, monkeypatch, make_step):
    shower, _ = shown(terminal=True)
    event = make_step(1)
    drawn = []

    def draw():
        drawn.append(wall.now_s)
        wall.now_s += 0.01

    monkeypatch.setattr(shower, "_show", draw)
    with shower:
        for _ in range(10_000):
            wall.now_s += 0.001
            shower.update(event)
    assert 0.01 * len(drawn) < 0.01 * (wall.now_s - 100.0)


def test_quiet_is_quiet(wall, make_step):
    shower, out = shown(quiet=True, terminal=True)
    with shower:
        shower.update(make_step(1))
        shower.waiting("for nothing")
    assert out.getvalue() == ""


def test_by_default_it_goes_to_standard_error(capsys, make_step):
    with Progress("digits", 1, None, None, None, 1.0, quiet=False) as shower:
        shower.update(make_step(1))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("digits · 1 device\nstep 1 |")


def test_sparklines():
    assert sparkline([0.1, 0.5, 0.9]) == "▁▅█"
    assert sparkline([0.3, 0.3]) == "▁▁"
    assert sparkline([0.0, 1.0], "ascii").isascii()


@pytest.mark.parametrize("quiet", [False, True])
def test_a_notice_is_shown_at_once_and_however_quiet_it_is(wall, quiet):
    shower, out = shown(quiet=quiet)
    with shower:
        shower.update(Notice(step=3, time_s=1.0, message="device 1: the broker has forgotten us"))
    assert out.getvalue().splitlines()[0 if quiet else 1] == "warning: device 1: the broker has forgotten us"


def test_another_metric_is_shown_by_its_name_and_the_smallest_error_is_best(wall, make_step):
    console = Console(file=io.StringIO(), force_terminal=False, width=120, color_system=None)
    shower = Progress(
        *("loads", 2, 0.0, None, None, 1.0), quiet=False, console=console, metric="mae", higher_is_better=False
    )
    with shower:
        shower.update(make_step(1))
        for step, error in enumerate((math.nan, 12345.678, 0.000123456, 4.0), start=2):
            shower.update(Evaluation(step=step, time_s=1.0, loss=0.1, samples_trained=9, metrics={"mae": error}))
        wall.now_s += 10
        shower.update(make_step(9))
    assert "mae 4 of 0, best 0.0001235" in console.file.getvalue()
