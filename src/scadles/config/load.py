"""Reading a configuration: a file or mapping, and ``--set`` over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from scadles.config.addresses import shown
from scadles.config.bounded_yaml import TooMuchYAMLError, parse_yaml
from scadles.config.reading import explain, read_yaml
from scadles.config.stream import profile_settings
from scadles.config.task import task_settings
from scadles.config.tree import RunConfig, merged
from scadles.errors import ConfigError

ConfigLike = RunConfig | Mapping[str, Any] | Path | str


def load_config(source: ConfigLike | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a configuration.

    Args:
        source: a YAML file, a mapping, a ready configuration, or None for the defaults.
        overrides: ``key=value`` with dotted keys and YAML values, applied over ``source``.

    Raises:
        ConfigError: a missing file, bad YAML, an unknown key, a value of the wrong type or range.

    >>> load_config({"method": "ddl", "steps": 5}, ["batch.size=32"]).batch
    BatchConfig(rule='fixed', size=32, window='fixed', window_s=1.0, step_cost_s=0.0, min=8, max=1024, max_wait_s=60.0)
    """
    try:
        return RunConfig.model_validate(overridden(settings_tree(source), overrides))
    except ValidationError as error:
        raise ConfigError(explain(error, RunConfig)) from None


def with_devices(config: RunConfig) -> RunConfig:
    """Return settings that say for how many devices they are: as many as there are where nobody has said so.

    >>> with_devices(load_config({"method": "auto", "steps": 5})).batch.window
    'fixed'
    """
    return config if "devices" in config.model_fields_set else load_config(config, [f"devices={config.devices}"])


def settings_tree(source: ConfigLike | None) -> dict[str, Any]:
    """Return settings as YAML and JSON have them, not checked yet.

    Raises:
        ConfigError: a missing file, or bad YAML.
    """
    if isinstance(source, RunConfig):
        return source.tree()
    if isinstance(source, Mapping):
        return dict(source)
    return read_yaml(Path(source)) if source is not None else {}


def overridden(tree: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return settings with ``key=value`` overrides applied, not checked yet.

    >>> overridden({"seed": 1}, ["stream.end=stop", "stream.rates=5"])
    {'seed': 1, 'stream': {'end': 'stop', 'rates': 5}}
    """
    tree = dict(tree)
    for override in overrides:
        tree = merged(_spelled_out(tree), _parse_override(override))
    return tree


def _spelled_out(tree: dict[str, Any]) -> dict[str, Any]:
    """Return settings in which no short name, of a profile or a task, is lost when one of its parts is overridden."""
    if isinstance(tree.get("task"), str):
        tree = merged(tree, {"task": task_settings(tree["task"])})
    stream = tree.get("stream")
    if not isinstance(stream, Mapping) or not isinstance(stream.get("profile"), str):
        return tree
    return merged(tree, {"stream": {"profile": profile_settings(stream["profile"])}})


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {shown(text)}: write it as key=value, for example --set batch.size=32")
    try:
        tree: Any = parse_yaml(value)
    except yaml.YAMLError:
        tree = value
    except TooMuchYAMLError as error:
        raise ConfigError(f"--set {shown(key)}: {error}") from None
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return dict(tree)
