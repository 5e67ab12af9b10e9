"""Nothing that is read can run code: what the sources import and call, looked at one by one."""

import ast
from collections import Counter
from pathlib import Path

import pytest

import scadles

ROOT = Path(scadles.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))

MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "runpy", "code", "codeop"}
#: What moves objects between processes by pickle.
BETWEEN_PROCESSES = {"multiprocessing", "concurrent.futures.process", "ray"}
CALLS = {
    *("eval", "exec", "compile", "__import__"),
    *("torch.load", "torch.save", "torch.jit.load", "torch.package", "torch.hub.load", "dist.broadcast_object_list"),
    *("dist.all_gather_object", "dist.gather_object", "dist.scatter_object_list", "dist.send_object_list"),
    *("np.load", "numpy.load", "np.save", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"),
    *("yaml.safe_load", "yaml.safe_load_all", "pd.read_pickle", "shutil.unpack_archive"),
}
LOADERS = {"Loader", "UnsafeLoader", "FullLoader", "CLoader", "CUnsafeLoader", "CFullLoader"}
#: Where what is above is used all the same, and why.
EXCEPTIONS = {
    "sweep/work.py": "tasks go to processes that this one has started, and come back from them alone",
    "sweep/ray_tasks.py": "tasks go to a Ray cluster, which runs its owner's code by its nature (extra ray)",
    "training/launch.py": "a launcher and its devices: bytes (JSON), never objects",
    "data/vision.py": "torchvision reads CIFAR's own files, after comparing them with published checksums",
}


def dotted(node):
    """Return ``a.b.c`` of an expression; empty where it is another one."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def found_in(source):
    """Return what a source imports and calls that could run code in what is read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call):
            found.append(f"{dotted(node.func)}()")
            pickles = [k for k in node.keywords if k.arg in ("allow_pickle", "weights_only")]
            found += [f"{k.arg}={ast.unparse(k.value)}" for k in pickles]
        elif isinstance(node, ast.Attribute) and node.attr in LOADERS:
            found.append(f"yaml.{node.attr}")
    named = {
        *(name for name in found if name.partition(".")[0] in MODULES | {"ray"} and not name.endswith("()")),
        *(name for name in found if any(f"{name}.".startswith(f"{module}.") for module in BETWEEN_PROCESSES)),
        *(name for name in found if name.removesuffix("()") in CALLS and name.endswith("()")),
        *(name for name in found if name.startswith("yaml.") and name.removeprefix("yaml.") in LOADERS),
        *(name for name in found if name in ("allow_pickle=True", "weights_only=False")),
    }
    return sorted(named)


@pytest.mark.parametrize("file", [file for file in FILES if file not in EXCEPTIONS])
def test_a_file_neither_unpickles_nor_runs_what_it_reads(file):
    assert found_in((ROOT / file).read_text()) == []


def test_what_is_looked_for_is_found():
    source = """
import pickle, ray
from multiprocessing import Pool
np.load(x, allow_pickle=True)
torch.load(x, weights_only=False)
yaml.load(x, Loader=yaml.UnsafeLoader)
def f():
    from marshal import loads
    eval("1")
"""
    found = Counter(found_in(source))
    assert {"pickle", "ray", "marshal", "multiprocessing", "np.load()", "torch.load()", "yaml.load()", "eval()"} <= set(
        found
    )
    assert {"allow_pickle=True", "weights_only=False", "yaml.UnsafeLoader"} <= set(found)
    assert (
        found_in("re.compile('x')\nmodel.eval()\nyaml.SafeLoader\nnp.lib.format.read_array(f, allow_pickle=False)")
        == []
    )


def test_the_exceptions_are_still_some():
    assert set(FILES) >= set(EXCEPTIONS)
    launcher = (ROOT / "training/launch.py").read_text()
    calls = {
        dotted(node.func).rpartition(".")[2] for node in ast.walk(ast.parse(launcher)) if isinstance(node, ast.Call)
    }
    assert not calls & {"recv", "send", "Queue", "SimpleQueue", "Manager", "Pool"}
