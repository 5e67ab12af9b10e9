"""How long devices gather a batch (paper, section II, figure of streaming latency)."""

from __future__ import annotations

from functools import partial

from scadles.config import RunConfig
from scadles.observe import RunFolder
from scadles.observe.paper_plots import SpreadPanel, plot_panels
from scadles.paper.experiment import Experiment, Options, Outcome
from scadles.paper.published import DEVICES, GATHERING, SETS
from scadles.paper.rules import extra_gathering_s
from scadles.paper.runs import Runs
from scadles.paper.settings import idle_run, rates_of
from scadles.paper.table import Cell, Quantity, Row, Table, largest_deviation
from scadles.streams import RATE_SETS

_QUANTITIES = (Quantity("fastest device", "s"), Quantity("slowest device", "s"))
_TITLE = "Seconds beyond one to gather a batch of b samples"


def measure(_: Options, runs: Runs) -> Outcome:
    """Let devices gather their first batch, and look up how long each of them waited."""
    configs = {("latency", name, batch): _config(batch, name) for batch, name in GATHERING}
    folders = runs.get(configs)
    rows = [_row(*setting, configs[run], folders[run]) for setting, run in zip(GATHERING, configs, strict=True)]
    off = largest_deviation([cell for row in rows for cell in row.cells])
    remarks = (
        "Ours: the first wait of every simulated device, less one second. Rule: b / S - 1 from the same rates.",
        f"Ours is within {off:.2%} of the rule in every cell.",
    )
    table = Table(_TITLE, ("b", "set"), _QUANTITIES, rows, remarks)
    panels = [_panel(batch, table) for batch in (64, 512)]
    return Outcome((table,), partial(plot_panels, _TITLE, panels, columns=2))


def _config(batch: int, name: str) -> RunConfig:
    known = RATE_SETS[name].known
    return idle_run(
        method="ddl",
        devices=len(known) or DEVICES,
        steps=1,
        stream={"rates": f"{name}:known" if known else name},
        batch={"size": batch},
        cost={"profile": "free"},
    )


def _row(batch: int, name: str, config: RunConfig, run: RunFolder) -> Row:
    rates = rates_of(config)
    waits = [run.steps(device)[0].wait_s for device in range(config.devices)]
    note = "" if RATE_SETS[name].known else f"the paper lists no rates of {name}: {DEVICES} drawn ones here"
    paper = GATHERING[batch, name]
    fastest = Cell(min(waits) - 1, paper[0], extra_gathering_s(batch, max(rates)), note)
    slowest = Cell(max(waits) - 1, paper[1], extra_gathering_s(batch, min(rates)), note)
    return Row((str(batch), name), (fastest, slowest))


def _panel(batch: int, table: Table) -> SpreadPanel:
    rows = [row.cells for row in table.rows if row.keys[0] == str(batch)]
    series = {
        source: [(getattr(fast, source), getattr(slow, source)) for fast, slow in rows] for source in ("paper", "ours")
    }
    return SpreadPanel(
        title=f"batch of {batch}: fastest to slowest device", y_label="seconds beyond one", groups=SETS, series=series
    )


LATENCY = Experiment("latency", "seconds to gather a batch, fastest and slowest device of each set of rates", measure)
