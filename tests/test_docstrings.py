"""Every example in a docstring runs and says what it says."""

import doctest
import importlib
import pkgutil

import pytest

import scadles

OPTIONAL = {"confluent_kafka", "matplotlib", "paho", "torchvision"}
MODULES = [
    module.name for module in pkgutil.walk_packages(scadles.__path__, "scadles.") if "__main__" not in module.name
]


def load(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OPTIONAL:
            pytest.skip(f"{error.name} is not installed")
        raise


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        yield from (test for test in finder.find(module, name) if any(runs(line) for line in test.examples))


def runs(line):
    return doctest.SKIP not in line.options


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_imported(name):
    assert load(name).__name__ == name


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_example(example):
    said = []
    outcome = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(example, out=said.append)
    assert outcome.attempted > 0
    assert outcome.failed == 0, "".join(said)
