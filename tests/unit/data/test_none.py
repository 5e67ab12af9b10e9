"""Runs without a data set: what must be said in its place."""

import numpy as np
import pytest

import scadles
from scadles.assembly import build_dataset, build_network, build_task
from scadles.config import load_config
from scadles.errors import ConfigError
from scadles.fabric import LocalFabric

LIVE = {"steps": 1, "data": {"dataset": "none"}, "stream": {"url": "kafka://host/topic", "codec": {"shape": [9, 32]}}}


def settings(**more):
    tree = {**LIVE, **more}
    return tree | {name: {**LIVE[name], **more[name]} for name in ("data", "stream") if name in more}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"stream": {"url": "replay://"}}, "name one, or a live stream.url"),
        ({"evaluation": {"on": "dataset"}}, "set it to holdout or stream"),
        ({"stream": {"codec": {}}}, "set stream.codec.shape"),
        ({"data": {"partition": "labels"}}, "leave it out"),
        ({"task": {"parts": {"kind": "classification"}}}, "one tensor each"),
        ({}, r"set data\.classes"),
        ({"task": "reconstruction", "stream": {"codec": {"shape": [9], "dtype": "int64"}}}, r"set data\.classes"),
    ],
)
def test_what_cannot_be_is_refused(more, said):
    with pytest.raises(ConfigError, match=said):
        load_config(settings(**more))


def test_a_hub_asks_each_device_for_its_own_stream(tmp_path):
    own = {"data": {"classes": 3}, "stream": {"url": "replay://"}, "fabric": {"backend": "hub"}}
    config = load_config(settings(**own))
    assert config.tested_on == "holdout"
    with pytest.raises(ConfigError, match=r"say this device's own stream\.url"):
        scadles.join(config, fabric=LocalFabric.create(1)[0], out=tmp_path / "run")


def test_a_file_may_say_on():
    named = settings(data={"classes": 6})
    assert load_config(named, ["evaluation.on=stream"]).tested_on == "stream"
    assert load_config(named).tested_on == "holdout"
    assert load_config({"steps": 1}).tested_on == "dataset"


@pytest.mark.parametrize("on", ["holdout", "stream"])
def test_on_is_a_name_in_a_file(tmp_path, on):
    (tmp_path / "c.yaml").write_text(f"steps: 1\nevaluation: {{on: {on}, every_s: 3}}\n")
    config = load_config(tmp_path / "c.yaml")
    assert (config.tested_on, config.evaluation.every_s) == (on, 3)
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("task", "data", "target"),
    [
        ("classification", {"classes": 6}, "class labels 0 to 5"),
        ("multilabel", {"classes": 3}, "uint8 targets of shape [3] with values 0 to 1"),
        ("regression", {"target_shape": [2]}, "float32 targets of shape [2]"),
        ("regression", {}, "float32 targets of shape []"),
        ("forecasting", {}, "no targets"),
        ("reconstruction", {}, "no targets"),
        ("segmentation", {"classes": 4}, "uint8 targets of shape [32] with values 0 to 3"),
    ],
)
def test_targets_are_those_of_the_task(task, data, target):
    config = load_config(settings(task=task, data=data))
    dataset = build_dataset(config)
    assert dataset.target.describe() == target
    network, made = build_network(config, dataset), build_task(config, dataset)
    x, y = dataset.samples(np.arange(2))
    x, y = made.pair(dataset.prepare(x), y)
    made.check(network(x), y)


def test_tokens():
    stream = {"codec": {"shape": [12], "dtype": "int64"}}
    dataset = build_dataset(load_config(settings(task="language", data={"classes": 50}, stream=stream)))
    assert dataset.vocabulary == 50
