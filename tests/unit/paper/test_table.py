import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadles.errors import RunError
from scadles.paper import Cell, Quantity, Row, Table
from scadles.paper.table import largest_deviation, to_csv

HOURS, COUNT = Quantity("time", "h", ".1f"), Quantity("held", "samples", ",.0f")
ROWS = (
    Row(("ResNet152", "S1"), (Cell(2.04, 7.0, note="read off"), Cell(1234.4, rule=1200.0))),
    Row(("VGG19", "S1"), (Cell(math.inf, math.inf, note="read off"), Cell(None))),
)
TABLE = Table("A title", ("model", "set"), (HOURS, COUNT), ROWS, ("a remark",))


def test_a_quantity_has_a_column_for_each_source_that_speaks():
    assert TABLE.columns() == ("model", "set", "time (h): paper", "ours", "held (samples): rule", "ours")
    assert TABLE.headings()[2] == "time\n(h)\npaper"


def test_cells_are_shown_in_their_form_and_refer_to_their_notes():
    assert TABLE.lines() == [
        ("ResNet152", "S1", "7.0", "2.0 [1]", "1,200", "1,234"),
        ("VGG19", "S1", "never", "never [1]", "–", "–"),
    ]
    assert TABLE.footnotes() == ["a remark", "[1] read off"]


def test_markdown_is_a_table_of_as_many_columns_in_all_lines():
    lines = TABLE.to_markdown().splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {7}


def test_a_note_stands_at_the_last_number_where_we_have_none():
    table = Table("", (), (HOURS,), [Row((), (Cell(None, 7.0, note="why"),)), Row((), (Cell(1.0, 2.0),))])
    assert table.lines()[0] == ("7.0 [1]", "–")


def test_rows_must_fit_the_head():
    with pytest.raises(RunError, match="does not fit its head"):
        Table("A title", ("set",), (HOURS, COUNT), ROWS)


def test_csv_has_a_line_for_each_cell_with_all_digits():
    lines = list(csv.DictReader(io.StringIO(to_csv([TABLE]))))
    assert len(lines) == 4
    assert lines[0] == {
        "model": "ResNet152", "set": "S1", "quantity": "time", "unit": "h", "paper": "7", "rule": "", "ours": "2.04",
        "spread": "", "note": "read off",
    }  # fmt: skip
    assert (lines[1]["rule"], lines[1]["ours"], lines[2]["ours"]) == ("1200", "1234.4", "never")


@given(st.floats(-1e12, 1e12), st.text(st.characters(exclude_categories=("Cs", "Cc"))))
def test_csv_keeps_numbers_and_notes(value, note):
    table = Table("", (), (HOURS,), [Row((), (Cell(value, note=note),))])
    line = next(csv.DictReader(io.StringIO(to_csv([table]))))
    assert math.isclose(float(line["ours"]), value, rel_tol=1e-9)
    assert line["note"] == note


def test_deviation_is_relative_and_ignores_cells_without_both():
    cells = [Cell(102.0, rule=100.0), Cell(-0.95, rule=-1.0), Cell(5.0), Cell(None, rule=1.0)]
    assert largest_deviation(cells) == pytest.approx(0.05)
    assert largest_deviation([Cell(3.0, paper=2.0)], against="paper") == pytest.approx(0.5)
    assert largest_deviation([]) == 0


def test_the_spread_of_several_seeds_is_beside_their_mean():
    row = Row(("ResNet152", "S1"), (Cell.of_seeds([2.0, 3.0]), Cell.of_seeds([None, None])))
    table = Table("", ("model", "set"), (Quantity("time", "h"), Quantity("points", "", "+.1f")), [row])
    assert table.lines() == [("ResNet152", "S1", "2.50 ± 0.71")]
    assert Cell.of_seeds([1.0]) == Cell(1.0)
    assert Cell.of_seeds([None, None]).note == "never in 2 of 2 runs"
