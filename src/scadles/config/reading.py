"""Files of settings, and what is wrong in them in words that a user understands."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from scadles.config.addresses import shown
from scadles.config.bounded_yaml import MOST_BYTES, TooMuchYAMLError, parse_yaml
from scadles.config.section import sections_in
from scadles.errors import ConfigError, did_you_mean
from scadles.files import read_file

_MOST_PROBLEMS = 20


def read_yaml(path: Path, what: str = "configuration") -> dict[str, Any]:
    """Return the settings in a YAML file.

    Raises:
        ConfigError: a file that is missing, not YAML, or holds something else than settings.
    """
    try:
        tree = parse_yaml(read_file(path, MOST_BYTES).decode())
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not YAML: not UTF-8 text (byte {error.start:,})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {_unquoted(error)}") from None
    except TooMuchYAMLError as error:
        raise ConfigError(f"{path}, line {error.line:,}: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold settings (key: value), not {type(tree).__name__}")
    return tree


def _unquoted(error: Exception) -> str:
    """Return what a reader of YAML says, without the lines of the file that it quotes: a secret may be among them."""
    for mark in (getattr(error, "context_mark", None), getattr(error, "problem_mark", None)):
        if mark is not None:
            mark.buffer = None
    return " ".join(str(error).split())


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Turn pydantic's report on the section ``root`` into one line a setting: field, value, what is allowed."""
    lines: dict[str, str] = {}
    known_fields = _field_names(root)
    for problem in sorted(error.errors(include_url=False, include_context=False), key=_telling):
        if len(lines) == _MOST_PROBLEMS:
            return "\n".join([*lines.values(), "and more of the kind"])
        loc = problem["loc"]
        unknown = problem["type"] == "extra_forbidden"
        # pydantic puts the tried member of a union into the path, which no user ever wrote
        kept = [p for p in loc if isinstance(p, int) or p in known_fields]
        parts = [str(p) for p in (kept if not unknown or loc[-1] in known_fields else [*kept, loc[-1]])]
        field = ".".join(parts)
        if any(f"{known}.".startswith(f"{field}.") for known in lines if field):
            continue
        message = str(problem["msg"]).removeprefix("Value error, ")
        if unknown:
            lines[field] = f"{field}: unknown setting{_suggestion(parts, root)}"
        elif problem["type"] == "value_error":
            lines[field] = f"{field}: {message}" if field else message
        else:
            lines[field] = f"{field} = {shown(problem['input'])}: {message[0].lower()}{message[1:]}"
    return "\n".join(lines.values())


def _telling(problem: Any) -> tuple[int, bool]:
    """Sort problems by how much they tell: deep ones first, and our own sentences before pydantic's at one depth."""
    return -len(problem["loc"]), problem["type"] != "value_error"


@cache
def _field_names(section: type[BaseModel]) -> frozenset[str]:
    inner = [_field_names(part) for field in section.model_fields.values() for part in sections_in(field.annotation)]
    return frozenset(section.model_fields).union(*inner)


def _suggestion(parts: list[str], root: type[BaseModel]) -> str:
    """Name the settings that exist where an unknown one was given."""
    section = root
    for part in parts[:-1]:
        if part.isdigit():
            continue
        inner = sections_in(section.model_fields[part].annotation) if part in section.model_fields else iter(())
        found = next(inner, None)
        if found is None:
            return ""
        section = found
    return did_you_mean(parts[-1], section.model_fields)
