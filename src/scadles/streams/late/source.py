"""Two streams as one: samples that wait for their targets, which come in another.

**Position.** Samples are numbered in the order in which it was settled what becomes of them: they got their target, or
their time ran out. What a checkpoint must hold beside such a position is where each of the two streams has to be opened
again: at the oldest sample that was not settled then, and at the oldest target that was not given to a settled one.
What lies behind these places and was settled nevertheless is in the mark, as runs of offsets, and is passed over when
it comes again. So each sample is settled once, and each target is given once, however often the run was killed.

**Waiting** begins when a sample is polled (for a replayed stream: when it arrives) and takes ``wait_s`` stream seconds;
after a restart it begins anew for the samples that waited. A target may come before its sample, and waits for it as
long. Targets that find no sample, are given twice or cannot be one are counted as strays, beside the ledger.

**Memory** is bounded: at most ``capacity`` samples and as many targets wait. Where everything is kept, no more samples
are read while so many wait; where the stream is truncated, the one that has waited for longest is given up. No more
targets are read while so many wait; none is given up while samples lie in their stream that nobody has read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scadles.clock import Clock
from scadles.records import Records, Rejected
from scadles.streams.contract import Source
from scadles.streams.late.ids import as_bytes
from scadles.streams.late.join import Join, Settled, Stray
from scadles.streams.late.replayed import ReplayedTargets
from scadles.streams.rejections import Reasons
from scadles.streams.runs import from_runs, to_runs
from scadles.targets import TargetType

_SLICE_S = 0.05
#: The offset of a target that comes again by itself wherever its sample does.
_NOWHERE = -1
_NOTHING: Mapping[str, Any] = {}


class _Done(NamedTuple):
    """Of what was settled: offsets from ``sample`` on, and that of a target, below 0 for none."""

    sample: int
    records: int
    target: int


class LateSource(Source):
    """Samples of one stream with targets of another.

    Args:
        samples: brings samples with their ids for targets (:class:`~scadles.streams.late.codecs.KeyedCodec`).
        targets: brings ids for samples, with their targets.
        target: what a target is.
        wait_s: how long a sample waits for its target, in stream seconds.
        capacity: samples that wait at most.
        clock: stream time.
        truncates: whether samples are given up where too many wait; else their stream is not read on.
    """

    def __init__(
        self,
        samples: Source,
        targets: Source,
        target: TargetType,
        clock: Clock,
        wait_s: float,
        capacity: int,
        *,
        truncates: bool = False,
    ) -> None:
        self._samples = samples
        self._targets = targets
        self._target = target
        self._clock = clock
        self._wait_s = wait_s
        self._capacity = capacity
        self._truncates = truncates
        self._stray_targets = 0
        self._begin(0, set(), set())

    def _begin(self, position: int, settled: set[int], given: set[int]) -> None:
        """Begin at a position, from which samples and targets at these offsets were settled before."""
        self._join = Join(self._wait_s, self._capacity)
        self._position = self._committed = position
        self._settled, self._given = settled, given
        self._log: deque[_Done] = deque()  # from the committed position on
        self._strays: deque[tuple[int, Stray]] = deque()  # with the position at which each was found
        self._news = Reasons()
        self._brought_s = self._clock.now()  # when samples came last

    def open(self, position: int, mark: Mapping[str, Any] | None = None) -> None:
        samples, targets = _parts(mark)
        self._samples.open(int(samples.get("position", 0)), samples.get("mark", mark))
        self._targets.open(int(targets.get("position", 0)), targets.get("mark", mark))
        self._begin(position, from_runs(samples.get("settled", ())), from_runs(targets.get("given", ())))
        self._stray_targets = int(targets.get("strays", 0))

    def rewind(self, position: int, mark: Mapping[str, Any] | None = None) -> bool:
        samples, targets = _parts(mark)
        # a target that comes again though its sample does not is known
        given = self._given.union(done.target for done in self._log if done.target >= 0)
        given.update(stray.offset for _, stray in self._strays)
        given.update(found.offset for found in self._join.early.values())
        if not self._targets.rewind(int(targets.get("position", 0)), targets.get("mark", mark)):
            return False
        if not self._samples.rewind(int(samples.get("position", 0)), samples.get("mark", mark)):
            self._given = given
            return False
        self._begin(position, from_runs(samples.get("settled", ())), from_runs(targets.get("given", ())))
        self._stray_targets = int(targets.get("strays", 0))
        return True

    def poll(self, max_records: int, timeout_s: float) -> Records:
        deadline_s = self._clock.now() + timeout_s
        self._pump()
        while self._join.ready < max_records and not self.ended and (left_s := deadline_s - self._clock.now()) > 0:
            self._pump(min(left_s, _SLICE_S))
        return self._records(max_records)

    def skip(self, keep: int) -> int:
        self._pump()
        passed = 0
        while self._join.ready > keep:
            passed += self._note(self._join.take())
        return passed

    def lag(self) -> int:
        """Return how many records are settled and wait to be polled; others wait for their targets."""
        self._pump()
        return self._join.ready

    @property
    def waiting(self) -> int:
        return len(self._join.waiting) + self._join.ready

    @property
    def position(self) -> int:
        return self._position

    @property
    def ended(self) -> bool:
        return self._samples.ended and not self._join.waiting and not self._join.settled

    @property
    def duplicates(self) -> int:
        return self._samples.duplicates

    @property
    def missing(self) -> int:
        return self._samples.missing

    @property
    def stray_targets(self) -> int:
        return self._stray_targets

    def strays_since_last_time(self) -> Sequence[tuple[str, int]]:
        news, self._news = self._news, Reasons()
        return [(reason, count) for reason, count, _ in news]

    def mark(self, position: int) -> dict[str, Any]:
        before, behind = self._split(position)
        samples, targets = self._places(behind)
        settled = {o for o in self._settled if o >= samples}
        settled.update(o for done in before for o in range(max(samples, done.sample), done.sample + done.records))
        strays = [stray for at, stray in self._strays if at <= position]
        given = {o for o in self._given if o >= targets}
        given.update(done.target for done in before if done.target >= targets)
        given.update(stray.offset for stray in strays if stray.offset >= targets)
        later = len(self._strays) - len(strays)
        samples_mark, runs = self._samples.mark_without(samples, to_runs(settled))
        targets_mark, given_runs = self._targets.mark_without(targets, to_runs(given))
        strays_then = self._stray_targets - later
        return {
            "samples": {"position": samples, "mark": samples_mark, "settled": runs},
            "targets": {"position": targets, "mark": targets_mark, "given": given_runs, "strays": strays_then},
        }

    def commit(self, position: int) -> None:
        before, behind = self._split(position)
        samples, targets = self._places(behind)
        self._settled = {o for o in self._settled if o >= samples}
        self._settled.update(o for d in before for o in range(max(samples, d.sample), d.sample + d.records))
        self._given = {o for o in self._given if o >= targets}
        self._given.update(done.target for done in before if done.target >= targets)
        while self._strays and self._strays[0][0] <= position:
            offset = self._strays.popleft()[1].offset
            if offset >= targets:
                self._given.add(offset)
        self._log = deque(behind)
        self._committed = position
        self._samples.commit(samples)
        self._targets.commit(targets)

    def notices(self) -> list[str]:
        return [*self._samples.notices(), *self._targets.notices()]

    def close(self) -> None:
        self._samples.close()
        self._targets.close()

    def _pump(self, timeout_s: float = 0.0) -> None:
        """Take in what has come in both streams, waiting for it for so long."""
        self._take_samples()
        self._take_targets(timeout_s)
        if timeout_s > 0:
            self._take_samples()
            self._take_targets(0.0)
        now_s = self._clock.now()
        self._join.expire(now_s)
        if not self._samples.lag() or now_s - self._brought_s > self._wait_s:
            self._join.expire_targets(now_s)  # their samples are not just unread
        if self._samples.ended and self._targets.ended:
            self._join.expire_all()
        at = self._position + self._join.ready
        for stray in self._join.strays:
            self._strays.append((at, stray))
            self._stray_targets += 1
            self._news.note([Rejected(stray.offset, stray.reason)])
        self._join.strays.clear()

    def _take_samples(self) -> None:
        join = self._join
        room = self._capacity if self._truncates else self._capacity - len(join.waiting) - len(join.settled)
        if room <= 0:
            return
        before = self._samples.position
        records = self._samples.poll(room, 0.0)
        if not isinstance(records, Records):
            return
        if records.lost:
            self._lose(before, records.lost)
        now_s = self._clock.now()
        if self._samples.position > before:
            self._brought_s = now_s
        replayed = isinstance(self._targets, ReplayedTargets)
        rejected = deque(one for one in records.rejected if one.offset not in self._settled)
        ids, expected = as_bytes(records.y), np.ones(len(records), dtype=bool)
        for row, (offset, time_s) in enumerate(zip(records.offsets.tolist(), records.times.tolist(), strict=True)):
            while rejected and rejected[0].offset < offset:
                join.reject(*rejected.popleft())
            if offset in self._settled:
                expected[row] = False
            else:
                x = torch.as_tensor(records.x[row]).clone()
                join.add_sample(offset, ids[row], time_s, time_s if replayed else now_s, x)
        for one in rejected:
            join.reject(*one)
        if isinstance(self._targets, ReplayedTargets) and len(records):
            self._targets.expect(records.where(expected))

    def _lose(self, first: int, count: int) -> None:
        """Count records that are gone from ``first`` on, but for those that were settled before."""
        end, known = first + count, sorted(o for o in self._settled if first <= o < first + count)
        for offset in [*known, end]:
            if offset > first:
                self._join.lose(first, offset - first)
            first = offset + 1

    def _take_targets(self, timeout_s: float) -> None:
        room = self._capacity - len(self._join.early)
        if room <= 0:
            self._clock.sleep(timeout_s)
            return
        records = self._targets.poll(room, timeout_s)
        if not isinstance(records, Records):
            return
        known = self._given
        for one in records.rejected:
            if one.offset not in known:
                self._join.refuse(*one)
        if not len(records):
            return
        now_s = self._clock.now()
        replayed = isinstance(self._targets, ReplayedTargets)
        bad = self._target.bad(records.y).tolist()
        ids = as_bytes(torch.as_tensor(records.x))
        for row, (offset, time_s) in enumerate(zip(records.offsets.tolist(), records.times.tolist(), strict=True)):
            if replayed:
                offset = _NOWHERE
            if offset in known:
                continue
            if bad[row]:
                self._join.refuse(offset, self._target.why_bad(records.y[row]))
            else:
                self._join.add_target(offset, ids[row], records.y[row], time_s if replayed else now_s)

    def _records(self, most: int) -> Records:
        """Return up to so many of the records that are settled."""
        settled, lost, taken = self._join.settled, 0, list[Settled]()
        while settled and len(taken) < most and not (settled[0].lost and taken):
            done = self._join.take()
            self._note(done)
            lost += done.lost
            if not done.lost:
                taken.append(done)
        first = self._position - len(taken)
        fates = list(enumerate(taken, first))
        good = [(at, done.sample, done.y) for at, done in fates if done.sample is not None and done.y is not None]
        rejected = tuple(Rejected(at, done.reason) for at, done in fates if done.reason)
        unlabelled = tuple(at for at, done in fates if done.y is None and not done.reason)
        return Records(
            np.array([at for at, _, _ in good], dtype=np.int64),
            np.array([sample.time_s for _, sample, _ in good], dtype=np.float64),
            torch.stack([sample.x for _, sample, _ in good]) if good else torch.empty(0),
            torch.stack([y for _, _, y in good]) if good else self._no_targets(),
            rejected,
            lost,
            unlabelled,
        )

    def _no_targets(self) -> Tensor:
        return torch.empty((0, *self._target.shape), dtype=self._target.dtype)

    def _note(self, done: Settled) -> int:
        """Move past a record that is settled, or several that are lost; return how many."""
        self._log.append(_Done(done.offset, done.records, done.target_offset))
        self._position += done.records
        return done.records

    def _split(self, position: int) -> tuple[list[_Done], list[_Done]]:
        """Return what was moved past before a position and from it on, since the last commit."""
        before, behind, at = list[_Done](), list[_Done](), self._committed
        for done in self._log:
            ahead = min(done.records, max(0, position - at))
            at += done.records
            if ahead:
                before.append(done._replace(records=ahead))
            if ahead < done.records:
                behind.append(done._replace(sample=done.sample + ahead, records=done.records - ahead))
        return before, behind

    def _places(self, behind: Sequence[_Done]) -> tuple[int, int]:
        """Return the oldest sample and the oldest target that must come again, given what comes again of what was."""
        join = self._join
        samples = (done.sample for done in behind)
        ready = [done.offset for done in join.settled]
        sample = min([self._samples.position, *samples, *ready, *join.offsets_waiting()])
        targets = [done.target for done in behind if done.target >= 0]
        ready = [done.target_offset for done in join.settled if done.target_offset >= 0]
        early = [found.offset for found in join.early.values()]
        return sample, min([self._targets.position, *targets, *ready, *early])


def _parts(mark: Mapping[str, Any] | None) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return (mark.get("samples", _NOTHING), mark.get("targets", _NOTHING)) if mark else (_NOTHING, _NOTHING)
