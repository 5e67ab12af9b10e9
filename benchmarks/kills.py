"""A hundred kills -9 while checkpoints are written: is the run that is resumed each time the one that nobody disturbed?

Two devices write a checkpoint every three steps. Each time, one of them writes (its unfinished file is there) when,
after a random time of up to 3 ms, somebody is killed: this device, the other one, the launcher, or all at once; in
every second attempt the writing device is stopped first, so that its file is certainly unfinished. Then the run is
resumed. At the end the same steps are taken by a run that is left alone, and compared with it: every ledger in the
events balances, every sample up to the last one was trained on once, totals are equal, and the models are equal to the
bit. Batches are of a fixed size and every sample is kept (persistence), so that what a step consists of does not depend
on time; samples are shared and gradients compressed, and the events are so many that old ones are thinned.

    python benchmarks/kills.py [--kills 100] [--seed 0] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import yaml
from soak import processes

import scadles.training.run  # noqa: F401  imported once, for all attempts
from scadles.cli.app import main as scadles_main
from scadles.observe import RunFolder, Step, Thinned, events_path, read_events

DEVICES = 2
EVERY = 3
LATEST_S = 0.003
WHO = ("the writing device", "the other device", "the launcher", "all")
WHERE = ("trained", "dropped", "held", "rejected")
SETTINGS: dict[str, Any] = {
    "method": "ddl",
    "devices": DEVICES,
    "steps": 1_000_000,
    "picture": False,
    "stream": {"rates": [60, 40], "profile": ["poisson", "bursts"]},
    "batch": {"size": 8, "max_wait_s": 1000},
    "clock": {"speed": 40},
    "optimizer": {"momentum": 0.0},
    "compression": {"ratio": 0.1, "gate": "always", "momentum": 0.9},
    "injection": {"alpha": 1.0, "beta": 0.25},
    "checkpoint": {"every_steps": EVERY},
    "events": {"max_mb": 1},
}


def start(arguments: list[str], said: Path) -> Any:
    """Start ``scadles ARGUMENTS`` in a process forked from this one; what it says goes to a file."""
    process = get_context("fork").Process(target=_be_scadles, args=(arguments, said))
    process.start()
    return process


def _be_scadles(arguments: list[str], said: Path) -> None:
    os.setsid()
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["scadles", *arguments]
    scadles_main()


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def half_written(folder: Path) -> bool:
    return any(folder.glob("*.tmp"))


class Attempt:
    """One start of the run, up to its kill.

    Args:
        arguments: of ``scadles``.
        folder: of the run.
        said: where its output goes.
        luck: what draws whom to kill, and when.
    """

    def __init__(self, arguments: list[str], folder: Path, said: Path, luck: random.Random) -> None:
        self._luck, self._folder = luck, folder
        self._launcher = start(arguments, said)
        self._pids: dict[int, int] = {}

    def kill(self, *, stop_first: bool) -> tuple[str, bool]:
        """Kill somebody while a checkpoint is written; return whom, and whether the file was half written then."""
        writing, who = self._luck.randrange(DEVICES), self._luck.choice(WHO)
        store = self._folder / "checkpoints" / f"device-{writing}"
        for _ in range(self._luck.randint(0, 7)):  # these are written undisturbed
            self._until(lambda: half_written(store))
            self._until(lambda: not half_written(store))
        self._until(lambda: half_written(store))
        if stop_first:
            os.kill(self._pids[writing], signal.SIGSTOP)
        else:
            time.sleep(self._luck.random() * LATEST_S)
        caught = half_written(store)
        victims = {
            "the writing device": [self._pids[writing]],
            "the other device": [self._pids[1 - writing]],
            "the launcher": [self._launcher.pid],
            "all": [self._launcher.pid, *self._pids.values()],
        }[who]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        if stop_first and alive(self._pids[writing]):
            os.kill(self._pids[writing], signal.SIGCONT)
        self._wait()
        return who, caught

    def _until(self, condition: Any) -> None:
        deadline_s = time.monotonic() + 120
        while len(self._pids) < DEVICES or not condition():
            if time.monotonic() > deadline_s or not self._launcher.is_alive():
                raise SystemExit(f"no checkpoint was being written: exit code {self._launcher.exitcode}")
            if len(self._pids) < DEVICES:
                self._pids = processes(self._launcher.pid, simulated=False)
            time.sleep(0.0002)

    def _wait(self) -> None:
        """Wait until every process has ended."""
        self._launcher.join(60)
        deadline_s = time.monotonic() + 60
        while left := [pid for pid in self._pids.values() if alive(pid)]:
            if time.monotonic() > deadline_s:
                raise SystemExit(f"processes {left} did not end")
            time.sleep(0.01)


def check(folder: Path, alone: Path) -> list[str]:
    """Return in words what is wrong with a run, whose steps another one took undisturbed; empty where nothing is."""
    wrong, run, other = [], RunFolder(folder), RunFolder(alone)
    wrong += run.gaps()
    if run.summary.model_sha256 != other.summary.model_sha256:
        wrong.append(f"models differ: {run.summary.model_sha256[:8]} and {other.summary.model_sha256[:8]}")
    for device in range(DEVICES):
        for line in events_path(folder, device).read_text().splitlines():
            ledger = json.loads(line).get("ledger")
            if ledger and ledger["received"] != sum(map(ledger.get, WHERE)):
                wrong.append(f"device {device}: {line}")
        mine, its = (of.summary.per_device[device] for of in (run, other))
        for name in ("trained", "dropped", "rejected", "injected"):
            if getattr(mine.samples, name) != getattr(its.samples, name):
                wrong.append(f"device {device}: {name} {getattr(mine.samples, name)}, {getattr(its.samples, name)}")
        if mine.samples.trained != SETTINGS["batch"]["size"] * run.summary.steps:
            wrong.append(f"device {device}: trained {mine.samples.trained} in {run.summary.steps} steps")
        if mine.shared != its.shared:
            wrong.append(f"device {device}: shared {mine.shared}, {its.shared}")
        wrong += steps_that_differ(folder, alone, device)
    return wrong


def steps_that_differ(folder: Path, alone: Path, device: int) -> list[str]:
    """Compare what every step that both runs still have was made of, and the sums over the others."""
    found = []
    for path in (events_path(folder, device), events_path(alone, device)):
        events = read_events(path)
        steps = {e.step: (e.batch, e.offsets, e.loss, e.injected) for e in events if isinstance(e, Step)}
        removed = [(e.removed.get("step", 0), e.trained) for e in events if isinstance(e, Thinned)]
        found.append((steps, removed[0] if removed else (0, 0)))
    (mine, (gone, trained)), (its, _) = found
    wrong = [f"device {device}, step {at}: {mine[at]}, {its[at]}" for at in mine if at in its and mine[at] != its[at]]
    account = trained + sum(batch for batch, *_ in mine.values())
    if len(mine) + gone != max(mine):
        wrong.append(f"device {device}: {len(mine)} steps and {gone} removed ones are not {max(mine)}")
    print(f"device {device}: {len(mine)} steps in the events, {gone} thinned; {account:,} samples trained in both")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    root = options.out or Path(tempfile.mkdtemp(prefix="scadles-kills-"))
    root.mkdir(parents=True, exist_ok=True)
    config, folder, said = root / "kills.yaml", root / "run", root / "said.txt"
    config.write_text(yaml.safe_dump(SETTINGS))
    luck = random.Random(options.seed)
    arguments = ["train", str(config), "--local", str(DEVICES), "--quiet", "--out"]
    tally: Counter[str] = Counter()
    for number in range(options.kills):
        resume = ["--resume"] if (folder / "config.yaml").exists() else []
        attempt = Attempt([*arguments, str(folder), *resume], folder, said, luck)
        who, caught = attempt.kill(stop_first=number % 2 == 0)
        tally[who] += 1
        tally["while the file was half written"] += caught
    steps = 20 + max((e.step for e in read_events(events_path(folder, 0)) if isinstance(e, Step)), default=0)
    for path, resume in ((folder, ["--resume"]), (root / "alone", [])):
        run = start([*arguments, str(path), *resume, "--set", f"steps={steps}"], said)
        run.join()
        if run.exitcode:
            raise SystemExit(f"{path} ended with {run.exitcode}: {said.read_text()[-2000:]}")
    print(f"{options.kills} kills, {steps} steps: " + ", ".join(f"{what} {count}" for what, count in tally.items()))
    wrong = check(folder, root / "alone")
    tracebacks = said.read_text().count("Traceback")
    wrong += [f"{tracebacks} tracebacks in {said}"] if tracebacks else []
    print("\n".join(wrong) if wrong else "exact: ledgers balance, every sample once, models equal to the bit")
    print(f"results: {root}")
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
