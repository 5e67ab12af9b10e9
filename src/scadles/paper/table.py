"""A table of the paper beside ours: what it printed, what its own rule gives, what we measured."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

from scadles.errors import RunError
from scadles.observe.console import markdown

Value = float | None
SOURCES = ("paper", "rule", "ours")
_NOTHING, _NEVER = "–", "never"


class Quantity(NamedTuple):
    """What a column of cells is about.

    Attributes:
        name: unique in an experiment.
        unit: of all its numbers.
        form: how Python writes one of them for readers; files for programs get all digits.
    """

    name: str
    unit: str
    form: str = ".2f"


@dataclass(frozen=True)
class Cell:
    """One number, three times; None where there is none, infinity for a time that never came.

    Attributes:
        ours: measured by a simulation.
        paper: as printed, or read off a figure.
        rule: computed with the paper's formula from the same settings as ours.
        note: what a reader must know to compare them.
        spread: standard deviation of ours over runs with several seeds.
    """

    ours: Value = None
    paper: Value = None
    rule: Value = None
    note: str = ""
    spread: Value = None

    @staticmethod
    def of_seeds(values: Sequence[Value], paper: Value = None, rule: Value = None) -> Cell:
        """Return mean and spread over runs with several seeds; a note tells of those that have no value.

        >>> Cell.of_seeds([2.0, 4.0, None])
        Cell(ours=3.0, paper=None, rule=None, note='never in 1 of 3 runs', spread=1.4142135623730951)
        """
        found = [value for value in values if value is not None]
        missing = len(values) - len(found)
        note = f"never in {missing} of {len(values)} runs" if missing and len(values) > 1 else ""
        spread = stdev(found) if len(found) > 1 else None
        return Cell(fmean(found) if found else None, paper, rule, note, spread)


@dataclass(frozen=True)
class Row:
    """The cells of one setting; one cell for each quantity of the table."""

    keys: tuple[str, ...]
    cells: tuple[Cell, ...]


class Table:
    """Rows of cells, with remarks that hold for all of them.

    Args:
        title: one line.
        keys: names of what tells one row from another.
        quantities: what the cells of a row are.
        rows: in the order in which they are shown.
        remarks: what was done, and how it differs from what the paper did.

    Raises:
        RunError: a row with another number of keys or cells than the head.

    >>> table = Table("Waiting", ("set",), (Quantity("wait", "s"),), [Row(("S1",), (Cell(ours=4.0, paper=4.33),))])
    >>> print(table.to_markdown())
    | set | wait (s): paper | ours |
    | --- | ---: | ---: |
    | S1 | 4.33 | 4.00 |
    """

    def __init__(
        self,
        title: str,
        keys: Sequence[str],
        quantities: Sequence[Quantity],
        rows: Sequence[Row],
        remarks: Sequence[str] = (),
    ) -> None:
        self.title = title
        self.keys = tuple(keys)
        self.quantities = tuple(quantities)
        self.rows = tuple(rows)
        self.remarks = tuple(remarks)
        for row in self.rows:
            if len(row.keys) != len(self.keys) or len(row.cells) != len(self.quantities):
                raise RunError(f"row {row.keys} of the table {title!r} does not fit its head")

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of all cells, each once, in the order of reading; a cell refers to them by number."""
        return tuple(dict.fromkeys(cell.note for row in self.rows for cell in row.cells if cell.note))

    def columns(self) -> tuple[str, ...]:
        """Return a heading for each column shown; a quantity has a column for each source that says anything."""
        shown, last = list(self.keys), ""
        for quantity, source in self._shown():
            unit = f" ({quantity.unit})" if quantity.unit else ""
            shown.append(source if quantity.name == last else f"{quantity.name}{unit}: {source}")
            last = quantity.name
        return tuple(shown)

    def headings(self) -> tuple[str, ...]:
        """Return the same headings over several lines, narrow enough for a terminal."""
        return tuple(heading.replace(" (", "\n(").replace(": ", "\n") for heading in self.columns())

    def lines(self) -> list[tuple[str, ...]]:
        """Return the rows as they are shown."""
        notes = self.notes
        return [
            (*row.keys, *(_text(row.cells[self.quantities.index(q)], q, s, notes) for q, s in self._shown()))
            for row in self.rows
        ]

    def footnotes(self) -> list[str]:
        """Return remarks, and the notes that cells refer to."""
        return [*self.remarks, *(f"[{number}] {note}" for number, note in enumerate(self.notes, start=1))]

    def to_markdown(self) -> str:
        """Return the table as Markdown, without title and footnotes."""
        marks = ["---"] * len(self.keys) + ["---:"] * (len(self.columns()) - len(self.keys))
        return "\n".join(
            "| " + " | ".join(map(markdown, line)) + " |" for line in (self.columns(), tuple(marks), *self.lines())
        )

    def _shown(self) -> Iterator[tuple[Quantity, str]]:
        for index, quantity in enumerate(self.quantities):
            for source in SOURCES:
                if any(getattr(row.cells[index], source) is not None for row in self.rows):
                    yield quantity, source


def to_csv(tables: Sequence[Table]) -> str:
    """Return tables with the same keys as comma-separated values, a line for each cell, with all digits.

    >>> print(to_csv([Table("", ("set",), (Quantity("wait", "s"),), [Row(("S1",), (Cell(ours=4.0, rule=4.3),))])]))
    set,quantity,unit,paper,rule,ours,spread,note
    S1,wait,s,,4.3,4,,
    <BLANKLINE>
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*tables[0].keys, "quantity", "unit", *SOURCES, "spread", "note"])
    for table in tables:
        for row in table.rows:
            for quantity, cell in zip(table.quantities, row.cells, strict=True):
                values = [_digits(getattr(cell, source)) for source in (*SOURCES, "spread")]
                writer.writerow([*row.keys, quantity.name, quantity.unit, *values, cell.note])
    return text.getvalue()


def largest_deviation(cells: Iterable[Cell], against: str = "rule") -> float:
    """Return by how much ours deviates from ``against`` at most, as a share of it, over all cells that have both.

    >>> largest_deviation([Cell(ours=2.0, rule=2.5), Cell(ours=-1.0, rule=-1.0), Cell(ours=7.0)])
    0.2
    """
    pairs = [(cell.ours, getattr(cell, against)) for cell in cells]
    return max((abs(ours - other) / abs(other) for ours, other in pairs if ours is not None and other), default=0.0)


def _text(cell: Cell, quantity: Quantity, source: str, notes: Sequence[str]) -> str:
    value = getattr(cell, source)
    text = _NOTHING if value is None else _NEVER if math.isinf(value) else format(value, quantity.form)
    if source == "ours" and cell.spread is not None:
        text += f" ± {format(cell.spread, quantity.form.removeprefix('+'))}"
    # the last source that speaks carries the mark
    carries = next((s for s in reversed(SOURCES) if getattr(cell, s) is not None), "ours")
    return f"{text} [{notes.index(cell.note) + 1}]" if cell.note and source == carries else text


def _digits(value: Value) -> str:
    if value is None:
        return ""
    return _NEVER if math.isinf(value) else f"{value:.10g}"
