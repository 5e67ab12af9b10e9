"""Compress by as much as buys most progress a second."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median_low
from typing import Any, NamedTuple

from scadles.exchange.compression.cost_gate import Took, check_trials
from scadles.exchange.compression.energy import KeptEnergy, lag_steps
from scadles.exchange.compression.transfer_line import Timed, TransferLine
from scadles.exchange.compression.window_choice import WindowChoice

#: What a step may send of a gradient; None is all of it.
RATIOS: tuple[float | None, ...] = (None, 0.1, 0.03, 0.01)

_FIRST = 1  # a tenth, which is taken before anything is known
_NEVER = -(10**9)
_SLOW = 4.0  # times what a step takes: what is slower is not tried at once
_FIRST_LOOK = 0.1  # of the time so far, by which trying a ratio for the first time may be longer
_REMEMBERED = 5
_LOOKS = 2
_RECENT = 20  # steps for which what a ratio took counts when it is taken again
_WAITED = 0.02  # of a step: what is less is no waiting
_LEAST_AHEAD = 100  # dense steps that a choice shall pay within


class Times(NamedTuple):
    """What all devices know when a step has ended, in seconds of one clock.

    Attributes:
        transfer_s, coding_s: of the step before, as in :class:`.Took`.
        ready_s: from the end of that step until the last device was ready in this one.
        compute_s: what of it was no waiting for samples, on the device where that took longest.
    """

    transfer_s: float
    coding_s: float
    ready_s: float
    compute_s: float


class RatioGate:
    """Choose what share of a gradient is sent by the progress that a second buys with it.

    A step with ratio r takes ``T(r) = max(W, C + X(r))``: samples are waited for until W, computing takes C, coding and
    messages X. What is sent later lets learning lag behind by :func:`.lag_steps` of the share of the squared norm that
    the largest entries hold. The best r has the most progress ``1 / T(r) - lag(r) / H`` a second, counted in dense
    steps, over a horizon H: as long again as the run has taken, and 100 dense steps at least. Where samples are waited
    for longer than the work takes there is nothing to gain, and all of the gradient is sent.

    Where windows are chosen as well, ratios are compared at the best window of each instead: :attr:`windows` says what
    comes of it.

    Times are those of the steps, of the median of the last five; those of a ratio that was not used lately lie on a
    line through what messages of other sizes took. Energies come from samples of the gradients. A tenth is sent at
    first, which is never slow. A smaller ratio is taken where it buys at least ``margin`` more, a larger one where it
    buys anything. What may buy as much as that for all that is known is tried for a few steps: where it was never
    tried and seems not to be slow, once that costs no more than a tenth of the time so far; later from time to time, as
    seldom as it is slow.

    Args:
        lag: as for :func:`.lag_steps`.
        window_s: how long samples are waited for, as far as that is known before it is seen.
        margin: 0 to 1.
        retry_steps: trying another ratio takes one part in this of the time; at least 1.

    Attributes:
        ratio: of the next step; None for all of the gradient.
        level: its place in :data:`RATIOS`.
        reason: why it is this one, without numbers.
        why: the same, with them.
        windows: what comes of the best windows, where these are chosen as well; None where the window is fixed, and at
            first.
        changes: another ratio and why it is taken, each time; to be told, and then taken out.
    """

    def __init__(self, lag: float, window_s: float = 0.0, margin: float = 0.03, retry_steps: int = 100) -> None:
        check_trials(margin, retry_steps, "of progress to gain")
        self._one_lag = lag
        self._margin = margin
        self._retry_steps = retry_steps
        self.changes: list[tuple[float | None, str]] = []
        self.windows: WindowChoice | None = None
        self.reason = self.why = f"{_name(_FIRST)}, to see what it takes"
        self.level = self._home = _FIRST
        self._elapsed_s = 0.0
        self._step = self._entered = self._last_look = 0
        self._before: int | None = None  # level of the step before the last
        self._took: list[deque[Took]] = [deque(maxlen=_REMEMBERED) for _ in RATIOS]
        self._seen = [_NEVER] * len(RATIOS)  # step at which each was measured last
        self._measured, self._fresh = _FIRST, 0  # level that is measured now, how often in a row
        self._anchor: Timed | None = None  # of the level that was measured before
        self._line = TransferLine()
        self._compute: deque[float] = deque(maxlen=_REMEMBERED)
        # seconds, and whether samples were waited for
        self._steps: deque[tuple[float, bool]] = deque(maxlen=_REMEMBERED)
        self._pace_s = window_s
        self._kept = KeptEnergy(len(RATIOS), _FIRST)

    @property
    def ratio(self) -> float | None:
        return RATIOS[self.level]

    @staticmethod
    def rated(step: int) -> float:
        """Return the ratio of which the energy is to be estimated in a step: each in turn."""
        return RATIOS[1 + step % (len(RATIOS) - 1)] or 1.0

    def observe(self, step: int, sizes: Sequence[float], times: Times | None, norm_sq: float, kept_sq: float) -> None:
        """Close a step, and decide about the next one; all numbers are the same on all devices.

        Args:
            step: of the run, as :meth:`rated` was asked.
            sizes: bytes that each of :data:`RATIOS` puts on a device's link.
            times: None where nothing is known yet; numbers that are none are passed over.
            norm_sq: squared norms of the devices' vectors, added up.
            kept_sq: of these, what the largest entries hold by :meth:`rated`.
        """
        self._step += 1
        if self.level == self._home:  # a few steps of another ratio change what is kept back, and tell of neither
            self._kept.observe(1 + step % (len(RATIOS) - 1), norm_sq, kept_sq)
        if times is not None and self._before is not None and all(math.isfinite(s) and s >= 0 for s in times):
            self._note_times(self._before, sizes, times)
        self._before = self.level
        self._decide(sizes)

    def seconds(self, level: int, sizes: Sequence[float]) -> float:
        """Return what a step takes or would take."""
        exchange_s = self._exchange(level, sizes).seconds
        if self.windows is not None:
            return self.windows.at_best(exchange_s, 0.0, self._elapsed_s).step_s
        return max(self._pace_s, median_low(self._compute) + exchange_s)

    def exchange_s(self, sizes: Sequence[float]) -> float | None:
        """Return what coding and messages of the ratio in use take; None as long as nobody knows."""
        return self._exchange(self._home, sizes).seconds if self._took[self._measured] else None

    def value(self, level: int, sizes: Sequence[float]) -> float:
        """Return the progress a second, in dense steps, or where windows are chosen as well in those without noise."""
        return self._progress(level, self._exchange(level, sizes).seconds, sizes)

    def _progress(self, level: int, exchange_s: float, sizes: Sequence[float]) -> float:
        if self.windows is not None:
            return self.windows.at_best(exchange_s, self._lag(level), self._elapsed_s).progress
        seconds = max(self._pace_s, median_low(self._compute) + exchange_s, 1e-9)
        horizon_s = max(self._elapsed_s, _LEAST_AHEAD * self.seconds(0, sizes), 1e-9)
        return max(1 - self._lag(level) * seconds / horizon_s, 0.0) / seconds

    def _lag(self, level: int) -> float:
        return lag_steps(self._kept.share(level), self._one_lag)

    def _exchange(self, level: int, sizes: Sequence[float]) -> Took:
        """Return what coding and messages take: as measured now, or as far as can be told from that."""
        if level == self._measured and self._took[level]:
            return _typical(self._took[level])
        nearest = sorted(range(1, len(RATIOS)), key=lambda other: abs(other - level)) if level else [0]
        coding_s = next((_typical(self._took[one]).coding_s for one in nearest if self._took[one]), 0.0)
        return Took(self._line.seconds(sizes[level]), coding_s)

    def _note_times(self, level: int, sizes: Sequence[float], times: Times) -> None:
        took = self._took[level]
        if level != self._measured:
            if self._took[self._measured]:
                self._anchor = Timed(sizes[self._measured], _typical(self._took[self._measured]).transfer_s)
            if self._step - self._seen[level] > _RECENT:
                took.clear()
            self._measured, self._fresh = level, 0
        self._fresh += 1
        self._seen[level] = self._step
        took.append(Took(times.transfer_s, times.coding_s))
        measured = Timed(sizes[level], _typical(took).transfer_s)
        if self._anchor is not None and self._fresh <= _REMEMBERED and self._anchor.nbytes != measured.nbytes:
            self._line.fit(self._anchor, measured)
        else:
            self._line.stretch(measured)
        self._compute.append(times.compute_s)
        step_s = times.ready_s + times.transfer_s + times.coding_s
        self._elapsed_s += step_s
        self._steps.append((step_s, times.ready_s - times.compute_s > _WAITED * step_s))
        typical_s = median_low(seconds for seconds, _ in self._steps)
        if 2 * sum(waited for _, waited in self._steps) > len(self._steps):
            self._pace_s = typical_s
        else:  # nobody waits for long: whatever is waited for comes sooner
            self._pace_s = min(self._pace_s, typical_s)

    def _decide(self, sizes: Sequence[float]) -> None:
        levels = [level for level, size in enumerate(sizes) if level == 0 or size < sizes[0]]
        if self._home not in levels:  # what compresses nothing is not looked at
            self._go(0)
            self.reason = self.why = "compressed is no smaller"
            return
        least = _LOOKS if self.level != self._home or not self._entered else _REMEMBERED
        if self._measured != self.level or self._fresh < least:
            return
        best = max(levels, key=lambda level: self.value(level, sizes))
        now = self.value(self._home, sizes)
        gain = self.value(best, sizes) / now if now > 0 else math.inf
        if best != self._home and gain > self._needed(best):
            before = self._home
            self._go(best)
            self._explain(levels, sizes)
            by = f", {gain:.2f} times the progress a second" if math.isfinite(gain) else ""
            said = f"compression {_name(before)} -> {_name(best)}{by}: {self.why}"
            self.changes.append((RATIOS[best], said))
        elif self.level != self._home:
            self.level = self._home
            self._explain(levels, sizes)
        else:
            self._explain(levels, sizes)
            self._look(levels, sizes)

    def _go(self, level: int) -> None:
        """Let a level be the one that is taken from now on."""
        self._kept.use(level)
        self.level = self._home = level
        self._entered = self._last_look = self._step

    def _needed(self, level: int) -> float:
        """Return how many times the progress of the present ratio another one must buy."""
        return 1 + self._margin if level > self._home else 1.0

    def _look(self, levels: Sequence[int], sizes: Sequence[float]) -> None:
        """Try another ratio where that is due, and may show that it buys more."""
        now = self.value(self._home, sizes)
        may = [one for one in levels if one != self._home and self._at_best(one, sizes) > self._needed(one) * now]
        if not may:
            return
        longest_ago = min(may, key=lambda level: (self._seen[level], abs(level - self._home)))
        now_s, then_s = self.seconds(self._home, sizes), self.seconds(longest_ago, sizes)
        dearer = then_s / max(now_s, 1e-9)
        cheap = dearer < _SLOW and _LOOKS * (then_s - now_s) <= _FIRST_LOOK * self._elapsed_s
        never = self._seen[longest_ago] == _NEVER and cheap
        if never or self._step - self._last_look >= self._retry_steps * max(1.0, dearer) * _LOOKS:
            self.level, self._last_look = longest_ago, self._step
            self.reason = self.why = f"{_name(longest_ago)}, to see what it takes"

    def _at_best(self, level: int, sizes: Sequence[float]) -> float:
        """Return the most progress a second that a ratio may buy: its messages may take nothing, larger ones as long as
        the present ones.
        """
        coding_s = self._exchange(level, sizes).coding_s
        transfer_s = self._exchange(self._home, sizes).transfer_s if level < self._home else 0.0
        return self._progress(level, coding_s + transfer_s, sizes)

    def _explain(self, levels: Sequence[int], sizes: Sequence[float]) -> None:
        self.reason = f"{_name(self._home)} buys most"
        each = [
            f"{self.value(one, sizes):.3g} ({_name(one)}: {self.seconds(one, sizes):.3g} s a step, "
            + (f"{lag:.0f} steps late)" if math.isfinite(lag := self._lag(one)) else "nobody knows yet how late)")
            for one in sorted(levels, key=lambda level: level != self._home)
        ]
        of_what = "dense" if self.windows is None else "noiseless"
        ways = " against ".join(each[:2]) + "".join(f", {way}" for way in each[2:])
        self.why = f"{self.reason}, in {of_what} steps a second: {ways}"

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, as JSON."""
        numbers = {name: getattr(self, f"_{name}") for name in _NUMBERS}
        lists = {name: list(getattr(self, f"_{name}")) for name in _LISTS}
        took = [[list(one) for one in each] for each in self._took]
        line = [self._line.latency_s, self._line.byte_s]
        anchor = None if self._anchor is None else list(self._anchor)
        said = {"level": self.level, "reason": self.reason, "why": self.why}
        kept = self._kept.state()
        return {**numbers, **lists, **said, "took": took, "line": line, "anchor": anchor, "kept": kept}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name in _NUMBERS:
            setattr(self, f"_{name}", state[name])
        self._kept.load(state["kept"])
        self.level, self.reason, self.why = state["level"], state["reason"], state["why"]
        self._seen = list(state["seen"])
        self._compute = deque(state["compute"], _REMEMBERED)
        self._steps = deque(((seconds, waited) for seconds, waited in state["steps"]), _REMEMBERED)
        for took, theirs in zip(self._took, state["took"], strict=True):
            took.clear()
            took.extend(Took(*one) for one in theirs)
        self._line.latency_s, self._line.byte_s = state["line"]
        self._anchor = None if state["anchor"] is None else Timed(*state["anchor"])


_NUMBERS = ("elapsed_s", "pace_s", "home", "step", "entered", "last_look", "before", "measured", "fresh")
_LISTS = ("seen", "compute", "steps")


def _name(level: int) -> str:
    ratio = RATIOS[level]
    return "none" if ratio is None else f"{ratio:g}"


def _typical(took: deque[Took]) -> Took:
    """Return the median, of an even number the lower one, as :class:`.CostGate` does."""
    return Took(median_low(one.transfer_s for one in took), median_low(one.coding_s for one in took))
