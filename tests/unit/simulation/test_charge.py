"""What a simulated run with compression is charged."""

import math

import pytest

from scadles.build import build_dataset, build_network
from scadles.config import load_config
from scadles.observe import RunFolder
from scadles.reduction import SCALARS, gather_volume
from scadles.simulation import simulate

BASE = {"devices": 3, "steps": 8, "stream": {"rates": [40, 12, 8]}, "model": "mlp", "picture": False}
LINK = {"up_bps": 1e6, "down_bps": 1e6}


@pytest.fixture
def run(tmp_path):
    """Simulate with compression, and these seconds of coding."""

    def simulated(coding_s=0.0, **compression):
        cost = {"compute": {"coding_s": coding_s}, "link": LINK}
        config = {**BASE, "cost": cost, "compression": {"ratio": 0.02, **compression}}
        out = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        simulate(config, out=out, quiet=True)
        return RunFolder(out)

    return simulated


@pytest.mark.parametrize(("coding_s", "cnc", "why"), [(0.01, 6 / 8, "compressed: "), (60.0, 2 / 8, "dense: 60 s of")])
def test_the_gate_by_cost_decides_by_the_charged_coding(run, coding_s, cnc, why):
    """Two dense steps to learn the bandwidth, two compressed ones to learn what coding takes; then what is faster."""
    found = run(coding_s, gate="cost").summary.compressed
    assert found.cnc == pytest.approx(cnc)
    assert found.why.startswith(why)


def test_every_step_is_charged_for_its_own_coding(run):
    quick, slow = (run(coding_s, gate="always").steps(0) for coding_s in (0.0, 5.0))
    assert [s.sync_s - q.sync_s for s, q in zip(slow, quick, strict=True)] == pytest.approx([5.0] * len(quick))


@pytest.mark.parametrize(("gate", "coding_s"), [("cost", 0.0), ("both", 5.0)])
def test_a_dense_step_selects_only_for_the_gate_by_norm(run, gate, coding_s):
    """The first step is dense: nobody knows the bandwidth yet."""
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
    assert charged(tmp_path, {}, scope=scope) == gather_volume(whole, k, 3, "int8", SCALARS).bytes_sent


def test_a_charged_message_has_buckets_too(tmp_path):
    n, size = 1000, int(0.001 * 2**20) // 4
    k = 3 * math.ceil(0.01 * size) + math.ceil(0.01 * (n - 3 * size))
    cost = {"message_bytes": 4 * n}
    assert charged(tmp_path, cost, scope="bucket") == gather_volume(n, k, 3, "int8", SCALARS).bytes_sent
