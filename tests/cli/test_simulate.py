"""``scadles simulate``: what a user types, and what a user can get wrong."""

import re
from functools import partial
from pathlib import Path

import pytest
import yaml

from scadles.observe import RunFolder

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a configuration of four devices that need two steps."""
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(yaml.safe_dump({"devices": 4, "steps": 2, "stream": {"rates": [50, 38, 12, 82]}}))
    return tmp_path


@pytest.fixture
def simulate(folder, command):
    """Type ``scadles simulate ARGUMENTS``."""
    return partial(command, "simulate")


def test_a_run_leaves_a_folder_with_a_picture_and_a_table_on_the_terminal(simulate):
    code, out, err = simulate("c.yaml", "--set", "cost.profile=jetson-nano-lte", "--out", "run")
    assert code == 0, err
    names = {path.name for path in Path("run").iterdir()}
    logs = {f"events-{device}.jsonl" for device in range(4)}
    assert names == {"config.yaml", "summary.json", "model.safetensors", "timeline.png"} | logs
    assert Path("run/timeline.png").read_bytes().startswith(b"\x89PNG")
    assert "charged for" in out
    assert "profile jetson-nano-lte" in out
    assert "run folder: run" in out
    assert "4 devices" in err


def test_a_folder_is_found_for_a_run_that_was_given_none(simulate):
    code, out, _ = simulate("c.yaml", "--set", "picture=false", "--quiet")
    assert (code, out) == (0, "")
    [made] = Path("runs").iterdir()
    assert RunFolder(made).summary.steps == 2


def test_the_limit_is_found_and_told(simulate):
    settings = ["--set", "target_accuracy=0.6", "--set", "steps=60", "--set", "cost.compute.step_s=1.5"]
    code, out, err = simulate("c.yaml", *settings, "--limit", "--out", "run")
    assert code == 0, err
    assert "the stream's limit: free links and compute, batches of 0.25 s" in err
    assert "limit of the streams" in out
    summary = RunFolder("run").summary
    assert summary.stream_limit_s < summary.time_to_target_s


def test_training_that_diverges_for_good_is_no_success(simulate):
    settings = ["--set", "steps=60", "--set", "lr.guard=true", "--set", "optimizer.lr=1e6"]
    code, out, err = simulate("c.yaml", *settings, "--out", "run")
    assert code == 1
    assert "diverged" in out
    assert "error: training has diverged again and again" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("cost.profile=k80-resnet125", ("cost.profile", "k80-resnet125", "did you mean k80-resnet152?")),
        ("cost.link.up_bps=-5", ("cost.link.up_bps", "-5", "greater than 0")),
        ("cost.compute.step_s=-1", ("cost.compute.step_s", "-1")),
        ("cost.link.upp_bps=5", ("cost.link.upp_bps", "unknown setting", "did you mean up_bps?")),
        ("cost.collective=hypercube", ("cost.collective", "'hypercube'", "'ring'")),
        ("cost.compute.step_s=[1,2]", ("cost.compute.step_s", "2 entries", "devices is 4")),
        ("simulation.gradients=magic", ("simulation.gradients", "'magic'")),
        ("simulation.recorded_devices=0", ("simulation.recorded_devices", "0")),
        ("stream.url=kafka://host/topic", ("only a replayed stream can be simulated",)),
        ("data.partitoin=shared", ("data.partitoin", "did you mean partition?")),
    ],
)
def test_a_mistake_is_told_in_one_message(simulate, setting, told):
    code, _, err = simulate("c.yaml", "--set", setting, "--out", "run")
    assert code == 2
    assert len(re.findall("error: ", err)) == 1
    assert "Traceback" not in err
    for part in told:
        assert part in err
    assert not Path("run").exists()


def test_a_profile_of_ones_own(simulate):
    Path("mine.yaml").write_text("compute: {step_s: 2.0}\nmodel: mine\nsource: measured\n")
    code, _, err = simulate("c.yaml", "--set", "cost.profile=mine.yaml", "--out", "run", "--set", "picture=false")
    assert code == 0, err
    assert RunFolder("run").summary.simulated.charged == "mine, profile mine.yaml"
    assert RunFolder("run").steps(0)[0].compute_s == pytest.approx(2.0)
    Path("mine.yaml").write_text("compute: {step: 2.0}\n")
    code, _, err = simulate("c.yaml", "--set", "cost.profile=mine.yaml", "--out", "other")
    assert code == 2
    assert "mine.yaml" in err
    assert "step" in err


def test_the_example_of_sixteen_devices(simulate):
    """Two steps of it; benchmarks/ and the README tell of the whole."""
    code, _, err = simulate(EXAMPLES / "s1.yaml", "--set", "steps=2", "--set", "picture=false", "--out", "run")
    assert code == 0, err
    summary = RunFolder("run").summary
    assert (summary.devices, summary.simulated.charged) == (16, "ResNet152, profile k80-resnet152")
    assert summary.simulated.message_bytes == 240_800_000
