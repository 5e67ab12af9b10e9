import pytest

from scadles.errors import ConfigError
from scadles.observe import ChosenWindow, Measured, RunFolder, Samples, compare


def cells(comparison):
    return {row[0]: row[1:] for row in comparison.rows}


def test_the_first_run_is_the_baseline(new_run):
    comparison = compare([new_run("slow", method="ddl"), RunFolder(new_run("fast"))])
    table = cells(comparison)
    assert comparison.names == ("slow", "fast")
    assert table["method"] == ("ddl", "scadles")
    assert table["stream time to target"] == ("204.0 s", "61.2 s")
    assert table["speed-up against slow"] == ("1.00×", "3.33×")
    assert table["bytes sent"] == ("1.5 MB", "1.5 MB")
    assert table["ledger balanced"] == ("yes", "yes")
    assert table["model"][0] == "01234567"
    assert comparison.warnings == ()


def test_a_window_that_was_chosen_is_told_with_the_noise_scale(new_run):
    about = {"window_s": 0.25, "first_s": 1.0, "changes": 2, "why": "because"}
    known = ChosenWindow(**about, noise_scale=1234.4, low=1000.2, high=None)
    unknown = ChosenWindow(**about, noise_scale=None, low=None, high=None)
    runs = [new_run("fixed"), new_run("auto", window=known), new_run("soon", window=unknown)]
    table = cells(compare(runs))
    assert table["window chosen"] == ("–", "0.25 s (2 changes)", "0.25 s (2 changes)")
    assert table["noise scale, samples"] == ("–", "1,234 (1,000 to more)", "–")
    assert "window chosen" not in cells(compare(runs[:1]))


def test_a_target_that_was_not_reached_gives_a_bound_at_most(new_run):
    slow = new_run("slow", method="ddl", time_to_target_s=None)
    table = cells(compare([slow, new_run("fast")]))
    assert table["stream time to target"] == ("not reached", "61.2 s")
    assert table["speed-up against slow"] == ("–", "over 3.92×")


def test_without_a_target_there_is_no_speed_up(new_run):
    table = cells(compare([new_run("a", target=None), new_run("b", target=None)]))
    assert table["stream time to target"] == ("–", "–")
    assert table["speed-up against a"] == ("–", "–")


def test_unequal_targets_are_warned_of_and_give_no_speed_up(new_run):
    comparison = compare([new_run("a", target=0.9), new_run("b", target=0.8)])
    assert comparison.warnings == ("the runs differ in target_accuracy: a 0.9, b 0.8",)
    assert cells(comparison)["speed-up against a"] == ("1.00×", "–")


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"seed": 1}, "seed: a 0, b 1"),
        ({"dataset": "npz:x"}, "dataset: a digits, b npz:x"),
        ({"model": "cnn"}, "model: a mlp, b cnn"),
        ({"clock": "virtual"}, "clock: a wall, b virtual"),
        ({"config": "stream:\n  rates: 9\n"}, 'stream settings: a {"rates": 50.0}, b {"rates": 9}'),
        (
            {"config": "stream:\n  end: stop\n  rates: 50.0\n"},
            'stream settings: a {}, b {"end": "stop"}',
        ),
    ],
)
def test_what_should_be_equal_and_is_not_is_warned_of(new_run, change, fact, capsys):
    comparison = compare([new_run("a"), new_run("b", **change)])
    assert comparison.warnings == (f"the runs differ in {fact}",)
    assert comparison.to_markdown().startswith(f"> **Warning:** the runs differ in {fact}\n\n|")
    comparison.print()
    assert f"warning: the runs differ in {fact}\n" in capsys.readouterr().out


def test_records_that_came_again_are_shown_where_there_are_any(new_run):
    quiet = RunFolder(new_run("quiet"))
    assert "records that came again" not in cells(compare([quiet]))
    assert "duplicates" not in (quiet.path / "summary.json").read_text()
    rows = tuple(row.model_copy(update={"duplicates": 3}) for row in quiet.summary.per_device)
    again = RunFolder(new_run("again", per_device=rows))
    assert [row.duplicates for row in again.summary.per_device] == [3] * len(rows)
    assert cells(compare([quiet, again]))["records that came again"] == ("–", str(3 * len(rows)))


def test_records_that_never_came_are_shown_where_there_are_any(new_run):
    quiet = RunFolder(new_run("quiet"))
    assert "records that never came" not in cells(compare([quiet]))
    assert "missing" not in (quiet.path / "summary.json").read_text()
    rows = tuple(row.model_copy(update={"missing": 4}) for row in quiet.summary.per_device)
    lossy = RunFolder(new_run("lossy", per_device=rows))
    assert cells(compare([quiet, lossy]))["records that never came"] == ("–", str(4 * len(rows)))


def test_a_ledger_that_does_not_balance_is_shown(new_run):
    wrong = Samples(received=1000, trained=800, dropped=150, held=40, rejected=11)
    assert cells(compare([new_run(samples=wrong)]))["ledger balanced"] == ("NO",)


def test_accuracy_is_looked_at_from_closer(new_run):
    rows = RunFolder(new_run("plain")).summary.per_device
    seen = tuple(row.model_copy(update={"online_accuracy": 0.5 + 0.25 * row.device}) for row in rows)
    run = new_run("skewed", per_label=(0.5, None, 0.125, 0.875, 0.875), online_accuracy=0.6, per_device=seen)
    comparison = compare([new_run("other"), run])
    titles = [row[0] for row in comparison.rows]
    assert titles[titles.index("best accuracy") + 1 :][:3] == ["worst label", "best label", "accuracy on own streams"]
    table = cells(comparison)
    assert table["worst label"] == ("–", "2: 0.1250")
    assert table["best label"] == ("–", "3: 0.8750 (and 1 more)")
    assert table["accuracy on own streams"] == ("–", "0.6000 (0.50 to 0.75)")
    assert "worst label" not in cells(compare([new_run("without")]))


def test_runs_of_one_name_are_told_apart_by_their_paths(new_run, tmp_path):
    (tmp_path / "x").mkdir()
    first, second = new_run("run"), new_run("x/run")
    assert compare([first, second]).names == (str(first), str(second))


def test_markdown_is_one_table(new_run):
    lines = compare([new_run("a|b")]).to_markdown().splitlines()
    assert lines[:3] == ["|  | a\\|b |", "| --- | ---: |", "| method | scadles |"]


def test_broken_configuration_files_do_not_disturb(new_run):
    runs = [new_run("a", config="{"), new_run("b", config="- 1\n"), new_run("c")]
    assert compare(runs).warnings == ("settings are not compared: config.yaml of a, b cannot be read",)
    assert compare(runs[:1]).warnings == ()


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare([])


def measured(metric="mae", target=0.5, final=0.25, **more):
    fields = {"task": "regression", "higher_is_better": False, "best": 0.2, "metrics": {metric: final, "r2": 0.75}}
    none = {"target_accuracy": None, "final_accuracy": None, "best_accuracy": None}
    return none | {"measured": Measured(metric=metric, target=target, final=final, **fields | more)}


def test_runs_speak_of_their_own_metric(new_run):
    comparison = compare([new_run("a", **measured()), new_run("b", **measured(final=12345.678))])
    table = cells(comparison)
    assert comparison.warnings == ()
    assert table["target mae"] == ("0.5000", "0.5000")
    assert table["final mae"] == ("0.2500", "12345.7")
    assert table["best mae"] == ("0.2000", "0.2000")
    assert table["final r2"] == ("0.7500", "0.7500")
    assert table["speed-up against a"] == ("1.00×", "1.00×")
    assert "final accuracy" not in table


def test_runs_of_different_tasks_are_told_apart(new_run):
    comparison = compare([new_run("a"), new_run("b", **measured(final=None, metrics={}))])
    table = cells(comparison)
    assert table["metric"] == ("accuracy", "mae")
    assert table["final metric"][1] == "–"
    assert table["speed-up against a"] == ("1.00×", "–")
    assert comparison.warnings == (
        "the runs differ in task: a classification, b regression",
        "the runs differ in metric: a accuracy, b mae",
        "the runs differ in target: a 0.9, b 0.5",
    )
