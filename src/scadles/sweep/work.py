"""One run of a sweep, in a process of its own, and how processes on this machine share the work."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from scadles.errors import RunError, ScadlesError
from scadles.observe import Summary
from scadles.sweep.plan import Task


@dataclass(frozen=True)
class Failure:
    """Why there is no summary, and the exit code that goes with it."""

    problem: str
    exit_code: int


Outcome = Summary | Failure
Report = Callable[[Task, Outcome], None]


def make(task: Task) -> Outcome:
    """Make one run; its folder appears when it is whole."""
    from scadles.simulation import simulate  # the process that plans needs neither torch nor the simulator

    try:
        shutil.rmtree(task.workshop, ignore_errors=True)
        task.workshop.parent.mkdir(parents=True, exist_ok=True)
        summary = simulate(task.config, out=task.workshop, quiet=True)
        if summary.ended_by == "stopped":
            return Failure("stopped by a signal", 128 + signal.SIGTERM)
        task.run.folder.parent.mkdir(parents=True, exist_ok=True)
        task.workshop.rename(task.run.folder)
    except ScadlesError as error:
        return Failure(str(error), error.exit_code)
    except OSError as error:
        return Failure(f"cannot write {task.run.folder}: {error}", RunError.exit_code)
    return summary


def unforeseen(error: BaseException) -> Failure:
    """Return what is said of an error that nobody raised on purpose, of a user's model for example."""
    return Failure(f"{type(error).__name__}: {error}", ScadlesError.exit_code)


def in_processes(tasks: Sequence[Task], jobs: int, report: Report) -> None:
    """Make runs in ``jobs`` processes, and report each when it is there; an interrupt ends the processes.

    Each process has a pool of its own, so that of one that dies it is known which run it was at.
    """
    before = set(multiprocessing.active_children())
    free = [_pool() for _ in tasks[:jobs]]
    left = list(reversed(tasks))
    running: dict[Future[Outcome], tuple[Task, ProcessPoolExecutor]] = {}
    try:
        while left or running:
            while left and free:
                task, pool = left.pop(), free.pop()
                running[pool.submit(make, task)] = task, pool
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, pool = running.pop(future)
                free.append(_pool() if isinstance(future.exception(), BrokenProcessPool) else pool)
                report(task, _outcome(future))
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        raise
    finally:
        for pool in (*free, *(pool for _, pool in running.values())):
            pool.shutdown()


def _pool() -> ProcessPoolExecutor:
    """Return a pool of one process, forked by one that has imported the simulator once for all of them."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["scadles.simulation"])
    else:
        context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=_live_and_die_with_parent)


def _outcome(future: Future[Outcome]) -> Outcome:
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        problem = "its process ended before the run did, perhaps for want of memory (see --jobs)"
        return Failure(problem, ScadlesError.exit_code)
    return future.result() if error is None else unforeseen(error)


def _live_and_die_with_parent() -> None:
    """Leave Ctrl-C to the parent, and end when the parent does, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
