"""For Pythons that have no torch here: ``pytest -p without_torch`` runs the tests that need none.

A stand-in takes torch's place, also where torch is installed. It can be imported, and whatever is asked of it is a
class, so that modules which only mention torch load, as do those of ScaDLES that make a constant of it. A test that
does more with one, or that starts another Python, is skipped; a module of tests that does so when it is loaded is
skipped as a whole. What passes needed no torch.
"""

import doctest
import subprocess
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import pytest

ABSENT = ("torch", "torchvision")
PACKAGE = Path(__file__).parents[1] / "src" / "scadles"


def skip(what):
    raise pytest.skip.Exception(f"needs torch: {what}", allow_module_level=True)


class StandIn(type):
    """What every name in torch is: a class of this class, with more of them in it."""

    def __call__(cls, *args, **kwargs):
        return stand_in(cls, "made") if scadles_loads() else skip(cls.__name__)

    def __iter__(cls):
        skip(cls.__name__)

    def __mul__(cls, other):
        skip(cls.__name__)

    __rmul__ = __mul__

    def __getitem__(cls, parameters):
        return cls

    def __getattr__(cls, name):
        return stand_in(cls, name)


def scadles_loads():
    """Whether this is asked for by a module of ScaDLES that is being loaded: a constant."""
    frame = sys._getframe(2)
    while frame and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame is not None and Path(frame.f_code.co_filename).is_relative_to(PACKAGE)


def stand_in(owner, name):
    if name == "__version__":
        skip(name)
    if name.startswith("__"):
        raise AttributeError(name)
    made = StandIn(name, (), {})
    setattr(owner, name, made)
    return made


class AbsentModule(ModuleType):
    def __getattr__(self, name):
        return stand_in(self, name)


class Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] in ABSENT else None

    def create_module(self, spec):
        return AbsentModule(spec.name)

    def exec_module(self, module):
        if module.__name__ == "torch":  # what the fixture around all tests calls
            module.get_num_threads, module.set_num_threads = (lambda: 1), (lambda count: None)


sys.meta_path.insert(0, Finder())


class Runner(doctest.DocTestRunner):
    def report_unexpected_exception(self, out, test, example, exc_info):
        if isinstance(exc_info[1], pytest.skip.Exception):
            raise exc_info[1]
        super().report_unexpected_exception(out, test, example, exc_info)


class Popen(subprocess.Popen):
    def __init__(self, args, *rest, **options):
        if args[0] == sys.executable:
            skip("another Python")
        super().__init__(args, *rest, **options)


@pytest.fixture(scope="session", autouse=True)
def _skipped():
    """Skip an example in a docstring that needs torch, and what starts a Python, which would have no stand-in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctest, "DocTestRunner", Runner)
        patch.setattr(subprocess, "Popen", Popen)
        patch.setattr(BaseProcess, "start", lambda self: skip("another Python"))
        yield
