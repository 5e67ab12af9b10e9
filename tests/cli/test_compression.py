"""Runs with compression, as a user starts them."""

import pytest

from scadles.config import load_config
from scadles.errors import ConfigError
from scadles.observe import RunFolder

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, start_training, write_config, npz):
    """The same run of three devices, dense and compressed."""
    folder = tmp_path_factory.mktemp("compression")
    config = write_config(
        folder / "c.yaml", steps=30, data={"dataset": f"npz:{npz}"}, clock={"speed": 20}, stream={"rates": 60}
    )
    found = {}
    for name, settings in {
        "dense": [],
        "compressed": ["--set", "compression.ratio=0.02", "--set", "compression.gate=always"],
    }.items():
        run = start_training(folder, config, "--local", 3, *settings, "--out", name)
        assert run.wait(100) == 0, run.err
        found[name] = RunFolder(folder / name)
    return found


def test_far_fewer_bytes_leave(runs):
    dense, compressed = runs["dense"].summary, runs["compressed"].summary
    assert compressed.steps == dense.steps == 30
    assert compressed.bytes_counted_by == dense.bytes_counted_by == "kernel (TCP_INFO)"
    # the model at the start and tests are sent as ever
    assert compressed.bytes_sent < dense.bytes_sent / 4


def test_the_summary_says_what_compression_did(runs):
    compressed = runs["compressed"].summary.compressed
    assert (compressed.ratio, compressed.values, compressed.cnc) == (0.02, "int8", 1.0)
    assert compressed.reduction in ("gather", "split")
    assert compressed.why == "every step is compressed"
    assert runs["dense"].summary.compressed is None


def test_all_devices_hold_one_model_and_ledgers_balance(runs):
    summary = runs["compressed"].summary
    assert len(summary.model_sha256) == 64
    for row in summary.per_device:
        samples = row.samples
        assert samples.received == samples.trained + samples.dropped + samples.held + samples.rejected
    assert summary.final_accuracy > 0.5


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["compression.ratio=0"], "compression.ratio = 0"),
        (["compression.ratio=1.5"], "compression.ratio = 1.5"),
        (["compression.ratio=0.1", "compression.method=whole"], "method whole sends all entries; set the ratio to 1"),
        (["compression.ratio=0.1", "compression.momentum=0.9"], "set optimizer.momentum to 0"),
        (["compression.ratoi=0.1"], "did you mean ratio?"),
    ],
)
def test_what_cannot_work_is_refused(settings, told):
    with pytest.raises(ConfigError) as refused:
        load_config({"steps": 1}, settings)
    assert told in str(refused.value)
