"""YAML as settings need it: no more of it than time and memory allow, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from scadles.config.addresses import shown

#: A file with every setting of 10,000 devices, one by one, is smaller.
MOST_BYTES = 4_000_000
_MOST_NODES = 300_000
#: Levels, one in the other, of settings at most.
DEEPEST = 32
_LONGEST_NUMBER = 100
_DATE = "tag:yaml.org,2002:timestamp"
_TRUTH = ("true", "false")
_MERGE = "tag:yaml.org,2002:merge"
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))
_NUMBERS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float"))
_NAME = re.compile(r"[\w.-]{1,60}", re.ASCII)


class TooMuchYAMLError(Exception):
    """Text that may be YAML, and is refused: the message is a sentence, ``line`` where, counted from 1."""

    def __init__(self, node: yaml.Node | yaml.Event, problem: str) -> None:
        self.line = node.start_mark.line + 1 if node.start_mark is not None else 1
        super().__init__(problem)


class _Loader(yaml.SafeLoader):
    """SafeLoader within bounds; a date, and a number that is too long for one, is text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise TooMuchYAMLError(event, "aliases (*name) are not read: write out what it stands for")
        self._nodes += 1
        self._depth += 1
        if self._depth > DEEPEST:
            raise TooMuchYAMLError(event, f"more than {DEEPEST} levels, one in the other")
        if self._nodes > _MOST_NODES:
            raise TooMuchYAMLError(event, f"more than {_MOST_NODES:,} keys and values")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - yaml's own
        if node.tag not in _PLAIN_TAGS:
            raise TooMuchYAMLError(node, f"the tag {shown(node.tag)} is not read: write a plain value")
        if node.tag in _NUMBERS and isinstance(node, yaml.ScalarNode) and len(node.value) > _LONGEST_NUMBER:
            return node.value
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, TypeError, OverflowError):
            raise TooMuchYAMLError(node, f"{shown(node.value)} is not what its tag says") from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        if not isinstance(node, yaml.MappingNode):
            raise TooMuchYAMLError(node, "what is tagged as a mapping is none")
        found: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                raise TooMuchYAMLError(key_node, "<< is not read: write the settings out")
            key = self.construct_object(key_node, deep=True) if isinstance(key_node, yaml.ScalarNode) else None
            if isinstance(key, bool) and key_node.value.lower() not in _TRUTH:
                key = key_node.value  # "on" is the name of a setting, and true to YAML
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise TooMuchYAMLError(key_node, f"a key must be a name or a number, not {_kind(key_node)}")
            if key in found:
                raise TooMuchYAMLError(key_node, f"{_named(key)} is given twice")
            found[key] = self.construct_object(value_node, deep=deep)
        return found


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """Return what a YAML text holds: mappings, lists, text, numbers, true and false, null.

    A date is text, and so is a number of more than 100 digits: who reads the setting says what is expected in its
    place. Time and memory are bounded by the length of the text.

    Raises:
        yaml.YAMLError: it is not YAML.
        TooMuchYAMLError: it is, with a key twice, aliases, merged keys or tags, or with more levels, keys and values
            than settings have.

    >>> parse_yaml("{since: 2026-01-01, steps: 5}")
    {'since': '2026-01-01', 'steps': 5}
    >>> parse_yaml("{steps: 5, steps: 7}")
    Traceback (most recent call last):
    scadles.config.bounded_yaml.TooMuchYAMLError: steps is given twice
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _named(key: str | int) -> str:
    return str(key) if _NAME.fullmatch(str(key)) else shown(key)


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "a mapping" if isinstance(node, yaml.MappingNode) else shown(node.value)
