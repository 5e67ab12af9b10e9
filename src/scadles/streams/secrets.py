"""Passwords and the like: settings say where they are, never what they are."""

from __future__ import annotations

import os
from pathlib import Path

from scadles.errors import ConfigError


def read_secret(name: str, place: str) -> str:
    """Return what lies at ``place``: ``env:NAME`` is an environment variable, ``file:PATH`` the first line of a file.

    Anything else is refused: settings are written into run folders and printed, so that a secret among them would be
    one no longer. No message tells the secret.

    Args:
        name: of the setting, for messages.
        place: what the setting says.

    Raises:
        ConfigError: another form, a variable that is not set, a file that cannot be read, or nothing in either.

    >>> os.environ["TOPSECRET"] = "open sesame"
    >>> read_secret("sasl.password", "env:TOPSECRET")
    'open sesame'
    """
    kind, _, where = place.partition(":")
    if kind == "env" and where:
        secret = os.environ.get(where, "")
        problem = f"the environment variable {where} is not set, or empty"
    elif kind == "file" and where:
        secret, problem = _first_line(where)
    else:
        secret, problem = "", "is written into run folders: give env:NAME or file:PATH instead of the secret itself"
    if not secret:
        raise ConfigError(f"{name}: {problem}")
    return secret


def _first_line(path: str) -> tuple[str, str]:
    """Return the first line of a file without its end, and what is wrong where there is none."""
    try:
        lines = Path(path).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return "", f"cannot read the file {path}: {getattr(error, 'strerror', None) or 'not text'}"
    return (lines[0] if lines else ""), f"the file {path} is empty"
