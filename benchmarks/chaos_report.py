"""What failures of devices and their hub have cost the others, and what is wrong in the end."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from fleet_account import look_at_events

from scadles.observe.presence import plot_presence

if TYPE_CHECKING:
    from chaos import Chaos

OF_DEVICES = ("kill", "stop")


@dataclass
class Failure:
    """What was done to whom, and what the others lost by it."""

    kind: str
    moment: str
    who: list[str]
    at_s: float
    step: int
    lost_s: float = 0.0


def look_at_losses(chaos: Chaos) -> float:
    """Find for each failure the longest time without a step until the next failure; return the median step."""
    gaps = list(pairwise(at for at, step in chaos.progress if step <= chaos.last_fed))
    median_s = statistics.median(end - begin for begin, end in gaps)
    hubs = [failure.at_s for failure in chaos.failures if failure.kind not in OF_DEVICES]
    for number, failure in enumerate(chaos.failures):
        later = chaos.failures[number + 1 :]
        until_s = later[0].at_s if later else gaps[-1][1]
        within = [(begin, end) for begin, end in gaps if end > failure.at_s and begin < until_s]
        if failure.kind in OF_DEVICES:  # what the hub's end has cost is not this one's
            within = [(begin, end) for begin, end in within if not any(begin <= at < end for at in hubs)]
        failure.lost_s = max([0.0, *(end - begin - median_s for begin, end in within)])
    return median_s


def table(chaos: Chaos) -> list[str]:
    """Return a table of how much time the failures have cost."""
    lines = [f"{'what':<22} {'count':>5} {'median lost':>12} {'most lost':>10}"]
    groups: dict[str, list[float]] = {}
    for failure in chaos.failures:
        groups.setdefault(f"{failure.kind}, {failure.moment}", []).append(failure.lost_s)
        groups.setdefault(f"all of {failure.kind}", []).append(failure.lost_s)
        if failure.kind in OF_DEVICES:
            groups.setdefault("all devices", []).append(failure.lost_s)
    for what, lost in sorted(groups.items()):
        lines.append(f"{what:<22} {len(lost):>5} {statistics.median(lost):>10.2f} s {max(lost):>8.2f} s")
    return lines


def report(chaos: Chaos, folders: dict[str, Path], wrong: list[str], ledgers: list[str]) -> None:
    """Print what was lost and what is wrong, and write it down; exit with 1 where something is."""
    root, median_s = chaos.root, look_at_losses(chaos)
    found, counts = look_at_events(folders, chaos.batch)
    wrong = [*chaos.wrong, *found, *wrong]
    wrong += [f"{one.name}: exit codes {one.codes}" for one in chaos.everybody() if one.codes[-1:] != [one.ends_with]]
    took = [json.loads(line) for one in chaos.devices for line in one.times.read_text().splitlines()]
    for line in (*table(chaos), *ledgers):
        print(line)
    print(f"a step takes {1000 * median_s:.0f} ms; {', '.join(f'{what} {count}' for what, count in counts.items())}")
    startup, admission = (statistics.median(column) for column in zip(*took, strict=True))
    print(f"a device starts in {startup:.1f} s and is there {admission:.2f} s later (medians)")
    texts = "".join(one.said.read_text() for one in chaos.everybody())
    if tracebacks := texts.count("Traceback"):
        wrong.append(f"{tracebacks} tracebacks in {root}/*.txt")
    print(
        "\n".join(wrong) if wrong else "exact: all ended, ledgers balance, every sample once, models equal to the bit"
    )
    (root / "chaos.json").write_text(
        json.dumps(
            {
                "failures": [vars(failure) for failure in chaos.failures],
                "codes": {one.name: one.codes for one in chaos.everybody()},
                "median_step_s": median_s,
                "counts": counts,
                "wrong": wrong,
            },
            indent=1,
        )
    )
    plot_presence([path for folder in folders.values() for path in folder.glob("events-*.jsonl")], root / "chaos.png")
    print(f"results: {root}")
    if wrong:
        sys.exit(1)
