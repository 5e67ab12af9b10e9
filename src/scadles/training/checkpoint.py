"""Checkpoints: everything a device needs to go on, in one file that is there whole or not at all.

Each device writes its own, because devices share no disk; all write at the same step. A run resumes from the newest
step that is whole on all of them, which is at most one checkpoint old where no file was harmed. A file says which run,
device and step it is of, and is refused anywhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from scadles.errors import CheckpointError, RunError
from scadles.files import FREE_SPACE, sync
from scadles.training.checkpoint_file import read_file, read_metadata, unreadable, write_file
from scadles.training.identity import RunIdentity

_NAME = re.compile(r"step-(\d{8,15})\.safetensors")
#: How many of a device's newest steps are looked at.
MOST_STEPS = 64
_MOST_DIGITS = 9


class Checkpoint(NamedTuple):
    """Tensors by name, and what else there is as JSON.

    Attributes:
        tensors, state: the content.
        model_sha256: the fingerprint of the common model; empty where the file does not say it.
        has_identity: whether the file says what it is and has a checksum; not so in the format before this one.
        step: the step after which it was written.
        devices: how many took part in that step; 0 where the file does not say it.
        dealt: to how many devices the data set was dealt when the run began; 0 where the file does not say it.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    model_sha256: str = ""
    has_identity: bool = True
    step: int = 0
    devices: int = 0
    dealt: int = 0


class CheckpointStore:
    """The checkpoints of one device: ``checkpoints/device-<i>/step-<k>.safetensors`` in the run folder.

    Args:
        run_dir: the run folder.
        device: its number.
        keep: how many of the newest to keep.
        identity: the run; files of others are refused. None takes those of any.

    Attributes:
        identity: the run that files are of.
        device: whose they are.
    """

    def __init__(self, run_dir: Path, device: int, keep: int, identity: RunIdentity | None = None) -> None:
        self.folder = run_dir / "checkpoints" / f"device-{device}"
        self.device = device
        self._keep = keep
        self.identity = identity or RunIdentity()
        self._has_written = False
        self._refused: set[int] = set()

    def steps(self) -> list[int]:
        """Return the steps there are checkpoints of, ascending; files of other names do not matter."""
        found = ((_NAME.fullmatch(path.name), path) for path in self.folder.glob("step-*"))
        steps = (int(name[1]) for name, path in found if name and path.is_file())
        return sorted(step for step in steps if self._path(step).is_file())

    def write(self, step: int, checkpoint: Checkpoint) -> None:
        """Write a checkpoint atomically: a crash leaves the ones before it, and this one whole or not at all.

        Raises:
            RunError: the disk is full or cannot be written to, and older checkpoints stay; or the folder has vanished.
        """
        target = self._path(step)
        temporary = target.with_suffix(".tmp")
        metadata = {
            "run": self.identity.run,
            "device": str(self.device),
            "devices": str(self.identity.devices),
            "dealt": str(self.identity.dealt or self.identity.devices),
            "step": str(step),
            "settings": json.dumps(self.identity.settings),
            "model_sha256": checkpoint.model_sha256,
            "state": json.dumps(checkpoint.state),
        }
        if self._has_written and not self.folder.is_dir():
            raise RunError(f"{self.folder} has vanished while the run was going on, and its checkpoints with it")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                _set_aside(target)
            write_file(temporary, checkpoint.tensors, metadata)
            temporary.replace(target)
            sync(self.folder)
        except (OSError, TypeError) as error:
            _remove([temporary])
            raise RunError(f"cannot write the checkpoint {target}: {error}; {FREE_SPACE}") from None
        self._has_written = True
        older = [found for found in self.steps() if found <= step]
        _remove(self._path(old) for old in older[: -self._keep])

    def read(self, step: int) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            CheckpointError: it is missing, torn, altered, of another run, device or step, or of a format that this
                version cannot read.
        """
        path = self._path(step)
        tensors, metadata = read_file(path)
        has_identity = "step" in metadata
        try:
            state = json.loads(metadata["state"])
            says = int(metadata["step"]) if has_identity else state["run"]["device"]["step"]
            devices = int(metadata.get("devices", 0))
            dealt = int(metadata.get("dealt", devices))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise unreadable(path, f"its state is not one ({error!r})") from None
        if says != step:
            raise CheckpointError(f"{path} is of step {says}, not of step {step}")
        if has_identity:
            self._check_identity(path, metadata)
        elif self.identity.run and step > self.identity.unchecked_to:
            raise CheckpointError(f"{path} does not say of which run it is, and all of this run's do")
        model_sha256 = metadata.get("model_sha256", "")
        return Checkpoint(tensors, state, model_sha256, has_identity, step, devices, dealt)

    def devices_of(self, step: int) -> int:
        """Return how many devices a checkpoint says took part in its step, unchecked; 0 where it does not say it."""
        said = read_metadata(self._path(step)).get("devices", "")
        return int(said) if said.isdecimal() and len(said) < _MOST_DIGITS else 0

    def refuse(self, step: int) -> None:
        """Take note that a checkpoint is not used though it is there: it is set aside where it is in the way."""
        self._refused.add(step)

    def run_of_newest(self) -> str:
        """Return the run that the newest checkpoints say they are of, unchecked; empty where none does."""
        runs = (read_metadata(self._path(step)).get("run", "") for step in reversed(self.steps()[-MOST_STEPS:]))
        return next(filter(None, runs), "")

    def discard_after(self, step: int) -> None:
        """Make room for what the resumed run will write anew: what is newer than ``step``, or was never finished.

        Files of this run are deleted; those that were refused are only renamed, because they may be missed elsewhere.
        """
        _remove(self.folder.glob("step-*.tmp"))
        newer = [found for found in self.steps() if found > step]
        for found in self._refused.intersection(newer):
            _set_aside(self._path(found))
        _remove(self._path(found) for found in newer)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"

    def _check_identity(self, path: Path, metadata: Mapping[str, str]) -> None:
        mine = self.identity
        run, device = metadata.get("run", ""), metadata.get("device", "")
        if mine.run and run != mine.run:
            raise CheckpointError(f"{path} is of another run ({run[:8] or 'unknown'}; this one is {mine.run[:8]})")
        if device != str(self.device):
            raise CheckpointError(f"{path} is device {device}'s, not device {self.device}'s")
        written = json.loads(metadata.get("settings", "{}"))
        if others := sorted(name for name in mine.settings if mine.settings[name] != written.get(name)):
            raise CheckpointError(f"{path} was written with another setting of {', '.join(others)}")


def checkpoint_files(run_dir: Path) -> list[Path]:
    """Return the checkpoints of all devices in a run's folder, the newest step first, and of that device 0's first."""
    found = ((_NAME.fullmatch(path.name), path) for path in run_dir.glob("checkpoints/device-*/step-*"))
    files = [(-int(name[1]), len(path.parent.name), path) for name, path in found if name and path.is_file()]
    return [path for _, _, path in sorted(files)]


def _remove(paths: Iterable[Path]) -> None:
    """Delete files, and nothing that is none."""
    for path in paths:
        try:
            if path.is_file():
                path.unlink()
        except OSError as error:
            raise RunError(f"cannot delete {path}: {error.strerror}") from None


def _set_aside(path: Path) -> None:
    """Rename a file or folder that is in the way."""
    try:
        number = next(n for n in range(1, 1000) if not path.with_suffix(f".refused-{n}").exists())
        path.rename(path.with_suffix(f".refused-{number}"))
    except (OSError, StopIteration) as error:
        raise RunError(f"cannot move {path} aside: {error}") from None
