"""What a run left behind: events, summary and configuration, read back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from scadles.clock import timestamp_number
from scadles.errors import ConfigError, DataError
from scadles.observe.events import EVENTS, Evaluation, Event, Header, Resumed, Step
from scadles.observe.summary import SUMMARY_FILE, Summary

CONFIG_FILE = "config.yaml"

E = TypeVar("E", bound=Event)


def new_run_folder(method: str, stamp: int) -> Path:
    """Return where a run goes that was given no folder.

    >>> new_run_folder("ddl", 20260131120000).name
    'ddl-20260131120000'
    """
    return Path("runs") / f"{method}-{stamp}"


def default_folder(method: str) -> Path:
    """Return where a run goes that starts now and was given no folder."""
    return new_run_folder(method, timestamp_number())


def events_path(run_dir: Path, device: int) -> Path:
    """Return where ``device`` writes its events.

    >>> events_path(Path("runs/a"), 3).name
    'events-3.jsonl'
    """
    return run_dir / f"events-{device}.jsonl"


def occupied(run_dir: Path, device: int, *, resumable: bool) -> str | None:
    """Return why a new run of ``device`` cannot go into a folder, and the ways out; None where it can."""
    if events_path(run_dir, device).exists():
        way_on = ", or go on with it by --resume" if resumable else ""
        return f"{run_dir} holds a run already: choose another --out{way_on}"
    return f"{run_dir} is a file: choose another --out" if run_dir.is_file() else None


def write_config(run_dir: Path, text: str, device: int = 0) -> None:
    """Make a run folder and write its configuration, which is there whole or as it was before, whatever happens.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    temporary = run_dir / f"{CONFIG_FILE}.{device}.tmp"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(run_dir / CONFIG_FILE)
    except OSError as error:
        raise ConfigError(f"cannot write the run folder {run_dir}: {error.strerror}") from None


def read_events(path: Path) -> list[Event]:
    """Read one device's events.

    Left out are a torn last line (the device crashed while writing it), kinds and fields that this version does not
    know, and what a resumed run took back: a :class:`~scadles.observe.events.Resumed` of step k makes void whatever
    was written before it about later steps, and for k = 0 everything but the header.

    Raises:
        DataError: the file cannot be read, or a line is not an event; file and line are named.
    """
    kept: list[Event] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                event = _parse(line, f"{path}, line {number}")
                if isinstance(event, Resumed):
                    kept = _not_void(kept, event.step)
                if event is not None:
                    kept.append(event)
    except OSError as error:
        raise DataError(f"cannot read events from {path}: {error.strerror or error}") from error
    return kept


def _not_void(events: Iterable[Event], resumed_step: int) -> list[Event]:
    return [event for event in events if isinstance(event, Header) or (0 < resumed_step >= event.step)]


def _parse(line: bytes, where: str) -> Event | None:
    try:
        fields: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
        raise DataError(f'{where}: not an event, which is an object with "event": its kind')
    kind = fields.pop("event")
    if kind not in EVENTS:
        return None
    try:
        return _adapter(kind).validate_python(fields)
    except ValidationError as error:
        raise DataError(f"{where}: bad {kind} event: {_first_problem(error)}") from None


@cache
def _adapter(kind: str) -> TypeAdapter[Event]:
    return TypeAdapter(EVENTS[kind])


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'whole'}: {problem['msg']}"


class RunFolder:
    """A finished run, as its folder tells it.

    Args:
        path: the folder.

    Attributes:
        name: the folder's name.
        summary: what the run came to.
        config_text: its ``config.yaml``; empty where there is none.
        devices: the devices whose events are here, ascending.

    Raises:
        DataError: there is no readable summary; events are read, and complained about, when they are asked for.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.name = self.path.resolve().name
        self.summary = _read_summary(self.path)
        config = self.path / CONFIG_FILE
        self.config_text = config.read_text(errors="replace") if config.is_file() else ""
        found = (file.stem.removeprefix("events-") for file in self.path.glob("events-*.jsonl"))
        self.devices = tuple(sorted(int(number) for number in found if number.isdecimal()))
        self._events: dict[int, list[Event]] = {}

    def events(self, device: int) -> list[Event]:
        """Return all events of one device, in the order of writing.

        Raises:
            DataError: the device left no readable events here.
        """
        if device not in self._events:
            self._events[device] = read_events(events_path(self.path, device))
        return self._events[device]

    def steps(self, device: int) -> list[Step]:
        """Return one device's steps."""
        return _only(self.events(device), Step)

    def column(self, device: int, name: str) -> np.ndarray:
        """Return one field of all steps of a device, float64 ``[steps]``; NaN where a step has none.

        >>> RunFolder("runs/a").column(0, "wait_s")  # doctest: +SKIP
        array([0.98, 1.01, 0.99])
        """
        values = (getattr(step, name) for step in self.steps(device))
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def accuracy(self) -> tuple[np.ndarray, np.ndarray]:
        """Return stream seconds and accuracy of each test, float64 ``[tests]`` both.

        All devices test the same model together, so the first device that wrote tests down speaks for all.
        """
        tests = next(filter(None, (_only(self.events(device), Evaluation) for device in self.devices)), [])
        return np.array([t.time_s for t in tests], np.float64), np.array([t.accuracy for t in tests], np.float64)


def _only(events: Iterable[Event], kind: type[E]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def _read_summary(path: Path) -> Summary:
    file = path / SUMMARY_FILE
    try:
        return Summary.model_validate_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{path} has no {SUMMARY_FILE}: it is not a run folder, or the run did not end; "
            f"resume it with: scadles train --resume {path}"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    except ValidationError as error:
        raise DataError(f"{file} is not a run's summary: {_first_problem(error)}") from None
