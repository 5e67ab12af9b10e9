"""Reading a configuration: a file or mapping, ``--set`` over it, and errors that a user understands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from scadles.config.tree import ProfileConfig, RunConfig, merged, profile_settings
from scadles.errors import ConfigError, did_you_mean


def load_config(
    source: Path | str | Mapping[str, Any] | RunConfig | None = None, overrides: Iterable[str] = ()
) -> RunConfig:
    """Read a configuration.

    Args:
        source: a YAML file, a mapping, a ready configuration, or None for the defaults.
        overrides: ``key=value`` with dotted keys and YAML values, applied over ``source``.

    Raises:
        ConfigError: a missing file, bad YAML, an unknown key, a value of the wrong type or range.

    >>> load_config({"method": "ddl", "steps": 5}, ["batch.size=32"]).batch
    BatchConfig(rule='fixed', size=32, window_s=1.0, min=8, max=1024, max_wait_s=60.0)
    """
    if isinstance(source, RunConfig):
        tree: dict[str, Any] = source.model_dump(mode="json")
    elif isinstance(source, Mapping):
        tree = dict(source)
    else:
        tree = _read_yaml(Path(source)) if source is not None else {}
    for override in overrides:
        tree = merged(_spelled_out(tree), _parse_override(override))
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold settings (key: value), not {type(tree).__name__}")
    return tree


def _spelled_out(tree: dict[str, Any]) -> dict[str, Any]:
    """Return settings in which a profile's short name cannot be lost when one of its parts is overridden."""
    stream = tree.get("stream")
    if not isinstance(stream, Mapping) or not isinstance(stream.get("profile"), str):
        return tree
    return merged(tree, {"stream": {"profile": profile_settings(stream["profile"])}})


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {text!r}: write it as key=value, for example --set batch.size=32")
    try:
        tree: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        tree = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return dict(tree)


def _explain(error: ValidationError) -> str:
    """Turn pydantic's report into one line a setting: field, value, what is allowed."""
    lines: dict[str, str] = {}
    for problem in sorted(error.errors(), key=lambda problem: -len(problem["loc"])):
        loc = problem["loc"]
        unknown = problem["type"] == "extra_forbidden"
        # pydantic puts the tried member of a union into the path, which no user ever wrote
        kept = [p for p in loc if isinstance(p, int) or p in _FIELDS]
        parts = [str(p) for p in (kept if not unknown or loc[-1] in _FIELDS else [*kept, loc[-1]])]
        field = ".".join(parts)
        if any(f"{known}.".startswith(f"{field}.") for known in lines if field):
            continue
        message = str(problem["msg"]).removeprefix("Value error, ")
        if unknown:
            lines[field] = f"{field}: unknown setting{_suggestion(parts)}"
        elif problem["type"] == "value_error":
            lines[field] = f"{field}: {message}" if field else message
        else:
            lines[field] = f"{field} = {problem['input']!r}: {message[0].lower()}{message[1:]}"
    return "\n".join(lines.values())


def _field_names(section: type[BaseModel]) -> set[str]:
    names = set(section.model_fields)
    for known in section.model_fields.values():
        if isinstance(known.annotation, type) and issubclass(known.annotation, BaseModel):
            names |= _field_names(known.annotation)
    return names


_FIELDS = _field_names(RunConfig) | set(ProfileConfig.model_fields)


def _suggestion(parts: list[str]) -> str:
    """Name the settings that exist where an unknown one was given."""
    section: type[BaseModel] = RunConfig
    for part in parts[:-1]:
        inner = section.model_fields[part].annotation if part in section.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return ""
        section = inner
    return did_you_mean(parts[-1], section.model_fields)
