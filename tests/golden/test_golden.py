"""Three small clusters, traced step by step; a trace changes only on purpose: with SCADLES_REWRITE_GOLDEN=1.

Counts and times are compared to rounding, losses and right answers less strictly, because processors add in different
orders.
"""

import json
import os
from pathlib import Path

import pytest

from scadles.observe import Evaluation, RunFolder, Step
from scadles.simulation import simulate

CLUSTERS = {
    "scadles-s1-k80": {
        "devices": 8,
        "steps": 12,
        "seed": 1,
        "stream": {"rates": "S1:known"},
        "cost": {"profile": "k80-resnet152"},
    },
    "ddl-poisson-star-windows": {
        "method": "ddl",
        "devices": 5,
        "steps": 12,
        "seed": 2,
        "batch": {"size": 24},
        "stream": {"rates": [40, 12, 21.5, 30, 8], "profile": "poisson"},
        "cost": {
            "collective": "star",
            "compute": {"step_s": 0.05, "sample_s": {"lognormal": [0.002, 0.4], "per": "step"}},
            "link": {
                "up_bps": [1e6, 2e6, 5e5, 1e6, 4e6],
                "down_bps": {"value": 4e6, "times_s": [0, 10], "factors": [1, 0.25], "period_s": 20},
                "latency_s": 0.02,
            },
            "availability": {"windows_s": [[0, 7], [9, 15]], "period_s": 16},
        },
    },
    "batchnorm-bursts-drawn": {
        "devices": 6,
        "steps": 12,
        "seed": 3,
        "model": "cnn",
        "buffer": {"policy": "persistence"},
        "stream": {"rates": [40, 12, 21.5, 30, 8, 0], "profile": {"name": "bursts", "period_s": 4}},
        "optimizer": {"name": "adam", "lr": 0.003},
        "cost": {"profile": "pi4-wifi", "collective": "tree", "availability": {"on_s": 40, "off_s": 10}},
    },
}


def trace(folder):
    """What a run says of its steps and tests."""
    run = RunFolder(folder)
    lines = [
        {"device": device, **json.loads(event.to_json())}
        for device in run.devices
        for event in run.events(device)
        if isinstance(event, Step | Evaluation)
    ]
    summary = run.summary.model_dump(mode="json", exclude={"wall_s", "model_sha256"})
    return {"events": lines, "summary": summary}


def assert_alike(found, expected, where=""):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_alike(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for place, value in enumerate(expected):
            assert_alike(found[place], value, f"{where}[{place}]")
    elif where.endswith(".correct") and expected is not None:
        assert found == pytest.approx(expected, abs=1), where
    elif "per_label[" in where:
        assert found == pytest.approx(expected, abs=0.1), where
    elif isinstance(expected, float):
        loose = where.endswith("loss") or "accuracy" in where
        assert found == pytest.approx(expected, rel=1e-3 if loose else 1e-9, abs=0.01 if loose else 1e-12), where
    else:
        assert found == expected, where


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_does_what_it_always_did(name, tmp_path):
    simulate({**CLUSTERS[name], "picture": False}, out=tmp_path / name, quiet=True)
    found = json.loads(json.dumps(trace(tmp_path / name)))
    golden = Path(__file__).with_name(f"{name}.json")
    if os.environ.get("SCADLES_REWRITE_GOLDEN"):
        lines = ",\n".join(json.dumps(event) for event in found["events"])
        golden.write_text(f'{{"summary": {json.dumps(found["summary"])},\n"events": [\n{lines}\n]}}\n')
    assert_alike(found, json.loads(golden.read_text()))


@pytest.mark.parametrize("name", CLUSTERS)
def test_one_seed_one_result_to_the_byte(name, tmp_path):
    for again in ("once", "twice"):
        simulate({**CLUSTERS[name], "picture": False}, out=tmp_path / again, quiet=True)
    names = sorted(path.name for path in (tmp_path / "once").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "twice").iterdir())
    for name in names:
        one, other = ((tmp_path / again / name).read_bytes() for again in ("once", "twice"))
        if name == "summary.json":
            one, other = ([line for line in text.splitlines() if b'"wall_s"' not in line] for text in (one, other))
        assert one == other, name
