"""The user's own parts of a run, named as ``MODULE:CALLABLE``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from scadles.errors import ConfigError, did_you_mean


def import_callable(setting: str, spec: str, built_in: Collection[str]) -> Callable[..., Any]:
    """Return what ``MODULE:CALLABLE`` names; the current folder is looked into as well.

    Args:
        setting: whose value ``spec`` is, for messages.
        spec: the module, a colon, and a name in it.
        built_in: what could have been named instead.

    Raises:
        ConfigError: no such form, a module that cannot be imported, or something that cannot be called.

    >>> import_callable("model", "math:sqrt", ["mlp"])(9.0)
    3.0
    """
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"{setting} {spec!r}{did_you_mean(spec, built_in)}, or write your own as MODULE:CALLABLE")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not look into the current folder by itself
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise ConfigError(f"{setting} {spec!r}: cannot import {module_name!r}: {error}") from None
    except AttributeError:
        raise ConfigError(f"{setting} {spec!r}: module {module_name!r} has no {name!r}") from None
    if not callable(found):
        raise ConfigError(f"{setting} {spec!r}: {name!r} is {type(found).__name__}, not something to call")
    return found  # type: ignore[no-any-return]
