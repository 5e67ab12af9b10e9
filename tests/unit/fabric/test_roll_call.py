import os
import subprocess
import sys
from datetime import timedelta

import pytest
from torch.distributed import HashStore, TCPStore

from scadles.clock import wall_seconds
from scadles.fabric import roll_call
from scadles.fabric.roll_call import RollCall


@pytest.fixture(autouse=True)
def one_host(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(roll_call, "_HUNG_S", 0.1)


@pytest.fixture
def ended():
    """The number of a process that has ended and that nobody has waited for."""
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()
    process.stdout.close()


def call_of_device_1(processes, sleep=lambda _: None):
    """A roll call by device 1 of three; the others arrived as these processes."""
    store = HashStore()
    for rank, pid in processes.items():
        store.set(f"joined/{rank}", str(pid))
    return store, RollCall(store, 1, 3, sleep)


def not_to_be_waited(_):
    pytest.fail("waited for a process that has ended")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells that a process is a zombie")
def test_ended_processes_are_missed_without_waiting(ended):
    _, call = call_of_device_1({0: ended, 2: ended}, not_to_be_waited)
    call.arrive()
    assert call.not_alive() == [0, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells that a process is a zombie")
def test_a_slow_device_may_answer_late_beside_one_that_has_ended(ended):
    start_s = wall_seconds()

    def answer_late(_):
        if wall_seconds() > start_s + 3 * roll_call._HUNG_S:
            store.set("alive/2", "1")

    store, call = call_of_device_1({0: ended, 2: os.getpid()}, answer_late)
    assert call.not_alive() == [0]


def test_a_device_that_lives_and_does_not_answer_hangs():
    store, call = call_of_device_1({0: os.getpid(), 2: os.getpid()})
    store.set("alive/0", "1")
    assert call.not_alive() == [2]


def test_processes_of_other_hosts_are_not_looked_up(monkeypatch, ended):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    waits = []
    _, call = call_of_device_1({0: ended, 2: ended}, waits.append)
    assert call.not_alive() == [0, 2]
    assert waits


def test_who_has_not_arrived_is_named_at_once():
    _, call = call_of_device_1({2: os.getpid()}, not_to_be_waited)
    call.arrive()
    assert call.not_arrived() == [0]


def test_a_store_that_is_gone_went_with_device_0():
    keeper = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store = TCPStore("127.0.0.1", keeper.port, is_master=False, timeout=timedelta(seconds=1))
    call = RollCall(store, 1, 3, not_to_be_waited)
    del keeper
    assert call.not_alive() == call.not_arrived() == [0]
