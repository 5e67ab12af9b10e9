"""A stream of which too much cannot be trained on."""

import json

import pytest


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_too_much_rejected_ends_the_run_on_all_devices(
    start_training, finding, write_config, write_npz, tmp_path, share
):
    data = write_npz(tmp_path / "bad.npz", 600, nan=range(0, 600, 2))
    config = write_config(
        tmp_path / "c.yaml",
        steps=30,
        data={"dataset": f"npz:{data}"},
        stream={"rates": 200, "max_rejected_share": share},
        clock={"speed": 20},
    )
    run = start_training(tmp_path, config, "--local", 2, "--quiet", "--out", "run")
    found = finding(tmp_path / "run", 2)
    if share == 0.75:
        assert run.wait(90) == 0, run.err
        found.assert_ended_together("steps")
        return
    assert run.wait(90) == 2, run.err
    assert run.err.count("stream.max_rejected_share = 0.25") == 1
    assert "cannot be trained on (the first: NaN or infinite values); " in run.err
    assert "go on with --out run --resume" in run.err
    found.assert_ended_together("rejected")
    assert (found.path / "summary.json").exists()
    first = json.loads((found.path / "quarantine-0.jsonl").read_text().splitlines()[0])
    assert (first["reason"], first["device"]) == ("NaN or infinite values", 0)
