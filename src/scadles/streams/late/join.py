"""Samples that wait for their targets, and what becomes of each."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class Sample(NamedTuple):
    """A sample that waits: where it is in its stream, its id, its event time and until when it waits."""

    offset: int
    id: bytes
    time_s: float
    due_s: float
    x: Tensor


class Settled(NamedTuple):
    """What became of a sample, or of ``count`` consecutive records that were lost.

    Attributes:
        offset: in the stream of samples.
        sample: as it waited; None where it never did.
        y: its target; None where it has none.
        target_offset: where in the stream of targets that was; below 0 where it has none.
        reason: why it is rejected; empty where it is not.
        lost: records that are gone, from ``offset`` on.
    """

    offset: int
    sample: Sample | None = None
    y: Tensor | None = None
    target_offset: int = -1
    reason: str = ""
    lost: int = 0

    @property
    def records(self) -> int:
        """How many records it is of."""
        return self.lost or 1


class Stray(NamedTuple):
    """A target that no sample was given: where it was, and why."""

    offset: int
    reason: str


@dataclass
class Early:
    """A target whose sample has not come yet."""

    offset: int
    y: Tensor
    due_s: float


@dataclass
class Join:
    """Gives targets to samples by their ids, in bounded memory.

    Args:
        wait_s: how long either waits for the other, in stream seconds.
        capacity: samples that wait at most; the oldest goes for a new one. Whoever adds targets looks at ``early``.

    Attributes:
        waiting: samples by id, those first that wait for longest.
        early: targets by id.
        settled: what became of samples since somebody last took it, in order.
        ready: how many records these are.
        strays: targets that no sample was given, since somebody last took them.
    """

    wait_s: float
    capacity: int
    waiting: OrderedDict[bytes, Sample] = field(default_factory=OrderedDict)
    early: OrderedDict[bytes, Early] = field(default_factory=OrderedDict)
    settled: deque[Settled] = field(default_factory=deque)
    strays: deque[Stray] = field(default_factory=deque)
    ready: int = 0
    _known: OrderedDict[bytes, str] = field(default_factory=OrderedDict)

    def add_sample(self, offset: int, id_: bytes, time_s: float, since_s: float, x: Tensor) -> None:
        """Let a sample wait for its target, or give it the one that is there."""
        if id_ in self.waiting or id_ in self._known:
            self._add(Settled(offset, reason="another sample has the same id"))
            return
        sample = Sample(offset, id_, time_s, since_s + self.wait_s, x)
        if (found := self.early.pop(id_, None)) is not None:
            self._settle(sample, found.y, found.offset)
            return
        if len(self.waiting) == self.capacity:
            self._give_up(next(iter(self.waiting)))
        self.waiting[id_] = sample

    def add_target(self, offset: int, id_: bytes, y: Tensor, at_s: float) -> None:
        """Give a target that came at a stream time to its sample, or let it wait for it."""
        self.expire(at_s)
        sample = self.waiting.pop(id_, None)
        if sample is not None:
            self._settle(sample, y, offset)
        elif id_ in self._known:
            self.strays.append(Stray(offset, f"a target for a sample that {self._known[id_]}"))
        elif id_ in self.early:
            self.strays.append(Stray(offset, "a second target for one id"))
        else:
            self.early[id_] = Early(offset, y, at_s + self.wait_s)

    def take(self) -> Settled:
        """Return what was settled first, of what nobody has taken yet."""
        first = self.settled.popleft()
        self.ready -= first.records
        return first

    def reject(self, offset: int, reason: str) -> None:
        """A record is no sample."""
        self._add(Settled(offset, reason=reason))

    def lose(self, offset: int, count: int) -> None:
        """Records are gone from ``offset`` on."""
        self._add(Settled(offset, lost=count))

    def refuse(self, offset: int, reason: str) -> None:
        """A target cannot be one."""
        self.strays.append(Stray(offset, reason))

    def expire(self, now_s: float) -> None:
        """Give up the samples that have waited for too long by a stream time."""
        while self.waiting and (first := next(iter(self.waiting.values()))).due_s < now_s:
            self._give_up(first.id)

    def expire_targets(self, now_s: float) -> None:
        """Give up the targets that have waited for too long by a stream time."""
        while self.early and (target := next(iter(self.early.items())))[1].due_s < now_s:
            self.strays.append(Stray(self.early.pop(target[0]).offset, "a target for an unknown id"))

    def expire_all(self) -> None:
        """Give up all that wait: no target will come any more."""
        for id_ in list(self.waiting):
            self._give_up(id_)

    def offsets_waiting(self) -> Iterable[int]:
        """Return the offsets of the samples that wait."""
        return (sample.offset for sample in self.waiting.values())

    def _add(self, settled: Settled) -> None:
        self.settled.append(settled)
        self.ready += settled.records

    def _settle(self, sample: Sample, y: Tensor, target_offset: int) -> None:
        self._add(Settled(sample.offset, sample, y, target_offset))
        self._know(sample.id, "had one before")

    def _give_up(self, id_: bytes) -> None:
        sample = self.waiting.pop(id_)
        self._add(Settled(sample.offset, sample))
        self._know(id_, "was given up")

    def _know(self, id_: bytes, fate: str) -> None:
        self._known[id_] = fate
        if len(self._known) > self.capacity:
            self._known.popitem(last=False)
