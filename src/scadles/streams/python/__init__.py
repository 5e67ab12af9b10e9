"""Python: whatever can be iterated over, as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from scadles.clock import Clock
from scadles.errors import ConfigError
from scadles.importing import import_callable, parameter_names
from scadles.layout import Layout
from scadles.streams.python.items import Reader
from scadles.streams.python.source import Origin, PythonSource
from scadles.streams.registry import SourceURL, register_source
from scadles.targets import TargetType

Stream = Iterable[Any] | Callable[..., Iterable[Any]]
GIVEN = "python://"
_START, _DEVICE = "start", "device"


@register_source("python")
def python_from_url(
    url: SourceURL,
    *,
    clock: Clock | None = None,
    target: TargetType | None = None,
    layout: Layout | None = None,
    given: Stream | None = None,
    device: int = 0,
    truncates: bool = False,
    capacity: int = 16_384,
    stop_at_end: bool = False,
    **_: Any,
) -> PythonSource:
    """Return the source of ``python://MODULE:CALLABLE?name=value``, nothing of which is called yet.

    The callable is given what it has parameters for: ``device`` (its number), ``start`` (the number of the record to
    begin with, from 0) and the address's own parameters, as text. It returns an iterable of (sample, target), of
    samples where the task reads no targets, or of :class:`~scadles.records.Records`. Only one with a parameter
    ``start`` can go back.

    Raises:
        ConfigError: no such callable, a parameter that it does not have, or no ``clock``.
    """
    if clock is None:
        raise ConfigError("python:// brings records as they come: give it clock=...")
    if given is None:
        origin = _named(url, device)
    elif url.netloc or url.path or url.query:
        raise ConfigError(f"python://{url.netloc}: the stream is given as an object already; leave the URL out")
    else:
        origin = origin_of(given, "the stream that was given", {_DEVICE: device})
    return PythonSource(
        *(origin, Reader(TargetType.label(2**31) if target is None else target, layout), clock),
        capacity=capacity,
        truncates=truncates,
        stop_at_end=stop_at_end,
    )


def origin_of(given: Stream, name: str, offered: Mapping[str, Any]) -> Origin:
    """Return where the records of an object come from: an iterable, or what returns one."""
    if isinstance(given, Iterable):
        return Origin(name, lambda: given, {})
    if not callable(given):
        raise ConfigError(f"{name} is {type(given).__name__}: nothing to iterate over, nor to call for something")
    return Origin(name, given, offered, goes_back=_START in parameter_names(given))


def _named(url: SourceURL, device: int) -> Origin:
    if ":" not in url.netloc or url.path:
        raise ConfigError(
            "python:// names what is to be iterated over: write python://MODULE:CALLABLE, or give "
            "scadles.join(..., stream=...) an iterable"
        )
    text = f"python://{url.netloc}"
    make = import_callable("stream.url python://", url.netloc, ())
    known = parameter_names(make)
    for name in url.query:
        if name not in known or name in (_START, _DEVICE):
            takes = ", ".join(sorted(set(known) - {_START, _DEVICE})) or "none"
            raise ConfigError(f"{text}: unknown parameter {name!r}; {url.netloc} takes {takes}")
    return origin_of(make, text, {_DEVICE: device, **url.query})
