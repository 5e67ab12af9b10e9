"""What a device keeps from step to step: the account of every gradient, and common decisions."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scadles.assembly.exchange import bucket_sizes, build_compressor
from scadles.config import load_config
from scadles.errors import CheckpointError, ConfigError
from scadles.exchange.aggregation import Report, Reports
from scadles.exchange.reduction import ClusterExchange, CompressedExchange, Gates, TimedLink
from scadles.fabric import LocalFabric

N = 300


def model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(N - 1, 1)  # N parameters with its bias


def config(**compression):
    # buckets of 100 entries
    fabric = {"bucket_mb": 400 / 2**20}
    return load_config({"devices": 3, "steps": 1, "fabric": fabric, "compression": {"ratio": 0.1, **compression}})


def gradients(steps, devices, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, devices, N, generator=generator) ** 3


def exchange_of(fabric, network, seconds=lambda: 0.0, **compression):
    link = TimedLink(fabric, seconds)
    return CompressedExchange(network.parameters(), link, build_compressor(config(**compression), network, link))


def step(exchange, flat, weight=8.0):
    """Take one step with a gradient, which is weighted already; return the reports and the summed gradient."""
    parameters = exchange.parameters
    exchange.begin(weight, "a test")
    if weight:
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad.add_(part.view_as(parameter))
    reports = exchange.finish(Report(batch=weight, weight=weight))
    total = float(reports.weight.sum())
    if not total:
        return reports, torch.zeros(N)
    return reports, torch.cat([p.grad.flatten() for p in parameters]) * total


WAYS = [
    {"gate": "always", "reduction": "gather"},
    {"gate": "always", "reduction": "split", "values": "float32"},
    {"gate": "norm", "delta": 0.45, "reduction": "gather"},
    {"gate": "norm", "delta": 0.3, "reduction": "split"},
    {"gate": "always", "method": "randomk", "values": "bfloat16"},
    {"gate": "always", "method": "whole", "ratio": 1.0},
    {"gate": "always", "method": "powersgd"},
    {"gate": "always", "scope": "layer", "selection": "exact"},
    {"gate": "always", "scope": "bucket", "reduction": "split"},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_was_sent_and_what_is_kept_is_what_there_was(in_threads, way):
    """Over any sequence of compressed and dense steps."""
    steps = 12
    given = gradients(steps, 3)

    def work(fabric):
        exchange = exchange_of(fabric, model(), **way)
        sent = [step(exchange, given[number, fabric.rank])[1].double() for number in range(steps)]
        tensors, _ = exchange.state()
        return sum(sent), tensors["feedback/residual"].double(), exchange.compressor.cnc

    outcomes = in_threads(3, work)
    everything = given.double().sum(dim=(0, 1))
    kept = sum(residual for _, residual, _ in outcomes)
    for sent, _, cnc in outcomes:
        # a residual lies in the order of the messages: the bias first
        ordered = torch.cat([sent[-1:], sent[:-1]])
        expected = torch.cat([everything[-1:], everything[:-1]])
        torch.testing.assert_close(ordered + kept, expected, rtol=1e-5, atol=1e-4)
        assert cnc == outcomes[0][2]
    assert outcomes[0][2] > 0


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 4.0, 9.0]), min_size=3, max_size=3), min_size=3, max_size=6))
def test_devices_that_share_a_process_do_the_same(in_threads, weights):
    way = {"gate": "norm", "delta": 0.4, "reduction": "split"}
    given_updates = gradients(len(weights), 3, seed=1)

    def work(fabric):
        exchange = exchange_of(fabric, model(), **way)
        return [step(exchange, given_updates[n, fabric.rank], weights[n][fabric.rank]) for n in range(len(weights))]

    apart = in_threads(3, work)
    network = model()
    seats = [LocalFabric.create(3)[rank] for rank in range(3)]
    cluster = ClusterExchange(network.parameters(), [build_compressor(config(**way), network, seat) for seat in seats])
    for number, row in enumerate(weights):
        cluster.begin(1.0 if any(row) else 0.0, "a test")
        for device, weight in enumerate(row):
            flat = given_updates[number, device]
            cluster.updates[device].copy_(torch.cat([flat[-1:], flat[:-1]]) if weight else torch.zeros(N))
        mine = np.array([Report(batch=weight, weight=weight) for weight in row], dtype=np.float64)
        reports = cluster.finish_many(mine)
        for device in range(3):
            theirs, total = apart[device][number]
            np.testing.assert_allclose(reports.weight, theirs.weight)
            np.testing.assert_allclose(reports.norm_sq, theirs.norm_sq, rtol=1e-5)
            if any(row):
                found = torch.cat([p.grad.flatten() for p in cluster.parameters]) * sum(row)
                torch.testing.assert_close(found, total, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "way",
    [
        {"reduction": "gather"},
        {"reduction": "split"},
        {"reduction": "split", "values": "float32"},
        {"method": "whole", "ratio": 1.0},
    ],
)
def test_what_is_applied_and_what_is_kept_is_what_momentum_makes_of_all_gradients(way):
    network, seats, steps = model(), LocalFabric.create(3), 6
    way = {"ratio": 0.1, "gate": "always", "momentum": 0.5, **way}
    chosen = load_config({"devices": 3, "steps": 1, "optimizer": {"momentum": 0}, "compression": way})
    cluster = ClusterExchange(network.parameters(), [build_compressor(chosen, network, seat) for seat in seats])
    velocity, velocities, applied = (torch.zeros(N, dtype=torch.float64) for _ in range(3))
    for updates in gradients(steps, 3):
        cluster.begin(1.0, "a test")
        cluster.updates[:] = updates
        cluster.finish_many(np.array([Report(4.0, 4.0)] * 3, dtype=np.float64))
        velocity = 0.5 * velocity + updates.double().sum(dim=0)
        velocities += velocity
        # the message holds parameters from the last to the first
        applied += torch.cat([p.grad.flatten() for p in cluster.parameters[::-1]]).double() * 12
    kept = sum(compressor.state()[0]["feedback/residual"].double() for compressor in cluster.compressors)
    torch.testing.assert_close(applied + kept, velocities, rtol=0, atol=1e-4)


def test_a_device_that_is_away_keeps_what_it_has():
    network, seats = model(), LocalFabric.create(2)
    way = {"ratio": 0.1, "gate": "always", "reduction": "gather"}
    devices = load_config({"devices": 2, "steps": 1, "compression": way})
    cluster = ClusterExchange(network.parameters(), [build_compressor(devices, network, seat) for seat in seats])
    kept = []
    for present in ([True, True], [True, False], [True, True]):
        cluster.present = np.array(present)
        cluster.begin(1.0, "a test")
        cluster.updates[:] = gradients(1, 2)[0] * torch.tensor(present)[:, None]
        cluster.finish_many(np.array([Report(4.0, 4.0 * here) for here in present], dtype=np.float64))
        kept.append([compressor.state()[0]["feedback/residual"].clone() for compressor in cluster.compressors])
    (_, first), (other, second), (_, third) = kept
    assert torch.equal(first, second)
    assert not torch.equal(second, third)
    assert not torch.equal(other, kept[0][0])


def test_the_gate_by_cost_needs_links_that_cost(in_threads):
    """Both kinds first, to see what they take; then what is faster."""
    clock = iter(np.arange(0, 1e6, 1.0))

    def work(fabric):
        exchange = exchange_of(fabric, model(), lambda: next(clock), gate="cost")
        for number in range(8):
            step(exchange, gradients(8, 3)[number, fabric.rank])
        return exchange.compressor.cnc, exchange.compressor.why

    outcomes = in_threads(3, work)
    assert len({cnc for cnc, _ in outcomes}) == 1
    assert 0 < outcomes[0][0] < 1


class SlowFabric(LocalFabric):
    """Two seconds for every message, by a clock of its own."""

    now_s = 0.0

    def reduce(self, bucket, phase):
        self.now_s += 2.0
        return super().reduce(bucket, phase)

    def gather(self, values, phase):
        self.now_s += 2.0
        return super().gather(values, phase)

    def swap(self, rows, phase):
        self.now_s += 2.0
        return super().swap(rows, phase)


@pytest.mark.parametrize(
    ("way", "coding_s", "transfer_s"),
    [
        ({"gate": "always", "reduction": "split"}, 4.0 + 8.0 + 16.0 + 32.0, 4.0),
        ({"gate": "always", "reduction": "gather"}, 4.0 + 8.0 + 16.0 + 32.0, 2.0),
        ({"gate": "norm", "delta": 0.0}, 32.0, 2.0),  # dense
    ],
)
def test_coding_is_not_taken_for_transfer(in_threads, way, coding_s, transfer_s):
    """Neither packing before the messages, nor adding up between and after them."""

    def work(fabric):
        exchange = exchange_of(fabric, model(), lambda: fabric.now_s, **way)
        compressor = exchange.compressor
        for of, name, seconds in (
            (compressor.reducer, "begin", 4.0),
            (compressor.reducer, "message", 8.0),
            (compressor.reducer, "add_up", 16.0),
            (compressor, "end", 32.0),
        ):
            take_time(of, name, fabric, seconds * (fabric.rank + 1))
        first, second = (step(exchange, gradients(2, 3)[n, fabric.rank])[0] for n in range(2))
        return first, second

    for first, second in in_threads(SlowFabric.create(3, deadline_s=30.0), work):
        assert first.coding_s.tolist() == first.transfer_s.tolist() == [0.0] * 3
        assert second.coding_s.tolist() == [coding_s, 2 * coding_s, 3 * coding_s]
        assert second.transfer_s.tolist() == [transfer_s] * 3


def take_time(of, name, fabric, seconds):
    """Let a method take some of the fabric's time."""
    method = getattr(of, name)

    def slow(*arguments, **keywords):
        fabric.now_s += seconds
        return method(*arguments, **keywords)

    setattr(of, name, slow)


@pytest.mark.parametrize(("coding_s", "fast"), [(0.5, True), (5.0, False)])
def test_the_gate_by_cost_counts_what_decoding_takes(in_threads, coding_s, fast):
    """Dense messages take two seconds: compressed ones pay only where all of their coding is quick."""

    def work(fabric):
        exchange = exchange_of(fabric, model(), lambda: fabric.now_s, gate="cost", reduction="gather", ratio=0.02)
        take_time(exchange.compressor.reducer, "add_up", fabric, coding_s)
        decisions = []
        for number in range(10):
            step(exchange, gradients(10, 3)[number, fabric.rank])
            decisions.append(exchange.compressor.compressed)
        return decisions, exchange.compressor.why

    class Link(SlowFabric):
        """Ten times faster for messages that are gathered, which are small here."""

        def gather(self, values, phase):
            self.now_s -= 1.8
            return super().gather(values, phase)

    for decisions, why in in_threads(Link.create(3, deadline_s=30.0), work):
        # two looks at each, of which the second is known one step later
        assert decisions == [False] * 3 + [True] * 3 + [fast] * 4
        assert why.startswith("compressed is faster: 0.5 s of coding" if fast else "dense is faster: 5 s of coding")


def test_what_a_checkpoint_holds_makes_the_next_steps_the_same():
    def run(exchange, numbers):
        return [step(exchange, gradients(8, 1)[n, 0])[1] for n in numbers]

    [fabric] = LocalFabric.create(1)
    way = {"gate": "norm", "delta": 0.4, "momentum": 0.5}
    settings_ = load_config(
        {"devices": 2, "steps": 1, "optimizer": {"momentum": 0}, "compression": {"ratio": 0.1, **way}}
    )

    def make():
        network = model()
        link = TimedLink(fabric, lambda: 0.0)
        return CompressedExchange(network.parameters(), link, build_compressor(settings_, network, link))

    whole = make()
    expected = run(whole, range(8))
    first, second = make(), make()
    run(first, range(5))
    tensors, numbers = first.state()
    second.load({name: tensor.clone() for name, tensor in tensors.items()}, numbers)
    for mine, theirs in zip(run(second, range(5, 8)), expected[5:], strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(CheckpointError, match="no residual: it was written without this compression"):
        make().load({}, numbers)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device: run it on a machine that has one")
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_gradients_on_a_gpu_become_the_same_sum(in_threads, way):
    given = gradients(4, 3)
    selection = {} if way.get("method") in ("whole", "powersgd") else {"selection": "exact"}

    def work(fabric, place):
        exchange = exchange_of(fabric, model().to(place), **{**way, **selection})
        return [step(exchange, given[number, fabric.rank].to(place))[1].cpu() for number in range(4)]

    on_cpu, on_gpu = (in_threads(3, lambda fabric, place=place: work(fabric, place)) for place in ("cpu", "cuda"))
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)


def test_a_step_in_which_nobody_has_anything_sends_nothing(in_threads):
    def work(fabric):
        exchange = exchange_of(fabric, model(), gate="always")
        step(exchange, gradients(1, 3)[0, fabric.rank])
        before = exchange.state()[0]["feedback/residual"].clone()
        step(exchange, torch.zeros(N), weight=0.0)
        return torch.equal(exchange.state()[0]["feedback/residual"], before)

    assert in_threads(3, work) == [True] * 3


@pytest.mark.parametrize(
    ("scope", "picked"), [("gradient", [30, 0, 0]), ("bucket", [10, 10, 10]), ("layer", [31, 0, 0])]
)
def test_each_slice_of_its_scope_sends_its_share(scope, picked):
    network, [fabric] = model(), LocalFabric.create(1)
    compressor = build_compressor(config(scope=scope, gate="always", selection="exact"), network, fabric)
    report = np.zeros(len(Report._fields))
    update = torch.cat([torch.full((100,), 9.0), torch.full((100,), 1.0), torch.full((100,), 0.1)])
    whole = compressor.begin(update, report)
    taken = torch.zeros(N).index_copy_(0, *compressor.reducer.reduce(whole, [], 1, "a test").taken)
    assert [int((part != 0).sum()) for part in taken.split(100)] == picked


@pytest.mark.parametrize(("n", "sizes"), [(300, [100] * 3), (250, [100, 100, 50]), (7, [7]), (101, [100, 1])])
def test_buckets_are_slices_of_one_size(n, sizes):
    assert bucket_sizes(config(), n) == sizes


def test_a_bucket_holds_an_entry_at_least():
    assert bucket_sizes(load_config({"steps": 1, "fabric": {"bucket_mb": 1e-9}}), 3) == [1, 1, 1]


def test_only_float32_is_compressed():
    [fabric] = LocalFabric.create(1)
    with pytest.raises(ConfigError, match=r"torch.float64: compression is for float32; set compression.ratio to null"):
        exchange_of(fabric, model().double())


def test_a_model_without_gradients_is_refused():
    [fabric] = LocalFabric.create(1)
    with pytest.raises(ConfigError, match="no parameter that requires a gradient"):
        exchange_of(fabric, model().requires_grad_(False))


def test_without_gates_every_step_is_compressed():
    assert Gates() == Gates(None, None)
    reports = Reports(np.array([Report(1.0, 1.0)], dtype=np.float64))
    assert reports.norm_sq.tolist() == [0.0]


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_a_step_that_is_taken_back_leaves_nothing(momentum):
    """What was begun with one gradient and came to nothing goes on with another, as if it had never been begun."""
    way = {"compression": {"ratio": 0.1, "gate": "always", "reduction": "gather", "momentum": momentum}}
    settings = load_config({"devices": 2, "steps": 1, "optimizer": {"momentum": 0.0}, **way})
    first, lost, second = gradients(3, 1)[:, 0]
    outcomes = []
    for is_disturbed in (False, True):
        seat = LocalFabric.create(2)[0]
        compressor = build_compressor(settings, model(), seat)
        compressor.revokes = True
        report = np.zeros(len(Report._fields))
        compressor.begin(first, report)
        compressor.end(Reports(np.array([Report(8.0, 8.0)] * 2)), None)
        if is_disturbed:
            compressor.begin(lost, report)
            compressor.withdraw()
        outcomes.append((compressor.begin(second, report).clone(), compressor.step, compressor.decisions))
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1:] == outcomes[1][1:]


class CutOff:
    """An end of a fabric whose messages reach the others, while nothing comes back."""

    rank, size, present = 0, 2, range(2)

    def gather(self, values, phase):
        raise ConnectionError


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_a_step_that_is_taken_back_and_counts_all_the_same_leaves_what_it_has_not_sent(momentum, compressed):
    """As if an answer had come: what was sent and what is kept make up all gradients."""
    way = {"compression": {"ratio": 0.1, "gate": "always", "reduction": "gather", "momentum": momentum}}
    settings = load_config({"devices": 2, "steps": 1, "optimizer": {"momentum": 0.0}, **way})
    first, counted, following = gradients(3, 1)[:, 0]
    reports, outcomes = Reports(np.array([Report(8.0, 8.0)] * 2)), []
    for is_cut_off in (False, True):
        compressor = build_compressor(settings, model(), CutOff() if is_cut_off else LocalFabric.create(2)[0])
        compressor.revokes = True
        compressor.reducer._exchange = lambda message, phase: (torch.stack([message] * 2), range(2))
        report = np.zeros(len(Report._fields))
        whole = compressor.begin(first, report)
        compressor.end(reports, compressor.reducer.reduce(whole, [1.0], 1, "a test"))
        if is_cut_off:
            del compressor.reducer._exchange
        whole = compressor.begin(counted, report)
        reduction = None
        if compressed and is_cut_off:
            with pytest.raises(ConnectionError):
                compressor.reducer.reduce(whole, [1.0], 2, "a test")
        elif compressed:
            reduction = compressor.reducer.reduce(whole, [1.0], 2, "a test")
        compressor.compressed = compressed
        if is_cut_off:
            compressor.withdraw()
            compressor.counted()
            compressor.counted()
            compressor.step += 1  # as the others say
        else:
            compressor.end(reports, reduction)
        outcomes.append(compressor.begin(following, report).clone())
    assert torch.equal(*outcomes)


class TimedFabric(LocalFabric):
    """A link of this many bytes a second, by a clock of its own."""

    now_s = 0.0
    byte_s = 1.0

    def reduce(self, bucket, phase):
        self.now_s += self.byte_s * 4 * bucket.numel()
        return super().reduce(bucket, phase)

    def gather(self, values, phase):
        self.now_s += self.byte_s * values.numel()
        return super().gather(values, phase)

    def swap(self, rows, phase):
        self.now_s += self.byte_s * rows[0].numel()
        return super().swap(rows, phase)


BYTE_S = [1e-2] * 20 + [1e-5] * 20 + [1e-2] * 20  # the link is fast in between


def ratio_step(exchange, flat):
    """Take a step that takes a tenth of a second to compute."""
    exchange.begin(8.0, "a test")
    for parameter, part in zip(exchange.parameters, flat.split([N - 1, 1]), strict=True):
        parameter.grad.add_(part.view_as(parameter))
    reports = exchange.finish(Report(8.0, 8.0, ready_s=0.1, wait_s=0.02))
    return torch.cat([p.grad.flatten() for p in exchange.parameters]) * float(reports.weight.sum())


@pytest.mark.parametrize("reduction", ["gather", "split"])
def test_the_ratio_that_is_chosen_follows_the_link_and_nothing_is_lost(in_threads, reduction):
    """All devices choose alike, and so do those that share a process."""
    way = {"ratio": "auto", "reduction": reduction, "values": "float32"}
    given = gradients(len(BYTE_S), 3)

    def work(fabric):
        exchange = exchange_of(fabric, model(), lambda: fabric.now_s, **way)
        sums, chosen, took = [], [], []
        for number, byte_s in enumerate(BYTE_S):
            fabric.byte_s = byte_s
            sums.append(ratio_step(exchange, given[number, fabric.rank]).double())
            chosen.append(exchange.compressor.ratio)
            took.append((exchange._coding_s, exchange._transfer_s))
        kept = exchange.state()[0]["feedback/residual"].double()
        return sums, chosen, took, kept, exchange.compressor.ratios, exchange.ratio_changes()

    apart = in_threads(TimedFabric.create(3, deadline_s=30.0), work)
    sums, chosen, took, _, ratios, changes = apart[0]
    for other in apart[1:]:
        assert other[1:3] == (chosen, took)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(other[0], sums, strict=True))
    everything = given.double().sum(dim=(0, 1))
    ordered = torch.cat([sum(sums)[-1:], sum(sums)[:-1]])
    kept = sum(outcome[3] for outcome in apart)
    torch.testing.assert_close(ordered + kept, torch.cat([everything[-1:], everything[:-1]]), rtol=1e-5, atol=1e-3)
    assert chosen[0] == 0.1
    assert None not in (chosen[10], chosen[59])
    assert chosen[39] is None
    assert sum(ratios.values()) == len(BYTE_S)
    assert ratios["none"] == chosen.count(None)
    assert any(why.startswith("compression none -> ") for _, why in changes)

    network = model()
    cluster = ClusterExchange(
        network.parameters(), [build_compressor(config(**way), network, seat) for seat in LocalFabric.create(3)]
    )
    for number in range(len(BYTE_S)):
        cluster.begin(1.0, "a test")
        for device in range(3):
            flat = given[number, device]
            cluster.updates[device].copy_(torch.cat([flat[-1:], flat[:-1]]))
        mine = Report(8.0, 8.0, ready_s=0.1, wait_s=0.02)
        reports = cluster.finish_many(np.array([mine] * 3, dtype=np.float64))
        cluster.coding_s, cluster.transfer_s = took[number]
        found = torch.cat([p.grad.flatten() for p in cluster.parameters]) * float(reports.weight.sum())
        torch.testing.assert_close(found.double(), sums[number], rtol=1e-5, atol=1e-4)
        assert cluster.compressor.ratio == chosen[number]
    assert cluster.ratio_changes() == changes


def test_a_chosen_ratio_goes_on_from_a_checkpoint():
    [fabric] = TimedFabric.create(1)
    fabric.size = 2
    settings_ = load_config({"devices": 2, "steps": 1, "compression": {"ratio": "auto", "reduction": "gather"}})

    def make():
        network = model()
        link = TimedLink(fabric, lambda: fabric.now_s)
        exchange = CompressedExchange(network.parameters(), link, build_compressor(settings_, network, link))
        exchange.compressor.reducer._exchange = lambda message, phase: (torch.stack([message] * 2), range(2))
        return exchange

    def run(exchange, numbers):
        totals = []
        for number in numbers:
            fabric.now_s, fabric.byte_s = float(100 * number), BYTE_S[number]
            totals.append(ratio_step(exchange, gradients(60, 1)[number, 0]))
        return totals

    whole, first, second = make(), make(), make()
    expected = run(whole, range(60))
    run(first, range(31))
    tensors, numbers = first.state()
    second.load({name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(numbers)))
    for mine, theirs in zip(run(second, range(31, 60)), expected[31:], strict=True):
        assert torch.equal(mine, theirs)
    assert second.compressor.ratios == whole.compressor.ratios
    assert len(whole.compressor.ratios) > 1
