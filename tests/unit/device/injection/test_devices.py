"""Devices that share: what they train on, and what becomes of it."""

import pytest
import torch
from torch.nn.functional import cross_entropy

import small_devices
from scadles.device.batching import FixedBatch
from scadles.device.injection import Injection, Passing, SampleExchange, SampleFormat, SampleSender, SharingPolicy
from scadles.errors import FabricError, PeerLostError
from scadles.fabric import LocalFabric
from small_devices import CLASSES, make_model, samples_of

FORM = SampleFormat((4,), torch.float64, CLASSES)


def make_device(
    fabric, rates_hz, *, alpha=1.0, beta=0.5, norm=False, mean="weighted", size=8, max_wait_s=1.0, **policy
):
    number, rule = fabric.rank, FixedBatch(size, max_wait_s)
    sender = SampleSender(number, Injection(alpha, beta, fabric.size, seed=5), SharingPolicy(**policy), Passing())
    shares = SampleExchange(sender, FORM, fabric.share, most=size)
    return small_devices.make_device(
        fabric, rate_hz=rates_hz[number], rule=rule, samples=samples_of(number), norm=norm, mean=mean, shares=shares
    )


def take_steps(device, steps):
    """Train for some steps; return batches and events."""
    told = []
    for _ in range(steps):
        batch = device.gather()
        loss = cross_entropy(device.learner.model(batch.x), batch.y) if len(batch) else None
        told.append((batch, device.step(loss)[0]))
    return told


def run(in_threads, rates_hz, steps, **settings):
    def work(fabric):
        device = make_device(fabric, rates_hz, **settings)
        device.start()
        return device, take_steps(device, steps)

    return in_threads(len(rates_hz), work)


@pytest.mark.parametrize("mean", ["weighted", "plain"])
def test_the_step_is_that_of_the_union_of_what_devices_trained_on(in_threads, mean):
    """Against plain torch in float64: injected samples count as often as they are trained on."""
    devices = run(in_threads, [40.0, 12.0, 3.0], 3, alpha=0.6, beta=0.5, mean=mean)
    twin = make_model()
    for step in range(3):
        batches = [told[step][0] for _, told in devices]
        total = sum(len(batch) for batch in batches)
        twin.zero_grad()
        losses = [cross_entropy(twin(batch.x), batch.y) for batch in batches]
        weights = [len(batch) if mean == "weighted" else 1 for batch in batches]
        (sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)).backward()
        with torch.no_grad():
            for p in twin.parameters():
                p.sub_(0.1 * total / 24 * p.grad)
        assert all(told[step][1].total_batch == total for _, told in devices)
    for device, _ in devices:
        for mine, theirs in zip(device.learner.model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_everybody_gets_what_others_share_after_its_own(in_threads):
    devices = run(in_threads, [40.0, 40.0, 40.0], 1, alpha=1.0, beta=0.5)
    for device, told in devices:
        [(batch, event)] = told
        assert (len(batch), len(batch.offsets), event.injected, event.shared) == (16, 8, 8, 4)
        assert torch.equal(batch.x[:8], samples_of(device.number)(batch.offsets)[0])
        others = [samples_of(d.number)(t[0][0].offsets) for d, t in devices if d is not device]
        given = {tuple(x) for xs, _ in others for x in xs.tolist()}
        assert {tuple(x) for x in batch.x[8:].tolist()} <= given
        assert event.offsets == (0, 7)
        assert event.shared_bytes == FORM.message_bytes(4)
        ledger = device.intake.describe()
        assert (ledger["trained"], ledger["injected"]) == (8, 8)


def test_a_device_with_nothing_trains_on_what_it_gets(in_threads):
    devices = run(in_threads, [40.0, 0.0], 2, alpha=1.0, beta=0.5)
    for batch, event in devices[1][1]:
        assert (len(batch), len(batch.offsets)) == (4, 0)
        assert (event.batch, event.injected, event.offsets, event.total_batch) == (4, 4, None, 12)
    ledger = devices[1][0].intake.describe()
    assert (ledger["received"], ledger["trained"], ledger["injected"]) == (0, 0, 8)


def test_nothing_shared_is_plain_training(in_threads):
    """Refusing devices send a message without samples, so that nobody waits for them."""
    refusing = run(in_threads, [40.0, 12.0], 3, refuse_devices=[0, 1])
    for _, told in refusing:
        assert all((event.injected, event.shared, event.withheld) == (0, 0, event.batch // 2) for _, event in told)


def test_batchnorms_two_are_counted_over_own_and_others(in_threads):
    devices = run(in_threads, [40.0, 1.0, 0.0], 1, alpha=1.0, beta=0.25, norm=True, max_wait_s=1.0)
    sizes = [len(told[0][0]) for _, told in devices]
    assert sizes == [8, 3, 2], "one own sample is trained on together with two of device 0"
    assert devices[1][0].intake.describe()["trained"] == 1


@pytest.mark.parametrize("rates_hz", [[4.0, 1.0], [4.0, 0.0]])
def test_one_sample_alone_is_not_trained_on_where_batchnorm_needs_two(in_threads, rates_hz):
    """An own one waits, another's is left out."""
    beta = 0.25 if rates_hz[1] == 0 else 0.1
    devices = run(in_threads, rates_hz, 1, alpha=1.0, beta=beta, norm=True, max_wait_s=1.0)
    (batch, event), device = devices[1][1][0], devices[1][0]
    assert (len(batch), event.batch, event.injected) == (0, 0, 0)
    ledger = device.intake.describe()
    assert (ledger["held"], ledger["injected"], ledger["trained"]) == (int(rates_hz[1]), 0, 0)


def test_who_leaves_before_sharing_takes_part_with_nothing(in_threads):
    """A device that ends early owes the others its message if it is a sender."""

    def work(fabric):
        device = make_device(fabric, [40.0, 40.0])
        device.start()
        if fabric.rank == 0:
            device.undo_collect()
            return device.step(None, stop=True)
        return take_steps(device, 1)[0][1]

    (left, stopped), stayed = in_threads(2, work)
    assert stopped
    assert (left.batch, left.shared, left.injected) == (0, 0, 0)
    assert (stayed.batch, stayed.shared, stayed.injected, stayed.total_batch) == (8, 4, 0, 8)


def test_a_sample_of_others_that_makes_a_gradient_infinite_costs_own_ones_too(in_threads):
    def work(fabric):
        device = make_device(fabric, [40.0, 40.0])
        device.start()
        batch = device.gather()
        loss = cross_entropy(device.learner.model(batch.x), batch.y)
        event, _ = device.step(loss * (float("inf") if fabric.rank else 1.0))
        return event, device.intake.describe(), device.non_finite_steps

    (_, good, _), (event, bad, steps) = in_threads(2, work)
    assert (good["trained"], good["injected"]) == (8, 4)
    assert (bad["trained"], bad["injected"], bad["rejected"], steps) == (0, 0, 8, 1)
    assert (event.batch, event.injected, event.total_batch) == (0, 0, 12)


def test_a_sender_that_never_comes_is_named():
    fabric = LocalFabric.create(2, deadline_s=0.2)[0]
    exchange = make_device(fabric, [40.0, 40.0])._samples
    with pytest.raises(PeerLostError, match="lost device 1 during samples of step 1"):
        exchange.take_part(1, make_device(fabric, [40.0, 40.0]).collect(), 0.0)


def test_what_cannot_be_read_names_its_sender(in_threads):
    def work(fabric):
        if fabric.rank == 0:
            fabric.share(torch.zeros(FORM.message_bytes(2), dtype=torch.uint8), (0, 1), 10**6, "samples of step 1")
            return
        device = make_device(fabric, [40.0, 40.0])
        with pytest.raises(FabricError, match="device 0 shared samples that cannot be used"):
            device._samples.take_part(1, device.collect(), 0.0)

    in_threads(2, work)
