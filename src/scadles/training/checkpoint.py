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

import torch
from torch import Tensor

from scadles.errors import CheckpointError, RunError
from scadles.fabric import Fabric
from scadles.files import sync
from scadles.training.checkpoint_file import read_file, read_metadata, unreadable, write_file
from scadles.training.identity import RunIdentity, gather_texts

_NAME = re.compile(r"step-(\d{8,15})\.safetensors")
_SHA256_BYTES = 32
# how many of a device's steps are looked at when devices agree on one
_MOST_STEPS = 64
_MOST_OF_A_REASON = 600


class Checkpoint(NamedTuple):
    """Tensors by name, and what else there is as JSON.

    Attributes:
        tensors, state: the content.
        model_sha256: the fingerprint of the common model; empty where the file does not say it.
        has_identity: whether the file says what it is and has a checksum; not so in the format before this one.
        step: the step after which it was written.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    model_sha256: str = ""
    has_identity: bool = True
    step: int = 0


class _Vote(NamedTuple):
    """What one device has to say of its checkpoint of a step; ``why`` is empty where it can be used."""

    why: str
    model_sha256: str
    has_identity: bool


class CheckpointStore:
    """The checkpoints of one device: ``checkpoints/device-<i>/step-<k>.safetensors`` in the run folder.

    Args:
        run_dir: the run folder.
        device: its number.
        keep: how many of the newest to keep.
        identity: the run; files of others are refused. None takes those of any.

    Attributes:
        identity: the run that files are of.
        notices: what a user should know of how the devices agreed on a checkpoint.
    """

    def __init__(self, run_dir: Path, device: int, keep: int, identity: RunIdentity | None = None) -> None:
        self.folder = run_dir / "checkpoints" / f"device-{device}"
        self.notices: list[str] = []
        self._device = device
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
            "device": str(self._device),
            "devices": str(self.identity.devices),
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
            raise RunError(f"cannot write the checkpoint {target}: {error}; free some space and use --resume") from None
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
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise unreadable(path, f"its state is not one ({error!r})") from None
        if says != step:
            raise CheckpointError(f"{path} is of step {says}, not of step {step}")
        if has_identity:
            self._check_identity(path, metadata)
        elif self.identity.run and step > self.identity.unchecked_to:
            raise CheckpointError(f"{path} does not say of which run it is, and all of this run's do")
        return Checkpoint(tensors, state, metadata.get("model_sha256", ""), has_identity, step)

    def newest_common(self, fabric: Fabric) -> Checkpoint | None:
        """Return the newest checkpoint that is whole on every device, the same step on all of them.

        None where the run was stopped before all devices had written their first. What was refused on the way is told
        in :attr:`notices`.

        Raises:
            CheckpointError: there are checkpoints, and no step is whole on all devices.
        """
        mine = self.steps()[-_MOST_STEPS:]
        length = int(fabric.gather(torch.tensor([len(mine)]), "agreeing on a checkpoint").max())
        padded = torch.tensor([-1] * (length - len(mine)) + mine, dtype=torch.int64)
        rows = fabric.gather(padded, "agreeing on a checkpoint").tolist() if length else [[]] * fabric.size
        refused: list[str] = []
        for step in sorted(set.intersection(*map(set, rows)) - {-1}, reverse=True):
            checkpoint, votes = self._vote(step, fabric)
            whys = _reasons(votes)
            if not whys:
                self._tell(step, votes, refused)
                return checkpoint
            if fabric.rank in whys:
                self._refused.add(step)
            refused += [f"device {device}: {why}" for device, why in whys.items()]
        if refused:
            raise CheckpointError(f"no step's checkpoints are whole on all devices: {'; '.join(refused)}")
        if any(step > 0 for row in rows for step in row):
            of_each = ", ".join(f"device {device} has {_listed(row)}" for device, row in enumerate(rows))
            raise CheckpointError(f"there is no step that all devices have a checkpoint of: {of_each}")
        return None

    def run_of_newest(self) -> str:
        """Return the run that the newest checkpoints say they are of, unchecked; empty where none does."""
        runs = (read_metadata(self._path(step)).get("run", "") for step in reversed(self.steps()[-_MOST_STEPS:]))
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
        if device != str(self._device):
            raise CheckpointError(f"{path} is device {device}'s, not device {self._device}'s")
        if mine.run and metadata.get("devices") != str(mine.devices):
            raise CheckpointError(f"{path} is of a run of {metadata.get('devices')} devices, not of {mine.devices}")
        written = json.loads(metadata.get("settings", "{}"))
        if others := sorted(name for name in mine.settings if mine.settings[name] != written.get(name)):
            raise CheckpointError(f"{path} was written with another setting of {', '.join(others)}")

    def _vote(self, step: int, fabric: Fabric) -> tuple[Checkpoint | None, list[_Vote]]:
        """Read one step on all devices, and return what each of them found."""
        checkpoint, mine = None, _Vote("", "", has_identity=False)
        try:
            checkpoint = self.read(step)
            mine = _Vote("", checkpoint.model_sha256, checkpoint.has_identity)
        except CheckpointError as error:
            mine = mine._replace(why=str(error)[:_MOST_OF_A_REASON])
        said = gather_texts(json.dumps(mine), fabric, f"reading the checkpoints of step {step}")
        return checkpoint, [_Vote(*json.loads(text)) for text in said]

    def _tell(self, step: int, votes: list[_Vote], refused: list[str]) -> None:
        """Note down what was refused before ``step`` was agreed on; device 0 speaks for all."""
        if self._device != 0:
            return
        if refused:
            self.notices.append(
                f"the run goes on from step {step}, because newer ones are refused: {'; '.join(refused)}"
            )
        if old := [device for device, vote in enumerate(votes) if not vote.has_identity]:
            self.notices.append(
                f"the checkpoints of step {step} on devices {old} are of an earlier version, which wrote neither run "
                "nor device nor a checksum: they are taken as they are"
            )


def _reasons(votes: list[_Vote]) -> dict[int, str]:
    """Return why a step cannot be used, by device: a file was refused, or the models are not the same one."""
    whys = {device: vote.why for device, vote in enumerate(votes) if vote.why}
    models = [vote.model_sha256 for vote in votes if vote.has_identity]
    if whys or len(set(models)) <= 1:
        return whys
    common = max(models, key=models.count)
    return {
        device: "its checkpoint holds another model than those of the others"
        for device, vote in enumerate(votes)
        if vote.has_identity and vote.model_sha256 != common
    }


def checkpoint_files(run_dir: Path) -> list[Path]:
    """Return the checkpoints of all devices in a run's folder, the newest step first, and of that device 0's first."""
    found = ((_NAME.fullmatch(path.name), path) for path in run_dir.glob("checkpoints/device-*/step-*"))
    files = [(-int(name[1]), len(path.parent.name), path) for name, path in found if name and path.is_file()]
    return [path for _, _, path in sorted(files)]


def _listed(steps: Iterable[int]) -> str:
    return ", ".join(str(step) for step in steps if step >= 0) or "none"


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
