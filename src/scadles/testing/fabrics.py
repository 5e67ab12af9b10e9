"""What every fabric must do, as a suite of checks that anybody can run over their own.

A check is a function of one device's end of a fabric. **Every device calls every check**, in the order of
:data:`FABRIC_CHECKS` if they share one fabric; the last check closes it. Devices may be threads::

    def on_one_device(fabric):
        for check in FABRIC_CHECKS:
            check(fabric)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(on_one_device, MyFabric.create(3)))

or processes, each of which makes its own end and then does the same. A device on which a check fails leaves the others
waiting for it: close its end, or let its process die, so that they notice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scadles.errors import FabricError
from scadles.fabric.contract import Fabric

FabricCheck = Callable[[Fabric], None]


def devices_are_numbered(fabric: Fabric) -> None:
    """Ranks are 0 to size - 1, each once, and everybody knows of as many devices."""
    everybody = fabric.gather(torch.tensor([fabric.rank, fabric.size]), "checking ranks")
    expected = [[rank, fabric.size] for rank in range(fabric.size)]
    _require(everybody.tolist() == expected, f"[rank, size] of the devices are {everybody.tolist()}, not {expected}")


def reduce_sums_in_place(fabric: Fabric) -> None:
    """After the wait, the bucket itself holds the sum over all devices."""
    for dtype in (torch.float32, torch.float64):
        for length in (1, 7, 100_000):
            bucket = torch.arange(length, dtype=dtype) * (fabric.rank + 1)
            fabric.reduce(bucket, f"checking a sum of {length}").wait()
            expected = torch.arange(length, dtype=dtype) * (fabric.size * (fabric.size + 1) // 2)
            _require(torch.equal(bucket, expected), f"a sum of {length} values of {dtype} is wrong: {bucket[:8]} ...")


def reduce_gives_everybody_the_same_bits(fabric: Fabric) -> None:
    """Rounding included, the sum is the same on all devices, and right to rounding."""
    mine = _numbers(fabric, 12_345, torch.float32)
    total = mine.clone()
    fabric.reduce(total, "checking bits").wait()
    sums = fabric.gather(total.view(torch.int32), "comparing bits")
    _require(bool((sums == sums[0]).all()), "devices got sums that differ in their last bits")
    exact = fabric.gather(mine.double(), "adding exactly").sum(dim=0)
    worst = float((total.double() - exact).abs().max())
    _require(worst <= 1e-5 * fabric.size, f"the sum is off by {worst}")


def several_reductions_may_be_under_way(fabric: Fabric) -> None:
    """Reductions started one after the other, waited for in another order, do not mix."""
    for order in (range(6), reversed(range(6))):
        buckets = [torch.full((10 ** (i % 3) + i,), float(10 * i + fabric.rank)) for i in range(6)]
        pending = [fabric.reduce(bucket, f"checking reduction {i} of several") for i, bucket in enumerate(buckets)]
        for i in order:
            pending[i].wait()
            expected = float(sum(10 * i + rank for rank in range(fabric.size)))
            _require(bool((buckets[i] == expected).all()), f"reduction {i} gave {buckets[i][:4]}, not {expected}")


def gather_keeps_order_shape_and_dtype(fabric: Fabric) -> None:
    """``gather`` returns ``[size, n]`` by rank, in the dtype it was given, and leaves its argument alone."""
    for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8):
        for length in (1, 5):
            values = torch.arange(length).to(dtype) + 10 * fabric.rank
            before = values.clone()
            everybody = fabric.gather(values, f"checking a gathering of {dtype}")
            _require(everybody.dtype == dtype, f"gathered {dtype}, got {everybody.dtype}")
            _require(everybody.shape == (fabric.size, length), f"shape is {tuple(everybody.shape)}")
            expected = [[i + 10 * rank for i in range(length)] for rank in range(fabric.size)]
            _require(everybody.tolist() == expected, f"gathered {everybody.tolist()}, expected {expected}")
            _require(torch.equal(values, before), "gather changed what it was given")


def what_was_gathered_is_ones_own(fabric: Fabric) -> None:
    """A device may write into what it gathered, and no other one sees it."""
    gathered = fabric.gather(torch.zeros(4), "checking ownership")
    gathered.fill_(float(fabric.rank + 1))
    fabric.gather(torch.zeros(1), "waiting for all to have written")
    _require(bool((gathered == fabric.rank + 1).all()), f"another device wrote into it: {gathered.tolist()}")


def swap_brings_each_row_to_its_device(fabric: Fabric) -> None:
    """Row j goes to device j; what arrives is in the order of senders, one's own, and the argument stays as it was."""
    for length in (1, 5, 100_000):
        senders, receivers = torch.arange(fabric.size), torch.arange(fabric.size)
        everything = (senders[:, None] * 16 + receivers)[:, :, None] + torch.arange(length) * 7
        rows = everything[fabric.rank].to(torch.uint8)
        before = rows.clone()
        arrived = fabric.swap(rows, f"checking a swap of {length}")
        expected = everything[:, fabric.rank].to(torch.uint8)
        _require(arrived.dtype == torch.uint8, f"swapped bytes, got {arrived.dtype}")
        said = f"rows begin with {arrived[:, 0].tolist()}, not {expected[:, 0].tolist()}"
        _require(torch.equal(arrived, expected), said)
        arrived.fill_(_mark(fabric))
        fabric.gather(torch.zeros(1), "waiting for all to have written")
        _require(torch.equal(rows, before), "swap changed what it was given, or shares its memory")
        _require(bool((arrived == _mark(fabric)).all()), "another device wrote into what was swapped")


def share_brings_messages_of_any_length(fabric: Fabric) -> None:
    """Whoever sends, and however much, everybody else gets it by sender; one's own message does not come back."""
    plans: tuple[dict[int, int], ...] = (
        {},
        {fabric.size - 1: 7},
        {rank: 100_000 * rank + 1 for rank in range(fabric.size)},
        dict.fromkeys(range(0, fabric.size, 2), 0),
        {rank: 3 + rank for rank in range(fabric.size)},
    )
    for number, plan in enumerate(plans):
        phase = f"checking share {number}"
        contents = {rank: (torch.arange(length) * 7 + rank).to(torch.uint8) for rank, length in plan.items()}
        mine = contents.get(fabric.rank)
        before = None if mine is None else mine.clone()
        received = fabric.share(mine, tuple(plan), max(plan.values(), default=0), phase)
        expected = [rank for rank in plan if rank != fabric.rank]
        _require(list(received) == expected, f"messages came from {list(received)}, not {expected}")
        for sender in expected:
            same = received[sender].dtype == torch.uint8 and torch.equal(received[sender], contents[sender])
            _require(same, f"{phase}: what device {sender} sent arrived as {received[sender][:8]} ...")
            received[sender].fill_(_mark(fabric))
        fabric.gather(torch.zeros(1), "waiting for all to have written")
        kept = mine is None or before is None or torch.equal(mine, before)
        _require(kept, "share changed what it was given, or shares its memory")
        all_mine = all(bool((theirs == _mark(fabric)).all()) for theirs in received.values())
        _require(all_mine, "another device wrote into what was shared")


def share_refuses_what_is_too_long(fabric: Fabric) -> None:
    """A message longer than agreed is refused before it leaves."""
    try:
        fabric.share(torch.zeros(6, dtype=torch.uint8), tuple(range(fabric.size)), 5, "checking a long message")
    except FabricError:
        fabric.gather(torch.zeros(1), "going on after a refusal")
        return
    raise AssertionError("a message of 6 bytes was sent where 5 are agreed")


def broadcast_copies_from_device_0(fabric: Fabric) -> None:
    """Tensors of any kind, shape and layout become those of device 0, in place; none at all is fine."""
    fabric.broadcast([], "checking a broadcast of nothing")
    theirs, mine = _assortment(0), _assortment(fabric.rank)
    fabric.broadcast(mine, "checking a broadcast")
    for expected, got in zip(theirs, mine, strict=True):
        same = got.dtype == expected.dtype and got.shape == expected.shape and torch.equal(got, expected)
        _require(same, f"broadcast gave {got}, device 0 has {expected}")
        _require(got.requires_grad == expected.requires_grad, "broadcast changed requires_grad")


def bytes_sent_never_falls(fabric: Fabric) -> None:
    """The count of bytes is a whole number that grows or stays, and it is said how it is known."""
    _require(fabric.bytes_counted_by, "bytes_counted_by does not say how bytes are counted")
    counts = [fabric.bytes_sent()]
    for length in (1, 1000, 50_000):
        fabric.reduce(torch.ones(length), "checking bytes").wait()
        counts.append(fabric.bytes_sent())
    _require(all(isinstance(count, int) and count >= 0 for count in counts), f"bytes sent are {counts}")
    _require(counts == sorted(counts), f"bytes sent fell: {counts}")


def each_call_is_one_collective(fabric: Fabric) -> None:
    """``collectives`` grows by one with each call, however many tensors it is about."""
    before = fabric.collectives
    fabric.reduce(torch.ones(3), "checking the count").wait()
    fabric.gather(torch.ones(3), "checking the count")
    fabric.swap(torch.ones(fabric.size, 3, dtype=torch.uint8), "checking the count")
    fabric.broadcast([torch.ones(3), torch.ones(()), torch.ones(2, 2)], "checking the count")
    fabric.share(torch.ones(4, dtype=torch.uint8), tuple(range(fabric.size)), 4, "checking the count")
    fabric.bytes_sent()
    counted = fabric.collectives - before
    _require(counted == 5, f"a reduction, a gathering, a swap, a broadcast and a share: counted {counted}")


def a_closed_fabric_refuses(fabric: Fabric) -> None:
    """``close`` may be called again; then counts can still be read, and every exchange raises FabricError."""
    fabric.gather(torch.zeros(1), "waiting for all before leaving")
    sent, collectives = fabric.bytes_sent(), fabric.collectives
    fabric.close()
    fabric.close()
    _require(fabric.bytes_sent() >= sent, f"{sent} bytes were sent, after closing {fabric.bytes_sent()}")
    _require(fabric.collectives == collectives, "closing changed the number of collectives")
    calls: tuple[Callable[[], object], ...] = (
        lambda: fabric.reduce(torch.zeros(1), "using a closed fabric").wait(),
        lambda: fabric.gather(torch.zeros(1), "using a closed fabric"),
        lambda: fabric.swap(torch.zeros(fabric.size, 1, dtype=torch.uint8), "using a closed fabric"),
        lambda: fabric.broadcast([torch.zeros(1)], "using a closed fabric"),
        lambda: fabric.share(None, (), 0, "using a closed fabric"),
    )
    for call in calls:
        try:
            call()
        except FabricError:
            continue
        raise AssertionError("a closed fabric took part in an exchange")


FABRIC_CHECKS: tuple[FabricCheck, ...] = (
    devices_are_numbered,
    reduce_sums_in_place,
    reduce_gives_everybody_the_same_bits,
    several_reductions_may_be_under_way,
    gather_keeps_order_shape_and_dtype,
    what_was_gathered_is_ones_own,
    swap_brings_each_row_to_its_device,
    share_brings_messages_of_any_length,
    share_refuses_what_is_too_long,
    broadcast_copies_from_device_0,
    bytes_sent_never_falls,
    each_call_is_one_collective,
    a_closed_fabric_refuses,
)


def _require(held: object, message: str) -> None:
    if not held:
        raise AssertionError(message)


def _mark(fabric: Fabric) -> int:
    """Return a byte that each of 128 devices has for itself, so that who shares memory with another one loses it."""
    return 255 - fabric.rank % 128


def _numbers(fabric: Fabric, length: int, dtype: torch.dtype) -> Tensor:
    """Return numbers between -1 and 1, other ones on each device."""
    generator = torch.Generator().manual_seed(fabric.rank + 1)
    return torch.rand(length, generator=generator, dtype=dtype) * 2 - 1


def _assortment(rank: int) -> list[Tensor]:
    """Return what a model's state may be made of, with other values on each device."""
    first = 100 * rank
    return [
        torch.nn.Parameter(torch.arange(6.0).view(2, 3) + first),
        torch.tensor(rank + 0.125, dtype=torch.float64),
        torch.arange(3, dtype=torch.int64) - 2**40 * (rank + 1),
        torch.tensor([True, rank % 2 == 0, False]),
        torch.arange(6.0).view(2, 3).t() * (rank + 1),
        torch.full((3,), 1.5 + rank, dtype=torch.bfloat16),
        torch.empty(0),
    ]
