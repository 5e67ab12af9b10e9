import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scadles.config import METHODS, BatchConfig, RunConfig, load_config, with_devices
from scadles.errors import ConfigError


def refusal(tree, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load_config({"steps": 1} | tree, overrides)
    return str(caught.value)


def test_nothing_but_an_end_is_needed():
    config = load_config({"steps": 3})
    assert (config.method, config.devices, config.steps) == ("scadles", 1, 3)


class TestMethods:
    @pytest.mark.parametrize("method", METHODS)
    def test_a_method_fills_in_what_is_left_open(self, method):
        config = load_config({"method": method, "steps": 1})
        for section, values in METHODS[method].items():
            for name, value in values.items():
                assert getattr(getattr(config, section), name) == value

    @pytest.mark.parametrize(
        ("said", "chosen"),
        [
            ({}, ("auto", "auto", "auto", True)),
            ({"devices": 4, "optimizer": {"name": "sgd"}}, ("auto", "auto", "auto", True)),
            ({"optimizer": {"name": "adam"}}, ("auto", "auto", "fixed", True)),
            ({"lr": {"milestones": [1000]}}, ("auto", "auto", "fixed", True)),
            ({"lr": {"guard": False}, "compression": {"ratio": 0.1}}, ("auto", 0.1, "auto", False)),
            ({"batch": {"rule": "fixed"}}, ("fixed", "auto", "auto", True)),
            ({"fabric": {"overlap": "on"}}, ("auto", None, "auto", True)),
            ({"compression": {"method": "randomk"}}, ("auto", None, "auto", True)),
            ({"model": "none"}, ("auto", None, "auto", True)),
            ({"aggregation": {"mean": "median"}}, ("auto", None, "auto", True)),
            ({"injection": {"alpha": 0.1, "beta": 0.1}}, ("fixed", "auto", "fixed", True)),
            ({"injection": {"alpha": 0.1, "beta": 0}}, ("auto", "auto", "auto", True)),
            ({"injection": {"alpha": "0", "beta": 0.1}}, ("auto", "auto", "auto", True)),
            ({"injection": {"alpha": "0.1", "beta": "0.1"}}, ("fixed", "auto", "fixed", True)),
            ({"lr": {"milestones": [], "warmup_samples": 0}}, ("auto", "auto", "auto", True)),
            ({"lr": {"warmup_samples": "0"}}, ("auto", "auto", "auto", True)),
            ({"lr": {"warmup_samples": "100"}}, ("auto", "auto", "fixed", True)),
            ({"devices": 1}, ("fixed", None, "fixed", False)),
            ({"devices": "1"}, ("fixed", None, "fixed", False)),
            ({"devices": 1, "compression": {"values": "float16"}}, ("fixed", None, "fixed", False)),
        ],
    )
    def test_auto_chooses_what_can_be_chosen_beside_what_is_said(self, said, chosen):
        config = load_config({"method": "auto", "steps": 1, **said})
        assert (config.batch.window, config.compression.ratio, config.lr.rate, config.lr.guard) == chosen
        assert load_config({"steps": 1, **said}, ["method=auto"]) == config

    @pytest.mark.parametrize("devices", ["many", [2], 10**400, None])
    def test_auto_leaves_the_refusal_to_who_reads_the_number(self, devices):
        with pytest.raises(ConfigError, match=r"^devices"):
            load_config({"method": "auto", "steps": 1, "devices": devices})

    def test_what_auto_filled_in_waits_for_the_number_of_devices(self):
        """Settings that are read twice, or for another number of devices, are what they are when read at once."""
        said = {"method": "auto", "steps": 1, "batch": {"size": 32}, "lr": {"guard": False}}
        ready = load_config(said)
        assert load_config(ready) == load_config(load_config(ready)) == ready
        assert with_devices(ready) == load_config(ready, ["devices=1"]) == load_config({**said, "devices": 1})
        assert with_devices(load_config(ready, ["devices=4"])) == load_config({**said, "devices": 4})
        assert load_config(yaml.safe_load(with_devices(ready).to_yaml())) == with_devices(ready)

    def test_ddl_is_what_the_paper_compares_with(self):
        config = load_config({"method": "ddl", "steps": 1})
        assert (config.batch.rule, config.batch.size) == ("fixed", 64)
        assert config.buffer.policy == "persistence"
        assert (config.aggregation.mean, config.lr.scaling) == ("plain", "none")

    @given(st.sampled_from(sorted(METHODS)), st.data())
    def test_what_is_said_wins(self, method, data):
        other = next(name for name in METHODS if name != method)
        said = {
            section: values for section, values in METHODS[other].items() if data.draw(st.booleans(), label=section)
        }
        config = load_config({"method": method, "steps": 1, **said})
        for section in METHODS[method]:
            expected = said.get(section, METHODS[method][section])
            assert getattr(config, section).model_dump() | expected == getattr(config, section).model_dump()

    def test_one_setting_does_not_hide_its_neighbours(self):
        config = load_config({"method": "ddl", "steps": 1, "batch": {"size": 32}})
        assert (config.batch.rule, config.batch.size) == ("fixed", 32)

    @pytest.mark.parametrize("method", METHODS)
    def test_a_configuration_made_by_hand_is_filled_in_as_well(self, method):
        assert RunConfig(method=method, steps=1) == load_config({"method": method, "steps": 1})
        by_hand = RunConfig(method=method, steps=1, batch=BatchConfig(size=32))
        assert by_hand == load_config({"method": method, "steps": 1, "batch": {"size": 32}})

    def test_a_ready_configuration_stays_what_it_is(self):
        config = load_config({"method": "ddl", "steps": 1, "batch": {"rule": "rate"}})
        assert load_config(config) == config
        assert load_config(config, ["steps=9"]).batch.rule == "rate"


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "path", "value"),
        [
            ("batch.size=32", "batch.size", 32),
            ("optimizer.lr=1e-3", "optimizer.lr", 0.001),
            ("stream.rates=[50, 38, 12]", "stream.rates", (50.0, 38.0, 12.0)),
            ("stream.rates=S1'", "stream.rates", "S1'"),
            ("stream.profile=bursts", "stream.profile.name", "bursts"),
            ("stream.profile=poisson", "stream.profile.arrivals", "poisson"),
            ("stream.profile.duty=0.5", "stream.profile.duty", 0.5),
            ("stop_at_target=false", "stop_at_target", False),
            ("data.dataset=npz:some/file.npz", "data.dataset", "npz:some/file.npz"),
            ("duration_s=null", "duration_s", None),
            ("fabric.overlap=on", "fabric.overlap", "on"),
            ("fabric.overlap=off", "fabric.overlap", "off"),
            ("model=mine:make=1", "model", "mine:make=1"),
            ("model=a: b: c", "model", "a: b: c"),
        ],
    )
    def test_one_value(self, override, path, value):
        found = load_config({"devices": 3, "steps": 1}, [override])
        for part in path.split("."):
            found = getattr(found, part)
        assert found == value

    @pytest.mark.parametrize(
        ("tree", "overrides"),
        [
            ({"profile": "bursts"}, ["stream.profile.duty=0.5"]),
            ({}, ["stream.profile=bursts", "stream.profile.duty=0.5"]),
        ],
    )
    def test_a_part_does_not_lose_the_short_name_below_it(self, tree, overrides):
        profile = load_config({"steps": 1, "stream": tree}, overrides).stream.profile
        assert (profile.name, profile.duty) == ("bursts", 0.5)

    def test_the_last_one_wins(self):
        assert load_config({"steps": 1}, ["seed=1", "seed=2"]).seed == 2

    def test_they_leave_the_source_alone(self):
        tree = {"steps": 1, "batch": {"size": 16}}
        load_config(tree, ["batch.size=32", "batch.min=2"])
        assert tree == {"steps": 1, "batch": {"size": 16}}

    @pytest.mark.parametrize("override", ["batch.size", "=3", "batch.=3", ".size=3", "batch..size=3"])
    def test_what_is_no_setting_is_refused(self, override):
        message = refusal({}, [override])
        assert override in message
        assert "--set batch.size=32" in message


class TestYaml:
    def test_out_equals_in(self, tmp_path):
        config = load_config(
            {
                "method": "ddl",
                "devices": 3,
                "target_accuracy": 0.9,
                "duration_s": 12.5,
                "stream": {"rates": [5, 38.5, 12], "profile": ["bursts", "poisson", {"name": "day", "depth": 0.5}]},
                "lr": {"milestones": [100, 200]},
                "data": {"root": "some/where", "shape": [1, 8, 8]},
                "fabric": {"overlap": "off"},
            }
        )
        file = tmp_path / "config.yaml"
        file.write_text(config.to_yaml())
        assert load_config(file) == load_config(str(file)) == config
        assert load_config(file).to_yaml() == config.to_yaml()

    @given(
        st.sampled_from(sorted(METHODS)),
        st.one_of(st.floats(0, 1e6), st.lists(st.floats(0, 1e6), min_size=2, max_size=2), st.just("S2:known")),
        st.floats(0, 1, exclude_min=True),
        st.sampled_from(["auto", "on", "off"]),
    )
    def test_any_value_survives(self, method, rates, accuracy, overlap):
        tree = {"method": method, "devices": 2, "target_accuracy": accuracy, "stream": {"rates": rates}}
        config = load_config(tree | {"fabric": {"overlap": overlap}})
        assert load_config(yaml.safe_load(config.to_yaml())) == config

    def test_every_setting_is_written(self):
        tree = yaml.safe_load(load_config({"steps": 1}).to_yaml())
        assert set(tree) == set(RunConfig.model_fields)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: b: c", "is not YAML"),
            ("- 1\n- 2", "must hold settings (key: value), not list"),
            ("", "must hold settings (key: value), not NoneType"),
            ("\x00", "is not YAML"),
        ],
    )
    def test_a_file_of_something_else_is_refused_in_one_line(self, tmp_path, text, message):
        file = tmp_path / "config.yaml"
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config(file)
        assert message in str(caught.value)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
            load_config(tmp_path / "nowhere.yaml")


class TestRefusals:
    @pytest.mark.parametrize(
        ("tree", "message"),
        [
            ({"batch": {"siez": 3}}, "batch.siez: unknown setting; did you mean size?"),
            ({"stepz": 3}, "stepz: unknown setting; did you mean steps?"),
            ({"clock": {"xyz": 3}}, "clock.xyz: unknown setting; there are speed"),
            (
                {"batch": {"lr": 3}},
                "batch.lr: unknown setting; there are rule, size, window, window_s, step_cost_s, min, max, max_wait_s",
            ),
            (
                {"checkpoint": {"min": 3}},
                "checkpoint.min: unknown setting; there are every_steps, keep",
            ),
        ],
    )
    def test_an_unknown_setting_gets_a_suggestion(self, tree, message):
        assert refusal(tree) == message

    @pytest.mark.parametrize(
        ("tree", "message"),
        [
            ({"batch": {"size": "many"}}, "batch.size = 'many': input should be a valid integer"),
            ({"batch": {"size": 0}}, "batch.size = 0: input should be greater than or equal to 1"),
            ({"batch": {"size": 1.5}}, "batch.size = 1.5: input should be a valid integer"),
            ({"batch": 3}, "batch = 3: input should be a valid dictionary"),
            ({"method": "sgd"}, "method = 'sgd': input should be 'scadles', 'ddl' or 'auto'"),
            ({"optimizer": {"momentum": 1}}, "optimizer.momentum = 1: input should be less than 1"),
            ({"optimizer": {"lr": float("nan")}}, "optimizer.lr = nan: input should be a finite number"),
            ({"target_accuracy": 97}, "target_accuracy = 97: input should be less than or equal to 1"),
            ({"stream": {"rates": -1}}, "stream.rates = -1: input should be greater than or equal to 0"),
            ({"devices": 2, "stream": {"rates": [1, "x"]}}, "stream.rates.1 = 'x': input should be a valid number"),
            ({"stream": {"profile": "weekly"}}, "stream.profile.name = 'weekly': input should be 'constant', 'bursts'"),
            ({"fabric": {"overlap": "maybe"}}, "fabric.overlap = 'maybe': input should be 'auto', 'on' or 'off'"),
            (
                {"data": {"dataset": "synthetic-images", "shape": [3, 32]}},
                "data: shape (3, 32) must be three sizes of at least 1 (channels, height, width)",
            ),
            (
                {"data": {"dataset": "synthetic-windows", "shape": [3, 32, 32]}},
                "data: shape (3, 32, 32) must be two sizes of at least 1 (channels, time)",
            ),
        ],
    )
    def test_a_wrong_value_is_named_with_what_is_allowed(self, tree, message):
        said = refusal(tree)
        assert said.startswith(message)
        assert "\n" not in said

    @pytest.mark.parametrize(
        ("tree", "parts"),
        [
            ({"steps": None}, ["would never end", "steps, duration_s or target_accuracy"]),
            ({"steps": None, "target_accuracy": 0.9, "stop_at_target": False}, ["would never end"]),
            ({"stream": {"url": "mqtt://broker/t", "end": "stop"}}, ["stream.end = stop", "MQTT", "leave it at wait"]),
            (
                {"stream": {"rates": [1, 2]}, "devices": 3},
                ["stream.rates has 2 entries", "devices is 3", "each device"],
            ),
            ({"stream": {"profile": ["day"]}, "devices": 2}, ["stream.profile has 1 entries", "devices is 2"]),
            ({"stream": {"url": "mqtt://broker"}, "clock": {"speed": 2}}, ["clock.speed 2", "replayed", "mqtt"]),
            (
                {"batch": {"rule": "fixed"}, "fabric": {"deadline_s": 60}},
                ["60 wall seconds", "fabric.deadline_s = 60", "raise the deadline or lower batch.max_wait_s"],
            ),
            ({"batch": {"window_s": 200}}, ["200 wall seconds", "fabric.deadline_s = 120", "lower batch.window_s"]),
            (
                {"batch": {"rule": "fixed", "size": 65}, "buffer": {"capacity": 64}},
                ["batch.size 65", "buffer.capacity 64"],
            ),
            ({"batch": {"min": 9, "max": 8}}, ["batch", "min 9", "max 8"]),
            ({"method": "ddl", "batch": {"window": "auto"}}, ["batch: window auto", "no window", "set rule to rate"]),
            ({"batch": {"step_cost_s": 2}}, ["step_cost_s 2", "window that is chosen", "set window to auto"]),
            ({"devices": 1, "batch": {"window": "auto"}}, ["batch.window = auto", "several devices", "to fixed"]),
            ({"devices": 1, "lr": {"scaling": "adascale"}}, ["lr.scaling = adascale", "several devices", "to auto"]),
            ({"devices": 1, "lr": {"rate": "auto"}}, ["lr.rate = auto", "several devices", "lr.rate to fixed"]),
            ({"lr": {"rate": "auto", "milestones": [100]}}, ["rate = auto", "leave out", "milestones"]),
            (
                {"devices": 2, "batch": {"window": "auto"}, "injection": {"alpha": 0.5, "beta": 0.5}},
                ["batch.window = auto", "share samples", "leave injection out"],
            ),
            ({"lr": {"milestones": [20, 10]}}, ["lr", "milestones [20, 10]", "ascending"]),
            ({"lr": {"milestones": [0, 10]}}, ["milestones [0, 10]"]),
            ({"data": {"shape": [1, 0, 8]}}, ["data", "shape (1, 0, 8)", "at least 1"]),
        ],
    )
    def test_what_cannot_work_together_is_refused_with_a_way_out(self, tree, parts):
        said = refusal(tree)
        assert "\n" not in said
        for part in parts:
            assert part in said

    def test_the_wall_matters_for_deadlines_not_the_stream(self):
        tree = {"steps": 1, "clock": {"speed": 10}, "batch": {"window_s": 600}}
        assert load_config(tree).batch.window_s == 600

    def test_one_line_for_each_problem(self):
        said = refusal({"batch": {"size": 0, "min": "x"}, "seed": -1, "stepz": 1, "stream": {"rates": [-1]}})
        fields = sorted(re.split("[ :]", line)[0] for line in said.splitlines())
        assert fields == ["batch.min", "batch.size", "seed", "stepz", "stream.rates.0"]

    def test_a_problem_does_not_hide_one_with_a_shorter_name(self):
        said = refusal({"steps": -1, "step": 5, "batch": {"size": 0, "siz": 3}})
        fields = sorted(re.split("[ :]", line)[0] for line in said.splitlines())
        assert fields == ["batch.siz", "batch.size", "step", "steps"]

    def test_a_long_value_stays_in_its_line(self):
        assert "\n" not in refusal({"devices": "two\nlines"})

    def test_the_tree_is_frozen(self):
        config = load_config({"steps": 1})
        with pytest.raises(ValueError, match="frozen"):
            config.batch.size = 3


class TestInjection:
    def test_both_shares_switch_it_on(self):
        given = [{}, {"alpha": 0.5, "beta": 0}, {"alpha": 0, "beta": 0.5}, {"alpha": 0.5, "beta": 0.5}]
        assert [load_config({"steps": 1, "injection": one}).injection.on for one in given] == [False] * 3 + [True]

    def test_labels_are_for_all_or_for_each_device_and_survive_yaml(self):
        for labels in ([1, 2], {0: [3], 1: []}):
            config = load_config({"steps": 1, "devices": 2, "injection": {"refuse_labels": labels}})
            assert load_config(yaml.safe_load(config.to_yaml())) == config
        assert config.injection.refuse_labels == {0: (3,), 1: ()}

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"alpha": 1.5}, "injection.alpha = 1.5"),
            ({"alpha": 0.5}, "alpha 0.5: nothing is shared without beta; set injection.beta as well"),
            ({"beta": 0.25}, "beta 0.25: nothing is shared without alpha; set injection.alpha as well"),
            ({"refuse_devices": [4]}, "injection.refuse_devices names device 4: devices are numbered 0 to 3"),
            ({"refuse_labels": {7: [1]}}, "injection.refuse_labels names device 7"),
            ({"allow_devices": [1, 2], "refuse_devices": [2]}, "device 2 is in allow_devices and in refuse_devices"),
            ({"gamma": 1}, "injection.gamma: unknown setting"),
        ],
    )
    def test_what_cannot_be_is_refused(self, settings, said):
        assert said in refusal({"devices": 4, "injection": settings})


class TestCompression:
    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            (
                {"gate": "always"},
                "gate always: nothing is compressed without a ratio; set compression.ratio (0.01, say",
            ),
            ({"momentum": 0.9}, "momentum 0.9: nothing is compressed without a ratio"),
            ({"method": "randomk", "gate": "always"}, "method randomk: nothing is compressed without a ratio"),
            ({"method": "whole"}, "method whole: nothing is compressed without a ratio; set compression.ratio (1 for"),
            ({"ratio": None, "momentum": 0.9}, "momentum 0.9: without a ratio nothing is compressed"),
            ({"ratio": 1, "method": "whole", "scope": "layer"}, "scope layer: method whole sends all entries"),
            ({"ratio": 1, "method": "whole", "reduction": "gather"}, "leave reduction out (auto)"),
            ({"ratio": 1, "method": "whole", "selection": "exact"}, "leave selection out (sampled)"),
            ({"ratio": 0.1, "method": "powersgd", "scope": "bucket"}, "scope bucket: method powersgd sends factors of"),
            ({"ratio": 0.1, "method": "powersgd", "reduction": "split"}, "leave reduction out (auto)"),
            ({"ratio": 0.1, "method": "powersgd", "selection": "exact"}, "leave selection out (sampled)"),
            ({"ratio": 0.1, "method": "powersgd", "gate": "norm"}, "gate norm: method powersgd learns what stays"),
            ({"ratio": 0.1, "method": "powersgd", "gate": "both"}, "set gate to cost or always"),
            ({"ratio": 0.1, "delta": 0.5}, "delta 0.5: the gate by cost does not look at it; set gate to norm or both"),
            ({"ratio": 0.1, "smoothing": 0.5}, "smoothing 0.5: the gate by cost does not look at it"),
            ({"ratio": "auot"}, "compression.ratio: 'auot' is no ratio; set a number above 0 and at most 1, auto or"),
            ({"ratio": "auto", "gate": "norm"}, "gate norm: with ratio auto it takes the place of the gates"),
            ({"ratio": "auto", "method": "randomk"}, "method randomk: with ratio auto it goes by the energy"),
            ({"ratio": "auto", "scope": "layer"}, "leave scope out, or set a number as ratio"),
            ({"ratio": "auto", "method": "whole"}, "ratio auto: method whole sends all entries"),
        ],
    )
    def test_what_would_do_nothing_is_refused(self, settings, said):
        assert said in refusal({"optimizer": {"momentum": 0}, "devices": 2, "compression": settings})

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"ratio": None},
            {"ratio": None, "method": "randomk", "gate": "always", "scope": "layer", "delta": 0.5},
            {"ratio": 0.1, "gate": "cost", "delta": 0.5},
            {"ratio": "auto"},
            {"ratio": 1, "method": "whole", "scope": "gradient", "reduction": "auto"},
        ],
    )
    def test_what_a_sweep_leaves_as_it_is_is_not(self, settings):
        config = load_config({"steps": 1, "compression": settings})
        assert load_config(yaml.safe_load(config.to_yaml())) == config

    def test_a_ratio_of_null_switches_it_off(self):
        tree = {"steps": 1, "compression": {"ratio": 0.1, "gate": "always", "values": "float32"}}
        assert load_config(tree, ["compression.ratio=null"]).compression.ratio is None

    @pytest.mark.parametrize(
        ("tree", "said"),
        [
            (
                {"devices": 1, "optimizer": {"momentum": 0}, "compression": {"ratio": 0.1, "momentum": 0.9}},
                "compression.momentum = 0.9: one device sends nothing, and nothing would have momentum",
            ),
            (
                {"model": "none", "compression": {"ratio": "auto"}},
                "compression.ratio = auto: model = none has no gradients to tell by what a ratio leaves out",
            ),
            (
                {"fabric": {"overlap": "on"}, "compression": {"ratio": "auto"}},
                "fabric.overlap = on: with compression.ratio auto a gradient is compressed as a whole",
            ),
            (
                {"fabric": {"overlap": "on"}, "compression": {"ratio": 0.1}},
                "fabric.overlap = on: with compression.ratio 0.1 a gradient is compressed as a whole",
            ),
            (
                {"fabric": {"backend": "hub"}, "compression": {"ratio": 0.1, "method": "powersgd"}},
                "compression.method powersgd: every device must be there for it, and through a hub any may be absent",
            ),
            (
                {"fabric": {"backend": "hub"}, "compression": {"ratio": 0.1, "reduction": "split"}},
                "compression.reduction split: each device would add up a slice for all others, and through a hub any",
            ),
        ],
    )
    def test_what_does_not_go_with_it_is_refused(self, tree, said):
        assert said in refusal(tree)

    def test_how_many_devices_there_are_may_be_known_later(self):
        tree = {"steps": 1, "optimizer": {"momentum": 0}, "compression": {"ratio": 0.1, "momentum": 0.9}}
        assert load_config(load_config(tree), ["devices=2"]).devices == 2
