"""Every setting there is, as a page of Markdown."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from scadles.config import METHODS, RunConfig
from scadles.config.section import sections_in
from scadles.errors import did_you_mean

_BOUNDS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))


def reference(section: str | None = None) -> str:
    """Return the reference of one section and what lies in it, or of all of them."""
    places = _places(RunConfig)
    parts = [] if section else [_top()]
    parts += [
        _table(names, model)
        for model, names in places.items()
        if section is None or any(f"{name}.".startswith(f"{section}.") for name in names)
    ]
    if not parts:
        known = [name for names in places.values() for name in names]
        raise typer.BadParameter(f"unknown section {section!r}{did_you_mean(str(section), known)}")
    return "\n".join(parts)


def _places(model: type[BaseModel], above: str = "") -> dict[type[BaseModel], list[str]]:
    """Return every section below a model with all places that hold one, in the order of the last."""
    places: dict[type[BaseModel], list[str]] = {}
    for name, field in model.model_fields.items():
        for inner in dict.fromkeys(sections_in(field.annotation)):
            for found, names in {inner: [f"{above}{name}"], **_places(inner, f"{above}{name}.")}.items():
                places[found] = [*places.pop(found, []), *names]
    return places


def _top() -> str:
    presets = [
        f"- `{method}`: "
        + ", ".join(
            f"`{section}.{key}: {_said(value)}`" for section, keys in tree.items() for key, value in keys.items()
        )
        for method, tree in METHODS.items()
    ]
    rows = [
        _row(name, field) for name, field in RunConfig.model_fields.items() if not any(sections_in(field.annotation))
    ]
    intro = [
        "# Settings",
        "",
        "A run is a YAML file of these; `--set key=value` with dotted keys overrides any of them. This page is what",
        "`scadles settings` prints. No number is above 10^15, a seed fits 63 bits.",
        "",
        "`method` fills in what is left open:",
        "",
        *presets,
        "",
    ]
    return "\n".join([*intro, *_HEAD, *rows, ""])


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_HEAD = ("| setting | values | default | meaning |", "|---|---|---|---|")


def _table(names: list[str], model: type[BaseModel]) -> str:
    meaning = (model.__doc__ or "").strip().splitlines()[0]
    prefix = f"{names[0]}." if len(names) == 1 else "…."
    rows = [_row(f"{prefix}{key}", field) for key, field in model.model_fields.items()]
    return "\n".join([f"## {', '.join(names)}", "", meaning, "", *_HEAD, *rows, ""])


def _row(name: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    shown = "" if default is PydanticUndefined or isinstance(default, BaseModel) else f"`{_shown(default)}`"
    return f"| `{name}` | {_values(field)} | {shown} | {(field.description or '').replace('|', ',')} |"


def _shown(default: Any) -> Any:
    if default is None:
        return "none"
    return list(default) if isinstance(default, tuple) else default if default != "" else "''"


def _values(field: FieldInfo) -> str:
    return ", ".join([_type_name(field.annotation), *_bounds(field)])


def _bounds(field: FieldInfo) -> list[str]:
    return [f"{word} {getattr(item, key):g}" for item in field.metadata for key, word in _BOUNDS if hasattr(item, key)]


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        bounds = [bound for item in arguments[1:] if isinstance(item, FieldInfo) for bound in _bounds(item)]
        return f"{_type_name(arguments[0])} ({', '.join(bounds)})" if bounds else _type_name(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_name(option) for option in arguments if option is not type(None))
    if origin is tuple:
        names = [_type_name(argument) for argument in arguments if argument is not Ellipsis]
        return f"list of {names[0]}" if arguments[-1] is Ellipsis else f"[{', '.join(names)}]"
    if origin is dict:
        key, value = (_type_name(argument) for argument in arguments)
        return f"mapping of {key} to {value}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    if annotation is Any:
        return "anything"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "Path": "path"}[
        annotation.__name__
    ]
