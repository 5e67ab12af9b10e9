"""Check what ``make dist`` built: what is in it and, with ``--install``, that the wheel alone does in an empty place.

The wheel was built from the sdist, so a file that either lacks is missing in the wheel.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
SETTINGS = """\
devices: 4
steps: 3
stream: {rates: [50, 38, 12, 82]}
cost: {profile: pi4-wifi}
"""
PIP_INSTALL = (
    *("install", "--quiet", "--disable-pip-version-check", "--no-compile"),
    *("--constraint", ROOT / "constraints.txt"),
)
COMMANDS = (
    ("doctor",),
    ("simulate", "settings.yaml", "--out", "run"),
    ("compare", "run"),
    ("settings",),
)


def main() -> None:
    """Check the one wheel in dist/."""
    [wheel] = (ROOT / "dist").glob("*.whl")
    check_contents(wheel)
    if "--install" in sys.argv[1:]:
        check_installed(wheel)


def check_contents(wheel: Path) -> None:
    """Compare the wheel with the sources: all of the package is in it, data too, and nothing else."""
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [metadata] = (name for name in names if name.endswith(".dist-info/METADATA"))
        stated = Parser().parsestr(archive.read(metadata).decode())
    folder = metadata.partition("/")[0]
    packed = {name for name in names if not name.startswith(f"{folder}/")}
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/scadles").rglob("*") if is_source(path)}
    demand(packed == sources, f"wheel and src/scadles differ: {sorted(packed ^ sources)}")
    demand("scadles/py.typed" in packed, "py.typed is missing")
    demand(any(name.startswith("scadles/config/profiles/") for name in packed), "the profiles are missing")
    check_stated(stated)
    size = f"{wheel.stat().st_size / 1e6:.2f} MB"
    print(f"{wheel.name}: {len(packed)} files, those of src/scadles and no other; {size}")


def is_source(path: Path) -> bool:
    """Whether a path is a file that was written, not one that Python made."""
    return path.is_file() and path.parent.name != "__pycache__"


def check_stated(metadata: Message) -> None:
    """Check which Pythons the wheel says it runs on."""
    classifiers = metadata.get_all("Classifier", [])
    missing = [version for version in PYTHONS if f"Programming Language :: Python :: {version}" not in classifiers]
    demand(not missing, f"no classifier for Python {missing}")
    demand(metadata["Requires-Python"] == f">={PYTHONS[0]}", f"Requires-Python: {metadata['Requires-Python']}")


def check_installed(wheel: Path) -> None:
    """Install the wheel without extras into a new environment, and run commands where no sources are."""
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as place:
        folder, programs = Path(place, "elsewhere"), Path(place, "venv", "bin")
        folder.mkdir()
        (folder / "settings.yaml").write_text(SETTINGS)
        python = (sys.executable, "-m")
        install = (*python, "pip", "--python", programs / "python", *PIP_INSTALL)
        # without pip in it, and compiling only what is used: both take as long as all the rest
        for command in ((*python, "venv", "--without-pip", programs.parent), (*install, "torch"), (*install, wheel)):
            subprocess.run(command, check=True, cwd=folder, env=surroundings)
        for arguments in COMMANDS:
            command = (programs / "scadles", *arguments)
            done = subprocess.run(command, check=False, cwd=folder, env=surroundings, capture_output=True, text=True)
            shown = f"scadles {' '.join(arguments)}: exit code {done.returncode}"
            said = done.stdout + done.stderr
            demand(done.returncode == 0 and "Traceback" not in said, f"{shown}\n{said}")
            print(shown)


def demand(holds: object, otherwise: str) -> None:
    """End with a message unless something holds."""
    if not holds:
        sys.exit(otherwise)


if __name__ == "__main__":
    main()
