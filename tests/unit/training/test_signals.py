import os
import signal
import threading

import pytest

from scadles.training.signals import StopRequest


@pytest.fixture(autouse=True)
def _handlers_as_they_were():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_wish(number):
    with StopRequest() as stop:
        assert not stop.wanted
        os.kill(os.getpid(), number)
        assert stop.wanted
    assert stop.wanted


def test_a_second_signal_acts_as_usual():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.wanted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_ignored_stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert not stop.wanted
        assert handlers().count(signal.SIG_IGN) == 1
    assert signal.getsignal(number) is signal.SIG_IGN


def test_handlers_are_put_back():
    before = handlers()
    with StopRequest():
        assert handlers() != before
    assert handlers() == before
    with StopRequest():
        signal.raise_signal(signal.SIGTERM)
        assert handlers() == before
    assert handlers() == before


def test_handlers_are_put_back_after_an_error():
    before = handlers()
    with pytest.raises(RuntimeError, match="in the run"), StopRequest():
        raise RuntimeError("in the run")
    assert handlers() == before


def test_one_can_ask_oneself():
    stop = StopRequest()
    stop.ask()
    assert stop.wanted


def test_outside_the_main_thread_nothing_happens():
    before, seen = handlers(), []

    def elsewhere():
        with StopRequest() as stop:
            seen.append((handlers() == before, stop.wanted))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(True, False)]


def test_a_launcher_that_is_gone_ends_the_run(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    stop = StopRequest()
    assert not stop.wanted
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert stop.wanted


def test_a_parent_that_is_gone_does_not_end_a_run_of_its_own(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    stop = StopRequest()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert not stop.wanted
