"""What the text of a setting may name on the machine that uses it: code, a file, an address; or nothing at all.

Whoever may say such a text for another machine could run code there, or open files. So every setting that holds text
has a mark (:class:`Names`), by which a device decides what it takes from its hub.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from scadles.config.section import sections_in


@dataclass(frozen=True)
class Names:
    """The mark of a setting that holds text, in its annotation: ``Annotated[str, Names("code", unless="[^:]*")]``.

    Attributes:
        what: such a text may name, in words; empty for a plain value, which names nothing outside of the run.
        unless: a regular expression for values that are plain all the same: built-in parts by their names.
    """

    what: str = ""
    unless: str = r"(?!)"

    def is_plain(self, value: str) -> bool:
        """Whether this value names nothing that is of the machine it is used on."""
        return not self.what or re.fullmatch(self.unless, value) is not None


PLAIN = Names()
CODE = Names("code", unless=r"[^:]*")
FILE = Names("a file")
#: Of a setting that nobody has marked: nobody has thought about it yet.
UNDECIDED = Names("something")


class Text(NamedTuple):
    """A setting that holds text.

    Attributes:
        names: its mark.
        default: as JSON has it.
    """

    names: Names
    default: Any


def texts_in(section: type[BaseModel], above: str = "") -> dict[str, Text]:
    """Return every setting of a section and those below that holds text, by its dotted name."""
    found: dict[str, Text] = {}
    for name, field in section.model_fields.items():
        for inner in sections_in(field.annotation):
            found |= texts_in(inner, f"{above}{name}.")
        if _holds_text(field.annotation):
            mark = next((item for item in field.metadata if isinstance(item, Names)), UNDECIDED)
            default = field.get_default(call_default_factory=True)
            found[f"{above}{name}"] = Text(mark, str(default) if isinstance(default, Path) else default)
    return found


def named_by(tree: Mapping[str, Any], texts: Mapping[str, Text]) -> Iterator[tuple[str, str, Names]]:
    """Yield name and value of each setting that names something of the machine that uses it, and its mark.

    Args:
        tree: settings as YAML and JSON have them, not checked yet, short forms (``task: regression``) included.
        texts: all settings that hold text.
    """
    for name, value in leaves(tree):
        if not isinstance(value, str):
            continue
        for other, text in texts.items():
            is_related = _is_within(name, other) or _is_within(other, name)
            if is_related and value != text.default and not text.names.is_plain(value):
                yield other, value, text.names
                break


def leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted name and value of what is no mapping; the parts of a list one by one, by the name of the list."""
    for key, value in tree.items():
        for part in _flat(value):
            if isinstance(part, Mapping):
                yield from leaves(part, f"{above}{key}.")
            else:
                yield f"{above}{key}", part


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def _is_within(name: str, other: str) -> bool:
    return f"{name}.".startswith(f"{other}.")


def _holds_text(annotation: Any) -> bool:
    if typing.get_origin(annotation) is typing.Literal:
        return False
    if annotation in (str, Path, Any, object):
        return True
    return any(_holds_text(part) for part in typing.get_args(annotation))
