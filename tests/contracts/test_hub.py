"""The hub over loopback: the contract of fabrics, and who takes part when devices come and go."""

import random
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from threading import Event, Thread

import pytest
import torch

from scadles.clock import wall_seconds
from scadles.errors import FabricError, MembershipChangedError, NotAdmittedError, PeerLostError
from scadles.fabric.hub import Hub, HubFabric, client, journal_of
from scadles.fabric.hub.collectives import Collective
from scadles.fabric.hub.connection import Connection
from scadles.fabric.hub.frames import HEADER_BYTES, PIECE_BYTES, VERSION, Frame, FrameError, Kind, parse, pieces
from scadles.fabric.hub.rooms import Rooms
from scadles.testing import ELASTIC_CHECKS, FABRIC_CHECKS
from scadles.testing.elastic import come_in

LIMIT_S = 60.0


@pytest.fixture
def hub():
    """Start hubs, and close them in the end."""
    with ExitStack() as closing:

        def start(seats, port=0, **more):
            one = Hub("127.0.0.1", port, seats, **more)
            closing.callback(one.close)
            one.start()
            return one

        yield start


@pytest.fixture
def connect():
    with ExitStack() as leaving:

        def one(hub, name, **more):
            fabric = HubFabric(*hub.address, name=name, deadline_s=LIMIT_S, **more)
            leaving.callback(fabric.close)
            return fabric

        yield one


def together(fabrics, work):
    """Call ``work(fabric)`` of all in threads; return what came of each."""
    with ThreadPoolExecutor(len(fabrics)) as pool:
        return list(pool.map(work, fabrics, timeout=LIMIT_S))


def until(condition, what):
    give_up_s = wall_seconds() + LIMIT_S
    while not condition():
        assert wall_seconds() < give_up_s, f"waited {LIMIT_S} s for {what}"
        Event().wait(0.01)


def fleet(hub, connect, count, least=None):
    """A hub with so many devices in their first view, by seat; later it goes on with fewer."""
    serving = hub(count + 1, least=count)
    fabrics = sorted((connect(serving, f"cam-{i}") for i in range(count)), key=lambda one: one.rank)
    together(fabrics, lambda fabric: come_in(fabric, 0))
    serving._views.least = least or count
    return serving, fabrics


def join(fabric):
    """Come to others that take steps, until this device counts."""
    fabric.enter(0)
    return follow(fabric, int(fabric.take(100).view(torch.int64)))


def follow(fabric, step):
    """Take the steps of the others, from that step on, until this device counts; return how many were taken."""
    while fabric.follows:
        try:
            fabric.note(step + 1, {})
            assert total(fabric, 100) < 100, "what one that follows brings counts for nothing"
            step += 1
        except MembershipChangedError:
            pass
        if fabric.changed:
            fabric.enter(step)
    return step


def total(fabric, value, phase="a test"):
    bucket = torch.full((200_000,), float(value))
    fabric.reduce(bucket, phase).wait()
    assert bool((bucket == bucket[0]).all())
    return float(bucket[0])


@pytest.mark.parametrize("check", ELASTIC_CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_contract(hub, check):
    check(meeting(hub))


def test_attempts_to_connect_are_mostly_short_and_sometimes_long(hub, connect, monkeypatch):
    """A link that comes back is found soon, and one with a round trip of seconds gets in."""
    limits = []
    device = connect(hub(1), "cam-1")

    def nobody_answers(_address, timeout_s):
        limits.append(timeout_s)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", nobody_answers)
    monkeypatch.setattr(client, "_LONGEST_PAUSE_S", 0.0)
    monkeypatch.setattr(client, "PULSE_S", 0.0)
    with monkeypatch.context() as patient:
        patient.setattr(client, "wall_seconds", lambda: float(len(limits) > 15))
        with pytest.raises(PeerLostError, match="does not answer: timed out"):
            HubFabric("192.0.2.1", 1, "cam-2", deadline_s=0.5)
    assert limits == [1, 2, 1, 4, 1, 2, 1, 8, 1, 2, 1, 4, 1, 2, 1, 10]
    limits.clear()
    device.stopped = lambda: len(limits) == 64
    device._session.close("its link is gone")
    with pytest.raises(NotAdmittedError, match="told to stop while it looked for the hub"):
        device.enter(0)
    assert limits == [*[*[1, 1, 1, 2] * 3, 1, 1, 1, 4] * 3, *[1, 1, 1, 2] * 3, 1, 1, 1, 8]


def test_it_keeps_the_contract_of_fabrics_alone(hub, connect):
    fabric = connect(hub(1), "cam-0")
    come_in(fabric, 0)
    for check in FABRIC_CHECKS:
        check(fabric)


class Forgetful(HubFabric):
    def enter(self, step):
        return super().enter(step)._replace(note=None)


class Lonely(HubFabric):
    def reduce(self, bucket, phase):
        bucket *= self.size / len(self.members)
        return super().reduce(bucket, phase)


class Hasty(HubFabric):
    def enter(self, step):
        super().enter(step)
        return self._view._replace(source=self.rank)


@pytest.mark.parametrize(
    ("broken", "check", "said"),
    [
        (Forgetful, "a_note_comes_back", "what comes back is {}"),
        (Lonely, "absent_counts_as_zeros", "is not that of what they brought"),
        (Hasty, "views_are_the_same_everywhere", "views differ"),
    ],
)
def test_the_checks_notice(hub, broken, check, said):
    [found] = [one for one in ELASTIC_CHECKS if one.__name__ == check]
    with pytest.raises(AssertionError, match=said):
        found(meeting(hub, broken))


def meeting(hub, kind=HubFabric):
    """How checks of the suite make a hub and devices of it."""

    def meet(seats, least):
        serving = hub(seats, least=least)
        return lambda name: kind(*serving.address, name, deadline_s=LIMIT_S)

    return meet


class TestLoss:
    def test_too_few_wait_until_enough_are_there_again(self, hub, connect):
        serving, (one, two) = fleet(hub, connect, 2)
        two.close()
        with pytest.raises(MembershipChangedError):
            total(one, 1)

        def come_back(late):
            fabric = connect(serving, "cam-1") if late else one
            view = come_in(fabric, 4 if fabric is one else 0)
            return view.source, view.receivers, total(fabric, 1)

        assert together([False, True], come_back) == [(0, (1,), 2.0)] * 2

    def test_a_hub_that_restarts_is_found_again(self, hub, connect):
        said = []
        serving = hub(2, least=2)
        port = serving.address[1]
        fabrics = [connect(serving, f"cam-{i}", say=said.append) for i in range(2)]
        together(fabrics, lambda fabric: come_in(fabric, 0))
        assert together(fabrics, lambda fabric: total(fabric, 3)) == [6, 6]
        serving.close()
        for fabric in fabrics:
            with pytest.raises(MembershipChangedError) as caught:
                total(fabric, 1)
            assert caught.value.detached

        def return_with(step):
            fabric = fabrics[step - 7]
            return come_in(fabric, step), total(fabric, 1)

        Thread(target=lambda: (Event().wait(0.5), hub(2, port=port, least=2)), daemon=True).start()
        (first, one), (second, other) = together([7, 8], return_with)
        assert one == other == 2
        assert first.source == second.source == fabrics[1].rank, "whoever has come furthest is the source"
        assert sum("looking for it" in line for line in said) == 2

    def test_the_newest_connection_of_a_name_counts(self, hub, connect):
        serving, (one, two) = fleet(hub, connect, 2, least=1)
        again = connect(serving, two._name)
        assert again.rank == two.rank
        with pytest.raises(MembershipChangedError) as caught:
            total(two, 1)
        assert caught.value.detached

        def step(fabric):
            if fabric is one:
                with pytest.raises(MembershipChangedError):
                    total(fabric, 1)
                number = serving._views.step
                come_in(fabric, number - 1)
                fabric.note(number, {})
                assert total(fabric, 5) in (5, 6)
                while not fabric.changed and len(fabric.members) == 1:
                    number += 1
                    fabric.note(number, {})
                    total(fabric, 5)
            return come_in(fabric, 2).receivers

        assert together([one, again], step) == [(again.rank,)] * 2

    def test_a_silent_device_is_lost_and_a_slow_one_is_not(self, hub, connect):
        """Its pulse is stopped, as by SIGSTOP; a slow one goes on giving signs of life."""
        _, (one, two) = fleet(hub, connect, 2, least=1)
        slow = Event()

        def late():
            slow.wait(2.5)
            return total(two, 2)

        with ThreadPoolExecutor(1) as pool:
            came = pool.submit(late)
            assert total(one, 1) == 3
            assert came.result(LIMIT_S) == 3
        two._session._line._speak = lambda: None  # no sign of life from now on
        began_s = wall_seconds()
        with pytest.raises(MembershipChangedError):
            total(one, 1)
        assert wall_seconds() - began_s > 0.5

    def test_one_that_is_alive_and_does_nothing_is_left_out_after_the_deadline(self, hub, connect):
        said = []
        serving = hub(2, least=1, deadline_s=0.6, say=said.append)
        one = connect(serving, "cam-0")
        come_in(one, 0)
        two = connect(serving, "cam-1")
        joining = Thread(target=join, args=(two,), daemon=True)
        joining.start()
        step = 0
        while two.rank not in one.members:
            step += 1
            one.note(step, {})
            total(one, 1)
            if one.changed:
                come_in(one, step)
        joining.join(LIMIT_S)
        with pytest.raises(MembershipChangedError):
            total(one, 1)
        assert any("nothing has moved for 0.6 s while others wait" in line for line in said)


class TestAdmission:
    @pytest.mark.parametrize("lost_within", [False, True], ids=["after step 1", "within step 2"])
    def test_what_a_lost_device_said_counts_when_its_step_does(self, hub, connect, lost_within):
        """Of step 1 the others have the sum; step 2 they repeat without it."""
        serving, (one, two) = fleet(hub, connect, 2, least=1)

        def step(fabric, number):
            fabric.note(number, {"position": 100 * number + fabric.rank})
            return total(fabric, 1)

        assert together([one, two], lambda fabric: step(fabric, 1)) == [2, 2]
        if lost_within:
            two.note(2, {"position": 201})
            two.reduce(torch.zeros(200_000), "step 2")
            until(lambda: not two._session.waits(), "the gradient to leave")
        two.close()
        with pytest.raises(MembershipChangedError):
            step(one, 2)
        come_in(one, 1)
        assert step(one, 2) == 1
        again = connect(serving, two._name)
        entered = []
        joining = Thread(target=lambda: entered.append(come_in(again, 0)), daemon=True)
        joining.start()
        number = 2
        while not one.changed:
            number += 1
            step(one, number)
        come_in(one, number)
        joining.join(LIMIT_S)
        assert entered[0].note == {"step": 1, "position": 101}

    def test_a_state_whose_source_is_lost_is_given_by_another(self, hub, connect):
        """Those who wait for it are cut off, and begin anew; the others take steps all the time."""
        serving, (one, two) = fleet(hub, connect, 2, least=1)
        late, closed = connect(serving, "cam-9"), Event()

        def source(fabric):
            step = 0
            while not fabric.changed:
                step += 1
                fabric.note(step, {})
                total(fabric, 1)
            assert fabric.enter(step).receivers == (late.rank,)
            closed.wait(LIMIT_S)
            fabric.close()

        def other(fabric):
            step = 0
            while late.rank not in fabric.members:
                try:
                    if fabric.changed:
                        come_in(fabric, step)
                        continue
                    fabric.note(step + 1, {})
                    total(fabric, 1)
                    step += 1
                except MembershipChangedError:
                    continue
            return step

        def comes(fabric):
            assert fabric.enter(0).source == one.rank
            closed.set()
            with pytest.raises(MembershipChangedError) as caught:
                fabric.take(100)
            assert caught.value.detached
            assert join(fabric) > 0

        together([one, two, late], lambda fabric: {one: source, two: other, late: comes}[fabric](fabric))
        assert together([two, late], lambda fabric: total(fabric, 1)) == [2, 2]

    def test_a_state_that_nobody_else_has(self, hub, connect):
        serving, (one,) = fleet(hub, connect, 1, least=1)
        late, entered = connect(serving, "cam-9"), []
        for step in range(1, 6):
            one.note(step, {})
            total(one, 1)
        joining = Thread(target=lambda: entered.append(late.enter(3)), daemon=True)
        joining.start()
        while not one.changed:
            step += 1
            one.note(step, {})
            total(one, 1)
        joining.join(LIMIT_S)
        one.close()
        with pytest.raises(MembershipChangedError):
            late.take(100)
        view = come_in(late, 3)
        assert (view.source, view.receivers) == (late.rank, ())
        assert serving._journal.newest == 3, "later steps are lost with their source"

    def test_a_state_that_is_longer_than_agreed(self, hub, connect):
        serving = hub(2, least=2)
        one, two = (connect(serving, f"cam-{i}") for i in range(2))

        def take(fabric):
            view = fabric.enter(0)
            if view.source == fabric.rank:
                fabric.give(lambda: torch.zeros(3 * PIECE_BYTES, dtype=torch.uint8))
                return "gave it"
            with pytest.raises(FabricError, match="at most 100 are agreed"):
                fabric.take(100)
            return "refused"

        assert sorted(together([one, two], take)) == ["gave it", "refused"]

    def test_others_take_steps_while_a_state_is_given(self, hub, connect):
        """One that comes is given a state without end, and follows what they do, far behind, until it counts."""
        serving, (one, two) = fleet(hub, connect, 2, least=1)
        late, go_on, state = connect(serving, "cam-9"), Event(), torch.arange(3 * PIECE_BYTES // 8)

        def give(step):
            go_on.wait(LIMIT_S)
            return torch.cat([torch.tensor([step]), state]).view(torch.uint8)

        def work(fabric):
            step, came_at = 0, 0
            while late.rank not in fabric.members:
                step += 1
                fabric.note(step, {})
                total(fabric, 1)
                if step == came_at + 20:
                    go_on.set()
                if fabric.changed and fabric.enter(step).receivers:
                    came_at = step
                    if fabric.gives:
                        fabric.give(partial(give, came_at))
            return step

        def comes(fabric):
            assert late.rank not in fabric.enter(0).members
            came = fabric.take(1 << 26).view(torch.int64)
            assert torch.equal(came[1:], state)
            return follow(fabric, int(came[0]))

        first, second, third = together([one, two, late], lambda f: comes(f) if f is late else work(f))
        assert (first, second) == (third, third)

    def test_who_is_further_than_those_who_wait_is_waited_for_a_little(self, hub, connect):
        serving, (one, two) = fleet(hub, connect, 2, least=1)

        def step(fabric):
            for number in (1, 2):
                fabric.note(number, {})
                total(fabric, 1)

        together([one, two], step)
        one._session.close("cut off")
        two._session.close("cut off")
        until(lambda: not serving.members(), "both to be lost")

        def come_back(fabric):
            if fabric is two:
                Event().wait(0.5)
            return come_in(fabric, 2 if fabric is two else 1)

        views = together([one, two], come_back)
        assert {view.source for view in views} == {two.rank}

    def test_who_comes_after_the_end_hears_of_it(self, hub, connect):
        serving, (one, two) = fleet(hub, connect, 2, least=1)

        def step(fabric):
            fabric.note(1, {})
            total(fabric, 1)

        together([one, two], step)
        two._session.close("cut off")
        one.ended_by = "steps"
        one.close()
        until(lambda: not serving.members(), "both to be gone")
        assert not serving.is_over, "one has not heard of the end"
        with pytest.raises(NotAdmittedError, match=r"the run has ended \(steps\)"):
            come_in(two, 0)
        two.close()
        until(lambda: serving.is_over, "the end")

    def test_a_hub_that_is_killed_after_the_end_waits_for_nobody_who_has_left(self, hub, connect, tmp_path):
        with journal_of(tmp_path) as journal:
            serving = hub(2, least=2, journal=journal)
            fabrics = [connect(serving, f"cam-{i}") for i in range(2)]
            together(fabrics, lambda fabric: (come_in(fabric, 0), fabric.note(1, {}), total(fabric, 1)))
            for fabric in fabrics:
                fabric.ended_by = "steps"
                fabric.close()
            until(lambda: serving.is_over, "the end")
            serving.close()
        with journal_of(tmp_path) as journal:
            again = hub(2, least=1, journal=journal)
            assert again.ended_by == "steps"
            assert again.is_over

    def test_who_is_at_the_end_comes_to_it_alone(self, hub, connect):
        _, (one, two) = fleet(hub, connect, 2, least=2)

        def step(fabric):
            fabric.note(1, {})
            total(fabric, 1)

        together([one, two], step)
        two._session.close("cut off")
        one.ended_by = "steps"
        one.close()
        assert list(come_in(two, 1).members) == [two.rank]
        assert total(two, 3) == 3

    def test_a_stop_ends_the_wait(self, hub, connect):
        fabric = connect(hub(2, least=2), "cam-0")
        asked = Event()
        fabric.stopped = asked.is_set
        Thread(target=lambda: (Event().wait(0.2), asked.set()), daemon=True).start()
        with pytest.raises(NotAdmittedError, match="told to stop"):
            come_in(fabric, 0)

    def test_an_older_process_of_a_name_does_not_come_back(self, hub, connect):
        serving = hub(2, least=1)
        old = connect(serving, "cam-0")
        come_in(old, 0)
        new = connect(serving, "cam-0")
        with pytest.raises(MembershipChangedError):
            total(old, 1)
        with pytest.raises(FabricError, match="another process has taken its place"):
            come_in(old, 0)
        come_in(new, 0)
        assert total(new, 1) == 1


class TestRefusals:
    def test_no_seat_is_left(self, hub, connect):
        serving = hub(1)
        connect(serving, "cam-0")
        with pytest.raises(FabricError, match=r"refuses cam-1: all 1 seats are taken, by cam-0: set devices higher"):
            connect(serving, "cam-1")
        assert serving.refused == 1

    def test_another_run(self, hub, connect, tmp_path):
        with journal_of(tmp_path) as journal, pytest.raises(FabricError, match="belongs to another run"):
            connect(hub(1, journal=journal), "cam-0", run="b")

    @pytest.mark.parametrize("name", ["", "x" * 65, "two\nlines", "\x1b[31m"])
    def test_names(self, hub, connect, name):
        with pytest.raises(FabricError, match="printable characters"):
            connect(hub(1), name)

    def test_nobody_there(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            with pytest.raises(PeerLostError, match="does not answer"):
                HubFabric(*free.getsockname(), name="cam-0", deadline_s=0.3)

    def test_devices_that_bring_different_things(self, hub, connect):
        said = []
        serving = hub(2, least=2, say=said.append)
        fabrics = [connect(serving, f"cam-{i}") for i in range(2)]
        together(fabrics, lambda fabric: come_in(fabric, 0))

        def differ(fabric):
            with pytest.raises(MembershipChangedError):
                fabric.reduce(torch.zeros(3 + fabric.rank), "a test").wait()

        together(fabrics, differ)
        assert any("where others bring" in line for line in said)


class TestSums:
    def test_many_threads_add_up_in_any_order(self):
        """Pieces out of order, and some of them twice: each counts once, and one thread alone gets the whole sum."""
        devices, rooms, total = 8, Rooms(), 40 * PIECE_BYTES
        first = Frame(Kind.REDUCE, 0, total=total, length=PIECE_BYTES)
        collective = Collective(first, range(devices), devices)

        def bring(seat):
            order = random.Random(seat).sample(pieces(total), 40)
            out, completed = [], 0
            for offset in [*order, *order[:5]]:
                room = rooms.take()
                torch.frombuffer(room.memory, dtype=torch.float32).fill_(2.0**seat)
                deliveries, complete = collective.bring(seat, first._replace(offset=offset), room)
                out += [(one.frame.offset, bytes(one.piece)) for one in deliveries]
                completed += complete
            return out, completed

        with ThreadPoolExecutor(devices) as pool:
            done = list(pool.map(bring, range(devices), timeout=LIMIT_S))
        whole = dict(piece for out, _ in done for piece in out)
        assert sum(len(out) for out, _ in done) == len(whole) == 40
        assert sum(completed for _, completed in done) == 1
        expected = torch.full((PIECE_BYTES // 4,), 2.0**devices - 1).numpy().tobytes()
        assert all(piece == expected for piece in whole.values())


class TestFrames:
    def test_a_header_is_read_back(self):
        frame = Frame(Kind.REDUCE, 1, 3, 2**31, 77, PIECE_BYTES, PIECE_BYTES + 8, 8, last=True)
        assert parse(frame.pack()) == frame
        assert len(frame.pack()) == HEADER_BYTES

    @pytest.mark.parametrize(
        ("frame", "said"),
        [
            (Frame(Kind.GATHER, total=2**40, length=8), "at most"),
            (Frame(Kind.HELLO, total=2**20, length=2**18), "at most"),
            (Frame(Kind.GATHER, total=10, length=PIECE_BYTES + 1), "10"),
            (Frame(Kind.GATHER, total=10, length=4), "only a last piece may be short"),
            (Frame(Kind.GATHER, offset=5, total=10, length=5), "no multiple"),
            (Frame(Kind.REDUCE, 0, total=10, length=10), "unknown numbers"),
            (Frame(Kind.REDUCE, 9, total=8, length=8), "unknown numbers"),
        ],
    )
    def test_sizes_that_do_not_fit(self, frame, said):
        with pytest.raises(FrameError, match=said):
            parse(frame.pack())

    def test_another_version(self):
        header = bytearray(Frame(Kind.HELLO).pack())
        header[4] = VERSION + 1
        with pytest.raises(FrameError, match=f"speaks version {VERSION + 1}"):
            parse(header)

    def test_ten_thousand_headers_of_noise(self):
        noise = random.Random(0)
        good = Frame(Kind.REDUCE, 0, 1, 1, 1, 0, 8, 8).pack()
        for _ in range(10_000):
            data = bytearray(good)
            for _ in range(noise.randint(1, 4)):
                data[noise.randrange(HEADER_BYTES)] = noise.randrange(256)
            if noise.random() < 0.5:  # with a checksum that is right
                data[-4:] = struct.pack("!I", zlib.crc32(bytes(data[:-4])))
            try:
                frame = parse(data)
            except FrameError:
                continue
            assert frame.length <= PIECE_BYTES


class TestStrangers:
    def test_noise_hurts_nobody(self, hub, connect):
        serving, fabrics = fleet(hub, connect, 2)
        noise = random.Random(1)
        for _ in range(200):
            with socket.create_connection(serving.address, 5.0) as stranger:
                stranger.sendall(noise.randbytes(noise.randrange(1, 200)))
        until(lambda: serving.refused == 200, "all to be turned away")
        assert together(fabrics, lambda fabric: total(fabric, 1)) == [2, 2]

    def test_half_a_hello_and_a_huge_one(self, hub, connect):
        serving, fabrics = fleet(hub, connect, 2)
        half = socket.create_connection(serving.address, 5.0)
        half.sendall(Frame(Kind.HELLO, total=100, length=100).pack() + b"{")
        with socket.create_connection(serving.address, 5.0) as huge:
            huge.sendall(Frame(Kind.HELLO, total=2**18 + 1, length=2**18 + 1).pack())
            assert parse(huge.recv(HEADER_BYTES)).kind == Kind.REFUSAL
        assert together(fabrics, lambda fabric: total(fabric, 1)) == [2, 2]
        half.close()

    def test_a_frame_that_is_sent_twice_counts_once(self, hub, connect):
        _, (one, two) = fleet(hub, connect, 2)
        content = torch.ones(4)
        frame = Frame(Kind.REDUCE, 0, one.rank, one._view.number, 1, 0, 16, 16)
        one._session.up.send(frame, content.numpy().data)
        assert together([one, two], lambda fabric: reduced(fabric)) == [3, 3]

    def test_a_session_that_is_guessed(self, hub, connect):
        serving, fabrics = fleet(hub, connect, 2)
        stranger = Connection.open(*serving.address, 5.0)
        stranger.send_text(Kind.HELLO, {"role": "up", "session": "0" * 32})
        assert stranger.receive().kind is Kind.REFUSAL
        stranger.close()
        assert together(fabrics, lambda fabric: total(fabric, 1)) == [2, 2]


def reduced(fabric):
    bucket = torch.full((4,), float(fabric.rank + 1))
    fabric.reduce(bucket, "a test").wait()
    return float(bucket[0])
