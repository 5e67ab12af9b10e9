"""The user's own format, named as ``MODULE:CALLABLE``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from scadles.errors import ConfigError
from scadles.streams.codec.one_by_one import OneByOneCodec
from scadles.streams.codec.sample import SampleType, UnreadableError
from scadles.streams.codec.target import read_target
from scadles.targets import TargetType

Read = Callable[[bytes, bytes | None], tuple[Any, Any]]


class OwnCodec(OneByOneCodec):
    """Messages that a function of the user's reads: ``(value, key) -> (x, y)``, an array or tensor, and an integer or
    the target where that is no class label; of several parts dictionaries or tuples of such.

    Whatever it raises makes the message a rejected one, with the kind of error and the line as the reason. A
    function cannot write: for that, name a subclass of :class:`~scadles.streams.codec.Codec` instead.

    Args:
        read: the function.
        name: of it, for messages.
        sample: what each message must hold.
        max_bytes: longer values never reach the function.
        target: what belongs to a sample.
    """

    __slots__ = ("_name", "_own")

    def __init__(self, read: Read, name: str, sample: SampleType, max_bytes: int, target: TargetType) -> None:
        super().__init__(sample, max_bytes, target)
        self._own = read
        self._name = name

    def _read(self, value: bytes, key: bytes | None) -> tuple[Tensor, int | Tensor]:
        pair = self._own(value, key)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise UnreadableError(f"{self._name} returned {type(pair).__name__}, not a sample and its label")
        return self._sample.read(pair[0]), read_target(self._target, pair[1])

    def encode(self, x: Tensor, y: int | Tensor) -> tuple[bytes | None, bytes]:
        raise ConfigError(
            f"stream.codec.format = {self._name!r} is a function that reads; to publish, name a subclass of "
            "scadles.streams.Codec with encode and decode"
        )
