"""What the documents show is what the program does."""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
import yaml

from scadles import VirtualClock, load_config, open_source
from scadles.cli.app import app
from scadles.cli.reference import reference
from scadles.device.batching import BatchRule
from scadles.models import build_model
from scadles.paper import EXPERIMENTS
from scadles.training.hub import OWN

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


RULES = re.findall(
    r"^\| [^|]+ \| (`[^|]+`) \| (`[^|]+`) \|$", (ROOT / "docs/architecture.md").read_text(), flags=re.MULTILINE
)


@pytest.mark.parametrize(("files", "names"), RULES, ids=[names for _, names in RULES])
def test_the_rule_is_where_the_architecture_says(files, names):
    source = "\n".join((ROOT / "src/scadles" / file).read_text() for file in re.findall(r"`([^`]+)`", files))
    for name in re.findall(r"\w+", names):
        assert re.search(rf"(?:^|def |class ){name}\b", source, flags=re.MULTILINE), name


def test_the_rooms_are_those_of_the_tree():
    shown = set(re.findall(r"^[├└]── (\w+)/", (ROOT / "docs/architecture.md").read_text(), flags=re.MULTILINE))
    assert shown == {path.parent.name for path in (ROOT / "src/scadles").glob("*/__init__.py")}


def test_the_settings_page_is_what_the_command_prints():
    assert (ROOT / "docs/configuration.md").read_text() == reference()


def test_every_setting_is_explained():
    assert [line for line in reference().splitlines() if line.endswith("|  |") and "section" not in line] == []


@pytest.mark.parametrize("document", ["docs/guide.md", "docs/streams.md", "docs/fleet.md"])
def test_the_settings_in_the_guides_are_valid(document):
    for block in blocks(document, "yaml"):
        assert load_config(yaml.safe_load(block)).devices > 1


def test_the_fleet_that_is_simulated_is_the_example():
    shown = [load_config(yaml.safe_load(block)) for block in blocks("docs/fleet.md", "yaml") if "availability" in block]
    assert shown == [load_config(ROOT / "examples/fleet.yaml")]


@pytest.mark.parametrize(
    "document", ["README.md", "docs/guide.md", "docs/streams.md", "docs/fleet.md", "docs/security.md"]
)
def test_the_commands_shown_exist_and_know_their_options(document):
    shown = re.findall(r"^scadles .*$", (ROOT / document).read_text(), flags=re.MULTILINE)
    assert shown
    commands = typer.main.get_command(app).commands
    for line in shown:
        words = shlex.split(line, comments=True)
        known = {option for parameter in commands[words[1]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


MEASURED = re.findall(r"^\| [^|]+ \| `([^`]+)` \|", (ROOT / "docs/performance.md").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("command", MEASURED)
def test_what_measures_a_number_exists(command):
    words = shlex.split(command)
    options = {word for word in words if word.startswith("--")}
    if words[0] == "scadles":
        known = {
            option for parameter in typer.main.get_command(app).commands[words[1]].params for option in parameter.opts
        }
        assert words[1] != "paper" or words[2] in EXPERIMENTS
    elif words[0] == "make":
        known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
        options = set(words[1:])
    else:
        assert words[0] == "python"
        known = set(re.findall(r"add_argument\(\s*\"(--[a-z-]+)\"", (ROOT / words[1]).read_text()))
    assert options <= known


def test_every_number_names_what_measures_it():
    rows = re.findall(r"^\| .*\|$", (ROOT / "docs/performance.md").read_text(), flags=re.MULTILINE)
    heads = [row for row in rows if row == "| what | command | machine | number |"]
    assert heads
    assert len(rows) - len(heads) == len(MEASURED)


def test_the_examples_of_settings_are_valid():
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        settings = yaml.safe_load(path.read_text())
        if "services" not in settings:  # the one for docker compose
            assert load_config(path).devices > 1


def test_the_example_of_the_readme_runs_under_torchrun(tmp_path):
    [example] = blocks("README.md", "python")
    assert example == (ROOT / "examples/own_loop.py").read_text()
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4", "examples/own_loop.py"]
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        command, cwd=tmp_path, env=unmeasured, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout[done.stdout.index("{") :])
    assert summary["ended_by"] == "target"
    assert summary["devices"] == 4


@pytest.mark.parametrize("unit", sorted((ROOT / "examples/systemd").glob("*.service")), ids=lambda path: path.name)
def test_the_units_start_commands_that_exist_and_start_them_again(unit):
    said = configparser.ConfigParser(interpolation=None, strict=False)
    said.optionxform = str
    said.read(unit)
    _, command, *words = shlex.split(said["Service"]["ExecStart"])
    known = {option for one in typer.main.get_command(app).commands[command].params for option in one.opts}
    assert {word for word in words if word.startswith("--")} <= known
    assert said["Service"]["Restart"] == "always"
    assert said["Service"]["RestartPreventExitStatus"] == "0 2"
    assert said["Install"]["WantedBy"] == "multi-user.target"


def test_the_page_on_fleets_says_what_is_a_devices_own_and_what_is_not_protected():
    page = (ROOT / "docs/fleet.md").read_text()
    assert all(f"`{name}`" in page for name in OWN)
    said = " ".join(page.split())
    assert "neither encrypted nor authenticated" in said
    assert "names no code, file or address that a device does not" in said


def test_the_page_on_security_says_what_is_not_protected():
    page = (ROOT / "docs/security.md").read_text()
    for hole in ("a member that lies", "a hub that lies", "neither secure aggregation nor differential privacy"):
        assert hole in page


def test_the_source_of_contributing_works():
    names: dict = {}
    exec(blocks("CONTRIBUTING.md", "python")[0], names)
    source = open_source("counter://", clock=VirtualClock())
    assert source.poll(5, 0.0).offsets.tolist() == [0, 1, 2, 3, 4]
    assert source.poll(2, 0.0).x.shape == (2, 1, 8, 8)


def test_the_model_of_contributing_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine_of_contributing.py").write_text(blocks("CONTRIBUTING.md", "python")[1])
    model = build_model("mine_of_contributing:tiny", (1, 8, 8), 10, seed=0)
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_the_batch_rule_of_contributing_works():
    names: dict = {}
    exec(blocks("CONTRIBUTING.md", "python")[2], names)
    rule = names["HalfWindow"](window_s=1.0)
    assert isinstance(rule, BatchRule)
    assert rule.target(50.0) == 25
    assert rule.deadline_s(3.0) == 4.0
