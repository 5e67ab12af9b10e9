import csv
import io
import math
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from scadles.observe import Measured, RunFolder, SweepProgress, SweepResult, SweepRun, plot_sweep, sweep_picture
from scadles.observe.sweep_table import _spread, as_yaml


@pytest.fixture
def make_summary(new_run):
    """A summary with a part of its fields given."""
    whole = RunFolder(new_run()).summary
    return lambda **fields: whole.model_copy(update=fields)


@pytest.fixture
def make_result(make_summary):
    """A sweep of some settings whose runs reach the target after ``times``, one for each seed; None is never."""

    def make(over, **fields):
        runs = []
        for settings, times in over:
            for seed, time_s in enumerate(times):
                summary = make_summary(time_to_target_s=time_s, final_accuracy=0.9 + 0.01 * seed, **fields)
                runs.append(SweepRun(settings, seed, Path("x"), summary))
        return SweepResult(tuple(over[0][0]), tuple(runs))

    return make


def numbers(result):
    return list(csv.DictReader(io.StringIO(result.to_csv())))


def test_a_combination_is_a_row_of_medians_and_ranges(make_result):
    result = make_result([({"a": 1, "b": "x"}, [30.0, 10.0, 20.0]), ({"a": 2, "b": "x"}, [5.0, 5.0, 5.0])])
    header, _, first, second = result.to_markdown().splitlines()
    assert header.startswith("| a | b | reached | time to target, s | final accuracy |")
    assert first.startswith("| 1 | x | 3/3 | 20.0 (10.0..30.0) | 0.9100 (0.9000..0.9200) | 60 | 150 | 123 | 1.5 MB |")
    assert second.startswith("| 2 | x | 3/3 | 5.0 | ")
    assert "problem" not in header


def test_a_target_that_was_not_reached_counts_as_later_than_all_others(make_result):
    result = make_result([({"a": 1}, [30.0, None, 20.0]), ({"a": 2}, [None, None, 20.0])])
    rows = result.to_markdown().splitlines()[2:]
    assert rows[0].startswith("| 1 | 2/3 | 30.0 (20.0..not reached) |")
    assert rows[1].startswith("| 2 | 1/3 | not reached (20.0..not reached) |")
    assert [row["time_to_target_s_median"] for row in numbers(result)] == ["30", ""]


def test_without_a_target_there_is_no_time_to_it(make_result):
    result = make_result([({"a": 1}, [None])], target_accuracy=None)
    assert result.to_markdown().splitlines()[2].startswith("| 1 | – | – | 0.9000 |")
    assert numbers(result)[0]["reached"] == ""


def test_a_failure_is_told_in_its_row(make_summary):
    runs = (
        SweepRun({"a": 1}, 0, Path("x"), make_summary(time_to_target_s=3.0)),
        SweepRun({"a": 1}, 1, Path("x"), problem="SomeError: broke", exit_code=1),
        SweepRun({"a": 2}, 0, Path("x"), problem="a: is bad\nb: is worse | bad", exit_code=2),
    )
    result = SweepResult(("a",), runs)
    first, second = result.to_markdown().splitlines()[2:]
    assert first.startswith("| 1 | 1/1 | 3.0 |")
    assert first.endswith("| SomeError: broke |")
    assert second.endswith(r"| a: is bad; b: is worse \| bad |")
    assert result.exit_code == 2
    assert [(row["runs"], row["failed"]) for row in numbers(result)] == [("1", "1"), ("0", "1")]
    assert numbers(result)[1]["problem"] == "a: is bad; b: is worse | bad"


def test_the_table_is_printed(make_result, capsys):
    make_result([({"batch.window_s": [1, 2]}, [30.0])]).print()
    said = capsys.readouterr().out
    assert "batch.window_s" in said
    assert "[1, 2]" in said


@given(st.lists(st.floats(0, 1e6) | st.just(math.inf), min_size=1))
def test_median_and_range_are_those_of_numpy(values):
    spread = _spread(values)
    assert (spread.low, spread.high) == (min(values), max(values))
    with np.errstate(invalid="ignore"):
        assert spread.median == pytest.approx(float(np.median(values)))


@given(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.integers()
    | st.text(st.characters(categories=["L", "N"]))
    | st.lists(st.floats(0, 1e9))
)
def test_values_are_written_as_yaml_reads_them(value):
    text = as_yaml(value)
    assert "\n" not in text
    assert yaml.safe_load(text) == value


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draw a sweep; return its panels and legend."""
    pytest.importorskip("matplotlib")
    finish = Mock(wraps=sweep_picture.finish)
    monkeypatch.setattr(sweep_picture, "finish", finish)

    def run(result):
        plot_sweep(result, tmp_path / "sweep.png")
        assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
        figure, _, _ = finish.call_args.args
        return figure.axes, [text.get_text() for legend in figure.legends for text in legend.get_texts()]

    return run


def ticks(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


@pytest.mark.parametrize(
    ("values", "scale", "places"),
    [
        ([1, 2, 4], "linear", [1, 2, 4]),
        ([0.1, 1, 10], "log", [0.1, 1, 10]),
        ([1, 1.1, 8, 18], "linear", [0, 1, 2, 3]),
        ([1, 2, 19], "log", [1, 2, 19]),
        (["S1", "S2"], "linear", [0, 1]),
        ([True, False], "linear", [0, 1]),
        ([0, 1000], "linear", [0, 1000]),
        ([7], "linear", [0]),
    ],
)
def test_numbers_stand_where_they_belong_and_anything_else_side_by_side(make_result, draw, values, scale, places):
    result = make_result([({"a": value}, [10.0, 12.0]) for value in values])
    (time, accuracy), legend = draw(result)
    for axes in (time, accuracy):
        assert axes.get_xscale() == scale
        assert axes.get_xticks().tolist() == places
        assert ticks(axes) == [as_yaml(value) for value in values]
    assert legend == []


def test_other_settings_have_a_line_each(make_result, draw):
    over = [({"a": a, "method": method}, [10.0 * a]) for a in (1, 2, 3) for method in ("ddl", "scadles")]
    (time, _), legend = draw(make_result(over))
    assert legend == ["method = ddl", "method = scadles"]
    lines = [line for line in time.get_lines() if line.get_label().startswith("method")]
    assert [line.get_ydata().tolist() for line in lines] == [[10, 20, 30], [10, 20, 30]]
    assert lines[0].get_color() != lines[1].get_color()


def test_a_target_that_was_never_reached_stands_above_all_times(make_result, draw):
    (time, _), _ = draw(make_result([({"a": 1}, [10.0, 20.0]), ({"a": 2}, [None, None])]))
    assert "not reached" in [text.get_text() for text in time.texts]
    hollow = [line for line in time.get_lines() if line.get_markerfacecolor() == "white"]
    assert [(line.get_xdata().tolist(), line.get_ydata().min() > 20) for line in hollow] == [([2.0], True)]


def test_without_a_target_only_accuracy_is_drawn(make_result, draw):
    panels, _ = draw(make_result([({"a": 1}, [None]), ({"a": 2}, [None])], target_accuracy=None))
    assert [axes.get_title(loc="left") for axes in panels] == ["Final accuracy"]


def test_nothing_is_drawn_where_all_failed(tmp_path):
    plot_sweep(SweepResult(("a",), (SweepRun({"a": 1}, 0, Path("x"), problem="no"),)), tmp_path / "sweep.png")
    assert not (tmp_path / "sweep.png").exists()


def lines_of(known, made, *, total, error=None, quiet=False):
    console = Console(file=io.StringIO(), width=60)
    try:
        with SweepProgress(total, known, quiet=quiet, console=console) as progress:
            for run in made:
                progress.update(run)
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    return console.file.getvalue().splitlines()


def test_each_finished_run_is_one_line(make_summary):
    known = [
        SweepRun({"a": 0}, 0, Path("x"), make_summary(), reused=True),
        SweepRun({"a": 9}, 0, Path("x"), problem="too large", exit_code=2),
    ]
    made = [
        SweepRun({"a": 1, "b": [1, 2]}, 3, Path("x"), make_summary(time_to_target_s=34.2)),
        SweepRun({"a": 2}, 0, Path("x"), make_summary(time_to_target_s=None, final_accuracy=0.5)),
        SweepRun({"a": 3}, 0, Path("x"), problem="broke", exit_code=1),
    ]
    said = lines_of(known, made, total=6)
    assert said[:2] == ["reused 1 of 6 runs that were there already", "a=9 cannot run: too large"]
    assert said[2].startswith("3 of 6: a=1 b=[1, 2], seed 3: target after 34.2 s, about ")
    assert said[3].startswith("4 of 6: a=2, seed 0: target not reached, accuracy 0.500, about ")
    assert said[4].startswith("5 of 6: a=3, seed 0: failed: broke, about ")
    assert lines_of(known, made, total=6, quiet=True) == []


def test_the_last_run_leaves_nothing_to_wait_for_and_an_interrupt_says_how_to_go_on(make_summary):
    run = SweepRun(
        {"a": 1}, 0, Path("x"), make_summary(target_accuracy=None, time_to_target_s=None, final_accuracy=0.5)
    )
    assert lines_of([], [run], total=1) == ["1 of 1: a=1, seed 0: ended, accuracy 0.500"]
    said = lines_of([], [run], total=2, error=KeyboardInterrupt())
    assert said[-1] == "ended after 1 of 2 runs; the same command goes on with the others"


def test_a_sweep_of_another_task_has_its_metric(make_result, tmp_path):
    outcome = Measured(
        task="regression",
        metric="mae",
        higher_is_better=False,
        target=0.5,
        final=12.5,
        best=0.25,
        metrics={"mae": 12.5},
    )
    result = make_result([({"a": 1}, [30.0, None]), ({"a": 2}, [5.0, 6.0])], measured=outcome, target_accuracy=None)
    assert "| final mae |" in result.to_markdown()
    assert "| 1/2 | not reached (30.0..not reached) | 12.5000 |" in result.to_markdown()
    assert [row["final_mae_median"] for row in numbers(result)] == ["12.5", "12.5"]
    plot_sweep(result, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 5000
    failed = SweepResult(("a",), (SweepRun({"a": 1}, 0, Path("x"), problem="no"),))
    assert "| final accuracy |" in failed.to_markdown()
