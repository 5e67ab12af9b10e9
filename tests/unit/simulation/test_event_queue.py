import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadles.simulation.event_queue import EventQueue


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(-2, 2)), max_size=30))
def test_events_come_by_time_then_priority_then_sequence(planned):
    queue, seen = EventQueue(), []
    for number, (time_s, priority) in enumerate(planned):
        queue.at(time_s, lambda event: seen.append((queue.now_s, event)), number, priority=priority)
    queue.run()
    order = sorted(range(len(planned)), key=lambda number: (*planned[number], number))
    assert seen == [(planned[number][0], number) for number in order]


def test_an_event_may_plan_others_of_the_same_moment_and_later():
    queue, seen = EventQueue(), []

    def first():
        queue.at(1.0, seen.append, "now")
        queue.at(1.5, seen.append, "later")

    queue.at(1.0, first)
    queue.run()
    assert seen == ["now", "later"]
    assert queue.now_s == 1.5


def test_nothing_can_be_planned_in_the_past():
    queue = EventQueue()
    queue.at(2.0, lambda: None)
    queue.run()
    with pytest.raises(ValueError, match=r"1.0 s cannot be planned at 2.0 s"):
        queue.at(1.0, lambda: None)
