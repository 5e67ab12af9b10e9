"""Memory that is used again from step to step: fresh memory costs as much as what is done with it."""

from __future__ import annotations

from typing import Any
from weakref import ref

import numpy as np
from numpy.typing import DTypeLike, NDArray


class LentArray:
    """Arrays of one type that are lent, and lent again once nobody refers to them any more.

    Whoever takes one in each step, and keeps that of the last step until then, alternates between two.

    Args:
        dtype: of the arrays.

    >>> lent = LentArray(np.int64)
    >>> first, second = lent.take(5), lent.take(5)
    >>> address, kept = first.ctypes.data, second[1:]
    >>> del first, second
    >>> lent.take(4).ctypes.data == address
    True
    """

    def __init__(self, dtype: DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._lent: list[tuple[NDArray[Any], ref[NDArray[Any]]]] = []

    def take(self, size: int) -> NDArray[Any]:
        """Return an array of ``size`` numbers, of any content."""
        # what is free but too small is given up
        free = [memory for memory, lent in self._lent if lent() is None and len(memory) >= size]
        memory = free[0] if free else np.empty(size, self._dtype)
        # all views of this one refer to it, and to nothing behind it, as it is not itself a view of an array
        whole: NDArray[Any] = np.asarray(memory.data)
        self._lent = [(other, lent) for other, lent in self._lent if lent() is not None]
        self._lent.append((memory, ref(whole)))
        return whole[:size]
