"""Long vectors in blocks that fit the cache, on as many threads as torch may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

BLOCK = 1 << 17
# fewer are done before a thread has started
_ITEMS_FOR_A_THREAD = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


def slices(n: int, block: int = BLOCK) -> list[slice]:
    """Return consecutive slices of at most ``block`` that cover ``n`` entries.

    >>> slices(5, block=2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + block, n)) for start in range(0, n, block)]


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return ``work`` of each item, in order, on as many threads as torch may use.

    Numpy lets go of the interpreter while it works on a block, so that threads share the cores. One numpy operation
    alone uses one core, and torch joins its threads after each operation, which costs more than a block does.
    """
    workers = min(len(items) // _ITEMS_FOR_A_THREAD, torch.get_num_threads())
    if workers < 2:
        return [work(item) for item in items]
    results: dict[int, Result] = {}
    # taking the next number is atomic: whoever is free goes on, so that a thread that was held up delays one item only
    numbers = count()

    def run() -> None:
        while (number := next(numbers)) < len(items):
            results[number] = work(items[number])

    with ThreadPoolExecutor(workers - 1) as pool:
        others = [pool.submit(run) for _ in range(workers - 1)]
        run()
        for other in others:
            other.result()
    return [results[number] for number in range(len(items))]


def one_of_each(stretches: int, n: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return ascending positions, one drawn from each of ``stretches`` equal stretches of a ring of ``n`` entries.

    Every entry is as likely as any other, nothing of size ``n`` is needed, and no stride meets a period of the vector.

    >>> one_of_each(3, 3, np.random.default_rng(0)).tolist()
    [0, 1, 2]
    """
    bounds = np.arange(stretches + 1, dtype=np.int64) * n // stretches
    positions = bounds[:-1] + (generator.random(stretches) * np.diff(bounds)).astype(np.int64)
    # stretches differ by an entry where they do not divide n: where they begin is drawn as well
    positions += generator.integers(n)
    wrapped = int(np.searchsorted(positions, n))
    return np.concatenate([positions[wrapped:] - n, positions[:wrapped]])
