"""One suite over all fabrics; run as a script, this file is one device of a gloo group."""

import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from torch.distributed import TCPStore

from scadles.clock import WallClock
from scadles.errors import FabricError, PeerLostError
from scadles.fabric import LocalFabric, TorchFabric
from scadles.testing import FABRIC_CHECKS

NAMES = [check.__name__ for check in FABRIC_CHECKS]
STEPS_TO_LIVE = 5


@pytest.mark.parametrize("check", FABRIC_CHECKS, ids=NAMES)
@pytest.mark.parametrize("size", [1, 3])
def test_local_keeps_the_contract(in_threads, size, check):
    in_threads(size, check)


def test_local_keeps_the_contract_in_one_go(in_threads):
    fabrics = LocalFabric.create(3, deadline_s=30.0)

    def all_of_them(fabric):
        for check in FABRIC_CHECKS:
            check(fabric)

    in_threads(fabrics, all_of_them)
    assert [fabric.bytes_sent() for fabric in fabrics] == [0, 0, 0]


@pytest.fixture(scope="module")
def gloo_outcomes(in_processes):
    """What each check said on each of three gloo devices; one start for all of them."""
    outcomes = in_processes(__file__, 3, "check")
    assert [code for code, _ in outcomes] == [0, 0, 0]
    return [json.loads(said) for _, said in outcomes]


@pytest.mark.parametrize("name", NAMES)
def test_gloo_keeps_the_contract(gloo_outcomes, name):
    assert [outcome["checks"].get(name) for outcome in gloo_outcomes] == ["kept"] * 3


def test_gloo_counts_what_really_left(gloo_outcomes):
    for outcome in gloo_outcomes:
        # a ring sends each byte of a sum 2 (N - 1) / N times, and then some: headers, and what TCP had to send again
        assert outcome["payload"] * 4 / 3 <= min(outcome["sent"]) <= outcome["payload"] * 4 / 3 * 1.05
        assert outcome["counted_by"]


class Broken(LocalFabric):
    """A correct fabric, to be broken in one way."""


class Misnumbered(Broken):
    def gather(self, values, phase):
        return super().gather(values, phase).flip(0)


class Forgetful(Broken):
    def reduce(self, bucket, phase):
        return super().reduce(bucket.clone(), phase)


class Unequal(Broken):
    def reduce(self, bucket, phase):
        pending = super().reduce(bucket, phase)
        whole_wait = pending.wait

        def wait():
            whole_wait()
            bucket.mul_(1 + self.rank * 2**-23)

        pending.wait = wait
        return pending


class Unordered(Broken):
    def reduce(self, bucket, phase):
        if "several" in phase:
            bucket = bucket.add_(self.collectives % 2)
        return super().reduce(bucket, phase)


class Doubling(Broken):
    def gather(self, values, phase):
        return super().gather(values, phase).double()


class Shared(Broken):
    together: dict = {}  # noqa: RUF012 - sharing is the point

    def gather(self, values, phase):
        mine = super().gather(values, phase)
        return self.together.setdefault(phase, mine)


class Unmoved(Broken):
    def swap(self, rows, phase):
        super().swap(rows, phase)
        return rows.clone()


class Backwards(Broken):
    def swap(self, rows, phase):
        return super().swap(rows.flip(0), phase)


class Overwriting(Broken):
    def swap(self, rows, phase):
        return rows.copy_(super().swap(rows, phase))


class Cut(Broken):
    def share(self, message, senders, most, phase):
        return {sender: theirs[:6] for sender, theirs in super().share(message, senders, most, phase).items()}


class Echoing(Broken):
    def share(self, message, senders, most, phase):
        received = super().share(message, senders, most, phase)
        return received if message is None else {self.rank: message.clone()} | received


class OneMemory(Broken):
    together: dict = {}  # noqa: RUF012 - sharing is the point

    def share(self, message, senders, most, phase):
        received = super().share(message, senders, most, phase)
        return {sender: self.together.setdefault((phase, sender), theirs) for sender, theirs in received.items()}


class Unlimited(Broken):
    def share(self, message, senders, most, phase):
        return super().share(message, senders, 10**9, phase)


class FloatsOnly(Broken):
    def broadcast(self, tensors, phase):
        super().broadcast([tensor for tensor in tensors if tensor.is_floating_point()], phase)


class Shrinking(Broken):
    def bytes_sent(self):
        return 1000 - self.collectives


class OneForEachTensor(Broken):
    def broadcast(self, tensors, phase):
        for tensor in tensors:
            super().broadcast([tensor], phase)


class Lingering(Broken):
    def close(self):
        """Stay."""


@pytest.mark.parametrize(
    ("broken", "caught_by"),
    [
        (Misnumbered, "devices_are_numbered"),
        (Misnumbered, "gather_keeps_order_shape_and_dtype"),
        (Forgetful, "reduce_sums_in_place"),
        (Unequal, "reduce_gives_everybody_the_same_bits"),
        (Unordered, "several_reductions_may_be_under_way"),
        (Doubling, "gather_keeps_order_shape_and_dtype"),
        (Shared, "what_was_gathered_is_ones_own"),
        (Unmoved, "swap_brings_each_row_to_its_device"),
        (Backwards, "swap_brings_each_row_to_its_device"),
        (Overwriting, "swap_brings_each_row_to_its_device"),
        (Cut, "share_brings_messages_of_any_length"),
        (Echoing, "share_brings_messages_of_any_length"),
        (OneMemory, "share_brings_messages_of_any_length"),
        (Unlimited, "share_refuses_what_is_too_long"),
        (FloatsOnly, "broadcast_copies_from_device_0"),
        (Shrinking, "bytes_sent_never_falls"),
        (OneForEachTensor, "each_call_is_one_collective"),
        (Lingering, "a_closed_fabric_refuses"),
    ],
)
def test_a_broken_fabric_is_caught(broken, caught_by):
    check = FABRIC_CHECKS[NAMES.index(caught_by)]
    Shared.together.clear()
    OneMemory.together.clear()
    failed = []

    def guarded(fabric):
        try:
            check(fabric)
        except AssertionError as error:
            failed.append(str(error))
        except PeerLostError:
            pass
        finally:
            LocalFabric.close(fabric)

    run_all(guarded, broken.create(3, deadline_s=10.0))
    assert failed
    assert all(failed)


def run_all(work, fabrics):
    with ThreadPoolExecutor(len(fabrics)) as pool:
        return list(pool.map(work, fabrics))


class TestLostInThreads:
    @pytest.mark.parametrize(
        "exchange",
        [
            lambda fabric: fabric.reduce(torch.zeros(3), "gradients of step 12").wait(),
            lambda fabric: fabric.gather(torch.zeros(3), "gradients of step 12"),
            lambda fabric: fabric.swap(torch.zeros(3, 5, dtype=torch.uint8), "gradients of step 12"),
            lambda fabric: fabric.share(None, (1,), 9, "gradients of step 12"),
            lambda fabric: fabric.broadcast([torch.zeros(3)], "gradients of step 12"),
        ],
        ids=["reduce", "gather", "swap", "share", "broadcast"],
    )
    @pytest.mark.parametrize("waiting", [0, 2])
    def test_a_device_that_never_comes_is_named(self, exchange, waiting):
        devices = LocalFabric.create(3, deadline_s=0.2)
        devices[2 - waiting].reduce(torch.zeros(3), "gradients of step 12")  # this one has brought its part already
        started = time.monotonic()
        with pytest.raises(PeerLostError) as caught:
            exchange(devices[waiting])
        took_s = time.monotonic() - started
        assert caught.value.devices == (1,)
        assert caught.value.phase == "gradients of step 12"
        assert "device 1 during gradients of step 12: no answer within 0.2 s" in str(caught.value)
        assert 0.15 <= took_s < 30.0

    def test_a_device_that_leaves_is_named_at_once(self):
        first, second, third = LocalFabric.create(3, deadline_s=60.0)
        pending = [(fabric, fabric.reduce(torch.zeros(3), "step 1")) for fabric in (first, third)]
        second.close()
        started = time.monotonic()
        for _, one in pending:
            with pytest.raises(PeerLostError, match="device 1 during step 1: it has left") as caught:
                one.wait()
            assert caught.value.devices == (1,)
        assert time.monotonic() - started < 5.0

    def test_what_all_have_brought_survives_a_leaver(self):
        first, second = LocalFabric.create(2, deadline_s=60.0)
        bucket = torch.tensor([1.0])
        pending = first.reduce(bucket, "step 1")
        second.reduce(torch.tensor([2.0]), "step 1")
        second.close()
        pending.wait()
        assert bucket.item() == 3.0

    def test_only_who_sends_is_waited_for(self):
        first, second, _ = LocalFabric.create(3, deadline_s=60.0)
        message = torch.tensor([1, 2], dtype=torch.uint8)
        assert first.share(message, (0,), 2, "samples") == {}
        assert second.share(None, (0,), 2, "samples")[0].tolist() == [1, 2]

    def test_who_leaves_without_being_a_sender_is_not_missed(self):
        first, second, third = LocalFabric.create(3, deadline_s=60.0)
        third.close()
        first.share(torch.ones(1, dtype=torch.uint8), (0,), 1, "samples")
        assert list(second.share(None, (0,), 1, "samples")) == [0]

    def test_a_longer_message_than_agreed_is_refused_by_who_receives_it(self):
        first, second = LocalFabric.create(2, deadline_s=60.0)
        first.share(torch.zeros(10, dtype=torch.uint8), (0,), 10, "samples of step 1")
        with pytest.raises(FabricError, match="device 0 announces 10 bytes in samples of step 1, at most 9"):
            second.share(None, (0,), 9, "samples of step 1")

    def test_two_that_never_come_are_both_named(self):
        fabric = LocalFabric.create(4, deadline_s=0.1)[2]
        with pytest.raises(PeerLostError) as caught:
            fabric.gather(torch.zeros(1), "rates")
        assert caught.value.devices == (0, 1, 3)


@pytest.mark.parametrize(("exchange", "killed"), [("reduce", 1), ("swap", 2), ("share", 1)])
def test_gloo_names_a_killed_device(in_processes, exchange, killed):
    outcomes = in_processes(__file__, 3, "die", killed, exchange)
    assert outcomes[killed][0] == -signal.SIGKILL
    for rank, (code, said) in enumerate(outcomes):
        if rank != killed:
            assert code == 0
            lost = json.loads(said)
            assert lost["devices"] == [killed]
            # what a device has shared may still be on its way when it dies in the next step
            steps = (STEPS_TO_LIVE - 1, STEPS_TO_LIVE) if exchange == "share" else (STEPS_TO_LIVE,)
            assert lost["phase"] in [f"gradients of step {step}" for step in steps]
            assert f"device {killed}" in lost["message"]
            assert lost["took_s"] < 15.0
            assert lost["again"] == "FabricError"


def test_gloo_names_a_device_that_hangs_in_a_swap(in_processes):
    outcomes = in_processes(__file__, 3, "hang", 1)
    for rank in (0, 2):
        code, said = outcomes[rank]
        assert code == 0
        lost = json.loads(said)
        assert lost["devices"] == [1]
        assert lost["phase"] == "rows of step 1"
        assert lost["took_s"] < 15.0


def test_gloo_waits_for_senders_only(in_processes):
    outcomes = in_processes(__file__, 3, "share")
    for rank in (0, 1):
        code, said = outcomes[rank]
        assert code == 0
        told = json.loads(said)
        # nobody has waited for device 2, which sends nothing and does not even come
        assert told["received"] == [[0, 100_000]] * rank
        # now that device is to send, and hangs
        assert told["lost"] == [2]
        assert told["phase"] == "samples of step 2"


def test_gloo_makes_no_room_for_a_message_longer_than_agreed(in_processes):
    outcomes = in_processes(__file__, 2, "long")
    assert outcomes[1][0] == 0
    assert "device 0 announces 1000 bytes in samples of step 1, at most 999" in outcomes[1][1]


def test_gloo_names_a_device_that_never_joins(in_processes):
    [(code, said)] = in_processes(__file__, 2, "join", ranks=[0])
    assert code == 0
    lost = json.loads(said)
    assert lost["devices"] == [1]
    assert lost["phase"] == "joining"
    assert lost["took_s"] < 15.0


def join_gloo(deadline_s):
    """Join once all are up: on a busy machine one is seconds later than another, which is none of the deadline."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    store.set(f"up/{rank}", "1")
    store.wait([f"up/{other}" for other in range(size)], timedelta(seconds=100))
    return join_gloo_at_once(deadline_s)


def join_gloo_at_once(deadline_s):
    return TorchFabric("gloo", deadline_s, torch.device("cpu"), sleep=WallClock().sleep)


def hang_until(fabric, *others):
    """Do nothing until these devices have told what they have seen."""
    fabric._store.wait([f"told/{rank}" for rank in others], timedelta(seconds=100))


def tell(fabric):
    fabric._store.set(f"told/{fabric.rank}", "1")


def check_on_gloo():
    fabric = join_gloo(30.0)
    bucket, sent = torch.ones(2**18), []
    for _ in range(5):
        before = fabric.bytes_sent()
        fabric.reduce(bucket, "counting bytes").wait()
        # what is still under way has not left yet; once everybody meets again it has arrived
        fabric.gather(torch.zeros(1), "meeting again")
        sent.append(fabric.bytes_sent() - before)
    checks = {}
    for check in FABRIC_CHECKS:
        check(fabric)
        checks[check.__name__] = "kept"
    return {"checks": checks, "sent": sent, "payload": bucket.nbytes, "counted_by": fabric.bytes_counted_by}


def die_on_gloo(killed, exchange):
    fabric = join_gloo(10.0)
    bucket, rows = torch.zeros(1000), torch.zeros(3, 1000, dtype=torch.uint8)
    step = 0
    try:
        while True:
            step += 1
            if fabric.rank == killed and step == STEPS_TO_LIVE:
                os.kill(os.getpid(), signal.SIGKILL)
            started = time.monotonic()
            if exchange == "swap":
                fabric.swap(rows, f"gradients of step {step}")
            elif exchange == "share":
                fabric.share(rows[0] if fabric.rank else None, (1, 2), 1000, f"gradients of step {step}")
            else:
                fabric.reduce(bucket, f"gradients of step {step}").wait()
    except PeerLostError as error:
        took_s = time.monotonic() - started
        lost = {"devices": error.devices, "phase": error.phase, "message": str(error), "took_s": took_s}
    try:
        fabric.gather(torch.zeros(1), "after the end")
    except FabricError as error:
        lost["again"] = type(error).__name__
    return lost


def hang_on_gloo(hanging):
    fabric = join_gloo(4.0)
    if fabric.rank == hanging:
        return hang_until(fabric, *({0, 1, 2} - {hanging}))
    started = time.monotonic()
    try:
        fabric.swap(torch.zeros(3, 1000, dtype=torch.uint8), "rows of step 1")
    except PeerLostError as error:
        return {"devices": error.devices, "phase": error.phase, "took_s": time.monotonic() - started}
    finally:
        tell(fabric)


def share_on_gloo():
    fabric = join_gloo(4.0)
    if fabric.rank == 2:
        return hang_until(fabric, 0, 1)
    message = torch.zeros(100_000, dtype=torch.uint8) if fabric.rank == 0 else None
    received = fabric.share(message, (0,), 100_000, "samples of step 1")
    told = {"received": [[s, len(m)] for s, m in received.items()]}
    try:
        fabric.share(None, (2,), 100_000, "samples of step 2")
    except PeerLostError as error:
        return told | {"lost": error.devices, "phase": error.phase}
    finally:
        tell(fabric)


def share_too_much_on_gloo():
    fabric = join_gloo(10.0)
    try:
        if fabric.rank == 0:
            fabric.share(torch.zeros(1000, dtype=torch.uint8), (0,), 1000, "samples of step 1")
            hang_until(fabric, 1)  # what is sent leaves once it is received
        else:
            fabric.share(None, (0,), 999, "samples of step 1")
    except FabricError as error:
        return str(error)
    finally:
        tell(fabric)


def join_alone_on_gloo():
    started = time.monotonic()
    try:
        join_gloo_at_once(3.0)
    except PeerLostError as error:
        return {"devices": error.devices, "phase": error.phase, "took_s": time.monotonic() - started}


if __name__ == "__main__":
    work = {
        "check": check_on_gloo,
        "die": lambda: die_on_gloo(int(sys.argv[2]), sys.argv[3]),
        "hang": lambda: hang_on_gloo(int(sys.argv[2])),
        "share": share_on_gloo,
        "long": share_too_much_on_gloo,
        "join": join_alone_on_gloo,
    }
    print(json.dumps(work[sys.argv[1]]()), flush=True)
    os._exit(0)  # a broken group is not worth a tidy end
