"""What may change when a run is resumed, and what is said of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from scadles.config import RunConfig, load_config

# What a resumption may change without a word: when the run ends and is tested, how devices are connected, where the
# first values came from, which its checkpoints have instead, and how many devices there are, which these say too.
_FREE_ON_RESUME = {
    "steps",
    "duration_s",
    "target_accuracy",
    "target",
    "stop_at_target",
    "picture",
    "checkpoint",
    "evaluation",
    "events",
    "fabric",
    "clock",
    "cost",
    "simulation",
    "init_from",
    "devices",
}
# What it may change of how the run learns from then on, which its events say; the rest decides what has been learnt.
_SAID_ON_RESUME = {"lr", "batch", "compression"}
_FREE_PARTS = {"stream": {"max_rejected_share", "quarantine_mb"}}
_SAID_PARTS = {
    "stream": {"rates", "end"},
    "optimizer": {"lr", "momentum", "weight_decay", "clip_norm"},
    "aggregation": {"outliers", "max_weight"},
}
# the optimizer's own groups say it of these, also where it is not the built-in one
_SAID_BY_GROUPS = {"optimizer.lr", "optimizer.momentum", "optimizer.weight_decay"}


class Changes(NamedTuple):
    """What is not as it was.

    Attributes:
        problem: what must stay and has not; None where everything has.
        said: what has changed, in words.
        absent: whether there is no run at all in the folder, which a device that is new may find.
    """

    problem: str | None = None
    said: tuple[str, ...] = ()
    absent: bool = False


def look_for_changes(config_file: Path, settings: RunConfig) -> Changes:
    """Compare the settings of a run that is to be resumed with those of its last attempt."""
    try:
        if not config_file.exists():
            return Changes(f"{config_file.parent} holds no run to resume: start it without --resume", absent=True)
    except OSError as error:
        return Changes(f"{config_file.parent} cannot be a run folder: {error.strerror}; choose another --out")
    before, said = load_config(config_file), list[str]()
    for name in sorted(set(RunConfig.model_fields) - _FREE_ON_RESUME):
        old, new = getattr(before, name), getattr(settings, name)
        fewest = min(before.devices, settings.devices)
        if _fixed(name, old, fewest) != _fixed(name, new, fewest):
            return Changes(
                f"{name} was {old!r} and is now {new!r}: a resumed run must keep it (or start a new run with --out)"
            )
        changed = [path for path in _paths(name, old, new) if path not in _SAID_BY_GROUPS]
        said += [f"{path} was {_at(before, path)} and is now {_at(settings, path)}" for path in changed]
    if before.compression != settings.compression and before.compression.ratio is not None:
        said.append("what compression had kept back goes on where it fits, and is dropped where it does not")
    return Changes(None, tuple(said))


def hashes_of_kept(settings: RunConfig) -> dict[str, str]:
    """Return a hash of each setting that a resumption must keep and that is not the default."""
    kept = settings.model_dump(mode="json", exclude=_FREE_ON_RESUME | _SAID_ON_RESUME, exclude_defaults=True)
    for name in kept.keys() & (_FREE_PARTS.keys() | _SAID_PARTS.keys()):
        kept[name] = {part: value for part, value in kept[name].items() if part not in _free_parts(name)}
    if isinstance(settings.stream.profile, tuple):
        del kept["stream"]  # a list has as many entries as there are devices, which may be fewer or more
    return {name: _hash(value) for name, value in kept.items() if value != {}}


def hash_of_compression(settings: RunConfig) -> str:
    """Return a hash of how gradients are compressed: what that carries from step to step fits no other way."""
    return _hash(settings.compression.model_dump(mode="json"))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _free_parts(name: str) -> set[str]:
    return _FREE_PARTS.get(name, set()) | _SAID_PARTS.get(name, set())


def _fixed(name: str, value: Any, devices: int) -> Any:
    """Return of a setting, or section of them, what a resumption must keep for the first so many devices."""
    if name in _SAID_ON_RESUME:
        return None
    free = _free_parts(name)
    kept = value.model_dump(exclude=free) if free else value
    if name == "stream" and isinstance(value.profile, tuple):
        kept["profile"] = kept["profile"][:devices]
    return kept


def _paths(name: str, old: Any, new: Any) -> list[str]:
    """Return which settings of a section have changed of those that are said."""
    if name not in _SAID_ON_RESUME and name not in _SAID_PARTS:
        return []
    fields = _SAID_PARTS.get(name) or set(type(old).model_fields)
    return [f"{name}.{field}" for field in sorted(fields) if getattr(old, field) != getattr(new, field)]


def _at(settings: RunConfig, path: str) -> Any:
    section, field = path.split(".")
    return getattr(getattr(settings, section), field)
