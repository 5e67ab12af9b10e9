import importlib
import subprocess
import sys

import pytest

import scadles


def test_names_are_sorted_and_told_once():
    assert scadles.__all__ == sorted(set(scadles.__all__))
    assert dir(scadles) == scadles.__all__


@pytest.mark.parametrize("name", scadles.__all__)
def test_every_public_name_exists(name):
    assert getattr(scadles, name) is not None


def test_every_name_that_is_loaded_late_is_public_and_the_other_way_round():
    assert set(scadles._HOMES) | {"__version__"} == set(scadles.__all__)


@pytest.mark.parametrize(("name", "home"), scadles._HOMES.items())
def test_a_name_is_the_one_of_its_home(name, home):
    module = importlib.import_module(home)
    assert getattr(module, name) is getattr(scadles, name)
    exported = getattr(module, "__all__", None)
    assert exported is None or name in exported


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'scadles' has no attribute 'trian'"):
        scadles.trian  # noqa: B018


def test_importing_is_fast_because_torch_comes_later():
    code = (
        "import sys, scadles\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'yaml', 'sklearn', 'rich', 'typer', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "scadles.LocalFabric\n"
        "print('torch' in sys.modules, 'LocalFabric' in vars(scadles))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["[]", "True True"]


@pytest.mark.parametrize(
    "package", ["exchange.aggregation", "compression", "fabric", "models", "observe", "streams", "testing", "data"]
)
def test_packages_export_what_they_say(package):
    module = importlib.import_module(f"scadles.{package}")
    assert all(hasattr(module, name) for name in module.__all__)
    assert list(module.__all__) == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
