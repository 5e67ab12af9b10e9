"""What one device shows on the terminal while a run goes on."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from scadles.clock import wall_seconds
from scadles.observe.console import human_count, human_seconds, metric_value, plain, plain_line
from scadles.observe.events import (
    Divergence,
    Evaluation,
    Event,
    Finished,
    Loss,
    Membership,
    NonFinite,
    Notice,
    RateChange,
    RatioChange,
    Rejection,
    Resumed,
    SetAside,
    Step,
    StrayTarget,
    WindowChange,
)
from scadles.observe.summary import why_ended

if TYPE_CHECKING:
    from typing_extensions import Self

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.-:=+*#"
_COST_SHARE = 0.003
_TREND = 24


class Progress:
    """Shows how a run is doing, on standard error: a panel on a terminal, now and then a line elsewhere.

    Drawing takes less than one percent of the time, however short a step is: the dearer the last drawing was, the
    later comes the next.

    Args:
        label: what runs, for the title.
        devices: how many devices take part.
        target: of the metric; None for none.
        steps: the run ends after so many steps; None for no such limit.
        duration_s: the run ends after so many stream seconds; None for no such limit.
        clock_speed: stream seconds per wall second; None where stream time does not follow the wall clock.
        quiet: show nothing but notices.
        console: where to show it; standard error by default.
        metric: what tests measure first.
        higher_is_better: which way of it is good.

    Attributes:
        every_s: wall seconds between two lines where there is no terminal.
        redraw_s: wall seconds between two drawings on a terminal, at least.
    """

    every_s: ClassVar[float] = 5.0
    redraw_s: ClassVar[float] = 0.2

    def __init__(
        self,
        label: str,
        devices: int,
        target: float | None,
        steps: int | None,
        duration_s: float | None,
        clock_speed: float | None,
        *,
        quiet: bool,
        console: Console | None = None,
        metric: str = "accuracy",
        higher_is_better: bool = True,
    ) -> None:
        self._title = plain_line(f"{label} · {devices} device{'s' if devices != 1 else ''}")
        self._target, self._steps, self._duration_s, self._speed = target, steps, duration_s, clock_speed
        self._console = console or Console(stderr=True)
        self._quiet = quiet
        self._live: Live | None = None
        self._now_s = self._started_s = wall_seconds()
        self._due_s = self._started_s
        self._first: tuple[float, Step] | None = None
        self._step: Step | None = None
        self._metric, self._higher_is_better = metric, higher_is_better
        self._tested_on: int | None = None
        self._strays = 0
        self._values: deque[float] = deque(maxlen=_TREND)
        self._best = math.nan
        self._waiting, self._ended = "", False
        self._devices, self._here = devices, ""
        self._window_s: float | None = None
        self._rejected = self._missing = self._non_finite = self._set_aside = self._went_back = 0

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_terminal:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                # Results may be piped elsewhere while the panel is on the terminal: leave those alone.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()
        elif not self._quiet:
            self._console.print(Text(self._title), soft_wrap=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            if self._step is not None:
                self._now_s = wall_seconds()
                self._show()
            self._live.stop()
            self._live = None

    def update(self, event: Event) -> None:
        """Take note of an event and show it when it is time to; a notice at once and however quiet this is."""
        if isinstance(event, Notice):
            self._console.print(Text.assemble(("warning: ", "bold yellow"), plain(event.message)), soft_wrap=True)
        if self._quiet:
            return
        urgent = False
        if isinstance(event, Step):
            self._step, self._waiting = event, ""
            self._first = self._first or (wall_seconds(), event)
        elif isinstance(event, WindowChange | RatioChange | RateChange):
            if isinstance(event, WindowChange):
                self._window_s = event.window_s
            self._console.print(plain(f"step {event.step}: {event.why}"), soft_wrap=True)
        elif isinstance(event, Membership):
            self._here = f"{len(event.names)} of {self._devices} here"
        elif isinstance(event, Evaluation):
            choose = max if self._higher_is_better else min
            self._best = event.value if math.isnan(self._best) else choose(self._best, event.value)
            self._values.append(event.value)
            self._tested_on = event.samples
        elif isinstance(event, Resumed):
            self._waiting = f"resumed at step {event.step}"
        elif isinstance(event, Finished):
            self._waiting, self._ended, urgent = plain_line(f"ended: {why_ended(event.reason, event.step)}"), True, True
        self._count(event)
        self._show_when_due(urgent=urgent and self._live is None)

    def _count(self, event: Event) -> None:
        """Count what goes wrong."""
        if isinstance(event, Rejection):
            self._rejected += event.count
        elif isinstance(event, Loss):
            self._missing += event.count
        elif isinstance(event, StrayTarget):
            self._strays += event.count
        elif isinstance(event, NonFinite):
            self._non_finite += 1
        elif isinstance(event, SetAside):
            self._set_aside += 1
        elif isinstance(event, Divergence):
            self._went_back += event.what == "back"

    def waiting(self, text: str) -> None:
        """Say what the device is waiting for, for example ``"gathering 31/64 samples, 3.1 s"``."""
        if not self._quiet:
            self._waiting = plain_line(text)
            self._show_when_due(urgent=False)

    def _show_when_due(self, *, urgent: bool) -> None:
        self._now_s = wall_seconds()
        if urgent or self._now_s >= self._due_s:
            self._show()
            cost_s = wall_seconds() - self._now_s
            pause_s = self.redraw_s if self._live is not None else self.every_s
            self._due_s = self._now_s + max(pause_s, cost_s / _COST_SHARE)

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(self._panel(), refresh=True)
        else:
            self._console.print(Text(self._line()), soft_wrap=True)

    def _panel(self) -> Panel:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="cyan", no_wrap=True)
        grid.add_column()
        for name, value in self._facts().items():
            grid.add_row(name, Text(value))
        if self._waiting:
            grid.add_row("now", Text(self._waiting, style="yellow"))
        return Panel(grid, title=Text(self._title, style="bold"), title_align="left", expand=False, border_style="dim")

    def _line(self) -> str:
        parts = [f"{name} {value}" for name, value in self._facts().items()]
        return " | ".join([*parts, self._waiting] if self._waiting else parts)

    def _facts(self) -> dict[str, str]:
        """Return what there is to say, most important first."""
        elapsed = human_seconds(self._now_s - self._started_s)
        step = self._step
        if step is None:
            return {"step": "0", **self._present(), "wall time": elapsed, **self._tested()}
        lag = "" if step.lag is None else f", {human_count(step.lag)} at the source"
        facts = {
            "step": human_count(step.step) + (f" of {human_count(self._steps)}" if self._steps else ""),
            **self._present(),
            "time": f"{self._stream_time(step)}, {elapsed} on the wall",
            "batch": f"{step.batch} of {human_count(step.total_batch)}, {step.rate_hz:.1f} samples/s{self._window()}",
            "slowest": f"device {step.slowest}, {human_seconds(step.slowest_s)} after the first",
            "buffer": f"{human_count(step.held)} held{lag}, {human_count(step.dropped)} dropped",
            "loss": "none" if step.loss is None else f"{step.loss:.4f}",
            "lr": f"{step.lr:.3g} (×{step.lr_scale:.2f})",
            **self._tested(),
            **self._trouble(),
        }
        left = self._left()
        return {**facts, "left": left} if left else facts

    def _window(self) -> str:
        """Return the window that was chosen, where one was."""
        return "" if self._window_s is None else f", window {self._window_s:.3g} s"

    def _stream_time(self, step: Step) -> str:
        limit = f" of {human_seconds(self._duration_s)}" if self._duration_s else ""
        speed = f" (×{self._speed:g})" if self._speed not in (None, 1.0) else ""
        return f"{human_seconds(step.time_s)}{limit} of stream{speed}"

    def _tested(self) -> dict[str, str]:
        if not self._values:
            return {}
        show = metric_value
        aim = f" of {show(self._metric, self._target)}" if self._target is not None else ""
        known = [value for value in self._values if math.isfinite(value)]
        trend = f" {sparkline(known, self._console.encoding)}" if self._live is not None and known else ""
        now, best = show(self._metric, self._values[-1]), show(self._metric, self._best)
        on = "" if self._tested_on is None else f", on {human_count(self._tested_on)} samples of the streams"
        return {self._metric: f"{now}{aim}, best {best}{on}{trend}"}

    def _present(self) -> dict[str, str]:
        """Return how many devices take part, where they come and go."""
        return {"devices": self._here} if self._here else {}

    def _trouble(self) -> dict[str, str]:
        found = {"rejected": self._rejected, "missing": self._missing, "stray targets": self._strays}
        found |= {"non-finite": self._non_finite, "set aside": self._set_aside, "went back": self._went_back}
        return {name: human_count(count) for name, count in found.items() if count}

    def _left(self) -> str:
        """Return the wall time to the run's limits; the target may end it sooner, nobody knows when."""
        if self._step is None or self._first is None or self._ended:
            return ""
        first_s, first = self._first
        wall_s = self._now_s - first_s
        done, passed_s = self._step.step - first.step, self._step.time_s - first.time_s
        limits = []
        if self._steps is not None and done > 0:
            limits.append((self._steps - self._step.step) * wall_s / done)
        speed = self._speed or (passed_s / wall_s if wall_s > 0 else 0.0)
        if self._duration_s is not None and speed > 0:
            limits.append((self._duration_s - self._step.time_s) / speed)
        if not limits:
            return "until the target" if self._target is not None and not (self._steps or self._duration_s) else ""
        return ("at most " if self._target is not None else "") + human_seconds(max(0.0, min(limits)))


def sparkline(values: Iterable[float], encoding: str = "utf-8") -> str:
    """Return values as a row of little bars, the lowest of them to the highest.

    >>> sparkline([0.1, 0.5, 0.9])
    '▁▅█'
    """
    shown = list(values)
    blocks = _BLOCKS if encoding.lower().startswith("utf") else _ASCII_BLOCKS
    low, span = min(shown), max(shown) - min(shown)
    return "".join(blocks[round((value - low) / span * 7) if span else 0] for value in shown)
