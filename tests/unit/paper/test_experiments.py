"""Every experiment, on a stand-in that follows the formulas: what is asked of the simulator and made of its answers."""

import csv
import io
import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from scadles.config import load_config
from scadles.errors import ConfigError, RunError
from scadles.paper import (
    EXPERIMENTS,
    Options,
    Runs,
    buffers,
    compression,
    find_experiments,
    injection,
    learning,
    rates,
    skewed,
    window,
)
from scadles.paper.broker_watch import Observation
from scadles.paper.published import COMPRESSION, HELD, OBSERVED, OVERALL, SETS, Held
from scadles.paper.table import Cell
from scadles.simulation.limit import WINDOW_FACTORS
from scadles.streams import draw_rates

TINY = learning.Scale(4, 8, 10, {"resnet152": 20, "vgg19": 20}, 40)
FEW = {key: Held(held.persistence / 200, held.truncation, held.reduction / 200) for key, held in HELD.items()}


@pytest.fixture
def observed(monkeypatch):
    """In the place of a broker: every topic but the first gets what it should; tells what was asked for."""
    asked = []

    def observe(address, topics, rate_hz, seconds):
        asked.append((address, topics, rate_hz, seconds))
        received = np.full(topics, float(rate_hz))
        received[0] *= 0.5
        return Observation(received, cpu=0.4)

    monkeypatch.setattr(rates, "observe", observe)
    return asked


@pytest.fixture
def small(monkeypatch, observed):
    """Make runs short enough for the stand-in."""
    monkeypatch.setattr(learning, "QUICK", TINY)
    monkeypatch.setattr(compression, "QUICK", TINY)
    monkeypatch.setattr(skewed, "QUICK", skewed.Size(8, 10, 20, 10, {"resnet152": 2, "vgg19": 1}))
    monkeypatch.setattr(injection, "QUICK_STEPS", 12)
    monkeypatch.setattr(buffers, "HELD", FEW)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """What experiments came to and what they asked for, and a folder for their runs."""
    return {}, tmp_path_factory.mktemp("experiments")


@pytest.fixture
def outcome(simulated, observed, small, kept, tmp_path):
    """Return the outcome of an experiment by name, made once for all tests; or made anew, from and for this one."""
    made, folder = kept

    def run(name, *, anew=False, **options):
        experiment, wish = EXPERIMENTS[name], Options(quick=True, broker="broker:9092", **options)
        if anew:
            return experiment.run(wish, Runs(tmp_path / "runs"))
        key = (name, *options.items())
        if key in made:
            simulated.extend(made[key][1])
            observed.extend(made[key][2])
        else:
            result = experiment.run(wish, Runs(folder / str(len(made))))
            made[key] = result, tuple(simulated), tuple(observed)
        return made[key][0]

    return run


def cells(outcome, quantity):
    """Return the cells of one quantity by row."""
    for table in outcome.tables:
        names = [known.name for known in table.quantities]
        if quantity in names:
            return {row.keys: row.cells[names.index(quantity)] for row in table.rows}
    raise KeyError(quantity)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_becomes_a_printed_table_and_files(outcome, tmp_path, capsys, name):
    result = outcome(name)
    result.print()
    printed = capsys.readouterr().out
    files = result.write(tmp_path, name)
    assert [file.name for file in files] == [f"{name}.csv", f"{name}.md"]
    lines = list(csv.DictReader(io.StringIO(files[0].read_text())))
    assert len(lines) == sum(len(table.rows) * len(table.quantities) for table in result.tables)
    for table in result.tables:
        assert table.title in printed
        assert f"## {table.title}" in files[1].read_text()
    assert max(map(len, printed.splitlines())) <= 120


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_becomes_a_picture(outcome, tmp_path, name):
    pytest.importorskip("matplotlib")
    outcome(name).draw(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_not_there_cannot_be_written_to(outcome, tmp_path):
    with pytest.raises(RunError, match=r"cannot write into .*no: No such file"):
        outcome("latency").write(tmp_path / "no", "latency")


def test_a_second_time_nothing_is_simulated(outcome, simulated):
    outcome("speedup", anew=True)
    before = len(simulated)
    outcome("speedup", anew=True)
    assert len(simulated) == before == 32 + 8 * len(WINDOW_FACTORS)


def test_latency_is_the_first_wait_of_the_listed_devices(outcome, simulated):
    result = outcome("latency")
    slowest = cells(result, "slowest device")["64", "S1"]
    assert slowest.ours == pytest.approx(64 / 12 - 1)
    assert slowest.ours == pytest.approx(slowest.rule)
    assert slowest.paper == 4.33
    assert cells(result, "fastest device")["512", "S2"].note
    by_rates = {config.stream.rates: config.devices for config in simulated}
    assert by_rates == {"S1:known": 8, "S2": 16, "S1':known": 10, "S2':known": 10}
    assert all(config.batch.rule == "fixed" and config.steps == 1 for config in simulated)


def test_accumulation_measures_both_what_arrived_and_what_waits(outcome, simulated):
    result = outcome("accumulation")
    waiting = cells(result, "waiting")["VGG19", "1.6", "600", "10,000"]
    arrived = cells(result, "arrived")["VGG19", "1.6", "600", "10,000"]
    assert waiting.ours == pytest.approx(waiting.rule, rel=0.02)
    assert arrived.ours == pytest.approx(arrived.rule, rel=0.02)
    assert arrived.paper == 27.5
    assert arrived.ours - waiting.ours == pytest.approx(64 * 10_000 * 3072 / 2**30)
    assert not [key for key in cells(result, "waiting") if key[3] == "100,000"]
    assert {(config.devices, config.cost.compute.step_s) for config in simulated} == {(1, 1.2), (1, 1.6)}


def test_buffers_stop_persistence_where_the_paper_does_and_truncation_at_the_same_time(outcome, simulated):
    result = outcome("buffers")
    for key, held in FEW.items():
        row = (buffers.NETWORKS[key[0]].title, key[1])
        persistence = cells(result, "persistence")[row]
        rates = draw_rates(key[1], 16, 0)
        assert held.persistence <= persistence.ours <= held.persistence + 2.5 * max(rates)
        assert cells(result, "truncated")[row].ours == pytest.approx(max(rates), abs=1)
        assert cells(result, "peak")[row].ours > 1.05 * max(rates)
        assert cells(result, "reduction")[row].ours == pytest.approx(persistence.ours / max(rates), rel=0.01)
        assert cells(result, "by peak")[row].ours < cells(result, "reduction")[row].ours
    runs = {policy: [c for c in simulated if c.buffer.policy == policy] for policy in ("persistence", "truncation")}
    hours = sorted(cell.ours for cell in cells(result, "time").values())
    assert sorted(config.duration_s / 3600 for config in runs["truncation"]) == pytest.approx(hours)
    assert all(config.method == "scadles" and config.model == "none" for config in simulated)


def test_buffers_run_longer_where_the_rule_promised_too_much(outcome, simulated, monkeypatch):
    by_the_rule = buffers._growth
    monkeypatch.setattr(buffers, "_growth", lambda key: 1.3 * by_the_rule(key))
    result = outcome("buffers", anew=True)
    assert sum(config.buffer.policy == "persistence" for config in simulated) > 8
    assert all(cell.ours >= cell.paper for cell in cells(result, "persistence").values())


def test_buffers_that_do_not_grow_are_an_error(outcome, monkeypatch):
    monkeypatch.setattr(buffers, "_growth", lambda key: 1e9)
    monkeypatch.setattr(buffers, "_ATTEMPTS", 1)
    with pytest.raises(RunError, match="grow more slowly than the rule"):
        outcome("buffers", anew=True)


def test_both_methods_learn_for_the_same_stream_time_from_the_same_streams(outcome, simulated):
    outcome("convergence")
    assert len(simulated) == 16
    for name in SETS:
        for profile in ("k80-resnet152", "k80-vgg19"):
            pair = [c for c in simulated if c.stream.rates == name and c.cost.profile == profile]
            ddl, weighted = sorted(pair, key=lambda config: config.method)
            assert (ddl.method, weighted.method, weighted.buffer.policy) == ("ddl", "scadles", "persistence")
            assert ddl.duration_s == weighted.duration_s
            assert ddl.evaluation == weighted.evaluation
            assert ddl.data == weighted.data
            assert ddl.data.classes == (10 if profile == "k80-resnet152" else 20)


def test_the_target_is_a_share_of_what_ddl_reaches(outcome):
    result = outcome("convergence")
    for network in ("ResNet152", "VGG19"):
        best = min(cell.ours for key, cell in cells(result, "DDL best").items() if key[0] == network)
        aims = {cell.ours for key, cell in cells(result, "target").items() if key[0] == network}
        assert len(aims) == 1
        assert aims.pop() == pytest.approx(0.95 * best, abs=0.051)


def test_speed_up_is_the_ratio_of_times_to_the_target(outcome):
    result = outcome("convergence")
    for key, cell in cells(result, "speed-up").items():
        times = cells(result, "DDL")[key].ours, cells(result, "ScaDLES")[key].ours
        assert cell.ours == (pytest.approx(times[0] / times[1]) if math.isfinite(times[1]) else None)
    assert "3.33" in cells(result, "speed-up")["ResNet152", "S1"].note
    assert cells(result, "speed-up")["ResNet152", "S2"].paper is None


def test_what_the_buffer_saves_follows_the_rule(outcome):
    result = outcome("speedup")
    for cell in cells(result, "saved").values():
        assert cell.ours == pytest.approx(cell.rule, rel=0.2, abs=2e-3)
    assert cells(result, "change")["VGG19", "S2"].paper == -4.18


def test_speedup_is_dense_compressed_as_the_paper_does_and_chosen(outcome, simulated):
    result = outcome("speedup")
    learnt = [config for config in simulated if config.target_accuracy is None]
    by_gate = {c.compression.gate: c.compression for c in learnt if c.compression.ratio is not None}
    assert (by_gate["norm"].ratio, by_gate["norm"].delta) == (0.1, 0.3)
    assert len({c.duration_s for c in learnt if c.stream.rates == "S1" and c.cost.profile == "k80-vgg19"}) == 1
    assert {cell.ours for cell in cells(result, "CNC: norm").values()} == {0.5}
    assert [cell.ours for cell in cells(result, "bytes: norm").values()] == pytest.approx(8 * [50])
    assert [cell.paper for cell in cells(result, "speed-up: auto").values()] == [
        run.speed_up for run in OVERALL.values()
    ]


def test_the_limit_is_of_the_same_streams_at_no_cost_and_counts_real_runs(outcome, simulated):
    result = outcome("speedup")
    free = [config for config in simulated if config.target_accuracy is not None]
    assert {config.batch.window_s for config in free} == set(WINDOW_FACTORS)
    assert all(config.stop_at_target and config.cost.link.up_bps is None for config in free)
    for name in ("dense", "norm", "auto"):
        assert all(0 < cell.ours <= 1 for cell in cells(result, f"share: {name}").values())
    limits, auto = cells(result, "speed-up: limit"), cells(result, "speed-up: auto")
    assert all(limits[key].ours >= auto[key].ours for key in limits)


def test_several_seeds_have_targets_of_their_own_and_a_spread(outcome, simulated, monkeypatch):
    monkeypatch.setattr(learning, "QUICK", replace(TINY, seeds=(0, 1)))
    result = outcome("speedup", anew=True)
    assert {config.seed for config in simulated} == {0, 1}
    assert all(cell.spread is not None for cell in cells(result, "speed-up: dense").values())
    assert any("2 seeds" in text for text in result.tables[0].footnotes())
    assert "±" in result.to_markdown()


def test_what_falls_short_is_said(outcome):
    result = outcome("speedup")
    auto = cells(result, "speed-up: auto")
    slow = [" ".join(key) for key, cell in auto.items() if (cell.ours or 0.0) < 3.29]
    assert slow
    assert any(text.endswith(f"the paper's best, in {', '.join(slow)}.") for text in result.tables[1].footnotes())


def test_windows_and_ratios_are_tried_until_the_target_beside_what_is_chosen(outcome, simulated):
    result = outcome("window")
    fixed = [config for config in simulated if config.target_accuracy is not None]
    assert {(config.batch.window_s, config.compression.ratio) for config in fixed} == set(
        product(window.WINDOWS_S, window.RATIOS)
    )
    assert all(config.stop_at_target for config in fixed)
    assert {key[2] for key in cells(result, "auto")} == {"dense", "0.1", "0.01"}
    assert any("Auto over the best" in text for text in result.tables[1].footnotes())


def test_compression_trains_as_many_steps_in_every_setting(outcome, simulated):
    outcome("compression")
    assert len(simulated) == 22
    assert {config.steps for config in simulated} == {20}
    assert {config.stream.rates for config in simulated} == {"S1"}
    by_norm = {
        (config.cost.profile, config.compression.ratio, config.compression.delta)
        for config in simulated
        if config.compression.gate == "norm"
    }
    assert by_norm == {(f"k80-{network}", ratio, delta) for network, ratio, delta in COMPRESSION}
    whole = [config for config in simulated if config.compression.ratio is None]
    assert [config.cost.profile for config in whole] == ["k80-resnet152", "k80-vgg19"]


def test_floats_and_bytes_follow_from_the_steps_compressed(outcome):
    result = outcome("compression")
    row = ("VGG19", "0.01", "0.4")
    assert (cells(result, "CNC")[row].ours, cells(result, "CNC")[row].paper) == (0.5, 0.004)
    assert cells(result, "floats")[row].ours == pytest.approx(20 * 143.7e6 * 0.505)
    assert cells(result, "floats: share")[row].ours == pytest.approx(0.505)
    assert cells(result, "floats: share")[row].paper == pytest.approx(1.29 / 1.3)
    assert cells(result, "bytes: share")[row].ours == pytest.approx(0.5)
    # 4 devices, 96 bits a float, gathered from the 3 others
    assert cells(result, "bytes: share")[row].rule == pytest.approx(0.5 + 0.5 * 3 * 12 * 0.01 / (2 * 3 / 4 * 4))
    assert cells(result, "sent")[row].ours == pytest.approx(20 * 1000 * 0.5 / 1e9)


def test_what_is_compared_with_dense_is_dense_in_the_paper_too(outcome):
    result = outcome("compression")
    row = ("VGG19", "dense", "–")
    assert cells(result, "change")[row] == Cell(0.0, 0.0)
    assert cells(result, "accuracy")[row].paper == pytest.approx((85.45 + 84.68 + 83.98 + 83.94) / 4)
    assert cells(result, "floats")[row].paper == 1.3e12
    assert all(cell.paper is None for key, cell in cells(result, "CNC").items() if key[2] == "cost")


def test_printed_floats_that_contradict_the_printed_steps_are_noted(outcome):
    noted = {key for key, cell in cells(outcome("compression"), "floats: share").items() if cell.note}
    assert noted == {
        ("VGG19", "0.1", "0.3"), ("VGG19", "0.1", "0.4"), ("ResNet152", "0.1", "0.3"), ("ResNet152", "0.1", "0.4"),
        ("ResNet152", "0.01", "0.3"), ("ResNet152", "0.01", "0.4"),
    }  # fmt: skip


def test_rates_are_those_of_the_broker_beside_the_papers(outcome, observed):
    result = outcome("rates")
    assert [(topics, rate) for _, topics, rate, _ in observed[:-1]] == list(OBSERVED)
    assert {address for address, *_ in observed} == {"broker:9092"}
    assert len({seconds for *_, seconds in observed[:-1]}) == 1
    mean, slowest = cells(result, "mean of topics"), cells(result, "slowest topic")
    assert (mean["32", "600"].ours, mean["32", "600"].paper) == (pytest.approx(600 * 31.5 / 32), 540)
    assert slowest["32", "600"].ours == 300
    assert cells(result, "slowest")["32", "100"] == Cell(pytest.approx(50))


def test_rates_say_what_limits_beyond(outcome):
    [beyond] = [text for text in outcome("rates").tables[0].footnotes() if text.startswith("Beyond")]
    assert "32 topics get 315,000 records a second together" in beyond
    assert "40% of a core" in beyond
    assert "the broker, or the cores that both share" in beyond


def test_rates_need_a_broker(monkeypatch):
    why_not = EXPERIMENTS["rates"].why_not
    assert why_not(Options(broker="broker:9092")) == ""
    monkeypatch.setenv("KAFKA_HOME", "/nowhere")
    assert "--broker HOST:PORT" in why_not(Options())
    assert "KAFKA_HOME" in why_not(Options())
    assert EXPERIMENTS["buffers"].why_not(Options()) == ""


def test_a_data_set_of_the_users_own_is_learnt_by_both_profiles(outcome, simulated):
    result = outcome("speedup", data="npz:mine.npz")
    assert {config.data.dataset for config in simulated} == {"npz:mine.npz"}
    assert any("npz:mine.npz" in text for text in result.tables[0].footnotes())


def test_all_experiments_are_found_by_name_and_together():
    assert [experiment.name for experiment in find_experiments("all")] == list(EXPERIMENTS)
    assert find_experiments("buffers") == [EXPERIMENTS["buffers"]]
    with pytest.raises(ConfigError, match="no experiment 'bufers'; did you mean buffers"):
        find_experiments("bufers")


def test_full_runs_are_those_of_the_paper_in_devices():
    assert learning.FULL.devices == 16
    config = learning.config_of(Options(), "ddl", "vgg19", "S1")
    assert load_config(config) == config
    assert config.duration_s == pytest.approx(8.0 * learning.FULL.steps["vgg19"])
