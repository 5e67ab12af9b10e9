"""Compile and test ScaDLES with the other Pythons that it says it runs on: ``make pythons``.

The one that starts this is left out: it has torch, and ``make test`` runs all tests with it. The others are looked for
as ``pythonX.Y`` on PATH, then among pyenv's. Each gets an environment beside the sources, ``.venv-X.Y``, with all that
the package depends on but torch, which not every index has for every Python. What runs there is what
``tests/without_torch.py`` finds to need none.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
SOURCES = ("src", "tests", "benchmarks", "examples", "tools")
EXTRAS = ("images", "kafka", "mqtt", "plots")
TEST_TOOLS = ("hypothesis", "pytest", "pytest-timeout", "pytest-xdist")
COMPILE = ("-W", "error", "-m", "compileall", "-q", "-f", *SOURCES)
TEST = (
    *("-m", "pytest", "-q", "-rfE", "-p", "without_torch", "-p", "no:cacheprovider", "--ignore=tests/external"),
    *("--numprocesses=2", "--dist=loadfile"),
)


def main() -> None:
    """Check every version that is there; exit with 1 where one fails or there is none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = re.findall(r"Python :: (3\.\d+)$", "\n".join(project["classifiers"]), flags=re.MULTILINE)
    others = [version for version in stated if version != f"3.{sys.version_info.minor}"]
    found = {version: interpreter for version in others if (interpreter := find(version))}
    told = {version: check(version, interpreter, needed(project)) for version, interpreter in found.items()}
    for version in others:
        print(f"Python {version}: {told.get(version) or not_found(version)}")
    sys.exit(0 if found and not any("FAILED" in line for line in told.values()) else 1)


def needed(project: dict[str, Any]) -> list[str]:
    """Return the requirements of the package but torch, and those of its tests."""
    optional = project["optional-dependencies"]
    of_package = [*project["dependencies"], *(one for extra in EXTRAS for one in optional[extra])]
    return [
        *(one for one in of_package if name(one) != "torch"),
        *(one for one in optional["dev"] if name(one) in TEST_TOOLS),
    ]


def name(requirement: str) -> str:
    """Return whose name a requirement begins with."""
    return re.split(r"[^\w-]", requirement)[0]


def find(version: str) -> Path | None:
    """Return an interpreter of this version that answers (a shim of pyenv may not), of pyenv's the newest."""
    on_path = shutil.which(f"python{version}")
    of_pyenv = sorted(PYENV.glob(f"{version}.*/bin/python"), key=lambda path: int(path.parts[-3].split(".")[-1]))
    candidates = [*([Path(on_path)] if on_path else []), *reversed(of_pyenv)]
    return next((path for path in candidates if full_version(path).startswith(f"{version}.")), None)


def full_version(interpreter: Path) -> str:
    """Return what an interpreter says its version is, or nothing."""
    code = "import platform; print(platform.python_version())"
    return subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def not_found(version: str) -> str:
    """Say where this version was looked for, and how to provide it."""
    return f"not found as python{version} on PATH nor in {PYENV}; `pyenv install {version}` would provide it"


def check(version: str, interpreter: Path, requirements: list[str]) -> str:
    """Compile everything and run the tests that need no torch; return how it went."""
    python = environment(ROOT / f".venv-{version}", interpreter, requirements)
    surroundings = os.environ | {"PYTHONPATH": "tests", "PYTHONPYCACHEPREFIX": str(ROOT / f".venv-{version}/compiled")}
    if subprocess.run([python, *COMPILE], check=False, cwd=ROOT, env=surroundings).returncode:
        return "FAILED: not everything compiles"
    last = ""
    with subprocess.Popen([python, *TEST], cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, text=True) as tests:
        for line in tests.stdout or ():
            print(line, end="", flush=True)
            last = line.strip() or last
    return f"{'FAILED' if tests.returncode else 'passed'}: {full_version(python)} compiles everything; tests: {last}"


def environment(folder: Path, interpreter: Path, requirements: list[str]) -> Path:
    """Return the Python of an environment that has what is required; it is made anew when that changes."""
    python, stamp = folder / "bin" / "python", folder / ".installed"
    settings = [(ROOT / file).read_text() for file in ("constraints.txt", "pyproject.toml")]
    mark = hashlib.sha256("\n".join([full_version(interpreter), *requirements, *settings]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == mark:
        return python
    print(f"{folder.name}: made with {interpreter}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([interpreter, "-m", "venv", folder], check=True)
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt")
    subprocess.run([*pip, *requirements], check=True, cwd=ROOT)
    subprocess.run([*pip, "--no-deps", "--editable", "."], check=True, cwd=ROOT)
    stamp.write_text(mark)
    return python


if __name__ == "__main__":
    main()
