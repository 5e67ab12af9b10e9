"""The command line in this process."""

import pytest

from scadles.cli.app import main


@pytest.fixture
def command(monkeypatch, capsys):
    """Type ``scadles ARGUMENTS``: ``command(*arguments)`` returns exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["scadles", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return (code, *capsys.readouterr())

    return run
