"""Adaptive compression: how often it compresses, what it costs in accuracy and saves in floats (paper, section V)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product

import numpy as np

from scadles.config import RunConfig, load_config
from scadles.config.tree import merged
from scadles.observe.paper_plots import Curve, CurvePanel, Level, plot_panels
from scadles.paper import learning
from scadles.paper.experiment import Experiment, Options, Outcome
from scadles.paper.learning import Learnt, Scale
from scadles.paper.published import COMPRESSION, DEVICES, NETWORKS, Compressed, dense
from scadles.paper.rules import floats_share, published_bytes_share, scadles_step_s
from scadles.paper.runs import Runs, key_of
from scadles.paper.settings import rates_of
from scadles.paper.table import Cell, Quantity, Row, Table

#: A network, CR, and delta; or None for dense steps alone, or the gate by cost in the place of delta.
Setting = tuple[str, float | None, float | str | None]

STREAMS = "S1"
RATIOS = (0.1, 0.01)
COST = "cost"
DELTAS: tuple[float | str, ...] = (0.1, 0.2, 0.3, 0.4, COST)
CLASSES = {name: network.classes for name, network in NETWORKS.items()}
QUICK = Scale(8, 16, 500, {"resnet152": 100, "vgg19": 200}, 50, "cnn", CLASSES)
FULL = Scale(DEVICES, 32, 1000, {"resnet152": 300, "vgg19": 900}, 200, "cnn", CLASSES)

_KEYS = ("model", "CR", "delta")
_SHARES = (
    Quantity("left out", ""),
    Quantity("CNC", ""),
    Quantity("change", "points", "+.1f"),
    Quantity("floats: share", "", ".3g"),
    Quantity("bytes: share", "", ".3g"),
)
_AMOUNTS = (
    Quantity("accuracy", "%", ".1f"),
    Quantity("floats", "", ".3g"),
    Quantity("sent", "GB", ".3g"),
    Quantity("stream time", "s", ".0f"),
)
_TITLE = "Adaptive compression"
_IN_NUMBERS = "accuracy (paper top-5, ours top-1), what a device sends in all"
_AXES = {
    "CNC": "compressed / all steps",
    "change": "accuracy change (points)",
    "floats: share": "floats / dense",
    "bytes: share": "bytes / dense",
}
_FORMAT = "rule: bytes in the format of the paper's program"
_PICTURE = "Adaptive compression: steps compressed, accuracy, floats and bytes, by delta"
_OFF = 1.3  # a printed number further than this from the printed CNC gets a note
_REMARKS = (
    "Dense: ScaDLES without compression. Ours: a run of as many steps with the same streams. Paper: the mean of its "
    "runs with CNC 0, which differ by 1.5 points among themselves for VGG19. Change: against that.",
    "The gate follows the paper's text: squared norms of the whole gradient, EWMA (newest step 0.3); its program "
    "compares sums of layer norms, which lets more steps through. Left out: what it measures, "
    "averaged over the run, with the residual in the gradient.",
    "Floats as the paper counts them: n in a dense step, CR n in a compressed one, indices left out.",
    "Bytes are those that our code sends for the charged network: values of 8 bits, positions near their entropy, "
    "dense steps around a ring. Rule: what the paper's program would send with our CNC, 96 bits a float and gathered "
    "from all: more than dense where CR > 2 / (3 N).",
    "delta cost: not the paper's; our gate that compresses where it saves time, whatever stays behind.",
)


def measure(options: Options, runs: Runs) -> Outcome:
    """Train both networks' stand-ins with every CR and delta, with the gate by cost, and dense."""
    size = QUICK if options.quick else FULL
    found = [(name, ratio, delta) for name in NETWORKS for ratio, delta in _settings()]
    configs = {("compression", *key): _config(options, size, key) for key in found}
    folders = runs.get(configs, {key: float(config.steps or 0) for key, config in configs.items()})
    results = {key: learning.learnt(folders[key_of("compression", *key)]) for key in found}
    shares = [_share_row(key, results, size.devices) for key in found]
    amounts = [_amount_row(key, results[key]) for key in found]
    tables = (
        Table(f"{_TITLE} against none", _KEYS, _SHARES, shares, _remarks(options, size, shares)),
        Table(f"{_TITLE}: {_IN_NUMBERS}", _KEYS, _AMOUNTS, amounts),
    )
    panels = [_panel(tables[0], *which) for which in product(_AXES, NETWORKS, RATIOS)]
    return Outcome(tables, partial(plot_panels, _PICTURE, panels, columns=4))


def _settings() -> list[tuple[float | None, float | str | None]]:
    return [(None, None), *product(RATIOS, DELTAS)]


def _config(options: Options, size: Scale, key: Setting) -> RunConfig:
    network, ratio, delta = key
    gate = {"gate": "cost"} if delta == COST else {"gate": "norm", "delta": delta}
    method = {"method": "scadles", "compression": {} if ratio is None else {"ratio": ratio, **gate}}
    shared = learning.settings(options, size, (network, STREAMS))
    config = load_config(merged(merged(shared, method), {"steps": size.steps[network]}))
    dense_s = size.steps[network] * scadles_step_s(rates_of(config), NETWORKS[network])
    return load_config(config, [f"evaluation.every_s={dense_s / size.tests}"])


def _share_row(key: Setting, results: Mapping[Setting, Learnt], devices: int) -> Row:
    network, ratio, _ = key
    ours, whole = results[key], results[network, None, None]
    paper, paper_whole = _paper(key), dense(network)
    floats = floats_share(ours.cnc, ratio or 1.0)
    read = partial(_read, paper)
    return Row(
        _names(key),
        (
            Cell(ours.left_out),
            Cell(ours.cnc, read(lambda run: run.cnc)),
            Cell(100 * (ours.final - whole.final), read(lambda run: run.accuracy - paper_whole.accuracy)),
            Cell(floats, read(lambda run: run.floats / paper_whole.floats), note=_contradiction(key)),
            Cell(
                ours.bytes_per_step / whole.bytes_per_step,
                rule=published_bytes_share(ours.cnc, ratio, devices) if ratio else 1.0,
            ),
        ),
    )


def _amount_row(key: Setting, ours: Learnt) -> Row:
    network, ratio, _ = key
    floats = ours.steps * NETWORKS[network].parameters * floats_share(ours.cnc, ratio or 1.0)
    return Row(
        _names(key),
        (
            Cell(100 * ours.final, _read(_paper(key), lambda run: run.accuracy)),
            Cell(floats, _read(_paper(key), lambda run: run.floats)),
            Cell(ours.bytes_sent / 1e9),
            Cell(float(ours.step_time_s[-1])),
        ),
    )


def _paper(key: Setting) -> Compressed | None:
    network, ratio, delta = key
    if ratio is None:
        return dense(network)
    return COMPRESSION[network, ratio, delta] if isinstance(delta, float) else None


def _read(run: Compressed | None, what: Callable[[Compressed], float]) -> float | None:
    return None if run is None else what(run)


def _names(key: Setting) -> tuple[str, str, str]:
    network, ratio, delta = key
    return NETWORKS[network].title, "dense" if ratio is None else f"{ratio:g}", "–" if delta is None else str(delta)


def _contradiction(key: Setting) -> str:
    """Return a note where the paper's floats do not follow from its CNC."""
    paper = _paper(key)
    if paper is None or key[1] is None:
        return ""
    printed, expected = paper.floats / dense(key[0]).floats, floats_share(paper.cnc, key[1])
    if max(printed / expected, expected / printed) < _OFF:
        return ""
    return f"by the paper's rule its CNC of {paper.cnc:g} makes {expected:.2g}"


def _remarks(options: Options, size: Scale, rows: list[Row]) -> tuple[str, ...]:
    steps = " and ".join(f"{size.steps[name]} ({NETWORKS[name].title})" for name in NETWORKS)
    return (
        learning.what_is_learnt(options, size),
        f"{learning.how_it_is_learnt(size)} One seed, streams {STREAMS} (the paper does not tell which), truncation; "
        f"{steps} steps, about 1e4 in the paper. Accuracy: the mean of the last tenth of all tests.",
        *_REMARKS,
        _comparison(rows),
    )


def _comparison(rows: list[Row]) -> str:
    """Return in how many of the paper's settings ours is worse."""
    pairs = [row.cells[1:] for row in rows if row.cells[1].paper is not None and row.keys[1] != "dense"]
    fewer = sum((cnc.ours or 0) < (cnc.paper or 0) - 0.01 for cnc, *_ in pairs)
    worse = sum((change.ours or 0) < (change.paper or 0) - 0.5 for _, change, _, _ in pairs)
    idle = max((abs(change.ours or 0) for cnc, change, _, _ in pairs if cnc.ours == 0), default=0.0)
    return (
        f"Chance: where no step was compressed, ours is up to {idle:.1f} points off dense: selection takes time, and "
        f"other samples arrive meanwhile. Where ours is worse, of {len(pairs)} settings: fewer steps compressed in "
        f"{fewer}; accuracy changed for the worse by over half a point more than in the paper in {worse}."
    )


def _panel(table: Table, quantity: str, network: str, ratio: float) -> CurvePanel:
    index = [known.name for known in table.quantities].index(quantity)
    wanted = (NETWORKS[network].title, f"{ratio:g}")
    cells = {row.keys[2]: row.cells[index] for row in table.rows if row.keys[:2] == wanted}
    level = cells.pop(COST).ours or 0.0
    x = np.array([float(delta) for delta in cells])
    curves = [
        Curve(name, x, np.array([getattr(cell, source) for cell in cells.values()]), source, style)
        for name, source, style in (("ours", "ours", "line"), (_FORMAT, "rule", "dashed"), ("paper", "paper", "points"))
        if all(getattr(cell, source) is not None for cell in cells.values())
    ]
    ends = (0.0, level) if quantity == "change" else (0.0, 1.0, level)
    values = np.concatenate([ends, *(curve.y for curve in curves)])
    room = 0.12 * float(np.ptp(values)) or 1.0
    return CurvePanel(
        title=f"{wanted[0]}, CR {wanted[1]}",
        y_label=_AXES[quantity],
        x_label="delta",
        curves=curves,
        levels=[Level(level, "gate by cost", "ours")],
        y_range=(float(values.min()) - room / 2, float(values.max()) + room),
    )


COMPRESSION_EXPERIMENT = Experiment(
    "compression", "steps compressed, accuracy, floats and bytes sent, by CR and delta", measure, learns=True
)
