"""A limit of time for calls that have none, or do not keep to it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any

from scadles.clock import wall_seconds


def within(work: Callable[[], Any], limit_s: float) -> tuple[Any, float]:
    """Do ``work`` in a thread; return its result and how long it took, in wall seconds.

    Raises:
        TimeoutError: it was not done after ``limit_s``; the thread is left to itself.
        Exception: whatever ``work`` raised.
    """
    results: list[Any] = []
    errors: list[Exception] = []

    def target() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - handed to the caller, who asked for the work
            errors.append(error)

    started_s = wall_seconds()
    thread = Thread(target=target, daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {limit_s:g} s")
    return results[0], wall_seconds() - started_s
