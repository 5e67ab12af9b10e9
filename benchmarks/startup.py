"""What it costs to start: CPU seconds of a run of one step, and the time until its first step.

With ``--against PROGRAM``, another installation's ``scadles``, both take turns and ratios are printed:

    python benchmarks/startup.py --against ../other/.venv/bin/scadles
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits.yaml"


def cpu_s():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def first_step_at(folder):
    """Return when the first device wrote its first step, in seconds since 1970; None where nobody has yet."""
    for log in folder.glob("events-*.jsonl"):
        if any(json.loads(line)["event"] == "step" for line in log.read_text().splitlines() if line.endswith("}")):
            return time.time()
    return None


def measure(program, devices):
    """Return CPU seconds of the command, wall seconds, and those until the first step."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [program, "train", str(EXAMPLE), "--local", str(devices), "--set", "steps=1", "--out", str(out)]
        before_s, began_s = cpu_s(), time.time()
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        stepped_s = None
        while run.poll() is None and stepped_s is None:
            stepped_s = first_step_at(out)
            time.sleep(0.01)
        _, said = run.communicate()
        ended_s = time.time()
        if run.returncode:
            raise SystemExit(said)
        return cpu_s() - before_s, ended_s - began_s, (stepped_s or ended_s) - began_s


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--against", metavar="PROGRAM", help="another installation's scadles")
    options = parser.parse_args()
    programs = {"here": str(Path(sys.executable).with_name("scadles"))}
    if options.against:
        programs["against"] = options.against
    found = {name: [] for name in programs}
    print(f"{'':8}{'CPU s':>8}{'wall s':>8}{'first step s':>14}")
    for _ in range(options.repeats):
        for name, program in programs.items():
            found[name].append(measure(program, options.devices))
            print(f"{name:8}{found[name][-1][0]:8.2f}{found[name][-1][1]:8.2f}{found[name][-1][2]:14.2f}", flush=True)
    middle = {name: [median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    for name, (cpu, wall, first) in middle.items():
        print(f"median of {name}: {cpu:.2f} CPU s, {wall:.2f} s, first step after {first:.2f} s")
    if options.against:
        ratios = [theirs / ours for theirs, ours in zip(middle["against"], middle["here"], strict=True)]
        print("against / here: " + ", ".join(f"{ratio:.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
