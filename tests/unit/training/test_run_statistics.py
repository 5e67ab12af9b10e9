from scadles.observe.events import Step
from scadles.tasks import Goal
from scadles.training.run_statistics import RunStatistics


def make_step(number, slowest, correct=None):
    return Step(
        step=number,
        time_s=float(number),
        batch=8,
        total_batch=16,
        offsets=(0, 7),
        rate_hz=8.0,
        wait_s=0.5,
        compute_s=0.25,
        sync_s=0.125,
        slowest=slowest,
        slowest_s=0.1,
        loss=1.0,
        lr=0.1,
        lr_scale=0.75,
        held=0,
        lag=0,
        dropped=0,
        correct=correct,
    )


def test_steps_add_up():
    statistics = RunStatistics()
    for number, slowest in enumerate([1, 0, 1, 1]):
        statistics.add(make_step(number, slowest), device=1)
    assert (statistics.steps, statistics.wait_s, statistics.compute_s, statistics.sync_s) == (4, 2.0, 1.0, 0.5)
    assert (statistics.lr_scale, statistics.slowest_steps) == (3.0, 3)


def test_right_answers_count_where_somebody_counted():
    statistics = RunStatistics()
    for number, correct in enumerate([5, None, 0, 7]):
        statistics.add(make_step(number, slowest=0, correct=correct), device=0)
    assert (statistics.correct, statistics.judged) == (12, 24)


def test_the_first_time_above_the_target_counts():
    statistics = RunStatistics()
    for time_s, accuracy in enumerate([0.5, 0.9, 0.7, 0.95, 0.8]):
        statistics.evaluated([("accuracy", accuracy)], float(time_s), Goal("accuracy", True, 0.9))
    assert (statistics.time_to_target_s, statistics.best, statistics.final) == (1.0, 0.95, 0.8)


def test_without_a_target_none_is_reached():
    statistics = RunStatistics()
    statistics.evaluated([("accuracy", 0.0)], 1.0, Goal("accuracy", True))
    statistics.evaluated([("accuracy", 1.0)], 2.0, Goal("accuracy", True))
    assert (statistics.time_to_target_s, statistics.best) == (None, 1.0)


def test_run_statistics_survive_as_a_dict():
    statistics = RunStatistics(max_waiting=9, bytes_sent=100, collectives=3)
    statistics.add(make_step(1, 0), device=0)
    statistics.evaluated([("accuracy", 0.5)], 1.0, Goal("accuracy", True, 0.4), [0.25, None, 0.75])
    assert RunStatistics.of(statistics.as_dict()) == statistics


def test_sums_of_a_version_that_knew_accuracy_alone_are_taken():
    before = {"steps": 3, "best_accuracy": 0.5, "final_accuracy": 0.25}
    assert RunStatistics.of(before) == RunStatistics(steps=3, best=0.5, final=0.25)


def test_of_an_error_the_smallest_is_best_and_what_is_no_number_never():
    statistics = RunStatistics()
    for time_s, error in enumerate([float("nan"), 3.0, 0.5, float("inf"), 0.7]):
        statistics.evaluated([("mae", error), ("r2", 0.1)], float(time_s), Goal("mae", False, 0.6))
    assert (statistics.time_to_target_s, statistics.best, statistics.final) == (2.0, 0.5, 0.7)
    assert statistics.metrics == {"mae": 0.7, "r2": 0.1}
