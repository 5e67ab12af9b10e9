"""The first examples of records that could not be trained on, kept for somebody to look at."""

from __future__ import annotations

import base64
import errno
import json
from pathlib import Path
from typing import Any

from scadles.files import open_private, read_file, refuse_pipe
from scadles.streams.rejections import short_reason

#: More bytes of one record are not kept.
EXAMPLE_BYTES = 65_536
_MEGABYTE = 1_000_000
_LONGEST_LINE = 4 * EXAMPLE_BYTES


def quarantine_path(run_dir: Path, device: int) -> Path:
    """Return where ``device`` keeps examples of what it rejected.

    >>> quarantine_path(Path("runs/a"), 3).name
    'quarantine-3.jsonl'
    """
    return run_dir / f"quarantine-{device}.jsonl"


def first_reason(path: Path) -> str:
    """Return why the first record in a quarantine was rejected; empty where that cannot be read."""
    try:
        refuse_pipe(path)
        with path.open("rb") as file:
            return short_reason(str(json.loads(file.readline(_LONGEST_LINE))["reason"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


class Quarantine:
    """A file of rejected records, one JSON object a line, which never grows beyond a size.

    An object has ``offset``, ``reason``, ``device`` and, where somebody still had them, ``key``, ``value`` (both in
    base64, at most 64 KiB of it) and ``bytes``, the value's real size. A record that is rejected once more after a
    resumption is not written twice. Examples are a convenience: a disk that is full ends no run.

    Args:
        path: the file; it is made for the first record, and one that is there is gone on with.
        megabytes: its size at most, in 10^6 bytes; 0 keeps nothing.
        device: whose stream this is.

    Attributes:
        missed: records that could not be written because of ``problem``; those beyond the size are not counted.
        problem: why; empty while all is well.
    """

    def __init__(self, path: Path, megabytes: float, device: int) -> None:
        self.missed = 0
        self.problem = ""
        self._path = path
        self._room = int(megabytes * _MEGABYTE)
        self._device = device
        self._known: set[int] | None = None

    def keep(self, offset: int, reason: str, value: bytes | None = None, key: bytes | None = None) -> None:
        """Keep a rejected record if there is room for it.

        Args:
            offset: in its stream.
            reason: why it is rejected.
            value: its bytes; None where nobody has them any more.
            key: of the message, if any.
        """
        if self._room <= 0:
            return
        if self._known is None:
            self._go_on()
        if offset in self._offsets or self._room <= 0:
            return
        line = self._line(offset, reason, value, key)
        if len(line) > self._room:
            self._room = 0  # the first ones are kept, and no smaller one after them
            return
        try:
            refuse_pipe(self._path)
            with open_private(self._path, "a") as file:
                file.write(line)
        except OSError as error:
            self.missed += 1
            self.problem = error.strerror or str(error)
            return
        self._room -= len(line)
        self._offsets.add(offset)

    @property
    def _offsets(self) -> set[int]:
        self._known = self._known if self._known is not None else set()
        return self._known

    def _go_on(self) -> None:
        """Take note of what an earlier attempt has written; a torn last line is ended."""
        offsets = self._offsets
        try:
            content = read_file(self._path, self._room)
            if content and not content.endswith(b"\n"):
                with open_private(self._path, "a") as file:
                    file.write(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno == errno.EFBIG:
                self._room = 0
            else:
                self.problem = error.strerror or str(error)
            return
        self._room -= len(content) + 1
        for line in content.splitlines():
            try:
                offsets.add(int(json.loads(line)["offset"]))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                continue

    def _line(self, offset: int, reason: str, value: bytes | None, key: bytes | None) -> bytes:
        fields: dict[str, Any] = {"offset": offset, "reason": short_reason(reason), "device": self._device}
        if key is not None:
            fields["key"] = base64.b64encode(key[:EXAMPLE_BYTES]).decode()
        if value is not None:
            fields |= {"value": base64.b64encode(value[:EXAMPLE_BYTES]).decode(), "bytes": len(value)}
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"
