"""What a run left behind: events, summary and configuration, read back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from scadles.clock import timestamp_number
from scadles.config.bounded_yaml import MOST_BYTES
from scadles.config.reading import read_yaml
from scadles.errors import ConfigError, DataError
from scadles.files import open_file, read_file
from scadles.observe.events import EVENTS, Evaluation, Event, Header, Resumed, Step, Thinned
from scadles.observe.gaps import read_lines, scan_events
from scadles.observe.summary import SUMMARY_FILE, Summary

CONFIG_FILE = "config.yaml"
_EVENTS_NAME = re.compile(r"events-(0|[1-9][0-9]{0,8})\.jsonl")

_MOST_SUMMARY_BYTES = 64_000_000
#: What a run counts or measures is far below this.
_MOST = 10.0**24
_WHOLE = 1.001

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
    try:
        checkpoints = (run_dir / "checkpoints" / f"device-{device}").glob("step-*.safetensors")
        if events_path(run_dir, device).exists() or any(checkpoints):
            way_on = ", or go on with it by --resume" if resumable else ""
            return f"{run_dir} holds a run already: choose another --out{way_on}"
        return f"{run_dir} is a file: choose another --out" if run_dir.is_file() else None
    except OSError as error:
        return f"{run_dir} cannot be a run folder: {error.strerror}; choose another --out"


def write_config(run_dir: Path, text: str, device: int = 0, file: str = CONFIG_FILE) -> None:
    """Make a run folder and write its configuration, which is there whole or as it was before, whatever happens.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    temporary = run_dir / f"{file}.{device}.tmp"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        temporary.write_text(text)
        temporary.replace(run_dir / file)
    except OSError as error:
        raise ConfigError(f"cannot write the run folder {run_dir}: {error.strerror}") from None


def read_events(path: Path) -> list[Event]:
    """Read one device's events.

    Left out are a torn last line (the device crashed while writing it), kinds and fields that this version does not
    know, and what a resumed run took back: a :class:`~scadles.observe.events.Resumed` of step k makes void whatever
    was written before it about later steps, and for k = 0 everything but the header.

    Raises:
        DataError: the file cannot be read, a line is not an event, or a step does not follow those before it; file and
            line are named.
    """
    kept: list[Event] = []
    last_step = 0
    try:
        with open_file(path) as file:
            for number, line in enumerate(read_lines(file), start=1):
                event = _parse(line, f"{path}, line {number}")
                if isinstance(event, Resumed):
                    until = event.step if event.away_since is None else event.away_since
                    kept, last_step = _not_void(kept, until), event.step
                elif isinstance(event, Thinned):
                    last_step = 0  # what stands before it, resumptions, was there before it
                elif isinstance(event, Step):
                    if event.step <= last_step:
                        raise DataError(f"{path}, line {number}: step {event.step} after step {last_step}")
                    last_step = event.step
                if event is not None:
                    kept.append(event)
    except OSError as error:
        raise DataError(f"cannot read events from {path}: {error.strerror or error}") from error
    return kept


def _not_void(events: Iterable[Event], resumed_step: int) -> list[Event]:
    if resumed_step:
        events = (event.up_to(resumed_step) if isinstance(event, Thinned) else event for event in events)
    return [event for event in events if isinstance(event, Header) or (0 < resumed_step >= event.step)]


def _parse(line: bytes, where: str) -> Event | None:
    try:
        fields: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    except RecursionError:
        raise DataError(f"{where}: too many levels, one in the other") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
        raise DataError(f'{where}: not an event, which is an object with "event": its kind')
    kind = fields.pop("event")
    if kind not in EVENTS:
        return None
    try:
        event = _adapter(kind).validate_python(fields)
    except ValidationError as error:
        raise DataError(f"{where}: bad {kind} event: {_first_problem(error)}") from None
    # a loss or an error may be anything, and a run that diverges says so
    problem = _impossible(
        {name: value for name, value in vars(event).items() if name not in ("loss", "metrics", "own")}
    )
    if problem:
        raise DataError(f"{where}: bad {kind} event: {problem}")
    return event


@cache
def _adapter(kind: str) -> TypeAdapter[Event]:
    return TypeAdapter(EVENTS[kind])


def _impossible(value: Any, name: str = "") -> str:
    """Return what number in some fields no run can have come to; empty where there is none."""
    parts: Iterable[tuple[Any, Any]]
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        number = isinstance(value, int | float)
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name}: {value} is no finite number"
        if number and not -_MOST <= value <= _MOST:
            return f"{name}: a number beyond {_MOST:g}"
        if number and name.endswith("accuracy") and not 0 <= value <= _WHOLE:
            return f"{name}: {value} is no share"
        least = name.rpartition(".")[2] in ("step", "time_s", "wall_s") or isinstance(value, int)
        return f"{name}: {value} is below 0" if number and least and value < 0 else ""
    return next(filter(None, (_impossible(part, f"{name}.{key}".lstrip(".")) for key, part in parts)), "")


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
        config_text: its ``config.yaml``; empty where there is none that can be read.
        config_problem: why there is none; empty where there is one.
        devices: the devices whose events are here, ascending; other files of that kind of name are left alone.

    Raises:
        DataError: there is no readable summary; events are read, and complained about, when they are asked for.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.summary = _read_summary(self.path)
        self.name = self.path.resolve().name
        self.config_text = self.config_problem = ""
        try:
            self.config_text = read_file(self.path / CONFIG_FILE, MOST_BYTES).decode()
        except UnicodeDecodeError:
            self.config_problem = "not UTF-8 text"
        except OSError as error:
            self.config_problem = error.strerror or str(error)
        names = (_EVENTS_NAME.fullmatch(file.name) for file in self.path.glob("events-*.jsonl") if file.is_file())
        numbers = sorted(int(name[1]) for name in names if name)
        self.devices = tuple(number for number in numbers if number < self.summary.devices)
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

    def thinned_to(self, devices: Iterable[int]) -> int:
        """Return up to which step not every step of these devices is kept any more; 0 where all are."""
        return max((told.step for device in devices for told in _only(self.events(device), Thinned)), default=0)

    def gaps(self) -> list[str]:
        """Return in words what is missing in the events of a real run; simulated devices may be away for steps.

        A device without events counts where its checkpoints are in this folder, or without a hub events of one after
        it: the folders of a run on several machines hold their own devices only.
        """
        if self.summary.clock != "wall":
            return []
        here = {device for device in range(self.summary.devices) if self._has_checkpoints(device)}
        here |= set(self.devices if self._has_hub() else range(max(self.devices, default=-1) + 1))
        scans = ((device, scan_events(events_path(self.path, device))) for device in sorted(here))
        steps, model_sha256 = self.summary.steps, self.summary.model_sha256
        return [gap for device, scan in scans for gap in scan.gaps(device, steps, model_sha256)]

    def _has_hub(self) -> bool:
        try:
            fabric = read_yaml(self.path / CONFIG_FILE).get("fabric")
        except ConfigError:
            return False
        return isinstance(fabric, dict) and fabric.get("backend") == "hub"

    def _has_checkpoints(self, device: int) -> bool:
        return (self.path / "checkpoints" / f"device-{device}").is_dir()

    def column(self, device: int, name: str) -> np.ndarray:
        """Return one field of all steps of a device, float64 ``[steps]``; NaN where a step has none.

        >>> RunFolder("runs/a").column(0, "wait_s")  # doctest: +SKIP
        array([0.98, 1.01, 0.99])
        """
        values = (getattr(step, name) for step in self.steps(device))
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def tests(self) -> tuple[np.ndarray, np.ndarray]:
        """Return stream seconds and the run's own metric of each test, float64 ``[tests]`` both.

        All devices test the same model together, so the first device that wrote tests down speaks for all.
        """
        tests = next(filter(None, (_only(self.events(device), Evaluation) for device in self.devices)), [])
        return np.array([t.time_s for t in tests], np.float64), np.array([t.value for t in tests], np.float64)


def _only(events: Iterable[Event], kind: type[E]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def _read_summary(path: Path) -> Summary:
    file = path / SUMMARY_FILE
    try:
        summary = Summary.model_validate_json(read_file(file, _MOST_SUMMARY_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        if not path.exists():
            raise DataError(f"there is no {path}; name the folder of a run that has ended") from None
        raise DataError(
            f"{path} has no {SUMMARY_FILE}: it is not a run folder, or the run did not end; "
            f"go on with it by: scadles train {path / CONFIG_FILE} --local N --out {path} --resume"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    except ValidationError as error:
        raise DataError(f"{file} is not a run's summary: {_first_problem(error)}") from None
    problem = _impossible(summary.model_dump())
    if problem:
        raise DataError(f"{file} is not a run's summary: {problem}")
    return summary
