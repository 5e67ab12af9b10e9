import sys

import pytest
import torch

from scadles.errors import ConfigError
from scadles.models import BUILT_IN, build_model


def weights(model):
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_built_in_networks_give_a_score_for_each_class(name, shape):
    model = build_model(name, shape, classes=7, seed=0)
    assert model(torch.zeros(5, *shape)).shape == (5, 7)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mlp", (20,)), ("mlp", ()), ("mlp", (9, 128)), ("cnn", (9, 128)), ("cnn", (1, 24)), ("cnn", (3, 5))],
)
def test_tables_windows_and_single_numbers(name, shape):
    model = build_model(name, shape, classes=0, seed=0, outputs=3)
    assert model(torch.zeros(5, *shape)).shape == (5, 3)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "cnn",
            (20,),
            r"model cnn takes windows \[channels, time\] or pictures .*, not samples of shape \[20\]; use mlp",
        ),
        ("resnet8", (9, 128), r"model resnet8 takes pictures .*, not samples of shape \[9, 128\]; use mlp or cnn"),
    ],
)
def test_a_network_that_does_not_suit_the_samples_is_refused(name, shape, message):
    with pytest.raises(ConfigError, match=message):
        build_model(name, shape, classes=4, seed=0)


def test_where_there_are_no_classes_nobody_is_given_them(mine):
    with pytest.raises(ConfigError, match=r"needs classes, which nobody gives it: only shape and outputs are offered"):
        build_model(f"{mine}:classes_only", (1, 2, 2), classes=0, seed=0, outputs=2)
    assert build_model(f"{mine}:outputs_only", (1, 2, 2), classes=0, seed=0, outputs=2)(torch.zeros(1, 4)).shape == (
        1,
        2,
    )


@pytest.mark.parametrize("name", BUILT_IN)
def test_initial_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(1)
    first = weights(build_model(name, (1, 8, 8), 10, seed=3))
    torch.manual_seed(2)
    expected = torch.rand(1)
    torch.manual_seed(2)
    again = weights(build_model(name, (1, 8, 8), 10, seed=3))
    assert torch.equal(torch.rand(1), expected), "the global generator is left alone"
    assert torch.equal(first, again)
    assert not torch.equal(first, weights(build_model(name, (1, 8, 8), 10, seed=4)))


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's, in the current folder."""
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n"
        "def both(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * 4, classes))\n"
        "def classes_only(*, classes): return nn.Linear(4, classes)\n"
        "def outputs_only(outputs): return nn.Linear(4, outputs)\n"
        "def neither(): return nn.Linear(4, 3)\n"
        "class Network(nn.Linear):\n"
        "    def __init__(self, classes, bias=False): super().__init__(4, classes, bias)\n"
        "def needs_more(shape, depth, width): return nn.Linear(4, 3)\n"
        "def no_network(shape): return [shape]\n"
        "number = 3\n"
    )
    (tmp_path / "broken_networks.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    yield "my_networks"
    for name in ("my_networks", "broken_networks"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "outputs"), [("both", 10), ("classes_only", 10), ("outputs_only", 10), ("neither", 3), ("Network", 10)]
)
def test_ones_own_network_gets_what_it_asks_for(mine, name, outputs):
    model = build_model(f"{mine}:{name}", (1, 2, 2), classes=10, seed=0)
    x = torch.zeros(2, 1, 2, 2)
    assert model(x if name == "both" else x.flatten(1)).shape == (2, outputs)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet", "model 'resnet'; did you mean resnet8, or write your own as MODULE:CALLABLE"),
        (
            "x",
            "model 'x'; there are mlp, cnn, resnet8, autoencoder, none, torchvision:NAME, or write your own as",
        ),
        ("my_networks:", "MODULE:CALLABLE"),
        (":both", "MODULE:CALLABLE"),
        ("nowhere_at_all:both", "cannot import 'nowhere_at_all': No module named 'nowhere_at_all'"),
        (
            "broken_networks:both",
            "cannot import 'broken_networks': ModuleNotFoundError: No module named 'a_module_that_is_not_there' (/",
        ),
        ("my_networks:bth", "module 'my_networks' has no 'bth'"),
        ("my_networks:number", "'number' is int, not something to call"),
        ("my_networks:no_network", "returned list, not a torch.nn.Module"),
        (
            "my_networks:needs_more",
            "needs depth, width, which nobody gives it: only shape, classes and outputs are offered",
        ),
        ("torch.nn:Linear", "needs in_features, out_features"),
        ("builtins:int", "not a torch.nn.Module"),
    ],
)
def test_what_is_no_network_is_refused(mine, spec, message):
    del mine
    with pytest.raises(ConfigError) as caught:
        build_model(spec, (1, 2, 2), classes=10, seed=0)
    assert message in str(caught.value)
    assert repr(spec) in str(caught.value)


BROKEN = {
    "raises": ("import os\nraise ValueError('no\\nway')\n", "ValueError: no (", "line 2)"),
    "ends": ("import sys\n\nsys.exit(0)\n", "SystemExit: 0 (", "line 3)"),
    "is interrupted by itself": ("class Odd(BaseException): pass\nraise Odd\n", "Odd (", "line 2)"),
    "is no Python": ("def f(:\n", "SyntaxError: ", "line 1)"),
    "holds NUL": ("x = 1\x00\n", "null bytes", ""),
    "recurses": ("def f(): f()\nf()\n", "RecursionError: maximum recursion depth exceeded", "line 1)"),
    "asks torch for too much": ("import torch\ntorch.zeros(2) @ torch.zeros(3)\n", "RuntimeError", "line 2)"),
    "asks for names that are not there": ("from math import nothing\n", "ImportError: cannot import name", "line 1)"),
}


@pytest.mark.parametrize(("source", "what", "where"), BROKEN.values(), ids=BROKEN)
def test_a_module_that_fails_is_told_with_file_and_line(tmp_path, monkeypatch, source, what, where):
    (tmp_path / "failing_networks.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        build_model("failing_networks:net", (1, 2, 2), classes=10, seed=0)
    said = str(caught.value)
    assert "cannot import 'failing_networks'" in said
    assert what in said
    assert "\n" not in said
    if where:
        assert f"failing_networks.py, {where}" in said
    assert "failing_networks" not in sys.modules


@pytest.mark.parametrize("body", ["raise ValueError('too small')", "import sys; sys.exit(3)", "net()", "1 / 0"])
def test_a_callable_that_raises_is_told_with_file_and_line(tmp_path, monkeypatch, body):
    (tmp_path / "raising_networks.py").write_text(f"def net(classes=10):\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    try:
        with pytest.raises(
            ConfigError, match=r"model 'raising_networks:net' cannot be made of classes 10: .*line 2\)$"
        ):
            build_model("raising_networks:net", (1, 2, 2), classes=10, seed=0)
    finally:
        sys.modules.pop("raising_networks", None)


@pytest.mark.parametrize(
    "spec",
    ["os.path:", "../x:net", "a b:c", ".x:net", "x.:net", "x:a.b", "x:a()", "x;y:z", "x\x00y:z", "1x:y", "x:y:z", ""],
)
def test_only_names_are_looked_for(monkeypatch, spec):
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imported {name}"))
    with pytest.raises(ConfigError, match="or write your own as MODULE:CALLABLE"):
        build_model(spec, (1, 2, 2), classes=10, seed=0)


def test_a_module_that_refuses_names_in_its_own_way(tmp_path, monkeypatch):
    (tmp_path / "odd_networks.py").write_text("def __getattr__(name):\n    raise OSError('no')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    try:
        with pytest.raises(
            ConfigError, match=r"module 'odd_networks' raised OSError: no \(.*odd_networks.py, line 2\)"
        ):
            build_model("odd_networks:net", (1, 2, 2), classes=10, seed=0)
    finally:
        sys.modules.pop("odd_networks", None)
