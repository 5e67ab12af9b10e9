"""``scadles sweep``: every combination of some settings, simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from scadles.errors import ConfigError

_OPENING, _CLOSING, _QUOTES = "[{(", "]})", "\"'"


def sweep(
    config: Annotated[Path, typer.Argument(help="YAML file of settings; see docs/configuration.md")],
    over: Annotated[
        list[str],
        typer.Option(metavar="KEY=V1,V2,...", help="a setting and its values; give it again for more settings"),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder of the sweep")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting in all runs")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="runs of each combination, each with a seed of its own")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="runs that are made at the same time")] = 1,
    backend: Annotated[
        Literal["local", "ray"], typer.Option(help="processes here, or Ray tasks (needs the extra 'ray')")
    ] = "local",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")] = False,  # noqa: FBT002
) -> None:
    """Simulate every combination of settings, and put the runs into one table and one picture.

        scadles sweep CONFIG --over batch.window_s=0.5,1,2 --over method=ddl,scadles --seeds 3 --jobs 2 --out sweeps/a

    Values are YAML; one that has commas itself stands in brackets: --over "stream.rates=[50,38],[90,12]".

    An interrupted sweep goes on with the same command: finished runs in --out are not made again.

    Exit codes: 0 all runs ended as they should, 2 a setting cannot work, 1 another failure; 130 stopped by Ctrl-C.
    """
    from scadles import sweep as sweeps
    from scadles.observe.console import plain_line

    result = sweeps.sweep(
        config,
        parse_over(over),
        out=out,
        settings=settings or (),
        seeds=seeds,
        jobs=jobs,
        backend=backend,
        quiet=quiet,
    )
    result.print()
    typer.echo(plain_line(f"folder of the sweep: {out} ({', '.join(_written(out))})"))
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def parse_over(texts: list[str]) -> dict[str, list[Any]]:
    """Return the swept settings and their values.

    >>> parse_over(["batch.window_s=0.5,1e-1", "stream.rates=[50,38],20"])
    {'batch.window_s': [0.5, 0.1], 'stream.rates': [[50, 38], 20]}
    """
    over: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not all(key.split(".")) or not values:
            raise ConfigError(f"--over {text!r}: write it as key=value,value, e.g. --over batch.window_s=0.5,1,2")
        if key in over:
            raise ConfigError(f"--over {key} is given twice: list all its values in one")
        over[key] = [_value(key, part) for part in split_values(values)]
    return over


def split_values(text: str) -> list[str]:
    """Split at commas outside brackets, braces and quotes.

    >>> split_values("ddl,[1,2],{a: 1, b: 2},'x,y'")
    ['ddl', '[1,2]', '{a: 1, b: 2}', "'x,y'"]
    """
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES and not parts[-1].strip(" " + _OPENING):
            quote = character
        elif character in _OPENING + _CLOSING:
            depth += 1 if character in _OPENING else -1
        if character == "," and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _value(key: str, text: str) -> Any:
    if not text:
        raise ConfigError(f"--over {key}: a value is missing beside a comma; write '' for an empty text")
    import yaml

    from scadles.config.bounded_yaml import TooMuchYAMLError, parse_yaml

    try:
        value: Any = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--over {key}: {text!r} is not YAML: {' '.join(str(error).split())}") from None
    except TooMuchYAMLError as error:
        raise ConfigError(f"--over {key}: {error}") from None
    if isinstance(value, str) and text == value:
        try:
            return float(value)  # YAML takes 1e-3 for text
        except ValueError:
            return value
    return value


def _written(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("sweep.*"))
