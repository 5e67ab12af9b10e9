import pytest
import torch
from torch import nn

from scadles.exchange.aggregation import BatchNormStatistics, ForwardBuffers, GradientExchange, Report
from scadles.fabric import LocalFabric


class Counting(nn.Module):
    """Every pass moves the buffers, a late one only from the third pass on."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.norm = nn.InstanceNorm1d(2, track_running_stats=True)
        self.register_buffer("mean", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("table", torch.arange(4.0))
        self.register_buffer("passes", torch.full((), 2**40), persistent=False)
        self.register_buffer("filled", torch.zeros(2, dtype=torch.bool))
        self.register_buffer("late", torch.zeros(2))

    def forward(self, x):
        with torch.no_grad():
            self.mean.mul_(0.9).add_(x.mean(), alpha=0.1)
            self.passes += 1
            self.filled = self.filled.clone()
            self.filled[0] = True
            if int(self.passes) > 2**40 + 2:
                self.late += x.mean()
        return (self.weight * x.mean()).sum()


def test_constant_buffers_and_running_statistics_are_left_alone():
    model = Counting()
    buffers = ForwardBuffers(model)
    before = {name: b.clone() for name, b in model.named_buffers()}
    with buffers.untouched() as found:
        model(torch.ones(1))
    assert len(found) == 3
    assert len(buffers) == 5
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert buffers.changed() == []
    assert len(BatchNormStatistics(model).buffers) == 3


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("bucket_bytes", [None, 1])
def test_all_devices_hold_the_weighted_mean_after_a_step(in_threads, known, bucket_bytes):
    sizes = [3, 0, 1]

    def work(fabric):
        model = Counting()
        buffers = ForwardBuffers(model)
        with buffers.untouched() as found:
            model(torch.ones(1))
        buffers.active = found if known else []
        exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size, bucket_bytes)
        exchange.watch(buffers)
        seen = []
        for step in range(5):
            weight = sizes[fabric.rank]
            exchange.begin(weight, f"step {step}")
            if weight:
                (model(torch.full((weight,), 1.0 + fabric.rank)) * weight).backward()
            reports = exchange.finish(Report(batch=weight, weight=weight))
            assert reports.redo.tolist() == [0, 0, 0]
            seen.append({name: b.clone() for name, b in model.named_buffers() if "norm" not in name})
        return seen

    first, *others = in_threads(3, work)
    expected = 0.0
    for step in range(5):
        expected = 0.9 * expected + 0.1 * (3 * 1.0 + 1 * 3.0) / 4
        same_from = 0 if known else 1  # who did not know needs a step to find out
        for other in others:
            for name, mine in first[step].items():
                if step >= same_from and (name != "late" or step > 2 + same_from):
                    assert torch.equal(mine, other[step][name]), (step, name)
        if known:
            assert first[step]["mean"].tolist() == pytest.approx([expected] * 3)
            assert int(first[step]["passes"]) == 2**40 + step + 1
            assert first[step]["filled"].tolist() == [True, False]


def test_a_gradient_that_is_left_out_leaves_no_trace_in_buffers(in_threads):
    def work(fabric):
        model = Counting()
        buffers = ForwardBuffers(model)
        with buffers.untouched() as found:
            model(torch.ones(1))
        buffers.active = found
        exchange = GradientExchange(model.parameters(), fabric.reduce, fabric.rank, fabric.size)
        exchange.watch(buffers)
        exchange.begin(1.0, "step 1")
        model(torch.full((1,), float("nan") if fabric.rank == 0 else 2.0)).backward()
        exchange.finish(Report(batch=1, weight=1))
        return model.mean.tolist(), int(model.passes)

    for mean, passes in in_threads(2, work):
        assert mean == pytest.approx([0.2] * 3)
        assert passes == 2**40 + 1


def test_a_buffer_of_one_device_alone_is_its_own():
    [fabric] = LocalFabric.create(1)
    model = Counting()
    buffers = ForwardBuffers(model)
    exchange = GradientExchange(model.parameters(), fabric.reduce, 0, 1)
    exchange.watch(buffers)
    for _ in range(4):
        exchange.begin(1.0, "step")
        model(torch.ones(1)).backward()
        exchange.finish(Report(batch=1, weight=1))
    assert int(model.passes) == 2**40 + 4
    assert model.late.tolist() == [2.0, 2.0]


def test_a_batch_that_comes_to_nothing_leaves_what_was_written_before_it():
    model = Counting()
    buffers = ForwardBuffers(model)
    buffers.undo_batch()  # before the first one
    model.late += 3  # by the loop, after a step
    expected = {name: b.clone() for name, b in model.named_buffers()}
    buffers.begin_batch()
    for _ in range(3):
        model(torch.ones(1))
    buffers.undo_batch()
    assert all(torch.equal(b, expected[name]) for name, b in model.named_buffers())
    assert [buffers._places[i][1] for i in buffers.changed()] == ["late"], "what the loop wrote still counts"
    buffers.begin_batch()
    model(torch.ones(1))
    buffers.end_batch()
    buffers.undo_batch()
    assert int(model.passes) == 2**40 + 1
