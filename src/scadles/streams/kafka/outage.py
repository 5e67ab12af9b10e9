"""One clear line when the brokers are away, one when they are back, and an error when they stay away."""

from __future__ import annotations

from collections.abc import Callable

from scadles.errors import SourceError


class Outage:
    """Keeps count of how long nobody answers.

    Args:
        stream: its name, for messages.
        patience_s: wall seconds after which an outage ends the run.
        say: told the two lines.

    >>> outage = Outage("kafka://host/topic", patience_s=60.0, say=print)
    >>> outage.unanswered(100.0, "connection refused")
    kafka://host/topic: no answer (connection refused); asking again for up to 60 s
    >>> outage.unanswered(161.0, "connection refused")
    Traceback (most recent call last):
    scadles.errors.SourceError: kafka://host/topic: no answer for 61 s, 2 times asked (connection refused); the last ...
    """

    def __init__(self, stream: str, patience_s: float, say: Callable[[str], object]) -> None:
        self._stream = stream
        self._patience_s = patience_s
        self._say = say
        self._since_s: float | None = None
        self._asked = 0

    @property
    def going_on(self) -> bool:
        """Whether nobody has answered the last question."""
        return self._since_s is not None

    def unanswered(self, now_s: float, said: str) -> None:
        """Take note that a question was not answered.

        Raises:
            SourceError: this has gone on for too long.
        """
        self._asked += 1
        if self._since_s is None:
            self._since_s = now_s
            self._say(f"{self._stream}: no answer ({said}); asking again for up to {self._patience_s:g} s")
        elif now_s - self._since_s > self._patience_s:
            raise SourceError(
                f"{self._stream}: no answer for {now_s - self._since_s:.0f} s, {self._asked} times asked ({said}); the "
                "last checkpoint is intact: bring the brokers back and resume the run"
            )

    def answered(self, now_s: float) -> None:
        """Take note that a question was answered."""
        if self._since_s is not None:
            self._say(f"{self._stream}: answers again after {now_s - self._since_s:.0f} s")
        self._since_s, self._asked = None, 0
