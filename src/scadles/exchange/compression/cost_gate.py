"""Compress only where it saves time."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

from scadles.errors import ConfigError

_REMEMBERED = 5
_LOOKS = 2


class Took(NamedTuple):
    """What a step of one kind took, in seconds.

    Attributes:
        transfer_s: the collectives alone, waiting for the last device not included.
        coding_s: selection, packing, adding up and decoding, waiting for nobody.
    """

    transfer_s: float
    coding_s: float

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.transfer_s + self.coding_s


def check_trials(margin: float, retry_steps: int, gain: str) -> None:
    """Refuse a margin and a rarity of trials that cannot be.

    Args:
        margin, retry_steps: as :class:`CostGate` has them.
        gain: what the margin is a share of, in words.

    Raises:
        ConfigError: one of them cannot be.
    """
    if not 0 <= margin < 1:
        raise ConfigError(f"margin = {margin:g}: the share {gain} at least, 0 to below 1")
    if retry_steps < 1:
        raise ConfigError(f"retry_steps = {retry_steps}: at least 1")


class CostGate:
    """Compress where that takes less time than sending the dense gradient, by what both have really taken.

    Latency, framing and coding are in what was measured, so that no model of the link is needed: the time of a kind of
    step is the median of its last five. Both kinds are looked at for two steps first, dense ones before; then the
    faster is taken. The other is looked at again from time to time, as seldom as it is slow, because what was slow once
    need not be slow for ever. Compression starts where it saves at least ``margin`` and ends where it saves nothing, so
    that noise does not switch it. Where it would put no fewer bytes on the link it is never tried.

    Args:
        margin: 0 to 1.
        retry_steps: a look at the other kind takes one part in this of the time; at least 1.

    Attributes:
        reason: the last decision, without numbers.
        why: the last decision, with them.

    >>> gate = CostGate()
    >>> for _ in range(2):
    ...     gate.observe(compressed=False, transfer_s=3.0)
    ...     gate.observe(compressed=True, transfer_s=1.0, coding_s=0.5)
    >>> gate.decide(sparse_bytes=1e6, dense_bytes=3e6), gate.why
    (True, 'compressed is faster: 0.5 s of coding and 1 s for 1 MB against 3 s for 3 MB dense')
    """

    def __init__(self, margin: float = 0.1, retry_steps: int = 100) -> None:
        check_trials(margin, retry_steps, "of the dense step to save")
        self._margin = margin
        self._retry_steps = retry_steps
        self._dense: deque[Took] = deque(maxlen=_REMEMBERED)
        self._sparse: deque[Took] = deque(maxlen=_REMEMBERED)
        self._compressing = False
        self._run = 0
        self.reason = self.why = "nothing decided yet"

    def decide(self, sparse_bytes: float, dense_bytes: float) -> bool:
        """Return whether the next step sends compressed; ask once a step.

        Args:
            sparse_bytes: what compressed messages would put on this device's link.
            dense_bytes: what the dense all-reduce would.
        """
        if sparse_bytes >= dense_bytes:
            sizes = f"{_bytes(sparse_bytes)} against {_bytes(dense_bytes)} dense"
            return self._say("compressed is no smaller", sizes, compress=False)
        self._forget_what_is_old()
        if len(self._dense) < _LOOKS:
            return self._say("dense, to see what it takes", compress=False)
        if len(self._sparse) < _LOOKS:
            return self._say("compressed, to see what it takes", compress=True)
        dense, sparse = _typical(self._dense), _typical(self._sparse)
        limit_s = dense.seconds if self._compressing else (1 - self._margin) * dense.seconds
        compress = sparse.seconds < limit_s
        if compress != self._compressing:
            self._compressing, self._run = compress, 0
        self._run += 1
        coded = f"{sparse.coding_s:.3g} s of coding and {sparse.transfer_s:.3g} s for {_bytes(sparse_bytes)}"
        against = f"{coded} against {dense.seconds:.3g} s for {_bytes(dense_bytes)} dense"
        return self._say(f"{'compressed' if compress else 'dense'} is faster", against, compress=compress)

    def observe(self, *, compressed: bool, transfer_s: float, coding_s: float = 0.0) -> None:
        """Take note of what a step took.

        Devices decide alike only from numbers that are the same on all of them: the slowest device's coding, and the
        transfer of who was ready last, as they came with the messages.

        Args:
            compressed: which kind of step it was.
            transfer_s, coding_s: as in :class:`Took`; numbers that are none are passed over.
        """
        took = Took(transfer_s, coding_s)
        if math.isfinite(took.seconds) and took.seconds >= 0:
            (self._sparse if compressed else self._dense).append(took)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        kinds = {"dense": [list(took) for took in self._dense], "sparse": [list(took) for took in self._sparse]}
        return {**kinds, "compressing": self._compressing, "run": self._run}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for kind, name in ((self._dense, "dense"), (self._sparse, "sparse")):
            kind.clear()
            kind.extend(Took(*took) for took in state[name])
        self._compressing, self._run = state["compressing"], state["run"]

    def _forget_what_is_old(self) -> None:
        """Make room for a new look at the kind of step that is not taken, where that pays."""
        taken, other = (self._sparse, self._dense) if self._compressing else (self._dense, self._sparse)
        if len(taken) < _LOOKS or len(other) < _LOOKS:
            return
        dearer = _typical(other).seconds / max(_typical(taken).seconds, 1e-9)
        if self._run >= self._retry_steps * max(1.0, dearer) * _LOOKS:
            other.clear()
            self._run = 0

    def _say(self, reason: str, numbers: str = "", *, compress: bool) -> bool:
        self.reason = reason
        self.why = f"{reason}: {numbers}" if numbers else reason
        return compress


def _typical(kind: deque[Took]) -> Took:
    """Return the median, of an even number the lower one: the first step of a kind is often a slow one."""
    return sorted(kind, key=lambda took: took.seconds)[(len(kind) - 1) // 2]


def _bytes(count: float) -> str:
    return f"{count / 1e6:.3g} MB"
