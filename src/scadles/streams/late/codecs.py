"""Messages of samples without targets, and of targets without samples."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scadles.errors import ConfigError
from scadles.importing import blame
from scadles.streams.codec.contract import Codec, Decoded
from scadles.streams.codec.json_text import target_as_json, target_from_json
from scadles.streams.codec.sample import UnreadableError, too_long
from scadles.streams.codec.target import stack_targets
from scadles.streams.late.ids import MOST_BYTES, as_rows
from scadles.targets import TargetType


def read_id(value: bytes | None, key: bytes | None) -> bytes:
    """Return the id in a message: its key, or where it has none the member ``id`` of an object in JSON.

    Raises:
        UnreadableError: there is none, or a longer one than 63 bytes.
    """
    if key is None:
        key = _member(value)
    if not 0 < len(key) <= MOST_BYTES:
        raise UnreadableError(f"an id of {len(key)} bytes, expected 1 to {MOST_BYTES}")
    return key


def _member(value: bytes | None) -> bytes:
    if value is not None and value[:1] == b"{":
        try:
            found = json.loads(value).get("id")
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, str | int) and not isinstance(found, bool):
            return str(found).encode(errors="replace")
    raise UnreadableError('no id: a message needs a key, or "id" in JSON')


class KeyedCodec(Codec):
    """Samples without targets: with each comes its id, uint8 ``[64]``, in place of one.

    Args:
        samples: reads the samples; its targets are none.
    """

    def __init__(self, samples: Codec) -> None:
        self._samples = samples

    def decode(self, values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> Decoded:
        decoded = self._samples.decode(values, keys)
        ids, known, rejected = list[bytes](), list[int](), list(decoded.rejected)
        for row, place in enumerate(decoded.kept.tolist()):
            try:
                ids.append(read_id(values[place], keys[place]))
                known.append(row)
            except UnreadableError as error:
                rejected.append((place, str(error)))
        return Decoded(decoded.x[known], as_rows(ids), decoded.kept[known], sorted(rejected))

    def encode(self, x: Tensor, y: int | Tensor) -> tuple[bytes | None, bytes]:
        """Return a message whose key is the number of the sample, ``y``."""
        _, value = self._samples.encode(x, torch.empty(0))
        return str(int(y)).encode(), value


class TargetCodec(Codec):
    """Targets in JSON: a number or nested lists, or an object with ``y`` and, where the message has no key, ``id``.

    Targets of several parts are an object of these by name in ``y``, or lists of them in order.

    Samples are ids, uint8 ``[64]``.

    Args:
        target: what a target is.
        max_bytes: longer messages are rejected unread.

    >>> codec = TargetCodec(TargetType.label(10), 100)
    >>> codec.decode([b"3", b'{"id": "b", "y": 4}', b"x"], [b"a", None, b"c"]).y.tolist()
    [3, 4]
    """

    def __init__(self, target: TargetType, max_bytes: int) -> None:
        self._target = target
        self._max_bytes = max_bytes

    def decode(self, values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> Decoded:
        ids, kept, rejected = list[bytes](), list[int](), list[tuple[int, str]]()
        found = list[int | Tensor]()
        for place, (value, key) in enumerate(zip(values, keys, strict=True)):
            reason = too_long(value, self._max_bytes)
            if value is None or reason is not None:
                rejected.append((place, str(reason)))
                continue
            try:
                y = self._read(value)
                ids.append(read_id(value, key))
            except UnreadableError as error:
                rejected.append((place, str(error)))
            except Exception as error:  # noqa: BLE001 - bad bytes must not end a run, whatever a parser raises
                rejected.append((place, f"cannot be read: {blame(error, quote=False)}"))
            else:
                found.append(y)
                kept.append(place)
        return Decoded(as_rows(ids), stack_targets(self._target, found), np.array(kept, dtype=np.int64), rejected)

    def encode(self, x: Tensor, y: int | Tensor) -> tuple[bytes | None, bytes]:
        """Return the message with the target ``y`` of sample number ``x``."""
        said = target_as_json(self._target, y)
        said = {"y": said} if isinstance(said, dict) else said
        return str(int(x)).encode(), json.dumps(said, separators=(",", ":")).encode()

    def _read(self, value: bytes) -> int | Tensor:
        try:
            said = json.loads(value)
        except ValueError:
            raise UnreadableError("no JSON") from None
        if isinstance(said, dict):
            if "y" not in said:
                raise UnreadableError('no object with "y"')
            said = said["y"]
        return target_from_json(self._target, said)


def check_has_targets(target: TargetType) -> None:
    """Refuse labels that come later where nobody asks for any.

    Raises:
        ConfigError: the task has no targets.
    """
    if target.is_none:
        raise ConfigError("stream.labels: the task has no targets that could come later; leave it out")
