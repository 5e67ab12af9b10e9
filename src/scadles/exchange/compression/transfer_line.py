"""What messages of any size take, told from those of a few sizes."""

from __future__ import annotations

from typing import NamedTuple


class Timed(NamedTuple):
    """What messages of one size took.

    Attributes:
        nbytes: on the link of a device.
        seconds: until all had been sent.
    """

    nbytes: float
    seconds: float


class TransferLine:
    """Seconds of a step's messages as ``latency_s + byte_s * bytes``, neither below 0.

    One size alone cannot tell latency from bandwidth: then the line is stretched to meet it, and what share of it is
    latency stays. At first all of it is taken for bandwidth.

    Attributes:
        latency_s: what a step's messages take however small they are.
        byte_s: what each byte takes beside.

    >>> line = TransferLine()
    >>> line.stretch(Timed(4e6, 2.0))
    >>> line.seconds(1e6)
    0.5
    >>> line.fit(Timed(4e6, 2.0), Timed(1e6, 1.1))
    >>> round(line.latency_s, 3), round(line.seconds(2e6), 3)
    (0.8, 1.4)
    """

    def __init__(self) -> None:
        self.latency_s = 0.0
        self.byte_s = 0.0

    def seconds(self, nbytes: float) -> float:
        """Return what messages of this size take."""
        return self.latency_s + self.byte_s * nbytes

    def stretch(self, measured: Timed) -> None:
        """Let the line meet what one size took."""
        before_s = self.seconds(measured.nbytes)
        if before_s > 0:
            factor = measured.seconds / before_s
            self.latency_s *= factor
            self.byte_s *= factor
        else:
            self.byte_s = measured.seconds / measured.nbytes

    def fit(self, first: Timed, second: Timed) -> None:
        """Lay the line through what two different sizes took, as nearly as latency and bandwidth can explain it."""
        small, large = sorted((first, second))
        slope = (large.seconds - small.seconds) / (large.nbytes - small.nbytes)
        self.byte_s = min(max(slope, 0.0), large.seconds / large.nbytes)
        self.latency_s = large.seconds - self.byte_s * large.nbytes if slope > 0 else small.seconds
