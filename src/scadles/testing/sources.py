"""What every source must do, as a suite of checks that anybody can run over their own.

A check takes a factory ``factory(clock) -> Source`` and makes fresh sources over **the same stream** with it: one that
brings between 40 and 1,000 records within its first 10 stream seconds and then is silent for at least a minute. A
source of live records may ignore the clock, if its records are there when the factory returns::

    @pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
    def test_my_source(check):
        check(lambda clock: MySource(...))
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scadles.clock import Clock, VirtualClock, wall_seconds
from scadles.records import Records, Span
from scadles.streams.contract import Source

SourceFactory = Callable[[Clock], Source]

BUSY_S = 10.0
MIN_RECORDS = 40
MANY = 10_000
PATIENCE_S = 0.5
ATTEMPTS = 20


def records_come_in_order(factory: SourceFactory) -> None:
    """Offsets ascend from the position opened at, event times do not fall, and columns have one length."""
    with _busy(factory) as (source, _):
        records = _take(source, MIN_RECORDS)
        _require(records[0].offset == 0, f"opened at 0, the first record has offset {records[0].offset}")
        for one, next_one in pairwise(records):
            _require(one.offset < next_one.offset, f"offset {next_one.offset} came after offset {one.offset}")
            _require(one.time <= next_one.time, f"event time fell from {one.time} to {next_one.time}")


def poll_returns_no_more_than_asked(factory: SourceFactory) -> None:
    """However much has arrived, a poll brings at most ``max_records``."""
    with _busy(factory) as (source, _):
        for asked in (1, 2, 7, 16):
            got = len(source.poll(asked, PATIENCE_S))
            _require(got <= asked, f"poll({asked}) returned {got} records")


def poll_in_pieces_changes_nothing(factory: SourceFactory) -> None:
    """One record at a time or many, the same records come."""
    taken = []
    for size in (1, MANY):
        with _busy(factory) as (source, _):
            taken.append(_take(source, MIN_RECORDS, size)[:MIN_RECORDS])
    _require_same(*taken)


def resuming_brings_the_same_records(factory: SourceFactory) -> None:
    """A fresh source opened at the position of another one goes on with the records that would have followed."""
    with _busy(factory) as (first, _):
        _take(first, 13, 13)
        position = first.position
        mark = _as_stored(first.mark(position))
        rest = _take(first, MIN_RECORDS - 13)
    with _busy(factory, position, mark) as (second, _):
        _require(second.position == position, f"opened at {position}, position is {second.position}")
        again = _take(second, len(rest))
    _require_same(rest, again[: len(rest)])


def resuming_before_what_was_polled_brings_it_again(factory: SourceFactory) -> None:
    """A checkpoint may lie before records that were polled already: they come again, and none before them."""
    with _busy(factory) as (first, _):
        taken = _take(first, 20, 7)
        first.commit(taken[5].offset)
        position = taken[11].offset
        mark = _as_stored(first.mark(position))
    with _busy(factory, position, mark) as (second, _):
        again = _take(second, 9)
    _require_same(taken[11:], again[:9])


def rewinding_brings_the_same_records(factory: SourceFactory) -> None:
    """Rewound while it is open, a source brings the same records once more, or says that it cannot and goes on."""
    with _busy(factory) as (source, _):
        marks = {0: _as_stored(source.mark(0))}
        taken = _take(source, 20, 7)
        source.commit(taken[5].offset)
        marks |= {at: _as_stored(source.mark(taken[at].offset)) for at in (9, 13)}
        for at in (13, 9, 0):
            before, position = source.position, taken[at].offset
            if source.rewind(position, marks[at]):
                _require(source.position == position, f"rewound to {position}, position is {source.position}")
                _require_same(taken[at:], _take(source, len(taken) - at, 3))
            _require(source.position == before, f"position was {before} before a rewind, now it is {source.position}")
        following = _take(source, MIN_RECORDS - len(taken))
    with _busy(factory) as (other, _):
        _require_same([*taken, *following], _take(other, MIN_RECORDS))


def timeout_zero_does_not_wait(factory: SourceFactory) -> None:
    """``poll(n, 0)`` takes what is there and lets no stream time pass."""
    with closing(factory(clock := VirtualClock())) as source:
        source.open(0)
        source.poll(MANY, 0.0)
        _require(clock.now() == 0.0, f"poll with timeout 0 let {clock.now()} s pass")


def poll_waits_for_its_records(factory: SourceFactory) -> None:
    """A poll returns as many records as it was asked for, if they come within the timeout."""
    with closing(factory(VirtualClock())) as source:
        source.open(0)
        got = len(source.poll(3, BUSY_S))
        _require(got == 3, f"poll(3, {BUSY_S:g}) returned {got} records of a stream that brings {MIN_RECORDS} by then")


def poll_waits_no_longer_than_needed(factory: SourceFactory) -> None:
    """A poll ends when enough records are there, or after the timeout, whichever comes first."""
    with _busy(factory) as (source, clock):
        _take(source, 1, 1)
        for asked, allowed_s in ((1, 0.0), (MANY, PATIENCE_S)):
            before_s = clock.now()
            source.poll(asked, PATIENCE_S)
            waited_s = clock.now() - before_s
            _require(
                waited_s <= allowed_s + 1e-6,
                f"poll({asked}, {PATIENCE_S:g}) lasted {waited_s} s, {allowed_s:g} s would have done",
            )


def silence_returns_nothing(factory: SourceFactory) -> None:
    """A poll of a silent stream lasts as long as the timeout, returns nothing and leaves the position where it was."""
    with _busy(factory) as (source, clock):
        _take(source, MANY)
        position, before_s, wall_before_s = source.position, clock.now(), wall_seconds()
        records = _with_samples(source.poll(5, PATIENCE_S))
        # A live source waits on the wall, a replayed one on its clock.
        waited_s = max(clock.now() - before_s, wall_seconds() - wall_before_s)
        _require(len(records) == 0, f"{len(records)} records came out of a silent stream")
        _require_columns(records)
        _require(source.position == position, f"position moved from {position} to {source.position} in silence")
        _require(waited_s >= 0.9 * PATIENCE_S, f"a silent poll with timeout {PATIENCE_S:g} s lasted only {waited_s} s")


def skip_keeps_the_newest(factory: SourceFactory) -> None:
    """``skip(keep)`` passes over all that has arrived but the newest ``keep`` records, and counts them."""
    with _busy(factory) as (source, _):
        everything = _take(source, MANY)
    with _busy(factory) as (source, _):
        taken = _take(source, 1, 1)
        passed = source.skip(3)
        kept = _take(source, 3)
        _require_same(everything[-3:], kept)
        expected = len(everything) - len(taken) - 3
        _require(passed == expected, f"skip(3) reported {passed} records passed over, expected {expected}")


def skip_of_little_does_nothing(factory: SourceFactory) -> None:
    """When no more has arrived than is to be kept, nothing is passed over."""
    with _busy(factory) as (source, _):
        _take(source, 5, 5)
        position = source.position
        passed = source.skip(MANY)
        _require(passed == 0, f"skip({MANY}) passed over {passed} records of fewer")
        _require(source.position == position, f"skip moved the position from {position} to {source.position}")


def lag_counts_what_waits(factory: SourceFactory) -> None:
    """Lag falls by what is polled, and to ``keep`` by a skip; or it is None throughout."""
    with _busy(factory) as (source, _):
        _take(source, 1, 1)
        before = source.lag()
        if before is None:
            return
        got = len(source.poll(10, PATIENCE_S))
        after = source.lag()
        _require(after == before - got, f"lag was {before}, {got} records were polled, then lag was {after}")
        source.skip(4)
        _require(source.lag() == 4, f"after skip(4) lag is {source.lag()}")


def position_follows_the_records(factory: SourceFactory) -> None:
    """The position lies behind every record polled, not behind the next one, and a commit does not move it."""
    with closing(factory(clock := VirtualClock())) as source:
        source.open(0)
        _require(source.position == 0, f"opened at 0, position is {source.position}")
        clock.sleep(BUSY_S)
        last = _take(source, 9, 9)[-1].offset
        position = source.position
        _require(position > last, f"position is {position} after the record with offset {last}")
        source.commit(position)
        _require(source.position == position, f"commit moved the position from {position} to {source.position}")
        _as_stored(source.mark(position))
        following = _take(source, 1, 1)[0].offset
        _require(following >= position, f"position was {position}, then a record with offset {following} came")


def closing_twice_is_no_error(factory: SourceFactory) -> None:
    """``close`` may be called again, and before ``open``."""
    factory(VirtualClock()).close()
    source = factory(VirtualClock())
    source.open(0)
    source.close()
    source.close()


SOURCE_CHECKS: tuple[Callable[[SourceFactory], None], ...] = (
    records_come_in_order,
    poll_returns_no_more_than_asked,
    poll_in_pieces_changes_nothing,
    resuming_brings_the_same_records,
    resuming_before_what_was_polled_brings_it_again,
    rewinding_brings_the_same_records,
    timeout_zero_does_not_wait,
    poll_waits_for_its_records,
    poll_waits_no_longer_than_needed,
    silence_returns_nothing,
    skip_keeps_the_newest,
    skip_of_little_does_nothing,
    lag_counts_what_waits,
    position_follows_the_records,
    closing_twice_is_no_error,
)


class _Record(NamedTuple):
    offset: int
    time: float
    x: Tensor
    y: int


@contextmanager
def _busy(
    factory: SourceFactory, position: int = 0, mark: Mapping[str, Any] | None = None
) -> Iterator[tuple[Source, Clock]]:
    """Open a fresh source and let its busy time pass."""
    clock = VirtualClock()
    with closing(factory(clock)) as source:
        source.open(position, mark)
        clock.sleep(BUSY_S)
        yield source, clock


def _take(source: Source, count: int, size: int = MANY) -> list[_Record]:
    """Return ``count`` records, polled ``size`` at most at a time, or fewer once the stream is silent."""
    taken: list[_Record] = []
    empty = 0
    # A source that fetches in the background may need a while for its first records, not between them.
    while len(taken) < count and empty < (2 if taken else ATTEMPTS):
        records = _with_samples(source.poll(min(size, count - len(taken)), PATIENCE_S))
        _require_columns(records)
        columns = zip(records.offsets.tolist(), records.times.tolist(), records.x, records.y.tolist(), strict=True)
        taken += [_Record(*row) for row in columns]
        empty = 0 if len(records) else empty + 1
    _require(len(taken) >= min(count, MIN_RECORDS), f"{len(taken)} records came in {BUSY_S:g} s, {count} were wanted")
    return taken


def _as_stored(mark: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a mark as a checkpoint gives it back."""
    stored: Mapping[str, Any] = json.loads(json.dumps(mark))
    _require(stored == mark, f"a mark must be the same after JSON: {mark} became {stored}")
    return stored


def _require(held: object, message: str) -> None:
    if not held:
        raise AssertionError(message)


def _with_samples(records: Records | Span) -> Records:
    if isinstance(records, Span):
        raise AssertionError("the source brings positions without samples, which only a simulated device can use")
    return records


def _require_columns(records: Records) -> None:
    lengths = {"offsets": len(records.offsets), "times": len(records.times), "x": len(records.x), "y": len(records.y)}
    _require(len(set(lengths.values())) == 1, f"columns differ in length: {lengths}")


def _require_same(one: list[_Record], other: list[_Record]) -> None:
    offsets, others = [record.offset for record in one], [record.offset for record in other]
    _require(offsets == others, f"offsets {offsets} came one way, {others} the other way")
    for a, b in zip(one, other, strict=True):
        _require(a.time == b.time, f"the record with offset {a.offset} has event times {a.time} and {b.time}")
        same = a.y == b.y and a.x.dtype == b.x.dtype and torch.equal(a.x, b.x)
        _require(same, f"the record with offset {a.offset} differs from one time to the next")
