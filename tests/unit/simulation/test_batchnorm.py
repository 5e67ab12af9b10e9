import torch
from torch import nn

from scadles.exchange.aggregation import BatchNormStatistics
from scadles.fabric import LocalFabric
from scadles.simulation.batchnorm import ClusterStatistics


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.BatchNorm1d(2))


def buffers(model):
    return torch.cat([buffer.double().flatten() for buffer in model.buffers()])


def batches(device):
    generator = torch.Generator().manual_seed(device)
    return [torch.randn(size + device, 3, generator=generator) for size in (5, 9)]


def test_devices_that_share_a_model_average_as_those_that_do_not(in_threads):
    models = [network() for _ in range(3)]  # initial weights come from a generator that threads share

    def work(fabric):
        model = models[fabric.rank]
        statistics = BatchNormStatistics(model)
        for x in batches(fabric.rank) if fabric.rank < 2 else ():
            model(x)
            statistics.trained(len(x))
        total = statistics.pack()
        fabric.reduce(total, "test").wait()
        statistics.unpack(total)
        return buffers(model)

    expected = in_threads(LocalFabric.create(3), work)
    shared = network()
    cluster = ClusterStatistics(shared, 3)
    for turn in range(2):
        for device in range(2):
            x = batches(device)[turn]
            cluster.load(device)
            shared(x)
            cluster.keep(device, len(x))
    cluster.average()
    for theirs in expected:
        torch.testing.assert_close(buffers(shared), theirs, rtol=1e-6, atol=1e-7)
    for device in range(3):
        cluster.load(device)
        torch.testing.assert_close(buffers(shared), expected[0], rtol=1e-6, atol=1e-7)


def test_statistics_that_are_not_finite_do_not_spread():
    model = network()
    cluster = ClusterStatistics(model, 2)
    for device, factor in enumerate((1.0, torch.inf)):
        cluster.load(device)
        model(batches(device)[0] * factor)
        cluster.keep(device, 5)
    cluster.average()
    assert bool(buffers(model).isfinite().all())


def test_nobody_trained_nothing_changes():
    model = network()
    before = buffers(model).clone()
    cluster = ClusterStatistics(model, 2)
    cluster.average()
    assert torch.equal(buffers(model), before)


def test_a_model_without_batchnorm_has_none():
    cluster = ClusterStatistics(nn.Linear(2, 2), 10_000)
    assert not cluster
    cluster.load(3)
    cluster.keep(3, 8)
    cluster.average()
