"""Everything ScaDLES raises on purpose.

ScadlesError                 exit code 1
├── ConfigError              what was asked for cannot be done           exit code 2
│   └── MissingExtraError    an optional dependency is not installed
├── DataError                a data set cannot be read or is unusable    exit code 2
├── CheckpointError          a checkpoint is missing, torn or foreign    exit code 2
├── SourceError              a stream broke while the run was going on
├── RunError                 the run cannot go on as it was set up
│   └── LeftError            this device has left a run that goes on without it
└── FabricError              the exchange between devices failed         exit code 3
    ├── PeerLostError        a device did not answer within the deadline
    ├── MembershipChangedError   devices came or went, where a run goes on with those that are there
    ├── NotAdmittedError     a device is not let into a run, or not any more
    ├── UntrustedError       one end does not let the other in, or does not trust it
    ├── DivergedError        devices no longer hold the same model
    └── WireError            a compressed message is torn, altered or foreign (scadles.compression)

A message names the field or device, the value, and the way out.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Sequence


class ScadlesError(Exception):
    """Base of every error that ScaDLES raises on purpose.

    Attributes:
        exit_code: what a command ends with.
        resumable: whether to resume the run is a way on.
    """

    exit_code = 1
    resumable = True


class ConfigError(ScadlesError):
    """A setting, or a combination of settings, that cannot work."""

    exit_code = 2


class MissingExtraError(ConfigError):
    """An optional dependency is needed and not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra '{extra}': pip install 'scadles[{extra}]'")
        self.extra = extra


class DataError(ScadlesError):
    """A data set that is missing, unreadable or too small."""

    exit_code = 2


class CheckpointError(ScadlesError):
    """A checkpoint that is missing, torn, or of another run."""

    exit_code = 2


class SourceError(ScadlesError):
    """A stream that broke while the run was going on."""


class RunError(ScadlesError):
    """A run that cannot go on as it was set up."""


class LeftError(RunError):
    """This device has left a run that goes on, or has ended, without it.

    Attributes:
        exit_code: that of the signal which told it, as a shell has it; 0 where the run has ended meanwhile.
    """

    def __init__(self, message: str, exit_code: int = 128 + signal.SIGTERM) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class FabricError(ScadlesError):
    """The exchange between devices failed."""

    exit_code = 3


class PeerLostError(FabricError):
    """One or more devices did not answer within the deadline.

    Attributes:
        devices: the devices that did not answer; empty when it is unknown which.
        phase: what was being exchanged, for example ``"gradients of step 12"``.
        detail: how it was noticed.
    """

    def __init__(self, devices: Sequence[int], phase: str, detail: str) -> None:
        who = ", ".join(f"device {d}" for d in devices) or "a device (unknown which)"
        super().__init__(f"lost {who} during {phase}: {detail}")
        self.devices = tuple(devices)
        self.phase = phase
        self.detail = detail


class MembershipChangedError(FabricError):
    """A device came or went, and a collective is void: all who are there do it again.

    Attributes:
        detached: whether it is this device that has been cut off from the others.
    """

    def __init__(self, message: str, *, detached: bool = False) -> None:
        super().__init__(message)
        self.detached = detached


class NotAdmittedError(FabricError):
    """A device is not let in (again): the run has ended without it, or it was told to stop while it waited."""


class UntrustedError(FabricError):
    """One end of a connection does not let the other in, or does not trust it: trying again would not help."""


class DivergedError(FabricError):
    """Devices that must hold the same model hold different ones.

    Attributes:
        resumable: False in a run that was resumed: it would only happen again.
    """

    def __init__(self, message: str, *, resumable: bool = True) -> None:
        super().__init__(message)
        self.resumable = resumable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the closest one there is, or all of them.

    >>> did_you_mean("sizes", ["rule", "size"])
    '; did you mean size?'
    >>> did_you_mean("x", ["rule", "size"])
    '; there are rule, size'
    """
    names = list(known)
    if not names:
        return ""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"
