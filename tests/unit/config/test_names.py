"""Every setting that holds text says what such a text may name on the machine that uses it."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from scadles.config import CodecConfig, Names, RunConfig, named_by, texts_in
from scadles.config.names import UNDECIDED
from scadles.config.section import Section

TEXTS = texts_in(RunConfig)


def test_somebody_has_decided_about_every_setting_that_holds_text():
    undecided = [name for name, text in TEXTS.items() if text.names is UNDECIDED]
    assert not undecided, "mark them, for example: name: Annotated[str, CODE] (scadles/config/names.py)"
    named = {name for name, text in TEXTS.items() if text.names.what}
    parts = {"task.parts", "task.parts.kind", "task.parts.loss", "task.parts.metrics"}
    code = {
        "model",
        "task.kind",
        "task.loss",
        "task.metrics",
        *parts,
        "stream.codec.format",
        "data.dataset",
        "data.transform",
    }
    assert named == code | {"init_from", "data.root", "stream.url", "stream.labels.url", "cost.profile"}


class _Inner(Section):
    other: str = ""


class _Example(Section):
    plain: Literal["a", "b"] = "a"
    number: int | None = None
    forgotten: tuple[dict[str, int | str], ...] = ()
    anything: Any = None
    path: Annotated[Path | None, Names("a file")] = None
    inner: tuple[_Inner, ...] | _Inner = _Inner()


def test_text_is_found_wherever_it_may_be_and_counts_as_named_where_nobody_has_decided():
    texts = texts_in(_Example)
    assert set(texts) == {"forgotten", "anything", "path", "inner.other"}
    tree = {
        "plain": "x",
        "number": "x",
        "forgotten": [{"k": "x"}],
        "anything": "x",
        "path": "x",
        "inner": [{"other": "x"}],
    }
    assert [name for name, _, _ in named_by(tree, texts)] == ["forgotten", "anything", "path", "inner.other"]


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"model": "resnet8", "task": "regression", "stream": {"profile": "bursts", "rates": "S1:known"}},
        {"model": "torchvision:resnet18", "data": {"dataset": "torchvision:CIFAR10", "root": "data"}},
        {"target": {"metric": "a:b"}, "data": {"features": ["a:b"]}, "cost": {"profile": "pi4-wifi", "model": "a:b"}},
        {"stream": {"url": "replay://?rate=5"}, "init_from": None},
        {"nothing of the kind": "os:system"},
    ],
)
def test_what_is_plain(tree):
    assert not list(named_by(tree, TEXTS))


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"model": "os:system"}, ("model", "os:system")),
        ({"model": "torchvision:x\n"}, ("model", "torchvision:x\n")),
        ({"task": "os:system"}, ("task.kind", "os:system")),
        ({"task": {"metrics": ["accuracy", "os:system"]}}, ("task.metrics", "os:system")),
        ({"stream": {"codec": {"format": "os:system"}}}, ("stream.codec.format", "os:system")),
        ({"stream": {"url": "kafka://host/topic"}}, ("stream.url", "kafka://host/topic")),
        ({"data": {"dataset": "npz:/etc/passwd"}}, ("data.dataset", "npz:/etc/passwd")),
        ({"data": {"root": "/"}}, ("data.root", "/")),
        ({"init_from": "None"}, ("init_from", "None")),
        ({"cost": {"profile": "../x.yaml"}}, ("cost.profile", "../x.yaml")),
    ],
)
def test_what_names_something(tree, named):
    assert [(name, value) for name, value, _ in named_by(tree, TEXTS)] == [named]


def test_defaults_name_nothing_as_they_are_the_devices_own():
    assert not list(named_by(RunConfig(steps=1).model_dump(mode="json"), TEXTS))
    assert CodecConfig().format == "raw"
