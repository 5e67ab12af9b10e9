"""What ratios are compared by where the window is chosen as well."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class AtBest(NamedTuple):
    """What comes of the best window for something.

    Attributes:
        progress: a second, in steps without noise.
        step_s: seconds from one step to the next.
        window_s: of stream, in seconds.
    """

    progress: float
    step_s: float
    window_s: float


class WindowChoice(Protocol):
    """Knows the best window for whatever an exchange takes."""

    def at_best(self, exchange_s: float, lag: float, elapsed_s: float) -> AtBest:
        """Return what comes of the best window.

        Args:
            exchange_s: seconds from when the last gradient is ready until all have taken the step.
            lag: how many steps learning is late, as in :func:`.lag_steps`.
            elapsed_s: since the run began; as long again, at least, it is expected to go on.
        """
