import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadles.simulation.agenda import Agenda


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(-2, 2)), max_size=30))
def test_events_come_by_time_then_priority_then_sequence(planned):
    agenda, seen = Agenda(), []
    for number, (time_s, priority) in enumerate(planned):
        agenda.at(time_s, lambda event: seen.append((agenda.now_s, event)), number, priority=priority)
    agenda.run()
    order = sorted(range(len(planned)), key=lambda number: (*planned[number], number))
    assert seen == [(planned[number][0], number) for number in order]


def test_an_event_may_plan_others_of_the_same_moment_and_later():
    agenda, seen = Agenda(), []

    def first():
        agenda.at(1.0, seen.append, "now")
        agenda.at(1.5, seen.append, "later")

    agenda.at(1.0, first)
    agenda.run()
    assert seen == ["now", "later"]
    assert agenda.now_s == 1.5


def test_nothing_can_be_planned_in_the_past():
    agenda = Agenda()
    agenda.at(2.0, lambda: None)
    agenda.run()
    with pytest.raises(ValueError, match=r"1.0 s cannot be planned at 2.0 s"):
        agenda.at(1.0, lambda: None)
