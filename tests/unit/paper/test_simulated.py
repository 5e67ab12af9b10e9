"""The quick experiments on the real simulator: its devices must do what the paper's formulas say."""

import pytest

from scadles.paper import EXPERIMENTS, Options, Runs, accumulation, buffers, compression, convergence, learning, speedup
from scadles.paper.published import HELD, Held
from scadles.paper.table import largest_deviation
from scadles.simulation.limit import WINDOW_FACTORS

FEW = {key: Held(held.persistence / 200, held.truncation, held.reduction / 200) for key, held in HELD.items()}
TINY = learning.Scale(3, 8, 20, {"resnet152": 4, "vgg19": 4}, 4)


@pytest.fixture
def tables(tmp_path):
    """Return the tables of an experiment by name."""
    return lambda name: EXPERIMENTS[name].run(Options(quick=True), Runs(tmp_path / "runs")).tables


def deviation(table, *names):
    indices = [[quantity.name for quantity in table.quantities].index(name) for name in names]
    return largest_deviation([row.cells[index] for row in table.rows for index in indices])


def test_first_waits_are_those_of_the_rates(tables):
    (table,) = tables("latency")
    assert deviation(table, "fastest device", "slowest device") < 1e-6


def test_what_piles_up_under_ddl_follows_the_queue_formula(tables, monkeypatch):
    monkeypatch.setattr(accumulation, "_QUICK_STEPS", 1_000)
    (table,) = tables("accumulation")
    assert deviation(table, "arrived", "waiting") < 0.02


def test_truncation_keeps_less_than_the_paper_reports_in_every_cell(tables, monkeypatch):
    monkeypatch.setattr(buffers, "HELD", FEW)
    (table,) = tables("buffers")
    assert deviation(table, "persistence") < 0.1
    names = [quantity.name for quantity in table.quantities]
    for row in table.rows:
        kept = row.cells[names.index("truncated")]
        assert 0 < kept.ours < kept.paper
        assert row.cells[names.index("peak")].ours >= kept.ours


def test_learning_experiments_share_the_runs_of_ddl(tables, monkeypatch, tmp_path):
    """Four of the eight cells: both networks, and sets of streams that are spread differently."""
    monkeypatch.setattr(learning, "QUICK", TINY)
    for module in (learning, convergence, speedup):
        monkeypatch.setattr(module, "KEYS", [key for key in learning.KEYS if key[1] in ("S1", "S2'")])
    convergence_tables, speedup_tables = tables("convergence"), tables("speedup")
    assert len(list((tmp_path / "runs").glob("ddl-*"))) == 4
    assert len(list((tmp_path / "runs").iterdir())) == 20 + 4 * len(WINDOW_FACTORS)
    accuracies = [cell.ours for row in convergence_tables[1].rows for cell in row.cells[:2]]
    assert all(0 <= value <= 100 for value in accuracies)
    assert [len(table.rows) for table in speedup_tables] == [4, 4, 4]


def test_what_compression_sends_follows_from_the_steps_compressed(tables, monkeypatch):
    monkeypatch.setattr(compression, "QUICK", TINY)
    shares, _ = tables("compression")
    names = [quantity.name for quantity in shares.quantities]
    for row in shares.rows:
        cells = dict(zip(names, row.cells, strict=True))
        cnc, share = cells["CNC"].ours, cells["bytes: share"].ours
        if row.keys[1] == "dense":
            assert (cnc, share) == (0, 1)
        else:
            # a compressed step sends at most a twelfth of a dense one at CR 0.1, a hundredth at 0.01
            most = 1 / 12 if row.keys[1] == "0.1" else 1 / 100
            assert 1 - cnc < share + 1e-9 <= 1 - cnc + most * cnc + 2e-9
    by_cost = [row.cells[names.index("CNC")].ours for row in shares.rows if row.keys[2] == "cost"]
    assert by_cost == [0.25] * 4  # three steps to see what dense takes, then the first compressed one
