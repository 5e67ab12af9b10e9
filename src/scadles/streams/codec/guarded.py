"""The user's own codec, held to what a codec promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scadles.errors import ConfigError, ScadlesError
from scadles.importing import blame
from scadles.layout import Layout
from scadles.streams.codec.contract import Codec, Decoded
from scadles.streams.codec.sample import SampleType, UnreadableError, convertible, short, too_long
from scadles.streams.codec.target import within
from scadles.structures import map_tensors
from scadles.targets import TargetType


class GuardedCodec(Codec):
    """A codec that somebody else wrote, whose mistakes cost messages and never the run.

    Messages are handed on together. Where that raises, or brings something else than :class:`Decoded` says, they are
    handed on one by one, and those with which it happens again are rejected, with the kind of error and the line that
    raised it as the reason.

    Args:
        inner: the codec.
        name: of it, for messages.
        sample: what each message must hold.
        max_bytes: longer values never reach the codec.
        target: what belongs to a sample.
    """

    __slots__ = ("_inner", "_max_bytes", "_name", "_sample", "_target")

    def __init__(self, inner: Codec, name: str, sample: SampleType, max_bytes: int, target: TargetType) -> None:
        self._inner = inner
        self._name = name
        self._sample = sample
        self._max_bytes = max_bytes
        self._target = target

    def decode(self, values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> Decoded:
        fitting = [i for i, value in enumerate(values) if value is None or len(value) <= self._max_bytes]
        if fitting:
            try:
                parts = [self._decoded(fitting, values, keys)]
            except Exception:  # noqa: BLE001 - a codec of the user's raises what it likes; which message it was is found
                parts = [self._decoded_alone(i, values, keys) for i in fitting]
            if len(fitting) == len(values) and len(parts) == 1:
                return parts[0]
        else:
            parts = []
        rejected = [found for part in parts for found in part.rejected]
        rejected += [(i, str(too_long(values[i], self._max_bytes))) for i in set(range(len(values))) - set(fitting)]
        return Decoded(
            torch.cat([self._sample.empty(), *(part.x for part in parts)]),
            torch.cat([self._no_targets(), *(part.y for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.kept for part in parts)]),
            sorted(rejected),
        )

    def encode(self, x: Tensor, y: int | Tensor) -> tuple[bytes | None, bytes]:
        try:
            layout = self._sample.layout
            sample = x if layout is None else map_tensors(lambda part: part[0], layout.unpack(x[None]))
            if self._target.parts and isinstance(y, Tensor):
                y = map_tensors(lambda part: part[0], self._target.unpack(y[None]))
            key, value = self._inner.encode(sample, y)
        except ScadlesError:
            raise
        except Exception as error:
            raise ConfigError(f"stream.codec.format = {self._name!r}: encode raised {_in_words(error)}") from error
        if not (isinstance(value, bytes) and isinstance(key, bytes | None)):
            raise ConfigError(
                f"stream.codec.format = {self._name!r}: encode returned {type(key).__name__} and "
                f"{type(value).__name__}, not a key (bytes or None) and a value (bytes)"
            )
        return key, value

    def _decoded_alone(self, i: int, values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> Decoded:
        try:
            return self._decoded([i], values, keys)
        except UnreadableError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - as above
            reason = f"cannot be read: {blame(error, quote=False)}"  # its text may hold the sender's bytes
        return Decoded(self._sample.empty(), self._no_targets(), np.empty(0, np.int64), [(i, reason)])

    def _decoded(self, places: list[int], values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> Decoded:
        """Return what the codec makes of the messages at ``places``, which is what it must be."""
        found: Any = self._inner.decode([values[i] for i in places], [keys[i] for i in places])
        if not (isinstance(found, tuple) and len(found) == len(Decoded._fields)):
            raise UnreadableError(f"{self._name} returned {type(found).__name__}, not what Decoded says")
        kept = np.asarray(found[2], dtype=np.int64)
        x = self._rows("samples", self._sample.layout, found[0])
        y = self._rows("targets", self._target.layout if self._target.parts else None, found[1])
        rejected = [(int(i), str(reason)) for i, reason in found[3]]
        if sorted([*kept.tolist(), *(i for i, _ in rejected)]) != list(range(len(places))) or (np.diff(kept) < 0).any():
            raise UnreadableError(f"{self._name} does not say of each message whether it is kept or rejected")
        expected = self._sample
        if tuple(x.shape) != (len(kept), *expected.shape):
            raise UnreadableError(
                f"shape {list(x.shape[1:])} of {len(x)}, expected {list(expected.shape)} of {len(kept)}"
            )
        if not convertible(x.dtype, expected.dtype):
            raise UnreadableError(f"dtype {short(x.dtype)}, expected {short(expected.dtype)}")
        y = self._checked(y, len(kept))
        where = np.array(places, dtype=np.int64)
        return Decoded(x.to(expected.dtype), y, where[kept], [(places[i], reason) for i, reason in rejected])

    def _rows(self, what: str, layout: Layout | None, found: Any) -> Tensor:
        """Return samples or targets as one tensor, rows of bytes where they have several parts."""
        if layout is None or isinstance(found, Tensor):
            return torch.as_tensor(found)
        try:
            return layout.pack(layout.structure([torch.as_tensor(x) for x in layout.values(found)]))
        except ValueError as error:
            raise UnreadableError(f"{self._name} returned {what} that cannot be: {error}") from None

    def _no_targets(self) -> Tensor:
        return torch.empty((0, *self._target.shape), dtype=self._target.dtype)

    def _checked(self, y: Tensor, count: int) -> Tensor:
        target = self._target
        if target.is_label and (tuple(y.shape) != (count,) or (len(y) and y.is_floating_point())):
            raise UnreadableError(f"{self._name} returned no integer label for each sample")
        if not count:
            return self._no_targets()
        if not target.is_label and (len(y) != count or target.misfit(tuple(y.shape[1:]), y.dtype)):
            raise UnreadableError(
                f"{self._name} returned targets {list(y.shape)} of dtype {short(y.dtype)} for {count} samples, "
                f"expected {target.describe()}"
            )
        return y.to(target.dtype) if target.is_label or not target.classes else within(target, y)


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
