"""``scadles settings``: every setting there is."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from scadles.config import METHODS, RunConfig
from scadles.errors import did_you_mean

_BOUNDS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))


def settings(
    section: Annotated[str | None, typer.Argument(help="only this section, e.g. batch")] = None,
) -> None:
    """Print every setting with its values, default and meaning, as Markdown.

    scadles settings stream
    """
    typer.echo(reference(section), nl=False)


def reference(section: str | None = None) -> str:
    """Return the reference of one section, or of all of them."""
    parts = [] if section else [_top()]
    parts += [_table(name, model) for name, model in _sections() if section in (None, name)]
    if not parts:
        raise typer.BadParameter(f"unknown section {section!r}{did_you_mean(str(section), dict(_sections()))}")
    return "\n".join(parts)


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in RunConfig.model_fields.items():
        model = _model(field.annotation)
        if model:
            yield name, model
            for inner_name, inner in model.model_fields.items():
                if inner_model := _model(inner.annotation):
                    yield f"{name}.{inner_name}", inner_model


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field holds, alone or one per device."""
    options = [annotation, *typing.get_args(annotation)]
    options = [typing.get_args(option)[0] if typing.get_origin(option) is Annotated else option for option in options]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _top() -> str:
    presets = [
        f"- `{method}`: "
        + ", ".join(f"`{section}.{key}: {value}`" for section, keys in tree.items() for key, value in keys.items())
        for method, tree in METHODS.items()
    ]
    rows = [_row(name, field) for name, field in RunConfig.model_fields.items() if not _model(field.annotation)]
    intro = [
        "# Settings",
        "",
        "A run is a YAML file of these; `--set key=value` with dotted keys overrides any of them. This page is what",
        "`scadles settings` prints.",
        "",
        "`method` fills in what is left open:",
        "",
        *presets,
        "",
    ]
    return "\n".join([*intro, *_HEAD, *rows, ""])


_HEAD = ("| setting | values | default | meaning |", "|---|---|---|---|")


def _table(name: str, model: type[BaseModel]) -> str:
    meaning = (model.__doc__ or "").strip().splitlines()[0]
    rows = [_row(f"{name}.{key}", field) for key, field in model.model_fields.items()]
    return "\n".join([f"## {name}", "", meaning, "", *_HEAD, *rows, ""])


def _row(name: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined or isinstance(default, BaseModel):
        shown = ""
    else:
        shown = f"`{'none' if default is None else default if not isinstance(default, tuple) else list(default)}`"
    return f"| `{name}` | {_values(field)} | {shown} | {(field.description or '').replace('|', ',')} |"


def _values(field: FieldInfo) -> str:
    bounds = [
        f"{word} {getattr(item, key):g}" for item in field.metadata for key, word in _BOUNDS if hasattr(item, key)
    ]
    return ", ".join([_type_name(field.annotation), *bounds])


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_name(option) for option in arguments if option is not type(None))
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "Path": "path"}[
        annotation.__name__
    ]
