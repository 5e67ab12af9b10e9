"""N devices as processes on this machine, through torch's own elastic launcher."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scadles.errors import ConfigError, FabricError

_LAUNCHED = "SCADLES_LAUNCHED"
_QUIET_LOGGERS = ("torch.distributed.elastic", "torch.distributed.launcher")


class LaunchError(FabricError):
    """A device process ended with an error.

    Attributes:
        exit_code: what the command that started the devices should end with.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def launch_local(devices: int, arguments: Sequence[str], run_id: str) -> None:
    """Run ``python ARGUMENTS`` once for each device and wait for all of them.

    When one fails the others are asked to stop and ended after a while, so that none is left behind; so they are on
    SIGTERM and Ctrl-C, which all devices take as a wish to write a checkpoint and end.

    Args:
        devices: how many processes.
        arguments: of the Python interpreter.
        run_id: names the rendezvous.

    Raises:
        LaunchError: a device failed, or the run was stopped by a signal.
    """
    _prepare_environment(devices)
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _silence_torch()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=run_id,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        raise _explained(*error.get_first_failure()) from None
    except SignalException as stop:
        raise LaunchError(f"stopped by {stop.sigval.name}", 128 + stop.sigval) from None


def hand_over(error: Exception) -> bool:
    """In a process that :func:`launch_local` started: leave a user's mistake to the launcher, which tells it once.

    Returns:
        Whether this is such a process.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if _LAUNCHED not in os.environ or error_file is None:
        return False
    Path(error_file).write_text(json.dumps({"message": str(error), "timestamp": 0}))
    return True


def _explained(rank: int, failure: Any) -> LaunchError:
    code = int(failure.exitcode)
    if code < 0:
        return LaunchError(f"device {rank} was killed by {signal.Signals(-code).name}", FabricError.exit_code)
    if code == ConfigError.exit_code:
        return LaunchError(str(failure.message), code)
    if code == FabricError.exit_code:
        return LaunchError("a device was lost, as the others say above", code)
    return LaunchError(f"device {rank} ended with exit code {code}", code)


def _silence_torch() -> None:
    """Leave it to :class:`LaunchError` to say what happened; some of torch's loggers have levels of their own."""
    for name in [*_QUIET_LOGGERS, *logging.root.manager.loggerDict]:
        if name.startswith(_QUIET_LOGGERS):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _prepare_environment(devices: int) -> None:
    """Set what must be set before torch is imported, here and in the processes that inherit it."""
    if hasattr(os, "SCHED_BATCH"):
        # more processes than cores: fewer preemptions make small all-reduces several times faster
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.environ[_LAUNCHED] = "1"
    os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")  # else a slow name server delays every connection
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
