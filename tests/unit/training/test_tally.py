from scadles.observe.events import Step
from scadles.training.tally import Tally


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
    tally = Tally()
    for number, slowest in enumerate([1, 0, 1, 1]):
        tally.add(make_step(number, slowest), device=1)
    assert (tally.steps, tally.wait_s, tally.compute_s, tally.sync_s) == (4, 2.0, 1.0, 0.5)
    assert (tally.lr_scale, tally.slowest_steps) == (3.0, 3)


def test_right_answers_count_where_somebody_counted():
    tally = Tally()
    for number, correct in enumerate([5, None, 0, 7]):
        tally.add(make_step(number, slowest=0, correct=correct), device=0)
    assert (tally.correct, tally.judged) == (12, 24)


def test_the_first_time_above_the_target_counts():
    tally = Tally()
    for time_s, accuracy in enumerate([0.5, 0.9, 0.7, 0.95, 0.8]):
        tally.evaluated(accuracy, float(time_s), target=0.9)
    assert (tally.time_to_target_s, tally.best_accuracy, tally.final_accuracy) == (1.0, 0.95, 0.8)


def test_without_a_target_none_is_reached():
    tally = Tally()
    tally.evaluated(0.0, 1.0, target=None)
    tally.evaluated(1.0, 2.0, target=None)
    assert (tally.time_to_target_s, tally.best_accuracy) == (None, 1.0)


def test_a_tally_survives_as_a_dict():
    tally = Tally(max_waiting=9, bytes_sent=100, collectives=3)
    tally.add(make_step(1, 0), device=0)
    tally.evaluated(0.5, 1.0, 0.4, [0.25, None, 0.75])
    assert Tally(**tally.as_dict()) == tally
