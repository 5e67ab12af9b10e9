"""What a simulated run with compression is charged."""

import math

import pytest

from scadles.assembly import build_dataset, build_network
from scadles.config import load_config
from scadles.exchange.reduction import (
    SCALARS,
    SCALARS_BY_RATIO,
    gather_volume,
    hub_volume,
    reply_bytes,
    split_volume,
)
from scadles.observe import RatioChange, RunFolder, events_path, read_events
from scadles.simulation import simulate

BASE = {"devices": 3, "steps": 8, "stream": {"rates": [40, 12, 8]}, "model": "mlp", "picture": False}
LINK = {"up_bps": 1e6, "down_bps": 1e6}


@pytest.fixture
def run(tmp_path):
    """Simulate with compression, and these seconds of coding."""

    def simulated(coding_s=0.0, steps=8, **compression):
        cost = {"compute": {"coding_s": coding_s}, "link": LINK}
        config = {**BASE, "steps": steps, "cost": cost, "compression": {"ratio": 0.02, **compression}}
        out = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        simulate(config, out=out, quiet=True)
        return RunFolder(out)

    return simulated


@pytest.mark.parametrize(
    ("coding_s", "cnc", "why"), [(0.01, 9 / 12, "compressed is faster: "), (60.0, 3 / 12, "dense is faster: 60 s of")]
)
def test_the_gate_by_cost_decides_by_the_charged_coding(run, coding_s, cnc, why):
    """Three dense steps and three compressed ones to see what they take, measured one step late; then the faster."""
    found = run(coding_s, gate="cost", steps=12).summary.compressed
    assert found.cnc == pytest.approx(cnc)
    assert found.why.startswith(why)
    assert found.decisions["dense, to see what it takes"] == found.decisions["compressed, to see what it takes"] == 3
    assert sum(found.decisions.values()) == 12


def test_every_step_is_charged_for_its_own_coding(run):
    quick, slow = (run(coding_s, gate="always").steps(0) for coding_s in (0.0, 5.0))
    assert [s.sync_s - q.sync_s for s, q in zip(slow, quick, strict=True)] == pytest.approx([5.0] * len(quick))


@pytest.mark.parametrize(("gate", "coding_s"), [("cost", 0.0), ("both", 5.0)])
def test_a_dense_step_selects_only_for_the_gate_by_norm(run, gate, coding_s):
    """The first step is dense: nobody knows what it takes yet."""
    quick, slow = (run(seconds, gate=gate).steps(0)[0] for seconds in (0.0, 5.0))
    assert slow.sync_s - quick.sync_s == pytest.approx(coding_s)


@pytest.mark.parametrize("reduction", ["gather", "split"])
def test_compressed_steps_are_charged_fewer_bytes(run, reduction):
    dense, compressed = run(ratio=None).summary, run(gate="always", reduction=reduction).summary
    assert compressed.bytes_sent < dense.bytes_sent / 15


def charged(out, cost, **compression):
    """Return the bytes that one device sends in a compressed step."""
    config = {**BASE, "steps": 1, "fabric": {"bucket_mb": 0.001}, "cost": cost}
    config["compression"] = {"ratio": 0.01, "gate": "always", "reduction": "gather", **compression}
    simulate(config, out=out, quiet=True)
    return RunFolder(out).summary.bytes_sent / 3


@pytest.mark.parametrize("scope", ["gradient", "bucket", "layer"])
def test_a_step_is_charged_what_its_scope_sends(tmp_path, scope):
    """Every slice sends an entry at least, so that small slices send more than their share."""
    config = load_config(BASE)
    network = build_network(config, build_dataset(config))
    layers = [parameter.numel() for parameter in network.parameters()]
    size = int(0.001 * 2**20) // 4
    whole = sum(layers)
    slices = {"gradient": [whole], "layer": layers, "bucket": [size] * (whole // size) + [whole % size]}[scope]
    k = sum(math.ceil(0.01 * part) for part in slices if part)
    assert charged(tmp_path, {}, scope=scope) == gather_volume(whole, k, 3, "int8", SCALARS).gloo_bytes


def test_a_charged_message_has_buckets_too(tmp_path):
    n, size = 1000, int(0.001 * 2**20) // 4
    k = 3 * math.ceil(0.01 * size) + math.ceil(0.01 * (n - 3 * size))
    cost = {"message_bytes": 4 * n}
    assert charged(tmp_path, cost, scope="bucket") == gather_volume(n, k, 3, "int8", SCALARS).gloo_bytes


@pytest.mark.parametrize(("reduction", "collectives"), [("gather", 1), ("split", 2)])
def test_a_swap_and_a_gathering_are_two_collectives(run, reduction, collectives):
    summary = run(gate="always", reduction=reduction).summary
    assert summary.collectives_per_step == collectives


def test_decisions_are_about_the_charged_message(tmp_path):
    """A small model that stands for a large one compresses where the large one should."""
    cost = {"message_bytes": 240_000_000, "link": {"up_bps": 5e9, "down_bps": 5e9, "latency_s": 0.001}}
    simulate({**BASE, "steps": 10, "cost": cost, "compression": {"ratio": 0.01}}, out=tmp_path / "run", quiet=True)
    found = RunFolder(tmp_path / "run").summary.compressed
    assert found.why.startswith("compressed is faster: 0 s of coding and")
    assert found.why.endswith(" s for 320 MB dense")  # a ring of three sends four thirds of a message
    assert found.reduction == "split"
    assert found.reduction_why.startswith("split is faster at 5000 Mbit/s and 1 ms: ")


def test_a_link_with_latency_has_its_messages_gathered(tmp_path):
    cost = {"link": {"up_bps": {"uniform": [1e9, 3e9]}, "latency_s": [0.01, 0.5, 0.02]}}
    simulate({**BASE, "steps": 2, "cost": cost, "compression": {"ratio": 0.01}}, out=tmp_path / "run", quiet=True)
    found = RunFolder(tmp_path / "run").summary.compressed
    assert (found.reduction, found.reduction_why[:42]) == ("gather", "gather is faster at 2000 Mbit/s and 500 ms")


def test_kept_energy_is_known_without_a_gate_that_asks_for_it(run):
    always, norm = (run(gate=gate, delta=1.0).summary.compressed for gate in ("always", "norm"))
    assert 0 < always.kept_energy < 1
    assert always.kept_energy == pytest.approx(norm.kept_energy, abs=0.2)
    assert norm.decisions == {"dense, to see what stays behind": 1, "little stays behind": 7}
    assert always.decisions == {"always": 8}


@pytest.mark.parametrize("reduction", ["auto", "gather"])
def test_through_a_hub_a_message_goes_up_and_one_comes_back(tmp_path, reduction):
    """Also where one device is alone; the answer has the scalars of all, or the messages of all."""
    config = {**BASE, "fabric": {"backend": "hub"}, "steps": 1, "method": "ddl", "batch": {"size": 8}}
    config["compression"] = {"ratio": 0.1, "gate": "always", "reduction": reduction}
    config["cost"] = {"link": {"up_bps": 1e6, "down_bps": 2e6, "latency_s": 0.01}}
    config["cost"]["availability"] = [{}, {"windows_s": [[500, 600]]}, {"windows_s": [[500, 600]]}]
    simulate(config, out=tmp_path / "run", quiet=True)
    found, n = RunFolder(tmp_path / "run"), 4810
    if reduction == "auto":
        up = hub_volume(n, 481, "int8", SCALARS).message_bytes
        down = reply_bytes(n, 481, 3, "int8", SCALARS)
        assert up < down < 1.2 * up
    else:
        up = gather_volume(n, 481, 2, "int8", SCALARS).message_bytes
        down = 3 * up
    [step] = found.steps(0)
    assert step.sync_s == pytest.approx(0.02 + 8 * up / 1e6 + 8 * down / 2e6)
    assert found.summary.bytes_sent == up + down
    assert found.summary.compressed.reduction == ("hub" if reduction == "auto" else "gather")
    assert found.summary.simulated.collective == "star"


def test_a_ratio_that_chooses_itself_is_charged_for_what_it_chose(tmp_path):
    """A slow link on which dense messages are never tried: two ratios at most, and each change is told."""
    cost = {"link": {"up_bps": 5e3, "down_bps": 5e3}}
    config = {**BASE, "steps": 30, "cost": cost, "compression": {"ratio": "auto", "reduction": "split"}}
    simulate(config, out=tmp_path / "run", quiet=True)
    run = RunFolder(tmp_path / "run")
    found = run.summary.compressed
    assert (found.ratio, found.cnc) == ("auto", 1.0)
    assert sum(found.ratios.values()) == sum(found.decisions.values()) == 30
    assert found.ratios["0.1"] >= 3
    assert 0 < found.kept_energy < 1
    n = sum(p.numel() for p in build_network(load_config(config), build_dataset(load_config(config))).parameters())
    sent = [
        steps * split_volume(n, math.ceil(float(ratio) * n), 3, "int8", SCALARS_BY_RATIO).gloo_bytes
        for ratio, steps in found.ratios.items()
    ]
    assert run.summary.bytes_sent == 3 * sum(sent)
    events = read_events(events_path(tmp_path / "run", 0))
    told = [event for event in events if isinstance(event, RatioChange)]
    assert told[0].why.startswith("compression 0.1 -> ")
    assert str(told[0].ratio) in found.ratios


def test_with_a_fast_link_all_is_sent(tmp_path):
    simulate({**BASE, "steps": 20, "compression": {"ratio": "auto"}}, out=tmp_path / "run", quiet=True)
    found = RunFolder(tmp_path / "run").summary.compressed
    assert found.ratios == {"0.1": 3, "none": 17}
    assert found.reduction in ("gather", "split")
