"""What gaps in ids show, whatever the ids are."""

import json

from hypothesis import given
from hypothesis import strategies as st

from scadles.streams.mqtt import missing
from scadles.streams.mqtt.missing import LARGEST_GAP, Missing, MissingIds


def counted(numbers):
    ids = Missing()
    for number in numbers:
        ids.note(number)
    return ids.count


@given(st.integers(0, 10**18), st.sets(st.integers(1, 60), max_size=20))
def test_what_lies_between_the_first_and_the_last_and_did_not_come_is_missing(first, lost):
    numbers = [first + n for n in range(100) if n not in lost]
    assert counted(numbers) == len(lost)


@given(st.permutations(range(12)))
def test_what_comes_in_another_order_is_not_missing(order):
    assert counted([100, *(101 + n for n in order), *range(113, 130)]) == 0


def test_a_first_message_may_have_any_id_and_a_gap_may_be_filled_in_part():
    assert counted([10**15]) == 0
    assert counted([500, 501, 510, 511, 505, 503]) == 6


def test_a_producer_that_was_started_again_has_lost_nothing():
    assert counted([*range(100), *range(10**15, 10**15 + 100)]) == 0
    assert counted([*range(5000, 5100), *range(100)]) == 0
    assert counted([*range(100), 99 + LARGEST_GAP + 2]) == 0
    assert counted([*range(100), 99 + LARGEST_GAP + 1]) == LARGEST_GAP


def test_producers_that_take_turns_have_gaps_of_their_own():
    each = [10**9 * producer + n for n in range(50) for producer in range(5) if n != 20 + producer]
    assert counted(each) == 5


def test_ids_that_do_not_count_messages_show_nothing():
    assert counted(range(0, 10_000, 20)) == 0  # milliseconds, say
    assert counted(range(0, 100, 2)) == 0


@given(st.lists(st.integers(0, 10**19), unique=True, max_size=300))
def test_memory_is_bounded(numbers):
    ids = Missing()
    for number in numbers:
        ids.note(number)
    closed, *series = ids.state()
    assert closed >= 0
    assert len(series) <= 16
    assert all(len(one[-1]) <= 256 for one in series)


def test_gaps_that_are_not_remembered_stay_counted():
    numbers = [n for n in range(3000) if n % 3]
    assert counted(numbers) == 999  # 0 was never expected, 2,997 lies in between
    ids = Missing()
    for number in numbers:
        ids.note(number)
    assert len(ids.state()[1][-1]) == 256
    ids.note(3)  # later than anybody remembers
    assert ids.count == 999
    ids.note(2997)
    assert ids.count == 998


@given(
    st.lists(st.integers(0, 40), unique=True, min_size=1),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_the_state_at_a_position_is_what_the_messages_before_it_show(numbers, committed, position):
    position = min(max(committed, position), len(numbers))
    committed = min(committed, position)
    ids = MissingIds()
    for offset, number in enumerate(numbers):
        ids.note(offset, number)
    ids.commit(committed)
    again = MissingIds(json.loads(json.dumps(ids.at(position))))
    assert again.count == counted(numbers[:position])
    for offset, number in enumerate(numbers[position:], position):
        again.note(offset, number)
    assert again.count == ids.count == counted(numbers)


def test_what_is_remembered_for_checkpoints_is_bounded(monkeypatch):
    monkeypatch.setattr(missing, "_MOST_RUNS", 5)
    ids = MissingIds()
    for offset in range(100):
        ids.note(offset, 3 * offset)
    assert len(ids._runs) == 5
    assert MissingIds(ids.at(100)).at(100) == ids.at(100)
