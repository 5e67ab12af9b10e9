"""What every elastic fabric must do, as a suite of checks that anybody can run over their own.

A check is given a way to make a meeting: ``meet(seats, least)`` returns ``connect(name)``, which returns one device's
end. Each check makes a meeting of its own, runs its devices in threads, and leaves it::

    def meet(seats, least):
        hub = MyHub(seats, least)
        return lambda name: MyFabric(hub.address, name)

    for check in ELASTIC_CHECKS:
        check(meet)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

import torch

from scadles.clock import wall_seconds
from scadles.errors import FabricError, MembershipChangedError
from scadles.fabric.contract import ElasticFabric, View
from scadles.testing.fabrics import FABRIC_CHECKS

Connect = Callable[[str], ElasticFabric]
Meet = Callable[[int, int], Connect]
ElasticCheck = Callable[[Meet], None]
T = TypeVar("T")

_LIMIT_S = 60.0
_LENGTH = 20_000
_MOST_STEPS = 100_000
_MOST_STATE = 1 << 10


def alone_before_it_enters(meet: Meet) -> None:
    """Until it has entered, a device computes with zeros of all others, and waits for nobody."""
    with _devices(meet, 3, 2, 1) as [fabric]:
        _require(_total(fabric, 2) == 2, "a sum of one device alone is not its own")
        rows = fabric.gather(torch.tensor([5]), "checking a gathering alone")
        expected = [[5 if rank == fabric.rank else 0] for rank in range(fabric.size)]
        _require(rows.tolist() == expected, f"gathered alone {rows.tolist()}, not {expected}")
        swapped = fabric.swap(torch.full((3, 2), 9, dtype=torch.uint8), "checking a swap alone")
        expected = [[9 if rank == fabric.rank else 0] * 2 for rank in range(fabric.size)]
        _require(swapped.tolist() == expected, f"swapped alone {swapped.tolist()}, not {expected}")
        shared = fabric.share(torch.ones(3, dtype=torch.uint8), range(3), 3, "checking a share alone")
        _require(shared == {}, "somebody shared something with a device alone")
        _require(not fabric.changed, "something is said to have changed before anything was entered")
        _require(list(fabric.members) == [fabric.rank], f"alone with {dict(fabric.members)}")


def it_is_a_fabric(meet: Meet) -> None:
    """Once all have entered, it does what every fabric must."""
    with _devices(meet, 3, 3, 3) as fabrics:

        def keep(fabric: ElasticFabric) -> None:
            come_in(fabric, 0)
            for check in FABRIC_CHECKS:
                check(fabric)

        _together(fabrics, keep)


def views_are_the_same_everywhere(meet: Meet) -> None:
    """All who enter a view have the same members, source and receivers; the source has come furthest."""
    with _devices(meet, 4, 3, 3) as fabrics:
        steps = {fabric.rank: 7 + (i == 1) for i, fabric in enumerate(fabrics)}
        views = _together(fabrics, lambda fabric: fabric.enter(steps[fabric.rank]))
        _require(len({(view.number, view.source, view.receivers) for view in views}) == 1, f"views differ: {views}")
        names = {rank: f"device {i}" for i, rank in enumerate(steps)}
        for fabric, view in zip(fabrics, views, strict=True):
            _require(dict(view.members) == dict(fabric.members) == names, f"members are {dict(view.members)}")
            _require(list(fabric.present) == sorted(names), f"present are {list(fabric.present)}")
        furthest = fabrics[1].rank
        _require(
            views[0].source == furthest, f"device {views[0].source} is the source, and {furthest} has come further"
        )
        others = tuple(sorted(set(names) - {furthest}))
        _require(views[0].receivers == others, f"receivers are {views[0].receivers}, not {others}")


def absent_counts_as_zeros(meet: Meet) -> None:
    """Whoever takes no part counts as one that brings zeros, in every collective."""
    with _entered(meet, 3, 2) as fabrics:
        here = {fabric.rank for fabric in fabrics}

        def look(fabric: ElasticFabric) -> None:
            _require(_total(fabric, 4) == 8, "a sum of two devices is not that of what they brought")
            rows = fabric.gather(torch.tensor([fabric.rank + 7]), "checking a gathering with an absent device")
            expected = [[rank + 7 if rank in here else 0] for rank in range(3)]
            _require(rows.tolist() == expected, f"gathered {rows.tolist()}, not {expected}")
            mine = torch.full((3, 1), fabric.rank + 1, dtype=torch.uint8)
            swapped = fabric.swap(mine, "checking a swap with an absent device")
            expected = [[rank + 1 if rank in here else 0] for rank in range(3)]
            _require(swapped.tolist() == expected, f"swapped {swapped.tolist()}, not {expected}")
            shared = fabric.share(torch.ones(2, dtype=torch.uint8), range(3), 2, "checking a share with an absent one")
            _require(set(shared) == here - {fabric.rank}, f"messages came from {sorted(shared)}")

        _together(fabrics, look)


def a_loss_voids_the_same_collective_on_all(meet: Meet) -> None:
    """Those who are left have the same sums, then none; they enter, and the sum that was void is theirs."""
    with _entered(meet, 3, 3, 1) as fabrics:
        lost = fabrics[1]
        others = {fabric.rank for fabric in fabrics} - {lost.rank}

        def go_on(fabric: ElasticFabric) -> int:
            for number in range(20):
                try:
                    _require(_total(fabric, number) == 3 * number, f"sum {number} lacks a device that was there")
                except MembershipChangedError:
                    view = fabric.enter(number)
                    _require(set(view.members) == others, f"after a loss members are {sorted(view.members)}")
                    _require(view.receivers == (), f"after a loss {view.receivers} are to take a state")
                    _require(_total(fabric, number) == 2 * number, "a sum that was void is not that of who is left")
                    return number
                if fabric is lost and number == 5:
                    fabric.close()
                    return number
            raise AssertionError("a device has left, and nothing was void")

        _, *numbers = sorted(_together(fabrics, go_on))
        _require(numbers[0] == numbers[1] == 6, f"collectives {numbers} were void, after the device had left with 5")


def admission_is_after_noted_steps(meet: Meet) -> None:
    """Who comes follows after a step has ended, which a note tells, and counts after a later one; sums stay whole."""
    with _entered(meet, 3, 2) as fabrics:
        late = fabrics.connect("late")

        def go_on(fabric: ElasticFabric) -> list[tuple[int, View]]:
            entered: list[tuple[int, View]] = []
            step = fabrics.step
            for _ in range(_MOST_STEPS):
                if fabric.changed or (fabric is late and not entered):
                    view = fabric.enter(step)
                    step = _hand_over(fabric, view, step)
                    entered.append((step, view))
                if late.rank in fabric.members:
                    return entered
                for _ in range(3):
                    _require(_total(fabric, 1) == 2, "a sum within a step is void, or of another view")
                    _require(not fabric.changed, "a view has begun within a step")
                step += 1
                fabric.note(step, {"position": step})
                _require(_total(fabric, 1) == 2, "the sum that ends a step is void, or of another view")
            raise AssertionError("nobody was let in")

        came = _together([*fabrics, late], go_on)
        _require(came[0] == came[1], f"devices let another one in otherwise: {came[:2]}")
        (_, follows), (_, counts) = came[0]
        _require(late.rank not in follows.members, "who comes counts at once, and others wait for it")
        _require(follows.receivers == (late.rank,), f"receivers are {follows.receivers}")
        _require(follows.source in {fabric.rank for fabric in fabrics}, f"the source is {follows.source}")
        _require(counts.receivers == (), f"one that has followed is given a state: {counts.receivers}")
        _require([step for step, _ in came[2]] == [step for step, _ in came[0]], "one that follows takes other steps")
        _require(came[2][0][1].note is None, f"a device that is new has said {came[2][0][1].note}")
        _require(_together([*fabrics, late], lambda fabric: _total(fabric, 1)) == [3, 3, 3], "a sum of all is not 3")


def one_that_follows_gets_what_others_get(meet: Meet) -> None:
    """Every collective gives one that follows, however late, what it gave the others, and counts it as zeros."""
    with _entered(meet, 3, 2) as fabrics:
        late, step, most = fabrics.connect("late"), fabrics.step, 4

        def collect(fabric: ElasticFabric) -> list[list[list[int]]]:
            here = fabric.rank + 1
            bucket, copied = torch.full((_LENGTH,), here), torch.tensor([here])
            first, second = fabric.reduce(bucket, "a sum"), fabric.reduce(copied, "another one")
            second.wait()
            first.wait()
            rows = fabric.gather(torch.tensor([here]), "a gathering")
            swapped = fabric.swap(torch.full((3, 1), here, dtype=torch.uint8), "a swap")
            message = torch.full((here,), here, dtype=torch.uint8)
            shared = fabric.share(message, range(3), most, "a share")
            if fabric is not late:
                shared[fabric.rank] = message
            given = torch.tensor([here])
            fabric.broadcast([given], "a broadcast")
            messages = [shared[sender].tolist() for sender in sorted(shared)]
            return [[bucket[:2].tolist(), copied.tolist()], rows.tolist(), swapped.tolist(), messages, [given.tolist()]]

        def go_on(fabric: ElasticFabric) -> list[object]:
            at = step
            if fabric is late:
                at = _hand_over(fabric, fabric.enter(0), 0)
            while not (fabric.follows or fabric.changed):
                at += 1
                fabric.note(at, {})
                _total(fabric, 1)
            if fabric.changed:
                _hand_over(fabric, fabric.enter(at), at)
            return [collect(fabric) for _ in range(20)]

        one, two, three = _together([*fabrics, late], go_on)
        _require(one == two, "members got different things")
        _require(three == one, f"one that follows got {three[0]}, and the others {one[0]}")


def a_note_comes_back(meet: Meet) -> None:
    """A device that was lost has its number again, and is told what it said with its last step that counted."""
    with _entered(meet, 3, 2, 1) as fabrics:
        stays, goes = fabrics

        def step(fabric: ElasticFabric, number: int) -> float:
            fabric.note(number, {"position": 100 * number + fabric.rank})
            return _total(fabric, 1)

        last = fabrics.step + 2
        _require(
            _together(fabrics, lambda fabric: step(fabric, last - 1) + step(fabric, last)) == [4, 4],
            "two sums are wrong",
        )
        goes.note(last + 1, {"position": 3})  # and no sum with it: this step does not count
        goes.close()
        _void(lambda: step(stays, last + 1))
        stays.enter(last)
        _require(step(stays, last + 1) == 1, "a step without the device that has left is not the other one's own")
        back = fabrics.connect(fabrics.names[goes.rank])
        _require(back.rank == goes.rank, f"device {goes.rank} has come back as {back.rank}")

        def let_in(fabric: ElasticFabric) -> View:
            if fabric is back:
                return come_in(fabric, 0)
            number = last + 1
            while not fabric.changed:
                number += 1
                step(fabric, number)
            return come_in(fabric, number)

        view = _together([stays, back], let_in)[1]
        said = dict(view.note or {})
        wanted = {"step": last, "position": 100 * last + goes.rank}
        _require(said == wanted, f"what comes back is {said}, not {wanted}")


def closing_is_leaving(meet: Meet) -> None:
    """Who closes is gone for the others at once, and takes part in nothing more."""
    with _entered(meet, 2, 2, 1) as fabrics:
        stays, goes = fabrics
        goes.close()
        goes.close()
        began_s = wall_seconds()
        while not stays.changed:
            _require(wall_seconds() - began_s < _LIMIT_S, "nobody noticed that a device has left")
            Event().wait(0.01)
        _require(set(stays.enter(1).members) == {stays.rank}, "a device that has left is a member")
        _require(_total(stays, 3) == 3, "a sum has a device in it that has left")
        calls: Sequence[Callable[[], object]] = (lambda: _total(goes, 1), lambda: goes.enter(1))
        for call in calls:
            try:
                call()
            except FabricError:
                continue
            raise AssertionError("a device that has left took part in something")


ELASTIC_CHECKS: tuple[ElasticCheck, ...] = (
    alone_before_it_enters,
    it_is_a_fabric,
    views_are_the_same_everywhere,
    absent_counts_as_zeros,
    a_loss_voids_the_same_collective_on_all,
    admission_is_after_noted_steps,
    one_that_follows_gets_what_others_get,
    a_note_comes_back,
    closing_is_leaving,
)


class _Ends(list[ElasticFabric]):
    """Ends of one meeting, and a way to more of them, all of which are closed in the end.

    Attributes:
        step: how many steps they have taken together.
        opened: all that were ever made.
        names: of the devices, by number.
    """

    def __init__(self, connect: Connect, count: int) -> None:
        super().__init__()
        self._connect = connect
        self.step = 0
        self.opened: list[ElasticFabric] = []
        self.names: dict[int, str] = {}
        self.extend(self.connect(f"device {i}") for i in range(count))

    def connect(self, name: str) -> ElasticFabric:
        fabric = self._connect(name)
        self.opened.append(fabric)
        self.names[fabric.rank] = name
        return fabric


@contextmanager
def _devices(meet: Meet, seats: int, least: int, count: int) -> Iterator[_Ends]:
    ends = _Ends(meet(seats, least), count)
    try:
        yield ends
    finally:
        for fabric in ends.opened:
            fabric.close()


@contextmanager
def _entered(meet: Meet, seats: int, count: int, least: int | None = None) -> Iterator[_Ends]:
    """Yield the ends of so many devices in one view, by number; ``step`` of them is how many steps were taken."""
    with _devices(meet, seats, count if least is None else least, count) as ends:
        ends.step = max(_together(ends, lambda fabric: _come_in(fabric, count)))
        ends.sort(key=lambda fabric: fabric.rank)
        yield ends


def come_in(fabric: ElasticFabric, step: int) -> View:
    """Enter a view, and give or take the state of those who are there, which is how many steps they have taken."""
    view = fabric.enter(step)
    _hand_over(fabric, view, step)
    return view


def _hand_over(fabric: ElasticFabric, view: View, step: int) -> int:
    """Give the number of steps to those that have come with a view, or take it; return it."""
    if fabric.gives:
        fabric.give(lambda: torch.tensor([step]).view(torch.uint8))
    if fabric.rank in view.receivers:
        return int(fabric.take(_MOST_STATE).view(torch.int64))
    return step


def _come_in(fabric: ElasticFabric, count: int) -> int:
    """Take steps until so many are there; return how many were taken."""
    step = 0
    for _ in range(_MOST_STEPS):
        try:
            step = _hand_over(fabric, fabric.enter(step), step)
            while len(fabric.members) < count and not fabric.changed:
                fabric.note(step + 1, {})
                _total(fabric, 1)
                step += 1
        except MembershipChangedError:
            continue
        if len(fabric.members) == count:
            return step
    raise AssertionError(f"{count} devices never came together")


def _total(fabric: ElasticFabric, value: float) -> float:
    """Return the sum of what all devices bring."""
    bucket = torch.full((_LENGTH,), float(value))
    fabric.reduce(bucket, "checking a sum").wait()
    _require(bool((bucket == bucket[0]).all()), f"parts of a sum differ: {bucket[:4]} ...")
    return float(bucket[0])


def _void(work: Callable[[], object]) -> None:
    try:
        work()
    except MembershipChangedError:
        return
    raise AssertionError("a device has left, and nothing was void")


def _together(fabrics: Sequence[ElasticFabric], work: Callable[[ElasticFabric], T]) -> list[T]:
    """Call ``work`` of each in a thread; where one fails all are closed, so that none waits for it."""
    with ThreadPoolExecutor(len(fabrics)) as pool:
        futures = [pool.submit(work, fabric) for fabric in fabrics]
        try:
            wait(futures, _LIMIT_S, FIRST_EXCEPTION)
            failed = [error for future in futures if future.done() and (error := future.exception()) is not None]
            if failed:
                raise failed[0]
            return [future.result(0) for future in futures]
        except BaseException:
            for fabric in fabrics:
                fabric.close()
            raise


def _require(held: object, message: str) -> None:
    if not held:
        raise AssertionError(message)
