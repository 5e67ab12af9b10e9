"""What all experiments are made of: options, outcome, and the files that an outcome becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from scadles.errors import RunError
from scadles.observe.console import print_table
from scadles.paper.runs import Runs
from scadles.paper.table import Table, to_csv

_WIDTH = 118


@dataclass(frozen=True)
class Options:
    """What a user may choose.

    Attributes:
        quick: smaller or fewer runs, minutes instead of an hour.
        data: what is learnt where something is, as ``data.dataset``; None for synthetic images.
        broker: ``host:port`` of a Kafka broker to measure; None starts one.
    """

    quick: bool = False
    data: str | None = None
    broker: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What an experiment came to.

    Attributes:
        tables: with the same keys in all of them.
        draw: draws the picture into a file.
    """

    tables: tuple[Table, ...]
    draw: Callable[[Path], None]

    def print(self) -> None:
        """Print the tables to standard output."""
        for table in self.tables:
            print_table(table.title, table.headings(), table.lines())
            for text in table.footnotes():
                print(fill(text, _WIDTH, subsequent_indent="  "))
            print()

    def to_markdown(self) -> str:
        """Return all tables with their titles and footnotes as Markdown."""
        parts = []
        for table in self.tables:
            footnotes = "\n".join(f"- {text}" for text in table.footnotes())
            parts.append("\n\n".join(filter(None, [f"## {table.title}", table.to_markdown(), footnotes])))
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path, name: str) -> tuple[Path, ...]:
        """Write the tables as ``name.csv`` and ``name.md`` into ``folder`` and return the paths.

        Raises:
            RunError: the folder cannot be written to.
        """
        csv, markdown = folder / f"{name}.csv", folder / f"{name}.md"
        try:
            csv.write_text(to_csv(self.tables))
            markdown.write_text(f"{self.to_markdown()}\n![{name}]({name}.png)\n")
        except OSError as error:
            raise RunError(f"cannot write into {folder}: {error.strerror}; choose another --out") from None
        return csv, markdown


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper.

    Attributes:
        name: on the command line.
        title: what it shows, in a line.
        learns: whether a model is trained in it.
        why_not: why it cannot be made here; empty where it can.
    """

    name: str
    title: str
    run: Callable[[Options, Runs], Outcome]
    learns: bool = False
    why_not: Callable[[Options], str] = lambda options: ""
