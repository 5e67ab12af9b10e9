"""A hub under strangers: step time, CPU time and memory with and without them, in turns within one run.

A hub with TLS and real device processes that take steps. Strangers, from an address of their own, connect 1,000 times a
minute with random bytes, hold 200 handshakes half open, or begin 500 handshakes a second, each of which costs the hub
a signature. What the strangers themselves cost this machine is no cost of the hub: each kind also has turns in
which it does the same to a port where nobody speaks TLS, and is compared with those.

    python benchmarks/hub_strangers.py [--devices 4] [--parameters 100000] [--turns 4] [--seconds 2.5]
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections import defaultdict, deque
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import torch
from torch.multiprocessing import get_context

from scadles.fabric.hub import Hub, HubFabric, enrol
from scadles.security import Credentials, Guard, context_of_a_stranger
from scadles.testing.elastic import come_in

Address = tuple[str, int]

STRANGERS = "127.0.0.9" if sys.platform == "linux" else "127.0.0.1"
A_MINUTE = 1000
HALF_OPEN = 200
FLOOD_HZ = 500
PAUSE, DONE = -1, -2
WARM_UP = 20
KINDS = ("noise", "half-open", "handshakes")
QUIET = "nobody"


def hub(folder: str, devices: int, tell: Connection) -> None:
    """Serve; answer each question with resident bytes, seconds of CPU time, refused connections, lines said, steps."""
    guard = Guard(Path(folder), "benchmark")
    lines: list[str] = []
    serving = Hub("127.0.0.1", 0, devices, least=devices, guard=guard, say=lines.append)
    serving.start()
    tell.send((serving.address, guard.new_token(devices), guard.ca_hash))
    while tell.recv():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        state = serving.state()
        resident = pages * os.sysconf("SC_PAGE_SIZE")
        tell.send((resident, time.process_time(), state.refused, len(lines), state.step))
    serving.close()


def device(rank: int, address: Address, token: str, ca_hash: str, folder: str, turn: Synchronized, out: Connection,
           options: argparse.Namespace) -> None:  # fmt: skip
    """Take steps until the end; device 0 tells how long those took that began and ended in one turn."""
    torch.set_num_threads(1)
    name = f"device-{rank}"
    credentials = Credentials(Path(folder) / name)
    enrol(address, name, token, ca_hash, credentials)
    fabric = HubFabric(*address, name=name, credentials=credentials)
    come_in(fabric, 0)
    weight, bucket = torch.randn(300, 300), torch.empty(options.parameters)
    times: dict[int, list[float]] = defaultdict(list)
    over = torch.zeros(1)
    step = 0
    while not over.item():
        step, began_in = step + 1, turn.value
        start = time.perf_counter()
        for _ in range(5):
            weight = torch.tanh(weight @ weight)
        bucket.fill_(float(rank))
        fabric.note(step, {"step": step})
        fabric.reduce(bucket, "benchmark").wait()
        if began_in == turn.value:
            times[began_in].append(time.perf_counter() - start)
        over.fill_(float(turn.value == DONE))
        fabric.reduce(over, "the end").wait()
    expected = float(sum(range(options.devices)))
    if not bool((bucket == expected).all()):
        raise AssertionError(f"a sum is {bucket[0]}, not {expected}")
    if rank == 0:
        out.send(dict(times))
    fabric.close()


def stand_in(tell: Connection) -> None:
    """Accept connections where no hub is, and keep some of them, until the end."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        tell.send(listening.getsockname()[:2])
        held: deque[socket.socket] = deque(maxlen=HALF_OPEN)
        while tell not in wait([tell, listening]):
            held.append(listening.accept()[0])


def strangers(kind: str, address: Address, seconds: float) -> None:
    """Be strangers of a kind for so long."""
    begin, hello, noise = time.perf_counter(), client_hello(), random.Random(0)
    with ExitStack() as held:
        if kind == "half-open":
            for _ in range(HALF_OPEN):
                held.enter_context(call(address)).sendall(hello[:3])
        if kind in (QUIET, "half-open"):
            time.sleep(max(0.0, begin + seconds - time.perf_counter()))
            return
        hz = A_MINUTE / 60 if kind == "noise" else FLOOD_HZ
        for number in range(round(seconds * hz)):
            with suppress(OSError), call(address) as one:
                one.sendall(noise.randbytes(200) if kind == "noise" else hello)
            time.sleep(max(0.0, begin + number / hz - time.perf_counter()))


def call(address: Address) -> socket.socket:
    """Connect from the strangers' address."""
    return socket.create_connection(address, 10.0, source_address=(STRANGERS, 0))


def client_hello() -> bytes:
    """Return the first bytes of a TLS handshake."""
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context_of_a_stranger().wrap_bio(coming, going).do_handshake()
    return going.read()


def report(ways: list[tuple[str, str]], times: dict[int, list[float]], asked: list[tuple[int, ...]],
           options: argparse.Namespace) -> None:  # fmt: skip
    """Print, for each kind, medians and ratios turn by turn; and the hub's memory."""
    print(
        f"{options.devices} devices, {options.parameters:,} parameters, {options.turns} turns of {options.seconds:g} s"
    )
    print(f"{'strangers':12}{'ms a step':>11}{'to nobody':>11}{'elsewhere':>11}{'hub CPU':>9}{'refused':>9}")
    median = {turn: statistics.median(taken) for turn, taken in times.items() if turn >= 0}
    count = len(ways)
    if len(median) < count * options.turns:
        raise SystemExit("no step began and ended in one of the turns: give more --seconds")
    rounds = [range(begin, begin + count) for begin in range(0, count * options.turns, count)]

    def ratios(way: tuple[str, str], other: tuple[str, str]) -> float:
        pairs = [(turns[ways.index(way)], turns[ways.index(other)]) for turns in rounds]
        return statistics.median(median[one] / median[two] for one, two in pairs)

    for way in ways:
        kind, where = way
        if where != "hub":
            continue
        mine = [turns[ways.index(way)] for turns in rounds]
        cpu = sum(asked[2 * turn + 1][1] - asked[2 * turn][1] for turn in mine) / (options.seconds * len(mine))
        refused = sum(asked[2 * turn + 1][2] - asked[2 * turn][2] for turn in mine)
        elsewhere = "" if kind == QUIET else f"{ratios(way, (kind, 'elsewhere')):.2f}"
        step_ms = statistics.median(median[turn] for turn in mine) * 1e3
        to_nobody = ratios(way, (QUIET, "hub"))
        print(f"{kind:12}{step_ms:11.2f}{to_nobody:11.2f}{elsewhere:>11}{cpu:8.1%}{refused:9,}")
    resident = [f"{asked[2 * turns[-1] + 1][0] / 1e6:.1f}" for turns in rounds]
    print(f"hub's memory: {asked[0][0] / 1e6:.1f} MB before, {', '.join(resident)} after each round")
    print(f"lines that the hub said: {asked[-1][3]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--parameters", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2.5)
    options = parser.parse_args()
    context = get_context("spawn")
    turn = context.Value("i", PAUSE, lock=False)
    ways = [(QUIET, "hub"), *((kind, where) for kind in KINDS for where in ("hub", "elsewhere"))]
    with tempfile.TemporaryDirectory() as folder:
        serving, theirs = context.Pipe()
        other, others = context.Pipe()
        first, firsts = context.Pipe()
        processes = [
            context.Process(target=hub, args=(f"{folder}/hub", options.devices, theirs), daemon=True),
            context.Process(target=stand_in, args=(others,), daemon=True),
        ]
        for process in processes:
            process.start()
        address, token, ca_hash = serving.recv()
        places = {"hub": address, "elsewhere": other.recv()}
        arguments = (address, token, ca_hash, folder, turn, firsts, options)
        devices = [context.Process(target=device, args=(rank, *arguments)) for rank in range(options.devices)]
        for process in devices:
            process.start()

        def ask() -> tuple[int, ...]:
            serving.send("how are you?")
            return serving.recv()

        try:
            while ask()[-1] < WARM_UP:
                time.sleep(0.1)
            asked = []
            for number in range(options.turns * len(ways)):
                kind, where = ways[number % len(ways)]
                strangers(kind, places[where], options.seconds / 2)  # what may come at once has come
                asked.append(ask())
                turn.value = number
                strangers(kind, places[where], options.seconds)
                turn.value = PAUSE
                asked.append(ask())
                time.sleep(options.seconds / 4)  # until the last of them are over
        finally:
            turn.value = DONE
        report(ways, first.recv(), asked, options)
        for process in devices:
            process.join()
        serving.send("")
        other.send("")
        for process in processes:
            process.join()
    return max(abs(one.exitcode or 0) for one in devices)


if __name__ == "__main__":
    sys.exit(main())
