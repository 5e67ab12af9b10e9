"""Positions as bytes: gaps between kept entries in Rice codes, whose width follows the density group by group.

A gap g, the number of entries left out before a kept one, is written as g >> w in unary and the lower w bits as they
are. With w = floor(log2(mean gap)) of its group of 256 entries this costs at most 1 + w + g / 2^w bits. Where positions
are random that is within 1.03 times their entropy (1.02 at a tenth kept, 1.01 at a hundredth); where they are clustered
it is less; and wherever they are, half of the entries or fewer never take more than 1.12 times the entropy of random
ones. Where more are kept w is 0, which is a bitmap.

Entries are coded in chunks that depend on nothing but where they start. A section holds the widths of all groups, a
directory of chunks, and the chunks. In a chunk groups are ordered by width, so that bit j of all groups wider than j
lies in one run: numpy packs whole runs, and no loop runs over entries.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from scadles.errors import RunError
from scadles.exchange.compression.blocks import in_threads, slices
from scadles.exchange.compression.header import WireError
from scadles.exchange.compression.values import GROUP

CHUNK = 1 << 16

Bytes = NDArray[np.uint8]
Indices = NDArray[np.int64]

_MAX_WIDTH = 31
# of a chunk: the distance from the last entry before it to its own last entry, and the bytes of its unary part
_DIRECTORY = np.dtype([("span", "<u4"), ("unary_bytes", "<u4")])
_DIRECTORY_BYTES = 8
# each run of a chunk ends in a byte begun
_ROUNDING_BYTES = _MAX_WIDTH + 1


def most_index_bytes(n: int, count: int) -> int:
    """Return what the positions of ``count`` of ``n`` entries take at most, wherever they are.

    The cost 1 + w + m / 2^w of a group with mean gap m is concave in m, so that no spread of gaps over groups costs
    more than the same gap everywhere.

    >>> round(most_index_bytes(60_000_000, 6_000_000) * 8 / 6_000_000, 2)
    5.16
    """
    if count == 0:
        return 0
    mean = (n - count) / count
    width = _width_of(mean)
    chunks = -(-count // CHUNK)
    bits = math.ceil(count * (1 + width + math.ldexp(mean, -width)))
    return -(-count // GROUP) + chunks * (_DIRECTORY_BYTES + _ROUNDING_BYTES) + bits // 8 + 1


def write_indices(indices: Indices, section: Bytes) -> int:
    """Write ascending indices at the front of a section that is long enough, and return the bytes used."""
    parts = slices(len(indices), CHUNK)
    widths = section[: -(-len(indices) // GROUP)]
    widths[:] = _best_widths(indices)
    bodies_at = len(widths) + len(parts) * _DIRECTORY_BYTES
    directory = np.empty(len(parts), _DIRECTORY)

    def write(number: int) -> list[Bytes]:
        part = parts[number]
        before = int(indices[part.start - 1]) if part.start else -1
        directory["span"][number] = indices[part.stop - 1] - before
        return _write_chunk(indices[part], before, widths[part.start // GROUP : -(-part.stop // GROUP)])

    at = bodies_at
    for number, runs in enumerate(in_threads(write, range(len(parts)))):
        directory["unary_bytes"][number] = len(runs[-1])
        for run in runs:
            section[at : at + len(run)] = run
            at += len(run)
    section[len(widths) : bodies_at] = directory.view(np.uint8)
    return at


class IndexReader:
    """Reads the chunks of a section of indices, in any order, after checking that their lengths make sense.

    Args:
        section: what :func:`write_indices` wrote.
        count: how many indices there are.
        n: the length of the vector, above every index.

    Attributes:
        parts: the entries of each chunk.

    Raises:
        WireError: lengths that do not fit the section.
    """

    def __init__(self, section: Bytes, count: int, n: int) -> None:
        self.parts = slices(count, CHUNK)
        groups = -(-count // GROUP)
        bodies_at = groups + len(self.parts) * _DIRECTORY_BYTES
        if len(section) < bodies_at:
            raise WireError(f"positions of {count} entries in {len(section)} bytes")
        self._widths = section[:groups]
        directory = section[groups:bodies_at].copy().view(_DIRECTORY)
        self._ends = np.cumsum(directory["span"], dtype=np.int64) - 1
        self._unary_bytes = directory["unary_bytes"].astype(np.int64)
        run_bytes = [_low_bytes(self._chunk_widths(part), part.stop - part.start) for part in self.parts]
        self._starts = bodies_at + np.concatenate([[0], np.cumsum(np.array(run_bytes) + self._unary_bytes)])
        last = int(self._ends[-1]) if count else -1
        # a chunk's unary part has one bit for each entry and less than two for its gaps
        unary_fits = all(
            8 * u <= 3 * (p.stop - p.start) + 8 for u, p in zip(self._unary_bytes, self.parts, strict=True)
        )
        if last >= n or int(self._starts[-1]) != len(section) or not unary_fits:
            raise WireError(f"positions of {count} entries whose lengths do not fit")
        self._section = section

    def read(self, number: int) -> Indices:
        """Return the indices of one chunk, int64, ascending and below ``n``.

        Raises:
            WireError: bytes that stand for no positions.
        """
        part = self.parts[number]
        start, end = int(self._starts[number]), int(self._starts[number + 1])
        unary_at = end - int(self._unary_bytes[number])
        widths = self._chunk_widths(part)
        low, unary = self._section[start:unary_at], self._section[unary_at:end]
        before = int(self._ends[number - 1]) if number else -1
        span = int(self._ends[number]) - before
        steps = _read_chunk(widths, low, unary, part.stop - part.start, span)
        indices = np.cumsum(steps, out=steps)
        indices += before
        if int(indices[-1]) != self._ends[number]:
            raise WireError("positions do not add up")
        return indices

    def _chunk_widths(self, part: slice) -> Bytes:
        widths = self._widths[part.start // GROUP : -(-part.stop // GROUP)]
        if widths.max() > _MAX_WIDTH:
            raise WireError(f"a width of {widths.max()} bits")
        return widths


def _width_of(mean_gap: float) -> int:
    return max(math.frexp(mean_gap)[1] - 1, 0)


def _best_widths(indices: Indices) -> Bytes:
    """Return the width of each group."""
    ends = indices[GROUP - 1 :: GROUP]
    sizes = np.full(-(-len(indices) // GROUP), GROUP)
    if len(ends) < len(sizes):
        ends, sizes[-1] = np.append(ends, indices[-1]), len(indices) - GROUP * len(ends)
    mean_gaps = np.diff(ends, prepend=-1) / sizes - 1
    widths: Bytes = np.maximum(np.frexp(mean_gaps)[1] - 1, 0).astype(np.uint8)
    return widths


def _write_chunk(indices: Indices, before: int, widths: Bytes) -> list[Bytes]:
    """Return the runs of a chunk, the unary one last."""
    count = len(indices)
    gaps = np.empty(len(widths) * GROUP, np.uint32)
    _write_gaps(indices, before, gaps[:count])
    gaps[count:] = 0
    order = _order(widths, count)
    rows = gaps.reshape(-1, GROUP)
    if order is not None:
        rows, widths = rows[order], widths[order]
    flat = rows.ravel()[:count]
    runs = []
    for bit, run in _runs(widths, count):
        if bit % 8 == 0:
            lower = (flat >> bit if bit else flat).astype(np.uint8)
        runs.append(np.packbits(lower[run] & np.uint8(1 << bit % 8)))
    if widths[0] == widths[-1] == widths.max():
        rows >>= np.uint32(widths[0])
    else:
        rows >>= widths.astype(np.uint32)[:, None]
    flat += 1
    # bit 0 is in front of the first entry's code
    ones = np.cumsum(flat, dtype=np.int64)
    unary = np.zeros(int(ones[-1]) + 1, bool)
    unary[ones] = True
    return [*runs, np.packbits(unary[1:])]


def _write_gaps(indices: Indices, before: int, gaps: NDArray[np.uint32]) -> None:
    """Write the number of entries left out before each."""
    # half as many bytes are twice as fast; no index that is allowed has a bit above
    narrow = indices.astype(np.int32)
    steps = gaps.view(np.int32)
    steps[0] = narrow[0] - before
    np.subtract(narrow[1:], narrow[:-1], out=steps[1:])
    if int(np.bitwise_or.reduce(indices)) >> 31 or int(steps.min()) < 1:
        raise RunError("positions of a sparse update must ascend, without one twice")
    steps -= 1


def _read_chunk(widths: Bytes, low: Bytes, unary: Bytes, count: int, span: int) -> Indices:
    """Return the steps from each entry to the next."""
    ones = np.flatnonzero(np.unpackbits(unary).view(bool))
    if len(ones) != count or int(ones[-1]) // 8 + 1 != len(unary):
        raise WireError(f"{len(ones)} positions where {count} were announced")
    steps = np.zeros(len(widths) * GROUP, np.int64)
    steps[0] = ones[0]
    np.subtract(ones[1:], ones[:-1] + 1, out=steps[1:count])
    order = _order(widths, count)
    ordered = widths if order is None else widths[order]
    rows = steps.reshape(-1, GROUP)
    rows <<= ordered[:, None].astype(np.int64)
    at = 0
    for bit, run in _runs(ordered, count):
        end = at + -(-(run.stop - run.start) // 8)
        bits = np.unpackbits(low[at:end], count=run.stop - run.start)
        if bit % 8 == 0:
            lower = np.zeros(count, np.uint8)
        lower[run] |= bits << np.uint8(bit % 8)
        if bit % 8 == 7 or bit == int(ordered.max()) - 1:
            steps[:count] |= lower.astype(np.int64) << (bit - bit % 8)
        at = end
    steps[:count] += 1
    # keeps the sum below 2^63 whatever the bytes say
    if int(steps[:count].max()) > span:
        raise WireError("a gap beyond the end of its chunk")
    if order is not None:
        restored = np.empty_like(rows)
        restored[order] = rows
        rows = restored
    return rows.ravel()[:count]


def _order(widths: Bytes, count: int) -> NDArray[np.intp] | None:
    """Return the groups of a chunk by width, one that is not full last; None where they are in order already."""
    full = widths[: count // GROUP]
    if len(full) < 2 or bool((full[:-1] <= full[1:]).all()):
        return None
    order = np.argsort(full, kind="stable")
    return order if len(full) == len(widths) else np.append(order, len(full))


def _runs(ordered: Bytes, count: int) -> list[tuple[int, slice]]:
    """Return each bit and the entries of the groups that are wide enough to have it."""
    full = ordered[: count // GROUP]
    rest = int(ordered[-1]) if len(full) < len(ordered) else 0
    starts = GROUP * np.searchsorted(full, np.arange(int(ordered.max())), side="right")
    end = GROUP * len(full)
    return [(bit, slice(int(start), count if rest > bit else end)) for bit, start in enumerate(starts)]


def _low_bytes(widths: Bytes, count: int) -> int:
    order = _order(widths, count)
    ordered = widths if order is None else widths[order]
    return sum(-(-(run.stop - run.start) // 8) for _, run in _runs(ordered, count))
