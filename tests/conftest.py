"""What all tests share: hypothesis without a stopwatch, and ways to be several devices at once."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch.distributed import TCPStore

from fork_server import spawn
from scadles.errors import PeerLostError
from scadles.fabric import LocalFabric

pytest_plugins = ["networks", "runs"]

# the same examples in every run of the same code; HYPOTHESIS_PROFILE=explore looks for others
settings.register_profile("scadles", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "scadles"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread_for_each_device():
    """Let torch compute small things in the thread that asks for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard():
    """Undo what a shell does to what it starts in the background; whatever tests start inherits it."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_in_threads(fabrics, work):
    """Do ``work(fabric)`` on every device at once; return the results, or raise what went wrong first of all."""

    def guarded(fabric):
        try:
            return work(fabric)
        except BaseException:
            fabric.close()  # so that the others need not wait for the deadline
            raise

    with ThreadPoolExecutor(len(fabrics)) as pool:
        outcomes = [pool.submit(guarded, fabric) for fabric in fabrics]
    errors = [error for outcome in outcomes if (error := outcome.exception())]
    # a lost peer is what the others see of the real error
    for error in sorted(errors, key=lambda error: isinstance(error, PeerLostError)):
        raise error
    return [outcome.result() for outcome in outcomes]


@pytest.fixture(scope="session")
def in_threads():
    """Run ``work(fabric)`` on the devices of a fresh local fabric (or of a given one) and return the results."""

    def run(devices, work):
        fabrics = LocalFabric.create(devices, deadline_s=30.0) if isinstance(devices, int) else devices
        return run_in_threads(fabrics, work)

    return run


@pytest.fixture(scope="session")
def in_processes(tmp_path_factory):
    """Run ``python script ARGUMENTS`` as the given devices of a gloo group on this machine.

    They meet in a store that outlives each of them, as under torchrun. Returns (exit code, standard output) of each.
    """

    def run(script, size, *arguments, ranks=None, timeout_s=110.0):
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        folder = tmp_path_factory.mktemp("devices")
        surroundings = {
            **os.environ,
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "RES_OPTIONS": "timeout:1 attempts:1",
            "OMP_NUM_THREADS": "1",
        }
        devices, said = [], []
        try:
            for rank in range(size) if ranks is None else ranks:
                said.append(folder / f"device-{rank}")
                with said[-1].open("w") as out:
                    env = surroundings | {"RANK": str(rank)}
                    devices.append(spawn([script, *arguments], cwd=Path.cwd(), env=env, stdout=out, stderr=2))
            deadline_s = time.monotonic() + timeout_s
            codes = [device.wait(max(0.0, deadline_s - time.monotonic())) for device in devices]
            return [(code, path.read_text()) for code, path in zip(codes, said, strict=True)]
        finally:
            for device in devices:
                device.kill()
                device.wait()

    return run


@pytest.fixture(scope="session")
def said_by(tmp_path_factory):
    """Run ``python -c CODE`` where nothing but torch is imported yet, and return what it printed."""

    def run(code):
        folder = tmp_path_factory.mktemp("code")
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            how = {"cwd": folder, "env": dict(os.environ), "stdout": out, "stderr": err, "imported": "torch"}
            ended = spawn(["-c", code], **how).wait(110)
        assert ended == 0, (folder / "err").read_text()
        return (folder / "out").read_text()

    return run
