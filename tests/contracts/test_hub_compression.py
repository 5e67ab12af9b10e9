"""Compression through a hub over loopback: absent devices, loss within a step, the outcome of training, bytes."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event

import pytest
import torch

from scadles.assembly.exchange import build_exchange
from scadles.config import load_config
from scadles.errors import ConfigError, FabricError, MembershipChangedError
from scadles.exchange.aggregation import Report
from scadles.exchange.compression import RATIOS
from scadles.exchange.reduction import SCALARS, VectorOwner, gather_volume
from scadles.fabric.hub import Hub, HubFabric, members
from scadles.testing.elastic import come_in
from scripted_ratio import follow_the_script

LIMIT_S = 60.0
N = 500


@pytest.fixture
def fleet(monkeypatch):
    """Start hubs with so many devices in their first view, by seat; silence on a busy machine is no loss."""
    monkeypatch.setattr(members, "LEAST_S", LIMIT_S)
    with ExitStack() as closing:

        def start(count, seats=None, fold=None, say=lambda _: None):
            hub = Hub("127.0.0.1", 0, seats or count, least=count, fold=fold or VectorOwner().fold, say=say)
            closing.callback(hub.close)
            hub.start()
            devices = []
            for number in range(count):
                devices.append(HubFabric(*hub.address, name=f"cam-{number}", deadline_s=LIMIT_S))
                closing.callback(devices[-1].close)
            together(devices, lambda fabric: come_in(fabric, 0))
            hub._views.least = 1
            return hub, devices

        yield start


def together(fabrics, work):
    with ThreadPoolExecutor(len(fabrics)) as pool:
        return list(pool.map(work, fabrics, timeout=LIMIT_S))


def exchange_of(fabric, parameters=None, devices=None, **compression):
    settings = {"gate": "always", "ratio": 0.1, **compression}
    tree = {"devices": devices or fabric.size, "steps": 1, "fabric": {"backend": "hub"}, "compression": settings}
    return build_exchange(load_config(tree), parameters or [torch.nn.Parameter(torch.zeros(N))], fabric)


def step(exchange, gradient, *, weight=4.0):
    """Take one step; return the reports and the mean gradient."""
    exchange.begin(weight, "a test")
    exchange.parameters[0].grad = gradient * weight
    reports = finish(exchange, weight)
    return reports, exchange.parameters[0].grad.clone()


def finish(exchange, weight=4.0):
    return exchange.finish(Report(batch=weight, weight=weight))


@pytest.mark.parametrize("reduction", ["auto", "gather"])
def test_absent_devices_are_passed_over(fleet, reduction):
    _, fabrics = fleet(2, seats=4)
    gradients = torch.randn(2, N, generator=torch.Generator().manual_seed(0)) ** 3

    def work(fabric):
        exchange = exchange_of(fabric, reduction=reduction, gate="cost", values="float32", ratio=1.0)
        outcome = [step(exchange, gradients[fabric.rank]) for _ in range(8)]
        assert exchange.compressor.reducer.name == {"auto": "hub"}.get(reduction, reduction)
        return outcome, exchange.compressor.decisions

    (mine, decisions), (other, same) = together(fabrics, work)
    assert decisions == same
    for (reports, mean), (_, others_mean) in zip(mine, other, strict=True):
        assert reports.weight.tolist() == [4, 4, 0, 0]
        assert torch.equal(mean, others_mean)
        assert torch.allclose(mean, gradients.mean(dim=0), atol=1e-6)


@pytest.mark.parametrize("reduction", ["auto", "gather"])
def test_a_step_in_which_a_device_is_lost_is_sent_again_and_nothing_is_lost(fleet, reduction):
    owner = VectorOwner()
    _, fabrics = fleet(3, fold=owner.fold)
    updates = torch.randn(3, 6, N, generator=torch.Generator().manual_seed(1)) ** 3

    def work(fabric):
        exchange = exchange_of(fabric, reduction=reduction)
        came, given = torch.zeros(N, dtype=torch.float64), torch.zeros(N, dtype=torch.float64)
        for number, update in enumerate(updates[fabric.rank]):
            if fabric.rank == 2 and number == 3:
                fabric.close()
                break
            exchange.begin(4.0, "a test")
            exchange.parameters[0].grad = update.clone()
            while True:
                try:
                    reports = finish(exchange)
                except MembershipChangedError:
                    come_in(fabric, number)
                    exchange.again()
                else:
                    break
            given += update.double()
            came += exchange.parameters[0].grad.double() * float(reports.weight.sum())
        return came, given, exchange.compressor.state()[0]["feedback/residual"].double()

    (came, given, kept), (same, given_too, kept_too), (_, given_before, left_with_it) = together(fabrics, work)
    assert torch.equal(came, same)
    left = kept + kept_too + left_with_it + (owner.open_residual().double() if reduction == "auto" else 0.0)
    assert torch.allclose(came + left, given + given_too + given_before, rtol=0, atol=1e-3)


def test_training_comes_to_what_it_comes_to_by_gather(fleet):
    """A linear model on shards of one data set; the loss that is left, by either way."""
    generator = torch.Generator().manual_seed(2)
    inputs, weights = torch.randn(4, 200, N, generator=generator), torch.randn(N, generator=generator)
    targets = inputs @ weights

    def outcome(settings):
        _, fabrics = fleet(4)

        def work(fabric):
            model = torch.nn.Parameter(torch.zeros(N))
            exchange = exchange_of(fabric, [model], **settings)
            optimizer = torch.optim.SGD([model], lr=0.05)
            for number in range(150):
                rows = torch.arange(number * 20, number * 20 + 20) % 200
                exchange.begin(20.0, "a test")
                loss = ((inputs[fabric.rank, rows] @ model - targets[fabric.rank, rows]) ** 2).mean() * 20
                loss.backward()
                finish(exchange, 20.0)
                optimizer.step()
            return float(((inputs @ model - targets) ** 2).mean().detach())

        losses = together(fabrics, work)
        assert len(set(losses)) == 1
        return losses[0]

    by_hub, by_gather = outcome({}), outcome({"reduction": "gather"})
    assert by_hub < 1.5 * by_gather + 0.01 * float(targets.var())


@pytest.mark.parametrize("devices", [4, 64])
@pytest.mark.parametrize(("ratio", "share"), [(0.1, 1 / 12), (0.01, 1 / 100)])
def test_bytes_of_a_device_in_either_direction(fleet, devices, ratio, share):
    values = 400_000  # reports take 88 bytes a device on their way down
    _, fabrics = fleet(devices)

    def work(fabric):
        exchange = exchange_of(fabric, [torch.nn.Parameter(torch.zeros(values))], ratio=ratio)
        gradient = torch.randn(values, generator=torch.Generator().manual_seed(fabric.rank)) ** 3
        step(exchange, gradient)
        up, down = fabric._session.up, fabric._session.down
        before = up.sent, down.received
        step(exchange, gradient)
        return up.sent - before[0], down.received - before[1]

    with ThreadPoolExecutor(devices) as pool:
        moved = list(pool.map(work, fabrics, timeout=LIMIT_S))
    assert max(up for up, _ in moved) <= share * 4 * values
    assert max(down for _, down in moved) <= share * 4 * values


def test_a_damaged_message_leaves_its_device_out(fleet):
    said = []
    _, fabrics = fleet(2, say=said.append)
    size = gather_volume(N, 50, 2, "int8", SCALARS + 1).message_bytes

    def work(fabric):
        if fabric.rank == 1:
            with pytest.raises(MembershipChangedError) as caught:
                fabric.fold(torch.zeros(size, dtype=torch.uint8), "a test")
            assert caught.value.detached
            return None
        exchange = exchange_of(fabric)
        exchange.begin(4.0, "a test")
        exchange.parameters[0].grad = torch.ones(N)
        with pytest.raises(MembershipChangedError):
            finish(exchange)
        come_in(fabric, 0)
        exchange.again()
        return finish(exchange).weight.tolist()

    assert together(fabrics, work) == [[4.0, 0.0], None]
    assert any("cam-1 (device 1) has left" in line for line in said)


def test_ratios_may_change_from_step_to_step(fleet, monkeypatch):
    """Messages of another size each step, dense ones between them; the hub keeps back what it does not send."""
    follow_the_script(monkeypatch.setattr)
    owner = VectorOwner(min(ratio for ratio in RATIOS if ratio))
    _, fabrics = fleet(3, seats=4, fold=owner.fold)
    updates = torch.randn(3, 10, N, generator=torch.Generator().manual_seed(2)) ** 3

    def work(fabric):
        exchange = exchange_of(fabric, ratio="auto", gate="cost", values="float32")
        means = [step(exchange, update)[1] for update in updates[fabric.rank]]
        return means, exchange.compressor.ratios, exchange.state()[0]["feedback/residual"].double()

    outcomes = together(fabrics, work)
    means, ratios, _ = outcomes[0]
    assert ratios == {"none": 2, "0.1": 4, "0.03": 2, "0.01": 2}
    for others, _, _ in outcomes[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(means, others, strict=True))
    came = sum(12 * mean.double() for mean in means)
    kept = sum(residual for _, _, residual in outcomes)
    torch.testing.assert_close(
        came + kept + owner.open_residual().double(), 4 * updates.double().sum((0, 1)), atol=1e-3, rtol=1e-5
    )


def test_a_hub_without_compression_says_so(fleet):
    heard = Event()
    hub, [fabric] = fleet(1, say=lambda line: "adds up no compressed messages" in line and heard.set())
    hub._dispatcher._fold = None
    with pytest.raises(MembershipChangedError):
        fabric.fold(torch.ones(3, dtype=torch.uint8), "a test")
    assert heard.wait(LIMIT_S)
    fabric.close()
    with pytest.raises(FabricError, match="has left"):
        fabric.fold(torch.ones(3, dtype=torch.uint8), "a test")


@pytest.mark.parametrize("method", ["whole", "powersgd"])
def test_methods_that_need_all_devices_are_refused(method):
    settings = {"method": method, "ratio": 1.0 if method == "whole" else 0.1}
    with pytest.raises(ConfigError, match="through a hub any may be absent"):
        load_config({"devices": 3, "steps": 1, "fabric": {"backend": "hub"}, "compression": settings})
