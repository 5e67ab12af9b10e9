"""The quick experiments on the real simulator: its devices must do what the paper's formulas say."""

import pytest

from scadles.paper import EXPERIMENTS, Options, Runs, accumulation, buffers, learning
from scadles.paper.published import HELD, Held
from scadles.paper.table import largest_deviation

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
    monkeypatch.setattr(learning, "QUICK", TINY)
    convergence, speedup = tables("convergence"), tables("speedup")
    assert len(list((tmp_path / "runs").glob("ddl-*"))) == 8
    assert len(list((tmp_path / "runs").iterdir())) == 24
    accuracies = [cell.ours for row in convergence[1].rows for cell in row.cells[:2]]
    assert all(0 <= value <= 100 for value in accuracies)
    assert len(speedup[0].rows) == 8
