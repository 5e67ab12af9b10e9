"""The queue between the fetching and the polling thread, over partitions of made-up messages."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadles.errors import SourceError
from scadles.streams.kafka.backlog import MAX_BYTES, MAX_MESSAGES, Backlog, Passed, Run
from scadles.streams.kafka.bounded import BoundedBacklog


class Message:
    def __init__(self, offset, size=8):
        self._offset = offset
        self._size = size

    def offset(self):
        return self._offset

    def __len__(self):
        return self._size


def messages(first, end, size=8):
    return [Message(offset, size) for offset in range(first, end)]


def offsets(parts):
    return [message.offset() for part in parts if isinstance(part, Run) for message in part.messages]


def test_messages_come_in_the_order_and_pieces_in_which_they_are_asked_for():
    backlog = Backlog({0: 10}, {0: 10})
    backlog.add(0, messages(10, 15))
    backlog.add(0, messages(15, 30))
    assert offsets(backlog.take(3, 0.0)) == [10, 11, 12]
    assert offsets(backlog.take(9, 0.0)) == list(range(13, 22))
    assert backlog.lag() == 8
    assert offsets(backlog.take(100, 0.0)) == list(range(22, 30))
    assert backlog.take(1, 0.0) == []


def test_lost_records_come_before_what_follows_them():
    backlog = Backlog({0: 0}, {0: 0})
    backlog.add(0, messages(0, 3))
    backlog.leap(0, 8, lost=True)
    backlog.add(0, messages(8, 10))
    assert offsets(backlog.take(10, 5.0)) == [0, 1, 2]  # and does not wait for more
    lost, rest = backlog.take(2, 0.0)
    assert lost == Passed(0, 8, 5)
    assert offsets([rest]) == [8, 9]


def test_what_never_was_a_record_is_passed_without_being_counted():
    backlog = Backlog({0: 0}, {0: 0})
    backlog.add(0, messages(0, 3))
    backlog.leap(0, 4, lost=False)
    parts = backlog.take(3, 0.0)
    assert (offsets(parts), parts[-1]) == ([0, 1, 2], Passed(0, 4, 0))
    assert backlog.lag() == 0


def test_what_was_skipped_is_not_taken_when_it_comes_after_all():
    backlog = Backlog({0: 0}, {0: 500})
    backlog.add(0, messages(0, 10))
    assert backlog.skip(100) == [Passed(0, 400, 400)]
    backlog.add(0, messages(10, 420))
    assert offsets(backlog.take(1000, 0.0)) == list(range(400, 420))
    assert (backlog.lag(), backlog.far()) == (80, False)


def test_a_long_way_is_jumped():
    backlog = Backlog({0: 0}, {0: 50_000})
    backlog.skip(10)
    assert backlog.far()
    assert not backlog.far()
    assert backlog.fetched() == {0: 49_990}


def test_room_ends_with_messages_or_bytes():
    backlog = Backlog({0: 0}, {0: 0})
    assert backlog.room() == MAX_MESSAGES
    backlog.add(0, messages(0, MAX_MESSAGES))
    assert backlog.room() == 0
    backlog.take(1, 0.0)
    assert backlog.room() == 1
    backlog.take(MAX_MESSAGES, 0.0)
    backlog.add(0, messages(MAX_MESSAGES, MAX_MESSAGES + 2, size=MAX_BYTES // 4))
    assert backlog.room() == 2
    backlog.add(0, messages(MAX_MESSAGES + 2, MAX_MESSAGES + 4, size=MAX_BYTES // 4))
    assert backlog.room() == 0
    backlog.skip(0)
    assert backlog.room() == 4


def test_a_message_larger_than_all_room_is_fetched_alone():
    backlog = Backlog({0: 0}, {0: 0})
    backlog.add(0, messages(0, 1, size=2 * MAX_BYTES))
    backlog.take(1, 0.0)
    assert backlog.room() == 1


def test_a_taker_waits_for_what_comes():
    backlog = Backlog({0: 0}, {0: 0})
    later = threading.Timer(0.1, lambda: backlog.add(0, messages(0, 5)))
    later.start()
    assert offsets(backlog.take(5, 20.0)) == [0, 1, 2, 3, 4]
    later.join()


def test_a_taker_waits_no_longer_than_it_said():
    began_s = time.monotonic()
    assert Backlog({0: 0}, {0: 0}).take(1, 0.2) == []
    assert time.monotonic() - began_s >= 0.2


def test_what_the_fetcher_died_of_is_raised_by_every_call():
    backlog = Backlog({0: 0}, {0: 9})
    backlog.fail(SourceError("gone"))
    for call in (backlog.lag, backlog.check, lambda: backlog.skip(1), lambda: backlog.take(1, 5.0)):
        with pytest.raises(SourceError, match="gone"):
            call()


partitions = st.integers(0, 2)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), partitions, st.integers(1, 30)),
        st.tuples(st.just("lose"), partitions, st.integers(1, 30)),
        st.tuples(st.just("marker"), partitions, st.integers(1, 3)),
        st.tuples(st.just("end"), partitions, st.integers(0, 60)),
        st.tuples(st.just("take"), st.integers(1, 40)),
        st.tuples(st.just("skip"), st.integers(0, 60)),
    ),
    max_size=40,
)


@given(operations)
def test_every_offset_is_handed_out_or_passed_once(plan):
    backlog = Backlog({0: 0, 1: 5, 2: 70}, {0: 0, 1: 5, 2: 70})
    at = {0: 0, 1: 5, 2: 70}

    def see(parts):
        for part in parts:
            if isinstance(part, Run):
                for message in part.messages:
                    assert message.offset() == at[part.partition]
                    at[part.partition] += 1
            else:
                assert 0 <= part.records <= part.end - at[part.partition]
                at[part.partition] = part.end

    for kind, *rest in plan:
        fetched = backlog.fetched()
        if kind == "add":
            backlog.add(rest[0], messages(fetched[rest[0]], fetched[rest[0]] + rest[1]))
        elif kind in ("lose", "marker"):
            backlog.leap(rest[0], fetched[rest[0]] + rest[1], lost=kind == "lose")
        elif kind == "end":
            backlog.heard_of_end(rest[0], fetched[rest[0]] + rest[1])
        elif kind == "take":
            parts = backlog.take(rest[0], 0.0)
            lost = [isinstance(part, Passed) and part.records > 0 for part in parts]
            first_run = next((i for i, part in enumerate(parts) if isinstance(part, Run)), len(parts))
            assert not any(lost[first_run:])
            assert len(offsets(parts)) <= rest[0]
            see(parts)
        else:
            before = backlog.lag()
            see(backlog.skip(rest[0]))
            assert backlog.lag() == min(before, rest[0])
        assert all(at[p] <= offset for p, offset in backlog.fetched().items())


def test_what_was_written_behind_the_end_does_not_come():
    backlog = BoundedBacklog({0: 5, 1: 0}, {0: 10, 1: 3})
    backlog.heard_of_end(0, 50)
    assert (backlog.lag(), backlog.ended) == (8, False)
    backlog.add(0, messages(5, 8))
    backlog.add(0, messages(8, 20))
    assert backlog.far()  # the client need not fetch more of this partition
    assert backlog.to_fetch() == {1: 0}
    assert offsets(backlog.take(100, 0.0)) == list(range(5, 10))
    backlog.add(1, messages(0, 3))
    assert not backlog.ended
    assert offsets(backlog.take(100, 60.0)) == [0, 1, 2]  # and nothing is waited for
    assert backlog.take(100, 60.0) == []
    assert (backlog.ended, backlog.lag(), backlog.to_fetch(), backlog.waits_at_broker()) == (True, 0, {}, False)


def test_ends_that_are_no_records_are_reached():
    backlog = BoundedBacklog({0: 0, 1: 0}, {0: 4, 1: 4})
    backlog.add(0, messages(0, 3))
    backlog.add(0, messages(9, 12))  # what lay between was compacted away
    backlog.add(1, messages(0, 3))
    backlog.leap(1, 4, lost=False)  # the marker of a transaction
    parts = backlog.take(100, 60.0)
    assert offsets(parts) == [0, 1, 2, 0, 1, 2]
    assert [part for part in parts if isinstance(part, Passed)] == [Passed(0, 4, 0), Passed(1, 4, 0)]
    assert backlog.ended


def test_what_retention_takes_is_lost_up_to_the_end_only():
    backlog = BoundedBacklog({0: 0}, {0: 10})
    backlog.leap(0, 70, lost=True)
    assert not backlog.ended
    assert backlog.take(100, 60.0) == [Passed(0, 10, 10)]
    assert backlog.ended


def test_skipping_reaches_the_end():
    backlog = BoundedBacklog({0: 0}, {0: 10})
    assert sum(part.records for part in backlog.skip(0)) == 10
    assert backlog.ended


def test_an_empty_topic_has_ended():
    assert BoundedBacklog({0: 0, 1: 7}, {0: 0, 1: 7}).ended


def test_a_rewound_backlog_begins_again_with_new_partitions_where_they_were_to_begin():
    backlog = Backlog({0: 10}, {0: 40})
    backlog.add(0, messages(10, 30))
    assert offsets(backlog.take(15, 0.0)) == list(range(10, 25))
    backlog.join({1: 0}, {1: 5})
    backlog.add(1, messages(0, 3))
    backlog.rewind({0: 12})
    assert (backlog.fetched(), backlog.lag(), backlog.joined()) == ({0: 12, 1: 0}, 28 + 5, {1: 0})
    assert backlog.room() == MAX_MESSAGES
    backlog.add(0, messages(12, 20))
    assert offsets(backlog.take(8, 0.0)) == list(range(12, 20))


def test_a_bounded_backlog_that_had_ended_goes_on_after_a_rewind():
    backlog = BoundedBacklog({0: 0}, {0: 10})
    backlog.add(0, messages(0, 12))
    assert offsets(backlog.take(10, 0.0)) == list(range(10))
    assert (backlog.ended, backlog.to_fetch()) == (True, {})
    backlog.rewind({0: 4})
    assert (backlog.ended, backlog.to_fetch()) == (False, {0: 4})
    backlog.add(0, messages(4, 12))
    assert offsets(backlog.take(10, 0.0)) == list(range(4, 10))
    assert backlog.ended
