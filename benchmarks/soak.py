"""A soak: does a run that goes on and on need more and more memory?

Runs ``scadles train --local 2`` (skewed labels, shared samples, adaptive compression with what is kept back, tests,
checkpoints, events), or one ``scadles simulate``, and looks at the memory of every process every few seconds
(/proc/PID/smaps_rollup, so only on Linux): resident, and private, which is what a process does not share with the one
that it was forked from. A line is fitted to what comes after a warm-up, and to the two halves of it, whose slopes say
whether growth ends. Writes ``soak.json`` and, where matplotlib is installed, ``soak.png`` beside the run.

    python benchmarks/soak.py [--minutes 10] [--speed 10] [--simulate] [--steps 100000] [--set KEY=VALUE] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from scadles.config.tree import merged
from scadles.errors import MissingExtraError
from scadles.observe.drawing import COLOURS, draw_legend, dress, finish, new_figure

DEVICES = 2
KINDS = {"resident": "Rss", "private": "Private_Dirty"}
SETTINGS: dict[str, Any] = {
    "devices": DEVICES,
    "picture": False,
    "data": {"partition": "dirichlet", "alpha": 1.0},
    "stream": {"rates": [60, 40], "profile": ["poisson", "bursts"]},
    "batch": {"max": 128},
    "optimizer": {"momentum": 0.0},
    "compression": {"ratio": 0.05, "gate": "norm", "delta": 0.55, "momentum": 0.9},  # some steps dense, some not
    "injection": {"alpha": 0.5, "beta": 0.2},
    "evaluation": {"every_s": 30},
    "checkpoint": {"every_steps": 100},
}


def memory_mb(pid: int) -> dict[str, float] | None:
    """Return what a process holds, in MB by kind; None where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return {kind: found[name] * 1024 / 1e6 for kind, name in KINDS.items()}


def processes(pid: int, *, simulated: bool) -> dict[int, int]:
    """Return the process of each device, found by the name that it has."""
    if simulated:
        return {0: pid}
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        name = Path(f"/proc/{child}/comm").read_text().strip()
        if name.startswith("device "):
            found[int(name.removeprefix("device "))] = int(child)
    return found


def watch(command: list[str], every_s: float, *, simulated: bool) -> dict[int, list[tuple[float, float, float]]]:
    """Run a command; return seconds, resident and private MB of each device at each look."""
    looks: dict[int, list[tuple[float, float, float]]] = {}
    started_s = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as run:
        due_s = started_s
        while run.poll() is None:
            due_s += every_s
            time.sleep(max(0.0, due_s - time.monotonic()))
            try:
                pids = processes(run.pid, simulated=simulated)
            except (FileNotFoundError, ProcessLookupError):
                break
            for device, pid in pids.items():
                held = memory_mb(pid)
                if held is not None:
                    now_s = time.monotonic() - started_s
                    looks.setdefault(device, []).append((now_s, held["resident"], held["private"]))
    if run.returncode:
        raise SystemExit(f"the run ended with {run.returncode}")
    return looks


def slope_mb_h(seconds: np.ndarray, held_mb: np.ndarray) -> float:
    """Return the slope of a line through what was held, MB an hour."""
    return float(np.polyfit(seconds / 3600, held_mb, 1)[0]) if len(seconds) > 2 else float("nan")


def account(looks: list[tuple[float, float, float]], warm_up: float) -> dict[str, Any]:
    """Return the slopes of one device after the warm-up, a share of the time, and of the halves of the rest."""
    table = np.array(looks)
    late = table[table[:, 0] >= warm_up * table[-1, 0]]
    halves = np.array_split(late, 2)
    found: dict[str, Any] = {"looks": len(table), "minutes": round(float(table[-1, 0]) / 60, 1)}
    for column, kind in enumerate(KINDS, start=1):
        found[kind] = {
            "first_mb": round(float(late[0, column]), 2),
            "last_mb": round(float(late[-1, column]), 2),
            "most_mb": round(float(table[:, column].max()), 2),
            "slope_mb_h": round(slope_mb_h(late[:, 0], late[:, column]), 3),
            "halves_mb_h": [round(slope_mb_h(half[:, 0], half[:, column]), 3) for half in halves],
        }
    return found


def draw(looks: dict[int, list[tuple[float, float, float]]], accounts: dict[int, Any], out: Path) -> None:
    """Draw what every device held over the time."""
    figure = new_figure(5.2)
    for place, kind in enumerate(KINDS, start=1):
        axes = figure.add_subplot(1, len(KINDS), place)
        dress(axes, f"Memory: {kind}", "MB", "wall time (minutes)")
        for device, rows in looks.items():
            table = np.array(rows)
            name = f"device {device}: {accounts[device][kind]['slope_mb_h']:+.2f} MB an hour"
            axes.plot(table[:, 0] / 60, table[:, place], color=COLOURS[device], label=name)
        axes.set_xlim(0, max(rows[-1][0] for rows in looks.values()) / 60)
        draw_legend(axes, ncols=1, loc="lower right")
    finish(figure, "", out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="wall time of a real run")
    parser.add_argument("--steps", type=int, default=100_000, help="of a simulated one")
    parser.add_argument("--speed", type=float, default=10.0, help="stream seconds in a wall second")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--every-s", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--warm-up", type=float, default=0.2, help="share of the time that is not counted")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = options.out or Path(tempfile.mkdtemp(prefix="scadles-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    ends = {"steps": options.steps} if options.simulate else {"duration_s": 60 * options.minutes * options.speed}
    clock = {} if options.simulate else {"clock": {"speed": options.speed}}
    config = folder / "soak.yaml"
    config.write_text(yaml.safe_dump(merged(SETTINGS, {**ends, **clock})))
    kind = ["simulate", str(config)] if options.simulate else ["train", str(config), "--local", str(DEVICES)]
    given = [part for setting in options.set for part in ("--set", setting)]
    command = [sys.executable, "-m", "scadles", *kind, *given, "--quiet", "--out", str(folder / "run")]
    looks = watch(command, options.every_s, simulated=options.simulate)
    accounts = {device: account(rows, options.warm_up) for device, rows in looks.items()}
    summary = json.loads((folder / "run" / "summary.json").read_text())
    result = {"steps": summary["steps"], "set": options.set, "devices": accounts, "looks": looks}
    (folder / "soak.json").write_text(json.dumps(result))
    print(f"{summary['steps']:,} steps of {DEVICES} devices, {'simulated' if options.simulate else 'real'}")
    print(f"{'device':>6} {'memory':10} {'then MB':>8} {'end MB':>8} {'MB/h':>8} {'halves, MB/h':>20}")
    for device, found in accounts.items():
        for kind_of in KINDS:
            row = found[kind_of]
            halves = ", ".join(f"{slope:+.2f}" for slope in row["halves_mb_h"])
            print(
                f"{device:6} {kind_of:10} {row['first_mb']:8.1f} {row['last_mb']:8.1f} {row['slope_mb_h']:+8.2f} "
                f"{halves:>20}"
            )
    try:
        draw(looks, accounts, folder / "soak.png")
    except MissingExtraError as error:
        print(error)
    print(f"results: {folder}")


if __name__ == "__main__":
    main()
