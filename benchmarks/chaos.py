"""Devices of a hub are killed and stopped at random moments: what do the others lose, and is every sample trained once?

A hub and its devices run as processes of their own. Again and again one of them is killed with -9 and started again,
or stopped for a while: at any moment, while it starts, before a test or a checkpoint, while somebody is given the state
of the others, two at once. With ``--hubs`` the hub is killed and started again too; with ``--backs`` the hub and all
devices but one, which stands still until the others have gone on from an older state, and must go back to it.

Batches are of a fixed size and every sample is kept, so that offsets tell which samples a step was on. In the end every
process must end by itself; every sample up to the last one was trained on once, ledgers balance, all models are equal
to the bit.

Streams are replayed; with ``--kafka`` they are topics of a real broker, which ``scadles publish`` fills until shortly
before the end. Then each device must have received all that the broker says its topic ever had, and have it in its
ledger: trained, or held. That needs Java and Kafka (``KAFKA_HOME``).

    python benchmarks/chaos.py [--kafka] [--kills 30] [--hubs 0] [--backs 0] [--devices 4] [--least 1] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import yaml
from chaos_kafka import Topics, stream_settings, topics_in
from chaos_processes import Process, Tail
from chaos_report import Failure, report

TESTS_S, CHECKPOINTS = 5.0, 50
RATE_HZ, SPEED = 60, 3
LOOK_S = 0.004
STEPS_BETWEEN = (40, 80)
STEPS_AT_THE_END, STEPS_TO_CATCH_UP = 160, 1000
WAITS_FOR_MOMENT_S = 2.5
HANGS_S = 45.0
NO_SOONER_S = 0.5
STANDS_STILL_S = 8.0
STEPS_WITHOUT_PUBLISHER, WAITS_FOR_RECORDS_S = 80, 0.5
BATCH = 8
MOMENTS = ("any", "any", "test", "checkpoint", "start-up", "hand-over")
SETTINGS: dict[str, Any] = {
    "method": "ddl",
    "steps": 1,
    "picture": False,
    "target_accuracy": None,
    "stop_at_target": False,
    "batch": {"size": BATCH, "max_wait_s": 200},
    "clock": {"speed": SPEED},
    "evaluation": {"every_s": TESTS_S},
    "checkpoint": {"every_steps": CHECKPOINTS},
    "events": {"max_mb": 100},
}


class Chaos:
    """One run and what is done to it."""

    def __init__(self, root: Path, options: argparse.Namespace, topics: Topics | None) -> None:
        self.luck = random.Random(options.seed)
        self.root = root
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.plan = ["device"] * options.kills + ["hub"] * options.hubs + ["back"] * options.backs
        self.luck.shuffle(self.plan)
        self.at_steps = [40]
        for _ in self.plan[1:]:
            self.at_steps.append(self.at_steps[-1] + self.luck.randint(*STEPS_BETWEEN))
        # some come later than planned; who has a topic to catch up with takes its last steps fast
        at_the_end = STEPS_TO_CATCH_UP if options.kafka or options.backs else STEPS_AT_THE_END
        self.last_strike = self.at_steps[-1] + 10 * len(self.plan)
        steps = self.last_strike + at_the_end
        config = root / "chaos.yaml"
        settings = SETTINGS | {"devices": options.devices, "steps": steps, "fabric": {"min_devices": options.least}}
        settings["stream"] = {"rates": [RATE_HZ] * options.devices}
        self.tests_s = TESTS_S
        if topics is not None:
            self.tests_s = TESTS_S / SPEED
            rates = [RATE_HZ * SPEED] * options.devices
            settings |= stream_settings(topics, rates, BATCH, WAITS_FOR_RECORDS_S, self.tests_s)
        if options.share:
            settings["injection"] = {"alpha": 0.5, "beta": 0.25}
            settings["compression"] = {"ratio": 0.1, "gate": "always"}
        config.write_text(yaml.safe_dump(settings))
        address = f"127.0.0.1:{port}"
        self.hub = Process("hub", ["hub", str(config), "--listen", address, "--out", str(root / "hub")], root)
        names = [f"cam-{i + 1}" for i in range(options.devices)]
        allowed = ["--allow", f"stream.url={settings['stream']['url']}"] if topics is not None else []
        self.devices = [
            Process(name, ["join", address, "--name", name, "--out", str(root / name), "--quiet", *allowed], root)
            for name in names
        ]
        self.tails = [Tail(root / name) for name in names]
        self.publishers = [topics.publish(config)] if topics is not None else []
        self.batch, self.last_fed = BATCH, steps - STEPS_WITHOUT_PUBLISHER
        self.steps, self.step, self._came, self._due_s = steps, 0, 0, 0.0
        self.progress: list[tuple[float, int]] = []
        self.failures: list[Failure] = []
        self.wrong: list[str] = []

    def everybody(self) -> list[Process]:
        return [self.hub, *self.devices, *self.publishers]

    def run(self) -> None:
        """Let the run go on to its end, and see to its failures."""
        for process in (self.hub, *self.devices):
            process.start()
        now_s = time.monotonic()
        self._moved_s, self._struck_s, self._moment = now_s, now_s, self.luck.choice(MOMENTS)
        while any(one.runs or one.was_killed for one in self.everybody()):
            for one in self.everybody():
                one.look()
                self._look_for_end(one)
            now_s, step = time.monotonic(), max([tail.look() for tail in self.tails])
            if step > self.step:
                self.progress.append((now_s, step))
                self.step, self._moved_s = step, now_s
            if now_s - self._moved_s > HANGS_S:
                self._say_who_hangs()
                return
            self._strike_if_it_is_time(now_s)
            if self.step >= self.last_fed:
                for publisher in self.publishers:
                    publisher.end()
            time.sleep(LOOK_S)
        for one in self.everybody():
            self._look_for_end(one)

    def _look_for_end(self, process: Process) -> None:
        if process.runs or process.was_killed or process.now is None:
            return
        process.codes.append(process.now.exitcode)
        if process.now.exitcode != process.ends_with:
            said = process.said.read_text()[-1500:]
            self.wrong.append(f"{process.name} ended with {process.now.exitcode}: {said}")
        process.now = None

    def _strike_if_it_is_time(self, now_s: float) -> None:
        number, last = len(self.failures), self.last_strike
        if not self.plan or not self.at_steps[number] <= self.step <= last or now_s - self._struck_s < NO_SOONER_S:
            return
        if not self._here():
            return
        self._due_s = self._due_s or now_s
        is_now = self._is_now(self._moment, self.step)
        if is_now or now_s - self._due_s > WAITS_FOR_MOMENT_S:
            self._strike(self._moment if is_now else "any", self.step)
            self._struck_s, self._moment, self._came, self._due_s = now_s, self.luck.choice(MOMENTS), 0, 0.0

    def _here(self) -> list[Process]:
        return [one for one in self.devices if one.runs and not one.is_stopped]

    def _is_now(self, moment: str, step: int) -> bool:
        if moment == "test":
            return any(tail.step == step and tail.time_s > tail.tested_s + self.tests_s - 0.2 for tail in self.tails)
        if moment == "checkpoint":
            return (step + 1) % CHECKPOINTS == 0
        if moment == "start-up":
            return any(one.runs and time.monotonic() - one.started_s < 2 for one in self.devices)
        if moment == "hand-over":
            before, self._came = self._came, self.hub.said.read_text().count("takes part")
            return 0 < before < self._came
        return True

    def _strike(self, moment: str, step: int) -> None:
        what, luck = self.plan.pop(), self.luck
        time.sleep(luck.random() * {"start-up": 1.5, "any": 0.05}.get(moment, 0.03))
        if what == "hub":
            self.failures.append(Failure("hub", moment, ["hub"], time.monotonic(), step))
            if self.hub.runs:
                self.hub.kill(luck.random())
            return
        here = self._here()
        if what == "back":
            self._let_one_go_back(moment, step, here)
            return
        if moment == "start-up":
            here = [one for one in here if time.monotonic() - one.started_s < 4] or here
        kind = luck.choice(("kill", "kill", "stop"))
        who = luck.sample(here, min(len(here), 2 if luck.random() < 0.15 else 1))
        self.failures.append(Failure(kind, moment, [one.name for one in who], time.monotonic(), step))
        for one in who:
            if kind == "kill":
                one.kill(2 * luck.random())
            else:
                one.stop(luck.choice((0.3, 1.5, 4.0)) * (0.5 + luck.random()))

    def _let_one_go_back(self, moment: str, step: int, here: list[Process]) -> None:
        one = self.luck.choice(here)
        self.failures.append(Failure("back", moment, [one.name], time.monotonic(), step))
        one.stop(STANDS_STILL_S)
        for other in (self.hub, *self.devices):
            if other.runs and other is not one:
                other.kill(self.luck.random())

    def _say_who_hangs(self) -> None:
        for one in self.everybody():
            if one.runs:
                self.wrong.append(f"{one.name} hangs after step {self.step}")
                os.kill(one.now.pid, signal.SIGCONT)
                os.kill(one.now.pid, signal.SIGUSR1)
        time.sleep(1)
        for one in self.everybody():
            if one.runs:
                os.kill(one.now.pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--hubs", type=int, default=0)
    parser.add_argument("--backs", type=int, default=0)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--least", type=int, default=1)
    parser.add_argument("--kafka", action="store_true", help="streams are topics of a real broker")
    parser.add_argument("--share", action="store_true", help="devices share samples and compress gradients too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    root = (options.out or Path(tempfile.mkdtemp(prefix="scadles-chaos-"))).resolve()
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        topics = stack.enter_context(topics_in(root)) if options.kafka else None
        chaos = Chaos(root, options, topics)
        chaos.run()
        folders = {one.name: root / one.name for one in chaos.devices}
        wrong, ledgers = topics.look(folders) if topics is not None else ([], [])
    report(chaos, folders, wrong, ledgers)


if __name__ == "__main__":
    main()
