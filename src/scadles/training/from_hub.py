"""What a device takes from its hub: settings, but no code, no file and no address that it does not allow by name.

What a device allows is its own: ``allow: {model: mypackage.models:Net}`` beside its own settings, ``--allow
model=mypackage.models:Net`` on the command line. A ``*`` at the end stands for the rest of a name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from scadles.config import RunConfig, leaves, load_config, merged, named_by, texts_in
from scadles.config.addresses import without_secrets
from scadles.config.bounded_yaml import DEEPEST
from scadles.errors import ConfigError, UntrustedError, did_you_mean

#: Among a device's own settings, what its hub may name; and the file in its run folder with what it took.
ALLOW, TAKEN_FILE = "allow", "settings_from_hub.yaml"
#: What a * never stands for: an address's parameters, and what is beside or above a folder.
_NOT_MEANT = re.compile(r"[?&#\s]|(^|[/\\])\.\.($|[/\\])")
_MOST_SHOWN = 200

Allowed = Mapping[str, Sequence[str]]


class Taken(NamedTuple):
    """What a device takes from its hub.

    Attributes:
        settings: of the run, with the device's own.
        tree: what of them the hub says.
        named: which of these name something of this device, as it allows; name and value.
    """

    settings: RunConfig
    tree: dict[str, Any]
    named: Sequence[tuple[str, str]]

    def to_yaml(self) -> str:
        """Return the hub's settings, and which of them were allowed."""
        return f"# {self}\n" + yaml.safe_dump(self.tree, sort_keys=False)

    def __str__(self) -> str:
        count = sum(1 for _ in leaves(self.tree))
        if not self.named:
            return f"takes {count} settings from the hub, none of which names code, a file or an address"
        listed = ", ".join(f"{name} = {_shown(value)}" for name, value in self.named)
        return f"takes {count} settings from the hub, among them, as this device allows: {listed}"


def allowed_in(said: Any) -> dict[str, list[str]]:
    """Return what a device says that its hub may name: patterns by setting.

    Raises:
        ConfigError: it is no mapping of settings to texts, or a setting names nothing of a device.
    """
    if not isinstance(said, Mapping):
        raise ConfigError(f"{ALLOW}: write it as a mapping, for example {ALLOW}: {{model: mypackage.models:Net}}")
    naming = [name for name, text in texts_in(RunConfig).items() if text.names.what]
    allowed = {}
    for name, value in said.items():
        values = list(value) if isinstance(value, list | tuple) else [value]
        if name not in naming:
            raise ConfigError(
                f"{ALLOW}.{name}: no setting that names code, a file or an address{did_you_mean(str(name), naming)}"
            )
        if not all(isinstance(one, str) and one for one in values):
            raise ConfigError(f"{ALLOW}.{name} = {value!r}: say a text, or a list of them")
        allowed[name] = values
    return allowed


def parse_allowed(options: Iterable[str]) -> dict[str, list[str]]:
    """Return the same of a command line's ``KEY=VALUE``."""
    allowed: dict[str, list[str]] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (name and equals and value):
            raise ConfigError(
                f"--allow {option!r}: write it as key=value, for example --allow model=mypackage.models:Net"
            )
        allowed.setdefault(name, []).append(value)
    return allowed


def allowing(settings: RunConfig) -> dict[str, Any]:
    """Return a device's own settings that allow whatever these settings name, and nothing else."""
    named: dict[str, list[str]] = {}
    for name, value, _ in named_by(settings.model_dump(mode="json"), texts_in(RunConfig)):
        named.setdefault(name, []).append(value)
    return {ALLOW: named}


def take_settings(
    said: Mapping[str, Any], own: Mapping[str, Any], allowed: Allowed, devices: int, *, has_model: bool = False
) -> Taken:
    """Return the settings of a run as its hub says them, with a device's own; nothing is imported or opened for it.

    Args:
        said: by the hub, whatever it may be.
        own: the device's.
        allowed: of :func:`allowed_in`.
        devices: how many seats there are.
        has_model: whether the device has a network already, so that ``model`` is only told.

    Raises:
        UntrustedError: the hub names what the device does not allow.
        ConfigError: these are no settings of a run.
    """
    if _is_deeper(said, DEEPEST):
        raise UntrustedError(f"the hub's settings have more than {DEEPEST} levels, one in the other: they are not read")
    if _has_odd_names(said):
        raise UntrustedError("the hub's settings have names that no setting has: they are not read")
    tree = _without(said, own)
    texts = texts_in(RunConfig)
    if has_model:
        texts = {name: text for name, text in texts.items() if name != "model"}
    named, refused = [], []
    for name, value, names in named_by(tree, texts):
        if any(_allows(pattern, value) for pattern in allowed.get(name, ())):
            named.append((name, value))
        else:
            refused.append((name, value, names.what))
    if refused:
        raise UntrustedError(_refusal(refused))
    return Taken(load_config(merged(said, own), [f"devices={devices}"]), tree, named)


def _refusal(refused: Sequence[tuple[str, str, str]]) -> str:
    said = " and ".join(f"{name} = {_shown(value)}" for name, value, _ in refused)
    what = " and ".join(dict.fromkeys(what for _, _, what in refused))
    options = " ".join(
        shlex.join(["--allow", f"{name}={value}"]) for name, value, _ in refused if _may_be_copied(value)
    )
    way = f"if you trust it with that, start this device with {options}" if options else "nobody writes such a name"
    return f"the hub names {what} on this device, which this device does not allow: {said}; {way}"


def _may_be_copied(value: str) -> bool:
    return value.isprintable() and len(value) <= _MOST_SHOWN and _shown(value) == repr(value)


def _shown(value: str) -> str:
    """Return a value for a message; of an address that may hold a secret nothing is shown."""
    try:
        without_secrets(value)
    except ValueError:
        if "://" in value:
            return "an address that is not shown, as it may hold a secret"
    return repr(value) if len(value) <= _MOST_SHOWN else f"{value[:_MOST_SHOWN]!r}... ({len(value):,} characters)"


def _allows(pattern: str, value: str) -> bool:
    if not pattern.endswith("*"):
        return pattern == value
    rest = value.removeprefix(pattern[:-1])
    return value.startswith(pattern[:-1]) and rest.isprintable() and _NOT_MEANT.search(rest) is None


def _without(said: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a hub says of settings, without those that a device says for itself."""
    kept = {}
    for name, value in said.items():
        mine = own.get(name)
        if name not in own:
            kept[name] = value
        elif isinstance(mine, Mapping):
            kept[name] = _without(value, mine) if isinstance(value, Mapping) else value
    return kept


def _has_odd_names(value: Any) -> bool:
    """Whether there is a name that could not be told in a message as it is."""
    if isinstance(value, Mapping):
        odd = any(not name.isprintable() or len(name) > _MOST_SHOWN for name in value)
        return odd or any(map(_has_odd_names, value.values()))
    return isinstance(value, list) and any(map(_has_odd_names, value))


def _is_deeper(value: Any, levels: int) -> bool:
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return bool(parts) and (levels == 0 or any(_is_deeper(part, levels - 1) for part in parts))
