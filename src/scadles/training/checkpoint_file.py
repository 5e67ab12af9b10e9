"""One checkpoint as a file: safetensors, with metadata that say what it is and a checksum over every byte.

The checksum is a CRC-32, which no change of up to four neighbouring bytes escapes, and which costs half of what a
cryptographic hash does. It lies in the metadata, eight digits wide, and is computed with these digits set to zero; so
it covers the length of the header, the header, its padding and all tensors, and the file is one that every reader of
safetensors can read.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scadles.errors import CheckpointError
from scadles.files import open_private

FORMAT = 5
# of version 0: neither checksum nor identity
FORMAT_WITHOUT_CHECKSUM = 4
_CHECKSUM = "crc32"
_UNKNOWN = b"0" * 8
# text within the metadata has its quotes escaped, so nothing else looks like this
_FIELD = re.compile(rb'"crc32":"([0-9a-f]{8})"')
_BLOCK_BYTES = 1 << 20
TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {name: dtype for dtype, name in TYPES.items()}


def write_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file that only its owner can read, and bring it to the disk.

    The checksum is computed while the system takes the content.

    Args:
        path: where.
        tensors: on the CPU, contiguous.
        metadata: what else there is.

    Raises:
        OSError, TypeError: it cannot be written.
    """
    parts = _laid_out(tensors, {_CHECKSUM: _UNKNOWN.decode(), "format": str(FORMAT), **metadata})
    with open_private(path, "w") as file, ThreadPoolExecutor(1) as other:
        computing = other.submit(_crc32, parts)
        for part in parts:
            file.write(part)
        file.seek(bytes(parts[0]).index(_UNKNOWN))
        file.write(f"{computing.result():08x}".encode())
        file.flush()
        os.fsync(file.fileno())


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


def _laid_out(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[memoryview]:
    """Return a file's bytes, header first, without copying tensors; save_file of safetensors copies each."""
    header: dict[str, Any] = {"__metadata__": metadata}
    parts, end = [], 0
    # aligned in memory as in the file
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        if tensor.dtype not in TYPES:
            raise TypeError(f"{name} has type {tensor.dtype}, which safetensors does not know")
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        if tensor.nbytes:
            parts.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [memoryview(len(text).to_bytes(8, "little") + text), *parts]


def _crc32(parts: Iterable[memoryview]) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum


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
