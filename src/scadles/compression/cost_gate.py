"""Compress only where it saves time."""

from __future__ import annotations

import math

from scadles.errors import ConfigError


class CostGate:
    """Compress where selection, coding and transfer together take less time than the transfer of the dense gradient.

    Compression starts where it saves at least ``margin`` of the dense transfer and ends where it saves nothing, so that
    noise between the two does not switch it. What coding takes is known only from steps that compressed, once it has
    been observed: compression is tried as soon as the bandwidth is known, and again after ``retry_steps`` dense ones,
    until then. Where compression would put no fewer bytes on the link it is never tried.

    Args:
        bandwidth_bps: bits per second of this device's link; None measures it.
        margin: 0 to 1.
        smoothing: weight of the newest measurement, above 0, at most 1.
        retry_steps: at least 1.

    Attributes:
        why: the last decision in words.

    >>> gate = CostGate(bandwidth_bps=8e6)
    >>> gate.observe(coding_s=0.5)
    >>> gate.decide(sparse_bytes=1e6, dense_bytes=3e6), gate.why
    (True, 'compressed: 0.5 s of coding and 1 s for 1 MB against 3 s for 3 MB dense at 8 Mbit/s')
    """

    def __init__(
        self,
        bandwidth_bps: float | None = None,
        margin: float = 0.1,
        smoothing: float = 0.2,
        retry_steps: int = 100,
    ) -> None:
        _check(bandwidth_bps, margin, smoothing, retry_steps)
        self._fixed = bandwidth_bps is not None
        self._s_per_byte = 8 / bandwidth_bps if bandwidth_bps is not None else None
        self._margin = margin
        self._smoothing = smoothing
        self._retry_steps = retry_steps
        self._coding_s: float | None = None
        self._compressing = False
        self._dense_run = 0
        self.why = "nothing decided yet"

    def decide(self, sparse_bytes: float, dense_bytes: float) -> bool:
        """Return whether the next step sends compressed; ask once a step.

        Args:
            sparse_bytes: what the best collective for compressed messages would put on this device's link.
            dense_bytes: what the dense all-reduce would.
        """
        self._compressing, self.why = self._weigh(sparse_bytes, dense_bytes)
        self._dense_run = 0 if self._compressing else self._dense_run + 1
        return self._compressing

    def observe(
        self, *, coding_s: float | None = None, transfer_s: float | None = None, transfer_bytes: float | None = None
    ) -> None:
        """Close a step with what was measured, None where nothing was.

        Devices decide alike only from numbers that are the same on all of them: the slowest device's coding, and the
        transfer as device 0 or the slowest link saw it, as they came with the messages.

        Args:
            coding_s: selection, packing, adding up and decoding of a compressed step, waiting for nobody.
            transfer_s: of the collectives alone, waiting for the last device not included.
            transfer_bytes: what it put on this device's link.
        """
        if coding_s is not None and math.isfinite(coding_s):
            self._coding_s = self._smoothed(self._coding_s, coding_s)
        if self._fixed or transfer_s is None or transfer_bytes is None:
            return
        if 0 < transfer_s < math.inf and transfer_bytes > 0:
            self._s_per_byte = self._smoothed(self._s_per_byte, transfer_s / transfer_bytes)

    @property
    def bandwidth_bps(self) -> float | None:
        """Bits per second, as configured or measured; None while neither."""
        return None if self._s_per_byte is None else 8 / self._s_per_byte

    def state(self) -> dict[str, float]:
        """Return what a checkpoint must hold."""
        known = {"coding_s": self._coding_s, "s_per_byte": self._s_per_byte}
        counts = {"compressing": float(self._compressing), "dense_run": float(self._dense_run)}
        return counts | {name: value for name, value in known.items() if value is not None}

    def load(self, state: dict[str, float]) -> None:
        """Go on from a state; a configured bandwidth stays as it is configured."""
        self._coding_s = state.get("coding_s")
        if not self._fixed:
            self._s_per_byte = state.get("s_per_byte")
        self._compressing, self._dense_run = bool(state["compressing"]), int(state["dense_run"])

    def _weigh(self, sparse_bytes: float, dense_bytes: float) -> tuple[bool, str]:
        if sparse_bytes >= dense_bytes:
            sizes = f"{_bytes(sparse_bytes)} compressed are no fewer than {_bytes(dense_bytes)}"
            return False, f"dense: {sizes}"
        if self._s_per_byte is None:
            return False, "dense: the bandwidth is not known yet"
        if self._coding_s is None or self._dense_run >= self._retry_steps:
            # a slow moment must not count for ever
            self._coding_s = None
            return True, "compressed: to learn what coding takes"
        transfer_s, dense_s = sparse_bytes * self._s_per_byte, dense_bytes * self._s_per_byte
        limit_s = dense_s if self._compressing else (1 - self._margin) * dense_s
        compress = self._coding_s + transfer_s < limit_s
        sparse = f"{self._coding_s:.3g} s of coding and {transfer_s:.3g} s for {_bytes(sparse_bytes)}"
        dense = f"{dense_s:.3g} s for {_bytes(dense_bytes)} dense at {8e-6 / self._s_per_byte:.3g} Mbit/s"
        return compress, f"{'compressed' if compress else 'dense'}: {sparse} against {dense}"

    def _smoothed(self, before: float | None, now: float) -> float:
        return now if before is None else self._smoothing * now + (1 - self._smoothing) * before


def _bytes(count: float) -> str:
    return f"{count / 1e6:.3g} MB"


def _check(bandwidth_bps: float | None, margin: float, smoothing: float, retry_steps: int) -> None:
    if bandwidth_bps is not None and not (math.isfinite(bandwidth_bps) and bandwidth_bps > 0):
        raise ConfigError(f"bandwidth_bps = {bandwidth_bps:g}: above 0, in bits per second; leave it out to measure it")
    if not 0 <= margin < 1:
        raise ConfigError(f"margin = {margin:g}: the share of the dense transfer to save at least, 0 to below 1")
    if not 0 < smoothing <= 1:
        raise ConfigError(f"smoothing = {smoothing:g}: above 0 and at most 1")
    if retry_steps < 1:
        raise ConfigError(f"retry_steps = {retry_steps}: at least 1")
