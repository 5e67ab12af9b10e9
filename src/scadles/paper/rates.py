"""How true many topics are to their rate (paper, figure of observed stream rates), on a real Kafka broker."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from scadles.observe.paper_plots import BarPanel, plot_panels
from scadles.paper.broker_watch import WARM_UP_S, Observation, observe
from scadles.paper.experiment import Experiment, Options, Outcome
from scadles.paper.published import OBSERVED
from scadles.paper.runs import Runs
from scadles.paper.table import Cell, Quantity, Row, Table

_QUANTITIES = (
    Quantity("mean of topics", "/s", ".1f"),
    Quantity("slowest topic", "/s", ".1f"),
    Quantity("slowest", "% of wanted", ".2f"),
    Quantity("publisher", "% of a core", ".0f"),
)
_TITLE = "Records per second that a Kafka broker gets on each of so many topics at the same time"
_FULL_S, _QUICK_S = 20.0, 3.0
# so fast that nothing is ever waited for
_BEYOND_TOPICS, _BEYOND_HZ, _BEYOND_S = 32, 10_000, 6.0
_ONE_CORE = 0.85


def measure(options: Options, runs: Runs) -> Outcome:
    """Publish to 1 to 32 topics at 100 and at 600 per second, then as fast as it goes; the broker says what came."""
    seconds = _QUICK_S if options.quick else _FULL_S
    with _broker(options) as address:
        found = {}
        for topics, rate in OBSERVED:
            runs.say(f"{topics} topics at {rate} per second, {seconds:g} s")
            found[topics, rate] = observe(address, topics, rate, seconds)
        runs.say(f"{_BEYOND_TOPICS} topics as fast as it goes, {_BEYOND_S:g} s")
        beyond = observe(address, _BEYOND_TOPICS, _BEYOND_HZ, _BEYOND_S)
    rows = [_row(key, found[key]) for key in OBSERVED]
    table = Table(_TITLE, ("topics", "wanted (/s)"), _QUANTITIES, rows, _remarks(beyond, seconds, options))
    panels = [_panel(rate, found) for rate in (100, 600)]
    return Outcome((table,), partial(plot_panels, _TITLE, panels, columns=2))


def why_not(options: Options) -> str:
    """Return why this cannot be measured here; empty where it can."""
    from scadles.testing.brokers import kafka

    if options.broker is not None or kafka.kafka_home() is not None:
        return ""
    return f"give --broker HOST:PORT, or let it start one, which {kafka.HOW_TO_PROVIDE}"


@contextmanager
def _broker(options: Options) -> Iterator[str]:
    """Yield the address of the user's broker, or of one that lives as long as this is entered."""
    from scadles.testing.brokers.kafka import KafkaBroker

    if options.broker is not None:
        yield options.broker
        return
    with TemporaryDirectory(prefix="scadles-kafka-") as folder, KafkaBroker(Path(folder)) as broker:
        yield broker.address


def _row(key: tuple[int, int], found: Observation) -> Row:
    topics, rate = key
    mean, slowest = float(found.rates_hz.mean()), float(found.rates_hz.min())
    paper = OBSERVED[key]
    return Row(
        (str(topics), str(rate)),
        (
            Cell(mean, paper, rate),
            Cell(slowest),
            Cell(100 * slowest / rate),
            Cell(100 * found.cpu),
        ),
    )


def _remarks(beyond: Observation, seconds: float, options: Options) -> Sequence[str]:
    total, share = beyond.rates_hz.sum(), beyond.cpu
    limit = "the publisher's one core" if share > _ONE_CORE else "the broker, or the cores that both share"
    where = f"the broker at {options.broker}" if options.broker else "a broker of one node on the same machine"
    return (
        f"Ours: offsets at the ends of the topics of {where}, from {WARM_UP_S:g} s after the first record to the end "
        f"of {seconds:g} s. Records have 3 KB as the paper's; one publishing process serves all topics, where the "
        "paper has a producer for each.",
        "Rule: what was wanted.",
        f"Beyond: with nothing to wait for, {_BEYOND_TOPICS} topics get {total:,.0f} records a second together, "
        f"{total / _BEYOND_TOPICS:,.0f} each; the publisher takes {share:.0%} of a core ({os.cpu_count()} cores here), "
        f"so the limit is {limit}.",
    )


def _panel(rate: int, found: dict[tuple[int, int], Observation]) -> BarPanel:
    keys = [key for key in OBSERVED if key[1] == rate]
    series = {
        "paper": [float(OBSERVED[key]) for key in keys],
        "ours": [float(found[key].rates_hz.mean()) for key in keys],
    }
    return BarPanel(
        title=f"{rate} wanted per second on each topic",
        y_label="records per second",
        x_label="topics at the same time",
        groups=[str(topics) for topics, _ in keys],
        series=series,
        form=".4g",
    )


RATES = Experiment("rates", "records per second on 1 to 32 Kafka topics at the same time", measure, why_not=why_not)
