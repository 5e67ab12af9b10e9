"""The user's own parts of a run, named as ``MODULE:CALLABLE``."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from scadles.errors import ConfigError, ScadlesError, did_you_mean

_HERE = str(Path(__file__).parent)
_OTHERS = ("site-packages", "dist-packages", "/lib/python", _HERE)
_LONGEST = 300


def import_callable(setting: str, spec: str, built_in: Collection[str]) -> Callable[..., Any]:
    """Return what ``MODULE:CALLABLE`` names; the current folder is looked into as well.

    Args:
        setting: whose value ``spec`` is, for messages.
        spec: the module, a colon, and a name in it.
        built_in: what could have been named instead.

    Raises:
        ConfigError: no such form, a module that cannot be imported, whatever it raises, or something that cannot be
            called.

    >>> import_callable("model", "math:sqrt", ["mlp"])(9.0)
    3.0
    """
    module_name, _, name = spec.partition(":")
    if not (name.isidentifier() and all(part.isidentifier() for part in module_name.split("."))):
        hint = did_you_mean(spec, built_in).removesuffix("?")
        way_out = f"{hint}, or write your own" if hint else ": write your own"
        raise ConfigError(f"{setting} {spec!r}{way_out} as MODULE:CALLABLE")
    module = _module(f"{setting} {spec!r}", module_name)
    try:
        found = getattr(module, name)
    except AttributeError:
        raise ConfigError(f"{setting} {spec!r}: module {module_name!r} has no {name!r}") from None
    except Exception as error:
        raise ConfigError(f"{setting} {spec!r}: module {module_name!r} raised {blame(error)}") from error
    if not callable(found):
        raise ConfigError(f"{setting} {spec!r}: {name!r} is {type(found).__name__}, not something to call")
    return found  # type: ignore[no-any-return]


def call_with(setting: str, spec: str, make: Callable[..., Any], offered: Mapping[str, Any], way_out: str = "") -> Any:
    """Return what ``make`` returns, given what of ``offered`` it has parameters for.

    Args:
        setting: whose value ``spec`` is, for messages.
        spec: names ``make``.
        make: is called with keywords.
        offered: arguments by name.
        way_out: what else one can do where it needs more.

    Raises:
        ConfigError: it needs more than that, or raises.

    >>> call_with("model", "mine:net", lambda shape: shape, {"shape": (1, 8), "classes": 10})
    (1, 8)
    """
    wanted = _parameters(f"{setting} {spec!r}", make, offered, way_out)
    given = {name: value for name, value in offered.items() if name in wanted}
    try:
        return make(**given)
    except (ScadlesError, KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        made_of = " and ".join(f"{name} {value}" for name, value in given.items()) or "nothing"
        raise ConfigError(f"{setting} {spec!r} cannot be made of {made_of}: {blame(error)}") from error


def parameter_names(make: Callable[..., Any]) -> Collection[str]:
    """Return the names of what a callable takes; none where it is written in C and silent about it.

    >>> list(parameter_names(lambda start, device=0: None))
    ['start', 'device']
    """
    try:
        return inspect.signature(make).parameters
    except (ValueError, TypeError):
        return ()


def _parameters(what: str, make: Callable[..., Any], offered: Collection[str], way_out: str) -> Collection[str]:
    """Return the names of what ``make`` takes; refuse it where it needs more than is ``offered``."""
    try:
        parameters = inspect.signature(make).parameters
    except (ValueError, TypeError):  # written in C and silent about it
        return ()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind not in optional]
    missing = [name for name in needed if name not in offered]
    if missing:
        *first, last = offered or ("nothing",)
        raise ConfigError(
            f"{what} needs {', '.join(missing)}, which nobody gives it: only {', '.join(first)}{' and ' * bool(first)}"
            f"{last} {'are' if first else 'is'} offered; {way_out}write a function of these that makes it"
        )
    return parameters


def blame(error: BaseException, *, quote: bool = True) -> str:
    """Return what the user's own code raised, and the last line of it that had a part in it.

    Args:
        error: what was raised.
        quote: whether its text is told, which may hold what the code was given.

    >>> blame(KeyError("x")), blame(KeyError("x"), quote=False)
    ("KeyError: 'x'", 'KeyError')
    """
    said = (str(error).strip().splitlines() or [""])[0] if quote else ""
    place: tuple[str | None, int | None] = (None, None)
    if isinstance(error, SyntaxError):
        place = (error.filename, error.lineno)
        said = error.msg if quote else ""
    else:
        places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
        inner = [place for place in places if not place[0].startswith("<frozen ")]
        own = [place for place in inner if not any(part in place[0] for part in _OTHERS)]
        if own or (inner and quote):
            place = (own or inner)[-1]
    where = f" ({place[0]}, line {place[1]})" if place[0] and not place[0].startswith(_HERE) else ""
    short = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."
    return f"{type(error).__name__}{': ' if short else ''}{short}{where}"


def _module(what: str, name: str) -> ModuleType:
    with suppress(OSError):  # the current folder may be gone
        here = str(Path.cwd())
        if here not in sys.path:  # a console script does not look into the current folder by itself
            sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{what}: cannot import {name!r}: {error}; looked for in the current folder and among what is installed"
            ) from None
        raise ConfigError(f"{what}: cannot import {name!r}: {blame(error)}; correct it, or name another") from error
    except BaseException as error:
        raise ConfigError(f"{what}: cannot import {name!r}: {blame(error)}; correct it, or name another") from error
