import pytest

from scadles.errors import ConfigError
from scadles.streams.secrets import read_secret


def test_a_variable_of_the_environment(monkeypatch):
    monkeypatch.setenv("SCADLES_TEST_SECRET", "open: sesame=1")
    assert read_secret("sasl.password", "env:SCADLES_TEST_SECRET") == "open: sesame=1"


def test_the_first_line_of_a_file(tmp_path):
    (tmp_path / "secret").write_text("open sesame \nsecond\n")
    assert read_secret("password", f"file:{tmp_path}/secret") == "open sesame "


@pytest.mark.parametrize("place", ["open sesame", "env:", "file:", "", "vault:x"])
def test_a_secret_itself_is_refused_and_not_repeated(place):
    with pytest.raises(ConfigError, match=r"^password: is written into run folders") as refused:
        read_secret("password", place)
    assert "sesame" not in str(refused.value)


def test_nothing_at_the_place_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("SCADLES_TEST_SECRET", "")
    (tmp_path / "empty").write_text("")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for place, told in {
        "env:SCADLES_TEST_SECRET": "SCADLES_TEST_SECRET is not set",
        f"file:{tmp_path}/no": "No such file",
        f"file:{tmp_path}/empty": "is empty",
        f"file:{tmp_path}/binary": "not text",
    }.items():
        with pytest.raises(ConfigError, match=told):
            read_secret("password", place)
