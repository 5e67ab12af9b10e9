"""Gradients that are looked at one by one: the same everywhere, and what becomes of one that is set aside."""

import numpy as np
import pytest
import torch
from torch import nn

from scadles.assembly.exchange import build_exchange
from scadles.assembly.hub import build_hub_fold
from scadles.config import load_config
from scadles.errors import ConfigError
from scadles.exchange.aggregation import Report
from scadles.exchange.aggregation.folding import Layout
from scadles.exchange.aggregation.outliers import MOST_TIMES, Judge
from scadles.exchange.reduction import DenseFold, DenseOwner
from scadles.exchange.reduction.judged_dense import answer_bytes, pack, packed_bytes, unpacked
from scadles.fabric import LocalFabric
from scadles.fabric.hub.collectives import FoldError
from scadles.fabric.local import LocalHubFabric

DEVICES, LIAR, BATCH = 5, 3, 8.0
LAYOUT = Layout(values=30, length=32 + DEVICES * 7, devices=DEVICES, fields=7)


def config_of(backend="gloo", **settings):
    return load_config({"devices": DEVICES, "steps": 1, "fabric": {"backend": backend}, **settings})


def rows_of(seed=0, liar=1.0, dtype=torch.float32):
    """Dense messages of devices that agree, of which one sends so many times what it has."""
    generator = torch.Generator().manual_seed(seed)
    common, rows = torch.randn(30, generator=generator), {}
    for device in range(DEVICES):
        row = torch.zeros(LAYOUT.length)
        row[:30] = BATCH * (common + 0.3 * torch.randn(30, generator=generator)) * (liar if device == LIAR else 1)
        row[30:32] = BATCH * device
        LAYOUT.slot(row, device)[:5] = torch.tensor([BATCH, BATCH, 0.5, 0.5, 2.0])
        rows[device] = row.to(dtype)
    return rows


def fold(outliers="reject", mean=None):
    return DenseFold(Judge(outliers) if outliers else None, mean)


def test_a_sum_without_outliers_is_a_sum():
    rows = rows_of()
    message, found = fold().fold(rows, LAYOUT)
    assert found == {}
    assert torch.equal(message, sum(rows.values()))


def test_what_is_set_aside_is_in_nothing():
    rows = rows_of(liar=1000.0)
    before = {one: row.clone() for one, row in rows.items()}
    message, found = fold().fold(rows, LAYOUT)
    assert found.keys() == {LIAR}
    honest = sum(row for one, row in rows.items() if one != LIAR)
    assert torch.equal(message[:32], honest[:32])
    assert LAYOUT.slot(message, LIAR).tolist() == [BATCH, 0, 0.5, 0.5, 0, 0, 0]
    assert all(torch.equal(row, before[one]) for one, row in rows.items())


def test_what_is_clipped_keeps_its_weight():
    rows = rows_of(liar=1000.0)
    message, found = fold("clip").fold(rows, LAYOUT)
    norms = {one: float(row[:30].norm()) for one, row in rows.items()}
    allowed = 10 * np.median(list(norms.values()))
    expected = sum(row[:30] * (allowed / norms[one] if one == LIAR else 1) for one, row in rows.items())
    torch.testing.assert_close(message[:30], expected)
    assert found.keys() == {LIAR}
    assert LAYOUT.slot(message, LIAR)[1] == BATCH


def test_numbers_that_are_none_are_set_aside_whatever_is_set():
    rows = rows_of(liar=float("nan"))
    message, found = fold(None, "median").fold(rows, LAYOUT)
    assert found == {LIAR: MOST_TIMES}
    assert bool(torch.isfinite(message).all())


@pytest.mark.parametrize("mean", ["median", "trimmed"])
def test_a_robust_mean_times_the_weight_is_where_the_sum_would_be(mean):
    rows = rows_of(liar=-1000.0)
    for row in rows.values():
        row[4] = -0.0  # no device has it
    rows[0][5] = -0.0  # one device has not
    message, _ = fold(None, mean).fold(rows, LAYOUT)
    assert str(message[4].item()) == "-0.0"
    mean_of_all = message[:30] / (BATCH * DEVICES)
    honest = torch.stack([row[:30] / BATCH for one, row in rows.items() if one != LIAR])
    inside = (mean_of_all >= honest.min(dim=0).values - 1e-6) & (mean_of_all <= honest.max(dim=0).values + 1e-6)
    assert bool(inside.all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("outliers", ["reject", "clip"])
def test_a_hub_makes_the_same_of_the_bytes(dtype, outliers):
    here, owner = fold(outliers), DenseOwner(fold(outliers))
    for seed in range(8):
        rows = rows_of(seed, liar=-1.0 if seed % 2 else 1000.0, dtype=dtype)
        del rows[seed % 2]
        packed = [bytearray(pack(rows[i], LAYOUT).numpy().tobytes()) if i in rows else None for i in range(DEVICES)]
        answer = torch.frombuffer(bytearray(owner.fold(packed)), dtype=torch.uint8)
        nbytes = LAYOUT.length * dtype.itemsize
        assert (len(packed[-1]), len(answer)) == (packed_bytes(nbytes), answer_bytes(nbytes, DEVICES))
        message, found = unpacked(answer, rows[4], LAYOUT)
        expected = here.fold(rows, LAYOUT)
        assert torch.equal(message, expected.message)
        assert found == expected.found


SPOILT = {
    "NaN or infinity": lambda row, rows: row.__setitem__(7, float("nan")),
    "another device's place": lambda row, rows: row.__setitem__(-1, 1.0),
    "too many": lambda row, rows: LAYOUT.slot(row, 0).__setitem__(0, 99.0),
}


@pytest.mark.parametrize("why", SPOILT)
def test_a_hub_refuses_what_cannot_be_and_names_whose_it_is(why):
    rows = rows_of()
    SPOILT[why](rows[0], rows)
    owner = DenseOwner(fold(), lambda seat, report: "too many" if report[0] > 8 else "")
    with pytest.raises(FoldError, match=why) as caught:
        owner.fold([bytearray(pack(row, LAYOUT).numpy().tobytes()) for row in rows.values()])
    assert caught.value.seat == 0


@pytest.mark.parametrize("first", [b"", b"ScDW" + bytes(60), b"ScDL" + bytes(400)])
def test_a_hub_goes_by_how_most_messages_are_laid_out(first):
    packed = [bytearray(pack(row, LAYOUT).numpy().tobytes()) for row in rows_of().values()]
    packed[0] = bytearray(first)
    with pytest.raises(FoldError) as caught:
        build_hub_fold(config_of("hub", aggregation={"outliers": "reject"}))(packed)
    assert caught.value.seat == 0


def learn(fabric, config, steps, factor):
    """Take steps whose gradients agree but for some noise; return all means, what was found, and the exchange."""
    torch.manual_seed(0)
    model = nn.Linear(20, 2, bias=False)
    exchange = build_exchange(config, list(model.parameters()), fabric)
    means, found = [], []
    generator = torch.Generator().manual_seed(fabric.rank)
    common = torch.randn(2, 20, generator=torch.Generator().manual_seed(99))
    for _ in range(steps):
        gradient = common + 0.3 * torch.randn(2, 20, generator=generator)
        gradient *= factor if fabric.rank == LIAR else 1.0
        exchange.begin(BATCH, "a step")
        model.weight.grad = gradient * BATCH
        reports = exchange.finish(Report(BATCH, BATCH))
        means.append(model.weight.grad.clone())
        found.append((dict(exchange.found), reports.weight.tolist()))
    return means, found, exchange


COMPRESSED = {"compression": {"ratio": 0.3, "gate": "always", "values": "float32"}, "optimizer": {"momentum": 0}}


@pytest.mark.parametrize("factor", [1000.0, -1.0])
@pytest.mark.parametrize("settings", [{}, COMPRESSED], ids=["dense", "compressed"])
@pytest.mark.parametrize("backend", ["gloo", "hub"])
def test_all_devices_set_the_same_aside(in_threads, settings, factor, backend):
    config = config_of(backend, aggregation={"outliers": "reject"}, **settings)
    fabrics = LocalFabric.create(DEVICES, deadline_s=30.0)
    if backend == "hub":
        fabrics = LocalHubFabric.around(build_hub_fold(config), DEVICES, deadline_s=30.0)
    outcomes = in_threads(fabrics, lambda fabric: learn(fabric, config, 30, factor))
    (means, found, _), *others = outcomes
    for others_means, others_found, _ in others:
        assert others_found == found
        assert all(torch.equal(one, other) for one, other in zip(means, others_means, strict=True))
    last, weights = found[-1]
    assert last.keys() == {LIAR}
    assert weights == [BATCH if device != LIAR else 0.0 for device in range(DEVICES)]
    common = torch.randn(2, 20, generator=torch.Generator().manual_seed(99))
    if not settings:
        assert float((means[-1] - common).abs().max()) < 0.6


def test_compression_keeps_what_it_had_kept_before_a_step_that_is_set_aside(in_threads):
    """Nothing of the step, whose samples are rejected; nothing is lost of those before."""
    config = config_of(aggregation={"outliers": "reject"}, **COMPRESSED)

    def work(fabric):
        torch.manual_seed(0)
        model = nn.Linear(20, 2, bias=False)
        exchange = build_exchange(config, list(model.parameters()), fabric)
        kept = []
        for factor in (1.0, 1000.0, 1.0):
            exchange.begin(BATCH, "a step")
            gradient = torch.randn(2, 20, generator=torch.Generator().manual_seed(3)) * BATCH
            model.weight.grad = gradient * (factor if fabric.rank == LIAR else 1.0)
            exchange.finish(Report(BATCH, BATCH))
            kept.append(exchange.compressor.state()[0]["feedback/residual"].clone())
        return kept

    outcomes = in_threads(DEVICES, work)
    first, second, third = outcomes[LIAR]
    assert torch.equal(first, second)
    assert torch.equal(third, outcomes[0][1]), "it goes on as the others did before"
    assert bool(first.any())


def test_what_is_remembered_is_in_checkpoints(in_threads):
    config = config_of(aggregation={"outliers": "reject"})
    outcomes = in_threads(DEVICES, lambda fabric: learn(fabric, config, 10, -1.0)[2].state())
    assert all(state == outcomes[0] for state in outcomes)
    assert outcomes[0][1]["judged"]["against"] == [LIAR]


REFUSED = {
    "set gather|set auto or gather": {"compression": {"ratio": 0.1, "reduction": "split"}},
    "set topk or randomk": {"compression": {"ratio": 0.1, "method": "powersgd"}},
    "set fabric.overlap to auto": {"fabric": {"overlap": "on"}},
    "leave compression.ratio out": {"compression": {"ratio": 0.1}, "aggregation": {"mean": "median"}},
    "set compression.reduction to auto": {
        "fabric": {"backend": "hub"},
        "compression": {"ratio": 0.1, "reduction": "gather"},
    },
}


@pytest.mark.parametrize("way_out", REFUSED)
def test_what_cannot_be_is_refused_with_the_way_out(way_out):
    settings = {"steps": 1, "devices": 4, "aggregation": {"outliers": "reject"}, **REFUSED[way_out]}
    with pytest.raises(ConfigError, match=way_out):
        load_config(settings)


def test_many_devices_choose_gather():
    config = load_config({"steps": 1, "devices": 32, "compression": {"ratio": 0.1, "gate": "always"}})
    judged = load_config({**config.model_dump(), "aggregation": {"outliers": "reject"}})
    names = []
    for each in (config, judged):
        fabric = LocalFabric.create(32)[0]
        parameters = [nn.Parameter(torch.zeros(10_000))]
        names.append(build_exchange(each, parameters, fabric).compressor.reducer.name)
    assert names == ["split", "gather"]
