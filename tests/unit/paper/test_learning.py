from dataclasses import replace

import numpy as np
import pytest

from scadles.paper.learning import Learnt
from scadles.paper.published import NEVER

RUN = Learnt(
    time_s=np.arange(1.0, 21.0),
    accuracy=np.array([*np.linspace(0.1, 0.8, 10), 0.9, *[0.85] * 7, 0.8, 0.7]),
    step_time_s=np.array([1.0, 2.0, 4.0]),
    held=np.array([10.0, 20.0, 30.0]),
)


def test_final_is_the_mean_of_the_last_tenth():
    assert RUN.final == pytest.approx(0.75)
    assert RUN.best == 0.9


def test_time_to_a_target_is_that_of_the_first_good_test():
    assert RUN.time_to(0.85) == 11.0
    assert RUN.time_to(0.95) == NEVER


@pytest.mark.parametrize(("time_s", "held"), [(0.0, 10), (1.0, 10), (1.5, 20), (4.0, 30), (NEVER, 30)])
def test_what_waits_is_that_after_the_step_of_the_time(time_s, held):
    assert RUN.held_at(time_s) == held


def test_bytes_per_step_are_those_of_all_steps():
    assert (RUN.steps, replace(RUN, bytes_sent=12.0).bytes_per_step) == (3, 4.0)
