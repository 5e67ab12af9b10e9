"""One checkpoint as a file: safetensors, with metadata that say what it is and a checksum over every byte.

The checksum is a CRC-32, which no change of up to four neighbouring bytes escapes, and which costs half of what a
cryptographic hash does. It lies in the metadata, eight digits wide, and is computed with these digits set to zero; so
it covers the length of the header, the header, its padding and all tensors, and the file is one that every reader of
safetensors can read.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scadles.errors import CheckpointError

FORMAT = 5
# of version 0: neither checksum nor identity
FORMAT_WITHOUT_CHECKSUM = 4
_CHECKSUM = "crc32"
_UNKNOWN = b"0" * 8
# text within the metadata has its quotes escaped, so nothing else looks like this
_FIELD = re.compile(rb'"crc32":"([0-9a-f]{8})"')
_BLOCK_BYTES = 1 << 20
# of larger files the checksum is computed while the disk is busy with them
_LARGE_BYTES = 4 << 20


def write_file(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file and bring it to the disk.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    save_file(tensors, path, {**metadata, "format": str(FORMAT), _CHECKSUM: _UNKNOWN.decode()})
    with ThreadPoolExecutor(1) as other:
        computing = other.submit(_compute, path)
        large = path.stat().st_size > _LARGE_BYTES
        if large:
            sync(path)
        checked = computing.result()
    if checked is None:
        raise SafetensorError("it came out without its checksum")
    with path.open("r+b") as file:
        file.seek(checked.place)
        file.write(checked.right)
    sync(path, content_only=large)


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a file all of whose bytes are as they were written.

    A file of the format before this one, which has no checksum, is read as it is.

    Raises:
        CheckpointError: it is missing, cut short, altered, or no checkpoint that this version can read.
    """
    try:
        checked = _compute(path)
        if checked is not None and checked.found != checked.right:
            raise CheckpointError(f"{path} is cut short or was altered: its checksum is that of other bytes")
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            known = str(FORMAT if checked is not None else FORMAT_WITHOUT_CHECKSUM)
            if (found := metadata.get("format")) != known:
                raise CheckpointError(_other_format(path, found, checked=checked is not None))
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise unreadable(path, error) from None


def read_metadata(path: Path) -> dict[str, str]:
    """Return what a file says of itself, unchecked; nothing where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def unreadable(path: Path, why: object) -> CheckpointError:
    """Return the error of a file that cannot be used at all."""
    return CheckpointError(f"{path} is no checkpoint that can be read: {why}")


def sync(path: Path, *, content_only: bool = False) -> None:
    """Make sure that what was written to a file or folder is on the disk.

    Args:
        path: the file or folder.
        content_only: its length is there already, so that its time of change may come later.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if content_only and hasattr(os, "fdatasync"):
            os.fdatasync(descriptor)
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Checked(NamedTuple):
    """Where in a file the checksum's digits lie, which digits these are, and which they should be."""

    place: int
    found: bytes
    right: bytes


def _compute(path: Path) -> _Checked | None:
    """Go over all bytes of a file; return None for one that holds no checksum."""
    with path.open("rb") as file:
        start = _to_end_of_header(file)
        fields = list(_FIELD.finditer(start))
        if not fields:
            return None
        place = fields[0].start(1)
        checksum = zlib.crc32(_UNKNOWN, zlib.crc32(start[:place]))
        checksum = zlib.crc32(start[place + len(_UNKNOWN) :], checksum)
        block = memoryview(bytearray(_BLOCK_BYTES))
        while count := file.readinto(block):
            checksum = zlib.crc32(block[:count], checksum)
    return _Checked(place, fields[0][1], f"{checksum:08x}".encode())


def _to_end_of_header(file: BufferedReader) -> bytes:
    start = file.read(8)
    length = int.from_bytes(start, "little")
    return start + file.read(length) if length <= os.fstat(file.fileno()).st_size else start


def _other_format(path: Path, found: str | None, *, checked: bool) -> str:
    if found == str(FORMAT) and not checked:
        return f"{path} was altered: it has lost its checksum"
    if found is None:
        return f"{path} is no checkpoint that can be read: it does not say its format"
    return f"{path} has format {found}, this version reads {FORMAT} and {FORMAT_WITHOUT_CHECKSUM}"
