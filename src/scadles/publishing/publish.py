"""Publish a data set to the topics of live streams: the other end of a run that trains on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from scadles.clock import Clock, WallClock
from scadles.config import RunConfig
from scadles.observe.console import human_count, human_seconds
from scadles.publishing import Line, Pacer, PublishReport, TopicReport
from scadles.publishing.lines import addresses, build_lines
from scadles.streams.producing import Retention
from scadles.training.signals import StopRequest

_SAY_EVERY_S = 5.0


def publish(
    config: RunConfig,
    *,
    duration_s: float | None = None,
    records: int | None = None,
    delay_s: float | None = None,
    create: Retention | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> PublishReport:
    """Send to the topics of ``stream.url`` what replayed streams of the same configuration would bring, as it is due.

    Record k of a device is the k-th that a replayed device would get, at the time at which it would get it, so that
    ``stream.rates`` and ``stream.profile`` mean the same. Times are wall seconds from the start.

    Args:
        config: of the run that the records are for.
        duration_s: how long; None for no end but that of ``records``, a signal or :class:`KeyboardInterrupt`.
        records: how many for each topic; None for no end.
        delay_s: by how much later targets are sent at most, uniformly, where they come later (``stream.labels``).
        create: make the topics that are not there; None leaves that to somebody else.
        say: told a line of progress every 5 s.

    Raises:
        ConfigError: a setting cannot work, nobody answers within 15 s, or a topic is not there.
        SourceError: the server has gone for good.
    """
    clock = WallClock(running=False)
    with StopRequest() as stop, ExitStack() as stack:
        lines = build_lines(config, clock, records, delay_s)
        producers = list({id(line.producer): line.producer for line in lines}.values())
        for producer in producers:
            stack.callback(producer.close)
            producer.open(create)
        names = [_shown(address) for address in addresses(config)]
        say(f"publishing to {names[0]}" + (f" ... {names[-1]}" if len(names) > 1 else ""))
        pacer = Pacer(lines, producers, clock, lambda: stop.wanted, _Progress(lines, say))
        clock.start()
        pacer.run(math.inf if duration_s is None else duration_s)
        stopped = stop.wanted
        elapsed_s = _elapsed_s(lines, clock, None if stopped else duration_s)
        pacer.drain()
        topics = [TopicReport.of(name, line, elapsed_s) for name, line in zip(names, lines, strict=True)]
        return PublishReport(topics, elapsed_s, stopped)


class _Progress:
    """Says now and then how far publishing is."""

    def __init__(self, lines: Sequence[Line], say: Callable[[str], None]) -> None:
        self._lines = lines
        self._say = say
        self._due_s = _SAY_EVERY_S

    def __call__(self, now_s: float) -> None:
        if now_s < self._due_s:
            return
        self._due_s = now_s + _SAY_EVERY_S
        due = sum(line.feed.due_by(now_s) for line in self._lines)
        counts = [line.producer.counts[line.topic] for line in self._lines]
        done = sum(counted.acknowledged for counted in counts)
        failed = sum(counted.failed for counted in counts)
        late = sum(line.late for line in self._lines)
        self._say(
            f"{human_seconds(now_s)} | {human_count(done)} of {human_count(due)} due records acknowledged, "
            f"{done / now_s:,.1f} of {due / now_s:,.1f} a second | "
            f"{human_count(late)} late, {human_count(failed)} failed"
        )


def _elapsed_s(lines: Sequence[Line], clock: Clock, duration_s: float | None) -> float:
    """Return for how long there was something to send, in seconds."""
    now_s = clock.now() if duration_s is None else duration_s
    return min(now_s, max(line.feed.last_due_s for line in lines))


def _shown(url: str) -> str:
    """Return an address without its parameters."""
    return url.partition("?")[0]
